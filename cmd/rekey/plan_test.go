package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// noon is a Wednesday.
var noon = time.Date(2026, 9, 16, 12, 0, 0, 0, time.UTC)

// serveAWS makes an AWS that the environment names.
func serveAWS(t *testing.T, config localaws.Config) (cloud *localaws.Server, endpoint string) {
	t.Helper()
	cloud = localaws.New(config)
	t.Cleanup(cloud.Close)
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": server.URL, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "operator", "AWS_SECRET_ACCESS_KEY": "local",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_PROFILE": "", "REKEY_STAGE": "", "REKEY_QUEUE_URL": "",
	} {
		t.Setenv(name, value)
	}
	return cloud, server.URL
}

// planAt runs rekey plan at a time.
func planAt(t *testing.T, now time.Time, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, log bytes.Buffer
	c := &call{command: planCommand(), args: args, stdout: &out, stderr: &log, now: func() time.Time { return now }}
	status = c.command.run(t.Context(), c)
	return status, out.String(), log.String()
}

// addTagged adds a SecureString with rekey's tags, of those only that are not "".
func addTagged(cloud *localaws.Server, name string, changed time.Time, tags map[string]string, edit ...func(*localaws.Parameter)) {
	p := localaws.Parameter{Name: name, Type: "SecureString", Value: "a value", Changed: changed, Tags: map[string]string{}}
	for key, value := range tags {
		p.Tags["rekey:"+key] = value
	}
	for _, f := range edit {
		f(&p)
	}
	cloud.AddParameter(p)
}

type tags = map[string]string

// shop adds parameters of every kind.
func shop(cloud *localaws.Server) {
	at := func(day, hour int) time.Time { return time.Date(2026, 9, day, hour, 0, 0, 0, time.UTC) }
	addTagged(cloud, "/shop/due", at(15, 13), tags{"rotator": "postgres", "every": "1d", "window": "11:00-14:00"})
	addTagged(cloud, "/shop/late", noon.AddDate(0, 0, -40), tags{"rotator": "http:acme", "every": "30d"})
	addTagged(cloud, "/shop/closed", at(8, 13), tags{"rotator": "postgres", "every": "8d", "window": "Sat 01:00-06:00"})
	addTagged(cloud, "/shop/closed-and-late", at(14, 12), tags{"rotator": "postgres", "every": "1d", "window": "02:00-05:00"})
	addTagged(cloud, "/shop/tonight", at(16, 9), tags{"rotator": "postgres", "every": "1d", "window": "02:00-05:00"})
	addTagged(cloud, "/shop/next-year", at(16, 11), tags{"rotator": "postgres", "every": "999d", "window": "Wed 02:00-05:00"})
	addTagged(cloud, "loose", at(16, 9), tags{"rotator": "postgres", "every": "999d"})
	addTagged(cloud, "/shop/paused", noon.AddDate(0, 0, -400), tags{"rotator": "postgres", "every": "30d", "paused": "yes"})
	addTagged(cloud, "/shop/wrong-tags", noon.AddDate(0, 0, -3), tags{"rotator": "postgres", "window": "Caturday 01:00-06:00"})
	addTagged(cloud, "/shop/wrong-type", noon.AddDate(0, 0, -3), tags{"rotator": "postgres", "every": "30d"}, func(p *localaws.Parameter) { p.Type = "String" })
	addTagged(cloud, "/shop/expires", noon.AddDate(0, 0, -40), tags{"rotator": "postgres", "every": "30d"}, func(p *localaws.Parameter) {
		p.Tier, p.Policies = "Advanced", `[{"Type":"Expiration","Version":"1.0","Attributes":{"Timestamp":"2027-01-01T00:00:00Z"}}]`
	})
	addTagged(cloud, "/shop/of-prod", noon.AddDate(0, 0, -40), tags{"rotator": "postgres", "every": "30d", "stage": "prod"})
	addTagged(cloud, "/shop/not-tagged", noon.AddDate(0, 0, -40), tags{"every": "30d"})
}

