package apikey_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

const (
	settling = 10 * time.Second
	secret   = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/acme-AbCdEf"
	token    = "6d7c2f1e-2f0b-4f7e-9a53-0c1f5f6f3b1a"
)

func startVendor(t *testing.T) *vendor {
	v := newVendor()
	t.Cleanup(v.Close)
	v.settling = settling
	return v
}

func (v *vendor) rotator(transport http.RoundTripper) rotators.Rotator {
	return NewAcme(v.URL, &http.Client{Transport: transport}, v.settling, v.apikey())
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		limit int
		tags  map[string]string
	}{
		"with its own key": {limit: 2},
		"by an admin":      {limit: 3, tags: map[string]string{"rekey:admin": "acme-admin"}},
	} {
		t.Run(name, func(t *testing.T) {
			rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
				v := startVendor(t)
				v.limit = c.limit
				h := rotatortest.Harness{
					Value:   v.add("shop", "made by hand").value(),
					Tags:    c.tags,
					Fields:  []string{"apiKey", "apiKeyId"},
					Accepts: func(_ context.Context, value rotators.Secret) (bool, error) { return v.holds(value), nil },
					Overlap: true,
					MaxKeys: 2,
					Pass:    func(d time.Duration) { _ = v.pause(t.Context(), d) },
				}
				others := 0
				if c.tags != nil {
					admin := v.add("shop", "the admin's").value()
					others = 1
					h.Lookup = func(_ context.Context, ref string) (rotators.Secret, error) {
						if ref != "acme-admin" {
							return rotators.Secret{}, fmt.Errorf("there is no %s", ref)
						}
						return admin, nil
					}
				} else {
					h.Another = v.add("another shop", "made by hand").value()
				}
				h.Keys = func(context.Context) (int, error) { return len(strings.Fields(v.live("shop"))) - others, nil }
				h.Rotator = v.rotator(w)
				return h
			})
		})
	}
}

// rotation is an attempt of a secret that holds a key. Before are the previous one and
// those of abandoned attempts.
func rotation(current *key, before ...*key) rotators.Rotation {
	r := rotators.Rotation{ID: secret, Token: token, Current: current.value(), Settings: rotators.Settings{Grace: -1}}
	values := []rotators.Secret{{}}
	for i, k := range before {
		values = append(values[:i], k.value())
	}
	previous := func() rotators.Secret { v, _ := r.Previous(context.Background()); return v }
	r.Use = func(_ context.Context, holds func(rotators.Secret) bool) (rotators.Use, error) {
		switch {
		case holds(r.Current):
			return rotators.InUse, nil
		case holds(previous()):
			return rotators.Former, nil
		}
		return rotators.Unused, nil
	}
	r.Previous = func(context.Context) (rotators.Secret, error) { return values[0], nil }
	r.Leftovers = func(context.Context) iter.Seq2[rotators.Secret, error] {
		return func(yield func(rotators.Secret, error) bool) {
			for _, v := range values[1:] {
				if !yield(v, nil) {
					return
				}
			}
		}
	}
	return r
}

// wants checks the error's text; "": there must be none.
func wants(t *testing.T, err error, text string) {
	t.Helper()
	switch {
	case text == "" && err != nil:
		t.Errorf("got %v", err)
	case text != "" && (err == nil || !strings.Contains(err.Error(), text)):
		t.Errorf("got %v, want one that says %q", err, text)
	}
}

func lives(t *testing.T, v *vendor, want string) {
	t.Helper()
	if got := v.live("shop"); got != want {
		t.Errorf("the account has the keys %q, want %q", got, want)
	}
}

