package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rekeyhq/rekey/internal/template"
)

// stackName is what the README calls the stack.
const stackName = "rekey"

// deployed is how a template has a function run.
type deployed struct {
	name     string // with the stack's
	env      []string
	timeout  time.Duration
	memoryMB int
}

// deployedBy reads how a template has the function of this name run, if all its
// parameters are left as they are. A queue that the function is told of must be there.
func deployedBy(ctx context.Context, file, name, account string) (*deployed, error) {
	// What a reference to a resource yields is known when that is deployed. Those of
	// queues are asked for below.
	const reference = "\x00"
	t, err := template.Load(file, template.Options{
		Pseudo: map[string]string{
			"AWS::StackName": stackName, "AWS::Partition": "aws", "AWS::AccountId": cmp.Or(account, "000000000000"), "AWS::URLSuffix": "amazonaws.com",
			"AWS::Region": cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), "us-east-1"),
		},
		Attribute: func(resource, attribute string, _ func(string) (any, error)) (string, error) {
			return reference + resource + "." + attribute, nil
		},
	})
	if err != nil {
		return nil, err
	}
	d := &deployed{name: stackName + "-" + name}
	var names []string
	for _, r := range t.Resources {
		if r.Type != "AWS::Serverless::Function" {
			continue
		}
		of, _ := r.Properties["FunctionName"].(string)
		if of != d.name {
			names = append(names, strings.TrimPrefix(of, stackName+"-"))
			continue
		}
		seconds, secondsErr := strconv.Atoi(fmt.Sprint(r.Properties["Timeout"]))
		d.memoryMB, err = strconv.Atoi(fmt.Sprint(r.Properties["MemorySize"]))
		if err != nil || secondsErr != nil {
			return nil, fmt.Errorf("%s: the function %s has no Timeout or no MemorySize in numbers", file, of)
		}
		d.timeout = time.Duration(seconds) * time.Second
		environment, _ := r.Properties["Environment"].(map[string]any)
		variables, _ := environment["Variables"].(map[string]any)
		for _, variable := range slices.Sorted(maps.Keys(variables)) {
			value := fmt.Sprint(variables[variable])
			if id, ok := strings.CutPrefix(value, reference); ok {
				id, attribute, _ := strings.Cut(id, ".")
				if value, err = queueOf(ctx, t.Resources[id], attribute); err != nil {
					return nil, fmt.Errorf("%s: the variable %s of %s: %w", file, variable, of, err)
				}
			}
			d.env = append(d.env, variable+"="+value)
		}
		return d, nil
	}
	slices.Sort(names)
	return nil, fmt.Errorf("%s has no function %q; it has %s", file, name, strings.Join(names, ", "))
}

// queueOf returns the URL of a queue of the template, as it is on the AWS of this
// environment.
func queueOf(ctx context.Context, queue template.Resource, attribute string) (string, error) {
	if queue.Type != "AWS::SQS::Queue" || attribute != "Ref" {
		return "", fmt.Errorf("only queues are looked up, and it names a %s", queue.Type)
	}
	cfg, err := loadAWS(ctx)
	if err != nil {
		return "", err
	}
	name := fmt.Sprint(queue.Properties["QueueName"])
	out, err := sqs.NewFromConfig(cfg).GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &name})
	if err != nil {
		return "", fmt.Errorf("looking for the queue %s: %w", name, err)
	}
	return aws.ToString(out.QueueUrl), nil
}
