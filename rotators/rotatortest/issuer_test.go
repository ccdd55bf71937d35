package rotatortest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// mint is a service with one account, which may have any number of keys. A key
// makes others with a name (POST), lists them, all or those of a name that are younger
// than 15 minutes (GET), and deletes them (DELETE).
type mint struct {
	*httptest.Server
	mu    sync.Mutex
	made  int
	keys  map[string]string // key by id
	names map[string]string // name by id
	now   time.Duration
	at    map[string]time.Duration // when each was made, by id
}

func (m *mint) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now += d
}

func (m *mint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, key, _ := r.BasicAuth()
	if m.keys[id] != key || key == "" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	target := strings.TrimPrefix(r.URL.Path, "/")
	switch r.Method {
	case http.MethodGet:
		ids := []string{}
		for id := range m.keys {
			if target == "" || m.names[id] == target && m.now-m.at[id] < 15*time.Minute {
				ids = append(ids, id)
			}
		}
		_ = json.NewEncoder(w).Encode(ids)
	case http.MethodPost:
		m.made++
		id := fmt.Sprint("key-", m.made)
		m.keys[id], m.names[id], m.at[id] = fmt.Sprint("the-secret-of-", m.made), target, m.now
		_ = json.NewEncoder(w).Encode([]string{id, m.keys[id]})
	case http.MethodDelete:
		if m.keys[target] == "" {
			w.WriteHeader(http.StatusNotFound)
		}
		delete(m.keys, target)
	}
}

// issuer keeps every promise a rotator of keys makes.
type issuer struct {
	url    string
	client *http.Client
}

var _ rotators.Retirer = issuer{}

var errGone = errors.New("the key is gone")

func (i issuer) send(ctx context.Context, method string, value rotators.Secret, path string) (answer []string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, i.url+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	id, key, err := idAndKey(value)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(id, key)
	resp, err := i.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, rotators.Refused(fmt.Errorf("the mint refuses %s", id))
	case resp.StatusCode == http.StatusNotFound:
		return nil, errGone
	case method != http.MethodDelete:
		err = json.NewDecoder(resp.Body).Decode(&answer)
	}
	return answer, err
}

func idAndKey(value rotators.Secret) (id, key string, err error) {
	i, err := value.Field("id")
	if err != nil {
		return "", "", err
	}
	k, err := value.Field("key")
	return i.Reveal(), k.Reveal(), err
}

// deleteAllBut leaves only the keys of the given values.
func (i issuer) deleteAllBut(ctx context.Context, as rotators.Secret, keep ...rotators.Secret) error {
	kept := map[string]bool{}
	for _, value := range append(keep, as) {
		id, _, err := idAndKey(value)
		if err != nil {
			return err
		}
		kept[id] = true
	}
	ids, err := i.send(ctx, http.MethodGet, as, "")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if kept[id] {
			continue
		}
		if _, err := i.send(ctx, http.MethodDelete, as, id); err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	return nil
}

func (i issuer) mint(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	made, err := i.send(ctx, http.MethodPost, r.Current, r.Token)
	if err != nil {
		return rotators.Secret{}, err
	}
	next, err := r.Current.Replace("id", rotators.NewSecret(made[0]))
	if err != nil {
		return next, err
	}
	return next.Replace("key", rotators.NewSecret(made[1]))
}

// Create comes after the engine has retired what was in a grace, so all but the
// current key are strays, and those that another run may be about to store.
func (i issuer) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	if err := noOptions(r); err != nil {
		return rotators.Secret{}, err
	}
	ids, err := i.send(ctx, http.MethodGet, r.Current, "")
	if err != nil {
		return rotators.Secret{}, err
	}
	for _, id := range ids {
		use, err := r.Use(ctx, func(v rotators.Secret) bool { its, _, err := idAndKey(v); return err == nil && its == id })
		if err != nil {
			return rotators.Secret{}, err
		}
		if use == rotators.InUse {
			continue
		}
		if young, err := i.send(ctx, http.MethodGet, r.Current, r.Token); err != nil || slices.Contains(young, id) {
			return rotators.Secret{}, fmt.Errorf("another run may be about to store %s (%v)", id, err)
		}
		if _, err := i.send(ctx, http.MethodDelete, r.Current, id); err != nil && !errors.Is(err, errGone) {
			return rotators.Secret{}, err
		}
	}
	return i.mint(ctx, r)
}

func (i issuer) Set(ctx context.Context, r rotators.Rotation) error {
	return i.deleteAllBut(ctx, r.Current, r.Pending)
}

