package localaws_test

import (
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// What each call needs, of whom it is asked, and how AWS says no.
func TestAuthorize(t *testing.T) {
	var asked []localaws.Access
	refuse := "" // the action that is refused; "-": refused explicitly
	cloud := localaws.New(localaws.Config{Authorize: func(key string, needs []localaws.Access) *localaws.Denial {
		if key != "guest" {
			return nil
		}
		asked = needs
		for _, a := range needs {
			if action, explicit := strings.CutPrefix(refuse, "-"); a.Action == action {
				return &localaws.Denial{Access: a, Explicit: explicit}
			}
		}
		return nil
	}})
	t.Cleanup(cloud.Close)
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)
	config := func(key string) aws.Config {
		return aws.Config{Region: "us-east-1", BaseEndpoint: &server.URL, Credentials: credentials.NewStaticCredentialsProvider(key, "secret", ""), Retryer: func() aws.Retryer { return aws.NopRetryer{} }}
	}
	ctx := t.Context()
	owner := config("local")
	made, err := kms.NewFromConfig(owner).CreateKey(ctx, &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	key := *made.KeyMetadata.Arn
	secret, err := secretsmanager.NewFromConfig(owner).CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: aws.String("s"), SecretString: aws.String("v"), KmsKeyId: &key})
	if err != nil {
		t.Fatal(err)
	}
	const token = "11111111-1111-4111-8111-111111111111"
	if err := cloud.Reserve(*secret.ARN, token); err != nil {
		t.Fatal(err)
	}
	const parameter = "arn:aws:ssm:us-east-1:000000000000:parameter/"
	cloud.AddParameter(localaws.Parameter{Name: "/a/plain", Type: "String", Value: "x", Tags: map[string]string{"team": "shop"}})
	cloud.AddParameter(localaws.Parameter{Name: "/a/b/c", Type: "SecureString", Value: "x", KeyID: key})
	queue, err := cloud.AddQueue("q", nil)
	if err != nil {
		t.Fatal(err)
	}

	guest := config("guest")
	sm, store := secretsmanager.NewFromConfig(guest), ssm.NewFromConfig(guest)
	const (
		lambda = " secretsmanager:resource/AllowRotationLambdaArn=arn:aws:lambda:us-east-1:000000000000:function:rekey-secret-rotator"
		viaSM  = " kms:ViaService=secretsmanager.us-east-1.amazonaws.com"
		viaSSM = " kms:ViaService=ssm.us-east-1.amazonaws.com"
		abc    = " kms:EncryptionContext:PARAMETER_ARN=" + parameter + "a/b/c" + viaSSM
		anew   = parameter + "new"
	)
	ofSecret := func(version string) string {
		return " kms:EncryptionContext:SecretARN=" + *secret.ARN + " kms:EncryptionContext:SecretVersionId=" + version + viaSM
	}
	for _, c := range []struct {
		what string
		call func() error
		want []string
	}{
		{"describe", func() error {
			_, err := sm.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: aws.String("s")})
			return err
		}, []string{"secretsmanager:DescribeSecret " + *secret.ARN + lambda}},
		{"describe what is not there", func() error {
			_, err := sm.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: aws.String("none")})
			return err
		}, []string{"secretsmanager:DescribeSecret arn:aws:secretsmanager:us-east-1:000000000000:secret:none"}},
		{"read", func() error {
			_, err := sm.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: secret.ARN})
			return err
		}, []string{"secretsmanager:GetSecretValue " + *secret.ARN + lambda, "kms:Decrypt " + key + ofSecret(*secret.VersionId)}},
		{"tag", func() error {
			_, err := sm.TagResource(ctx, &secretsmanager.TagResourceInput{SecretId: secret.ARN, Tags: []smtypes.Tag{{Key: aws.String("k"), Value: aws.String("v")}}})
			return err
		}, []string{"secretsmanager:TagResource " + *secret.ARN + " aws:RequestTag/k=v aws:TagKeys=k" + lambda}},
		{"write", func() error {
			_, err := sm.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: secret.ARN, ClientRequestToken: aws.String(token), SecretString: aws.String("w"), VersionStages: []string{"AWSPENDING"}})
			return err
		}, []string{"secretsmanager:PutSecretValue " + *secret.ARN + " aws:ResourceTag/k=v" + lambda, "kms:GenerateDataKey " + key + ofSecret(token)}},
		{"write again", func() error {
			_, err := sm.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: secret.ARN, ClientRequestToken: aws.String(token), SecretString: aws.String("w"), VersionStages: []string{"AWSPENDING"}})
			return err
		}, []string{"secretsmanager:PutSecretValue " + *secret.ARN + " aws:ResourceTag/k=v" + lambda, "kms:Decrypt " + key + ofSecret(token)}},
		{"read parameters", func() error {
			_, err := store.GetParameters(ctx, &ssm.GetParametersInput{Names: []string{"/a/plain", "/a/b/c:1", "/none"}, WithDecryption: aws.Bool(true)})
			return err
		}, []string{
			"ssm:GetParameters " + parameter + "a/plain aws:ResourceTag/team=shop",
			"ssm:GetParameters " + parameter + "a/b/c", "kms:Decrypt " + key + abc, "ssm:GetParameters " + parameter + "none",
		}},
		{"read parameters without decryption", func() error {
			_, err := store.GetParameters(ctx, &ssm.GetParametersInput{Names: []string{"/a/b/c"}})
			return err
		}, []string{"ssm:GetParameters " + parameter + "a/b/c"}},
		{"read a path", func() error {
			_, err := store.GetParametersByPath(ctx, &ssm.GetParametersByPathInput{Path: aws.String("/a"), Recursive: aws.Bool(true), WithDecryption: aws.Bool(true)})
			return err
		}, []string{"ssm:GetParametersByPath " + parameter + "a", "kms:Decrypt " + key + abc}},
		{"store a parameter", func() error {
			_, err := store.PutParameter(ctx, &ssm.PutParameterInput{Name: aws.String("/a/b/c"), Value: aws.String("y"), Type: types.ParameterTypeSecureString, KeyId: &key, Overwrite: aws.Bool(true)})
			return err
		}, []string{"ssm:PutParameter " + parameter + "a/b/c ssm:Overwrite=true", "kms:Encrypt " + key + abc}},
		{"store one of the Advanced tier under AWS's key", func() error {
			_, err := store.PutParameter(ctx, &ssm.PutParameterInput{Name: aws.String("/new"), Value: aws.String("y"), Type: types.ParameterTypeSecureString, Tier: types.ParameterTierAdvanced})
			return err
		}, []string{"ssm:PutParameter " + anew + " ssm:Overwrite=false", "granted kms:GenerateDataKey KEY kms:EncryptionContext:PARAMETER_ARN=" + anew + viaSSM}},
		{"send", func() error {
			_, err := sqs.NewFromConfig(guest).SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: aws.String(cloud.QueueURL(server.URL, "q")), Entries: []sqstypes.SendMessageBatchRequestEntry{{Id: aws.String("1"), MessageBody: aws.String("m")}}})
			return err
		}, []string{"sqs:SendMessage " + queue}},
		{"all databases", func() error {
			_, err := rds.NewFromConfig(guest).DescribeDBInstances(ctx, nil)
			return err
		}, []string{"rds:DescribeDBInstances arn:aws:rds:us-east-1:000000000000:db:*"}},
		{"a cluster", func() error {
			_, err := rds.NewFromConfig(guest).DescribeDBClusters(ctx, &rds.DescribeDBClustersInput{DBClusterIdentifier: aws.String("Cl")})
			return err
		}, []string{"rds:DescribeDBClusters arn:aws:rds:us-east-1:000000000000:cluster:cl"}},
		{"a role", func() error {
			_, err := sts.NewFromConfig(guest).AssumeRole(ctx, &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::000000000000:role/r"), RoleSessionName: aws.String("session")})
			return err
		}, []string{"sts:AssumeRole arn:aws:iam::000000000000:role/r aws:ResourceAccount=000000000000"}},
		{"who am I", func() error { _, err := sts.NewFromConfig(guest).GetCallerIdentity(ctx, nil); return err }, nil},
		{"the key itself", func() error {
			_, err := kms.NewFromConfig(guest).DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &key})
			return err
		}, []string{"kms:DescribeKey " + key}},
	} {
		// Each need is refused once, and then none.
		for _, need := range c.want {
			refuse = strings.Fields(strings.TrimPrefix(need, "granted "))[0]
			want := "not authorized to perform: " + refuse + " on resource: "
			if strings.HasPrefix(refuse, "kms:") && strings.HasPrefix(c.want[0], "secretsmanager:") {
				want = "Access to KMS is not allowed"
			}
			if err := c.call(); err == nil || !strings.Contains(err.Error(), "AccessDenied") || !strings.Contains(err.Error(), want) {
				t.Errorf("%s without %s: %v", c.what, refuse, err)
			}
		}
		refuse = ""
		_ = c.call() // of what is not there it fails
		var got []string
		for _, a := range asked {
			text := a.Action + " " + a.Resource
			for _, k := range slices.Sorted(maps.Keys(a.Context)) {
				text += " " + k + "=" + strings.Join(a.Context[k], ",")
			}
			if a.Granted {
				text = "granted " + strings.Replace(text, a.Resource, "KEY", 1)
			}
			got = append(got, text)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s needs\n\t%s\nwant\n\t%s", c.what, strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
		}
	}

	refuse = "-ssm:DescribeParameters"
	_, err = store.DescribeParameters(ctx, nil)
	if want := "User: arn:aws:iam::000000000000:user/guest is not authorized to perform: ssm:DescribeParameters with an explicit deny in an identity-based policy"; err == nil || !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("%v; want %s", err, want)
	}
	if _, err := ssm.NewFromConfig(owner).DescribeParameters(ctx, nil); err != nil {
		t.Errorf("the owner, of whom nothing is asked: %v", err)
	}
}
