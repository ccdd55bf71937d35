//go:build sam

package template_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// What README.md promises is in what SAM makes of the template, and SAM has added
// nothing to the functions' roles. Run it with make test-template, which expands it.
func TestExpanded(t *testing.T) {
	text, err := os.ReadFile("../../build/expanded.json")
	if err != nil {
		t.Fatal(err)
	}
	var expanded struct {
		Resources map[string]struct {
			Type       string
			Properties map[string]any
		}
	}
	if err := json.Unmarshal(text, &expanded); err != nil {
		t.Fatal(err)
	}
	is := func(id, property, want string) {
		t.Helper()
		got, _ := json.Marshal(expanded.Resources[id].Properties[property])
		if string(got) != want {
			t.Errorf("%s: %s is %s, want %s", id, property, got, want)
		}
	}
	for _, function := range []string{"SecretRotator", "ParameterPlanner", "ParameterRotator"} {
		is(function, "Runtime", `"provided.al2023"`)
		is(function, "Architectures", `["arm64"]`)
		is(function, "LoggingConfig", `{"ApplicationLogLevel":"INFO","LogFormat":"JSON","LogGroup":{"Ref":"`+function+`Log"},"SystemLogLevel":"WARN"}`)
		is(function, "Role", `{"Fn::GetAtt":["`+function+`Role","Arn"]}`)
		is(function+"Log", "RetentionInDays", `{"Ref":"LogRetentionDays"}`)
	}
	is("ParameterPlannerTick", "FlexibleTimeWindow", `{"Mode":"OFF"}`)
	is("ParameterPlannerTick", "ScheduleExpression", `"cron(0 * * * ? *)"`)
	target, _ := expanded.Resources["ParameterPlannerTick"].Properties["Target"].(map[string]any)
	if retry, _ := json.Marshal(target["RetryPolicy"]); string(retry) != `{"MaximumEventAgeInSeconds":1800,"MaximumRetryAttempts":5}` {
		t.Errorf("the schedule tries again as %s", retry)
	}
	is("ParameterRotatorOrders", "BatchSize", `1`)
	for _, queue := range []string{"ParameterQueue", "ParameterDeadLetters"} {
		is(queue, "FifoQueue", `true`)
		is(queue, "SqsManagedSseEnabled", `{"Fn::If":["HasKey",false,true]}`)
	}
	is("ParameterQueue", "RedrivePolicy", `{"deadLetterTargetArn":{"Fn::GetAtt":["ParameterDeadLetters","Arn"]},"maxReceiveCount":5}`)
	for policy, queue := range map[string]string{"ParameterQueuePolicy": "ParameterQueue", "ParameterDeadLettersPolicy": "ParameterDeadLetters"} {
		is(policy, "Queues", `[{"Ref":"`+queue+`"}]`)
		document, _ := expanded.Resources[policy].Properties["PolicyDocument"].(map[string]any)
		statements, _ := document["Statement"].([]any)
		if len(statements) == 0 {
			t.Errorf("%s has no statements", policy)
		}
		for _, s := range statements {
			s, _ := s.(map[string]any)
			about, _ := json.Marshal([]any{s["Effect"], s["Principal"], s["Resource"]})
			if string(about) != `["Deny","*",{"Fn::GetAtt":["`+queue+`","Arn"]}]` {
				t.Errorf("%s: %s", policy, about)
			}
			if actions, _ := s["Action"].([]any); len(actions) > 7 { // which SQS refuses
				t.Errorf("%s: %d actions in one statement", policy, len(actions))
			}
		}
	}
	is("SecretRotatorPermission", "Principal", `"secretsmanager.amazonaws.com"`)
	is("SecretRotatorPermission", "SourceAccount", `{"Ref":"AWS::AccountId"}`)
	roles := 0
	for id, r := range expanded.Resources {
		if r.Type != "AWS::IAM::Role" {
			continue
		}
		roles++
		if id == "ParameterPlannerTickRole" {
			continue // SAM's own: to call the planner
		}
		if policies, _ := r.Properties["Policies"].([]any); len(policies) != 1 || r.Properties["ManagedPolicyArns"] != nil {
			t.Errorf("%s has %d policies of its own, and AWS's %v", id, len(policies), r.Properties["ManagedPolicyArns"])
		}
	}
	// Another stack in the same account and region has the same names but for its own.
	for id, r := range expanded.Resources {
		for _, property := range []string{"Name", "FunctionName", "QueueName", "AlarmName", "DashboardName", "TopicName", "RoleName", "LogGroupName", "GroupName"} {
			name, ok := r.Properties[property]
			text, _ := json.Marshal(name)
			refers := strings.Contains(string(text), "AWS::StackName") || strings.HasPrefix(string(text), `{"Ref":`) || strings.HasPrefix(string(text), `{"Fn::GetAtt":`)
			if ok && !refers {
				t.Errorf("%s: %s is %s in every stack", id, property, text)
			}
		}
	}
	if roles != 4 {
		t.Errorf("%d roles, want one for each function and one for the schedule", roles)
	}
}