// The keys are, in this order: what readers get, the previous one, that of an abandoned
// attempt, a stray, a person's.
func TestRoomIsMadeInOrder(t *testing.T) {
	for _, c := range []struct {
		name   string
		limit  int
		change func(*vendor, *rotators.Rotation)
		live   string
		err    string
	}{
		{name: "there is room", limit: 6, live: "key-1 key-2 key-3 key-5 key-6"},
		{name: "the stray's room is enough", limit: 5, live: "key-1 key-2 key-3 key-5 key-6"},
		{name: "the abandoned attempt's goes next", limit: 4, live: "key-1 key-2 key-5 key-6"},
		{name: "the previous one goes last", limit: 3, live: "key-1 key-5 key-6"},
		{name: "a person's never goes", limit: 2, live: "key-1 key-5", err: "no room for another key"},
		{
			name: "what readers get does not work", limit: 3,
			change: func(_ *vendor, r *rotators.Rotation) {
				r.Settings.Admin = "acme-admin"
				r.Current, _ = r.Current.Replace("apiKey", rotators.NewSecret("mistyped"))
				r.Vouches = func(context.Context, string) (bool, error) { return true, nil }
			},
			live: "key-1 key-2 key-3 key-5", err: "no room for another key; the key that readers get does not work either",
		},
		{
			name: "a key that is refused makes none", limit: 4,
			change: func(v *vendor, _ *rotators.Rotation) { v.keys[1].secret = "somebody else's" },
			live:   "key-1 key-2 key-5 key-6",
		},
		{
			name: "nor the last one", limit: 3,
			change: func(v *vendor, _ *rotators.Rotation) { v.keys[1].secret = "somebody else's" },
			live:   "key-1 key-2 key-5", err: "key-2 is left alone",
		},
		{
			name: "an admin is not fooled into revoking what nobody holds", limit: 3,
			change: func(v *vendor, r *rotators.Rotation) {
				r.Settings.Admin = "acme-admin"
				v.keys[1].secret = "somebody else's" // the previous value has its id only
			},
			live: "key-1 key-2 key-5", err: "no room for another key",
		},
		{
			name: "nor by an id beside a key that works", limit: 3,
			change: func(v *vendor, _ *rotators.Rotation) {
				v.keys[1].secret, v.keys[4].secret = v.keys[4].secret, v.keys[1].secret
			},
			live: "key-1 key-2 key-5", err: "no room for another key",
		},
		{
			name: "the vendor counts late", limit: 5,
			change: func(v *vendor, _ *rotators.Rotation) { v.counts = settling / 2 },
			live:   "key-1 key-2 key-3 key-5 key-6",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := startVendor(t)
			current, previous, abandoned := v.add("shop", "by hand"), v.add("shop", "by hand"), v.add("shop", "by hand")
			v.add("shop", apikey.Name(secret, "another attempt", v.time()))
			person := v.add("shop", "a person's")
			r := rotation(current, previous, abandoned)
			r.Lookup = func(context.Context, string) (rotators.Secret, error) { return person.value(), nil }
			v.limit = c.limit
			if c.change != nil {
				c.change(v, &r)
			}
			value, err := v.rotator(nil).Create(t.Context(), r)
			wants(t, err, c.err)
			lives(t, v, c.live)
			if err == nil && !v.holds(value) {
				t.Error("the new value holds no key that is there")
			}
		})
	}
}

// Two secrets may well hold keys of one account, and people have theirs there, too.
func TestOnlyThisSecretsStraysAreRevoked(t *testing.T) {
	v := startVendor(t)
	r := rotation(v.add("shop", "by hand"))
	v.add("shop", apikey.Name("arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/acme2-AbCdEf", token, v.time()))
	v.add("shop", "rekey-test, by hand")
	v.add("shop", apikey.Name(secret, "another attempt", v.time()))
	v.add("shop", apikey.Name(secret, token, v.time()))
	pending, err := v.rotator(nil).Create(t.Context(), r)
	wants(t, err, "")
	lives(t, v, "key-1 key-2 key-3 key-6")

	v.add("shop", apikey.Name(secret, token, v.time())) // its reply was lost
	r.Pending = pending
	wants(t, v.rotator(nil).Set(t.Context(), r), "")
	lives(t, v, "key-1 key-2 key-3 key-6")
}

// The key that would mint is dead. The error says what a person must do.
func TestADeadKeyCannotRotateItself(t *testing.T) {
	v := startVendor(t)
	current := v.add("shop", "by hand")
	r := rotation(current)
	current.live = false
	_, err := v.rotator(nil).Create(t.Context(), r)
	wants(t, err, "the current key does not work, and only the current key says whose keys to rotate, so nothing was changed: store one that works (Acme refuses the key key-1)")
}

