package localaws

import (
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// sqsVersion is the version of SQS's API, by which its calls in the query
// protocol are told from those to other services. SDKs and AWS CLIs older than
// November 2023 speak it.
const sqsVersion = "2012-11-05"

// sqsOperation adds an operation of SQS, which takes the same input and gives
// the same output in both protocols. A nil output is an empty one.
func sqsOperation[In any](ops map[string]operation, name string, f func(call, In) (any, error)) {
	json := decoded(f)
	ops["sqs."+name] = func(c call, body []byte) (any, error) {
		query := c.request.Header.Get("X-Amz-Target") == ""
		if query {
			var err error
			if body, err = formToJSON(body); err != nil {
				return nil, err
			}
		}
		out, err := json(c, body)
		switch {
		case err != nil:
			return nil, err
		case query:
			return queryReply{"http://queue.amazonaws.com/doc/" + sqsVersion + "/", name, out}, nil
		case out == nil:
			return struct{}{}, nil
		}
		return out, nil
	}
}

// formToJSON writes a form as the JSON of the same call. "Name.1" and "Name.2"
// make a list, "Name.1.Member" one of objects, and "Name.1.Name" with
// "Name.1.Value" an object. JSON has those in the plural.
func formToJSON(body []byte) ([]byte, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, &apiError{code: "MalformedQueryString", message: "the request is not a form"}
	}
	return json.Marshal(formMembers(form))
}

func formMembers(form url.Values) map[string]any {
	members := map[string]any{}
	lists := map[string]map[int]url.Values{}
	for key := range form {
		value := form.Get(key)
		name, rest, nested := strings.Cut(key, ".")
		position, member, _ := strings.Cut(rest, ".")
		n, err := strconv.Atoi(position)
		switch {
		case !nested:
			members[name] = formValue(name, value)
		case err == nil:
			if lists[name] == nil {
				lists[name] = map[int]url.Values{}
			}
			if lists[name][n] == nil {
				lists[name][n] = url.Values{}
			}
			lists[name][n].Set(member, value)
		}
	}
	for name, list := range lists {
		var all []any
		named := map[string]any{}
		for _, n := range slices.Sorted(maps.Keys(list)) {
			switch one := list[n]; {
			case one.Has(""):
				all = append(all, one.Get(""))
			case one.Has("Name"):
				named[one.Get("Name")] = one.Get("Value")
			default:
				all = append(all, formMembers(one))
			}
		}
		switch {
		case strings.HasSuffix(name, "BatchRequestEntry"):
			members["Entries"] = all
		case len(named) > 0:
			members[name+"s"] = named
		default:
			members[name+"s"] = all
		}
	}
	return members
}

// formValue is a member's value as JSON has it.
func formValue(name, value string) any {
	switch name {
	case "DelaySeconds", "MaxNumberOfMessages", "MaxResults", "VisibilityTimeout", "WaitTimeSeconds":
		if n, err := strconv.Atoi(value); err == nil {
			return n
		}
	}
	return value
}

// queryReply is what an operation answers in the query protocol.
type queryReply struct {
	space     string // of XML names
	operation string
	output    any // nil: nothing
}

// MarshalXML implements xml.Marshaler.
func (r queryReply) MarshalXML(e *xml.Encoder, _ xml.StartElement) error {
	type metadata struct{ RequestId string }
	start := xml.StartElement{Name: xml.Name{Space: r.space, Local: r.operation + "Response"}}
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	if r.output != nil {
		if err := e.EncodeElement(r.output, xml.StartElement{Name: xml.Name{Local: r.operation + "Result"}}); err != nil {
			return err
		}
	}
	if err := e.EncodeElement(metadata{newUUID()}, xml.StartElement{Name: xml.Name{Local: "ResponseMetadata"}}); err != nil {
		return err
	}
	return e.EncodeToken(start.End())
}

// attributes are names with values: an object in JSON, elements that hold a Name
// and a Value in the query protocol.
type attributes map[string]string

// only returns those of the given names, all if "All" is among them.
func (a attributes) only(names []string) attributes {
	out := maps.Clone(a)
	if !slices.Contains(names, "All") {
		maps.DeleteFunc(out, func(name, _ string) bool { return !slices.Contains(names, name) })
	}
	return out
}

// MarshalXML implements xml.Marshaler.
func (a attributes) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if err := e.EncodeElement(struct{ Name, Value string }{name, a[name]}, start); err != nil {
			return err
		}
	}
	return nil
}
