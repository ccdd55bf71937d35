package localaws_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// clock is a Config.Now that moves when told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// store is a cloud seen through the SDK's client for Parameter Store.
type store struct {
	*cloud
	ssm *ssm.Client
}

func newStore(t *testing.T, config localaws.Config) *store {
	t.Helper()
	c := newCloud(t, config)
	return &store{c, ssm.NewFromConfig(c.config)}
}

// put writes a SecureString; change may make another call of it.
func (s *store) put(name, value string, change func(*ssm.PutParameterInput)) (*ssm.PutParameterOutput, error) {
	in := &ssm.PutParameterInput{Name: &name, Value: &value, Type: types.ParameterTypeSecureString}
	if change != nil {
		change(in)
	}
	return s.ssm.PutParameter(s.t.Context(), in)
}

func overwrite(in *ssm.PutParameterInput) { in.Overwrite = aws.Bool(true) }

func (s *store) mustPut(name, value string, change func(*ssm.PutParameterInput)) int64 {
	s.t.Helper()
	out, err := s.put(name, value, change)
	must(s.t, err)
	return out.Version
}

// get reads a parameter, decrypted.
func (s *store) get(id string) (*types.Parameter, error) {
	out, err := s.ssm.GetParameter(s.t.Context(), &ssm.GetParameterInput{Name: &id, WithDecryption: aws.Bool(true)})
	if err != nil {
		return nil, err
	}
	return out.Parameter, nil
}

func (s *store) wantValue(id, want string) {
	s.t.Helper()
	p, err := s.get(id)
	if err != nil || *p.Value != want {
		s.t.Errorf("%s reads as %+v, %v, want %q", id, p, err, want)
	}
}

// describe finds the metadata of one parameter.
func (s *store) describeParameter(name string) types.ParameterMetadata {
	s.t.Helper()
	in := &ssm.DescribeParametersInput{ParameterFilters: []types.ParameterStringFilter{{Key: aws.String("Name"), Values: []string{name}}}}
	pages := ssm.NewDescribeParametersPaginator(s.ssm, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(s.t.Context())
		must(s.t, err)
		if len(page.Parameters) == 1 {
			return page.Parameters[0]
		}
	}
	s.t.Fatalf("%s is not described", name)
	return types.ParameterMetadata{}
}

