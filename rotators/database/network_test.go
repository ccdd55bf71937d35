package database

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
)

// A name is resolved once per step: what it leads to later is not asked.
func TestOneAddressPerStep(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	port := listener.Addr().(*net.TCPAddr).Port

	var dialed []string
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed = append(dialed, address)
		return new(net.Dialer).DialContext(ctx, network, listener.Addr().String())
	}
	var step network
	for _, host := range []string{"db.example.com", "DB.example.com.", "db.example.com", "other.example.com"} {
		conn, err := (Login{Host: host, Port: port, network: &step}).Dial(t.Context(), dial)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	name := func(host string) string {
		return net.JoinHostPort(host, strings.TrimPrefix(listener.Addr().String(), "127.0.0.1:"))
	}
	want := []string{name("db.example.com"), name("127.0.0.1"), name("127.0.0.1"), name("other.example.com")}
	if strings.Join(dialed, " ") != strings.Join(want, " ") {
		t.Errorf("dialed %v, want %v", dialed, want)
	}
}

// What the operator's limits exclude gets no connection, or no byte from a dialer of the
// caller's own.
func TestLimits(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	var own DialFunc = new(net.Dialer).DialContext
	for list, want := range map[string]bool{"": true, "127.0.0.0/8": true, "localhost": true, "10.0.0.0/8": false, "*.example.com,127.0.0.2": false} {
		hosts, err := rotators.ParseHosts(list)
		if err != nil {
			t.Fatal(err)
		}
		l := Login{Host: "localhost", Port: listener.Addr().(*net.TCPAddr).Port, network: &network{limits: rotators.Limits{Hosts: hosts}}}
		for what, dial := range map[string]DialFunc{"the default dialer": nil, "a dialer": own} {
			conn, err := l.Dial(t.Context(), dial)
			if (err == nil) != want || !want && (!errors.Is(err, rotators.ErrHost) || !rotators.IsPermanent(err) || conn != nil) {
				t.Errorf("%q, %s: %v", list, what, err)
			}
			if conn != nil {
				_ = conn.Close()
			}
		}
	}

	e := unopened(t)
	limits := rotators.Limits{RequireTLS: true}
	value := rotators.NewSecret(`{"host":"db","username":"app","password":"pw","ssl":false}`)
	admin := func(context.Context, string) (rotators.Secret, error) {
		return rotators.NewSecret(`{"host":"db","username":"root","password":"pw","ssl":false}`), nil
	}
	secure := rotators.NewSecret(`{"host":"db","username":"app","password":"pw"}`)
	_, create := New(e).Create(t.Context(), rotators.Rotation{Current: value, Limits: limits})
	for what, err := range map[string]error{
		"Create": create,
		"Set":    New(e).Set(t.Context(), rotators.Rotation{Current: value, Pending: value, Limits: limits}),
		"Test":   New(e).Test(t.Context(), rotators.Rotation{Pending: value, Limits: limits}),
		"an admin": New(e).Set(t.Context(), rotators.Rotation{Current: secure, Pending: secure, Limits: limits, Lookup: admin,
			Settings: rotators.Settings{Strategy: "single-user", Admin: "root"}}),
	} {
		if !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "REKEY_REQUIRE_TLS") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A pooler leads to another server for each database, so an admin acts in the database in
// which a password was proved, whatever its own value names.
func TestTheAdminsDatabaseIsTheValues(t *testing.T) {
	e := unopened(t)
	databases := map[string]string{}
	f := &fakeServer{accepts: func(l Login) bool {
		databases[l.User] = l.Database
		return l.User == "root" || l.Password.Reveal() == "old"
	}}
	e.Open = f.open
	value := func(password string) rotators.Secret {
		return rotators.NewSecret(`{"host":"db","dbname":"shop","username":"app","password":"` + password + `"}`)
	}
	_ = New(e).Set(t.Context(), rotators.Rotation{
		Current: value("old"), Pending: value("new"), Settings: rotators.Settings{Strategy: "single-user", Admin: "root"},
		Lookup: func(context.Context, string) (rotators.Secret, error) {
			return rotators.NewSecret(`{"host":"db","dbname":"ledger","username":"root","password":"r"}`), nil
		},
	})
	if databases["root"] != "shop" || databases["app"] != "shop" {
		t.Errorf("the logins were to %v", databases)
	}
}

// What is not printable is in no name of an admin, and would forge a line of an error.
func TestAdminsNamesArePrintable(t *testing.T) {
	value := rotators.NewSecret(`{"host":"db","username":"app","password":"pw","masterarn":"x\n2026-11-29 INFO rotation done"}`)
	_, err := New(unopened(t)).Create(t.Context(), rotators.Rotation{Current: value})
	if !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "masterarn") || strings.Contains(err.Error(), "2026") {
		t.Error(err)
	}
}
