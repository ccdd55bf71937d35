package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/due"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/queue"
)

func rotateCommand() *command {
	return &command{
		name: "rotate",
		args: "[flags] NAME|ARN",
		what: "rotate one secret or parameter now",
		help: `
Has one secret of Secrets Manager or one parameter of Parameter Store rotated now,
whatever its schedule says, and prints what was ordered. A name is looked for in
both; ssm:NAME is the parameter only, an ARN what it says.

  AWS_PROFILE=prod rekey rotate --wait /shop/db/password

For a secret it calls RotateSecret, and the rotation must be configured. For a
parameter it puts an order into the queue between rekey's functions, as the planner
does: name the queue with REKEY_QUEUE_URL or --queue-url (it is the template's
output ParameterQueueUrl). The queue takes orders of those alone whom the template's
parameter OperatorArns names. The parameter must be tagged for rekey; one that is
paused is rotated all the same.

With --wait it follows the rotation, tells on stderr how far it is, and ends when
it is done. The exit status is 1 if nothing was ordered or, with --wait, if the
rotation is not done; it is 2 if the call is wrong. It never reads or prints a
value.

It acts on the AWS that your environment names (AWS_PROFILE, AWS_REGION,
AWS_ENDPOINT_URL, ...). For a secret it needs secretsmanager:DescribeSecret and
secretsmanager:RotateSecret there; for a parameter ssm:DescribeParameters,
ssm:ListTagsForResource and sqs:SendMessage, with --wait also ssm:GetParameters.`,
		run: rotate,
	}
}

// order is an order to rotate something.
type order struct {
	*call
	aws      aws.Config
	stage    string
	queueURL string
	wait     bool
	timeout  time.Duration
}

func rotate(ctx context.Context, c *call) int {
	flags := new(flag.FlagSet)
	wait := flags.Bool("wait", false, "follow the rotation to its end")
	timeout := flags.Duration("timeout", 5*time.Minute, "the `TIME` after which --wait gives up (default 5m)")
	queueURL := flags.String("queue-url", callersQueue(), queueUsage)
	stage := flags.String("stage", callersStage(), stageUsage)
	args, status, ok := c.parse(flags, 1)
	if !ok {
		return status
	}
	if *timeout <= 0 {
		return c.misuse("--timeout is %v; it must be more than nothing", *timeout)
	}
	m, err := meant(args[0])
	if err != nil {
		return c.misuse("%v", err)
	}
	cfg, err := loadAWS(ctx)
	if err != nil {
		return c.fail(err)
	}
	o := &order{c, cfg, *stage, *queueURL, *wait, *timeout}

	secret, parameter, status, ok := o.choose(ctx, m, true)
	if !ok {
		return status
	}
	if err := o.rotate(ctx, secret, parameter); err != nil {
		return c.fail(err)
	}
	return succeeded
}

// choose finds the one secret or parameter that is meant. If it returns false the
// call is over, with the given status. orders tells whether a rotation is ordered,
// which takes the queue for a parameter.
func (o *order) choose(ctx context.Context, m meaning, orders bool) (secret *secretsmanager.DescribeSecretOutput, parameter *paramstore.Described, status int, ok bool) {
	secret, parameter, err := o.find(ctx, m)
	switch {
	case err != nil:
		status = o.fail(err)
	case secret != nil && parameter != nil:
		status = o.misuse("%s is the name of a secret and of a parameter: write ssm:%[1]s for the parameter, or %s for the secret", m.id, aws.ToString(secret.ARN))
	case secret == nil && parameter == nil:
		status = o.fail(fmt.Errorf("there is no %s %s in %s, or not in this account: see rekey plan and aws secretsmanager list-secrets", m, m.id, o.aws.Region))
	case parameter != nil && orders && o.queueURL == "":
		status = o.misuse("%s is a parameter, and the queue for its order is not known: set REKEY_QUEUE_URL, or --queue-url, to the template's output ParameterQueueUrl", m.id)
	default:
		ok = true
	}
	return secret, parameter, status, ok
}

// rotate orders the rotation of the one that is not nil.
func (o *order) rotate(ctx context.Context, secret *secretsmanager.DescribeSecretOutput, parameter *paramstore.Described) error {
	if secret != nil {
		return o.rotateSecret(ctx, secret)
	}
	return o.rotateParameter(ctx, parameter)
}

// meaning is what a name may mean.
type meaning struct {
	id                string // a name or an ARN
	secret, parameter bool
}

func (m meaning) String() string {
	switch {
	case m.secret && m.parameter:
		return "secret and no parameter"
	case m.secret:
		return "secret"
	}
	return "parameter"
}

// meant reads what was asked for. Parameter Store refuses to look for what is no name of a
// parameter.
func meant(text string) (meaning, error) {
	id, named := strings.CutPrefix(text, "ssm:")
	m := meaning{id: id, secret: !named, parameter: paramstore.IsName(id)}
	if parsed, err := arn.Parse(id); err == nil {
		m.secret = !named && parsed.Service == "secretsmanager" && strings.HasPrefix(parsed.Resource, "secret:")
		m.parameter = parsed.Service == "ssm" && strings.HasPrefix(parsed.Resource, "parameter/")
	}
	if !m.secret && !m.parameter {
		return m, fmt.Errorf("%s is no name or ARN of what rekey rotates: give that of a secret or a parameter", text)
	}
	return m, nil
}

