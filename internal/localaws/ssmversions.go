package localaws

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

type getParameterHistoryInput struct {
	Name           string
	WithDecryption bool
	MaxResults     *int
	NextToken      string
}

type getParameterHistoryOutput struct {
	Parameters []historyEntry
	NextToken  string `json:",omitempty"`
}

// parameterEntry is what history and description have in common.
type parameterEntry struct {
	Name, Type       string
	KeyId            string `json:",omitempty"`
	LastModifiedDate epoch
	LastModifiedUser string
	Description      string `json:",omitempty"`
	AllowedPattern   string `json:",omitempty"`
	Version          int64
	Tier             string
	Policies         []inlinePolicy
	DataType         string
}

type inlinePolicy struct{ PolicyText, PolicyType, PolicyStatus string }

func (s *Server) parameterEntry(p *parameter, v *parameterVersion) parameterEntry {
	e := parameterEntry{
		Name: p.name, Type: v.kind, KeyId: v.keyID, LastModifiedDate: epoch{v.changed},
		LastModifiedUser: v.user,
		Description:      v.description, AllowedPattern: v.pattern, Version: v.number, Tier: v.tier,
		Policies: []inlinePolicy{}, DataType: v.dataType,
	}
	for _, one := range v.policies {
		e.Policies = append(e.Policies, inlinePolicy{one.text, one.kind, "Pending"})
	}
	return e
}

type historyEntry struct {
	parameterEntry
	Value  string
	Labels []string
}

func (s *Server) getParameterHistory(_ call, in getParameterHistoryInput) (any, error) {
	p, selector, ok := s.findParameter(in.Name)
	if !ok || selector != "" {
		return nil, parameterNotFound()
	}
	size, start, err := pageInput(in.MaxResults, maxParameterPage, in.NextToken)
	if err != nil {
		return nil, err
	}
	last, _ := strconv.ParseInt(start, 10, 64) // "": 0, before the first version
	later := func(yield func(*parameterVersion) bool) {
		for _, v := range p.versions {
			if v.number > last && !yield(v) {
				return
			}
		}
	}
	list, next := cut(later, size, start, func(v *parameterVersion) string { return strconv.FormatInt(v.number, 10) })
	out := getParameterHistoryOutput{Parameters: []historyEntry{}, NextToken: next}
	for _, v := range list {
		e := historyEntry{s.parameterEntry(p, v), v.text, slices.Concat([]string{}, v.labels)}
		if in.WithDecryption {
			if e.Value, err = s.reveal(p, v); err != nil {
				return nil, err
			}
		}
		out.Parameters = append(out.Parameters, e)
	}
	return out, nil
}

// labelText is what a label may hold and begin with.
var labelText = regexp.MustCompile(`^[a-zA-Z_.\-][a-zA-Z0-9_.\-]*$`)

func validLabel(label string) bool {
	lower := strings.ToLower(label)
	return labelText.MatchString(label) && !strings.HasPrefix(lower, "aws") && !strings.HasPrefix(lower, "ssm")
}

// versionInput names a version of a parameter and labels.
type versionInput struct {
	Name             string
	ParameterVersion *int64
	Labels           []string
}

// find finds the version, the latest if none is named.
func (in versionInput) find(s *Server) (*parameter, *parameterVersion, error) {
	if n := len(in.Labels); n < 1 || n > maxParameterLabels || slices.ContainsFunc(in.Labels, func(l string) bool { return len(l) < 1 || len(l) > maxLabelLength }) {
		return nil, nil, validation("1 validation error detected: Value at 'labels' failed to satisfy constraint: 1 to %d labels of 1 to %d characters", maxParameterLabels, maxLabelLength)
	}
	p, ok := s.parameters[in.Name]
	if !ok {
		return nil, nil, parameterNotFound()
	}
	number := p.latest().number
	if in.ParameterVersion != nil {
		number = *in.ParameterVersion
	}
	v := p.version(number)
	if v == nil {
		return nil, nil, versionNotFound(number, p)
	}
	return p, v, nil
}

type labelParameterVersionOutput struct {
	InvalidLabels    []string
	ParameterVersion int64
}

// labelParameterVersion attaches labels to a version and takes them off any
// other. A label no parameter can have is no error: it is listed as invalid.
func (s *Server) labelParameterVersion(_ call, in versionInput) (any, error) {
	p, v, err := in.find(s)
	if err != nil {
		return nil, err
	}
	out := labelParameterVersionOutput{InvalidLabels: []string{}, ParameterVersion: v.number}
	labels := slices.Clone(v.labels)
	for _, label := range in.Labels {
		switch {
		case !validLabel(label):
			out.InvalidLabels = append(out.InvalidLabels, label)
		case !slices.Contains(labels, label):
			labels = append(labels, label)
		}
	}
	if len(labels) > maxParameterLabels {
		return nil, &apiError{code: "ParameterVersionLabelLimitExceeded", message: "A parameter version can have a maximum of ten labels."}
	}
	for _, other := range p.versions {
		if other != v {
			other.labels = slices.DeleteFunc(other.labels, func(l string) bool { return slices.Contains(labels, l) })
		}
	}
	v.labels = labels
	return out, nil
}

type unlabelParameterVersionOutput struct{ InvalidLabels, RemovedLabels []string }

func (s *Server) unlabelParameterVersion(_ call, in versionInput) (any, error) {
	if in.ParameterVersion == nil {
		return nil, validation("1 validation error detected: Value null at 'parameterVersion' failed to satisfy constraint: Member must not be null")
	}
	_, v, err := in.find(s)
	if err != nil {
		return nil, err
	}
	out := unlabelParameterVersionOutput{InvalidLabels: []string{}, RemovedLabels: []string{}}
	for _, label := range in.Labels {
		if i := slices.Index(v.labels, label); i >= 0 {
			v.labels = slices.Delete(v.labels, i, i+1)
			out.RemovedLabels = append(out.RemovedLabels, label)
		} else {
			out.InvalidLabels = append(out.InvalidLabels, label)
		}
	}
	return out, nil
}
