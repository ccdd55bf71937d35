// Package policies reads the permissions of rekey's functions out of template.yaml
// and decides by them, as IAM would, what a function may do. It is for tests: they
// hold every call that a function makes against its role.
//
// It knows what the template uses and refuses to guess at anything else: an
// intrinsic function, an element of a statement or an operator of a condition that
// it does not know is an error.
package policies

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Template is a SAM template with a value for each of its parameters.
type Template struct {
	values     map[string]string // of parameters and pseudo parameters
	lists      map[string]bool   // the parameters that are lists
	conditions map[string]yaml.Node
	resources  map[string]resource
}

type resource struct {
	Type       string               `yaml:"Type"`
	Properties map[string]yaml.Node `yaml:"Properties"`
}

// Load reads a template. values are those of its parameters, the default ones where
// there is none, and of pseudo parameters, such as AWS::AccountId; a list is written
// with commas.
func Load(file string, values map[string]string) (*Template, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Parameters map[string]struct {
			Type    string `yaml:"Type"`
			Default string `yaml:"Default"`
		} `yaml:"Parameters"`
		Conditions map[string]yaml.Node `yaml:"Conditions"`
		Resources  map[string]resource  `yaml:"Resources"`
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	t := &Template{
		values: map[string]string{
			"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": "000000000000",
			"AWS::StackName": "rekey", "AWS::URLSuffix": "amazonaws.com",
		},
		lists: map[string]bool{}, conditions: doc.Conditions, resources: doc.Resources,
	}
	for name, p := range doc.Parameters {
		t.values[name] = p.Default
		t.lists[name] = p.Type == "CommaDelimitedList" || strings.HasPrefix(p.Type, "List<")
	}
	for name := range values {
		if _, ok := t.values[name]; !ok {
			return nil, fmt.Errorf("%s has no parameter %s", file, name)
		}
	}
	maps.Copy(t.values, values)
	return t, nil
}

// Role returns the permissions of a function: the policies that stand in the template
// under the function of that logical name.
func (t *Template) Role(function string) (*Role, error) {
	r, ok := t.resources[function]
	if !ok || r.Type != "AWS::Serverless::Function" {
		return nil, fmt.Errorf("the template has no function %s", function)
	}
	node, ok := r.Properties["Policies"]
	if !ok {
		return nil, fmt.Errorf("the function %s has no policies", function)
	}
	documents, err := t.resolve(&node)
	if err != nil {
		return nil, fmt.Errorf("policies of %s: %w", function, err)
	}
	role := &Role{Name: function}
	for _, document := range list(documents) {
		d, ok := document.(map[string]any)
		if !ok || d["Statement"] == nil {
			return nil, fmt.Errorf("policies of %s: %v is no policy document", function, document)
		}
		for _, s := range list(d["Statement"]) {
			statement, err := parse(s)
			if err != nil {
				return nil, fmt.Errorf("policies of %s: %w", function, err)
			}
			if role.statement(statement.Sid) != nil {
				return nil, fmt.Errorf("policies of %s: two statements are named %s", function, statement.Sid)
			}
			role.Statements = append(role.Statements, statement)
		}
	}
	return role, nil
}

// list is v as a list: IAM and CloudFormation take one value for a list of one.
func list(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}

// noValue is what AWS::NoValue gives: the entry is left out.
type noValue struct{}

// resolve makes plain values of a node: strings, lists and maps.
func (t *Template) resolve(n *yaml.Node) (any, error) {
	if name, ok := strings.CutPrefix(n.Tag, "!"); ok && !strings.HasPrefix(name, "!") {
		argument := *n
		argument.Tag = ""
		if argument.Kind == yaml.ScalarNode {
			argument.Tag = "!!str"
		}
		if name != "Ref" && name != "Condition" {
			name = "Fn::" + name
		}
		return t.call(name, &argument)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return t.resolve(n.Alias)
	case yaml.ScalarNode:
		return n.Value, nil
	case yaml.SequenceNode:
		all := []any{}
		for _, entry := range n.Content {
			v, err := t.resolve(entry)
			if err != nil {
				return nil, err
			}
			if v != (noValue{}) {
				all = append(all, v)
			}
		}
		return all, nil
	case yaml.MappingNode:
		if key := n.Content[0].Value; len(n.Content) == 2 && (key == "Ref" || strings.HasPrefix(key, "Fn::")) {
			return t.call(key, n.Content[1])
		}
		all := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			v, err := t.resolve(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			if v != (noValue{}) {
				all[n.Content[i].Value] = v
			}
		}
		return all, nil
	}
	return nil, fmt.Errorf("line %d: a node of kind %d", n.Line, n.Kind)
}

var substituted = regexp.MustCompile(`\$\{([^}!]+)\}`)