func (i issuer) Test(ctx context.Context, r rotators.Rotation) error {
	_, err := i.send(ctx, http.MethodGet, r.Pending, "")
	return err
}

func (i issuer) Grace(s rotators.Settings) time.Duration { return dayUnlessSet(s) }

func (i issuer) Retire(ctx context.Context, r rotators.Rotation) error {
	return i.deleteAllBut(ctx, r.Current)
}

type strayLeft struct{ issuer }

func (b strayLeft) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	return b.mint(ctx, r)
}

func (b strayLeft) Set(ctx context.Context, r rotators.Rotation) error { return b.Test(ctx, r) }

// Retire is exact, as it is where others use the account too.
func (b strayLeft) Retire(ctx context.Context, r rotators.Rotation) error {
	old, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	id, _, err := idAndKey(old)
	if err != nil {
		return err
	}
	if _, err := b.send(ctx, http.MethodDelete, r.Current, id); !errors.Is(err, errGone) {
		return err
	}
	return nil
}

// alone takes what another run is about to store for a stray.
type alone struct{ issuer }

func (b alone) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	if err := b.deleteAllBut(ctx, r.Current); err != nil {
		return rotators.Secret{}, err
	}
	return b.mint(ctx, r)
}

type roomMadeLate struct{ issuer }

func (b roomMadeLate) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	next, err := b.mint(ctx, r)
	if err != nil {
		return next, err
	}
	return next, b.deleteAllBut(ctx, r.Current, next)
}

type goneIsAnError struct{ issuer }

func (b goneIsAnError) Retire(ctx context.Context, r rotators.Rotation) error {
	old, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	id, _, err := idAndKey(old)
	if err != nil {
		return err
	}
	_, err = b.send(ctx, http.MethodDelete, r.Current, id)
	return err
}

type retiresNothing struct{ issuer }

func (b retiresNothing) Retire(context.Context, rotators.Rotation) error { return nil }

func issuerHarness(wrap func(issuer) rotators.Rotator) maker {
	return func(t *testing.T, w *Wire) Harness {
		m := &mint{keys: map[string]string{"key-0": "the-secret-of-0"}, names: map[string]string{}, at: map[string]time.Duration{}}
		m.Server = httptest.NewServer(m)
		t.Cleanup(m.Close)
		return Harness{
			Rotator: wrap(issuer{m.URL, &http.Client{Transport: w}}),
			Value:   rotators.NewSecret(`{"key":"the-secret-of-0","id":"key-0"}`),
			Fields:  []string{"key", "id"},
			Accepts: func(_ context.Context, value rotators.Secret) (bool, error) {
				id, key, err := idAndKey(value)
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.keys[id] == key, err
			},
			Overlap: true,
			Keys: func(context.Context) (int, error) {
				m.mu.Lock()
				defer m.mu.Unlock()
				return len(m.keys), nil
			},
			MaxKeys: 2,
			Pass:    m.pass,
		}
	}
}

func TestAnHonestIssuerPasses(t *testing.T) {
	Run(t, issuerHarness(func(i issuer) rotators.Rotator { return i }))
}

func TestBrokenIssuersAreCaught(t *testing.T) {
	for _, c := range []struct {
		name    string
		wrap    func(issuer) rotators.Rotator
		check   string
		mention string
	}{
		{"a stray after a crash", func(i issuer) rotators.Rotator { return strayLeft{i} }, "Crashes", "a stray is left behind"},
		{"a stray of a Create that was lost", func(i issuer) rotators.Rotator { return strayLeft{i} }, "CreateAgain", "a stray is left behind"},
		{"room is made after minting", func(i issuer) rotators.Rotator { return roomMadeLate{i} }, "Crashes", "3 live credentials, and may have 2"},
		{"what another run is about to store is removed", func(i issuer) rotators.Rotator { return alone{i} }, "StepsAtOnce", "run again after both were through"},
		{"Retire fails when the key is gone", func(i issuer) rotators.Rotator { return goneIsAnError{i} }, "Retires", "retiring what is gone already"},
		{"Retire fails when the key is gone", func(i issuer) rotators.Rotator { return goneIsAnError{i} }, "Crashes", "the retry failed"},
		{"Retire does nothing", func(i issuer) rotators.Rotator { return retiresNothing{i} }, "Retires", "still works"},
	} {
		t.Run(c.name+" "+c.check, func(t *testing.T) { catches(t, c.check, issuerHarness(c.wrap), c.mention) })
	}
}
