package rotatortest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
)

// directory is a service with users. Its admin makes users, by giving them the
// right to read (PUT /right/USER) and a password (PUT /password/USER).
type directory struct {
	*httptest.Server
	mu        sync.Mutex
	passwords map[string]string
	right     map[string]bool
}

func (d *directory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	user, password, _ := r.BasicAuth()
	what, whom, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case password == "" || d.passwords[user] != password:
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodPut && user != "admin":
		w.WriteHeader(http.StatusForbidden)
	case r.Method == http.MethodPut && what == "right":
		d.right[whom] = true
	case r.Method == http.MethodPut:
		body, _ := io.ReadAll(r.Body)
		d.passwords[whom] = string(body)
	case what == "right" && !d.right[user]:
		w.WriteHeader(http.StatusForbidden)
	}
}

// twin keeps every promise that a rotator of two users makes, of whom an admin
// changes the one that readers do not use.
type twin struct {
	url    string
	client *http.Client
}

func (tw twin) send(ctx context.Context, method string, as rotators.Secret, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, tw.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.SetBasicAuth(username(as), password(as))
	resp, err := tw.client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		return rotators.Refused(fmt.Errorf("the directory refuses the password of %s", username(as)))
	default:
		return fmt.Errorf("the directory answers %s to %s %s", resp.Status, method, path)
	}
}

func username(value rotators.Secret) string {
	u, _ := value.Field("username")
	return u.Reveal()
}

// other is the twin of a user.
func other(user string) string {
	if base, ok := strings.CutSuffix(user, "_clone"); ok {
		return base
	}
	return user + "_clone"
}

func (tw twin) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	if err := noOptions(r); err != nil {
		return rotators.Secret{}, err
	}
	next, err := r.Settings.Password.Generate(32, "abcdefghijklmnopqrstuvwxyz0123456789")
	if err != nil {
		return next, err
	}
	value, err := r.Current.Replace("password", next)
	if err != nil {
		return value, err
	}
	return value.Replace("username", rotators.NewSecret(other(username(r.Current))))
}

func (tw twin) Set(ctx context.Context, r rotators.Rotation) error {
	if username(r.Pending) != other(username(r.Current)) {
		return rotators.Permanent(errors.New("the pending value names another user than the current one's twin"))
	}
	if err := tw.proves(ctx, r); err != nil {
		return err
	}
	if tw.send(ctx, http.MethodGet, r.Pending, "/right", "") == nil {
		return nil
	}
	return tw.makeTwin(ctx, r, "right", "password")
}

// proves checks that whoever wrote the secret may act for its user.
func (tw twin) proves(ctx context.Context, r rotators.Rotation) error {
	err := tw.send(ctx, http.MethodGet, r.Current, "/", "")
	if !rotators.IsRefused(err) {
		return err
	}
	if ok, err := r.Vouches(ctx, r.Settings.Admin); ok || err != nil {
		return err
	}
	return rotators.Permanent(errors.New("the current password is wrong, and nobody vouches for this secret"))
}

// makeTwin gives the twin what it needs, in the order given.
func (tw twin) makeTwin(ctx context.Context, r rotators.Rotation, order ...string) error {
	admin, err := r.Lookup(ctx, r.Settings.Admin)
	if err != nil {
		return err
	}
	for _, what := range order {
		if err := tw.send(ctx, http.MethodPut, admin, "/"+what+"/"+username(r.Pending), password(r.Pending)); err != nil {
			return err
		}
	}
	return nil
}

func (tw twin) Test(ctx context.Context, r rotators.Rotation) error {
	return tw.send(ctx, http.MethodGet, r.Pending, "/", "")
}

// rightLast takes a login for a finished twin.
type rightLast struct{ twin }

func (b rightLast) Set(ctx context.Context, r rotators.Rotation) error {
	if err := b.proves(ctx, r); err != nil || b.Test(ctx, r) == nil {
		return err
	}
	return b.makeTwin(ctx, r, "password", "right")
}

type borrowsPower struct{ twin }

func (b borrowsPower) Set(ctx context.Context, r rotators.Rotation) error {
	return b.makeTwin(ctx, r, "right", "password")
}

type anybodysTwin struct{ twin }

