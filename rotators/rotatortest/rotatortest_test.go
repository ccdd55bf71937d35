package rotatortest

import (
	"context"
	"encoding/json"
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

func noOptions(r rotators.Rotation) error {
	if len(r.Settings.Options) > 0 {
		return rotators.Permanent(errors.New("the vendor has no options"))
	}
	return nil
}

func password(value rotators.Secret) string {
	p, _ := value.Field("password")
	return p.Reveal()
}

func (h honest) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	if err := noOptions(r); err != nil {
		return rotators.Secret{}, err
	}
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

type outageAsOwnRefusal struct{ honest }

func (b outageAsOwnRefusal) Test(ctx context.Context, r rotators.Rotation) error {
	if b.send(ctx, r.Pending, "") != nil {
		return rotators.Refused(errors.New("the password is wrong"))
	}
	return nil
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

type secretInErrorField struct{ honest }

type loginError struct{ Password string }

func (e *loginError) Error() string { return "the login failed" }

func (b secretInErrorField) Test(ctx context.Context, r rotators.Rotation) error {
	if err := b.send(ctx, r.Pending, ""); err != nil {
		return fmt.Errorf("%w: %w", &loginError{password(r.Pending)}, err)
	}
	return nil
}

type secretInURL struct{ honest }

func (b secretInURL) Test(ctx context.Context, r rotators.Rotation) error {
	if _, err := http.NewRequest(http.MethodGet, b.url+"/login/"+password(r.Pending), nil); err != nil {
		return err
	}
	return b.honest.Test(ctx, r)
}

type readsNoAnswer struct{ honest }

func (b readsNoAnswer) Test(ctx context.Context, r rotators.Rotation) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url, nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth("app", password(r.Pending))
	resp, _ := b.client.Do(req)
	if resp.StatusCode != http.StatusOK {
		return rotators.Refused(errors.New("the vendor refuses the password of app"))
	}
	return nil
}

type optionsIgnored struct{ honest }

func (b optionsIgnored) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	r.Settings.Options = nil
	return b.honest.Create(ctx, r)
}

type optionsRetried struct{ honest }

func (b optionsRetried) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	if len(r.Settings.Options) > 0 {
		return rotators.Secret{}, errors.New("the vendor has no options")
	}
	return b.honest.Create(ctx, r)
}

// remembersNext sets what its own Create made, which need not be what was
// stored.
type remembersNext struct {
	honest
	next rotators.Secret
}

func (b *remembersNext) Create(ctx context.Context, r rotators.Rotation) (next rotators.Secret, err error) {
	b.next, err = b.honest.Create(ctx, r)
	return b.next, err
}

