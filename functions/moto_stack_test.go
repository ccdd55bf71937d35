//go:build moto

package functions_test

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// CloudFormation as moto has it makes the stack of template.yaml, expanded as SAM
// does it: with no parameters, and beside it another with all of them. Of what it
// does not make, moto says so, and the test lists it.
func TestMotoMakesTheStack(t *testing.T) {
	endpoint := startMoto(t)
	dir := t.TempDir()
	expanded, code := filepath.Join(dir, "expanded.json"), filepath.Join(dir, "code.zip")
	if out, err := exec.CommandContext(t.Context(), "python3", "../internal/template/expand.py", "../template.yaml", expanded).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cli := func(into any, args ...string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "aws", append([]string{"--endpoint-url", endpoint, "--region", "us-east-1", "--output", "json"}, args...)...)
		c.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test")
		out, err := c.Output()
		if failed, ok := err.(*exec.ExitError); ok {
			t.Fatalf("aws %s: %s", strings.Join(args, " "), failed.Stderr)
		}
		if into != nil {
			if err := json.Unmarshal(out, into); err != nil {
				t.Fatalf("aws %s: %v", strings.Join(args, " "), err)
			}
		}
	}
	file, err := os.Create(code)
	if err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(file)
	if _, err := archive.Create("bootstrap"); err != nil || archive.Close() != nil || file.Close() != nil {
		t.Fatal(err)
	}
	cli(nil, "s3api", "create-bucket", "--bucket", "code")
	for _, function := range []string{"SecretRotator", "ParameterPlanner", "ParameterRotator"} {
		cli(nil, "s3api", "put-object", "--bucket", "code", "--key", function+".zip", "--body", code)
	}
	var subnets struct {
		Subnets []struct{ SubnetId, VpcId string }
	}
	cli(&subnets, "ec2", "describe-subnets")
	in := subnets.Subnets[0]
	var key struct{ KeyMetadata struct{ Arn string } }
	cli(&key, "kms", "create-key")
	var groups struct{ SecurityGroups []struct{ GroupId string } }
	cli(&groups, "ec2", "describe-security-groups", "--filters", "Name=vpc-id,Values="+in.VpcId)

	text, err := os.ReadFile(expanded)
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Resources map[string]struct{ Type, Condition string }
	}
	if err := json.Unmarshal(text, &template); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{} // of resources, and whether they depend on a parameter
	for _, r := range template.Resources {
		kinds[r.Type] = r.Condition != ""
	}
	for stack, parameters := range map[string]map[string]string{
		"rekey": nil,
		"blue": {
			"Stage": "blue", "Rotators": "postgres,mysql", "OperatorArns": "arn:aws:iam::123456789012:role/ops,arn:aws:iam::123456789012:user/jane", "SubnetIds": in.SubnetId, "SecurityGroupIds": groups.SecurityGroups[0].GroupId, "EndpointsVpcId": in.VpcId,
			"KmsKeyArn": key.KeyMetadata.Arn, "RoleName": "team/rotator", "RoleAccounts": "210987654321", "AdminRoleArns": "arn:aws:iam::123456789012:role/keys",
			"AdminArns": "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!*,arn:aws:ssm:us-east-1:123456789012:parameter/admin", "ParameterWritesPerSecond": "10",
			"AlarmEmail": "oncall@example.com",
		},
	} {
		args := []string{"cloudformation", "create-stack", "--stack-name", stack, "--capabilities", "CAPABILITY_IAM", "--template-body", "file://" + expanded}
		if parameters != nil {
			args = append(args, "--parameters")
		}
		for name, value := range parameters {
			args = append(args, fmt.Sprintf("ParameterKey=%s,ParameterValue=%s", name, strings.ReplaceAll(value, ",", `\,`)))
		}
		cli(nil, args...)
		var made struct {
			StackResources []struct{ ResourceType, PhysicalResourceId string }
		}
		cli(&made, "cloudformation", "describe-stack-resources", "--stack-name", stack)
		count := map[string]int{}
		for _, r := range made.StackResources {
			if r.ResourceType != "" {
				count[r.ResourceType]++
			}
		}
		fmt.Printf("moto made of the stack %s: %v\n", stack, count)
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			if count[kind] == 0 && (parameters != nil || !kinds[kind]) {
				fmt.Printf("moto did not make: %s\n", kind)
			}
		}
		want := map[string]int{
			"AWS::Lambda::Function": 3, "AWS::Lambda::Permission": 1, "AWS::Lambda::EventSourceMapping": 1, "AWS::IAM::Role": 4, "AWS::Logs::LogGroup": 3, "AWS::SQS::Queue": 2,
			"AWS::CloudWatch::Dashboard": 1,
		}
		if parameters != nil {
			maps.Copy(want, map[string]int{"AWS::EC2::SecurityGroup": 1, "AWS::EC2::VPCEndpoint": 7, "AWS::SNS::Topic": 1})
		}
		for _, kind := range slices.Sorted(maps.Keys(want)) {
			if count[kind] != want[kind] {
				t.Errorf("%s: moto made %d of %s, want %d", stack, count[kind], kind, want[kind])
			}
		}

		var queue struct{ QueueUrl string }
		cli(&queue, "sqs", "get-queue-url", "--queue-name", stack+"-parameters.fifo")
		var attributes struct{ Attributes map[string]string }
		cli(&attributes, "sqs", "get-queue-attributes", "--queue-url", queue.QueueUrl, "--attribute-names", "All")
		if a := attributes.Attributes; a["FifoQueue"] != "true" || !strings.Contains(a["RedrivePolicy"], stack+"-parameters-dead.fifo") || (a["KmsMasterKeyId"] != "") != (parameters != nil) {
			t.Errorf("%s: the queue is %v", stack, a)
		}
		var function struct {
			Runtime, Role string
			Environment   struct{ Variables map[string]string }
		}
		cli(&function, "lambda", "get-function-configuration", "--function-name", stack+"-parameter-rotator")
		url := function.Environment.Variables["REKEY_QUEUE_URL"]
		if function.Runtime != "provided.al2023" || !strings.HasSuffix(url, "/"+stack+"-parameters.fifo") ||
			function.Environment.Variables["REKEY_STAGE"] != parameters["Stage"] || !strings.Contains(function.Role, stack+"-ParameterRotatorRole") {
			t.Errorf("%s: the worker is %+v", stack, function)
		}
	}
}
