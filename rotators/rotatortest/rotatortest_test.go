package rotatortest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
)

// vendor is a service with one user, who logs in and changes the password over
// HTTP.
type vendor struct {
	*httptest.Server
	mu       sync.Mutex
	password string
}

func startVendor(t *testing.T, password string) *vendor {
	v := &vendor{password: password}
	v.Server = httptest.NewServer(v)
	t.Cleanup(v.Close)
	return v
}

func (v *vendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, password, _ := r.BasicAuth(); password != v.password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Method == http.MethodPut {
		body, _ := io.ReadAll(r.Body)
		v.password = string(body)
	}
}

func (v *vendor) accepts(_ context.Context, value rotators.Secret) (bool, error) {
	password, err := value.Field("password")
	v.mu.Lock()
	defer v.mu.Unlock()
	return password.Reveal() == v.password, err
}

// honest is a rotator that keeps every promise. The broken ones below embed it
// and break one.
type honest struct {
	url    string
	client *http.Client
}

// send logs in with the password in value, and changes it if next is given.
func (h honest) send(ctx context.Context, value rotators.Secret, next string) error {
	if next != "" {
		return h.call(ctx, http.MethodPut, value, next)
	}
	return h.call(ctx, http.MethodGet, value, "")
}

func (h honest) call(ctx context.Context, method string, value rotators.Secret, next string) error {
	req, err := http.NewRequestWithContext(ctx, method, h.url, strings.NewReader(next))
	if err != nil {
		return err
	}
	req.SetBasicAuth("app", password(value))
	resp, err := h.client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		return rotators.Refused(errors.New("the vendor refuses the password of app"))
	default:
		return fmt.Errorf("the vendor answered %s", resp.Status)
	}
}

func password(value rotators.Secret) string {
	p, _ := value.Field("password")
	return p.Reveal()
}

func (h honest) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	next, err := r.Settings.Password.Generate(32, "abcdefghijklmnopqrstuvwxyz0123456789")
	if err != nil {
		return rotators.Secret{}, err
	}
	return r.Current.Replace("password", next)
}

func (h honest) Set(ctx context.Context, r rotators.Rotation) error {
	err := h.send(ctx, r.Current, password(r.Pending))
	if rotators.IsRefused(err) {
		return h.send(ctx, r.Pending, "")
	}
	return err
}

func (h honest) Test(ctx context.Context, r rotators.Rotation) error {
	return h.send(ctx, r.Pending, "")
}

type setNotIdempotent struct{ honest }

func (b setNotIdempotent) Set(ctx context.Context, r rotators.Rotation) error {
	return b.send(ctx, r.Current, password(r.Pending))
}

type createKillsCurrent struct{ honest }

func (b createKillsCurrent) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	next, err := b.honest.Create(ctx, r)
	if err != nil {
		return next, err
	}
	return next, b.send(ctx, r.Current, password(next))
}

func (b createKillsCurrent) Set(ctx context.Context, r rotators.Rotation) error {
	return b.Test(ctx, r)
}

type testAlwaysPasses struct{ honest }

func (b testAlwaysPasses) Test(context.Context, rotators.Rotation) error { return nil }

type secretInError struct{ honest }

func (b secretInError) Test(ctx context.Context, r rotators.Rotation) error {
	if err := b.send(ctx, r.Pending, ""); err != nil {
		return fmt.Errorf("login as app:%s: %w", password(r.Pending), err)
	}
	return nil
}

type outageAsRefusal struct{ honest }

func (b outageAsRefusal) Test(ctx context.Context, r rotators.Rotation) error {
	return rotators.Refused(b.send(ctx, r.Pending, ""))
}

type oneByteChanged struct{ honest }

func (b oneByteChanged) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	next, err := b.honest.Create(ctx, r)
	if err != nil {
		return next, err
	}
	// What going through a map does to a value: 5432.0 becomes 5432.
	var fields map[string]any
	if err := json.Unmarshal([]byte(next.Reveal()), &fields); err != nil {
		return next, err
	}
	text, err := json.Marshal(fields)
	return rotators.NewSecret(string(text)), err
}

type setLosesBoth struct{ honest }

// Set goes through a temporary password that nobody stored.
func (b setLosesBoth) Set(ctx context.Context, r rotators.Rotation) error {
	if b.send(ctx, r.Pending, "") == nil {
		return nil
	}
	if err := b.send(ctx, r.Current, "temporary"); err != nil {
		return err
	}
	return b.send(ctx, rotators.NewSecret(`{"password":"temporary"}`), password(r.Pending))
}

type panics struct{ honest }