func (b *remembersNext) Set(ctx context.Context, r rotators.Rotation) error {
	r.Pending = b.next
	return b.honest.Set(ctx, r)
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

func TestAnHonestRotatorPasses(t *testing.T) {
	Run(t, harness(func(h honest) rotators.Rotator { return h }))
}

// Each broken rotator must fail the check that is there for it, whatever else
// it fails.
func TestBrokenRotatorsAreCaught(t *testing.T) {
	for _, c := range []struct {
		name    string
		wrap    func(honest) rotators.Rotator
		check   string
		mention string
	}{
		{"Set is not idempotent", func(h honest) rotators.Rotator { return setNotIdempotent{h} }, "EveryStepTwice", "setSecret, the second time"},
		{"Set is not idempotent", func(h honest) rotators.Rotator { return setNotIdempotent{h} }, "Crashes", "the retry failed"},
		{"Create kills the current value", func(h honest) rotators.Rotator { return createKillsCurrent{h} }, "CreateLeavesCurrentWorking", "does not accept the current value"},
		{"Create kills the current value", func(h honest) rotators.Rotator { return createKillsCurrent{h} }, "Crashes", "lost"},
		{"Test always passes", func(h honest) rotators.Rotator { return testAlwaysPasses{h} }, "TestRefusesAWrongValue", "passes for a value"},
		{"a secret in an error", func(h honest) rotators.Rotator { return secretInError{h} }, "TestRefusesAWrongValue", "holds a secret"},
		{"a secret in a panic", func(h honest) rotators.Rotator { return panics{h} }, "DryTest", "holds a secret"},
		{"an outage is called a refusal", func(h honest) rotators.Rotator { return outageAsRefusal{h} }, "OutageIsNotRefusal", "for the target's refusal"},
		{"an outage becomes a refusal of its own", func(h honest) rotators.Rotator { return outageAsOwnRefusal{h} }, "OutageIsNotRefusal", "marked Refused"},
		{"an outage is called a refusal", func(h honest) rotators.Rotator { return outageAsRefusal{h} }, "Crashes", "for the target's refusal"},
		{"one byte of the value changed", func(h honest) rotators.Rotator { return oneByteChanged{h} }, "ChangesOnlyItsFields", "differs"},
		{"a secret in what an error prints as", func(h honest) rotators.Rotator { return secretInErrorField{h} }, "TestRefusesAWrongValue", "holds a secret"},
		{"a secret quoted by a library", func(h honest) rotators.Rotator { return secretInURL{h} }, "OddBytes", "as a Go string"},
		{"an answer that never came is read", func(h honest) rotators.Rotator { return readsNoAnswer{h} }, "Crashes", "testSecret panics"},
		{"options are accepted silently", func(h honest) rotators.Rotator { return optionsIgnored{h} }, "RejectsUnknownOptions", "no rotator has"},
		{"an unknown option is tried again", func(h honest) rotators.Rotator { return optionsRetried{h} }, "RejectsUnknownOptions", "not Permanent"},
		{"what Create made is remembered", func(h honest) rotators.Rotator { return &remembersNext{honest: h} }, "StepsAtOnce", "a second createSecret"},
		{"Set goes through a password nobody stored", func(h honest) rotators.Rotator { return setLosesBoth{h} }, "Crashes", "the last working credential is lost"},
	} {
		t.Run(c.name+" "+c.check, func(t *testing.T) {
			catches(t, c.check, harness(c.wrap), c.mention)
		})
	}
}

// catches checks that a check fails, with a mention of what it is about.
func catches(t *testing.T, name string, newHarness maker, mention string) {
	t.Helper()
	for _, check := range checks {
		if check.name != name {
			continue
		}
		err := check.run(t, newHarness)
		if err == nil || !strings.Contains(err.Error(), mention) {
			t.Errorf("%s says %v, want a mention of %q", name, err, mention)
		}
		return
	}
	t.Errorf("there is no check %s", name)
}

// What a Harness declares and a rotator does not do is caught.
func TestFalseDeclarationsAreCaught(t *testing.T) {
	declare := func(newHarness maker, change func(*Harness)) maker {
		return func(t *testing.T, w *Wire) Harness {
			h := newHarness(t, w)
			change(&h)
			return h
		}
	}
	single := harness(func(h honest) rotators.Rotator { return h })
	keys := issuerHarness(func(i issuer) rotators.Rotator { return i })
	for _, c := range []struct {
		name       string
		newHarness maker
		check      string
		mention    string
	}{
		{"an overlap that is none", declare(single, func(h *Harness) { h.Overlap = true }), "AcceptedWhenDeclared", "refused (!)"},
		{"an overlap that is none", declare(single, func(h *Harness) { h.Overlap = true }), "Crashes", "declares an overlap"},
		{"an overlap not declared", declare(keys, func(h *Harness) { h.Overlap = false }), "AcceptedWhenDeclared", "accepted (!)"},
		{"minting not declared", declare(keys, func(h *Harness) { h.Keys = nil }), "AcceptedWhenDeclared", "accepted (!)"},
	} {
		t.Run(c.name+" "+c.check, func(t *testing.T) { catches(t, c.check, c.newHarness, c.mention) })
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