func TestNames(t *testing.T) {
	at := time.Unix(1<<31+3600, 0) // past 2038
	name := apikey.Name(secret, token, at)
	if len(name) != 40 || !strings.HasSuffix(name, "80000e10") || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		t.Errorf("got %q", name)
	}
	if !apikey.SameAttempt(name, apikey.Name(secret, token, at.Add(time.Second))) || name == apikey.Name(secret, token, at.Add(time.Second)) {
		t.Errorf("two runs of one attempt are not told apart, or not known for one attempt: %q", name)
	}
	for _, other := range []string{apikey.Name(secret, token+"x", at), apikey.Name(secret+"x", token, at), "", "rekey-", name[:20]} {
		if apikey.SameAttempt(name, other) || apikey.SameAttempt(other, name) {
			t.Errorf("%q and %q are taken for one attempt", name, other)
		}
	}
}

// careless is an issuer that does not heed the keys to keep, or fills no id.
type careless struct {
	apikey.Issuer
	strays []string
	mint   func(apikey.Key, error) (apikey.Key, error)
}

func (c careless) Strays(context.Context, ...string) (strays []apikey.Stray, err error) {
	for _, id := range c.strays {
		strays = append(strays, apikey.Stray{ID: id, Name: apikey.Name(secret, "another attempt", time.Time{})})
	}
	return strays, nil
}

func (c careless) Mint(ctx context.Context, token string) (apikey.Key, error) {
	k, err := c.Issuer.Mint(ctx, token)
	if c.mint != nil {
		k, err = c.mint(k, err)
	}
	return k, err
}

func (v *vendor) careless(c careless) rotators.Rotator {
	return apikey.New(func(_ context.Context, r rotators.Rotation) (apikey.Issuer, error) {
		c.Issuer = &acme{url: v.URL, client: v.Client(), settling: v.settling, r: r}
		return c, nil
	}, v.apikey())
}

func TestWhatTheSecretHoldsIsNoStray(t *testing.T) {
	v := startVendor(t)
	r := rotation(v.add("shop", "by hand"), v.add("shop", "by hand"))
	x := v.careless(careless{strays: []string{"key-1", "key-2", "key-3"}})
	pending, err := x.Create(t.Context(), r)
	wants(t, err, "")
	r.Pending = pending
	wants(t, x.Set(t.Context(), r), "")
	lives(t, v, "key-1 key-2 key-3")
}

// A key that cannot be stored, or of which the value would say another id, is revoked at
// once: nobody could do so later.
func TestAKeyThatCannotBeStored(t *testing.T) {
	for _, c := range []struct {
		name  string
		value string
		mint  func(apikey.Key, error) (apikey.Key, error)
		live  string
		err   string
	}{
		{
			name: "the secret in the field of the id",
			mint: func(k apikey.Key, err error) (apikey.Key, error) {
				k.Fields["apiKeyId"], k.Fields["apiKey"] = k.Fields["apiKey"], rotators.NewSecret(k.ID)
				return k, err
			},
			live: "key-1", err: "the id in the new value is not that of the key",
		},
		{
			name: "no id in the reply",
			mint: func(k apikey.Key, err error) (apikey.Key, error) {
				return apikey.Key{Fields: map[string]rotators.Secret{"apiKey": k.Fields["apiKey"], "apiKeyId": {}}}, err
			},
			live: "key-1 key-2", err: `nothing for the field "apiKeyId"`, // the next run finds it by its name
		},
		{
			name: "an empty secret in a new field",
			mint: func(k apikey.Key, err error) (apikey.Key, error) {
				k.Fields["token"] = rotators.Secret{}
				return k, err
			},
			live: "key-1", err: `nothing for the field "token"`,
		},
		{
			name:  "a field that is no string",
			value: `{"apiKeyId": "key-1", "apiKey": "the-secret-of-1", "token": [1]}`,
			mint: func(k apikey.Key, err error) (apikey.Key, error) {
				k.Fields["token"] = k.Fields["apiKey"]
				return k, err
			},
			live: "key-1", err: `"token"`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := startVendor(t)
			current := v.add("shop", "by hand")
			r := rotation(current)
			r.Current = rotators.NewSecret(cmp.Or(c.value, current.value().Reveal()))
			_, err := v.careless(careless{mint: c.mint}).Create(t.Context(), r)
			wants(t, err, c.err)
			if strings.Contains(fmt.Sprint(err), v.keys[1].secret) {
				t.Errorf("the error holds the new key: %v", err)
			}
			lives(t, v, c.live)
			for _, call := range v.calls {
				if call == "DELETE /keys/" {
					t.Error("a key without an id is revoked")
				}
			}
		})
	}
}

