package generated

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// The fields of what is a text.
const (
	textField     = "secret"
	kidField      = "kid"
	algField      = "alg"
	previousField = "previous"
)

// length and alphabet of a random text, as of every generated password: what is safe
// in URLs, headers, shells and files of variables. 32 of these 65 have 192 bits.
const (
	length   = 32
	alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"
)

// text is a random text or an HMAC key: whoever verifies has what signs.
type text struct{ options }

// past is what the field previous holds of texts and SSH keys: the keys before the
// current one.
type past struct {
	Keys []pastKey `json:"keys"`
}

type pastKey struct {
	Kid       string `json:"kid,omitempty"`
	Alg       string `json:"alg,omitempty"`
	Secret    string `json:"secret,omitempty"`
	PublicKey string `json:"public_key,omitempty"`
	Exp       int64  `json:"exp"` // seconds since 1970
}

func (t text) main() string {
	if t.field != "" {
		return t.field
	}
	return textField
}

func (t text) read(v rotators.Secret) ([]Key, error) {
	secret, err := mainOf(v, t.main())
	if err != nil || secret.IsZero() {
		return nil, err
	}
	current := Key{Secret: secret}
	if current.Alg, err = algOf(v); err != nil {
		return nil, err
	}
	if a := algorithms[current.Alg]; a.family != hmacFamily {
		// A field of that name is the owner's.
		current.Alg = ""
		if algorithms[t.alg].family == hmacFamily {
			current.Alg = t.alg
		}
	}
	if current.Alg != "" {
		kid, err := v.Field(kidField)
		if err != nil {
			return nil, err
		}
		current.ID = kid.Reveal()
	}
	older, err := t.past(v)
	if err != nil {
		return nil, err
	}
	keys := append([]Key{current}, older...)
	return keys, distinct(keys)
}

func (t text) past(v rotators.Secret) (keys []Key, err error) {
	older, err := readPast(v, t.keyring)
	if err != nil {
		return nil, err
	}
	for _, p := range older {
		k := Key{ID: p.Kid, Alg: p.Alg, Secret: rotators.NewSecret(p.Secret), Until: time.Unix(p.Exp, 0)}
		if k.Secret.IsZero() {
			return nil, errors.New(`a key in the field "previous" has no secret`)
		}
		keys = append(keys, k)
	}
	return keys, distinct(keys)
}

func algOf(v rotators.Secret) (string, error) {
	alg, err := v.Field(algField)
	return alg.Reveal(), err
}

// readPast reads the field previous, newest first. Without a keyring a field of
// another form is the owner's, and nothing of rekey's.
func readPast(v rotators.Secret, keyring bool) ([]pastKey, error) {
	field, err := v.Field(previousField)
	if err != nil || field.IsZero() {
		return nil, err
	}
	var p past
	dec := json.NewDecoder(strings.NewReader(field.Reveal()))
	dec.DisallowUnknownFields()
	// The decoder's own errors quote what they stumbled over.
	if err := dec.Decode(&p); err != nil || dec.More() || p.Keys == nil {
		if keyring {
			return nil, errors.New(`the field "previous" holds something else than earlier keys: give that another name, or empty it`)
		}
		return nil, nil
	}
	for _, k := range p.Keys {
		if k.Exp <= 0 {
			return nil, errors.New(`a key in the field "previous" does not say until when it counts`)
		}
	}
	return p.Keys, nil
}

// fillPast writes the field previous. Without a keyring it is only emptied.
func fillPast(v rotators.Secret, keyring bool, older []pastKey) (rotators.Secret, error) {
	if !keyring {
		was, err := readPast(v, false)
		if err != nil {
			return rotators.Secret{}, err
		}
		if len(was) == 0 {
			return v, nil
		}
	}
	if older == nil {
		older = []pastKey{} // spelled [] and not null
	}
	spelled, err := json.Marshal(past{older})
	if err != nil {
		return rotators.Secret{}, errors.New("the earlier keys cannot be written")
	}
	return fill(v, previousField, string(spelled))
}

// distinct refuses keys that stand there twice, or cannot be told apart.
func distinct(keys []Key) error {
	for i, k := range keys {
		for _, other := range keys[:i] {
			if k.same(other) {
				return errors.New("the value holds the same key twice")
			}
			if k.ID != "" && k.ID == other.ID {
				return errors.New("two keys of the value have the same id")
			}
		}
	}
	return nil
}

func (t text) generate(r rotators.Rotation, current Key) (k Key, err error) {
	if t.alg == "" && current.Alg != "" {
		return k, fmt.Errorf("the value holds a key for JWTs, and rekey:options asks for a random text: write alg=%s there, or take %q and %q out of the value", current.Alg, algField, kidField)
	}
	if t.encoding == "" {
		k.Secret, err = r.Settings.Password.Generate(length, alphabet)
		return k, err
	}
	k.Secret = rotators.NewSecret(encode(t.encoding, random(t.bytes)))
	if k.Alg = t.alg; k.Alg != "" {
		// Of a text nothing may be told from its id, so that is random too.
		k.ID = encode("base64url", random(16))
	}
	return k, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func encode(encoding string, b []byte) string {
	switch encoding {
	case "hex":
		return hex.EncodeToString(b)
	case "base64":
		return base64.StdEncoding.EncodeToString(b)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func (t text) write(v rotators.Secret, keys []Key) (rotators.Secret, error) {
	v, err := replace(v, t.main(), keys[0].Secret)
	if err == nil && keys[0].Alg != "" {
		v, err = fill(v, kidField, keys[0].ID, algField, keys[0].Alg)
	}
	if err != nil {
		return rotators.Secret{}, err
	}
	var older []pastKey
	for _, k := range keys[1:] {
		older = append(older, pastKey{Kid: k.ID, Alg: k.Alg, Secret: k.Secret.Reveal(), Exp: instant(k.Until)})
	}
	return fillPast(v, t.keyring, older)
}