func TestPutParameter(t *testing.T) {
	clock := newClock()
	s := newStore(t, localaws.Config{Now: clock.Now})
	_, err := s.put("/app/db", "one", func(in *ssm.PutParameterInput) { in.Type = "" })
	wantCode(t, "a new parameter without a type", err, "ValidationException")
	if v := s.mustPut("/app/db", "one", nil); v != 1 {
		t.Errorf("the first version is %d", v)
	}
	_, err = s.put("/app/db", "two", nil)
	want[*types.ParameterAlreadyExists](t, "a second put without Overwrite", err)
	s.wantValue("/app/db", "one")
	clock.Advance(time.Hour)
	if v := s.mustPut("/app/db", "two", func(in *ssm.PutParameterInput) { overwrite(in); in.Type = "" }); v != 2 {
		t.Errorf("the second version is %d", v)
	}
	p, err := s.get("/app/db")
	if err != nil || *p.Value != "two" || p.Version != 2 || p.Type != types.ParameterTypeSecureString || !p.LastModifiedDate.Equal(clock.Now()) ||
		*p.ARN != "arn:aws:ssm:us-east-1:000000000000:parameter/app/db" || *p.DataType != "text" || p.Selector != nil {
		t.Errorf("it reads as %+v, %v", p, err)
	}

	for what, row := range map[string]struct {
		name, value string
		change      func(*ssm.PutParameterInput)
		code        string
	}{
		"another type": {"/app/db", "x", func(in *ssm.PutParameterInput) { overwrite(in); in.Type = types.ParameterTypeString }, "HierarchyTypeMismatchException"},
		"tags and overwrite": {"/app/new", "x", func(in *ssm.PutParameterInput) {
			overwrite(in)
			in.Tags = []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}
		}, "ValidationException"},
		"a reference":          {"/app/new", "a{{b", nil, "ValidationException"},
		"no value":             {"/app/new", "", nil, "ValidationException"},
		"an unknown type":      {"/app/new", "x", func(in *ssm.PutParameterInput) { in.Type = "Secret" }, "ValidationException"},
		"an unknown tier":      {"/app/new", "x", func(in *ssm.PutParameterInput) { in.Tier = "Huge" }, "ValidationException"},
		"an unknown data type": {"/app/new", "x", func(in *ssm.PutParameterInput) { in.DataType = aws.String("Text") }, "ValidationException"},
		"a long description":   {"/app/new", "x", func(in *ssm.PutParameterInput) { in.Description = aws.String(strings.Repeat("x", 1025)) }, "ValidationException"},
		"4097 bytes":           {"/app/new", strings.Repeat("é", 2048) + "x", nil, "ValidationException"},
		"8193 bytes":           {"/app/new", strings.Repeat("x", 8193), func(in *ssm.PutParameterInput) { in.Tier = types.ParameterTierAdvanced }, "ValidationException"},
		"another pattern":      {"/app/new", "abc", func(in *ssm.PutParameterInput) { in.AllowedPattern = aws.String(`^\d+$`) }, "ParameterPatternMismatchException"},
		"no pattern":           {"/app/new", "abc", func(in *ssm.PutParameterInput) { in.AllowedPattern = aws.String(`(`) }, "InvalidAllowedPatternException"},
		"an unknown key":       {"/app/new", "abc", func(in *ssm.PutParameterInput) { in.KeyId = aws.String("alias/none") }, "InvalidKeyId"},
		"a key for a String": {"/app/new", "abc", func(in *ssm.PutParameterInput) {
			in.Type, in.KeyId = types.ParameterTypeString, aws.String("alias/aws/ssm")
		}, "ValidationException"},
		"an ARN":                  {"arn:aws:ssm:us-east-1:000000000000:parameter/app/db", "x", overwrite, "ValidationException"},
		"a space":                 {"/app/n ew", "x", nil, "ValidationException"},
		"two slashes":             {"/app//new", "x", nil, "ValidationException"},
		"no slash in front":       {"app/new", "x", nil, "ValidationException"},
		"16 levels":               {strings.Repeat("/x", 16), "x", nil, "HierarchyLevelLimitExceededException"},
		"a reserved hierarchy":    {"/aws/reference/secretsmanager/db", "x", nil, "AccessDeniedException"},
		"a name that begins ssm":  {"/SSM-x", "x", nil, "ValidationException"},
		"a name that is too long": {strings.Repeat("x", 1011-len("arn:aws:ssm:us-east-1:000000000000:parameter/")+1), "x", nil, "ValidationException"},
	} {
		_, err := s.put(row.name, row.value, row.change)
		wantCode(t, what, err, row.code)
	}
	s.wantValue("/app/db", "two") // none of them had an effect
	if _, err := s.get("/app/new"); err == nil {
		t.Error("a refused put made a parameter")
	}

	// A pattern may be met, a name end in spaces, a hierarchy have 15 levels.
	s.mustPut("  spaced ", "123", func(in *ssm.PutParameterInput) { in.AllowedPattern = aws.String(`^\d+$`) })
	s.wantValue("spaced", "123")
	s.mustPut(strings.Repeat("/x", 15), strings.Repeat("é", 2048), nil)

	// A deleted name rests.
	remove := func() error {
		_, err := s.ssm.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String("/app/db")})
		return err
	}
	must(t, remove())
	want[*types.ParameterNotFound](t, "deleted a second time", remove())
	_, err = s.get("/app/db")
	want[*types.ParameterNotFound](t, "read what is deleted", err)
	clock.Advance(30*time.Second - time.Millisecond)
	_, err = s.put("/app/db", "three", overwrite)
	want[*types.ParameterAlreadyExists](t, "written within 30 seconds", err)
	clock.Advance(time.Millisecond)
	if v := s.mustPut("/app/db", "three", overwrite); v != 1 {
		t.Errorf("the first version of the second life is %d", v)
	}
}

