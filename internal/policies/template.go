// Package policies reads the permissions of rekey's functions out of template.yaml
// and decides by them, as IAM would, what a function may do. It is for tests: they
// hold every call that a function makes against its role.
//
// It knows what the template uses and refuses to guess at anything else: an element
// of a statement or an operator of a condition that it does not know is an error.
package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rekeyhq/rekey/internal/template"
)

// Template is a SAM template with a value for each of its parameters.
type Template struct {
	deployed *template.Template
	roles    string // the ARN of a role, without its logical name
}

// Load reads a template. values are those of its parameters, the default ones where
// there is none, and of pseudo parameters, such as AWS::AccountId; a list is written
// with commas.
func Load(file string, values map[string]string) (*Template, error) {
	o := template.Options{Parameters: map[string]string{}, Pseudo: map[string]string{
		"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": "000000000000",
		"AWS::StackName": "rekey", "AWS::URLSuffix": "amazonaws.com",
	}}
	for name, value := range values {
		if strings.HasPrefix(name, "AWS::") {
			o.Pseudo[name] = value
		} else {
			o.Parameters[name] = value
		}
	}
	// CloudFormation ends it with letters of its own.
	roles := "arn:" + o.Pseudo["AWS::Partition"] + ":iam::" + o.Pseudo["AWS::AccountId"] + ":role/" + o.Pseudo["AWS::StackName"] + "-"
	// The ARN of what has a name of its own.
	o.Attribute = func(resource, name string, property func(string) (any, error)) (string, error) {
		for _, kind := range []struct{ property, service, resource string }{{"QueueName", "sqs", ""}, {"FunctionName", "lambda", "function:"}} {
			if own, err := property(kind.property); err != nil {
				return "", err
			} else if own != nil && name == "Arn" {
				return strings.Join([]string{"arn", o.Pseudo["AWS::Partition"], kind.service, o.Pseudo["AWS::Region"], o.Pseudo["AWS::AccountId"], kind.resource + fmt.Sprint(own)}, ":"), nil
			}
		}
		if trust, err := property("AssumeRolePolicyDocument"); err != nil {
			return "", err
		} else if trust != nil && name == "Arn" {
			return roles + resource, nil
		}
		if strings.HasSuffix(resource, "Log") && name == "Arn" { // CloudFormation names it, and no test asks for it
			return "arn:" + o.Pseudo["AWS::Partition"] + ":logs:::log-group:" + resource + ":*", nil
		}
		return untold + resource + "." + name, nil
	}
	t, err := template.Load(file, o)
	return &Template{t, roles}, err
}

// untold begins what only a deployment can tell. In a policy it is an error.
const untold = "\x00"

// Role returns the permissions of a function: the policies of the role that it names.
func (t *Template) Role(function string) (*Role, error) {
	f, ok := t.deployed.Resources[function]
	if !ok || f.Type != "AWS::Serverless::Function" {
		return nil, fmt.Errorf("the template has no function %s", function)
	}
	arn := fmt.Sprint(f.Properties["Role"])
	r := t.deployed.Resources[strings.TrimPrefix(arn, t.roles)]
	if r.Type != "AWS::IAM::Role" || f.Properties["Policies"] != nil || r.Properties["ManagedPolicyArns"] != nil {
		return nil, fmt.Errorf("the function %s has no role of the template's with all its policies", function)
	}
	role := &Role{Name: function, ARN: arn}
	for _, policy := range list(r.Properties["Policies"]) {
		p, _ := policy.(map[string]any)
		if err := role.add(p["PolicyDocument"], parse); err != nil {
			return nil, fmt.Errorf("policies of %s: %w", function, err)
		}
	}
	return role, nil
}

// QueuePolicies returns the policies of queues, in the order of their names. Each says
// about everybody what it says.
func (t *Template) QueuePolicies() (all []*Role, err error) {
	for _, id := range slices.Sorted(maps.Keys(t.deployed.Resources)) {
		r := t.deployed.Resources[id]
		if r.Type != "AWS::SQS::QueuePolicy" {
			continue
		}
		policy := &Role{Name: id}
		if err := policy.add(r.Properties["PolicyDocument"], parseForAll); err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		all = append(all, policy)
	}
	return all, nil
}

// add adds the statements of a policy.
func (r *Role) add(policy any, parse func(any) (Statement, error)) error {
	document, _ := policy.(map[string]any)
	if document["Statement"] == nil {
		return fmt.Errorf("%v is no policy", policy)
	}
	for _, s := range list(document["Statement"]) {
		statement, err := parse(s)
		if err != nil {
			return err
		}
		if r.statement(statement.Sid) != nil {
			return fmt.Errorf("two statements are named %s", statement.Sid)
		}
		if _, what, found := strings.Cut(fmt.Sprint(statement), untold); found {
			return fmt.Errorf("what %s is cannot be told", strings.TrimRight(strings.Fields(what)[0], "]}"))
		}
		r.Statements = append(r.Statements, statement)
	}
	return nil
}

// parseForAll makes a statement of one in a resource's policy, which is about everybody.
func parseForAll(v any) (Statement, error) {
	m, _ := v.(map[string]any)
	if m["Principal"] != "*" {
		return Statement{}, fmt.Errorf("a statement is about the principal %v, and this package knows * only", m["Principal"])
	}
	m = maps.Clone(m)
	delete(m, "Principal")
	return parse(m)
}

// list is v as a list: IAM and CloudFormation take one value for a list of one.
func list(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}
