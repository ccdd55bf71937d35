// Package acme rotates API keys of Acme, a vendor that does not exist. It is an
// example of a rotator in a module of its own, for people who write one: it
// imports rekey's public packages and nothing else of it.
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
)

// The fields of the value. Whatever else stands in it is left alone.
const (
	fieldKey = "apiKey"
	fieldID  = "apiKeyId"
)

// New returns the rotator. The address comes from main, not from the value, so
// that whoever can write a secret cannot choose who is sent a key. transport is
// the way out, http.DefaultTransport outside of tests.
func New(address string, transport http.RoundTripper) rotators.Rotator {
	return &rotator{address, &http.Client{Transport: transport}}
}

type rotator struct {
	address string
	client  *http.Client
}

var _ rotators.Retirer = (*rotator)(nil)

// Create mints a key. A run before it may have minted one and died before it
// could be stored: that one goes first.
func (a *rotator) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	for name := range r.Settings.Options {
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("acme has no option %q, nor any other: remove the tag rekey:options", name))
	}
	if err := a.deleteStrays(ctx, r, r.Current); err != nil {
		return rotators.Secret{}, err
	}
	var made struct{ ID, Key string }
	if err := a.call(ctx, r.Current, http.MethodPost, "/keys", key{Name: prefix(r) + r.Token}, &made); err != nil {
		return rotators.Secret{}, fmt.Errorf("making a key: %w", err)
	}
	next, err := r.Current.Replace(fieldID, rotators.NewSecret(made.ID))
	if err != nil {
		return rotators.Secret{}, err
	}
	return next.Replace(fieldKey, rotators.NewSecret(made.Key))
}

// Set has nothing to set: the key works since it was minted. If two runs of
// Create met, this is where the key that was not stored goes.
func (a *rotator) Set(ctx context.Context, r rotators.Rotation) error {
	return a.deleteStrays(ctx, r, r.Current, r.Pending)
}

// Test uses the key for a call that changes nothing.
func (a *rotator) Test(ctx context.Context, r rotators.Rotation) error {
	return a.call(ctx, r.Pending, http.MethodGet, "/keys", nil, nil)
}

// Grace is a day, unless the owner says otherwise: readers fetch a secret anew at
// least that often.
func (a *rotator) Grace(s rotators.Settings) time.Duration {
	if s.Grace < 0 {
		return 24 * time.Hour
	}
	return s.Grace
}

// Retire deletes the previous key, which need not be one that rekey made, and
// is the current one if the owner has edited what stands beside it.
func (a *rotator) Retire(ctx context.Context, r rotators.Rotation) error {
	if err := a.deleteStrays(ctx, r, r.Current); err != nil {
		return err
	}
	previous, err := r.Previous(ctx)
	if err != nil || previous.IsZero() {
		return err
	}
	old, err := previous.Field(fieldID)
	if err != nil {
		return err
	}
	current, err := r.Current.Field(fieldID)
	if err != nil || old.IsZero() || old.Equal(current) {
		return err
	}
	return a.delete(ctx, r.Current, old.Reveal())
}

// key is how Acme lists one.
type key struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name"`
}

// prefix starts the name of every key that is made for one secret, and of no
// other key: by it a stray is known.
func prefix(r rotators.Rotation) string { return "rekey " + r.ID + " " }

// deleteStrays deletes the keys that were made for this secret and that no
// value to keep holds.
func (a *rotator) deleteStrays(ctx context.Context, r rotators.Rotation, keep ...rotators.Secret) error {
	kept := map[string]bool{}
	for _, value := range keep {
		id, err := value.Field(fieldID)
		if err != nil {
			return err
		}
		kept[id.Reveal()] = true
	}
	var keys []key
	if err := a.call(ctx, r.Current, http.MethodGet, "/keys", nil, &keys); err != nil {
		return fmt.Errorf("listing keys: %w", err)
	}
	for _, k := range keys {
		if strings.HasPrefix(k.Name, prefix(r)) && !kept[k.ID] {
			if err := a.delete(ctx, r.Current, k.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// delete is done if the key is gone already.
func (a *rotator) delete(ctx context.Context, as rotators.Secret, id string) error {
	err := a.call(ctx, as, http.MethodDelete, "/keys/"+url.PathEscape(id), nil, nil)
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

var errGone = errors.New("acme has no such key")

// call makes one call with the key in a value. Only Acme's own 401 is a refusal;
// that the network failed, or Acme did, says nothing about a key. What Acme
// writes into the body of an error stays unread: nobody knows what that is.
func (a *rotator) call(ctx context.Context, as rotators.Secret, method, path string, question, answer any) error {
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