// What the planner does to them at noon.
const shopTable = `NAME                   ROTATOR    EVERY  WINDOW                CHANGED  DUE
/shop/late             http:acme  30d    any time              40d      now, overdue by 10d
/shop/closed           postgres   8d     Sat 01:00-06:00       7d       window opens in 2d
/shop/closed-and-late  postgres   1d     02:00-05:00           2d       window opens in 14h, overdue by 24h
/shop/due              postgres   1d     11:00-14:00           23h      now
/shop/tonight          postgres   1d     02:00-05:00           3h       in 14h
/shop/next-year        postgres   999d   Wed 02:00-05:00       1h       2027-05-05
loose                  postgres   999d   any time              3h       2027-05-20
/shop/paused           postgres   30d    any time              400d     paused
/shop/expires          postgres   30d    any time              40d      misconfigured
    it has an Expiration policy, which deletes it at a fixed time whether it was rotated or not: remove the policy with put-parameter --policies '[{}]'
/shop/wrong-tags       postgres   -      Caturday 01:00-06:00  3d       misconfigured
    tag rekey:every: is missing: write how often to rotate, such as 30d or 12h
    tag rekey:window: "Caturday" is no day: use Mon Tue Wed Thu Fri Sat Sun, separated by spaces
/shop/wrong-type       postgres   30d    any time              3d       misconfigured
    its type is String, which keeps a value unencrypted and in sight of whoever may list parameters, and a type cannot be changed: delete it, make it anew as a SecureString, and have rekey rotate that
11 managed: 2 due, 2 overdue, 1 paused, 3 misconfigured
`

