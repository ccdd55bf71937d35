package localaws_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	tagging "github.com/aws/aws-sdk-go-v2/service/resourcegroupstaggingapi"
	taggingtypes "github.com/aws/aws-sdk-go-v2/service/resourcegroupstaggingapi/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// resources lists every resource with all its tags, as "arn a=1 b=2".
func (s *store) resources(kinds []string, filters ...taggingtypes.TagFilter) []string {
	s.t.Helper()
	var got []string
	// A long answer that overtakes the end of its request breaks the connection, in
	// Go's client; the SDK then sends the call again.
	client := tagging.NewFromConfig(s.config, func(o *tagging.Options) { o.RetryMaxAttempts = 3 })
	pages := tagging.NewGetResourcesPaginator(client, &tagging.GetResourcesInput{
		ResourceTypeFilters: kinds, TagFilters: filters, ResourcesPerPage: aws.Int32(100),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(s.t.Context())
		must(s.t, err)
		if page.PaginationToken == nil {
			s.t.Error("a page has no PaginationToken, which is \"\" on the last one")
		}
		for _, r := range page.ResourceTagMappingList {
			one := *r.ResourceARN
			for _, tag := range r.Tags {
				one += " " + *tag.Key + "=" + *tag.Value
			}
			got = append(got, one)
		}
	}
	return got
}

func TestGetResources(t *testing.T) {
	s := newStore(t, localaws.Config{})
	const arn = "arn:aws:ssm:us-east-1:000000000000:parameter/"
	var every []string
	for i := range 250 {
		s.AddParameter(localaws.Parameter{Name: fmt.Sprintf("/p/%03d", i), Type: "String", Value: "x", Tags: map[string]string{"n": fmt.Sprint(i), "team": "x"}})
		every = append(every, fmt.Sprintf("%sp/%03d n=%d team=x", arn, i, i))
	}
	s.AddParameter(localaws.Parameter{Name: "/untagged", Type: "String", Value: "x"})
	s.AddParameter(localaws.Parameter{Name: "/once", Type: "String", Value: "x", Tags: map[string]string{"team": "x"}})
	_, err := s.ssm.RemoveTagsFromResource(t.Context(), &ssm.RemoveTagsFromResourceInput{ResourceType: types.ResourceTypeForTaggingParameter, ResourceId: aws.String("/once"), TagKeys: []string{"team"}})
	must(t, err)
	secret, err := s.sm.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("db"), SecretString: aws.String("x"), Tags: []smtypes.Tag{{Key: aws.String("team"), Value: aws.String("y")}}})
	must(t, err)
	_, err = s.sm.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("untagged"), SecretString: aws.String("x")})
	must(t, err)

	tag := func(key string, values ...string) taggingtypes.TagFilter {
		return taggingtypes.TagFilter{Key: &key, Values: values}
	}
	calls := len(s.Calls())
	if got := s.resources([]string{"ssm:parameter"}, tag("team")); !slices.Equal(got, every) {
		t.Errorf("%d parameters: %v", len(got), got)
	}
	if n := len(s.Calls()) - calls; n != 5 { // one empty page, one half full, two whole ones
		t.Errorf("250 parameters take %d calls", n)
	}
	ofSecret := *secret.ARN + " team=y"
	for _, row := range []struct {
		kinds   []string
		filters []taggingtypes.TagFilter
		want    string
	}{
		{nil, []taggingtypes.TagFilter{tag("n", "7", "9")}, every[7] + "|" + every[9]},
		{nil, []taggingtypes.TagFilter{tag("n", "7", "9"), tag("team", "x", "y"), tag("n", "9")}, every[9]},
		{nil, []taggingtypes.TagFilter{tag("n", "7"), tag("team", "y")}, ""},
		{nil, []taggingtypes.TagFilter{tag("team", "y")}, ofSecret},
		{[]string{"secretsmanager"}, nil, ofSecret},
		{[]string{"secretsmanager:secret"}, nil, ofSecret},
		{[]string{"ssm", "secretsmanager"}, []taggingtypes.TagFilter{tag("team")}, ofSecret + "|" + strings.Join(every, "|")},
		{[]string{"ssm"}, nil, arn + "once|" + strings.Join(every, "|")}, // it had tags once
		{[]string{"s3"}, nil, ""},
	} {
		if got := strings.Join(s.resources(row.kinds, row.filters...), "|"); got != row.want {
			t.Errorf("%v %v lists %s, want %s", row.kinds, row.filters, got, row.want)
		}
	}
	client := tagging.NewFromConfig(s.config)
	_, err = client.GetResources(t.Context(), &tagging.GetResourcesInput{ResourcesPerPage: aws.Int32(101)})
	want[*taggingtypes.InvalidParameterException](t, "a page of 101", err)
	_, err = client.GetResources(t.Context(), &tagging.GetResourcesInput{PaginationToken: aws.String("nonsense")})
	want[*taggingtypes.PaginationTokenExpiredException](t, "a token nobody gave", err)
	if c := s.Calls(); c[len(c)-1].Service != "tagging" {
		t.Errorf("the last call is %+v", c[len(c)-1])
	}
}