// What cannot be stored is not minted in the first place.
func TestValuesThatCanHoldNoKey(t *testing.T) {
	for value, text := range map[string]string{
		`{"apiKey": "the-secret-of-1"}`:                                                      `no field "apiKeyId"`,
		`{"apiKeyId": "key-1"}`:                                                              `no field "apiKey"`,
		`{"apiKeyId": "", "apiKey": "the-secret-of-1"}`:                                      `no field "apiKeyId"`,
		`{"apiKeyId": 1, "apiKey": "the-secret-of-1"}`:                                       `no field "apiKeyId" that holds a string`,
		`the-secret-of-1`:                                                                    "neither a JSON object",
		`https://app:the-secret-of-1@acme.example/?apiKeyId=key-1&apiKey=a`:                  "cannot be replaced",
		`{"apiKeyId": "key-1", "apiKey": "the-secret-of-1", "url": "u?key=the-secret-of-1"}`: `also stands in the field "url"`,
		`{"apiKeyId": "key-1", "apiKey": "the-secret-of-1", "apiKeyId": "key-2"}`:            `twice`,
	} {
		v := startVendor(t)
		r := rotation(v.add("shop", "by hand"))
		r.Current = rotators.NewSecret(value)
		_, err := v.rotator(nil).Create(t.Context(), r)
		wants(t, err, text)
		if !rotators.IsPermanent(err) || strings.Contains(fmt.Sprint(err), "the-secret-of-1") {
			t.Errorf("%s: got %v", text, err)
		}
		if len(v.calls) > 0 {
			t.Errorf("%s: the vendor was asked: %v", text, v.calls)
		}
	}
}

func TestAValueGainsAField(t *testing.T) {
	for before, after := range map[string]string{
		`{"apiKeyId": "key-1", "apiKey":"the-secret-of-1", "n": 1.0}`: `{"apiKeyId": "key-2", "apiKey":"the-secret-of-2", "n": 1.0,"host":"eu"}`,
		`{"host":"", "apiKeyId":"key-1", "apiKey":"the-secret-of-1"}`: `{"host":"eu", "apiKeyId":"key-2", "apiKey":"the-secret-of-2"}`,
	} {
		v := startVendor(t)
		r := rotation(v.add("shop", "by hand"))
		r.Current = rotators.NewSecret(before)
		value, err := v.careless(careless{mint: func(k apikey.Key, err error) (apikey.Key, error) {
			k.Fields["host"] = rotators.NewSecret("eu")
			return k, err
		}}).Create(t.Context(), r)
		wants(t, err, "")
		if value.Reveal() != after {
			t.Errorf("got %s, want %s", value.Reveal(), after)
		}
	}
}

func TestGrace(t *testing.T) {
	x := startVendor(t).rotator(nil).(rotators.Retirer)
	for set, want := range map[time.Duration]time.Duration{-1: 24 * time.Hour, 0: 0, time.Hour: time.Hour} {
		if got := x.Grace(rotators.Settings{Grace: set}); got != want {
			t.Errorf("rekey:grace of %v: got %v, want %v", set, got, want)
		}
	}
}

// Two runs of one createSecret: whichever stores its value, in the end there is that key
// or none that is not stored.
func TestTwoCreatesAtOnce(t *testing.T) {
	v := startVendor(t)
	r := rotation(v.add("shop", "by hand"))
	x := v.rotator(nil)
	// The second run goes from start to end while the first one is about to mint.
	var second rotators.Secret
	v.onWrite = func() {
		v.onWrite = nil
		var err error
		second, err = x.Create(t.Context(), r)
		wants(t, err, "")
	}
	first, err := x.Create(t.Context(), r)
	wants(t, err, "")
	lives(t, v, "key-1 key-2 key-3")

	r.Pending = first // it came too late: the second one is stored
	wants(t, x.(rotators.Discarder).Discard(t.Context(), r), "")
	wants(t, x.(rotators.Discarder).Discard(t.Context(), r), "") // again
	r.Pending = second
	wants(t, x.Set(t.Context(), r), "")
	lives(t, v, "key-1 key-2")
	if !v.holds(second) {
		t.Error("the stored key is gone")
	}
}

