package generated

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// The fields of a key pair.
const (
	pairField = "private_key"
	jwksField = "jwks"
)

const pkcs8PEM = "PRIVATE KEY"

// jwtPair is a key pair that signs JWTs.
type jwtPair struct{ options }

// jwk is a public JSON Web Key (RFC 7517). exp, in seconds since 1970, is registered
// for JWKs by OpenID Federation.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
	Kid string `json:"kid,omitempty"`
	Alg string `json:"alg,omitempty"`
	Use string `json:"use,omitempty"`
	Exp int64  `json:"exp,omitempty"`
}

type jwkSet struct {
	Keys []jwk `json:"keys"`
}

func (jwtPair) main() string { return pairField }

func (p jwtPair) read(v rotators.Secret) ([]Key, error) {
	private, err := mainOf(v, pairField)
	if err != nil || private.IsZero() {
		return nil, err
	}
	signer, err := readPKCS8(private.Reveal())
	if err != nil {
		return nil, err
	}
	current := Key{Public: signer.Public(), signer: func() crypto.Signer { return signer }, pem: private}
	if current.Alg, err = algOf(v); err != nil {
		return nil, err
	}
	if current.Alg == "" {
		current.Alg = algorithmOf(current.Public, false)
	}
	if a := algorithms[current.Alg]; a.ssh || !a.fits(current.Public) {
		return nil, fmt.Errorf("the field %q says %q, for which the private key is not made", algField, current.Alg)
	}
	kid, err := v.Field(kidField)
	if err != nil {
		return nil, err
	}
	if current.ID = kid.Reveal(); current.ID == "" {
		current.ID = thumbprint(current.Public)
	}
	set, err := v.Field(jwksField)
	if err != nil || set.IsZero() {
		return []Key{current}, err
	}
	keys, err := readSet(set.Reveal())
	if err != nil {
		return nil, fmt.Errorf("the field %q: %w", jwksField, err)
	}
	switch first := keys[0]; {
	case !first.same(current):
		return nil, fmt.Errorf("the first key in the field %q is not the public half of %q", jwksField, pairField)
	case first.ID != current.ID:
		return nil, fmt.Errorf("the field %q does not name the first key in %q", kidField, jwksField)
	case first.Alg != current.Alg:
		return nil, fmt.Errorf("the field %q and the first key in %q name different algorithms", algField, jwksField)
	}
	// What verifiers have is what is to be proved, so it is that which is kept.
	current.Public = keys[0].Public
	keys[0] = current
	return keys, distinct(keys)
}

func (p jwtPair) past(v rotators.Secret) ([]Key, error) {
	set, err := v.Field(jwksField)
	if err != nil || strings.TrimSpace(set.Reveal()) == "" {
		return nil, err
	}
	keys, err := readSet(set.Reveal())
	if err != nil {
		return nil, fmt.Errorf("the field %q: %w; empty it, too, if no earlier key is to count", jwksField, err)
	}
	return keys, distinct(keys)
}

// readPKCS8 reads a private key in PEM.
func readPKCS8(text string) (crypto.Signer, error) {
	bad := errors.New(`the field "private_key" holds no private key in PKCS#8: convert it (openssl pkcs8 -topk8 -nocrypt), or empty the field to have one made`)
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != pkcs8PEM || strings.TrimSpace(string(rest)) != "" {
		return nil, bad
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, bad
	}
	signer, ok := key.(crypto.Signer)
	if !ok || algorithmOf(signer.Public(), false) == "" {
		return nil, errors.New(`the key in the field "private_key" is of a kind that signs no JWTs: empty the field to have one made`)
	}
	return signer, nil
}

// readSet reads a key set, the current key first.
func readSet(text string) ([]Key, error) {
	var set jwkSet
	// The decoder's own errors quote what they stumbled over.
	if json.Unmarshal([]byte(text), &set) != nil || len(set.Keys) == 0 {
		return nil, errors.New("it is no JSON Web Key Set with a key")
	}
	var keys []Key
	for i, j := range set.Keys {
		public, err := j.public()
		if err != nil {
			return nil, err
		}
		k := Key{ID: j.Kid, Alg: j.Alg, Public: public}
		if j.Exp != 0 {
			k.Until = time.Unix(j.Exp, 0)
		}
		switch a := algorithms[j.Alg]; {
		case j.Kid == "":
			return nil, errors.New("a key has no kid")
		case a.ssh || !a.fits(public):
			return nil, errors.New("a key has an alg for which it is not made")
		case i == 0 && j.Exp != 0:
			return nil, errors.New("the first key, which signs, has an end")
		case i > 0 && j.Exp <= 0:
			return nil, errors.New("a key after the first does not say until when it counts")
		}
		keys = append(keys, k)
	}
	return keys, nil
}