// find looks for what is meant; nil is what is not there.
func (o *order) find(ctx context.Context, m meaning) (secret *secretsmanager.DescribeSecretOutput, parameter *paramstore.Described, err error) {
	if m.secret {
		secret, err = secretsmanager.NewFromConfig(o.aws).DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &m.id})
		if _, missing := errors.AsType[*smtypes.ResourceNotFoundException](err); missing {
			secret, err = nil, nil
		}
		if err != nil {
			if m.parameter {
				err = fmt.Errorf("%w; for the parameter of that name, write ssm:%s", err, m.id)
			}
			return nil, nil, fmt.Errorf("looking for a secret %s: %w", m.id, err)
		}
	}
	if m.parameter {
		names := parameterNames(m.id)
		described, err := paramstore.Describe(ctx, ssm.NewFromConfig(o.aws), names)
		if err != nil {
			if m.secret {
				err = fmt.Errorf("%w; for the secret of that name, write its ARN", err)
			}
			return nil, nil, fmt.Errorf("looking for a parameter %s: %w", m.id, err)
		}
		i := slices.IndexFunc(described, func(d paramstore.Described) bool { return d.Name == m.id || d.ARN == m.id })
		if i >= 0 {
			parameter = &described[i]
		}
	}
	return secret, parameter, nil
}

// parameterNames are the names that a parameter of this name or ARN can have. An
// ARN has one slash before the name, whether the name begins with one or not.
func parameterNames(id string) []string {
	parsed, err := arn.Parse(id)
	if err != nil {
		return []string{id}
	}
	name := strings.TrimPrefix(parsed.Resource, "parameter/")
	if strings.Contains(name, "/") {
		return []string{"/" + name}
	}
	return []string{name, "/" + name}
}

// newToken returns 32 characters that nobody has used yet.
func newToken() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func (o *order) rotateSecret(ctx context.Context, secret *secretsmanager.DescribeSecretOutput) error {
	name := aws.ToString(secret.Name)
	if !aws.ToBool(secret.RotationEnabled) {
		return fmt.Errorf("the rotation of the secret %s is not configured, or was turned off: aws secretsmanager rotate-secret --secret-id %[1]s --rotation-lambda-arn ARN --rotation-rules AutomaticallyAfterDays=30 configures it and rotates at once; ARN is the template's output SecretRotatorArn", name)
	}
	client := secretsmanager.NewFromConfig(o.aws)
	token := newToken()
	// What else RotateSecret takes would change how the secret is rotated from now on.
	_, err := client.RotateSecret(ctx, &secretsmanager.RotateSecretInput{SecretId: secret.ARN, ClientRequestToken: &token})
	if err != nil {
		return fmt.Errorf("the secret %s is not rotated: %w", name, err)
	}
	fmt.Fprintf(o.stdout, "ordered: secret %s, version %s\n", name, token)
	if !o.wait {
		return nil
	}
	return o.follow(ctx, &secretRotation{client: client, secret: secret, token: token})
}

func (o *order) rotateParameter(ctx context.Context, d *paramstore.Described) error {
	client := ssm.NewFromConfig(o.aws)
	tags, err := parameterTags(ctx, client, d.Name)
	if err != nil {
		return err
	}
	schedule, _, problem := due.Read(tags)
	if problem = errors.Join(problem, d.Refused); problem != nil {
		return fmt.Errorf("the parameter %s is not rotated:\n%w", d.Name, problem)
	}
	if schedule.Stage != o.stage {
		return fmt.Errorf("the parameter %s is of %s, and this is %s: give --stage and the queue of that stage", d.Name, stageName(schedule.Stage), stageName(o.stage))
	}
	if schedule.Paused {
		fmt.Fprintf(o.stderr, "%s is paused; it is rotated all the same\n", d.Name)
	}
	message := queue.Message{Parameter: d.Parameter, Nonce: newToken()}
	if _, err := queue.Send(ctx, sqs.NewFromConfig(o.aws), o.queueURL, []queue.Message{message}); err != nil {
		return fmt.Errorf("the parameter %s is not rotated: %w", d.Name, err)
	}
	fmt.Fprintf(o.stdout, "ordered: parameter %s, from version %d\n", d.Name, d.Base)
	if !o.wait {
		return nil
	}
	return o.follow(ctx, &parameterRotation{client: client, parameter: d.Parameter})
}

// parameterTags reads the tags of a parameter.
func parameterTags(ctx context.Context, client *ssm.Client, name string) (map[string]string, error) {
	out, err := client.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{
		ResourceType: ssmtypes.ResourceTypeForTaggingParameter, ResourceId: &name,
	})
	if err != nil {
		return nil, fmt.Errorf("reading the tags of %s: %w", name, err)
	}
	tags := map[string]string{}
	for _, tag := range out.TagList {
		tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
	}
	return tags, nil
}

func stageName(stage string) string {
	if stage == "" {
		return "no stage"
	}
	return "the stage " + stage
}
