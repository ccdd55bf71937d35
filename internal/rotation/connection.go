package rotation

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/rekeyhq/rekey/internal/plaintext"
	"github.com/rekeyhq/rekey/rotators"
)

// A value that is a plain-text password does not say where it is used; the
// rekey:connection tag does, as a URL without the password, or as Siblings.
// Rotators see the two put together, and only the password is stored.

// Siblings is what rekey:connection says where the parts of a connection are
// parameters of their own beside the password's: /shop/db/host beside
// /shop/db/password. The store that can read them puts an object in its place.
const Siblings = "siblings"

// present returns the value as a rotator is to see it.
func (t Tags) present(stored rotators.Secret) (rotators.Secret, error) {
	if t.Connection == "" || stored.IsZero() {
		return stored, nil
	}
	if _, err := stored.Field("password"); err == nil {
		return rotators.Secret{}, rotators.Permanent(errors.New("the value has fields of its own, and the tag rekey:connection is for plain text: remove one of them"))
	}
	// A rotation replaces the text whole, and a file would be gone.
	if why := plaintext.Why(stored.Reveal()); why != "" {
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("the tag rekey:connection is for a value that is a password and nothing else, and the value %s", why))
	}
	if connection, ok := strings.CutSuffix(t.Connection, "}"); ok {
		if connection != "{" {
			connection += ","
		}
		password, err := json.Marshal(stored.Reveal())
		if err != nil {
			return rotators.Secret{}, fmt.Errorf("writing the password as JSON: %w", err)
		}
		return rotators.NewSecret(connection + `"password":` + string(password) + "}"), nil
	}
	if t.Connection == Siblings {
		return rotators.Secret{}, rotators.Permanent(errors.New("the tag rekey:connection is \"siblings\", which only a parameter can have, not a secret: write a URL like postgres://app@db.example.com:5432/shop"))
	}
	bad := rotators.Permanent(errors.New("the tag rekey:connection is not a URL with a user and no password: write it like postgres://app@db.example.com:5432/shop"))
	scheme, rest, ok := strings.Cut(t.Connection, "://")
	user, place, at := strings.Cut(rest, "@")
	if !ok || !at || user == "" || strings.ContainsAny(user, ":/?#") {
		return rotators.Secret{}, bad
	}
	password := strings.TrimPrefix(url.UserPassword("", stored.Reveal()).String(), ":")
	value := rotators.NewSecret(scheme + "://" + user + ":" + password + "@" + place)
	if _, err := value.Field("password"); err != nil {
		return rotators.Secret{}, fmt.Errorf("the tag rekey:connection is of no use, with the password put into it: %w", err)
	}
	return value, nil
}

// stored returns what is to be stored of a value a rotator made.
func (t Tags) stored(presented rotators.Secret) (rotators.Secret, error) {
	if t.Connection == "" {
		return presented, nil
	}
	password, err := presented.Field("password")
	if err != nil {
		return rotators.Secret{}, err
	}
	// Nothing else is kept, so nothing else may have changed: a user, say.
	if again, err := t.present(password); err != nil || !again.Equal(presented) {
		return rotators.Secret{}, rotators.Permanent(errors.New("the value is plain text, of which only the password can be stored, and this rotation changes more than that: with alternating users make it a JSON object, or set rekey:strategy to single-user"))
	}
	return password, nil
}
