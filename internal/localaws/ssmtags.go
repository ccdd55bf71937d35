package localaws

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

type resourceInput struct{ ResourceType, ResourceId string }

// taggedParameter finds the parameter a tag operation is about, by its name.
func (s *Server) taggedParameter(in resourceInput) (*parameter, error) {
	if in.ResourceType != "Parameter" {
		return nil, &apiError{code: "InvalidResourceType", message: "localaws tags parameters only"}
	}
	p, ok := s.parameters[in.ResourceId]
	if !ok {
		return nil, &apiError{code: "InvalidResourceId", message: ""}
	}
	return p, nil
}

type addTagsToResourceInput struct {
	resourceInput
	Tags []tag
}

func (s *Server) addTagsToResource(_ call, in addTagsToResourceInput) (any, error) {
	p, err := s.taggedParameter(in.resourceInput)
	if err != nil {
		return nil, err
	}
	tags, err := addTags(p.tags, in.Tags)
	if err != nil {
		return nil, err
	}
	p.tags = tags
	return struct{}{}, nil
}

type removeTagsFromResourceInput struct {
	resourceInput
	TagKeys []string
}

func (s *Server) removeTagsFromResource(_ call, in removeTagsFromResourceInput) (any, error) {
	p, err := s.taggedParameter(in.resourceInput)
	if err != nil {
		return nil, err
	}
	for _, key := range in.TagKeys {
		delete(p.tags, key)
	}
	return struct{}{}, nil
}

type listTagsForResourceOutput struct{ TagList []tag }

func (s *Server) listTagsForResource(_ call, in resourceInput) (any, error) {
	p, err := s.taggedParameter(in)
	if err != nil {
		return nil, err
	}
	return listTagsForResourceOutput{p.tagList()}, nil
}

// tagList is the tags in order of their keys.
func (p *parameter) tagList() []tag {
	list := []tag{}
	for _, key := range slices.Sorted(maps.Keys(p.tags)) {
		list = append(list, tag{key, p.tags[key]})
	}
	return list
}

// tagText is what AWS allows in the keys and values of tags.
var tagText = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)

// addTags returns old, which it leaves alone, with tags added or changed.
func addTags(old map[string]string, tags []tag) (map[string]string, error) {
	if len(tags) == 0 {
		return old, nil
	}
	all := map[string]string{}
	maps.Copy(all, old)
	for _, t := range tags {
		switch key := []rune(t.Key); {
		case len(key) < 1 || len(key) > 128 || len([]rune(t.Value)) > 256:
			return nil, validation("the key of a tag must be 1 to 128 characters long and its value at most 256")
		case !tagText.MatchString(t.Key) || !tagText.MatchString(t.Value):
			return nil, validation("the key and the value of a tag may hold letters, digits, spaces and _ . : / = + - @")
		case strings.HasPrefix(strings.ToLower(t.Key), "aws:"):
			return nil, validation("the key of a tag must not begin with aws:")
		}
		all[t.Key] = t.Value
	}
	if len(all) > maxParameterTags {
		return nil, &apiError{code: "TooManyTagsError", message: ""}
	}
	return all, nil
}
