package rotation_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rekeyhq/rekey/internal/alarms"
	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/internal/memstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

const (
	token  = "11111111-1111-4111-8111-111111111111"
	other  = "22222222-2222-4222-8222-222222222222"
	first  = `{"engine":"spy","host":"db.example.com","username":"app","password":"first-password"}`
	second = `{"engine":"spy","host":"db.example.com","username":"app","password":"second-password"}`
)

// spy is a rotator that notes what it is asked and does as it is told.
type spy struct {
	calls  []string
	create func(rotators.Rotation) (rotators.Secret, error)
	set    func(rotators.Rotation) error
	test   func(rotators.Rotation) error
}

func (s *spy) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	s.calls = append(s.calls, "Create")
	if s.create != nil {
		return s.create(r)
	}
	return rotators.NewSecret(second), nil
}

func (s *spy) Set(_ context.Context, r rotators.Rotation) error {
	s.calls = append(s.calls, "Set")
	if s.set != nil {
		return s.set(r)
	}
	return nil
}

func (s *spy) Test(_ context.Context, r rotators.Rotation) error {
	what := "the pending value"
	if r.Pending.Reveal() == first {
		what = "the current value"
	}
	s.calls = append(s.calls, "Test "+what)
	if s.test != nil {
		return s.test(r)
	}
	return nil
}

// retiringSpy also retires.
type retiringSpy struct {
	spy
	retire func(rotators.Rotation) error
	grace  time.Duration // what is usual for it
}

func (s *retiringSpy) Grace(settings rotators.Settings) time.Duration {
	if settings.Grace < 0 {
		return s.grace
	}
	return settings.Grace
}

func (s *retiringSpy) Retire(_ context.Context, r rotators.Rotation) error {
	s.calls = append(s.calls, "Retire")
	if s.retire != nil {
		return s.retire(r)
	}
	return nil
}

func engine(r rotators.Rotator) *rotation.Engine {
	return &rotation.Engine{
		Registry: rotators.Registry{"spy": r},
		Pause:    func(context.Context, time.Duration) error { return nil },
	}
}

// afterTheGrace is an engine for whom every grace of these tests is over.
func afterTheGrace(r rotators.Rotator) *rotation.Engine {
	e := engine(r)
	e.Now = func() time.Time { return time.Now().Add(time.Hour) }
	return e
}

