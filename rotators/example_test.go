package rotators_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/rekeyhq/rekey/rotators"
)

// Acme rotates the password of a user of Acme's API. A user may change the
// password itself, by POST /password with the old one as basic auth.
//
// A whole rotator: what a login is, what the target's answers mean, and the
// three methods.
type Acme struct {
	client *http.Client
}

// NewAcme takes the way out, so that tests can watch it.
func NewAcme(transport http.RoundTripper) Acme {
	return Acme{client: &http.Client{
		Transport: transport,
		// A redirect would send the new password on to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

var _ rotators.Rotator = Acme{}

// Create makes the next value. Nothing happens at Acme yet.
func (a Acme) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	for key := range r.Settings.Options {
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("acme has no option %q", key))
	}
	password, err := r.Settings.Password.Generate(32, "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789")
	if err != nil {
		return rotators.Secret{}, err
	}
	return r.Current.Replace("password", password)
}

// Set changes the password. A second run finds the current one refused and the
// pending one accepted, and that is success.
func (a Acme) Set(ctx context.Context, r rotators.Rotation) error {
	if err := sameAccount(r.Current, r.Pending); err != nil {
		return err
	}
	next, err := r.Pending.Field("password")
	if err != nil {
		return err
	}
	err = a.send(ctx, http.MethodPost, r.Current, "/password", next.Reveal())
	if rotators.IsRefused(err) {
		return a.send(ctx, http.MethodGet, r.Pending, "/me", "")
	}
	return err
}

// Test logs in with the pending password, and changes nothing.
func (a Acme) Test(ctx context.Context, r rotators.Rotation) error {
	return a.send(ctx, http.MethodGet, r.Pending, "/me", "")
}

// send makes one call as the user that login names. Only Acme's own 401 is a
// refusal; that the network failed, or Acme did, says nothing about a password.
func (a Acme) send(ctx context.Context, method string, login rotators.Secret, path, body string) error {
	url, err := login.Field("url")
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, url.Reveal()+path, strings.NewReader(body))
	if err != nil {
		return rotators.Permanent(errors.New(`the field "url" of the value is not a URL`))
	}
	user, err := login.Field("username")
	if err != nil {
		return err
	}
	password, err := login.Field("password")
	if err != nil {
		return err
	}
	req.SetBasicAuth(user.Reveal(), password.Reveal())
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	// The body stays unread: nobody knows what a vendor writes into it.
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		return rotators.Refused(fmt.Errorf("acme refuses the password of %s", user.Reveal()))
	default:
		return fmt.Errorf("acme answers %s to %s %s", resp.Status, method, path)
	}
}

// sameAccount keeps whoever can write the secret from choosing whose password
// is changed, and who is sent it.
func sameAccount(current, pending rotators.Secret) error {
	for _, name := range []string{"url", "username"} {
		was, err := current.Field(name)
		if err != nil {
			return err
		}
		is, err := pending.Field(name)
		if err != nil {
			return err
		}
		if !is.Equal(was) {
			return rotators.Permanent(fmt.Errorf("the pending value names another %s than the current one", name))
		}
	}
	return nil
}

// A registry lists what a function can rotate; see package functions for the
// main around it.
func Example() {
	registry := rotators.Registry{
		"acme": NewAcme(http.DefaultTransport),
	}
	fmt.Println(registry.Names())
	// Output: [acme]
}
