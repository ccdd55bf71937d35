package database

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
)

// domain is what the names of one account's endpoints end in.
const domain = "abc123.us-east-1.rds.amazonaws.com"

// locator asks an RDS with a little of everything. CNAMEs are its only DNS.
func locator(t *testing.T, cnames map[string]string, fault func(localaws.Call) localaws.Fault) *rdsLocator {
	t.Helper()
	cloud := localaws.New(localaws.Config{Fault: fault})
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)

	instance := func(id string, change func(*localaws.DBInstance)) {
		i := localaws.DBInstance{DBInstanceIdentifier: id, Engine: "postgres", Endpoint: &localaws.Endpoint{Address: id + "." + domain, Port: 5433}}
		if change != nil {
			change(&i)
		}
		cloud.AddDBInstance(i)
	}
	replicaOf := func(source string) func(*localaws.DBInstance) {
		return func(i *localaws.DBInstance) { i.ReadReplicaSourceDBInstanceIdentifier = source }
	}
	instance("source", nil)
	instance("replica", replicaOf("source"))
	instance("cascade", replicaOf("arn:aws:rds:us-east-1:000000000000:db:replica"))
	instance("abroad", replicaOf("arn:aws:rds:eu-west-1:000000000000:db:source"))
	instance("lost", replicaOf("gone"))
	instance("ring-1", replicaOf("ring-2"))
	instance("ring-2", replicaOf("ring-1"))
	instance("creating", func(i *localaws.DBInstance) { i.Endpoint = nil })
	instance("member", func(i *localaws.DBInstance) { i.DBClusterIdentifier, i.Engine = "aurora", "aurora-postgresql" })
	instance("of-cluster", func(i *localaws.DBInstance) { i.ReadReplicaSourceDBClusterIdentifier = "aurora" })

	cluster := func(id, replicates string) {
		cloud.AddDBCluster(localaws.DBCluster{
			DBClusterIdentifier: id, Engine: "aurora-postgresql", Port: 5434, ReplicationSourceIdentifier: replicates,
			Endpoint: id + ".cluster-" + domain, ReaderEndpoint: id + ".cluster-ro-" + domain,
			CustomEndpoints: []string{id + "-reports.cluster-custom-" + domain},
		})
	}
	for n := range 100 { // more than one page, before those that matter
		cluster(fmt.Sprintf("a%03d", n), "")
	}
	cluster("aurora", "")
	cluster("copy", "arn:aws:rds:us-east-1:000000000000:cluster:aurora")
	cluster("of-instance", "arn:aws:rds:us-east-1:000000000000:db:source")

	l := RDS(aws.Config{
		Region: "us-east-1", BaseEndpoint: &server.URL, Credentials: credentials.NewStaticCredentialsProvider("local", "local", ""),
		// As on Lambda, where the SDK tries again. It must: when a long answer
		// overtakes the end of the request, it closes the connection under itself.
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond })
		},
	}).(*rdsLocator)
	l.lookupCNAME = func(_ context.Context, host string) (string, error) {
		switch name, ok := cnames[host]; {
		case ok && name == "":
			return "", &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		case ok:
			return name + ".", nil
		}
		return host + ".", nil
	}
	return l
}

