package localaws

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// parameterFilter narrows a list of parameters.
type parameterFilter struct {
	Key, Option string
	Values      []string
}

// check refuses a filter whose key is none of these, where "tag:" stands for
// every key that begins with it, or whose option or values do not go with it. It
// fills in the option that was left out.
func (f *parameterFilter) check(keys ...string) error {
	key, options := f.Key, []string{"Equals", "BeginsWith"}
	if strings.HasPrefix(key, "tag:") {
		key = "tag:"
	}
	if !slices.Contains(keys, key) {
		return &apiError{code: "InvalidFilterKey", message: "The specified key isn't valid."}
	}
	switch key {
	case "Name":
		options = append(options, "Contains")
	case "Path":
		options = []string{"OneLevel", "Recursive"}
	case "Label":
		options = options[:1]
	}
	f.Option = cmp.Or(f.Option, options[0])
	switch {
	case !slices.Contains(options, f.Option):
		return &apiError{code: "InvalidFilterOption", message: fmt.Sprintf("The specified filter option isn't valid. Valid options for %s are %s.", f.Key, strings.Join(options, " and "))}
	case len(f.Values) == 0 && key != "tag:":
		return &apiError{code: "InvalidFilterValue", message: "The filter value isn't valid. Verify the value and try again."}
	case len(f.Values) > maxFilterValues:
		return validation("1 validation error detected: Value at 'parameterFilters.member.values' failed to satisfy constraint: Member must have length less than or equal to %d", maxFilterValues)
	}
	return nil
}

// matchAll tells whether every filter lets a version of a parameter through.
func matchAll(filters []parameterFilter, one selectedVersion) bool {
	return !slices.ContainsFunc(filters, func(f parameterFilter) bool { return !f.match(one) })
}

func (f parameterFilter) match(one selectedVersion) bool {
	if key, ok := strings.CutPrefix(f.Key, "tag:"); ok {
		value, tagged := one.tags[key]
		return tagged && (len(f.Values) == 0 || f.matchText(value))
	}
	v := one.version
	switch f.Key {
	case "Name":
		return f.matchText(one.name)
	case "Path":
		return slices.ContainsFunc(f.Values, func(path string) bool { return under(path, one.name, f.Option == "Recursive") })
	case "Type":
		return f.matchText(v.kind)
	case "KeyId":
		return f.matchText(v.keyID)
	case "Tier":
		return f.matchText(v.tier)
	case "DataType":
		return f.matchText(v.dataType)
	}
	return slices.ContainsFunc(v.labels, f.matchText) // Label
}

func (f parameterFilter) matchText(text string) bool {
	return slices.ContainsFunc(f.Values, func(want string) bool {
		switch f.Option {
		case "BeginsWith":
			return strings.HasPrefix(text, want)
		case "Contains":
			return strings.Contains(text, want)
		}
		return text == want
	})
}

// under tells whether a name is in the hierarchy that path names: anywhere, or
// directly.
func under(path, name string, recursive bool) bool {
	rest, ok := strings.CutPrefix(name, strings.TrimSuffix(path, "/")+"/")
	return ok && (recursive || !strings.Contains(rest, "/"))
}

type describeParametersInput struct {
	ParameterFilters []parameterFilter
	Filters          []struct{ Key string }
	MaxResults       *int
	NextToken        string
}

type describeParametersOutput struct {
	Parameters []parameterMetadata
	NextToken  string `json:",omitempty"`
}

type parameterMetadata struct {
	parameterEntry
	ARN string
}

func (s *Server) describeParameters(_ call, in describeParametersInput) (any, error) {
	if len(in.Filters) > 0 {
		return nil, validation("localaws does not speak Filters, which is deprecated: use ParameterFilters")
	}
	for i := range in.ParameterFilters {
		if err := in.ParameterFilters[i].check("Name", "Path", "Type", "KeyId", "Tier", "DataType", "tag:"); err != nil {
			return nil, err
		}
	}
	size, start, err := pageInput(in.MaxResults, maxParameterPage, in.NextToken)
	if err != nil {
		return nil, err
	}
	found := func(yield func(*parameter) bool) {
		for p := range s.candidates(in.ParameterFilters, start) {
			if matchAll(in.ParameterFilters, selectedVersion{p, p.latest(), ""}) && !yield(p) {
				return
			}
		}
	}
	list, next := cut(found, s.bestEffort("DescribeParameters", size), start, func(p *parameter) string { return p.name })
	out := describeParametersOutput{Parameters: []parameterMetadata{}, NextToken: next}
	for _, p := range list {
		out.Parameters = append(out.Parameters, parameterMetadata{s.parameterEntry(p, p.latest()), p.arn})
	}
	return out, nil
}

// candidates gives the parameters after start that the filters may let through,
// in order: those named where names are asked for, else all.
func (s *Server) candidates(filters []parameterFilter, start string) iter.Seq[*parameter] {
	i := slices.IndexFunc(filters, func(f parameterFilter) bool { return f.Key == "Name" && f.Option == "Equals" })
	if i < 0 {
		return s.parametersAfter(start)
	}
	return func(yield func(*parameter) bool) {
		for _, name := range slices.Compact(slices.Sorted(slices.Values(filters[i].Values))) {
			if p, ok := s.parameters[name]; ok && name > start && !yield(p) {
				return
			}
		}
	}
}
