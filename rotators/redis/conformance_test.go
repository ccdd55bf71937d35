package redis

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// The suite every rotator runs, with both strategies, on each way to store users,
// with and without TLS, with one server and with two. The whole of it runs on half
// of these, which between them have everything.
func TestConformance(t *testing.T) {
	var users atomic.Int64
	for _, c := range []struct {
		name    string
		servers []*servers.RedisServer
		admin   bool
		whole   string // the strategy that all checks run with
	}{
		{"own over TLS", []*servers.RedisServer{secure}, false, "single-user"},
		{"own on two servers", []*servers.RedisServer{primary, replica}, false, "overlap"},
		{"by an admin", []*servers.RedisServer{plain}, true, "overlap"},
		{"by an admin on two servers", []*servers.RedisServer{replica, primary}, true, "single-user"},
	} {
		for _, strategy := range []string{"single-user", "overlap"} {
			var only []string
			if strategy != c.whole {
				only = []string{"Rotates", "RotatesAgain", "EveryStepTwice", "AcceptedWhenDeclared", "Retires", "RetiresAfterItsGrace", "BorrowedPower"}
			}
			t.Run(strategy+" "+c.name, func(t *testing.T) {
				t.Parallel()
				rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
					user := fmt.Sprintf("conforming_%d", users.Add(1))
					h := rotatortest.Harness{
						Rotator: New(aws.Config{}, &Options{Dial: w.DialContext}),
						Value:   newUser(t, user, "the first password", c.servers...),
						Another: newUser(t, user+"_other", "the other's password", c.servers...),
						Tags:    map[string]string{"rekey:strategy": strategy},
						Fields:  []string{"password"},
						Overlap: strategy == "overlap",
						// Of several servers one may have let go of a password before
						// another: readers need one that all take.
						Accepts: func(ctx context.Context, v rotators.Secret) (bool, error) { return allAccept(ctx, t, v, c.servers) },
					}
					if c.admin {
						admin := newUser(t, user+"_admin", "the admin's password", c.servers...)
						h.Tags["rekey:admin"] = "the-admin"
						h.Lookup = func(context.Context, string) (rotators.Secret, error) { return admin, nil }
					}
					return h
				}, only...)
			})
		}
	}
}

// allAccept tells whether all servers take a value.
func allAccept(ctx context.Context, t *testing.T, v rotators.Secret, all []*servers.RedisServer) (bool, error) {
	t.Helper()
	accepted := true
	for _, s := range all {
		err := s.Login(ctx, field(t, v, "username"), field(t, v, "password"))
		if err != nil && !servers.RedisRefused(err) {
			return false, err
		}
		accepted = accepted && err == nil
	}
	return accepted, nil
}