// Somebody stored by hand, with a field more, what the attempt had made.
func TestDiscardKeepsWhatReadersGet(t *testing.T) {
	v := startVendor(t)
	current, previous := v.add("shop", apikey.Name(secret, token, v.time())), v.add("shop", apikey.Name(secret, "before", v.time()))
	r := rotation(current, previous)
	for _, c := range []struct {
		pending *key
		err     error
	}{{current, nil}, {previous, rotators.ErrFormer}} {
		r.Pending = c.pending.value()
		if err := v.rotator(nil).(rotators.Discarder).Discard(t.Context(), r); !errors.Is(err, c.err) {
			t.Errorf("got %v, want %v", err, c.err)
		}
	}
	lives(t, v, "key-1 key-2")
}

// Each stray is judged right before its revocation: by what the secret holds then, and by
// whether the run that minted it may be about to store it. Set knows what
// was stored.
func TestAStrayIsJudgedRightBeforeItIsRevoked(t *testing.T) {
	v := startVendor(t)
	current := v.add("shop", "by hand")
	stays := map[string]rotators.Use{}
	for _, use := range []rotators.Use{rotators.Former, rotators.InUse} {
		stays[v.add("shop", apikey.Name(secret, "another attempt", v.time())).id] = use
	}
	v.add("shop", apikey.Name(secret, "another attempt", v.time()))      // key-4: its run is over
	v.add("shop", apikey.Name(secret, token, v.time()))                  // key-5: its run is over
	v.add("shop", apikey.Name(secret, token, v.time().Add(time.Second))) // key-6: its run is not
	r := rotation(current)
	var asked []string
	r.Use = func(_ context.Context, holds func(rotators.Secret) bool) (rotators.Use, error) {
		if len(v.calls) == 0 || v.calls[len(v.calls)-1] == "POST /keys" {
			t.Errorf("it is asked after %v", v.calls)
		}
		for _, k := range v.keys {
			if holds(k.value()) {
				asked = append(asked, k.id)
				return stays[k.id], nil
			}
		}
		return rotators.Unused, nil
	}
	pending, err := v.rotator(nil).Create(t.Context(), r)
	wants(t, err, "")
	lives(t, v, "key-1 key-2 key-3 key-6 key-7")
	if !slices.Equal(asked, []string{"key-2", "key-3", "key-4", "key-5"}) {
		t.Errorf("asked about %v", asked)
	}
	r.Pending = pending
	wants(t, v.rotator(nil).Set(t.Context(), r), "")
	lives(t, v, "key-1 key-2 key-3 key-7")
}

// The secret is not what it was when the step began. Nothing is revoked or minted, and
// the error is the engine's.
func TestNothingIsRevokedOnceTheAttemptHasChanged(t *testing.T) {
	changed := errors.New("the attempt has changed")
	for name, limit := range map[string]int{"a stray": 0, "an older key that would make room": 2} {
		t.Run(name, func(t *testing.T) {
			v := startVendor(t)
			r := rotation(v.add("shop", "by hand"), v.add("shop", "by hand"))
			if v.limit = limit; limit == 0 {
				v.add("shop", apikey.Name(secret, "another attempt", v.time()))
			}
			r.Use = func(context.Context, func(rotators.Secret) bool) (rotators.Use, error) { return 0, changed }
			before := v.live("shop")
			x := v.rotator(nil)
			_, err := x.Create(t.Context(), r)
			if !errors.Is(err, changed) {
				t.Errorf("got %v", err)
			}
			if err := x.(rotators.Retirer).Retire(t.Context(), r); !errors.Is(err, changed) {
				t.Errorf("Retire: got %v", err)
			}
			r.Pending = v.add("shop", "pending").value()
			if err := x.(rotators.Discarder).Discard(t.Context(), r); !errors.Is(err, changed) {
				t.Errorf("Discard: got %v", err)
			}
			lives(t, v, before+" "+v.keys[len(v.keys)-1].id)
		})
	}
}

// A key in use makes no room, even if the previous version holds it, too.
func TestAKeyInUseMakesNoRoom(t *testing.T) {
	v := startVendor(t)
	r := rotation(v.add("shop", "by hand"), v.add("shop", "by hand"), v.add("shop", "by hand"))
	v.limit = 3
	r.Use = func(_ context.Context, holds func(rotators.Secret) bool) (rotators.Use, error) {
		if holds(v.keys[2].value()) { // by the owner's own label
			return rotators.InUse, nil
		}
		return rotators.Former, nil
	}
	_, err := v.rotator(nil).Create(t.Context(), r)
	wants(t, err, "")
	lives(t, v, "key-1 key-3 key-4")
}