// What a put leaves out is not what there was.
func TestPutParameterReplaces(t *testing.T) {
	const policies = `[{"Type":"NoChangeNotification","Version":"1.0","Attributes":{"After":"20","Unit":"Days"}}]`
	s := newStore(t, localaws.Config{})
	own := s.newKey()
	s.AddParameter(localaws.Parameter{
		Name: "/p", Type: "SecureString", Value: "123", KeyID: own, Tier: "Advanced", Description: "of a person", AllowedPattern: `^\d+$`,
		Policies: policies, Tags: map[string]string{"team": "x"},
	})
	d := s.describeParameter("/p")
	if aws.ToString(d.KeyId) != own || d.Tier != types.ParameterTierAdvanced || aws.ToString(d.Description) != "of a person" || aws.ToString(d.AllowedPattern) != `^\d+$` ||
		*d.DataType != "text" || d.Version != 1 || len(d.Policies) != 1 || "["+*d.Policies[0].PolicyText+"]" != policies || *d.Policies[0].PolicyType != "NoChangeNotification" {
		t.Errorf("described as %+v", d)
	}
	_, err := s.put("/p", "456", overwrite)
	wantCode(t, "without a tier, which is Standard", err, "ValidationException")
	s.mustPut("/p", "not a number", func(in *ssm.PutParameterInput) { overwrite(in); in.Tier = types.ParameterTierAdvanced })
	d = s.describeParameter("/p")
	if *d.KeyId != "alias/aws/ssm" || d.Description != nil || d.AllowedPattern != nil || len(d.Policies) != 1 || d.Version != 2 {
		t.Errorf("after a put that left everything out, described as %+v", d)
	}
	s.mustPut("/p", "x", func(in *ssm.PutParameterInput) {
		overwrite(in)
		in.Tier, in.Policies = types.ParameterTierIntelligentTiering, aws.String("[{}]")
	})
	if d := s.describeParameter("/p"); len(d.Policies) != 0 || d.Tier != types.ParameterTierAdvanced {
		t.Errorf("after empty policies, described as %+v", d)
	}
	if tags := s.tags("/p"); tags != "team=x" {
		t.Errorf("the tags are %q", tags)
	}
}

func TestPolicies(t *testing.T) {
	s := newStore(t, localaws.Config{})
	const expires = `{"Type":"Expiration","Version":"1.0","Attributes":{"Timestamp":"2030-01-02T03:04:05Z"}}`
	const notice = `{"Type":"NoChangeNotification","Version":"1.0","Attributes":{"After":"20","Unit":"Days"}}`
	for _, row := range []struct {
		policies string
		tier     types.ParameterTier
		code     string
	}{
		{"[" + expires + "]", types.ParameterTierStandard, "ValidationException"},
		{"[" + expires + "," + expires + "]", types.ParameterTierAdvanced, "IncompatiblePolicyException"},
		{"[" + strings.Repeat(notice+",", 10) + notice + "]", types.ParameterTierAdvanced, "PoliciesLimitExceededException"},
		{`[{"Type":"Other","Attributes":{}}]`, types.ParameterTierAdvanced, "InvalidPolicyTypeException"},
		{strings.Replace("["+expires+"]", "2030", "in ", 1), types.ParameterTierAdvanced, "InvalidPolicyAttributeException"},
		{"{}", types.ParameterTierAdvanced, "ValidationException"},
	} {
		_, err := s.put("/p", "x", func(in *ssm.PutParameterInput) { in.Tier, in.Policies = row.tier, &row.policies })
		wantCode(t, row.policies, err, row.code)
	}
	out, err := s.put("/p", "x", func(in *ssm.PutParameterInput) {
		in.Tier, in.Policies = types.ParameterTierIntelligentTiering, aws.String("["+expires+","+notice+"]")
	})
	if err != nil || out.Tier != types.ParameterTierAdvanced {
		t.Fatalf("policies make a parameter %+v, %v", out, err)
	}
	d := s.describeParameter("/p")
	if len(d.Policies) != 2 || *d.Policies[0].PolicyText != expires || *d.Policies[1].PolicyType != "NoChangeNotification" || *d.Policies[0].PolicyStatus != "Pending" {
		t.Errorf("described as %+v", d.Policies)
	}
}