func (b anybodysTwin) Set(ctx context.Context, r rotators.Rotation) error {
	if err := b.proves(ctx, r); err != nil {
		return err
	}
	return b.makeTwin(ctx, r, "right", "password")
}

type adminInError struct{ twin }

func (b adminInError) Set(ctx context.Context, r rotators.Rotation) error {
	err := b.twin.Set(ctx, r)
	if err == nil {
		return nil
	}
	if admin, lookupErr := r.Lookup(ctx, r.Settings.Admin); lookupErr == nil {
		return fmt.Errorf("as %s: %w", admin.Reveal(), err)
	}
	return err
}

type mixesUp struct {
	twin
	seen rotators.Secret
}

func (b *mixesUp) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	if b.seen.IsZero() {
		b.seen = r.Current
	}
	r.Current = b.seen
	return b.twin.Create(ctx, r)
}

func twinHarness(wrap func(twin) rotators.Rotator) maker {
	return func(t *testing.T, w *Wire) Harness {
		d := &directory{
			passwords: map[string]string{"app": "the-first-password", "someone": "the-password-of-someone", "admin": "the-admins-password"},
			right:     map[string]bool{"app": true, "someone": true},
		}
		d.Server = httptest.NewServer(d)
		t.Cleanup(d.Close)
		return Harness{
			Rotator: wrap(twin{d.URL, &http.Client{Transport: w}}),
			Value:   rotators.NewSecret(`{"username":"app","password":"the-first-password"}`),
			Another: rotators.NewSecret(`{"username":"someone","password":"the-password-of-someone"}`),
			Tags:    map[string]string{"rekey:admin": "directory-admin"},
			Fields:  []string{"password", "username"},
			Accepts: func(_ context.Context, value rotators.Secret) (bool, error) {
				d.mu.Lock()
				defer d.mu.Unlock()
				return d.passwords[username(value)] == password(value), nil
			},
			Usable: func(_ context.Context, value rotators.Secret) error {
				d.mu.Lock()
				defer d.mu.Unlock()
				if !d.right[username(value)] {
					return fmt.Errorf("%s may not read", username(value))
				}
				return nil
			},
			Overlap: true,
			Lookup: func(_ context.Context, ref string) (rotators.Secret, error) {
				if ref != "directory-admin" {
					return rotators.Secret{}, fmt.Errorf("there is no secret %q", ref)
				}
				return rotators.NewSecret(`{"username":"admin","password":"the-admins-password"}`), nil
			},
		}
	}
}

func TestAnHonestTwinPasses(t *testing.T) {
	Run(t, twinHarness(func(tw twin) rotators.Rotator { return tw }))
}

// With an admin whose owner vouches for the secret, the same rotator passes
// too: the check of borrowed power takes the word away.
func TestAnHonestTwinThatIsVouchedForPasses(t *testing.T) {
	Run(t, func(t *testing.T, w *Wire) Harness {
		h := twinHarness(func(tw twin) rotators.Rotator { return tw })(t, w)
		h.Vouches = func(context.Context, string) (bool, error) { return true, nil }
		return h
	})
}

func TestBrokenTwinsAreCaught(t *testing.T) {
	for _, c := range []struct {
		name    string
		wrap    func(twin) rotators.Rotator
		check   string
		mention string
	}{
		{"a twin is promoted with a right missing", func(tw twin) rotators.Rotator { return rightLast{tw} }, "Crashes", "app_clone may not read"},
		{"power borrowed from an admin", func(tw twin) rotators.Rotator { return borrowsPower{tw} }, "BorrowedPower", "nobody vouches for"},
		{"another account's password is changed", func(tw twin) rotators.Rotator { return anybodysTwin{tw} }, "AnotherAccount", "another account"},
		{"an admin's password in an error", func(tw twin) rotators.Rotator { return adminInError{tw} }, "BorrowedPower", "holds a secret"},
		{"two secrets are mixed up", func(tw twin) rotators.Rotator { return &mixesUp{twin: tw} }, "TwoSecrets", "another secret's steps"},
	} {
		t.Run(c.name+" "+c.check, func(t *testing.T) { catches(t, c.check, twinHarness(c.wrap), c.mention) })
	}
}
