// Package template reads a CloudFormation template as a deployment with given
// parameters would: the intrinsic functions that template.yaml uses are evaluated. It
// is for rekey invoke, and for the tests that hold the functions against the template.
package template

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Options says what a deployment would know.
type Options struct {
	// Parameters are the values of parameters; the others have their defaults.
	Parameters map[string]string
	// Pseudo are the values of the parameters whose names begin with "AWS::".
	Pseudo map[string]string
	// Attribute is what !GetAtt yields of a resource, and with the name "Ref" what
	// !Ref does. property is one of the resource's own, evaluated. nil: the names
	// themselves, with a dot between.
	Attribute func(resource, name string, property func(string) (any, error)) (string, error)
}

// Template is a template with everything evaluated. What its conditions exclude is not
// in it.
type Template struct {
	Resources map[string]Resource
	Outputs   map[string]any
}

// Resource is one of its resources, by its logical id.
type Resource struct {
	Type       string
	Properties map[string]any // of strings, ints, floats, bools, []any and map[string]any
}

// Load reads a file. Its errors name what is not understood.
func Load(file string, o Options) (*Template, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	t, err := parse(text, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

func parse(text []byte, o Options) (*Template, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	if len(document.Content) != 1 {
		return nil, errors.New("it is empty")
	}
	raw, err := long(document.Content[0])
	if err != nil {
		return nil, err
	}
	sections, ok := raw.(map[string]any)
	if !ok {
		return nil, errors.New("it is no mapping")
	}
	e := &evaluation{Options: o, parameters: map[string]any{}, conditions: section(sections, "Conditions"), resources: section(sections, "Resources")}
	for name, p := range section(sections, "Parameters") {
		p, _ := p.(map[string]any)
		value := fmt.Sprint(p["Default"])
		if given, ok := o.Parameters[name]; ok {
			value = given
		} else if p["Default"] == nil {
			return nil, fmt.Errorf("the parameter %s has no default and is not given", name)
		}
		if kind, _ := p["Type"].(string); kind == "CommaDelimitedList" || strings.HasPrefix(kind, "List<") {
			list := []any{}
			for item := range strings.SplitSeq(value, ",") {
				list = append(list, strings.TrimSpace(item))
			}
			e.parameters[name] = list
		} else {
			e.parameters[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Parameters)) {
		if _, ok := e.parameters[name]; !ok {
			return nil, fmt.Errorf("there is no parameter %s", name)
		}
	}
	t := &Template{Resources: map[string]Resource{}, Outputs: map[string]any{}}
	for _, id := range slices.Sorted(maps.Keys(e.resources)) {
		r, _ := e.resources[id].(map[string]any)
		if there, err := e.included(r); err != nil || !there {
			if err != nil {
				return nil, fmt.Errorf("resource %s: %w", id, err)
			}
			continue
		}
		properties, err := e.value(r["Properties"])
		if err != nil {
			return nil, fmt.Errorf("resource %s: %w", id, err)
		}
		kind, _ := r["Type"].(string)
		of, _ := properties.(map[string]any)
		t.Resources[id] = Resource{Type: kind, Properties: of}
	}
	for name, out := range section(sections, "Outputs") {
		out, _ := out.(map[string]any)
		if there, err := e.included(out); err != nil || !there {
			if err != nil {
				return nil, fmt.Errorf("output %s: %w", name, err)
			}
			continue
		}
		if t.Outputs[name], err = e.value(out["Value"]); err != nil {
			return nil, fmt.Errorf("output %s: %w", name, err)
		}
	}
	return t, nil
}

func section(sections map[string]any, name string) map[string]any {
	s, _ := sections[name].(map[string]any)
	return s
}

// long turns a node into plain values, with intrinsic functions in their long form:
// !Sub x is {"Fn::Sub": x}.
func long(n *yaml.Node) (any, error) {
	if n.Kind == yaml.AliasNode {
		return long(n.Alias)
	}
	name, intrinsic := strings.CutPrefix(n.Tag, "!")
	intrinsic = intrinsic && !strings.HasPrefix(name, "!")
	var value any
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			v, err := long(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			m[n.Content[i].Value] = v
		}
		value = m
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			v, err := long(item)
			if err != nil {
				return nil, err
			}
			list[i] = v
		}
		value = list
	default:
		value = n.Value
		if !intrinsic {
			if err := n.Decode(&value); err != nil {
				return nil, fmt.Errorf("line %d: %w", n.Line, err)
			}
		}
	}
	switch {
	case !intrinsic:
		return value, nil
	case name == "Ref", name == "Condition":
		return map[string]any{name: value}, nil
	case name == "GetAtt":
		if text, ok := value.(string); ok {
			id, attribute, _ := strings.Cut(text, ".")
			value = []any{id, attribute}
		}
	}
	return map[string]any{"Fn::" + name: value}, nil
}

// nothing is AWS::NoValue.
type nothing struct{}

type evaluation struct {
	Options
	parameters map[string]any
	conditions map[string]any
	resources  map[string]any
}

// included tells whether a resource or an output is there.
func (e *evaluation) included(of map[string]any) (bool, error) {
	name, ok := of["Condition"].(string)
	if !ok {
		return true, nil
	}
	return e.condition(name)
}

func (e *evaluation) condition(name string) (bool, error) {
	c, ok := e.conditions[name]
	if !ok {
		return false, fmt.Errorf("there is no condition %s", name)
	}
	return e.truth(c)
}

func (e *evaluation) truth(v any) (bool, error) {
	if m, ok := v.(map[string]any); ok && len(m) == 1 {
		if name, ok := m["Condition"].(string); ok {
			return e.condition(name)
		}
	}
	v, err := e.value(v)
	b, ok := v.(bool)
	if err == nil && !ok {
		err = fmt.Errorf("%v is neither true nor false", v)
	}
	return b, err
}

// value evaluates what stands anywhere in the template.
func (e *evaluation) value(v any) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 1 {
			for name, argument := range v {
				if name == "Ref" {
					return e.ref(fmt.Sprint(argument))
				}
				if function, ok := strings.CutPrefix(name, "Fn::"); ok {
					return e.call(function, argument)
				}
			}
		}
		m := map[string]any{}
		for name, item := range v {
			item, err := e.value(item)
			if err != nil {
				return nil, err
			}
			if _, ok := item.(nothing); !ok {
				m[name] = item
			}
		}
		return m, nil
	case []any:
		return e.list(v)
	}
	return v, nil
}