// A version by hand names the key and could hold no other: it holds the key all the same.
func TestAValueThatNamesAKeyHoldsIt(t *testing.T) {
	for text, kept := range map[string]bool{
		`{"apiKeyId": "key-2", "apiKey": "the-secret-of-2", "url": "u?key=the-secret-of-2"}`: true,
		`https://key-2:the-secret-of-2@acme.example/`:                                        true,
		`key-2`: true,
		`{"apiKeyId": "key-1", "apiKey": "the-secret-of-1", "mailer": {"apiKeyId": "key-2"}}`: true,
		`{"apiKeyId": "key-1", "apiKey": "the-secret-of-1", "note": "once key-2"}`:            true,
		`{"apiKeyId": "key-2\n", "apiKey": "the-secret-of-2"}`:                                true,
		`{"apiKeyId": "key\u002d2", "apiKey": "the-secret-of-2"}`:                             true,
		`{"apiKeyId": "key-22"}`:                       false,
		`{"apiKeyId": "key-22", "apiKey": "a secret"}`: false,
		`monkey-2`: false,
	} {
		v := startVendor(t)
		r := rotation(v.add("shop", "by hand"))
		v.add("shop", apikey.Name(secret, "another attempt", v.time()))
		r.Use = func(_ context.Context, holds func(rotators.Secret) bool) (rotators.Use, error) {
			if holds(rotators.NewSecret(text)) {
				return rotators.Former, nil
			}
			return rotators.Unused, nil
		}
		_, err := v.rotator(nil).Create(t.Context(), r)
		wants(t, err, "")
		if got := strings.Contains(v.live("shop"), "key-2"); got != kept {
			t.Errorf("%s: the key stays: %t", text, got)
		}
	}
}

// The key that readers get was made a moment ago, and is refused until it has settled.
func TestCreateWaitsUntilTheCurrentKeyHasSettled(t *testing.T) {
	v := startVendor(t)
	current := v.add("shop", "by hand")
	current.changed = v.time()
	value, err := v.rotator(nil).Create(t.Context(), rotation(current))
	wants(t, err, "")
	if !v.holds(value) || v.waited < settling || v.waited > 3*settling {
		t.Errorf("after %v", v.waited)
	}
}

// Set ends when the key has worked for the whole settling time, however it flaps.
func TestSetWaitsUntilTheKeyHasSettled(t *testing.T) {
	v := startVendor(t)
	r := rotation(v.add("shop", "by hand"))
	x := v.rotator(nil)
	r.Pending, _ = x.Create(t.Context(), r)
	wants(t, x.Set(t.Context(), r), "")
	if v.waited < settling || v.waited > 2*settling {
		t.Errorf("it waited %v", v.waited)
	}
	for range 9 {
		wants(t, x.Test(t.Context(), r), "")
	}
}

func TestSetGivesUp(t *testing.T) {
	for _, c := range []struct {
		name               string
		change             func(*vendor)
		refused, permanent bool
		err                string
		waited             time.Duration
	}{
		{name: "the key is refused", change: func(v *vendor) { v.keys[1].secret = "other" }, refused: true, err: "give this attempt up: take the label AWSPENDING off version " + token + ", or delete", waited: 4 * settling},
		{name: "it is another one", change: func(v *vendor) { v.keys[1].id = "key-3" }, permanent: true, err: "put one of them right"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := startVendor(t)
			r := rotation(v.add("shop", "by hand"))
			x := v.rotator(nil)
			r.Pending, _ = x.Create(t.Context(), r)
			v.keys[1].changed = time.Time{} // known everywhere
			c.change(v)
			err := x.Set(t.Context(), r)
			wants(t, err, c.err)
			if rotators.IsRefused(err) != c.refused || rotators.IsPermanent(err) != c.permanent || v.waited != c.waited {
				t.Errorf("refused %t, permanent %t, after %v: %v", rotators.IsRefused(err), rotators.IsPermanent(err), v.waited, err)
			}
		})
	}
}

