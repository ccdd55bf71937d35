package localaws

import (
	"iter"
	"slices"
	"strings"
)

// Limits of GetResources.
const (
	maxResourcePage     = 100
	defaultResourcePage = 50
	maxTagFilters       = 50
	maxTagFilterValues  = 20
)

func (s *Server) taggingOperations() map[string]operation {
	return map[string]operation{"tagging.GetResources": decoded(s.getResources)}
}

type getResourcesInput struct {
	ResourceTypeFilters []string
	TagFilters          []tagFilter
	ResourcesPerPage    *int
	PaginationToken     string
	TagsPerPage         *int
	ResourceARNList     []string
}

type tagFilter struct {
	Key    string
	Values []string // none: any
}

func (f tagFilter) match(tags []tag) bool {
	return slices.ContainsFunc(tags, func(t tag) bool {
		return t.Key == f.Key && (len(f.Values) == 0 || slices.Contains(f.Values, t.Value))
	})
}

type getResourcesOutput struct {
	PaginationToken        string // "" on the last page
	ResourceTagMappingList []resourceTagMapping
}

type resourceTagMapping struct {
	ResourceARN string
	Tags        []tag
}

// The types of resources that can be tagged, in the order they are listed.
const (
	parameterType = "ssm:parameter"
	secretType    = "secretsmanager:secret"
)

// resource is a parameter or a secret that has or once had tags.
type resource struct {
	resourceTagMapping
	place string // type and name, which is the order of the list
}

// getResources lists what has or once had tags. Here it is exact at once; on AWS
// it is some time behind.
func (s *Server) getResources(_ call, in getResourcesInput) (any, error) {
	size := defaultResourcePage
	if in.ResourcesPerPage != nil {
		size = *in.ResourcesPerPage
	}
	start, ok := parsePageToken(in.PaginationToken)
	switch {
	case !ok:
		return nil, &apiError{code: "PaginationTokenExpiredException", message: "The PaginationToken is expired."}
	case size < 1 || size > maxResourcePage:
		return nil, invalidParameter("ResourcesPerPage must be 1 to %d", maxResourcePage)
	case len(in.ResourceARNList) > 0 || in.TagsPerPage != nil:
		return nil, invalidParameter("localaws does not speak ResourceARNList and TagsPerPage")
	case len(in.TagFilters) > maxTagFilters:
		return nil, invalidParameter("TagFilters can have %d keys at most", maxTagFilters)
	}
	for _, f := range in.TagFilters {
		if f.Key == "" || len(f.Values) > maxTagFilterValues {
			return nil, invalidParameter("an entry of TagFilters must have a key, and %d values at most", maxTagFilterValues)
		}
	}
	found := func(yield func(resource) bool) {
		for r := range s.resourcesAfter(start, in.ResourceTypeFilters) {
			lacks := func(f tagFilter) bool { return !f.match(r.Tags) }
			if !slices.ContainsFunc(in.TagFilters, lacks) && !yield(r) {
				return
			}
		}
	}
	list, next := cut(found, s.bestEffort("GetResources", size), start, func(r resource) string { return r.place })
	out := getResourcesOutput{PaginationToken: next, ResourceTagMappingList: []resourceTagMapping{}}
	for _, r := range list {
		out.ResourceTagMappingList = append(out.ResourceTagMappingList, r.resourceTagMapping)
	}
	return out, nil
}

// resourcesAfter gives the resources of these types, "service" or "service:type"
// and none for all, whose places come after start.
func (s *Server) resourcesAfter(start string, types []string) iter.Seq[resource] {
	asked := func(kind string) bool {
		service, _, _ := strings.Cut(kind, ":")
		return len(types) == 0 || slices.Contains(types, kind) || slices.Contains(types, service)
	}
	kind, name, _ := strings.Cut(start, " ")
	return func(yield func(resource) bool) {
		if asked(secretType) && kind <= secretType {
			from := ""
			if kind == secretType {
				from = name
			}
			for name := range s.secretNames.after(from) {
				sec, ok := s.secrets[name]
				if ok && sec.tagged && !yield(resource{resourceTagMapping{sec.arn, slices.Concat([]tag{}, sec.tags)}, secretType + " " + name}) {
					return
				}
			}
		}
		if asked(parameterType) {
			from := ""
			if kind == parameterType {
				from = name
			}
			for p := range s.parametersAfter(from) {
				if p.tags != nil && !yield(resource{resourceTagMapping{p.arn, p.tagList()}, parameterType + " " + p.name}) {
					return
				}
			}
		}
	}
}