func TestLocate(t *testing.T) {
	l := locator(t, map[string]string{
		"db.example.com":   "data.example.com", // one step at a time, as Go's resolver does
		"data.example.com": "source." + domain,
		"source." + domain: "ec2-192-0-2-1.compute-1.amazonaws.com", // which must not be looked at
		"ro.example.com":   "replica." + domain,
		"cl.example.com":   "aurora.cluster-" + domain,
	}, nil)
	source, replica, member := "source."+domain, "replica."+domain, "member."+domain
	writer, reader, custom := "aurora.cluster-"+domain, "aurora.cluster-ro-"+domain, "aurora-reports.cluster-custom-"+domain
	for _, c := range []struct {
		value string
		want  Place
	}{
		{`{"dbInstanceIdentifier":"source"}`, Place{source, 5433, source, 5433, "postgres"}},
		{`{"dbInstanceIdentifier":"SOURCE","host":"` + strings.ToUpper(source) + `","port":"5433"}`, Place{strings.ToUpper(source), 5433, source, 5433, "postgres"}},
		{`{"dbInstanceIdentifier":"arn:aws:rds:us-east-1:000000000000:db:source"}`, Place{source, 5433, source, 5433, "postgres"}},
		{`{"dbInstanceIdentifier":"source","host":"db.example.com"}`, Place{"db.example.com", 5433, source, 5433, "postgres"}},
		{`{"dbInstanceIdentifier":"replica"}`, Place{replica, 5433, source, 5433, "postgres"}},
		{`{"dbInstanceIdentifier":"cascade"}`, Place{"cascade." + domain, 5433, source, 5433, "postgres"}},
		{`{"dbInstanceIdentifier":"member"}`, Place{member, 5433, writer, 5434, "aurora-postgresql"}},
		{`{"dbInstanceIdentifier":"member","dbClusterIdentifier":"Aurora"}`, Place{member, 5433, writer, 5434, "aurora-postgresql"}},
		{`{"dbInstanceIdentifier":"of-cluster"}`, Place{"of-cluster." + domain, 5433, writer, 5434, "postgres"}},
		{`{"dbClusterIdentifier":"aurora"}`, Place{writer, 5434, writer, 5434, "aurora-postgresql"}},
		{`{"dbClusterIdentifier":"aurora","host":"` + reader + `"}`, Place{reader, 5434, writer, 5434, "aurora-postgresql"}},
		{`{"dbClusterIdentifier":"aurora","host":"` + custom + `"}`, Place{custom, 5434, writer, 5434, "aurora-postgresql"}},
		{`{"dbClusterIdentifier":"aurora","host":"cl.example.com"}`, Place{"cl.example.com", 5434, writer, 5434, "aurora-postgresql"}},
		{`{"dbClusterIdentifier":"aurora","host":"` + member + `"}`, Place{member, 5434, writer, 5434, "aurora-postgresql"}},
		{`{"dbClusterIdentifier":"copy"}`, Place{"copy.cluster-" + domain, 5434, writer, 5434, "aurora-postgresql"}},
		{`{"dbClusterIdentifier":"of-instance"}`, Place{"of-instance.cluster-" + domain, 5434, source, 5433, "aurora-postgresql"}},

		{`{"host":"` + source + `"}`, Place{source, 5433, source, 5433, "postgres"}},
		{`postgres://app:pw@` + replica + `:5433/shop`, Place{replica, 5433, source, 5433, "postgres"}},
		{`{"host":"` + member + `"}`, Place{member, 5433, writer, 5434, "aurora-postgresql"}},
		{`{"host":"` + reader + `"}`, Place{reader, 5434, writer, 5434, "aurora-postgresql"}},
		{`{"host":"` + custom + `"}`, Place{custom, 5434, writer, 5434, "aurora-postgresql"}},
		{`{"host":"db.example.com"}`, Place{"db.example.com", 5433, source, 5433, "postgres"}},
		{`{"host":"ro.example.com"}`, Place{"ro.example.com", 5433, source, 5433, "postgres"}},
	} {
		got, err := l.Locate(t.Context(), rotators.NewSecret(c.value))
		if err != nil || got != c.want {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", c.value, got, err, c.want)
		}
	}
}

// What would send a password somewhere the value does not name, or leads
// nowhere, needs a person.
func TestLocateRefuses(t *testing.T) {
	l := locator(t, map[string]string{
		"evil.example.com": "other." + domain, "a.example.com": "b.example.com", "b.example.com": "a.example.com",
	}, nil)
	for _, c := range []struct{ name, value, text string }{
		{"nothing", `{"username":"app"}`, `"dbInstanceIdentifier"`},
		{"no such instance", `{"dbInstanceIdentifier":"gone"}`, `the DB instance "gone"`},
		{"no such cluster", `{"dbClusterIdentifier":"gone"}`, `the DB cluster "gone"`},
		{"an instance of another region", `{"dbInstanceIdentifier":"arn:aws:rds:eu-west-1:000000000000:db:source"}`, "another region"},
		{"an instance being created", `{"dbInstanceIdentifier":"creating"}`, "no endpoint"},
		{"a source of another region", `{"dbInstanceIdentifier":"abroad"}`, "another region"},
		{"a source that is gone", `{"dbInstanceIdentifier":"lost"}`, `where the DB instance "lost" is written`},
		{"sources in a ring", `{"dbInstanceIdentifier":"ring-1"}`, "lead to no end"},
		{"another instance's endpoint", `{"dbInstanceIdentifier":"source","host":"replica.` + domain + `"}`, "answers at source." + domain},
		{"another account's endpoint", `{"dbInstanceIdentifier":"source","host":"source.zzz999.us-east-1.rds.amazonaws.com"}`, "answers at source." + domain},
		{"a stranger", `{"dbInstanceIdentifier":"source","host":"db.attacker.example"}`, "answers at source." + domain},
		{"a CNAME of another", `{"dbInstanceIdentifier":"source","host":"evil.example.com"}`, "answers at source." + domain},
		{"an address", `{"dbInstanceIdentifier":"source","host":"192.0.2.1"}`, "answers at source." + domain},
		{"an instance of no cluster, for a cluster", `{"dbClusterIdentifier":"aurora","host":"source.` + domain + `"}`, "answers at aurora.cluster-" + domain},
		{"another port", `{"dbInstanceIdentifier":"source","port":5432}`, "5433"},
		{"another cluster's instance", `{"dbInstanceIdentifier":"member","dbClusterIdentifier":"copy"}`, `does not belong to the cluster "copy"`},

		{"a host that is an address", `{"host":"192.0.2.1"}`, `"dbInstanceIdentifier"`},
		{"a host that is not RDS's", `{"host":"db.example.com"}`, `"dbInstanceIdentifier"`},
		{"CNAMEs in a ring", `{"host":"a.example.com"}`, `"dbInstanceIdentifier"`},
		{"a host like an instance's", `{"host":"source.example.com"}`, `"dbInstanceIdentifier"`},
		{"a proxy", `{"host":"source.proxy-` + domain + `"}`, `"dbInstanceIdentifier"`},
		{"an endpoint of nothing", `{"host":"gone.` + domain + `"}`, `"dbInstanceIdentifier"`},
		{"an endpoint of another account", `{"host":"source.zzz999.us-east-1.rds.amazonaws.com"}`, "another account"},
		{"an endpoint of another region", `{"host":"source.abc123.eu-west-1.rds.amazonaws.com"}`, "another region"},
		{"an unknown custom endpoint", `{"host":"gone.cluster-custom-` + domain + `"}`, `"dbInstanceIdentifier"`},
	} {
		got, err := l.Locate(t.Context(), rotators.NewSecret(c.value))
		if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %+v, %v; want a permanent error with %s", c.name, got, err, c.text)
		}
	}
}