func (s *store) tags(name string) string {
	s.t.Helper()
	out, err := s.ssm.ListTagsForResource(s.t.Context(), &ssm.ListTagsForResourceInput{ResourceType: types.ResourceTypeForTaggingParameter, ResourceId: &name})
	must(s.t, err)
	var tags []string
	for _, tag := range out.TagList {
		tags = append(tags, *tag.Key+"="+*tag.Value)
	}
	return strings.Join(tags, " ")
}

func TestTiers(t *testing.T) {
	s := newStore(t, localaws.Config{StandardParameters: 2})
	long := strings.Repeat("x", 4097)
	for _, row := range []struct {
		name, value string
		tier        types.ParameterTier
		got         types.ParameterTier
		code        string
	}{
		{"/one", "x", "", "Standard", ""},
		{"/two", "x", "Intelligent-Tiering", "Standard", ""},
		{"/two", long, "Intelligent-Tiering", "Advanced", ""},
		{"/two", "x", "Intelligent-Tiering", "Advanced", ""},
		{"/two", "x", "Standard", "", "ValidationException"},
		{"/three", "x", "Standard", "Standard", ""},
		{"/four", "x", "Standard", "", "ParameterLimitExceeded"},
		{"/four", "x", "Intelligent-Tiering", "Advanced", ""},
		{"/five", strings.Repeat("x", 8192), "Advanced", "Advanced", ""},
		{"/one", long, "Advanced", "Advanced", ""},
		{"/six", "x", "Standard", "Standard", ""},
	} {
		out, err := s.put(row.name, row.value, func(in *ssm.PutParameterInput) { overwrite(in); in.Tier = row.tier })
		if row.code != "" {
			wantCode(t, fmt.Sprint(row.name, " as ", row.tier), err, row.code)
		} else if err != nil || out.Tier != row.got {
			t.Errorf("%s as %s: %+v, %v, want %s", row.name, row.tier, out, err, row.got)
		} else {
			s.wantValue(row.name, row.value)
		}
	}
}

func TestSelectors(t *testing.T) {
	s := newStore(t, localaws.Config{})
	s.mustPut("/a/b", "one", nil)
	s.mustPut("/a/b", "two", overwrite)
	s.mustPut("plain", "flat", nil)
	_, err := s.ssm.LabelParameterVersion(t.Context(), &ssm.LabelParameterVersionInput{Name: aws.String("/a/b"), ParameterVersion: aws.Int64(1), Labels: []string{"old"}})
	must(t, err)
	const arn = "arn:aws:ssm:us-east-1:000000000000:parameter/"
	for id, value := range map[string]string{
		"/a/b": "two", "/a/b:1": "one", "/a/b:2": "two", "/a/b:old": "one", arn + "a/b": "two", arn + "a/b:old": "one", arn + "plain": "flat",
	} {
		s.wantValue(id, value)
	}
	p, err := s.get("/a/b:old")
	if err != nil || *p.Selector != ":old" || *p.Name != "/a/b" || p.Version != 1 {
		t.Errorf("by label: %+v, %v", p, err)
	}
	_, err = s.get("/a/b:3")
	want[*types.ParameterVersionNotFound](t, "no such version", err)
	_, err = s.get("/a/b:none")
	want[*types.ParameterVersionNotFound](t, "no such label", err)
	_, err = s.get("a/b")
	want[*types.ParameterNotFound](t, "without its slash", err)

	out, err := s.ssm.GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{"plain", "/a/b:1", "/none", "/a/b:9"}})
	must(t, err)
	var got []string
	for _, p := range out.Parameters {
		got = append(got, *p.Name+aws.ToString(p.Selector))
		if raw, err := base64.StdEncoding.DecodeString(*p.Value); err != nil || len(raw) < 64 {
			t.Errorf("%s, not decrypted, reads as %q", *p.Name, *p.Value)
		}
	}
	if strings.Join(got, " ") != "/a/b:1 plain" || strings.Join(out.InvalidParameters, " ") != "/a/b:9 /none" {
		t.Errorf("got %v and not %v", got, out.InvalidParameters)
	}
	eleven := strings.Split(strings.Repeat("x ", 11), " ")[:11]
	_, err = s.ssm.GetParameters(t.Context(), &ssm.GetParametersInput{Names: eleven})
	wantCode(t, "eleven names", err, "ValidationException")
	_, err = s.ssm.DeleteParameters(t.Context(), &ssm.DeleteParametersInput{Names: eleven})
	wantCode(t, "eleven names to delete", err, "ValidationException")
	gone, err := s.ssm.DeleteParameters(t.Context(), &ssm.DeleteParametersInput{Names: []string{"plain", "none", arn + "a/b"}})
	if err != nil || strings.Join(gone.DeletedParameters, " ") != "plain" || len(gone.InvalidParameters) != 2 {
		t.Errorf("deleted %+v, %v", gone, err)
	}
}