func (b panics) Test(_ context.Context, r rotators.Rotation) error {
	panic("cannot use " + password(r.Pending))
}

// twoPasswords is a vendor whose user may hold two passwords: the second one is
// added by PUT, and DELETE takes away all but the one that asks.
type twoPasswords struct {
	*httptest.Server
	mu        sync.Mutex
	passwords []string
}

func (v *twoPasswords) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, password, _ := r.BasicAuth()
	body, _ := io.ReadAll(r.Body)
	next := string(body)
	switch {
	case !slices.Contains(v.passwords, password):
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodDelete:
		v.passwords = []string{password}
	case r.Method != http.MethodPut || slices.Contains(v.passwords, next):
	case len(v.passwords) == 2:
		w.WriteHeader(http.StatusConflict)
	default:
		v.passwords = append(v.passwords, next)
	}
}

func (v *twoPasswords) accepts(_ context.Context, value rotators.Secret) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Contains(v.passwords, password(value)), nil
}

// overlapping is an honest rotator for twoPasswords.
type overlapping struct{ honest }

func (o overlapping) Set(ctx context.Context, r rotators.Rotation) error {
	return o.send(ctx, r.Current, password(r.Pending))
}

func (o overlapping) Retire(ctx context.Context, r rotators.Rotation) error {
	return o.call(ctx, http.MethodDelete, r.Current, "")
}

type retireDoesNothing struct{ overlapping }

func (b retireDoesNothing) Retire(context.Context, rotators.Rotation) error { return nil }

type retiresCurrent struct{ overlapping }

func (b retiresCurrent) Retire(ctx context.Context, r rotators.Rotation) error {
	previous, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	return b.call(ctx, http.MethodDelete, previous, "")
}

type retireNotIdempotent struct{ overlapping }

func (b retireNotIdempotent) Retire(ctx context.Context, r rotators.Rotation) error {
	previous, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	if err := b.send(ctx, previous, ""); err != nil {
		return err
	}
	return b.overlapping.Retire(ctx, r)
}

// neverRetires fills the vendor's two places, and there is no third.
type neverRetires struct{ overlapping overlapping }

func (b neverRetires) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	return b.overlapping.Create(ctx, r)
}

func (b neverRetires) Set(ctx context.Context, r rotators.Rotation) error {
	return b.overlapping.Set(ctx, r)
}

func (b neverRetires) Test(ctx context.Context, r rotators.Rotation) error {
	return b.overlapping.Test(ctx, r)
}

type alwaysTheSame struct{ honest }

func (b alwaysTheSame) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	return r.Current.Replace("password", rotators.NewSecret("the-same-for-everybody"))
}

type setHidesFailures struct{ honest }

func (b setHidesFailures) Set(ctx context.Context, r rotators.Rotation) error {
	if err := b.honest.Set(ctx, r); rotators.IsRefused(err) {
		return err
	}
	return nil
}

// generated makes a value that no other system holds.
type generated struct{}

func (generated) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	return r.Settings.Password.Generate(32, "abcdefghijklmnopqrstuvwxyz0123456789")
}
func (generated) Set(context.Context, rotators.Rotation) error  { return nil }
func (generated) Test(context.Context, rotators.Rotation) error { return nil }

func overlap(wrap func(overlapping) rotators.Rotator) maker {
	return func(t *testing.T, w *Wire) Harness {
		v := &twoPasswords{passwords: []string{"the-first-password"}}
		v.Server = httptest.NewServer(v)
		t.Cleanup(v.Close)
		return Harness{
			Rotator: wrap(overlapping{honest{v.URL, &http.Client{Transport: w}}}),
			Value:   rotators.NewSecret(`{"password":"the-first-password"}`),
			Fields:  []string{"password"},
			Accepts: v.accepts,
			Overlap: true,
		}
	}
}

// harness builds one around the honest rotator as wrap changes it.
func harness(wrap func(honest) rotators.Rotator) maker {
	return func(t *testing.T, w *Wire) Harness {
		v := startVendor(t, "the-first-password")
		return Harness{
			Rotator: wrap(honest{v.URL, &http.Client{Transport: w}}),
			Value:   rotators.NewSecret(`{"username": "app",  "password":"the-first-password", "port":5432.0}`),
			Fields:  []string{"password"},
			Accepts: v.accepts,
		}
	}
}

