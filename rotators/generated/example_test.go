package generated_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/generated"
)

// sign makes a JWT with the current key of a value.
func sign(value string, now time.Time, claims string) (string, error) {
	keys, err := generated.Keys(value, now)
	if err != nil {
		return "", err
	}
	header, err := json.Marshal(map[string]string{"typ": "JWT", "alg": keys[0].Alg, "kid": keys[0].ID})
	if err != nil {
		return "", err
	}
	jwt := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	signature, err := keys[0].Sign([]byte(jwt))
	return jwt + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

// verify returns the claims of a JWT if one of the keys that count now has signed it.
// What the claims say, exp and aud above all, is the caller's to check.
func verify(value string, now time.Time, jwt string) (claims string, err error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return "", errors.New("this is no JWT")
	}
	var decoded [3][]byte
	for i, part := range parts {
		if decoded[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			return "", errors.New("this is no JWT")
		}
	}
	var header struct{ Alg, Kid string }
	if err := json.Unmarshal(decoded[0], &header); err != nil {
		return "", errors.New("this is no JWT")
	}
	keys, err := generated.Keys(value, now)
	if err != nil {
		return "", err
	}
	for _, k := range keys {
		// The key says which algorithm it is for. What the header says, an attacker may
		// have written.
		if k.ID == header.Kid && k.Alg == header.Alg {
			return string(decoded[1]), k.Verify([]byte(parts[0]+"."+parts[1]), decoded[2])
		}
	}
	return "", fmt.Errorf("no key %.4s... counts: if the value was not read for a minute, read it again", header.Kid)
}

// What was signed before a rotation verifies during the grace, and not after, and
// nothing is written meanwhile.
func Example() {
	clock := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	g := generated.Rotator{Now: func() time.Time { return clock }}
	settings := rotators.Settings{
		Options: map[string]string{"alg": "ES256", "keyring": "yes"}, // rekey:options
		Grace:   time.Hour,                                           // rekey:grace
	}
	rotate := func(value string) string { // the engine's part
		next, err := g.Create(context.Background(), rotators.Rotation{Current: rotators.NewSecret(value), Settings: settings})
		if err != nil {
			fmt.Println(err)
		}
		return next.Reveal()
	}

	value := rotate("{}") // the first rotation fills it
	jwt, err := sign(value, clock, `{"sub":"alice"}`)
	if err != nil {
		fmt.Println(err)
	}
	value = rotate(value)
	for _, later := range []time.Duration{0, 59 * time.Minute, time.Hour} {
		now := clock.Add(later)
		claims, err := verify(value, now, jwt)
		set, _ := generated.JWKS(value, now)
		fmt.Printf("%v after the rotation, %d keys: %s %t\n", later, strings.Count(string(set), `"kty"`), claims, err == nil)
	}
	// Output:
	// 0s after the rotation, 2 keys: {"sub":"alice"} true
	// 59m0s after the rotation, 2 keys: {"sub":"alice"} true
	// 1h0m0s after the rotation, 1 keys:  false
}