// An issuer that is down says nothing about a key.
func TestCannotTellIsNotRefused(t *testing.T) {
	v := startVendor(t)
	r := rotation(v.add("shop", "by hand"), v.add("shop", "by hand"))
	x := v.rotator(nil)
	r.Pending, _ = x.Create(t.Context(), r)
	v.down = true
	for name, step := range map[string]func(context.Context, rotators.Rotation) error{
		"Set": x.Set, "Test": x.Test, "Retire": x.(rotators.Retirer).Retire, "Discard": x.(rotators.Discarder).Discard,
		"Create": func(ctx context.Context, r rotators.Rotation) error { _, err := x.Create(ctx, r); return err },
	} {
		if err := step(t.Context(), r); err == nil || rotators.IsRefused(err) || rotators.IsPermanent(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	lives(t, v, "key-1 key-2 key-3")
}

func TestRetireWaitsUntilTheKeyIsRefused(t *testing.T) {
	v := startVendor(t)
	current, previous := v.add("shop", "by hand"), v.add("shop", "by hand")
	r := rotation(current, previous)
	x := v.rotator(nil)
	wants(t, x.(rotators.Retirer).Retire(t.Context(), r), "")
	if v.waited < settling {
		t.Errorf("it waited %v", v.waited)
	}
	for r.Pending = previous.value(); v.time().Before(previous.changed.Add(2 * settling)); _ = v.pause(t.Context(), settling/7) {
		if err := x.Test(t.Context(), r); !rotators.IsRefused(err) {
			t.Errorf("after %v: got %v", v.waited, err)
		}
	}
	lives(t, v, "key-1")
}

// Revoked, the key goes on working for minutes. The retirement is not over then, and an
// emergency does not wait for it: the error is permanent, which the engine notes.
func TestAVendorThatIsLateToRevoke(t *testing.T) {
	v := startVendor(t)
	current, previous := v.add("shop", "by hand"), v.add("shop", "by hand")
	x := v.rotator(nil).(rotators.Retirer)
	v.settling = 20 * settling // more than it says
	err := x.Retire(t.Context(), rotation(current, previous))
	wants(t, err, "it was revoked and still works, for 40s now")
	if !rotators.IsPermanent(err) || rotators.IsRefused(err) || v.waited != 4*settling {
		t.Errorf("after %v: got %v", v.waited, err)
	}
	_ = v.pause(t.Context(), v.settling)
	wants(t, x.Retire(t.Context(), rotation(current, previous)), "")
	lives(t, v, "key-1")
}

func TestRetireRevokesNothingElse(t *testing.T) {
	v := startVendor(t)
	current := v.add("shop", "by hand")
	x := v.rotator(nil).(rotators.Retirer)
	r := rotation(current, current)
	err := x.Retire(t.Context(), r)
	wants(t, err, "because a version in use holds the same key")
	if !rotators.IsPermanent(err) {
		t.Errorf("no retry cures it: %v", err)
	}
	// No key of it is known.
	r.Previous = func(context.Context) (rotators.Secret, error) { return rotators.NewSecret("hello"), nil }
	wants(t, x.Retire(t.Context(), r), "")
	lives(t, v, "key-1")
}

// An id that was mistyped in the first value would have somebody else's key revoked when
// the grace is over.
func TestAnIDOfAnotherKey(t *testing.T) {
	v := startVendor(t)
	r := rotation(v.add("shop", "by hand"))
	r.Current, _ = r.Current.Replace("apiKeyId", rotators.NewSecret(v.add("shop", "a person's").id))
	_, err := v.rotator(nil).Create(t.Context(), r)
	wants(t, err, "the field apiKeyId says key-2, and the key in apiKey is key-1")
	if !rotators.IsPermanent(err) {
		t.Errorf("no retry cures it: %v", err)
	}
	lives(t, v, "key-1 key-2")
}

// Whoever can write a secret can write any id into it. Before a key is revoked, the recorded
// value has to prove that the key was this secret's: by working, once the vendor's servers
// agree. (Such a try counts as the key's last use at some issuers; those are asked before.)
func TestRetireTriesTheKeyBeforeItIsRevoked(t *testing.T) {
	v := startVendor(t)
	current, previous := v.add("shop", "by hand"), v.add("shop", "by hand")
	previous.changed = v.time() // so that it is refused for a while
	r := rotation(current, previous)
	wants(t, v.rotator(nil).(rotators.Retirer).Retire(t.Context(), r), "")
	if v.calls[0] != "GET /me" || v.waited < 2*settling {
		t.Errorf("the first call is %s, and it waited %v", v.calls[0], v.waited)
	}
	lives(t, v, "key-1")
}

// A vendor that tells the state of keys, and one that does not.
func TestAnIDProvesNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		tells bool
		state apikey.State
		live  string
		err   string
	}{
		{"nothing is told", false, apikey.Untold, "key-1 key-2", ""},
		{"active", true, apikey.Active, "key-1 key-2", "the key key-2: the key is active, and is refused with the secret that was recorded beside its id"},
		{"half revoked", true, apikey.Disabled, "key-1", ""},
		{"not listed", true, apikey.Untold, "key-1 key-2", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := startVendor(t)
			current, theirs := v.add("shop", "by hand"), v.add("shop", "another application's")
			r := rotation(current, theirs)
			theirs.secret = "not what was recorded"
			x := apikey.New(func(ctx context.Context, r rotators.Rotation) (apikey.Issuer, error) {
				a := &acme{url: v.URL, client: v.Client(), settling: v.settling, r: r}
				if c.tells {
					return telling{a, c.state}, nil
				}
				return a, nil
			}, v.apikey())
			err := x.(rotators.Retirer).Retire(t.Context(), r)
			wants(t, err, c.err)
			if c.err != "" && !rotators.IsPermanent(err) {
				t.Errorf("no retry cures it: %v", err)
			}
			lives(t, v, c.live)
			if c.state != apikey.Disabled && v.waited < settling {
				t.Errorf("a key may flap, and it waited %v only", v.waited)
			}

			// For want of room, too.
			v.limit = 2
			_, err = x.Create(t.Context(), r)
			if c.state == apikey.Disabled {
				wants(t, err, "")
				return
			}
			wants(t, err, "of the older keys that this secret recorded, key-2 is left alone")
			lives(t, v, "key-1 key-2")
		})
	}
}

