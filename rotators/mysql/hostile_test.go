package mysql

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/hostile"
	"github.com/rekeyhq/rekey/rotators"
)

// TestHostileServers logs in to servers that take no memory, time or answer to be
// bounded.
func TestHostileServers(t *testing.T) {
	hostile.Run(t, New(awsConfig, nil), hostile.MySQL(), sameTLS)
}

// TestMethods logs in to servers that ask for the password by each method, in each way
// that there is to ask: by their greeting, by a switch, and by a question of the method.
// Without TLS a challenge is answered, which is at least 20 bytes of a hash, and nothing
// else; with TLS the server that the certificate names gets the password by two methods.
func TestMethods(t *testing.T) {
	key := []byte("\x01" + hostile.PublicKey)
	full := []byte{1, 4}
	ok := []byte{0, 0, 0, 2, 0, 0, 0}
	const (
		inTheClear = "asks for the password .* itself"
		another    = "by another method"
		strangely  = "does not answer as a MySQL or MariaDB server"
		silently   = "broke off"
	)
	for _, c := range []struct {
		name, greeting string
		answers        [][]byte
		without, with  string // the error, without and with TLS
		sent           bool   // the password, with TLS
	}{
		{"native", native, nil, silently, silently, false},
		{"caching", cachingSHA2, nil, silently, silently, false},
		{"switch to native", cachingSHA2, [][]byte{hostile.Switch(native)}, silently, silently, false},
		{"switch to caching", native, [][]byte{hostile.Switch(cachingSHA2)}, silently, silently, false},
		{"switch to ed25519", native, [][]byte{hostile.Switch(ed25519Method)}, silently, silently, false},
		{"caching, and all of it", cachingSHA2, [][]byte{full}, inTheClear, silently, true},
		{"switch to caching, and all of it", native, [][]byte{hostile.Switch(cachingSHA2), full}, inTheClear, silently, true},
		{"caching, all of it twice", cachingSHA2, [][]byte{full, full}, inTheClear, strangely, true},
		{"caching, a key", cachingSHA2, [][]byte{key}, inTheClear, strangely, false},
		{"caching, all of it, a key", cachingSHA2, [][]byte{full, key}, inTheClear, strangely, true},
		{"native, a key", native, [][]byte{key}, inTheClear, strangely, false},
		{"native, all of it", native, [][]byte{full}, inTheClear, strangely, false},
		{"ed25519, all of it", native, [][]byte{hostile.Switch(ed25519Method), full}, inTheClear, strangely, false},
		{"sha256", sha256Method, [][]byte{key}, inTheClear, strangely, false},
		{"sha256, and nothing", sha256Method, nil, silently, silently, false},
		{"switch to sha256", native, [][]byte{hostile.Switch(sha256Method), key}, inTheClear, silently, false},
		{"switch to sha256, and it is right", native, [][]byte{hostile.Switch(sha256Method), ok}, inTheClear, silently, false},
		{"clear", "mysql_clear_password", nil, silently, silently, false},
		{"switch to clear", native, [][]byte{hostile.Switch("mysql_clear_password")}, another, another, false},
		{"switch to PAM", native, [][]byte{hostile.Switch("dialog")}, another, another, false},
		{"switch to the oldest", native, [][]byte{{0xfe}}, another, another, false},
		{"switch twice", native, [][]byte{hostile.Switch(cachingSHA2), hostile.Switch(sha256Method)}, strangely, strangely, false},
	} {
		for way, text := range map[bool]string{false: c.without, true: c.with} {
			t.Run(fmt.Sprintf("%s, TLS %t", c.name, way), func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				var learned [][]byte
				withTLS := sameTLS
				if !way {
					withTLS = nil
				}
				s := hostile.Listen(t, hostile.Asks(c.greeting, c.answers, func(p []byte) {
					mu.Lock()
					defer mu.Unlock()
					learned = append(learned, bytes.Clone(p))
				}), withTLS)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				err := New(awsConfig, nil).Test(ctx, rotators.Rotation{Pending: hostile.Value(s.Port, hostile.Password, way)})
				want{text: text, permanent: text == inTheClear || text == another}.check(t, err, hostile.Password)
				if !s.Left(5 * time.Second) {
					t.Fatal("the connection is still there")
				}
				mu.Lock()
				defer mu.Unlock()
				sent := bytes.Contains(bytes.Join(learned, nil), []byte(hostile.Password))
				if sent != (way && c.sent) {
					t.Errorf("the server was sent the password: %t", sent)
				}
				for _, p := range learned[min(1, len(learned)):] {
					if n := len(p); !way && n != 20 && n != 32 && n != 64 {
						t.Errorf("the server was sent %d bytes: %q", n, p)
					}
				}
			})
		}
	}
}
