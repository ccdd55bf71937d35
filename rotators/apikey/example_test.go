package apikey_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
)

// acme is a whole issuer, for the API keys of a vendor of the usual kind.
type acme struct {
	url      string
	client   *http.Client // it must follow no redirects to other hosts
	settling time.Duration
	r        rotators.Rotation
	manager  rotators.Secret // what holds the key that may mint and revoke, once it is known
}

// NewAcme returns the rotator to put into a registry, as "acme" say.
func NewAcme(url string, client *http.Client, settling time.Duration, clock *apikey.Clock) rotators.Rotator {
	return apikey.New(func(_ context.Context, r rotators.Rotation) (apikey.Issuer, error) {
		for name := range r.Settings.Options {
			return nil, rotators.Permanent(fmt.Errorf("acme has no option %q, and no others", name))
		}
		return &acme{url: url, client: client, settling: settling, r: r}, nil
	}, clock)
}

func (a *acme) ID(v rotators.Secret) (string, error) { return apikey.ID(v, "apiKeyId", "apiKey") }

// A key's name says who minted it, so nothing has to be recorded beforehand.
func (a *acme) Begin(context.Context, string) error { return nil }
func (a *acme) Done(context.Context, string) error  { return nil }
func (a *acme) Settling() time.Duration             { return a.settling }

func (a *acme) Mint(ctx context.Context, name string) (apikey.Key, error) {
	var made struct{ ID, Secret string }
	status, err := a.manage(ctx, http.MethodPost, "/keys", map[string]string{"name": name}, &made)
	if status == http.StatusConflict {
		return apikey.Key{}, apikey.ErrFull
	}
	return apikey.Key{ID: made.ID, Fields: map[string]rotators.Secret{
		"apiKeyId": rotators.NewSecret(made.ID),
		"apiKey":   rotators.NewSecret(made.Secret),
	}}, err
}

func (a *acme) Strays(ctx context.Context, _ ...string) (keys []apikey.Stray, err error) {
	_, err = a.manage(ctx, http.MethodGet, "/keys", nil, &keys)
	return keys, err
}

func (a *acme) Verify(ctx context.Context, v rotators.Secret) error {
	id, err := a.ID(v)
	if err != nil {
		return err
	}
	var me struct{ ID string }
	status, err := a.call(ctx, v, http.MethodGet, "/me", nil, &me)
	switch {
	case status == http.StatusUnauthorized:
		return rotators.Refused(fmt.Errorf("Acme refuses the key %s", id))
	case err != nil:
		return err
	case me.ID != id:
		return rotators.Permanent(fmt.Errorf("the field apiKeyId says %s, and the key in apiKey is %s: put one of them right", id, me.ID))
	}
	return nil
}

func (a *acme) Revoke(ctx context.Context, id string) error {
	status, err := a.manage(ctx, http.MethodDelete, "/keys/"+id, nil, nil)
	if status == http.StatusNotFound {
		return nil
	}
	return err
}

// manage makes a call with the key that may: that of rekey:admin, else the one that
// readers get.
func (a *acme) manage(ctx context.Context, method, path string, in, out any) (status int, err error) {
	switch {
	case !a.manager.IsZero():
	case a.r.Settings.Admin == "":
		a.manager = a.r.Current
	default:
		if a.manager, err = apikey.Admin(ctx, a.r, a.Verify); err != nil {
			return 0, err
		}
	}
	return a.call(ctx, a.manager, method, path, in, out)
}

// call makes a call with the key in a value. No error holds what Acme answered, because
// that may be a key.
func (a *acme) call(ctx context.Context, with rotators.Secret, method, path string, in, out any) (status int, err error) {
	key, err := with.Field("apiKey")
	if err != nil {
		return 0, err
	}
	body, err := json.Marshal(in)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+key.Reveal())
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 300 {
		return resp.StatusCode, fmt.Errorf("Acme answers %s %s with %s", method, path, resp.Status)
	}
	if out != nil && json.NewDecoder(resp.Body).Decode(out) != nil {
		err = fmt.Errorf("Acme's answer to %s %s is not what it documents", method, path)
	}
	return resp.StatusCode, err
}

// One rotation, and the retirement when the grace is over. What the engine does is
// written out; vendor is a small Acme, on a clock that moves when it is waited for.
func Example() {
	vendor := newVendor()
	defer vendor.Close()
	vendor.settling = 10 * time.Second
	rotator := NewAcme(vendor.URL, vendor.Client(), vendor.settling, vendor.apikey())

	ctx := context.Background()
	none := rotators.Secret{}
	r := rotators.Rotation{
		ID:       "arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/acme-AbCdEf",
		Token:    "6d7c2f1e-2f0b-4f7e-9a53-0c1f5f6f3b1a",
		Current:  vendor.add("shop", "made by hand").value(),
		Previous: func(context.Context) (rotators.Secret, error) { return none, nil },
		Leftovers: func(context.Context) iter.Seq2[rotators.Secret, error] {
			return func(func(rotators.Secret, error) bool) {}
		},
		Use: func(context.Context, func(rotators.Secret) bool) (rotators.Use, error) { return rotators.Unused, nil },
	}
	fmt.Println("before:", vendor.live("shop"))

	pending, err := rotator.Create(ctx, r)
	r.Pending = pending // stored, in the engine
	fmt.Println("createSecret:", vendor.live("shop"), err)
	fmt.Println("setSecret:", rotator.Set(ctx, r), "after", vendor.waited)
	fmt.Println("testSecret:", rotator.Test(ctx, r))

	old := r.Current
	r.Current, r.Pending = r.Pending, none // finishSecret
	r.Previous = func(context.Context) (rotators.Secret, error) { return old, nil }
	retirer := rotator.(rotators.Retirer)
	fmt.Println("grace:", retirer.Grace(rotators.Settings{Grace: -1}))
	fmt.Println("retirement:", retirer.Retire(ctx, r), vendor.live("shop"))
	// Output:
	// before: key-1
	// createSecret: key-1 key-2 <nil>
	// setSecret: <nil> after 16s
	// testSecret: <nil>
	// grace: 24h0m0s
	// retirement: <nil> key-2
}
