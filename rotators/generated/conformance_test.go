package generated

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// The suite every rotator runs, with every kind in every form. A key is accepted if
// a consumer that knows only the documentation can sign with one half and verify with
// the other; of a text, any will do.
func TestConformance(t *testing.T) {
	const keyring = "keyring=yes "
	for _, c := range []struct {
		form, options string
		fields        []string
		accepts       func(rotators.Secret) bool
	}{
		{"changeme", "", nil, anything},
		{"changeme", "hex=32", nil, anything},
		{"changeme", "alg=HS256", nil, anything},
		{`{"secret":"changeme", "n":1.50}`, "", []string{"secret"}, anything},
		{`{"secret":"changeme", "previous":"{}" }`, "alg=HS512 ", []string{"secret", "kid", "alg"}, anything},
		{`{"secret":"the first text","previous":""}`, keyring, []string{"secret", "previous"}, anything},
		{`{"n":1.50,"secret":"","previous":"","kid":"","alg":"HS384"}`, keyring + "alg=HS384", []string{"secret", "previous", "kid"}, anything},
		{jwtForm, "alg=ES256", jwtFields, verifiesJWTs},
		{jwtForm, keyring + "alg=ES512", jwtFields, verifiesJWTs},
		{jwtForm, "alg=EdDSA", jwtFields, verifiesJWTs},
		{jwtForm, keyring + "alg=EdDSA", jwtFields, verifiesJWTs},
		{jwtForm, "alg=RS256", jwtFields, verifiesJWTs},
		{jwtForm, keyring + "alg=PS512", jwtFields, verifiesJWTs},
		{sshForm, "alg=ssh-ed25519", sshFields, belongsTogether},
		{sshForm, keyring + "alg=ssh-ed25519", sshFields, belongsTogether},
		{sshForm, keyring + "alg=ecdsa-sha2-nistp256", sshFields, belongsTogether},
		{sshForm, "alg=ssh-rsa bits=2048", sshFields, belongsTogether},
	} {
		name := c.options
		if name == "" {
			name = "random"
		}
		t.Run(name+" "+c.form[:1], func(t *testing.T) {
			t.Parallel()
			// Making RSA keys takes long, and where a run crashes has nothing to do with
			// what it makes.
			var only []string
			if o, _ := readOptions(newOwner(t, "", c.options).settings.Options); algorithms[o.alg].family == rsaFamily {
				only = []string{"Rotates", "RotatesAgain", "ChangesOnlyItsFields", "EveryStepTwice", "TestRefusesAWrongValue", "OddBytes", "DryTest", "RejectsUnknownOptions", "TwoSecrets", "AnotherAccount"}
			}
			value, another := firstValue(t, c.form, c.options), firstValue(t, c.form, c.options)
			rotatortest.Run(t, func(t *testing.T, _ *rotatortest.Wire) rotatortest.Harness {
				h := rotatortest.Harness{
					Rotator: New(),
					Value:   value,
					Tags:    map[string]string{"rekey:options": c.options},
					Fields:  c.fields,
					Overlap: true, // nothing outside refuses what was current
					Accepts: func(_ context.Context, v rotators.Secret) (bool, error) { return c.accepts(v), nil },
				}
				if c.accepts(rotators.NewSecret("")) {
					return h // and no text is another account's
				}
				h.Another = another
				return h
			}, only...)
		})
	}
}

// The forms hold every field, since the suite compares what is outside of them.
const (
	jwtForm = `{ "issuer":"shop", "n":1.50, "private_key":"", "kid":"", "jwks":"", "alg":"" }`
	sshForm = `{ "host":"shop", "private_key":"", "public_key":"", "previous":"" }`
)

var (
	jwtFields = []string{"private_key", "jwks", "kid"}
	sshFields = []string{"private_key", "previous", "public_key"}
)

// firstValue is a form with what the first rotation fills in.
func firstValue(t *testing.T, form, options string) rotators.Secret {
	o := newOwner(t, form, options)
	if form[0] == '{' {
		o.rotate()
		for _, name := range append(jwtFields, sshFields...) {
			v, err := rotators.NewSecret(o.value).Field(name)
			if strings.Contains(form, `"`+name+`"`) && err == nil && v.IsZero() {
				v, err = rotators.NewSecret(o.value).With(name, rotators.NewSecret("{}"))
				o.value = v.Reveal()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return rotators.NewSecret(o.value)
}

func anything(rotators.Secret) bool { return true }

// verifiesJWTs signs with the private key and verifies with the key set, by other
// code than the package's.
func verifiesJWTs(v rotators.Secret) bool {
	var fields struct{ PrivateKey, Kid, Alg, Jwks string }
	var raw map[string]any
	if json.Unmarshal([]byte(v.Reveal()), &raw) != nil {
		return false
	}
	fields.PrivateKey, _ = raw["private_key"].(string)
	fields.Kid, _ = raw["kid"].(string)
	fields.Alg, _ = raw["alg"].(string)
	fields.Jwks, _ = raw["jwks"].(string)
	block, _ := pem.Decode([]byte(fields.PrivateKey))
	if block == nil {
		return false
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return false
	}
	var set struct{ Keys []map[string]any }
	if json.Unmarshal([]byte(fields.Jwks), &set) != nil {
		return false
	}
	for _, k := range set.Keys {
		if k["kid"] != fields.Kid || k["alg"] != fields.Alg || k["d"] != nil || k["use"] != "sig" {
			continue
		}
		part := func(name string) *big.Int {
			text, _ := k[name].(string)
			b, err := base64.RawURLEncoding.DecodeString(text)
			if err != nil {
				return new(big.Int)
			}
			return new(big.Int).SetBytes(b)
		}
		digest := make([]byte, map[string]int{"256": 32, "384": 48, "512": 64}[fields.Alg[2:]])
		switch private := private.(type) {
		case *rsa.PrivateKey:
			public := &rsa.PublicKey{N: part("n"), E: int(part("e").Int64())}
			hash := map[int]crypto.Hash{32: crypto.SHA256, 48: crypto.SHA384, 64: crypto.SHA512}[len(digest)]
			if fields.Alg[0] == 'P' {
				signature, err := rsa.SignPSS(rand.Reader, private, hash, digest, nil)
				return err == nil && rsa.VerifyPSS(public, hash, digest, signature, nil) == nil
			}
			signature, err := rsa.SignPKCS1v15(rand.Reader, private, hash, digest)
			return err == nil && rsa.VerifyPKCS1v15(public, hash, digest, signature) == nil
		case *ecdsa.PrivateKey:
			size := (private.Params().BitSize + 7) / 8
			point := append([]byte{4}, part("x").FillBytes(make([]byte, size))...)
			public, err := ecdsa.ParseUncompressedPublicKey(private.Curve, append(point, part("y").FillBytes(make([]byte, size))...))
			if err != nil {
				return false
			}
			signature, err := ecdsa.SignASN1(rand.Reader, private, digest)
			return err == nil && ecdsa.VerifyASN1(public, digest, signature)
		case ed25519.PrivateKey:
			return ed25519.Verify(part("x").FillBytes(make([]byte, 32)), digest, ed25519.Sign(private, digest))
		}
	}
	return false
}

// belongsTogether tells whether the private SSH key is the public one's. That OpenSSH
// thinks so too is TestOpenSSHReadsTheKeys.
func belongsTogether(v rotators.Secret) bool {
	keys, err := Keys(v.Reveal(), time.Now())
	return err == nil && keys[0].Signer() != nil && keys[0].same(Key{Public: keys[0].Signer().Public()})
}