func TestPlan(t *testing.T) {
	cloud, _ := serveAWS(t, localaws.Config{})
	shop(cloud)
	status, stdout, stderr := planAt(t, noon)
	if status != succeeded || stderr != "" {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	if stdout != shopTable {
		t.Errorf("got\n%s\nwant\n%s", stdout, shopTable)
	}

	status, stdout, _ = planAt(t, noon, "--stage", "prod")
	if status != succeeded || !strings.Contains(stdout, "/shop/of-prod") || !strings.HasSuffix(stdout, "\n1 managed: 1 due, 1 overdue, 0 paused, 0 misconfigured\n") {
		t.Errorf("of the stage prod: exit status %d\n%s", status, stdout)
	}
	t.Setenv("REKEY_STAGE", "test")
	status, stdout, _ = planAt(t, noon)
	if status != succeeded || stdout != "0 managed: 0 due, 0 overdue, 0 paused, 0 misconfigured\n" {
		t.Errorf("of a stage without parameters: exit status %d\n%s", status, stdout)
	}
}

func TestPlanInJSON(t *testing.T) {
	cloud, _ := serveAWS(t, localaws.Config{})
	shop(cloud)
	status, stdout, stderr := planAt(t, noon, "--json")
	if status != succeeded || stderr != "" {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	var got struct {
		Parameters                                   []map[string]any
		Managed, Due, Overdue, Paused, Misconfigured int
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Parameters) != 11 || got.Managed != 11 || got.Due != 2 || got.Overdue != 2 || got.Paused != 1 || got.Misconfigured != 3 {
		t.Errorf("%d parameters; managed %d, due %d, overdue %d, paused %d, misconfigured %d",
			len(got.Parameters), got.Managed, got.Due, got.Overdue, got.Paused, got.Misconfigured)
	}
	byName := map[string]string{}
	for _, p := range got.Parameters {
		text, _ := json.Marshal(p) // in the order of the keys
		byName[p["name"].(string)] = string(text)
	}
	for name, want := range map[string]string{
		"/shop/closed-and-late": `{"arn":"arn:aws:ssm:us-east-1:000000000000:parameter/shop/closed-and-late","changed":"2026-09-14T12:00:00Z",` +
			`"deadline":"2026-09-15T12:00:00Z","due":"2026-09-15T02:00:00Z","every":"1d","name":"/shop/closed-and-late","overdue":true,` +
			`"paused":false,"rotator":"postgres","stage":"","version":1,"window":"02:00-05:00"}`,
		"/shop/paused": `{"arn":"arn:aws:ssm:us-east-1:000000000000:parameter/shop/paused","changed":"2025-08-12T12:00:00Z",` +
			`"every":"30d","name":"/shop/paused","overdue":false,"paused":true,"rotator":"postgres","stage":"","version":1,"window":""}`,
		"loose":            `"name":"loose"`,
		"/shop/wrong-tags": `"problem":"tag rekey:every: is missing: write how often to rotate, such as 30d or 12h\ntag rekey:window: \"Caturday\" is no day: `,
	} {
		if !strings.Contains(byName[name], want) {
			t.Errorf("%s is\n%s, want\n%s", name, byName[name], want)
		}
	}
}

func TestPlanOfTenThousand(t *testing.T) {
	cloud, _ := serveAWS(t, localaws.Config{})
	const n = 10_000
	for i := range n {
		addTagged(cloud, fmt.Sprintf("/app%d/password", i), noon.Add(-12*time.Hour), tags{"rotator": "postgres", "every": "30d"})
	}
	started := time.Now()
	status, stdout, stderr := planAt(t, noon)
	t.Logf("%d parameters in %v", n, time.Since(started).Round(time.Millisecond))
	if status != succeeded {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	lines := strings.Split(stdout, "\n")
	var managed, due, overdue int
	last := lines[len(lines)-2]
	if _, err := fmt.Sscanf(strings.ReplaceAll(last, ",", ""), "%d managed: %d due %d overdue 0 paused 0 misconfigured", &managed, &due, &overdue); err != nil ||
		managed != n || due == 0 || overdue != 0 || len(lines) != n+3 {
		t.Errorf("%d lines, the last is %q (%v)", len(lines), last, err)
	}
	calls := map[string]int{}
	for _, call := range cloud.Calls() {
		calls[call.Operation]++
	}
	// A page of either list may be short, and is followed by another.
	if calls["GetParameters"] != n/10 || calls["GetResources"] > n/100*5/4 || calls["DescribeParameters"] > 2*(due/50+1) {
		t.Errorf("for %d due, the calls are %v", due, calls)
	}
	for i := range 10 {
		if want := fmt.Sprintf("looking: %s of 10,000\n", number((i+1)*1000)); !strings.Contains(stderr, want) {
			t.Errorf("no progress line %q", want)
		}
	}
	if found := strings.Count(stderr, "found: "); found < 9 || found > 10 {
		t.Errorf("%d progress lines while the parameters were found:\n%s", found, stderr)
	}
}

func TestPlanWhenAWSFails(t *testing.T) {
	serveAWS(t, localaws.Config{Fault: func(c localaws.Call) localaws.Fault {
		if c.Operation == "GetResources" {
			return localaws.RefuseBefore
		}
		return localaws.None
	}})
	status, stdout, stderr := planAt(t, noon)
	if status != failed || stdout != "" || !strings.HasPrefix(stderr, "rekey plan: looking for parameters with the tag rekey:rotator: ") {
		t.Errorf("exit status %d, %q and %q", status, stdout, stderr)
	}
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	status, _, stderr = planAt(t, noon)
	if status != failed || !strings.Contains(stderr, "no region is set: set AWS_REGION") {
		t.Errorf("without a region: exit status %d, %q", status, stderr)
	}
}

// On a terminal there is one line, and nothing of it is left in the end.
func TestProgressOnATerminal(t *testing.T) {
	var out bytes.Buffer
	p := &progress{w: &out, terminal: true}
	p.part("looking", 1200)(1190)
	p.part("ok", 0)(5)
	p.clear()
	if want := "\rlooking: 1,190 of 1,200\rok: 5                  \r     \r"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if newProgress(&out).terminal {
		t.Error("a buffer is taken for a terminal")
	}
}