func TestGetParametersByPath(t *testing.T) {
	s := newStore(t, localaws.Config{})
	var all []string
	for i := range 25 {
		name := fmt.Sprintf("/app/%02d", i)
		if i%5 == 0 {
			name = fmt.Sprintf("/app/deep/%02d", i)
		}
		s.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: name})
		all = append(all, name)
	}
	slices.Sort(all)
	s.AddParameter(localaws.Parameter{Name: "/apple", Type: "String", Value: "x"})
	s.AddParameter(localaws.Parameter{Name: "/app", Type: "String", Value: "x"})
	list := func(in ssm.GetParametersByPathInput) (names []string, short int) {
		t.Helper()
		in.WithDecryption = aws.Bool(true)
		pages := ssm.NewGetParametersByPathPaginator(s.ssm, &in)
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			must(t, err)
			if page.NextToken != nil && len(page.Parameters) < 10 {
				short++
			}
			for _, p := range page.Parameters {
				names = append(names, *p.Name)
				if *p.Value != *p.Name {
					t.Errorf("%s reads as %s", *p.Name, *p.Value)
				}
			}
		}
		return names, short
	}
	got, short := list(ssm.GetParametersByPathInput{Path: aws.String("/app"), Recursive: aws.Bool(true)})
	if !slices.Equal(got, all) || short == 0 {
		t.Errorf("recursively: %v, with %d short pages", got, short)
	}
	if got, _ := list(ssm.GetParametersByPathInput{Path: aws.String("/app/")}); len(got) != 20 || slices.Contains(got, "/app/deep/00") {
		t.Errorf("one level: %v", got)
	}
	_, err := s.ssm.GetParametersByPath(t.Context(), &ssm.GetParametersByPathInput{Path: aws.String("/app"), MaxResults: aws.Int32(11)})
	wantCode(t, "a page of 11", err, "ValidationException")
	_, err = s.ssm.GetParametersByPath(t.Context(), &ssm.GetParametersByPathInput{Path: aws.String("/app"), NextToken: aws.String("nonsense")})
	want[*types.InvalidNextToken](t, "a token nobody gave", err)
}

func TestParameterTags(t *testing.T) {
	s := newStore(t, localaws.Config{})
	s.mustPut("/p", "x", func(in *ssm.PutParameterInput) { in.Tags = []types.Tag{{Key: aws.String("b"), Value: aws.String("1")}} })
	add := func(name, key, value string) error {
		_, err := s.ssm.AddTagsToResource(t.Context(), &ssm.AddTagsToResourceInput{
			ResourceType: types.ResourceTypeForTaggingParameter, ResourceId: &name, Tags: []types.Tag{{Key: &key, Value: &value}},
		})
		return err
	}
	must(t, add("/p", "a", "x y_.:/=+-@"))
	must(t, add("/p", "b", "2"))
	s.mustPut("/p", "y", overwrite)
	if got := s.tags("/p"); got != "a=x y_.:/=+-@ b=2" {
		t.Errorf("the tags are %q", got)
	}
	_, err := s.ssm.RemoveTagsFromResource(t.Context(), &ssm.RemoveTagsFromResourceInput{ResourceType: types.ResourceTypeForTaggingParameter, ResourceId: aws.String("/p"), TagKeys: []string{"a", "none"}})
	must(t, err)
	if got := s.tags("/p"); got != "b=2" {
		t.Errorf("the tags are %q", got)
	}
	want[*types.InvalidResourceId](t, "tag what is not there", add("/none", "a", "1"))
	wantCode(t, "a character no tag has", add("/p", "a", "x,y"), "ValidationException")
	for i := range 49 {
		must(t, add("/p", fmt.Sprint("t", i), "x"))
	}
	want[*types.TooManyTagsError](t, "the 51st tag", add("/p", "more", "x"))
}