var b64 = base64.RawURLEncoding

// jwkOf is a key without its kid, and what belongs to that.
func jwkOf(public crypto.PublicKey) (j jwk) {
	switch public := public.(type) {
	case *rsa.PublicKey:
		j.Kty = "RSA"
		j.N, j.E = b64.EncodeToString(public.N.Bytes()), b64.EncodeToString(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		j.Kty, j.Crv = "EC", public.Params().Name
		if point, err := public.Bytes(); err == nil {
			point = point[1:] // uncompressed: 4, x, y
			j.X, j.Y = b64.EncodeToString(point[:len(point)/2]), b64.EncodeToString(point[len(point)/2:])
		}
	case ed25519.PublicKey:
		j.Kty, j.Crv, j.X = "OKP", "Ed25519", b64.EncodeToString(public)
	}
	return j
}

// maxRSA is the largest modulus that is looked at, in bytes: a larger one takes long.
const maxRSA = 1024

// public reads the key. Its errors name no value.
func (j jwk) public() (crypto.PublicKey, error) {
	bad := errors.New("a key is malformed, or of a type other than RSA, EC and Ed25519")
	var parts [4][]byte
	for i, text := range []string{j.X, j.Y, j.N, j.E} {
		var err error
		if parts[i], err = b64.DecodeString(text); err != nil {
			return nil, bad
		}
	}
	x, y, n, e := parts[0], parts[1], parts[2], parts[3]
	switch {
	case j.Kty == "RSA":
		return rsaPublic(n, e)
	case j.Kty == "EC":
		for _, a := range algorithms {
			if a.family == ecFamily && a.curve.Params().Name == j.Crv && len(x) == a.coordinate() {
				public, err := ecdsa.ParseUncompressedPublicKey(a.curve, append(append([]byte{4}, x...), y...))
				if err != nil {
					return nil, bad
				}
				return public, nil
			}
		}
	case j.Kty == "OKP" && j.Crv == "Ed25519" && len(x) == ed25519.PublicKeySize:
		return ed25519.PublicKey(x), nil
	}
	return nil, bad
}

// rsaPublic makes a key of its modulus and exponent.
func rsaPublic(n, e []byte) (*rsa.PublicKey, error) {
	exponent := new(big.Int).SetBytes(e)
	if len(n) == 0 || len(n) > maxRSA || exponent.BitLen() > 31 || exponent.Cmp(big.NewInt(2)) <= 0 {
		return nil, errors.New("an RSA key is malformed")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
}

// thumbprint is the key's id by RFC 7638: the hash of its required members in the
// order of their names.
func thumbprint(public crypto.PublicKey) string {
	j := jwkOf(public)
	var spelled string
	switch j.Kty {
	case "RSA":
		spelled = fmt.Sprintf(`{"e":%q,"kty":"RSA","n":%q}`, j.E, j.N)
	case "EC":
		spelled = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, j.Crv, j.X, j.Y)
	default:
		spelled = fmt.Sprintf(`{"crv":%q,"kty":%q,"x":%q}`, j.Crv, j.Kty, j.X)
	}
	sum := sha256.Sum256([]byte(spelled))
	return b64.EncodeToString(sum[:])
}

// setOf spells the key set of keys.
func setOf(keys []Key) string {
	var set jwkSet
	for _, k := range keys {
		j := jwkOf(k.Public)
		j.Kid, j.Alg, j.Use, j.Exp = k.ID, k.Alg, "sig", instant(k.Until)
		set.Keys = append(set.Keys, j)
	}
	spelled, _ := json.Marshal(set) // of strings and numbers only
	return string(spelled)
}

func (p jwtPair) generate(rotators.Rotation, Key) (Key, error) {
	signer, err := algorithms[p.alg].generate(p.bits)
	if err != nil {
		return Key{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return Key{}, err
	}
	return Key{
		ID: thumbprint(signer.Public()), Alg: p.alg, Public: signer.Public(),
		signer: func() crypto.Signer { return signer },
		pem:    rotators.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: pkcs8PEM, Bytes: der}))),
	}, nil
}

func (p jwtPair) write(v rotators.Secret, keys []Key) (rotators.Secret, error) {
	v, err := replace(v, pairField, keys[0].pem)
	if err != nil {
		return rotators.Secret{}, err
	}
	return fill(v, kidField, keys[0].ID, algField, keys[0].Alg, jwksField, setOf(keys))
}
