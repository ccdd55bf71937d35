package mysql

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// users gives every user of these tests a name of its own.
var users atomic.Int64

// The suite every rotator runs, for a user that changes its own password.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, newValue := range map[string]func(user, password string) rotators.Secret{
		"JSON": func(u, p string) rotators.Secret { return value(u, p) },
		// Without TLS, if the server is one whose every login is a challenge.
		"URL": func(u, p string) rotators.Secret { return valueURL(u, p, !mariaDB) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
				user := fmt.Sprintf("conforming_%d", users.Add(1))
				newUser(t, user, "the first password")
				newUser(t, user+"_other", "the other's password")
				return rotatortest.Harness{
					Rotator: New(awsConfig, &Options{Dial: w.DialContext}),
					Value:   newValue(user, "the first password"),
					Another: newValue(user+"_other", "the other's password"),
					Fields:  []string{"password"},
					Accepts: func(_ context.Context, v rotators.Secret) (bool, error) { return accepts(t, v), nil },
				}
			})
		})
	}
}

// The same for a user whom an admin changes, who is no SUPER.
func TestConformanceByAdmin(t *testing.T) {
	t.Parallel()
	admin := newAdmin(t, "conforming_admin")
	rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
		return rotatortest.Harness{
			Rotator: New(awsConfig, &Options{Dial: w.DialContext}),
			Value:   newUser(t, fmt.Sprintf("administered_%d", users.Add(1)), "the first password"),
			Tags:    map[string]string{"rekey:strategy": "single-user", "rekey:admin": "the-admin"},
			Fields:  []string{"password"},
			Lookup:  func(context.Context, string) (rotators.Secret, error) { return admin, nil },
			Accepts: func(_ context.Context, v rotators.Secret) (bool, error) { return accepts(t, v), nil },
		}
	})
}

// The same for a user with two passwords, which the user changes itself, or an
// admin.
func TestConformanceOverlap(t *testing.T) {
	t.Parallel()
	admin := newAdmin(t, "overlapping_admin")
	for by, tags := range map[string]map[string]string{
		"the user": {"rekey:strategy": "overlap"},
		"an admin": {"rekey:strategy": "overlap", "rekey:admin": "the-admin"},
	} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
				user := fmt.Sprintf("overlapping_%d", users.Add(1))
				h := rotatortest.Harness{
					Rotator: New(awsConfig, &Options{Dial: w.DialContext}),
					Value:   newUser(t, user, "the first password"),
					Tags:    tags,
					Fields:  []string{"password"},
					Overlap: true,
					Accepts: func(_ context.Context, v rotators.Secret) (bool, error) { return accepts(t, v), nil },
				}
				if by == "an admin" {
					h.Lookup = func(context.Context, string) (rotators.Secret, error) { return admin, nil }
				} else {
					mayKeepTwo(t, user)
				}
				return h
			})
		})
	}
}

// mayKeepTwo gives a user what it takes to have two passwords of its own.
func mayKeepTwo(t *testing.T, user string) {
	t.Helper()
	privilege := "APPLICATION_PASSWORD_ADMIN"
	if mariaDB {
		privilege = "CREATE USER"
	}
	exec(t, "GRANT "+privilege+" ON *.* TO "+account{user, "%"}.sql())
}

// The same for alternating users. A twin that logs in and lacks a right fails
// whatever check it is met in.
func TestConformanceAlternating(t *testing.T) {
	t.Parallel()
	admin := newShop(t, "paired")
	rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
		base := newBase(t, "paired", fmt.Sprintf("paired_%d", users.Add(1)))
		return rotatortest.Harness{
			Rotator: New(awsConfig, &Options{Dial: w.DialContext}),
			Value:   base,
			Tags:    map[string]string{"rekey:admin": "the-admin"},
			Fields:  []string{"password", "username"},
			Overlap: true,
			Lookup:  func(context.Context, string) (rotators.Secret, error) { return admin, nil },
			Accepts: func(_ context.Context, v rotators.Secret) (bool, error) {
				if !accepts(t, v) {
					return false, nil
				}
				return true, buys(t, "paired", v)
			},
		}
	})
}