// Every cell of the plan, as it shows from outside.
func TestEveryStateAndStep(t *testing.T) {
	states := map[rotation.State]func() *memstore.Store{
		rotation.Unknown: func() *memstore.Store { return memstore.New(rotators.NewSecret(first), nil) },
		rotation.Reserved: func() *memstore.Store {
			s := memstore.New(rotators.NewSecret(first), nil)
			s.Begin(token)
			return s
		},
	}
	put := func(s *memstore.Store) {
		if err := s.PutPending(t.Context(), &rotation.Attempt{Token: token}, rotators.NewSecret(second)); err != nil {
			t.Fatal(err)
		}
	}
	states[rotation.Stored] = func() *memstore.Store { s := states[rotation.Reserved](); put(s); return s }
	states[rotation.Current] = func() *memstore.Store {
		s := states[rotation.Stored]()
		if err := s.Promote(t.Context(), &rotation.Attempt{Token: token, Current: memstore.First}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	states[rotation.Superseded] = func() *memstore.Store {
		s := states[rotation.Stored]()
		s.Put(other, rotators.NewSecret(first))
		return s
	}

	refused, nothing := "an error", ""
	want := map[rotation.State][4]string{
		rotation.Unknown: {refused, refused, refused, refused},
		// finishSecret reads no value, so it is for the store to tell a version
		// without one, or to refuse to promote it; this store tells.
		rotation.Reserved:   {"Create", refused, "Test the current value", refused},
		rotation.Stored:     {nothing, "Set", "Test the pending value", "promoted"},
		rotation.Current:    {nothing, nothing, nothing, nothing},
		rotation.Superseded: {refused, refused, refused, refused},
	}
	for state := rotation.Unknown; state <= rotation.Superseded; state++ {
		for step := rotation.CreateSecret; step <= rotation.FinishSecret; step++ {
			t.Run(state.String()+" "+step.String(), func(t *testing.T) {
				store, r := states[state](), &spy{}
				before, _ := store.Current()
				err := engine(r).Step(t.Context(), store, step, memstore.ID, token)
				got := strings.Join(r.calls, ", ")
				if after, _ := store.Current(); after != before {
					got += "promoted"
				}
				if err != nil {
					got += refused
					var s *rotation.StepError
					if !errors.As(err, &s) || s.Step != step || s.ID != memstore.ID {
						t.Errorf("the error is %#v, not a StepError of this step", err)
					}
				}
				if got != want[state][step] {
					t.Errorf("got %q (%v), want %q", got, err, want[state][step])
				}
			})
		}
	}
}

func TestRunTakesAllFourSteps(t *testing.T) {
	store, r := memstore.New(rotators.NewSecret(first), nil), &spy{}
	store.Begin(token)
	if err := engine(r).Run(t.Context(), store, memstore.ID, token); err != nil {
		t.Fatal(err)
	}
	if name, value := store.Current(); name != token || value.Reveal() != second {
		t.Errorf("version %s is current", name)
	}
	if got := strings.Join(r.calls, ", "); got != "Create, Set, Test the pending value" {
		t.Errorf("the rotator was asked: %s", got)
	}
}

// Somebody stores a value by hand in the middle of an attempt. It stays, and what
// the target says of both values decides what becomes of the attempt.
func TestRunThatIsOvertaken(t *testing.T) {
	const byHand = `{"engine":"spy","host":"db.example.com","username":"app","password":"by-hand"}`
	refused, unreachable := rotators.Refused(errors.New("wrong password")), errors.New("no route to host")
	for name, c := range map[string]struct {
		hand, pending error // what Test says of them
		want          error
		kept          bool // the pending value is still there
	}{
		"the target accepts the change":         {nil, refused, nil, false},
		"the target accepts both":               {nil, nil, nil, true},
		"the target refuses the change":         {refused, nil, rotation.ErrReadersRefused, true},
		"the target cannot be reached":          {unreachable, nil, unreachable, true},
		"the target cannot be reached any more": {nil, unreachable, unreachable, true},
	} {
		store := memstore.New(rotators.NewSecret(first), nil)
		store.Begin(token)
		r := &spy{}
		r.set = func(rotators.Rotation) error {
			store.Put(other, rotators.NewSecret(byHand))
			r.test = func(r rotators.Rotation) error {
				if r.Pending.Reveal() == byHand {
					return c.hand
				}
				return c.pending
			}
			return nil
		}
		err := engine(r).Run(t.Context(), store, memstore.ID, token)
		var step *rotation.StepError
		if !errors.Is(err, c.want) || err != nil && !errors.As(err, &step) {
			t.Errorf("%s: %v", name, err)
		}
		if now, _ := store.Current(); now != other {
			t.Errorf("%s: version %s is current", name, now)
		}
		if kept := len(store.Values()) == 3; kept != c.kept {
			t.Errorf("%s: the pending value is kept: %v", name, kept)
		}
	}
}

// late is a store whose pending value is seen only from the nth read on.
type late struct {
	*memstore.Store
	reads, from int
}

func (s *late) Value(ctx context.Context, a *rotation.Attempt, which rotation.Which) (rotators.Secret, error) {
	if which == rotation.PendingValue {
		if s.reads++; s.reads < s.from {
			return rotators.Secret{}, nil
		}
	}
	return s.Store.Value(ctx, a, which)
}

func TestALateValueIsWaitedFor(t *testing.T) {
	for from, want := range map[int]string{1: "Test the pending value", 5: "Test the pending value", 100: "Test the current value"} {
		store := &late{Store: memstore.New(rotators.NewSecret(first), nil), from: from}
		store.Begin(token)
		if err := store.PutPending(t.Context(), &rotation.Attempt{Token: token}, rotators.NewSecret(second)); err != nil {
			t.Fatal(err)
		}
		r, e, waited := &spy{}, (*rotation.Engine)(nil), time.Duration(0)
		e = engine(r)
		e.Pause = func(_ context.Context, d time.Duration) error { waited += d; return nil }
		if err := e.Step(t.Context(), store, rotation.TestSecret, memstore.ID, token); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(r.calls, ", "); got != want {
			t.Errorf("seen from read %d on: asked %q, want %q", from, got, want)
		}
		if waited > 5*time.Second {
			t.Errorf("seen from read %d on: waited %s", from, waited)
		}
	}
}

// A value as it may stand in an error, a log or a panic: unusual bytes, every
// way of writing them.
const odd = "pä\"ss'\\ w%r d$é\n#?&/+=\x01€😀-zq77"

func TestNothingThatComesOutHoldsAValue(t *testing.T) {
	value := rotators.NewSecret(`{"engine":"spy","host":"db.example.com","username":"app","password":` + jsonText(odd) + `,"nested":{"tokens":["another-secret-value"]}}`)
	spellings := map[string]string{
		"as it is": odd, "Go": strconv.Quote(odd), "ASCII": strconv.QuoteToASCII(odd), "JSON": jsonText(odd),
		"query": url.QueryEscape(odd), "path": url.PathEscape(odd), "userinfo": url.UserPassword("app", odd).String(),
		"base64": base64.StdEncoding.EncodeToString([]byte(odd)), "base64url": base64.RawURLEncoding.EncodeToString([]byte(odd)),
		"basic auth": base64.StdEncoding.EncodeToString([]byte("app:" + odd)), "basic auth 2": base64.StdEncoding.EncodeToString([]byte("ap:" + odd + "x")),
		"basic auth 3": base64.StdEncoding.EncodeToString([]byte("a:" + odd + "xy")),
		"hex":          fmt.Sprintf("%x", odd), "HEX": fmt.Sprintf("%X", odd), "SQL": strings.ReplaceAll(odd, "'", "''"),
		"JSON as it is": unescapedJSON(odd),
		"whole":         value.Reveal(), "nested": "another-secret-value",
	}
	ways := map[string]func(text string) func(rotators.Rotation) error{
		"error": func(text string) func(rotators.Rotation) error {
			return func(rotators.Rotation) error { return errors.New(text) }
		},
		"wrapped": func(text string) func(rotators.Rotation) error {
			return func(rotators.Rotation) error { return fmt.Errorf("login: %w", errors.New(text)) }
		},
		"panic": func(text string) func(rotators.Rotation) error { return func(rotators.Rotation) error { panic(text) } },
		"panic error": func(text string) func(rotators.Rotation) error {
			return func(rotators.Rotation) error { panic(errors.New(text)) }
		},
	}
	for spelling, text := range spellings {
		for way, fail := range ways {
			store := memstore.New(value, nil)
			store.Begin(token)
			if err := store.PutPending(t.Context(), &rotation.Attempt{Token: token}, rotators.NewSecret(second)); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			e := engine(&spy{set: fail("cannot log in to db.example.com as app with " + text + " at all")})
			e.Log = slog.New(slog.NewJSONHandler(&log, nil))
			err := e.Step(t.Context(), store, rotation.SetSecret, memstore.ID, token)
			if err == nil {
				t.Fatal("no error")
			}
			out := err.Error() + fmt.Sprintf("%v %+v %#v %s %q", err, err, err, err, err) + log.String()
			for _, secret := range []string{text, odd, "another-secret-value", "r d$é", "zq77"} {
				if strings.Contains(out, secret) {
					t.Errorf("%s in %s: %q comes out in %s", spelling, way, secret, out)
				}
			}
			if !strings.Contains(err.Error(), "db.example.com as app") {
				t.Errorf("%s in %s: the error no longer says where: %v", spelling, way, err)
			}
		}
	}
}

// What a value holds besides the password is masked too, and one value does not
// keep another from being seen where both stand.
func TestTheMaskKnowsEveryPart(t *testing.T) {
	for _, c := range []struct{ name, current, pending, text, want string }{
		{"a parameter of a URL", "spy://app:first-password@db/shop?sslpassword=the%2Bkeys%20own&sslmode=require", second,
			"sslmode require with the+keys own, spelled the%2Bkeys%20own", "sslmode require with [redacted], spelled [redacted]"},
		{"an object within a string", `{"engine":"spy","password":"first-password","app":"{\"token\":\"nested-token\"}"}`, second, "with nested-token", "with [redacted]"},
		{"a URL within an object", `{"engine":"spy","password":"first-password","cache":"redis://u:pw1@host"}`, second, "with pw1", "with [redacted]"},
		{"a line of a private key", `{"engine":"spy","password":"x","key":"-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\r\nnDKJKmmqvFsbzaVs\n-----END PRIVATE KEY-----\n"}`, second,
			"asn1: at MIGHAgEAMBMGByqGSM49AgEG, \"nDKJKmmqvFsbzaVs\\n-----END", "asn1: at [redacted], \"[redacted]\\n-----END"},
		{"the name of a key", `{"engine":"spy","password":"x","alg":"ES256","kid":"the-new-one","keys":"{\"keys\":[{\"alg\":\"HS512\",\"k\":\"AyM1SysPpbyD\"}]}"}`, second,
			"the-new-one is for ES256, not HS512 as AyM1SysPpbyD", "the-new-one is for ES256, not HS512 as [redacted]"},
		{"a short password before another", `{"engine":"spy","password":"=s"}`, second, "password=second-password.", "password=[redacted]."},
		{"one that was escaped", `{"engine":"spy","password":"an\u001b escaped\u2028 \"one\""}`, second, bounded.Text("with an\x1b escaped\u2028 \"one\"."), "with [redacted]."},
		{"one of several lines, escaped but for these", `{"engine":"spy","password":"two\n\u001blines"}`, second, "with two\n\x1blines.", "with [redacted]."},
		{"a password in the mark of a masked one", `{"engine":"spy","password":"act"}`, second, "second-password", "[redacted]"},
	} {
		store := memstore.New(rotators.NewSecret(c.current), nil)
		store.Begin(token)
		if err := store.PutPending(t.Context(), &rotation.Attempt{Token: token}, rotators.NewSecret(c.pending)); err != nil {
			t.Fatal(err)
		}
		e := engine(&spy{set: func(rotators.Rotation) error { return errors.New(c.text) }})
		err := e.Step(t.Context(), store, rotation.SetSecret, memstore.ID, token)
		if err == nil || !strings.HasSuffix(err.Error(), ": "+c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// What a rotator returns may be what a server said. It is fit for a terminal, as long as
// a page and no longer, and whole where a value stood.
func TestErrorsAreFitToBeShown(t *testing.T) {
	for _, c := range []struct{ name, said, want string }{
		{"what a terminal obeys", "\x1b]0;PWNED\x07\x1b[2J\r\u009b\u202e\xff", `\x1b]0;PWNED\a\x1b[2J\r\u009b\u202e\xff`},
		{"several lines", "one\ntwo", "one; two"},
		{"without end", strings.Repeat("e", 1<<20), "eee [cut]"},
		{"a value where it is cut", strings.Repeat("second-password", 1000), "[redacted][redacted] [cut]"},
		{"NULs", strings.Repeat("\x00", 1<<20), ` [cut]`},
		{"a value before the end", strings.Repeat("e", 1<<13-30) + "second-password" + strings.Repeat(" and more", 10), " [cut]"},
		{"a value at the end of too long a text", bounded.Text(strings.Repeat("y", bounded.MaxText-9) + "second-password"), "(1030 bytes, which are too many to be shown)"},
		{"the beginning of a value, as an owner may guess it", "user secon [cut] second [cut]", "user secon [cut] second [cut]"},
	} {
		store := memstore.New(rotators.NewSecret(`{"engine":"spy","password":"an\u001b escaped one"}`), nil)
		store.Begin(token)
		if err := store.PutPending(t.Context(), &rotation.Attempt{Token: token}, rotators.NewSecret(second)); err != nil {
			t.Fatal(err)
		}
		for how, set := range map[string]func(rotators.Rotation) error{
			"error": func(rotators.Rotation) error { return errors.New(c.said) },
			"panic": func(rotators.Rotation) error { panic(c.said) },
		} {
			err := engine(&spy{set: set}).Step(t.Context(), store, rotation.SetSecret, memstore.ID, token)
			if err == nil || !strings.HasSuffix(err.Error(), c.want) || strings.Contains(err.Error(), "second-p") {
				t.Errorf("%s, %s: %.300q, want it to end in %q", c.name, how, err, c.want)
			}
			if n := len(err.Error()); n > 9<<10 {
				t.Errorf("%s, %s: the error is %d bytes long", c.name, how, n)
			}
		}
	}
}

// Whoever writes a value decides how much work it is to know its parts.
func TestAValueOfManyValues(t *testing.T) {
	nested := "x://u:the-innermost-password@h"
	for range 19 {
		nested = "x://u:pw@h?a=" + nested
	}
	for name, note := range map[string]string{
		"nested": nested, "flat": "x://u:pw@h" + strings.Repeat("?a=", 20_000), "one name": "x://u:pw@h?a=" + strings.Repeat("b", 30_000) + strings.Repeat("&a=", 10_000),
		"escaped": "x://u:pw@h?a=" + strings.Repeat("%2525", 10_000), "objects": strings.Repeat(`{"a":`, 5_000) + `"x"` + strings.Repeat("}", 5_000),
	} {
		text, _ := json.Marshal(map[string]string{"engine": "spy", "password": "the first password", "note": note})
		store := memstore.New(rotators.NewSecret(string(text)), nil)
		store.Begin(token)
		e := engine(&spy{create: func(rotators.Rotation) (rotators.Secret, error) {
			return rotators.Secret{}, errors.New("no, the first password")
		}})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.HasSuffix(err.Error(), "no, [redacted]") {
			t.Errorf("%s: %v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
			t.Errorf("%s: it took %d MB", name, took>>20)
		}
	}
}

// Who does not retire may need to know the grace all the same: a signing key's old
// half says in the value until when it counts.
func TestTheGraceOfWhatIsNotRetired(t *testing.T) {
	for tag, want := range map[string]time.Duration{"": -1, "0m": 0, "2h": 2 * time.Hour} {
		tags := map[string]string{"rekey:rotator": "spy"}
		if tag != "" {
			tags["rekey:grace"] = tag
		}
		store := memstore.New(rotators.NewSecret(first), tags)
		store.Begin(token)
		var got []time.Duration
		e := engine(&spy{create: func(r rotators.Rotation) (rotators.Secret, error) {
			got = append(got, r.Settings.Grace)
			return rotators.NewSecret(second), nil
		}})
		for step := rotation.CreateSecret; step <= rotation.FinishSecret; step++ {
			if err := e.Step(t.Context(), store, step, memstore.ID, token); err != nil {
				t.Fatal(err)
			}
		}
		if len(got) != 1 || got[0] != want || store.Tags()[rotation.TagRetire] != "" {
			t.Errorf("with %q the grace was %v, and %q is to be retired", tag, got, store.Tags()[rotation.TagRetire])
		}
	}
}

func TestARotatorLearnsAndTheMaskLearnsWithIt(t *testing.T) {
	store := memstore.New(rotators.NewSecret(first), nil)
	store.Begin(token)
	e := engine(&spy{create: func(r rotators.Rotation) (rotators.Secret, error) {
		admin, err := r.Lookup(t.Context(), "admin")
		return rotators.Secret{}, fmt.Errorf("as admin with %s: %w", admin.Reveal(), errors.Join(err, io.EOF))
	}})
	e.Others = admin{}
	err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
	if err == nil || strings.Contains(err.Error(), "the-admins-password") {
		t.Errorf("got %v", err)
	}
	if !errors.Is(err, io.EOF) {
		t.Error("the chain is lost")
	}
}

// A value that is made for it has every byte of a long error be known many times over.
func TestManyKnownTextsInALongError(t *testing.T) {
	value := map[string]string{"engine": strings.Repeat("a", 20_000), "password": "the first password"}
	for n := range 250 {
		value[fmt.Sprint("field", n)] = strings.Repeat("a", 4+n)
	}
	text, _ := json.Marshal(value)
	store := memstore.New(rotators.NewSecret(string(text)), map[string]string{"rekey:rotator": "spy"})
	store.Begin(token)
	e := engine(&spy{create: func(rotators.Rotation) (rotators.Secret, error) {
		return rotators.Secret{}, errors.New("of " + value["engine"])
	}})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
	runtime.ReadMemStats(&after)
	if err == nil || strings.Contains(err.Error(), "aaaa") {
		t.Errorf("%.300v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
		t.Errorf("it took %d MB", took>>20)
	}
}

// Whoever may write a secret decides how many old versions it has, and how large they are. All
// are read, and an error is redacted for all of them or not shown.
func TestManyLargeOldVersions(t *testing.T) {
	for size, want := range map[int]string{12_000: "no, [redacted]", 65_000: "[redacted] (nothing of the error is shown"} {
		store := memstore.New(rotators.NewSecret(first), nil)
		for n := range 95 {
			var b strings.Builder
			for i := 0; b.Len() < size; i++ {
				fmt.Fprintf(&b, `"%x/'<ü%x",`, i, n)
			}
			store.Put(fmt.Sprint("v", n), rotators.NewSecret(`{"engine":"spy","password":"pw`+fmt.Sprint(n)+`-abcdef","keys":[`+b.String()+`""]}`))
		}
		store.Put("last", rotators.NewSecret(first))
		store.Begin(token)
		read, took := 0, int64(0)
		before := heap()
		e := engine(&spy{create: func(r rotators.Rotation) (rotators.Secret, error) {
			for _, err := range r.Leftovers(t.Context()) {
				if err != nil {
					t.Error(err)
				}
				read++
			}
			took = heap() - before
			return rotators.Secret{}, errors.New("no, pw0-abcdef")
		}})
		err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("of %d bytes: %.300v", size, err)
		}
		if read < 95 || took > 32<<20 {
			t.Errorf("%d versions of %d bytes took %d MB", read, size, took>>20)
		}
	}
}

// heap is how many bytes of the heap are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// An owner may guess at another secret in whatever errors show. What the owner wrote is
// shown as it is, right or wrong, and what others say of that secret is redacted.
func TestGuessesAreShownAsTheirOwnerWroteThem(t *testing.T) {
	for _, c := range []struct{ host, said, want string }{
		{"a.the-admins-password.b", "host a.the-admins-password.b", "host a.the-admins-password.b"},
		{"The-Admins-Password", "host the-admins-password", "host the-admins-password"},
		{"db.example.com", "it said the-admins-password at db.example.com", "it said [redacted] at db.example.com"},
		{"x%74he-admins-password", "host xthe-admins-password", "host xthe-admins-password"}, // decoded on the way
		{"QXRoZS1hZG1pbnMtcGFzc3dvcmRC", "host Athe-admins-passwordB", "host Athe-admins-passwordB"},
		{"x-%5Cu0074he-admins-password", "host x-%5Cu0074he-admins-password", "host x-%5Cu0074he-admins-password"},
		{"admins", "it said the-admins-password", "it said [redacted]"}, // a piece guessed right shows none of the rest
		{"admins", "it said dGhlLWFkbWlucy1wYXNzd29yZA", "it said [redacted]"},
		{"the-first-password", "host the-first-password", "host [redacted]"}, // of one's own
	} {
		text, _ := json.Marshal(map[string]string{"engine": "spy", "host": c.host, "password": "the-first-password"})
		store := memstore.New(rotators.NewSecret(string(text)), nil)
		store.Begin(token)
		e := engine(&spy{create: func(r rotators.Rotation) (rotators.Secret, error) {
			_, _ = r.Lookup(t.Context(), "admin")
			return rotators.Secret{}, errors.New(c.said)
		}})
		e.Others = admin{}
		err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
		if err == nil || !strings.HasSuffix(err.Error(), ": "+c.want) {
			t.Errorf("host %s: %v, want %q", c.host, err, c.want)
		}
	}
}

// admin is all the other secrets there are.
type admin struct{}

func (admin) Lookup(context.Context, string) (rotators.Secret, error) {
	return rotators.NewSecret("the-admins-password"), nil
}

func (admin) AdminFor(_ context.Context, ref string) (string, error) { return ref, nil }

// Only the admin's own tag vouches, and only for what it names.
func TestVouches(t *testing.T) {
	for list, want := range map[string]bool{
		"": false, "memory": true, "memory-AbCdEf": false, "mem": false, "other memory": true, memstore.ID: true, "memory/": false, "/": false, "me/ mory": false,
	} {
		store := memstore.New(rotators.NewSecret(first), nil)
		store.Begin(token)
		e := engine(&spy{create: func(r rotators.Rotation) (rotators.Secret, error) {
			if got, err := r.Vouches(t.Context(), list); err != nil || got != want {
				t.Errorf("rekey:admin-for=%q vouches: %v (%v), want %v", list, got, err, want)
			}
			return rotators.NewSecret(second), nil
		}})
		e.Others = admin{}
		if err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token); err != nil {
			t.Fatal(err)
		}
	}
}

// Where the operator insists on delegation, no other admin is read.
func TestDelegatedAdmins(t *testing.T) {
	for list, want := range map[string]bool{"memory": true, "": false, "other": false} {
		store := memstore.New(rotators.NewSecret(first), nil)
		store.Begin(token)
		e := engine(&spy{create: func(r rotators.Rotation) (rotators.Secret, error) {
			value, err := r.Lookup(t.Context(), list)
			if !r.Limits.DelegatedAdmins || want != (err == nil) || want == value.IsZero() || !want && (!rotators.IsPermanent(err) || !strings.Contains(err.Error(), "REKEY_ADMINS")) {
				t.Errorf("rekey:admin-for=%q: %v", list, err)
			}
			return rotators.NewSecret(second), nil
		}})
		e.Others, e.Limits.DelegatedAdmins = admin{}, true
		if err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token); err != nil {
			t.Fatal(err)
		}
	}
}

// recognizer knows the values that it makes.
type recognizer struct{ spy }

func (*recognizer) Recognize(r rotators.Rotation) error {
	if r.Current.Reveal() != first {
		return errors.New("the current value is missing")
	}
	if r.Pending.Reveal() != second {
		return rotators.Permanent(errors.New("it is of another shape"))
	}
	return nil
}

// A pending value that somebody else stored is refused before it is set, but for one that
// the target accepts: it may be the only one that it accepts.
func TestAPendingValueOfSomebodyElse(t *testing.T) {
	const foreign = `{"username":"app","password":"attacker1"}`
	wrong := rotators.Refused(errors.New("wrong"))
	for _, c := range []struct {
		pending string
		test    error
		want    string // in the error; "": none
		calls   string
	}{
		{second, wrong, "", "Set"},
		{foreign, nil, "", "Test the pending value,Set"},
		{foreign, wrong, "of another shape", "Test the pending value"},
		{foreign, errors.New("no route"), "no route", "Test the pending value"},
	} {
		store := memstore.New(rotators.NewSecret(first), nil)
		store.Begin(token)
		a, err := store.Load(t.Context(), memstore.ID, token)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.PutPending(t.Context(), a, rotators.NewSecret(c.pending)); err != nil {
			t.Fatal(err)
		}
		r := &recognizer{spy{test: func(rotators.Rotation) error { return c.test }}}
		err = engine(r).Step(t.Context(), store, rotation.SetSecret, memstore.ID, token)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || rotators.IsPermanent(err) != rotators.IsRefused(c.test) || rotators.IsRefused(err)) {
			t.Errorf("%s, %v: %v", c.pending, c.test, err)
		}
		if got := strings.Join(r.calls, ","); got != c.calls {
			t.Errorf("%s, %v: calls %q, want %q", c.pending, c.test, got, c.calls)
		}
	}
}

func TestAPanicIsAStepErrorAndTheLogHasItsStack(t *testing.T) {
	store := memstore.New(rotators.NewSecret(first), nil)
	store.Begin(token)
	var log bytes.Buffer
	var none []int
	e := engine(&spy{create: func(rotators.Rotation) (rotators.Secret, error) {
		return rotators.Secret{}, fmt.Errorf("%d", none[1])
	}})
	e.Log = slog.New(slog.NewJSONHandler(&log, nil))
	err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
	var s *rotation.StepError
	if !errors.As(err, &s) || !strings.Contains(err.Error(), "panic: runtime error: index out of range") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(err.Error(), "goroutine") || !strings.Contains(log.String(), "engine_test.go") {
		t.Error("the stack belongs into the log, and only there")
	}
}

func TestAStepEndsBeforeItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in which time passes only while all wait
		store := memstore.New(rotators.NewSecret(first), nil)
		store.Begin(token)
		deadline := time.Now().Add(100 * time.Millisecond)
		ctx, cancel := context.WithDeadline(t.Context(), deadline)
		defer cancel()
		err := engine(blocking{&spy{}}).Step(ctx, store, rotation.CreateSecret, memstore.ID, token)
		if !time.Now().Before(deadline) {
			t.Error("the step came back after its deadline")
		}
		if err == nil || !strings.Contains(err.Error(), "ran out of time") || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

type blocking struct{ *spy }

func (b blocking) Create(ctx context.Context, _ rotators.Rotation) (rotators.Secret, error) {
	<-ctx.Done()
	return rotators.Secret{}, ctx.Err()
}

func TestTheLogLineIsAMetric(t *testing.T) {
	store := memstore.New(rotators.NewSecret(first), nil)
	store.Begin(token)
	var log bytes.Buffer
	e := engine(&spy{})
	e.Log = slog.New(slog.NewJSONHandler(&log, nil))
	if err := e.Run(t.Context(), store, memstore.ID, token); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines for four steps", len(lines))
	}
	for i, outcome := range []string{"create", "set", "test", "promote"} {
		var line map[string]any
		if err := json.Unmarshal([]byte(lines[i]), &line); err != nil {
			t.Fatal(err)
		}
		if line["outcome"] != outcome || line["id"] != memstore.ID || line["level"] != "INFO" || line["failed"] != 0.0 {
			t.Errorf("line %d is %s", i, lines[i])
		}
		metrics, err := alarms.Read([]byte(lines[i]))
		if err != nil || len(metrics) != 6 { // three, of the function and of the step
			t.Errorf("%d metrics (%v) in %s", len(metrics), err, lines[i])
		}
		if rotations := line["rotations"]; rotations != map[string]float64{"promote": 1}[outcome] {
			t.Errorf("%v rotations in %s", rotations, lines[i])
		}
	}
}

func TestWhichRotator(t *testing.T) {
	for _, c := range []struct{ name, value, tag, want string }{
		{"by the engine field", first, "", ""},
		{"by the tag", `{"password":"first-password"}`, "spy", ""},
		{"the tag before the field", `{"engine":"mysql","password":"p"}`, "spy", ""},
		{"a variant", first, "spy:eu", ""},
		{"nothing says", `{"password":"first-password"}`, "", "rekey:rotator"},
		{"plain text", `just a token`, "", "rekey:rotator"},
		{"unknown tag", first, "oracle", "has spy"},
		{"unknown field", `{"engine":"oracle"}`, "", "has spy"},
	} {
		tags := map[string]string{}
		if c.tag != "" {
			tags["rekey:rotator"] = c.tag
		}
		store := memstore.New(rotators.NewSecret(c.value), tags)
		store.Begin(token)
		var variant string
		e := engine(&spy{create: func(r rotators.Rotation) (rotators.Secret, error) {
			variant = r.Settings.Variant
			return rotators.NewSecret(second), nil
		}})
		err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !rotators.IsPermanent(err)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.tag == "spy:eu" && variant != "eu" {
			t.Errorf("the variant is %q", variant)
		}
	}
}

func TestCreateMustMakeSomethingNew(t *testing.T) {
	for name, made := range map[string]string{"nothing": "", "the same": first} {
		store := memstore.New(rotators.NewSecret(first), nil)
		store.Begin(token)
		e := engine(&spy{create: func(rotators.Rotation) (rotators.Secret, error) { return rotators.NewSecret(made), nil }})
		if err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token); err == nil {
			t.Errorf("%s was stored", name)
		}
	}
}

// A plain password with a connection tag is shown to the rotator as a URL, and
// only the password is stored.
func TestConnection(t *testing.T) {
	for _, c := range []struct{ name, value, connection, want string }{
		{"plain", "p@ss word", "postgres://app@db.example.com:5432/shop?sslmode=require", ""},
		{"a password in the tag", "p", "postgres://app:x@db/shop", "rekey:connection"},
		{"no user", "p", "postgres://db/shop", "rekey:connection"},
		{"no URL", "p", "db.example.com", "rekey:connection"},
		{"two sslmodes", "p", "postgres://app@db/shop?sslmode=disable&sslmode=require", "sslmode twice"},
		{"a host elsewhere", "p", "postgres://app@db/shop?hostaddr=10.0.0.1", "hostaddr"},
		{"a JSON value", first, "postgres://app@db/shop", "for plain text"},
	} {
		store := memstore.New(rotators.NewSecret(c.value), map[string]string{"rekey:rotator": "spy", "rekey:connection": c.connection})
		store.Begin(token)
		e := engine(&spy{create: func(r rotators.Rotation) (rotators.Secret, error) {
			for field, want := range map[string]string{"username": "app", "host": "db.example.com", "port": "5432", "dbname": "shop", "password": c.value, "engine": "postgres"} {
				if got, err := r.Current.Field(field); err != nil || got.Reveal() != want {
					t.Errorf("%s: field %s is %q (%v), want %q", c.name, field, got.Reveal(), err, want)
				}
			}
			return r.Current.Replace("password", rotators.NewSecret("a new/one"))
		}})
		err := e.Run(t.Context(), store, memstore.ID, token)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) || !rotators.IsPermanent(err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, value := store.Current(); value.Reveal() != "a new/one" {
			t.Errorf("%s: stored %q", c.name, value.Reveal())
		}
	}
}

func TestRetirement(t *testing.T) {
	refusesOld := func(r rotators.Rotation) error {
		if r.Pending.Reveal() == first {
			return rotators.Refused(errors.New("refused"))
		}
		return nil
	}
	run := func(t *testing.T, grace string, r *retiringSpy) (*memstore.Store, error) {
		store := memstore.New(rotators.NewSecret(first), map[string]string{"rekey:grace": grace})
		store.Begin(token)
		return store, engine(r).Run(t.Context(), store, memstore.ID, token)
	}

	t.Run("with no grace, at once, and proved both ways", func(t *testing.T) {
		r := &retiringSpy{spy: spy{test: refusesOld}}
		store, err := run(t, "0m", r)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(r.calls[3:], ", "); got != "Test the pending value, Retire, Test the current value, Test the pending value" {
			t.Errorf("after promotion the rotator was asked: %s", got)
		}
		if tags := store.Tags(); tags[rotation.TagRetire] != "" || tags[rotation.TagRetired] != memstore.First {
			t.Errorf("the tags are %v", tags)
		}
	})
	t.Run("with a grace, later, and the tag says what", func(t *testing.T) {
		r := &retiringSpy{}
		store, err := run(t, "1h", r)
		if err != nil {
			t.Fatal(err)
		}
		version, at, _ := strings.Cut(store.Tags()[rotation.TagRetire], " ")
		over, err := time.Parse(time.RFC3339, at)
		if len(r.calls) != 3 || version != memstore.First || err != nil || time.Until(over).Round(time.Minute) != time.Hour {
			t.Errorf("asked %v, tags %v", r.calls, store.Tags())
		}
	})
	t.Run("failed, it runs again with finishSecret", func(t *testing.T) {
		r := &retiringSpy{spy: spy{test: refusesOld}, retire: func(rotators.Rotation) error { return io.EOF }}
		store, err := run(t, "0m", r)
		if !errors.Is(err, io.EOF) {
			t.Fatalf("got %v", err)
		}
		if name, _ := store.Current(); name != token {
			t.Error("a failed retirement took the promotion back")
		}
		r.retire = nil
		if err := engine(r).Step(t.Context(), store, rotation.FinishSecret, memstore.ID, token); err != nil {
			t.Fatal(err)
		}
		if store.Tags()[rotation.TagRetired] != memstore.First {
			t.Errorf("the tags are %v", store.Tags())
		}
	})
	t.Run("not believed without proof", func(t *testing.T) {
		for name, test := range map[string]func(rotators.Rotation) error{
			"still works": func(rotators.Rotation) error { return nil },
			"cannot tell": func(r rotators.Rotation) error {
				if r.Pending.Reveal() == first {
					return io.EOF
				}
				return nil
			},
		} {
			store, err := run(t, "0m", &retiringSpy{spy: spy{test: test}})
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
			if store.Tags()[rotation.TagRetire] == "" {
				t.Errorf("%s: and yet the tag is gone", name)
			}
		}
	})
	t.Run("with what is usual for the rotator, which sees what that is", func(t *testing.T) {
		for usual, want := range map[time.Duration]string{
			-1: "", 0: "retired", time.Hour: "to be retired",
		} {
			r := &retiringSpy{spy: spy{test: refusesOld}, grace: usual}
			seen := []time.Duration{}
			r.set = func(r rotators.Rotation) error { seen = append(seen, r.Settings.Grace); return nil }
			store := &counting{Store: memstore.New(rotators.NewSecret(first), nil)}
			store.Begin(token)
			if err := engine(r).Run(t.Context(), store, memstore.ID, token); err != nil {
				t.Fatal(err)
			}
			tags := store.Tags()
			got := map[bool]string{tags[rotation.TagRetired] == memstore.First: "retired", strings.HasPrefix(tags[rotation.TagRetire], memstore.First): "to be retired"}[true]
			if got != want || len(seen) != 1 || seen[0] != usual {
				t.Errorf("grace %s: %q, want %q; the rotator saw %v", usual, got, want, seen)
			}
			if finish := store.reads[len(store.reads)-1]; usual < 0 && finish != 0 {
				t.Errorf("finishSecret read %d values though nothing is retired", finish)
			}
		}
	})
	t.Run("by a rotator that cannot, it says what to do", func(t *testing.T) {
		store := memstore.New(rotators.NewSecret(first), map[string]string{rotation.TagRetire: "an-older-version"})
		err := engine(&spy{}).Retire(t.Context(), store, memstore.ID, "an-older-version")
		if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "remove the tag "+rotation.TagRetire) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("never of what readers get", func(t *testing.T) {
		// A crash between the two writes of a promotion, and then the attempt is
		// called off: the tag orders what is still current to be retired.
		store := memstore.New(rotators.NewSecret(first), map[string]string{"rekey:grace": "0m", rotation.TagRetire: memstore.First})
		store.Begin(other)
		r := &retiringSpy{spy: spy{test: refusesOld}}
		if err := engine(r).Run(t.Context(), store, memstore.ID, other); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(r.calls, ", "); got != "Create, Set, Test the pending value, Test the pending value, Retire, Test the current value, Test the pending value" {
			t.Errorf("the rotator was asked: %s", got)
		}
	})
	t.Run("cut short by the next rotation", func(t *testing.T) {
		r := &retiringSpy{spy: spy{test: refusesOld}}
		store, err := run(t, "7d", r)
		if err != nil {
			t.Fatal(err)
		}
		store.Begin(other)
		r.calls = nil
		var log bytes.Buffer
		e := engine(r)
		e.Log = slog.New(slog.NewJSONHandler(&log, nil))
		if err := e.Step(t.Context(), store, rotation.CreateSecret, memstore.ID, other); err == nil {
			t.Fatal("the spy makes the same value again, which is an error")
		}
		if got := strings.Join(r.calls[:4], ", "); got != "Test the pending value, Retire, Test the current value, Test the pending value" || store.Tags()[rotation.TagRetired] != memstore.First {
			t.Errorf("asked %v, tags %v", r.calls, store.Tags())
		}
		if !strings.Contains(log.String(), `"retired":"`+memstore.First) {
			t.Errorf("the log does not say so: %s", log.String())
		}
	})
}

// counting notes how many values were read after each Load.
type counting struct {
	*memstore.Store
	reads []int
}

func (s *counting) Load(ctx context.Context, id, token string) (*rotation.Attempt, error) {
	s.reads = append(s.reads, 0)
	return s.Store.Load(ctx, id, token)
}

func (s *counting) Value(ctx context.Context, a *rotation.Attempt, which rotation.Which) (rotators.Secret, error) {
	s.reads[len(s.reads)-1]++
	return s.Store.Value(ctx, a, which)
}

// keyed is a store whose key is in this state.
type keyed struct {
	*memstore.Store
	err   error
	asked int
}

func (k *keyed) KeyUsable(context.Context, *rotation.Attempt) error {
	k.asked++
	return k.err
}

// minting also makes something outside.
type minting struct{ retiringSpy }

func (*minting) Discard(context.Context, rotators.Rotation) error { return nil }

// Where something outside is changed before the value is stored, the key comes first.
func TestAnUnusableKey(t *testing.T) {
	disabled := rotators.Permanent(errors.New("the key is disabled"))
	plain, cut, mints := &retiringSpy{}, &retiringSpy{}, &minting{}
	for _, c := range []struct {
		name  string
		r     rotators.Rotator
		calls *[]string
		tags  map[string]string
		asked int
	}{
		{"a rotator that changes nothing outside", plain, &plain.calls, nil, 0},
		{"a grace that is cut short", cut, &cut.calls, map[string]string{rotation.TagRetire: "an-older-version"}, 1},
		{"a rotator that mints", mints, &mints.calls, map[string]string{"rekey:rotator": "spy"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := &keyed{Store: memstore.New(rotators.NewSecret(first), c.tags), err: disabled}
			store.Begin(token)
			err := engine(c.r).Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
			if store.asked != c.asked {
				t.Errorf("the key was asked for %d times, want %d", store.asked, c.asked)
			}
			if c.asked > 0 && (!errors.Is(err, disabled) || !rotators.IsPermanent(err) || len(*c.calls) > 0) {
				t.Errorf("after %v the error is %v", *c.calls, err)
			}
			if c.asked == 0 && err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRetireAfterTheGrace(t *testing.T) {
	const version = memstore.First
	refused, unreachable := rotators.Refused(errors.New("wrong password")), errors.New("no route to host")
	for _, c := range []struct {
		name          string
		prepare       func(*memstore.Store)
		version       string
		old, current  error // what Test says after Retire
		before        error // what it says of the current value before
		asked, failed string
		done          bool
		early         time.Duration // before the end of the grace
		note          string
	}{
		{name: "whose grace is not over", version: version, early: 2 * time.Minute, note: "the grace of version " + version + " is over at "},
		{name: "whose grace is over by the planner's clock", version: version, early: 30 * time.Second, old: refused, asked: "Test the pending value, Retire, Test the current value, Test the pending value", done: true},
		{name: "that was paused since", version: version, prepare: func(s *memstore.Store) { s.Tag("rekey:paused", "yes") }, note: "rekey:paused was set"},
		{name: "whose time has come", version: version, old: refused, asked: "Test the pending value, Retire, Test the current value, Test the pending value", done: true},
		{name: "another than the tag names", version: other},
		{name: "none", version: ""},
		{name: "none, and there is none", version: "", prepare: func(s *memstore.Store) {
			_ = s.Retired(t.Context(), &rotation.Attempt{Tags: rotation.Tags{Retire: version}})
		}, done: true},
		{name: "that is retired already", version: version, prepare: func(s *memstore.Store) {
			_ = s.Retired(t.Context(), &rotation.Attempt{Tags: rotation.Tags{Retire: version}})
		}, done: true},
		{name: "that readers get again", version: version, prepare: (*memstore.Store).Revert},
		{name: "while an attempt is open", version: version, prepare: func(s *memstore.Store) { s.Begin(other) }},
		{name: "while the current value is refused", version: version, before: refused, asked: "Test the pending value", failed: "the older credential was left alone"},
		{name: "while nobody knows", version: version, before: unreachable, asked: "Test the pending value", failed: "no route to host"},
		{name: "that still works", version: version, asked: "Test the pending value, Retire, Test the current value", failed: "the old credential still works"},
		{name: "together with the current value", version: version, old: refused, current: refused, asked: "Test the pending value, Retire, Test the current value, Test the pending value", failed: "the current credential"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := memstore.New(rotators.NewSecret(first), map[string]string{"rekey:grace": "1h"})
			store.Begin(token)
			r := &retiringSpy{}
			if err := engine(r).Run(t.Context(), store, memstore.ID, token); err != nil {
				t.Fatal(err)
			}
			if c.prepare != nil {
				c.prepare(store)
			}
			tests := 0
			r.calls, r.test = nil, func(r rotators.Rotation) error {
				switch tests++; {
				case r.Pending.Reveal() == first:
					return c.old
				case tests == 1:
					return c.before
				default:
					return c.current
				}
			}
			var log bytes.Buffer
			e := afterTheGrace(r)
			if c.early > 0 {
				e.Now = func() time.Time { return time.Now().Add(time.Hour - c.early) }
			}
			e.Log = slog.New(slog.NewJSONHandler(&log, nil))
			err := e.Retire(t.Context(), store, memstore.ID, c.version)
			var s *rotation.StepError
			if c.failed == "" && err != nil || c.failed != "" && (!errors.As(err, &s) || !strings.HasPrefix(err.Error(), "retire of "+memstore.ID) || !strings.Contains(err.Error(), c.failed)) {
				t.Errorf("got %v, want %q", err, c.failed)
			}
			if got := strings.Join(r.calls, ", "); got != c.asked {
				t.Errorf("the rotator was asked: %s", got)
			}
			if done := store.Tags()[rotation.TagRetired] == version; done != c.done {
				t.Errorf("the tags are %v", store.Tags())
			}
			if !strings.Contains(log.String(), c.note) {
				t.Errorf("the log does not say %q: %s", c.note, log.String())
			}
			if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), `"step":"retire"`) || !strings.Contains(log.String(), `"CloudWatchMetrics"`) {
				t.Errorf("%d lines: %s", lines, log.String())
			}
		})
	}
}

// A value stored by hand that does not work must not keep the next rotation from
// mending it, nor cost the one credential that does: the one in its grace.
func TestAGraceIsNotCutShortWhileReadersAreRefused(t *testing.T) {
	const third = `{"engine":"spy","host":"db.example.com","username":"app","password":"third-password"}`
	store := memstore.New(rotators.NewSecret(first), map[string]string{"rekey:grace": "1h"})
	store.Begin(token)
	r := &retiringSpy{}
	if err := engine(r).Run(t.Context(), store, memstore.ID, token); err != nil {
		t.Fatal(err)
	}
	store.Put("by-hand", rotators.NewSecret(`{"engine":"spy","password":"by-hand"}`))
	store.Begin(other)
	r.calls = nil
	r.create = func(rotators.Rotation) (rotators.Secret, error) { return rotators.NewSecret(third), nil }
	r.set = func(r rotators.Rotation) error {
		if previous, err := r.Previous(t.Context()); err != nil || previous.Reveal() != first {
			t.Errorf("Set cannot see the one that works: %v", err)
		}
		return nil
	}
	r.test = func(r rotators.Rotation) error {
		if r.Pending.Reveal() != third {
			return rotators.Refused(errors.New("wrong password"))
		}
		return nil
	}
	var log bytes.Buffer
	e := engine(r)
	e.Log = slog.New(slog.NewJSONHandler(&log, nil))
	if err := e.Run(t.Context(), store, memstore.ID, other); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(r.calls, ", "); got != "Test the pending value, Create, Set, Test the pending value" {
		t.Errorf("the rotator was asked: %s", got)
	}
	if !strings.Contains(log.String(), "version "+memstore.First+" is not retired before there is one that works") {
		t.Errorf("the log does not say so: %s", log.String())
	}
}

// An older credential that cannot be withdrawn, or not be tried, keeps no emergency
// rotation from being made. What a retry may mend is tried again.
func TestARetirementThatFailsDoesNotStopTheNextRotation(t *testing.T) {
	const third = `{"engine":"spy","host":"db.example.com","username":"app","password":"third-password"}`
	refused := rotators.Refused(errors.New("first-password is wrong"))
	for name, c := range map[string]struct {
		retire, old error // what Retire says, and then Test of the old value
		again       bool
		note        string
	}{
		"it goes":                     {old: refused},
		"it still works":              {note: "may still work, so withdraw"},
		"nobody can tell":             {old: errors.New("no route to host"), note: "no route to host"},
		"it is for a person to mend":  {retire: rotators.Permanent(errors.New("no field in first-password")), note: "no field in [redacted]"},
		"the target was out of reach": {retire: errors.New("no route to host"), again: true},
	} {
		t.Run(name, func(t *testing.T) {
			store := memstore.New(rotators.NewSecret(first), map[string]string{"rekey:grace": "1h"})
			store.Begin(token)
			r := &retiringSpy{}
			if err := engine(r).Run(t.Context(), store, memstore.ID, token); err != nil {
				t.Fatal(err)
			}
			store.Begin(other)
			r.retire = func(rotators.Rotation) error { return c.retire }
			r.create = func(rotators.Rotation) (rotators.Secret, error) { return rotators.NewSecret(third), nil }
			r.test = func(r rotators.Rotation) error {
				if r.Pending.Reveal() == first {
					return c.old
				}
				return nil
			}
			var log bytes.Buffer
			e := engine(r)
			e.Log = slog.New(slog.NewJSONHandler(&log, nil))
			err := e.Run(t.Context(), store, memstore.ID, other)
			if current, _ := store.Current(); (err != nil) != c.again || (current == other) == c.again {
				t.Errorf("version %s is current, and %v", current, err)
			}
			if strings.Contains(log.String(), "first-password") || !strings.Contains(log.String(), c.note) || c.note == "" && strings.Contains(log.String(), `"note"`) {
				t.Errorf("the log is %s", log.String())
			}
		})
	}
}

// What readers had, stored anew by hand, is not an old credential.
func TestAnOldValueStoredAgainIsNotRetired(t *testing.T) {
	store := memstore.New(rotators.NewSecret(first), map[string]string{"rekey:grace": "1h"})
	store.Begin(token)
	r := &retiringSpy{}
	if err := engine(r).Run(t.Context(), store, memstore.ID, token); err != nil {
		t.Fatal(err)
	}
	store.Put("by-hand", rotators.NewSecret(first))
	if err := afterTheGrace(r).Retire(t.Context(), store, memstore.ID, memstore.First); err != nil {
		t.Error(err)
	}
	store.Begin(other)
	if err := engine(r).Run(t.Context(), store, memstore.ID, other); err != nil {
		t.Error(err)
	}
	if strings.Contains(strings.Join(r.calls, ", "), "Retire") {
		t.Errorf("the rotator was asked: %v", r.calls)
	}
}

// A worker that retires may be slow, and a rotation begin meanwhile: the rotation waits for
// it, and changes nothing before.
func TestARotationWaitsForARetirement(t *testing.T) {
	const third = `{"engine":"spy","host":"db.example.com","username":"app","password":"third-password"}`
	store := memstore.New(rotators.NewSecret(first), map[string]string{"rekey:grace": "1h"})
	store.Begin(token)
	r := &retiringSpy{}
	if err := engine(r).Run(t.Context(), store, memstore.ID, token); err != nil {
		t.Fatal(err)
	}
	r.create = func(rotators.Rotation) (rotators.Secret, error) { return rotators.NewSecret(third), nil }
	r.test = func(r rotators.Rotation) error {
		if r.Pending.Reveal() == first {
			return rotators.Refused(errors.New("wrong password"))
		}
		return nil
	}
	r.retire = func(rotators.Rotation) error {
		store.Begin(other)
		before := len(r.calls)
		for range 2 {
			err := engine(r).Step(t.Context(), store, rotation.CreateSecret, memstore.ID, other)
			if err == nil || rotators.IsPermanent(err) || !strings.Contains(err.Error(), "withdrawn by another run") {
				t.Errorf("createSecret during the retirement: %v", err)
			}
		}
		if len(r.calls) != before {
			t.Errorf("the rotator was asked: %v", r.calls[before:])
		}
		return nil
	}
	if err := afterTheGrace(r).Retire(t.Context(), store, memstore.ID, memstore.First); err != nil {
		t.Fatal(err)
	}
	for step := rotation.CreateSecret; step <= rotation.FinishSecret; step++ {
		if err := engine(r).Step(t.Context(), store, step, memstore.ID, other); err != nil {
			t.Error(err)
		}
	}
	for key := range store.Tags() {
		if strings.HasPrefix(key, rotation.TagRetiring) {
			t.Errorf("the tag %s is left over", key)
		}
	}
}

// unfenced is a store of which nobody but a person writes tags rekey:retiring-...
type unfenced struct{ rotation.Store }

// The owner's tags are counted before anything is changed. Those of runs that died are none
// of the owner's where rekey writes such, and takes them off; else they are.
func TestTagsAreCountedBeforeAnythingIsChanged(t *testing.T) {
	tags := map[string]string{"rekey:grace": "1h"}
	for i := range 46 {
		tags[fmt.Sprintf("team-%d", i)] = "x"
	}
	for i := range 2 {
		tags[fmt.Sprintf("%s%d", rotation.TagRetiring, i)] = "2020-01-01T00:00:00Z"
	}
	for name, c := range map[string]struct {
		of   func(*memstore.Store) rotation.Store
		want string
	}{
		"fenced":   {func(s *memstore.Store) rotation.Store { return s }, ""},
		"unfenced": {func(s *memstore.Store) rotation.Store { return unfenced{s} }, "there are 49 tags"},
	} {
		store := memstore.New(rotators.NewSecret(first), maps.Clone(tags))
		store.Begin(token)
		err := engine(&retiringSpy{}).Step(t.Context(), c.of(store), rotation.CreateSecret, memstore.ID, token)
		if c.want != "" {
			if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if left := store.Tags(); err != nil || len(left) != 47 {
			t.Errorf("%s: %v; %d tags are left", name, err, len(left))
		}
	}
}

func TestReadTags(t *testing.T) {
	good, err := rotation.ReadTags(map[string]string{
		"rekey:rotator": "http:cloudflare", "rekey:strategy": "overlap", "rekey:grace": "7d", "rekey:admin": "ssm:/admin",
		"rekey:password": "length=40 alphabet=alphanumeric", "rekey:options": "alg=ES256 keyring=yes", "rekey:every": "30d", "team": "rekey:nothing",
	})
	if err != nil {
		t.Fatal(err)
	}
	s := good.Settings
	if s.Rotator != "http" || s.Variant != "cloudflare" || s.Grace != 7*24*time.Hour || s.Password.Length != 40 || s.Options["alg"] != "ES256" {
		t.Errorf("got %+v", s)
	}
	if none, err := rotation.ReadTags(nil); err != nil || none.Settings.Grace >= 0 {
		t.Errorf("no tags: %+v, %v", none, err)
	}
	for key, value := range map[string]string{
		"rekey:rotate": "yes", "rekey:strategy": "double", "rekey:grace": "a week", "rekey:password": "length=-1",
		"rekey:options": "keyring", "rekey:rotator": ":x", "rekey:": "",
	} {
		if _, err := rotation.ReadTags(map[string]string{key: value}); err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s=%s: %v", key, value, err)
		}
	}
}

// A length is memory, and its owner is a stranger to whoever pays for that.
func TestPasswordLengthsAreLimited(t *testing.T) {
	for text, allowed := range map[string]bool{"4096": true, "4097": false, "2000000000": false, "9223372036854775808": false} {
		_, err := rotation.ReadTags(map[string]string{"rekey:password": "length=" + text})
		if (err == nil) != allowed || err != nil && !strings.Contains(err.Error(), "from 1 to 4096") {
			t.Errorf("length=%s: %v", text, err)
		}
	}
}

func FuzzReadTags(f *testing.F) {
	f.Add("password", "length=40 alphabet=alphanumeric")
	f.Add("grace", "7d")
	f.Fuzz(func(t *testing.T, name, value string) {
		_, _ = rotation.ReadTags(map[string]string{"rekey:" + name: value}) // must not panic
	})
}

func jsonText(s string) string { b, _ := json.Marshal(s); return string(b) }

func unescapedJSON(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s)
	return strings.TrimSpace(b.String())
}

// A value alone does not have anything made outside, and so the last step need not read it
// to learn whether there is something to retire.
func TestARotatorThatMintsIsNamedByTheTag(t *testing.T) {
	mints := &minting{}
	store := memstore.New(rotators.NewSecret(first), nil)
	store.Begin(token)
	err := engine(mints).Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
	if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "set the tag rekey:rotator to it") || len(mints.calls) > 0 {
		t.Errorf("after %v: %v", mints.calls, err)
	}
}