func TestHonestRotatorsPass(t *testing.T) {
	for name, h := range map[string]maker{
		"one password":  harness(func(h honest) rotators.Rotator { return h }),
		"two passwords": overlap(func(o overlapping) rotators.Rotator { return o }),
		"a value that no other system holds": func(*testing.T, *Wire) Harness {
			return Harness{
				Rotator: generated{},
				Value:   rotators.NewSecret("the-first-signing-key"),
				Accepts: func(context.Context, rotators.Secret) (bool, error) { return true, nil },
			}
		},
	} {
		t.Run(name, func(t *testing.T) { Run(t, h) })
	}
}

// Each broken rotator must fail the check that is there for it, whatever else
// it fails.
func TestBrokenRotatorsAreCaught(t *testing.T) {
	for _, c := range []struct {
		name    string
		harness maker
		check   string
		mention string
	}{
		{"Set is not idempotent", harness(func(h honest) rotators.Rotator { return setNotIdempotent{h} }), "EveryStepTwice", "setSecret, the second time"},
		{"Set is not idempotent", harness(func(h honest) rotators.Rotator { return setNotIdempotent{h} }), "Crashes", "the retry failed"},
		{"Create kills the current value", harness(func(h honest) rotators.Rotator { return createKillsCurrent{h} }), "CreateLeavesCurrentWorking", "does not accept the current value"},
		{"Create kills the current value", harness(func(h honest) rotators.Rotator { return createKillsCurrent{h} }), "Crashes", "lost"},
		{"Test always passes", harness(func(h honest) rotators.Rotator { return testAlwaysPasses{h} }), "TestRefusesAWrongValue", "passes for a value"},
		{"a secret in an error", harness(func(h honest) rotators.Rotator { return secretInError{h} }), "TestRefusesAWrongValue", "holds a secret"},
		{"a secret in a panic", harness(func(h honest) rotators.Rotator { return panics{h} }), "DryTest", "holds a secret"},
		{"an outage is called a refusal", harness(func(h honest) rotators.Rotator { return outageAsRefusal{h} }), "OutageIsNotRefusal", "for the target's refusal"},
		{"an outage is called a refusal", harness(func(h honest) rotators.Rotator { return outageAsRefusal{h} }), "Crashes", "for the target's refusal"},
		{"one byte of the value changed", harness(func(h honest) rotators.Rotator { return oneByteChanged{h} }), "ChangesOnlyItsFields", "differs"},
		{"Set goes through a password nobody stored", harness(func(h honest) rotators.Rotator { return setLosesBoth{h} }), "Crashes", "the last working credential is lost"},
		{"Create always makes the same value", harness(func(h honest) rotators.Rotator { return alwaysTheSame{h} }), "RotatesAgain", "no new value"},
		{"Set hides that it failed", harness(func(h honest) rotators.Rotator { return setHidesFailures{h} }), "OutageIsNotRefusal", "does not accept the pending value"},
		{"Retire does nothing", overlap(func(o overlapping) rotators.Rotator { return retireDoesNothing{o} }), "Rotates", "still works"},
		{"Retire takes the current value", overlap(func(o overlapping) rotators.Rotator { return retiresCurrent{o} }), "Rotates", "retiring"},
		{"Retire is not idempotent", overlap(func(o overlapping) rotators.Rotator { return retireNotIdempotent{o} }), "Crashes", "the retry failed"},
		{"nothing makes room for the next value", overlap(func(o overlapping) rotators.Rotator { return neverRetires{o} }), "RotatesAgain", "409"},
	} {
		t.Run(c.name+" "+c.check, func(t *testing.T) {
			for _, check := range checks {
				if check.name != c.check {
					continue
				}
				err := check.run(t, c.harness)
				if err == nil || !strings.Contains(err.Error(), c.mention) {
					t.Errorf("%s says %v, want a mention of %q", c.check, err, c.mention)
				}
				return
			}
			t.Errorf("there is no check %s", c.check)
		})
	}
}

// A harness whose own parts are wrong is told so, not the rotator blamed.
func TestAWrongHarnessIsCaught(t *testing.T) {
	notWired := func(t *testing.T, w *Wire) Harness {
		h := harness(func(h honest) rotators.Rotator { h.client = http.DefaultClient; return h })(t, w)
		return h
	}
	if err := outageIsNotRefusal(t, notWired); err == nil {
		t.Error("a rotator that goes round the Wire passes")
	}
	wrongValue := func(t *testing.T, w *Wire) Harness {
		h := harness(func(h honest) rotators.Rotator { return h })(t, w)
		h.Value = rotators.NewSecret(`{"password":"not-the-first"}`)
		return h
	}
	if err := rotates(t, wrongValue); err == nil || !strings.Contains(err.Error(), "the Harness is wrong") {
		t.Errorf("got %v", err)
	}
}
