package apikey_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
)

// vendor sells API keys, as most do: a key has a name, an account has so many keys and
// no more, a key's secret is told once, and for a while after a change some of the
// servers go by what was before. Any key of an account may manage its keys.
type vendor struct {
	*httptest.Server
	clock

	mu       sync.Mutex
	limit    int           // of keys per account; 0: none
	settling time.Duration // until all servers know of a change
	counts   time.Duration // until a deleted key no longer counts towards the limit
	down     bool          // every answer is 503
	onWrite  func()        // runs before each POST and DELETE; nil: nothing does
	made     int
	keys     []*key
	calls    []string
}

type key struct {
	id, name, account, secret string
	live                      bool
	changed                   time.Time
	looks                     int
}

// clock is moved by who waits by it.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	waited time.Duration
}

func (c *clock) apikey() *apikey.Clock { return &apikey.Clock{Now: c.time, Pause: c.pause} }

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pause(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.waited = c.now.Add(d), c.waited+d
	return ctx.Err()
}

func newVendor() *vendor {
	v := &vendor{}
	v.now = time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)
	v.Server = httptest.NewServer(v)
	return v
}

// add makes a key, which all servers know at once.
func (v *vendor) add(account, name string) *key {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mint(account, name)
}

func (v *vendor) mint(account, name string) *key {
	v.made++
	k := &key{id: fmt.Sprint("key-", v.made), name: name, account: account, secret: fmt.Sprint("the-secret-of-", v.made), live: true}
	v.keys = append(v.keys, k)
	return k
}

// value is that of a secret that holds a key.
func (k *key) value() rotators.Secret {
	return rotators.NewSecret(fmt.Sprintf(`{"apiKeyId": %q, "apiKey":%q, "retries": 3.0}`, k.id, k.secret))
}

// accepted tells whether the server that is asked accepts a key. For the first half of
// the settling time none knows of a change, and then every third does not.
func (v *vendor) accepted(k *key) bool {
	switch passed := v.time().Sub(k.changed); {
	case passed >= v.settling:
		return k.live
	case passed < v.settling/2:
		return !k.live
	}
	k.looks++
	return k.live != (k.looks%3 == 0)
}

func (v *vendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if v.onWrite != nil && r.Method != http.MethodGet {
		v.onWrite()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls = append(v.calls, r.Method+" "+r.URL.Path)
	var caller *key
	for _, k := range v.keys {
		if r.Header.Get("Authorization") == "Bearer "+k.secret && v.accepted(k) {
			caller = k
		}
	}
	answer := func(status int, body any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	id, isKey := strings.CutPrefix(r.URL.Path, "/keys/")
	switch {
	case v.down:
		answer(http.StatusServiceUnavailable, nil)
	case caller == nil:
		answer(http.StatusUnauthorized, nil)
	case r.URL.Path == "/me":
		answer(http.StatusOK, map[string]string{"id": caller.id})
	case r.Method == http.MethodGet:
		list := []map[string]string{}
		for _, k := range v.keys {
			if k.live && k.account == caller.account {
				list = append(list, map[string]string{"id": k.id, "name": k.name})
			}
		}
		answer(http.StatusOK, list)
	case r.Method == http.MethodPost:
		count := 0
		for _, k := range v.keys {
			if k.account == caller.account && (k.live || v.time().Before(k.changed.Add(v.counts))) {
				count++
			}
		}
		if v.limit > 0 && count >= v.limit {
			answer(http.StatusConflict, nil)
			return
		}
		var in struct{ Name string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			answer(http.StatusBadRequest, nil)
			return
		}
		k := v.mint(caller.account, in.Name)
		k.changed = v.time()
		answer(http.StatusCreated, map[string]string{"id": k.id, "secret": k.secret})
	case r.Method == http.MethodDelete && isKey:
		for _, k := range v.keys {
			if k.id == id && k.live && k.account == caller.account {
				k.live, k.changed = false, v.time()
				answer(http.StatusOK, nil)
				return
			}
		}
		answer(http.StatusNotFound, nil)
	}
}

// live returns the ids of the account's keys that are not deleted.
func (v *vendor) live(account string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var ids []string
	for _, k := range v.keys {
		if k.live && k.account == account {
			ids = append(ids, k.id)
		}
	}
	return strings.Join(ids, " ")
}

// holds tells whether the key in a value is there, whatever the servers say.
func (v *vendor) holds(value rotators.Secret) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, k := range v.keys {
		if id, _ := value.Field("apiKeyId"); id.Reveal() != k.id {
			continue
		}
		secret, _ := value.Field("apiKey")
		return k.live && k.secret == secret.Reveal()
	}
	return false
}