type telling struct {
	*acme
	state apikey.State
}

func (t telling) State(context.Context, string) (apikey.State, error) { return t.state, nil }

// The platform ends a run in the middle of a wait: it hears of it at once, and the next
// run finishes.
func TestAWaitThatIsCutShort(t *testing.T) {
	v := startVendor(t)
	current, previous := v.add("shop", "by hand"), v.add("shop", "by hand")
	r := rotation(current, previous)
	// It really waits, and an hour is more than a test has.
	real := NewAcme(v.URL, v.Client(), 5*time.Hour, nil)
	x := v.rotator(nil)
	r.Pending, _ = x.Create(t.Context(), r)
	for name, c := range map[string]struct {
		cut, again func(context.Context, rotators.Rotation) error
	}{
		"Set":    {real.Set, x.Set},
		"Retire": {real.(rotators.Retirer).Retire, x.(rotators.Retirer).Retire},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // which the first look of a busy machine takes part of
		err := c.cut(ctx, r)
		cancel()
		wants(t, err, "waiting until it has settled")
		if !errors.Is(err, context.DeadlineExceeded) || rotators.IsPermanent(err) {
			t.Errorf("%s: got %v", name, err)
		}
		wants(t, c.again(t.Context(), r), "")
	}
}

func TestAdmin(t *testing.T) {
	accept := func(err error) func(context.Context, rotators.Secret) error {
		return func(context.Context, rotators.Secret) error { return err }
	}
	for _, c := range []struct {
		name    string
		verify  error
		vouches bool
		err     string
	}{
		{name: "what readers get works"},
		{name: "it is refused", verify: rotators.Refused(errors.New("no such key")), err: "rekey:admin-for"},
		{name: "it is refused, and the owner vouches", verify: rotators.Refused(errors.New("no such key")), vouches: true},
		{name: "cannot tell, and the owner vouches", verify: errors.New("timeout"), vouches: true, err: "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked []string
			value, err := apikey.Admin(t.Context(), rotators.Rotation{
				Settings: rotators.Settings{Admin: "acme-admin"},
				Vouches: func(_ context.Context, ref string) (bool, error) {
					asked = append(asked, "vouches "+ref)
					return c.vouches, nil
				},
				Lookup: func(_ context.Context, ref string) (rotators.Secret, error) {
					asked = append(asked, "lookup "+ref)
					return rotators.NewSecret("admin"), nil
				},
			}, accept(c.verify))
			wants(t, err, c.err)
			if rotators.IsRefused(err) || slices.Contains(asked, "lookup acme-admin") != (c.err == "") || value.IsZero() != (c.err != "") {
				t.Errorf("got %v, asked %v", err, asked)
			}
		})
	}
}
