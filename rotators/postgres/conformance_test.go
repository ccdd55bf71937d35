package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// The suite every rotator runs, over TLS.
func TestConformance(t *testing.T) {
	t.Parallel() // both wait for their sessions' processes most of the time
	var users atomic.Int64
	rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
		user := fmt.Sprintf("conforming_%d", users.Add(1))
		return rotatortest.Harness{
			Rotator: New(awsConfig, &Options{Dial: w.DialContext}),
			Value:   newUser(t, secure, user, "the first password"),
			Another: newUser(t, secure, user+"_other", "the other's password"),
			Fields:  []string{"password"},
			Accepts: func(_ context.Context, v rotators.Secret) (bool, error) { return accepts(t, v), nil },
		}
	})
}

// The same for alternating users, by an admin who is no superuser. A twin that
// logs in and lacks a right fails whatever check it is met in.
func TestConformanceAlternating(t *testing.T) {
	t.Parallel()
	rotatortest.Run(t, alternating("paired", map[string]string{"rekey:admin": "the-admin"}))
}

// With a grace, the user that readers no longer use is locked out when it is over.
func TestConformanceAlternatingWithGrace(t *testing.T) {
	t.Parallel()
	rotatortest.Run(t, alternating("gracious", map[string]string{"rekey:admin": "the-admin", "rekey:grace": "1h"}),
		"AcceptedWhenDeclared", "Retires", "RetiresAfterItsGrace")
}

func alternating(base string, tags map[string]string) func(*testing.T, *rotatortest.Wire) rotatortest.Harness {
	var users atomic.Int64
	return func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
		p := newPair(t, fmt.Sprintf("%s_%d", base, users.Add(1)))
		return rotatortest.Harness{
			Rotator: New(awsConfig, &Options{Dial: w.DialContext}),
			Value:   p.value,
			Tags:    tags,
			Fields:  []string{"password", "username"},
			Overlap: true,
			Lookup:  func(context.Context, string) (rotators.Secret, error) { return p.admin, nil },
			Accepts: func(ctx context.Context, v rotators.Secret) (bool, error) {
				if !accepts(t, v) {
					return false, nil
				}
				if s := p.settings(t, v); s != p.settingsOfBase {
					return false, errors.New("a login without the rights and settings of the base: " + s)
				}
				return true, nil
			},
		}
	}
}