func (e *evaluation) list(items []any) ([]any, error) {
	list := []any{}
	for _, item := range items {
		item, err := e.value(item)
		if err != nil {
			return nil, err
		}
		if _, ok := item.(nothing); !ok {
			list = append(list, item)
		}
	}
	return list, nil
}

func (e *evaluation) ref(name string) (any, error) {
	if name == "AWS::NoValue" {
		return nothing{}, nil
	}
	if v, ok := e.parameters[name]; ok {
		return v, nil
	}
	if v, ok := e.Pseudo[name]; ok {
		return v, nil
	}
	return e.attribute(name, "Ref")
}

func (e *evaluation) attribute(resource, name string) (any, error) {
	// SAM makes a role of a function's policies.
	_, ofFunction := e.resources[strings.TrimSuffix(resource, "Role")]
	if _, ok := e.resources[resource]; !ok && !ofFunction {
		return nil, fmt.Errorf("there is no parameter or resource %s", resource)
	}
	if e.Attribute == nil {
		return resource + "." + name, nil
	}
	return e.Attribute(resource, name, func(property string) (any, error) {
		r, _ := e.resources[resource].(map[string]any)
		return e.value(section(r, "Properties")[property])
	})
}

func (e *evaluation) call(function string, argument any) (any, error) {
	if function == "Sub" {
		return e.sub(argument)
	}
	arguments, ok := argument.([]any)
	if !ok {
		arguments = []any{argument}
	}
	switch {
	case function == "If" && len(arguments) == 3:
		holds, err := e.condition(fmt.Sprint(arguments[0]))
		if err != nil {
			return nil, err
		}
		if holds {
			return e.value(arguments[1])
		}
		return e.value(arguments[2])
	case function == "Not" && len(arguments) == 1:
		b, err := e.truth(arguments[0])
		return !b, err
	case function == "And", function == "Or":
		for _, a := range arguments {
			if b, err := e.truth(a); err != nil || b == (function == "Or") {
				return b, err
			}
		}
		return function == "And", nil
	}
	arguments, err := e.list(arguments)
	if err != nil {
		return nil, err
	}
	switch {
	case function == "GetAtt" && len(arguments) == 2:
		return e.attribute(fmt.Sprint(arguments[0]), fmt.Sprint(arguments[1]))
	case function == "Equals" && len(arguments) == 2:
		return fmt.Sprint(arguments[0]) == fmt.Sprint(arguments[1]), nil
	case function == "Join" && len(arguments) == 2:
		list, ok := arguments[1].([]any)
		if !ok {
			break
		}
		var parts []string
		for _, item := range list {
			parts = append(parts, fmt.Sprint(item))
		}
		return strings.Join(parts, fmt.Sprint(arguments[0])), nil
	case function == "Split" && len(arguments) == 2:
		list := []any{}
		for part := range strings.SplitSeq(fmt.Sprint(arguments[1]), fmt.Sprint(arguments[0])) {
			list = append(list, part)
		}
		return list, nil
	case function == "Select" && len(arguments) == 2:
		list, ok := arguments[1].([]any)
		i, err := strconv.Atoi(fmt.Sprint(arguments[0]))
		if ok && err == nil && i >= 0 && i < len(list) {
			return list[i], nil
		}
	}
	return nil, fmt.Errorf("!%s %v is not understood", function, arguments)
}

// sub puts values into a text.
func (e *evaluation) sub(argument any) (any, error) {
	own := map[string]any{}
	if list, ok := argument.([]any); ok && len(list) == 2 {
		values, err := e.value(list[1])
		if err != nil {
			return nil, err
		}
		own, _ = values.(map[string]any)
		argument = list[0]
	}
	text, ok := argument.(string)
	if !ok {
		return nil, fmt.Errorf("!Sub %v is not understood", argument)
	}
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(text, "${")
		out.WriteString(before)
		if !ok {
			return out.String(), nil
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			return nil, fmt.Errorf("!Sub %q has no end", text)
		}
		text = after
		if literal, ok := strings.CutPrefix(name, "!"); ok {
			out.WriteString("${" + literal + "}")
			continue
		}
		v, ok := own[name]
		if !ok {
			var err error
			if id, attribute, has := strings.Cut(name, "."); has {
				v, err = e.attribute(id, attribute)
			} else {
				v, err = e.ref(name)
			}
			if err != nil {
				return nil, err
			}
		}
		fmt.Fprint(&out, v)
	}
}
