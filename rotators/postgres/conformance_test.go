package postgres

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// The suite every rotator runs, over TLS.
func TestConformance(t *testing.T) {
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
