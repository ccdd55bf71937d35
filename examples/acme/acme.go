// Package acme rotates API keys of Acme, a vendor that does not exist. It is an
// example of a rotator in a module of its own, for people who write one: it
// imports rekey's public packages and nothing else of it. It is built on apikey, as
// rotators are whose keys a vendor makes.
//
// A key of Acme makes other keys of its account, with a name of the caller's
// choice, lists them and deletes them. So readers never meet a refused key: the
// old one works until the new one is current, and is retired a day later.
package acme

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
)

// The fields of the value. Whatever else stands in it is left alone.
const (
	fieldKey = "apiKey"
	fieldID  = "apiKeyId"
)

// New returns the rotator. The address comes from main, not from the value, so
// that whoever can write a secret cannot choose who is sent a key. transport is
// the way out, http.DefaultTransport outside of tests.
//
// What Acme's API looks like is all that is written here. That no key is revoked
// which somebody uses, whatever dies or comes twice, is apikey's part.
func New(address string, transport http.RoundTripper) rotators.Rotator {
	client := &http.Client{Transport: transport}
	return apikey.New(func(_ context.Context, r rotators.Rotation) (apikey.Issuer, error) {
		for name := range r.Settings.Options {
			return nil, rotators.Permanent(fmt.Errorf("acme has no option %q, nor any other: remove the tag rekey:options", name))
		}
		return &issuer{address, client, r}, nil
	}, nil)
}

// issuer is Acme for one rotation.
type issuer struct {
	address string
	client  *http.Client
	r       rotators.Rotation
}

func (a *issuer) ID(v rotators.Secret) (string, error) { return apikey.ID(v, fieldID, fieldKey) }

// A key's name says who made it, so nothing is written down before it is made.
func (a *issuer) Begin(context.Context, string) error { return nil }
func (a *issuer) Done(context.Context, string) error  { return nil }

// Settling is 0: all of Acme's servers know of a key at once.
func (a *issuer) Settling() time.Duration { return 0 }

// Mint makes a key.
func (a *issuer) Mint(ctx context.Context, name string) (apikey.Key, error) {
	var made struct{ ID, Key string }
	if err := a.call(ctx, a.r.Current, http.MethodPost, "/keys", map[string]string{"name": name}, &made); err != nil {
		return apikey.Key{}, err
	}
	return apikey.Key{ID: made.ID, Fields: map[string]rotators.Secret{
		fieldID:  rotators.NewSecret(made.ID),
		fieldKey: rotators.NewSecret(made.Key),
	}}, nil
}

// Strays lists the account's keys, of which apikey picks those that it made.
func (a *issuer) Strays(ctx context.Context, _ ...string) (keys []apikey.Stray, err error) {
	err = a.call(ctx, a.r.Current, http.MethodGet, "/keys", nil, &keys)
	return keys, err
}

// Verify uses the key for a call that changes nothing.
func (a *issuer) Verify(ctx context.Context, v rotators.Secret) error {
	return a.call(ctx, v, http.MethodGet, "/keys", nil, nil)
}

// Revoke is done if the key is gone already.
func (a *issuer) Revoke(ctx context.Context, id string) error {
	err := a.call(ctx, a.r.Current, http.MethodDelete, "/keys/"+url.PathEscape(id), nil, nil)
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

var errGone = errors.New("acme has no such key")

// call makes one call with the key in a value. Only Acme's own 401 is a refusal;
// that the network failed, or Acme did, says nothing about a key. What Acme
// writes into the body of an error stays unread: nobody knows what that is.
func (a *issuer) call(ctx context.Context, as rotators.Secret, method, path string, question, answer any) error {
	secret, err := as.Field(fieldKey)
	if err != nil {
		return err
	}
	if strings.ContainsFunc(secret.Reveal(), func(c rune) bool { return c <= ' ' || c > '~' }) {
		return rotators.Permanent(fmt.Errorf("the field %q holds a character that no key of acme has", fieldKey))
	}
	var body bytes.Buffer
	if question != nil {
		if err := json.NewEncoder(&body).Encode(question); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, a.address+path, &body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+secret.Reveal())
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return rotators.Refused(errors.New("acme refuses the key"))
	case resp.StatusCode == http.StatusNotFound:
		return errGone
	case resp.StatusCode >= 300:
		return fmt.Errorf("acme answers %s to %s %s", resp.Status, method, path)
	case answer != nil && json.NewDecoder(resp.Body).Decode(answer) != nil:
		return fmt.Errorf("acme's answer to %s %s is not what its documentation says", method, path)
	}
	return nil
}
