package policies

import (
	"fmt"
	"slices"
	"strings"
)

// Role is what a function may do, or what a queue's policy says about who may do what
// with the queue.
type Role struct {
	Name       string // the logical name of the function, or of the policy
	ARN        string // of the function's role; "" of a queue's policy
	Statements []Statement
}

// Statement is one statement of a policy.
type Statement struct {
	Sid        string
	Deny       bool
	Actions    []string
	Resources  []string
	Conditions []Condition
}

// Condition is met by a request whose context has, under the key, one of the values.
type Condition struct {
	Operator string // "StringEquals", "StringLike", "ArnNotLike", "Null" or "Bool"
	ForAll   bool   // the set operator ForAllValues: all that the context has must match
	IfExists bool   // met by a context without the key
	Key      string
	Values   []string
}

// Access is what is asked for.
type Access struct {
	Action, Resource string
	Context          map[string][]string
	// Granted: the resource's own policy allows it, and the role can only deny it.
	Granted bool
}

// Decision is what comes of it.
type Decision struct {
	Allowed bool
	// By names the statements that decide: those that deny, or if there are none those
	// that allow. There are none if the resource's own policy decides.
	By []string
	// Denied: a statement denies it, rather than that none allows it.
	Denied bool
}

// parse makes a statement of its resolved form.
func parse(v any) (s Statement, err error) {
	m, ok := v.(map[string]any)
	if !ok {
		return s, fmt.Errorf("%v is no statement", v)
	}
	for element, v := range m {
		switch element {
		case "Sid":
			s.Sid = fmt.Sprint(v)
		case "Effect":
			if v != "Allow" && v != "Deny" {
				return s, fmt.Errorf("the effect %v is none", v)
			}
			s.Deny = v == "Deny"
		case "Action":
			s.Actions = texts(v)
		case "Resource":
			s.Resources = texts(v)
		case "Condition":
			if s.Conditions, err = parseConditions(v); err != nil {
				return s, err
			}
		default:
			return s, fmt.Errorf("a statement has the element %s, which this package does not know", element)
		}
	}
	if s.Sid == "" || m["Effect"] == nil || len(s.Actions) == 0 || len(s.Resources) == 0 {
		return s, fmt.Errorf("the statement %q needs a Sid, an Effect, an Action and a Resource", s.Sid)
	}
	return s, nil
}

func parseConditions(v any) (all []Condition, err error) {
	operators, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%v is no condition", v)
	}
	for name, v := range operators {
		c := Condition{Operator: name}
		c.Operator, c.ForAll = strings.CutPrefix(c.Operator, "ForAllValues:")
		c.Operator, c.IfExists = strings.CutSuffix(c.Operator, "IfExists")
		switch c.Operator {
		case "StringEquals", "StringLike", "ArnNotLike", "Null", "Bool":
		default:
			return nil, fmt.Errorf("a condition has the operator %s, which this package does not know", name)
		}
		keys, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%v is no condition", v)
		}
		for key, v := range keys {
			c.Key, c.Values = key, texts(v)
			all = append(all, c)
		}
	}
	return all, nil
}

func texts(v any) (all []string) {
	for _, entry := range list(v) {
		all = append(all, fmt.Sprint(entry))
	}
	return all
}

// Decide tells whether the role may do what is asked.
func (r *Role) Decide(a Access) Decision {
	var allow, deny []string
	for i := range r.Statements {
		if s := &r.Statements[i]; s.applies(a) {
			if s.Deny {
				deny = append(deny, s.Sid)
			} else {
				allow = append(allow, s.Sid)
			}
		}
	}
	if len(deny) > 0 {
		return Decision{By: deny, Denied: true}
	}
	if a.Granted {
		return Decision{Allowed: true}
	}
	return Decision{Allowed: len(allow) > 0, By: allow}
}

func (s *Statement) applies(a Access) bool {
	if s.action(a.Action) == "" || !slices.ContainsFunc(s.Resources, func(pattern string) bool { return like(pattern, a.Resource) }) {
		return false
	}
	for _, c := range s.Conditions {
		if !c.met(a.Context) {
			return false
		}
	}
	return true
}

// action returns the entry of the statement that is or covers an action; "" if none
// does. Case does not matter to IAM.
func (s *Statement) action(action string) string {
	for _, pattern := range s.Actions {
		if strings.EqualFold(pattern, action) || strings.ContainsAny(pattern, "*?") && like(strings.ToLower(pattern), strings.ToLower(action)) {
			return pattern
		}
	}
	return ""
}

func (c Condition) met(context map[string][]string) bool {
	has, exists := values(context, c.Key)
	if c.Operator == "Null" {
		return slices.Contains(c.Values, fmt.Sprint(!exists))
	}
	match := func(value string) bool {
		return slices.ContainsFunc(c.Values, func(pattern string) bool {
			switch c.Operator {
			case "StringLike":
				return like(pattern, value)
			case "ArnNotLike":
				return likeARN(pattern, value)
			case "Bool":
				return strings.EqualFold(pattern, value)
			}
			return pattern == value
		})
	}
	switch {
	case c.Operator == "ArnNotLike": // also met by a context without the key
		return !slices.ContainsFunc(has, match)
	case c.ForAll: // of nothing, everything is true
		return !slices.ContainsFunc(has, func(value string) bool { return !match(value) })
	case !exists:
		return c.IfExists
	}
	return slices.ContainsFunc(has, match)
}

// values finds a key of the context. Case does not matter in its name, but for that of
// a tag and of an encryption context, which comes last and is compared as it is.
func values(context map[string][]string, key string) ([]string, bool) {
	if v, ok := context[key]; ok {
		return v, true
	}
	if strings.ContainsAny(key, "/") || strings.Count(key, ":") > 1 {
		return nil, false
	}
	for k, v := range context {
		if strings.EqualFold(k, key) {
			return v, true
		}
	}
	return nil, false
}

// like matches text with a pattern in which * stands for any characters and ? for one.
func like(pattern, text string) bool {
	p, t, star, mark := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// likeARN matches an ARN with a pattern part by part: no wildcard stands for a colon, but
// in the last of the six parts.
func likeARN(pattern, id string) bool {
	patterns, parts := strings.SplitN(pattern, ":", 6), strings.SplitN(id, ":", 6)
	if len(patterns) != 6 || len(parts) != 6 {
		return false
	}
	for i := range parts {
		if !like(patterns[i], parts[i]) {
			return false
		}
	}
	return true
}

func (r *Role) statement(sid string) *Statement {
	for i := range r.Statements {
		if r.Statements[i].Sid == sid {
			return &r.Statements[i]
		}
	}
	return nil
}

// clone copies what Without and With change.
func (r *Role) clone() *Role {
	c := &Role{Name: r.Name, ARN: r.ARN, Statements: slices.Clone(r.Statements)}
	for i := range c.Statements {
		c.Statements[i].Actions = slices.Clone(c.Statements[i].Actions)
	}
	return c
}

// Without returns the role without an action in one of its statements.
func (r *Role) Without(sid, action string) *Role {
	c := r.clone()
	s := c.statement(sid)
	s.Actions = slices.DeleteFunc(s.Actions, func(a string) bool { return a == action })
	return c
}

// With returns the role with one action more in one of its statements.
func (r *Role) With(sid, action string) *Role {
	c := r.clone()
	s := c.statement(sid)
	s.Actions = append(s.Actions, action)
	return c
}
