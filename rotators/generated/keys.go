package generated

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// Key is one of the keys in a value. Printing it shows no secret.
type Key struct {
	ID  string // kid of a JWT's key, fingerprint of an SSH key; "" of a random text
	Alg string // of JOSE, or the type of an SSH key; "" of a random text
	// Until is when the key ceases to count. Zero, of the current one: it is not
	// known yet.
	Until time.Time
	// Public is an *rsa.PublicKey, an *ecdsa.PublicKey or an ed25519.PublicKey; nil if
	// there is none.
	Public crypto.PublicKey
	// Secret is the text of a random text or an HMAC key. Its bytes, as they are and
	// not decoded, are the key.
	Secret rotators.Secret

	signer func() crypto.Signer // behind a func so that no fmt verb reaches it
	pem    rotators.Secret      // what signer returns, as it is stored
	line   string               // Public in the form of authorized_keys
}

// Signer is the private key, for packages that sign; nil of all keys but a value's
// first, and of those that are a text.
func (k Key) Signer() crypto.Signer {
	if k.signer == nil {
		return nil
	}
	return k.signer()
}

// counts tells whether the key counts at a time.
func (k Key) counts(at time.Time) bool { return k.Until.IsZero() || at.Before(k.Until) }

// same tells whether two keys are one, whatever their times.
func (k Key) same(other Key) bool {
	if k.Public == nil || other.Public == nil {
		return k.Public == nil && other.Public == nil && k.Secret.Equal(other.Secret)
	}
	public, ok := k.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(other.Public)
}

// Keys reads the keys of a value that count at a time: the current one, with which to
// sign, and then those before it, newest first. The value is a JSON object in which
// a rotation has filled the fields.
func Keys(value string, at time.Time) ([]Key, error) {
	v := rotators.NewSecret(value)
	keys, err := kindOf(v).read(v)
	if err == nil && keys == nil {
		err = errors.New("the value holds no key yet: the first rotation makes one")
	}
	if err != nil {
		return nil, err
	}
	return counted(keys, at), nil
}

func counted(keys []Key, at time.Time) (left []Key) {
	for _, k := range keys {
		if k.counts(at) {
			left = append(left, k)
		}
	}
	return left
}

// JWKS makes the JSON Web Key Set of the public keys that count at a time. The field
// jwks of the value is the one of the last rotation's time.
func JWKS(value string, at time.Time) ([]byte, error) {
	keys, err := Keys(value, at)
	if err != nil {
		return nil, err
	}
	if keys[0].Public == nil || algorithms[keys[0].Alg].ssh {
		return nil, errors.New("the value holds no public keys for JWTs")
	}
	return []byte(setOf(keys)), nil
}

// AuthorizedKeys makes the lines of an authorized_keys file of the SSH keys that
// count at a time.
func AuthorizedKeys(value string, at time.Time) ([]byte, error) {
	keys, err := Keys(value, at)
	if err != nil {
		return nil, err
	}
	var lines []byte
	for _, k := range keys {
		if k.line == "" {
			return nil, errors.New("the value holds no SSH keys")
		}
		lines = append(lines, k.line+"\n"...)
	}
	return lines, nil
}

// kind is one way in which keys stand in a value.
type kind interface {
	// main is the field without which there is no key.
	main() string
	// read returns all keys of a value, the current one first; none if the value is
	// still to be filled.
	read(v rotators.Secret) ([]Key, error)
	// past returns the keys before the current one of a value whose current key was taken
	// out. The public half that is left of a current key pair is one of them, without an end.
	past(v rotators.Secret) ([]Key, error)
	// generate makes the next key. current is zero if there is none.
	generate(r rotators.Rotation, current Key) (Key, error)
	// write puts keys, the current one first, in the place of what read found.
	write(v rotators.Secret, keys []Key) (rotators.Secret, error)
}

// kindOf finds the kind in a value.
func kindOf(v rotators.Secret) kind {
	private, err := v.Field(pairField)
	switch {
	case err != nil || private.IsZero():
		return text{}
	case strings.Contains(private.Reveal(), sshPEM):
		return sshPair{}
	}
	return jwtPair{}
}

// kind is the one the options ask for.
func (o options) kind() kind {
	switch a := algorithms[o.alg]; {
	case a.ssh:
		return sshPair{o}
	case a.family > hmacFamily:
		return jwtPair{o}
	}
	return text{o}
}

// isObject tells a value with fields from one that is a text.
func isObject(v rotators.Secret) bool {
	return strings.HasPrefix(strings.TrimSpace(v.Reveal()), "{")
}

// mainOf reads the field without which there is no key. It is zero in a value that is
// still to be filled: {}, or the field is there and empty. Of a value with other
// fields only it cannot be told whether the key stands in one of those.
func mainOf(v rotators.Secret, name string) (rotators.Secret, error) {
	main, err := v.Field(name)
	if err != nil || !main.IsZero() {
		return main, err
	}
	var fields map[string]any
	if err := json.Unmarshal([]byte(v.Reveal()), &fields); err != nil {
		return main, errors.New("the value is not a JSON object")
	}
	if _, there := fields[name]; !there && len(fields) > 0 {
		return main, fmt.Errorf("the value has no field %q: to have it made, add it with the value \"\"; for a random text that stands in another field, name that with field=NAME in rekey:options", name)
	}
	return main, nil
}

// fill sets fields, given as name and text in turn, that differ from what they are to
// be.
func fill(v rotators.Secret, fields ...string) (_ rotators.Secret, err error) {
	for i := 0; i < len(fields); i += 2 {
		name, text := fields[i], rotators.NewSecret(fields[i+1])
		was, err := v.Field(name)
		if err != nil {
			return rotators.Secret{}, err
		}
		if was.Equal(text) && !text.IsZero() {
			continue
		}
		if v, err = v.With(name, text); err != nil {
			return rotators.Secret{}, err
		}
	}
	return v, nil
}

// replace puts the new credential in the place of the old one, if there is one.
func replace(v rotators.Secret, name string, with rotators.Secret) (rotators.Secret, error) {
	was, err := v.Field(name)
	if err != nil {
		return rotators.Secret{}, err
	}
	if was.IsZero() {
		return v.With(name, with)
	}
	return v.Replace(name, with)
}

// instant is a time as values hold it: seconds since 1970, 0 for none.
func instant(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