// call carries out an intrinsic function.
func (t *Template) call(name string, n *yaml.Node) (any, error) {
	wrong := func() error { return fmt.Errorf("line %d: %s cannot be resolved", n.Line, name) }
	if name == "Fn::If" {
		if len(n.Content) != 3 {
			return nil, wrong()
		}
		yes, err := t.condition(n.Content[0].Value)
		if err != nil {
			return nil, err
		}
		if yes {
			return t.resolve(n.Content[1])
		}
		return t.resolve(n.Content[2])
	}
	v, err := t.resolve(n)
	if err != nil {
		return nil, err
	}
	text, isText := v.(string)
	arguments := list(v)
	switch name {
	case "Ref":
		return t.ref(text)
	case "Condition":
		return t.condition(text)
	case "Fn::GetAtt":
		if !isText && len(arguments) == 2 {
			text = fmt.Sprint(arguments[0], ".", arguments[1])
		}
		return t.attribute(text)
	case "Fn::Sub":
		if !isText {
			return nil, wrong()
		}
		var failed error
		out := substituted.ReplaceAllStringFunc(text, func(m string) string {
			get := t.ref
			if strings.Contains(m, ".") {
				get = t.attribute
			}
			v, err := get(m[2 : len(m)-1])
			if err != nil {
				failed = err
			}
			return fmt.Sprint(v)
		})
		return out, failed
	case "Fn::Join":
		if len(arguments) != 2 {
			return nil, wrong()
		}
		var parts []string
		for _, part := range list(arguments[1]) {
			parts = append(parts, fmt.Sprint(part))
		}
		return strings.Join(parts, fmt.Sprint(arguments[0])), nil
	case "Fn::Select":
		var i int
		if len(arguments) != 2 {
			return nil, wrong()
		}
		from := list(arguments[1])
		if _, err := fmt.Sscan(fmt.Sprint(arguments[0]), &i); err != nil || i < 0 || i >= len(from) {
			return nil, wrong()
		}
		return from[i], nil
	case "Fn::Split":
		if len(arguments) != 2 {
			return nil, wrong()
		}
		var parts []any
		for part := range strings.SplitSeq(fmt.Sprint(arguments[1]), fmt.Sprint(arguments[0])) {
			parts = append(parts, part)
		}
		return parts, nil
	case "Fn::Equals":
		if len(arguments) != 2 {
			return nil, wrong()
		}
		return fmt.Sprint(arguments[0]) == fmt.Sprint(arguments[1]), nil
	case "Fn::Not", "Fn::And", "Fn::Or":
		all, one := true, false
		for _, argument := range arguments {
			yes, ok := argument.(bool)
			if !ok {
				return nil, wrong()
			}
			all, one = all && yes, one || yes
		}
		return map[string]bool{"Fn::Not": !all, "Fn::And": all, "Fn::Or": one}[name], nil
	}
	return nil, wrong()
}

func (t *Template) condition(name string) (bool, error) {
	n, ok := t.conditions[name]
	if !ok {
		return false, fmt.Errorf("the template has no condition %s", name)
	}
	v, err := t.resolve(&n)
	if err != nil {
		return false, err
	}
	// A condition in the long form, {Condition: Name}, is a map.
	if m, ok := v.(map[string]any); ok && len(m) == 1 && m["Condition"] != nil {
		return t.condition(fmt.Sprint(m["Condition"]))
	}
	yes, ok := v.(bool)
	if !ok {
		return false, fmt.Errorf("the condition %s is %v", name, v)
	}
	return yes, nil
}

func (t *Template) ref(name string) (any, error) {
	if name == "AWS::NoValue" {
		return noValue{}, nil
	}
	value, ok := t.values[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("what !Ref %s is cannot be told", name)
	case !t.lists[name]:
		return value, nil
	}
	all := []any{}
	for entry := range strings.SplitSeq(value, ",") {
		all = append(all, strings.TrimSpace(entry))
	}
	return all, nil
}

// attribute is what GetAtt gives of a resource that has a name of its own.
func (t *Template) attribute(of string) (any, error) {
	name, attribute, _ := strings.Cut(of, ".")
	kinds := map[string]struct{ service, resource, property string }{
		"AWS::SQS::Queue":           {"sqs", "", "QueueName"},
		"AWS::Serverless::Function": {"lambda", "function:", "FunctionName"},
	}
	r := t.resources[name]
	kind := kinds[r.Type]
	property, ok := r.Properties[kind.property]
	if !ok || attribute != "Arn" {
		return nil, fmt.Errorf("what !GetAtt %s is cannot be told", of)
	}
	id, err := t.resolve(&property)
	if err != nil {
		return nil, err
	}
	return strings.Join([]string{"arn", t.values["AWS::Partition"], kind.service, t.values["AWS::Region"], t.values["AWS::AccountId"], kind.resource + fmt.Sprint(id)}, ":"), nil
}