// newKey makes a KMS key and returns its ARN.
func (s *store) newKey() string {
	s.t.Helper()
	out, err := kms.NewFromConfig(s.config).CreateKey(s.t.Context(), &kms.CreateKeyInput{})
	must(s.t, err)
	return *out.KeyMetadata.Arn
}

// history writes every version as "1 2:old+older 3", in the order it is told,
// and checks that each holds its number.
func (s *store) history(name string) string {
	s.t.Helper()
	var got []string
	pages := ssm.NewGetParameterHistoryPaginator(s.ssm, &ssm.GetParameterHistoryInput{Name: &name, WithDecryption: aws.Bool(true), MaxResults: aws.Int32(20)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(s.t.Context())
		must(s.t, err)
		for _, v := range page.Parameters {
			one := fmt.Sprint(v.Version)
			if *v.Value != one {
				s.t.Errorf("version %s reads as %q", one, *v.Value)
			}
			if len(v.Labels) > 0 {
				one += ":" + strings.Join(v.Labels, "+")
			}
			got = append(got, one)
		}
	}
	return strings.Join(got, " ")
}

// label attaches labels, to the latest version if version is 0, and returns those
// that are invalid.
func (s *store) label(name string, version int64, labels ...string) ([]string, error) {
	in := &ssm.LabelParameterVersionInput{Name: &name, Labels: labels}
	if version > 0 {
		in.ParameterVersion = &version
	}
	out, err := s.ssm.LabelParameterVersion(s.t.Context(), in)
	if err != nil {
		return nil, err
	}
	return out.InvalidLabels, nil
}

func TestParameterLabels(t *testing.T) {
	s := newStore(t, localaws.Config{})
	s.mustPut("/p", "1", nil)
	s.mustPut("/p", "2", overwrite)
	mustLabel := func(version int64, labels ...string) {
		t.Helper()
		if invalid, err := s.label("/p", version, labels...); err != nil || len(invalid) > 0 {
			t.Fatalf("labels %v: %v, %v", labels, invalid, err)
		}
	}
	mustLabel(0, "current")
	mustLabel(1, "previous", "x.y-z_1")
	if got := s.history("/p"); got != "1:previous+x.y-z_1 2:current" {
		t.Errorf("history is %s", got)
	}
	mustLabel(1, "current") // moves
	if got := s.history("/p"); got != "1:previous+x.y-z_1+current 2" {
		t.Errorf("history is %s", got)
	}
	// What no label can be is no error, and what can be is attached all the same.
	invalid, err := s.label("/p", 2, "AWSCURRENT", "Ssm", "1st", "a b", "fine")
	if err != nil || strings.Join(invalid, ",") != "AWSCURRENT,Ssm,1st,a b" {
		t.Errorf("invalid labels are %v, %v", invalid, err)
	}
	mustLabel(2, "fine", "b", "c", "d", "e", "f", "g", "h", "i", "j")
	_, err = s.label("/p", 2, "k", "previous")
	want[*types.ParameterVersionLabelLimitExceeded](t, "the eleventh label", err)
	_, err = s.label("/p", 3, "k")
	want[*types.ParameterVersionNotFound](t, "a version there is not", err)
	_, err = s.label("/none", 0, "k")
	want[*types.ParameterNotFound](t, "a parameter there is not", err)

	off, err := s.ssm.UnlabelParameterVersion(t.Context(), &ssm.UnlabelParameterVersionInput{Name: aws.String("/p"), ParameterVersion: aws.Int64(1), Labels: []string{"current", "fine"}})
	if err != nil || strings.Join(off.RemovedLabels, " ") != "current" || strings.Join(off.InvalidLabels, " ") != "fine" {
		t.Errorf("unlabelled: %+v, %v", off, err)
	}
	if got := s.history("arn:aws:ssm:us-east-1:000000000000:parameter/p"); got != "1:previous+x.y-z_1 2:fine+b+c+d+e+f+g+h+i+j" {
		t.Errorf("history is %s", got)
	}
}

func TestHundredVersions(t *testing.T) {
	s := newStore(t, localaws.Config{})
	s.AddParameter(localaws.Parameter{Name: "/p", Type: "SecureString", Value: "1"})
	for i := 2; i <= 101; i++ {
		if v := s.mustPut("/p", fmt.Sprint(i), overwrite); v != int64(i) {
			t.Fatalf("put %d made version %d", i, v)
		}
	}
	if got := s.history("/p"); !strings.HasPrefix(got, "2 3 ") || !strings.HasSuffix(got, " 100 101") {
		t.Errorf("history is %s", got)
	}
	_, err := s.label("/p", 2, "mine")
	must(t, err)
	_, err = s.put("/p", "102", overwrite)
	want[*types.ParameterMaxVersionLimitExceeded](t, "the oldest version has a label", err)
	if err != nil && !strings.Contains(err.Error(), "Version 2, the oldest version") {
		t.Errorf("the error does not name the version: %v", err)
	}
	s.wantValue("/p", "101")
	_, err = s.label("/p", 3, "mine")
	must(t, err)
	s.mustPut("/p", "102", overwrite)
	_, err = s.get("/p:2")
	want[*types.ParameterVersionNotFound](t, "the version that made room", err)
}

func TestDescribeParameters(t *testing.T) {
	s := newStore(t, localaws.Config{})
	own := s.newKey()
	var every []string
	for i := range 120 {
		p := localaws.Parameter{Name: fmt.Sprintf("/app/%03d", i), Type: "SecureString", Value: "x", Tags: map[string]string{"n": fmt.Sprint(i % 10)}}
		if i%40 == 0 {
			p.KeyID, p.Tier = own, "Advanced"
		}
		s.AddParameter(p)
		every = append(every, p.Name)
	}
	s.AddParameter(localaws.Parameter{Name: "/app/deep/x", Type: "String", Value: "x"})
	s.AddParameter(localaws.Parameter{Name: "/other", Type: "StringList", Value: "x,y"})
	list := func(filters ...types.ParameterStringFilter) (names []string, empty, short int) {
		t.Helper()
		pages := ssm.NewDescribeParametersPaginator(s.ssm, &ssm.DescribeParametersInput{ParameterFilters: filters, MaxResults: aws.Int32(50)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			must(t, err)
			switch n := len(page.Parameters); {
			case page.NextToken != nil && n == 0:
				empty++
			case page.NextToken != nil && n < 50:
				short++
			}
			for _, p := range page.Parameters {
				names = append(names, *p.Name)
			}
		}
		return names, empty, short
	}
	filter := func(key, option string, values ...string) types.ParameterStringFilter {
		f := types.ParameterStringFilter{Key: &key, Values: values}
		if option != "" {
			f.Option = &option
		}
		return f
	}
	got, empty, short := list(filter("Path", "OneLevel", "/app"))
	if !slices.Equal(got, every) || empty == 0 || short == 0 {
		t.Errorf("%d names with %d empty and %d short pages: %v", len(got), empty, short, got)
	}
	for _, row := range []struct {
		filters []types.ParameterStringFilter
		want    string
	}{
		{[]types.ParameterStringFilter{filter("Name", "", "/other", "/none", "/app/007", "/other")}, "/app/007 /other"},
		{[]types.ParameterStringFilter{filter("Name", "Equals", every[:50]...), filter("tag:n", "", "3", "4")}, "/app/003 /app/004 /app/013 /app/014 /app/023 /app/024 /app/033 /app/034 /app/043 /app/044"},
		{[]types.ParameterStringFilter{filter("Name", "BeginsWith", "/app/11")}, strings.Join(every[110:], " ")},
		{[]types.ParameterStringFilter{filter("Name", "Contains", "eep")}, "/app/deep/x"},
		{[]types.ParameterStringFilter{filter("Path", "Recursive", "/app"), filter("Type", "", "String")}, "/app/deep/x"},
		{[]types.ParameterStringFilter{filter("KeyId", "", own)}, "/app/000 /app/040 /app/080"},
		{[]types.ParameterStringFilter{filter("Tier", "", "Advanced"), filter("tag:n", "")}, "/app/000 /app/040 /app/080"},
		{[]types.ParameterStringFilter{filter("tag:none", "")}, ""},
	} {
		if got, _, _ := list(row.filters...); strings.Join(got, " ") != row.want {
			t.Errorf("%v lists %v, want %s", row.filters, got, row.want)
		}
	}
	for code, f := range map[string]types.ParameterStringFilter{
		"InvalidFilterKey":    filter("Label", "", "current"),
		"InvalidFilterOption": filter("Path", "Equals", "/app"),
		"InvalidFilterValue":  filter("Name", ""),
		"ValidationException": filter("Name", "", every[:51]...),
	} {
		_, err := s.ssm.DescribeParameters(t.Context(), &ssm.DescribeParametersInput{ParameterFilters: []types.ParameterStringFilter{f}})
		wantCode(t, *f.Key, err, code)
	}
}

func TestEditParameter(t *testing.T) {
	clock := newClock()
	s := newStore(t, localaws.Config{Now: clock.Now})
	s.mustPut("/p", "1", nil)
	s.mustPut("/p", "2", overwrite)
	past := clock.Now().AddDate(0, -1, 0)
	must(t, s.EditParameter("/p", func(p *localaws.Parameter) {
		if p.Value != "2" {
			t.Errorf("the value is %q", p.Value)
		}
		p.Changed, p.Description, p.Tags = past, "edited", map[string]string{"a": "b"}
	}))
	s.wantValue("/p", "2")
	if d := s.describeParameter("/p"); !d.LastModifiedDate.Equal(past) || *d.Description != "edited" || d.Version != 2 || s.tags("/p") != "a=b" {
		t.Errorf("described as %+v", d)
	}
	if err := s.EditParameter("/none", func(*localaws.Parameter) {}); err == nil {
		t.Error("a parameter there is not was edited")
	}
}

// TestManyParameters would take minutes if adding one or reading a page looked at
// all there are.
func TestManyParameters(t *testing.T) {
	const many = 100_000
	s := newStore(t, localaws.Config{})
	for i := range many {
		s.AddParameter(localaws.Parameter{Name: fmt.Sprintf("/%d/p", many-i), Type: "SecureString", Value: "x", Tags: map[string]string{"rekey:every": "30d"}})
	}
	got := map[string]bool{}
	for _, arn := range s.resources(nil) {
		got[arn] = true
	}
	if len(got) != many {
		t.Errorf("%d resources of %d", len(got), many)
	}
	if d := s.describeParameter("/77/p"); *d.Name != "/77/p" {
		t.Errorf("described as %+v", d)
	}
}

// A reader of /aws/reference/secretsmanager/ reads a secret.
func TestSecretReference(t *testing.T) {
	s := newStore(t, localaws.Config{})
	arn := s.create()
	must(t, s.cloud.put("b"))
	const reference = "/aws/reference/secretsmanager/db"
	for selector, value := range map[string]string{"": "value b", ":AWSPREVIOUS": "value a", ":" + *token("a"): "value a"} {
		p, err := s.get(reference + selector)
		if err != nil || *p.Value != value || *p.Name != reference || p.Type != types.ParameterTypeSecureString || *p.ARN != arn || !strings.Contains(*p.SourceResult, `"SecretString":"`+value) {
			t.Errorf("%q: %+v, %v", selector, p, err)
		}
	}
	_, err := s.get(reference + ":NONE")
	want[*types.ParameterNotFound](t, "no such stage", err)
	_, err = s.ssm.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String(reference)})
	wantCode(t, "without decryption", err, "ValidationException")
	out, err := s.ssm.GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{reference, reference + "2"}, WithDecryption: aws.Bool(true)})
	if err != nil || len(out.Parameters) != 1 || len(out.InvalidParameters) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
}
