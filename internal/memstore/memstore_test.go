package memstore_test

import (
	"fmt"
	"testing"

	"github.com/rekeyhq/rekey/internal/memstore"
	"github.com/rekeyhq/rekey/internal/rotation/storetest"
	"github.com/rekeyhq/rekey/rotators"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Fixture {
		first := rotators.NewSecret("the first value")
		s := memstore.New(first, nil)
		const token = "11111111-1111-4111-8111-111111111111"
		puts := 0
		return storetest.Fixture{
			Store: s, ID: memstore.ID, First: first,
			Begin:   func() string { s.Begin(token); return token },
			Put:     func(v rotators.Secret) { puts++; s.Put(fmt.Sprint("by-hand-", puts), v) },
			Revert:  s.Revert,
			Label:   func(label string) { name, _ := s.Current(); s.Label(label, name) },
			Current: func() rotators.Secret { _, v := s.Current(); return v },
			Tags:    s.Tags,
		}
	})
}
