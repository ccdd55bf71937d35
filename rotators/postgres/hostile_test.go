package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/hostile"
	"github.com/rekeyhq/rekey/rotators"
)

// TestHostileServers logs in to servers that take no memory, time or answer to be
// bounded.
func TestHostileServers(t *testing.T) {
	hostile.Run(t, New(awsConfig, nil), hostile.Postgres(), sameTLS)
}

// TestRounds logs in to servers that ask for other numbers of rounds of hashing than
// PostgreSQL does. Without TLS nobody gets an answer that was cheap to make, since it is
// as cheap to guess. With TLS the certificate says who asks.
func TestRounds(t *testing.T) {
	for _, c := range []struct {
		rounds  string
		withTLS bool
		answers bool
		text    string
	}{
		{"1", false, false, `asks for 1 rounds .* without TLS .* 4096 at least`},
		{"4095", false, false, `asks for 4095 rounds .*remove "ssl": false`},
		{"4096", false, true, "accepts connections and then says nothing"},
		{"1", true, true, "accepts connections and then says nothing"},
		{"600001", false, false, "asks for 600001 rounds .* at most 600000"},
		{"600001", true, false, "asks for 600001 rounds .* at most 600000"},
	} {
		t.Run(fmt.Sprintf("%s TLS %t", c.rounds, c.withTLS), func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var learned strings.Builder
			cfg := sameTLS
			if !c.withTLS {
				cfg = nil
			}
			s := hostile.Listen(t, hostile.FewRounds(c.rounds, func(p []byte) {
				mu.Lock()
				defer mu.Unlock()
				learned.Write(p)
			}), cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			err := New(awsConfig, nil).Test(ctx, rotators.Rotation{Pending: hostile.Value(s.Port, hostile.Password, c.withTLS)})
			want{text: c.text, permanent: !c.answers}.check(t, err, hostile.Password)
			if !s.Left(3 * time.Second) {
				t.Fatal("the connection is still there")
			}
			mu.Lock()
			defer mu.Unlock()
			if answered := strings.Contains(learned.String(), ",p="); answered != c.answers {
				t.Errorf("the server got a proof: %t", answered)
			}
		})
	}
}