// What may work the next time is no verdict on the value.
func TestLocateTriesAgain(t *testing.T) {
	throttled := locator(t, nil, func(localaws.Call) localaws.Fault { return localaws.Throttle })
	unresolved := locator(t, map[string]string{"db.example.com": ""}, nil)
	for name, try := range map[string]struct {
		l     *rdsLocator
		value string
	}{
		"throttled, by identifier":      {throttled, `{"dbInstanceIdentifier":"source"}`},
		"throttled, by custom endpoint": {throttled, `{"host":"x.cluster-custom-` + domain + `"}`},
		"no DNS":                        {unresolved, `{"host":"db.example.com"}`},
		"no DNS to compare with":        {unresolved, `{"dbInstanceIdentifier":"source","host":"db.example.com"}`},
	} {
		if got, err := try.l.Locate(t.Context(), rotators.NewSecret(try.value)); err == nil || rotators.IsPermanent(err) {
			t.Errorf("%s: %+v, %v; want an error that is not permanent", name, got, err)
		}
	}
	_, err := unresolved.Locate(t.Context(), rotators.NewSecret(`{"host":"db.example.com"}`))
	if _, ok := errors.AsType[*net.DNSError](err); !ok {
		t.Errorf("%v does not say what the resolver said", err)
	}
}

func TestParseEndpoint(t *testing.T) {
	for host, want := range map[string]string{
		"db.abc.eu-west-1.rds.amazonaws.com":                `the DB instance "db"`,
		"DB.abc.eu-west-1.RDS.amazonaws.com":                `the DB instance "db"`,
		"db.abc.rds.cn-north-1.amazonaws.com.cn":            `the DB instance "db"`,
		"db.abc.rds.eu-west-1.amazonaws.com":                "",
		"db.abc.cn-north-1.rds.amazonaws.com.cn":            `the DB instance "db"`,
		"cl.cluster-abc.eu-west-1.rds.amazonaws.com":        `the DB cluster "cl"`,
		"cl.cluster-ro-abc.eu-west-1.rds.amazonaws.com":     `the DB cluster "cl"`,
		"cl.cluster-custom-abc.eu-west-1.rds.amazonaws.com": `the DB cluster "cl"`,
		"p.proxy-abc.eu-west-1.rds.amazonaws.com":           "",
		"db.eu-west-1.rds.amazonaws.com":                    "",
		"db..eu-west-1.rds.amazonaws.com":                   "",
		"db.abc.eu-west-1.rds.amazonaws.com.example.com":    "",
		"db.abc.eu-west-1.rds.amazonaws.com.attacker.cn":    "",
		"db.abc.eu-west-1.attacker-rds.amazonaws.com":       "",
		"a.db.abc.eu-west-1.rds.amazonaws.com":              "",
		"rds.amazonaws.com":                                 "",
		"ec2-192-0-2-1.eu-west-1.compute.amazonaws.com":     "",
	} {
		got, ok := parseEndpoint(host)
		if ok != (want != "") || ok && got.rdsName.String() != want {
			t.Errorf("%s: %v, %v; want %q", host, got.rdsName, ok, want)
		}
	}
}
