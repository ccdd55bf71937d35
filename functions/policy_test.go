package functions_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/internal/inventory"
	"github.com/rekeyhq/rekey/internal/localaws"
)

// policed is AWS with what template.yaml allows both functions: a parameter that has
// no tag rekey:rotator is denied to them, and so is one that is not there, for it
// has no tag.
type policed struct{ *localaws.Server }

// byTag are the calls that the template allows on that condition.
var byTag = []string{"GetParameter", "GetParameters", "GetParameterHistory", "PutParameter", "AddTagsToResource", "RemoveTagsFromResource"}

func (p policed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller is gone
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if operation, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "AmazonSSM."); ok && slices.Contains(byTag, operation) {
		var in struct {
			Name, ResourceId string
			Names            []string
		}
		_ = json.Unmarshal(body, &in)
		for _, name := range append(in.Names, in.Name+in.ResourceId) {
			if name != "" && !p.allows(name) {
				w.Header().Set("Content-Type", "application/x-amz-json-1.1")
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `{"__type":"AccessDeniedException","message":"not authorized to perform ssm:%s"}`, operation)
				return
			}
		}
	}
	p.Server.ServeHTTP(w, r)
}

func (p policed) allows(name string) bool {
	name, _, _ = strings.Cut(name, ":")
	if strings.HasPrefix(name, "/rekey/pending/") {
		return true
	}
	if name == "/admin" || strings.HasPrefix(name, "/shop/db/") && name != parameterName {
		return true // AdminArns
	}
	tagged := false
	_ = p.EditParameter(name, func(is *localaws.Parameter) { _, tagged = is.Tags["rekey:rotator"] })
	return tagged
}

// What the planner learns of parameters of which some are denied: for want of a tag,
// because they are gone, or because an ARN does not tell of the slash in a name.
func TestLookUnderThePolicy(t *testing.T) {
	cloud := localaws.New(localaws.Config{})
	t.Cleanup(cloud.Close)
	server := httptest.NewServer(policed{cloud})
	t.Cleanup(server.Close)
	client := ssm.NewFromConfig((&setup{endpoint: server.URL}).config(http.DefaultTransport))
	tags := map[string]string{"rekey:rotator": "postgres"}
	var all []*inventory.Parameter
	for name, tags := range map[string]map[string]string{"/in/a/path": tags, "/slash": tags, "none": tags, "/lost/its/tag": nil, "/gone": nil} {
		if name != "/gone" {
			cloud.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: "x", Tags: tags})
		}
		arn, guess := strings.TrimPrefix(name, "/"), name
		if !strings.Contains(arn, "/") {
			guess = arn
		}
		all = append(all, &inventory.Parameter{ARN: "arn:aws:ssm:us-east-1:000000000000:parameter/" + arn, Name: guess})
	}
	if err := inventory.Look(t.Context(), client, all); err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		var version int64 = 1
		problem := ""
		switch p.Name {
		case "/lost/its/tag":
			version, problem = 0, "it may not be read"
		case "gone":
			version = 0
		case "/in/a/path", "/slash", "none":
		default:
			t.Errorf("there is no %s", p.Name)
		}
		if p.Version != version || (p.Problem == nil) != (problem == "") || p.Problem != nil && !strings.Contains(p.Problem.Error(), problem) {
			t.Errorf("%s: version %d, %v", p.Name, p.Version, p.Problem)
		}
	}
}
