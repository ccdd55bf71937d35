package localaws

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"time"
)

// Parameter is a parameter of Parameter Store.
type Parameter struct {
	Name  string // "/app/admin"
	Type  string // "String", "StringList" or "SecureString"
	Value string
	Tags  map[string]string

	changed time.Time
}

// AddParameter adds a parameter, or replaces the one of that name.
func (s *Server) AddParameter(p Parameter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.changed = s.config.Now()
	p.Tags = maps.Clone(p.Tags)
	s.parameters[p.Name] = p
}

func (s *Server) ssmOperations() map[string]operation {
	return map[string]operation{
		"ssm.GetParameter":        decoded(s.getParameter),
		"ssm.ListTagsForResource": decoded(s.listTagsForResource),
	}
}

type getParameterInput struct {
	Name           string
	WithDecryption bool
}

type getParameterOutput struct{ Parameter parameterOutput }

type parameterOutput struct {
	Name, Type, Value string
	Version           int
	LastModifiedDate  epoch
	ARN, DataType     string
}

func (s *Server) getParameter(_ call, in getParameterInput) (any, error) {
	p, ok := s.parameters[in.Name]
	if !ok {
		return nil, &apiError{code: "ParameterNotFound", message: ""}
	}
	if p.Type == "SecureString" && !in.WithDecryption {
		// What AWS answers with is ciphertext. This only has to be of no use.
		p.Value = base64.StdEncoding.EncodeToString([]byte("encrypted"))
	}
	return getParameterOutput{parameterOutput{
		Name: p.Name, Type: p.Type, Value: p.Value, Version: 1, LastModifiedDate: epoch{p.changed},
		ARN: s.arn("ssm", "parameter/"+strings.TrimPrefix(p.Name, "/")), DataType: "text",
	}}, nil
}

type listTagsForResourceInput struct{ ResourceType, ResourceId string }

type listTagsForResourceOutput struct{ TagList []tag }

func (s *Server) listTagsForResource(_ call, in listTagsForResourceInput) (any, error) {
	if in.ResourceType != "Parameter" {
		return nil, &apiError{code: "InvalidResourceType", message: "localaws tags parameters only"}
	}
	p, ok := s.parameters[in.ResourceId]
	if !ok {
		return nil, &apiError{code: "InvalidResourceId", message: ""}
	}
	out := listTagsForResourceOutput{TagList: []tag{}}
	for _, key := range slices.Sorted(maps.Keys(p.Tags)) {
		out.TagList = append(out.TagList, tag{key, p.Tags[key]})
	}
	return out, nil
}
