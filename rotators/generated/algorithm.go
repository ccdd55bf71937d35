package generated

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // RS256 and the like hash with it
	_ "crypto/sha512"
	"errors"
	"fmt"
	"math/big"
)

type family int

const (
	textFamily family = iota // no signatures: a random text
	hmacFamily
	rsaFamily
	ecFamily
	edFamily
)

// algorithm is how one kind of key signs.
type algorithm struct {
	family family
	hash   crypto.Hash
	curve  elliptic.Curve // of ecFamily
	pss    bool           // of rsaFamily
	ssh    bool           // a key pair for SSH, and not for JWTs
}

// algorithms has JOSE's by their names in RFC 7518 and RFC 8037, and OpenSSH's key
// types by theirs. With an SSH key they say how it is proved, not what SSH does.
var algorithms = map[string]algorithm{
	"HS256": {family: hmacFamily, hash: crypto.SHA256},
	"HS384": {family: hmacFamily, hash: crypto.SHA384},
	"HS512": {family: hmacFamily, hash: crypto.SHA512},
	"RS256": {family: rsaFamily, hash: crypto.SHA256},
	"RS384": {family: rsaFamily, hash: crypto.SHA384},
	"RS512": {family: rsaFamily, hash: crypto.SHA512},
	"PS256": {family: rsaFamily, hash: crypto.SHA256, pss: true},
	"PS384": {family: rsaFamily, hash: crypto.SHA384, pss: true},
	"PS512": {family: rsaFamily, hash: crypto.SHA512, pss: true},
	"ES256": {family: ecFamily, hash: crypto.SHA256, curve: elliptic.P256()},
	"ES384": {family: ecFamily, hash: crypto.SHA384, curve: elliptic.P384()},
	"ES512": {family: ecFamily, hash: crypto.SHA512, curve: elliptic.P521()},
	"EdDSA": {family: edFamily},

	"ssh-ed25519":         {family: edFamily, ssh: true},
	"ssh-rsa":             {family: rsaFamily, hash: crypto.SHA256, ssh: true},
	"ecdsa-sha2-nistp256": {family: ecFamily, hash: crypto.SHA256, curve: elliptic.P256(), ssh: true},
	"ecdsa-sha2-nistp384": {family: ecFamily, hash: crypto.SHA384, curve: elliptic.P384(), ssh: true},
	"ecdsa-sha2-nistp521": {family: ecFamily, hash: crypto.SHA512, curve: elliptic.P521(), ssh: true},
}

// algorithmOf is the one for a key that does not say it.
func algorithmOf(public crypto.PublicKey, ssh bool) string {
	switch public := public.(type) {
	case *rsa.PublicKey:
		if ssh {
			return "ssh-rsa"
		}
		return "RS256"
	case ed25519.PublicKey:
		if ssh {
			return "ssh-ed25519"
		}
		return "EdDSA"
	case *ecdsa.PublicKey:
		for name, a := range algorithms {
			if a.curve == public.Curve && a.ssh == ssh {
				return name
			}
		}
	}
	return ""
}

// fits tells whether keys of the algorithm are like this one.
func (a algorithm) fits(public crypto.PublicKey) bool {
	switch public := public.(type) {
	case *rsa.PublicKey:
		return a.family == rsaFamily
	case ed25519.PublicKey:
		return a.family == edFamily
	case *ecdsa.PublicKey:
		return a.family == ecFamily && a.curve == public.Curve
	}
	return false
}

// generate makes a key pair. bits is the size of an RSA key.
func (a algorithm) generate(bits int) (crypto.Signer, error) {
	switch a.family {
	case rsaFamily:
		return rsa.GenerateKey(rand.Reader, bits)
	case ecFamily:
		return ecdsa.GenerateKey(a.curve, rand.Reader)
	case edFamily:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return nil, errors.New("there is no key pair of this algorithm")
}

// Sign makes the signature that stands in a JWS (RFC 7515), of a JWT's header and
// payload as they are joined by a dot. Only the first of a value's keys signs;
// those before it are there to verify.
func (k Key) Sign(message []byte) ([]byte, error) {
	a := algorithms[k.Alg]
	private := k.Signer()
	switch {
	case a.family == hmacFamily && k.Until.IsZero():
		return a.mac(k.Secret.Reveal(), message), nil
	case private == nil:
		return nil, fmt.Errorf("the key %q signs nothing", k.ID)
	}
	digest, opts := a.digest(message)
	if private, ok := private.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, private, digest)
		if err != nil {
			return nil, err
		}
		signature := make([]byte, 2*a.coordinate())
		r.FillBytes(signature[:a.coordinate()])
		s.FillBytes(signature[a.coordinate():])
		return signature, nil
	}
	return private.Sign(rand.Reader, digest, opts)
}

// ErrSignature says that a signature is not of the key.
var ErrSignature = errors.New("the signature is not of this key")

// Verify returns nil if a signature of a message is of the key, else ErrSignature. Take
// the key by the kid in a JWT's header, and refuse a JWT whose alg is not the key's.
func (k Key) Verify(message, signature []byte) error {
	a := algorithms[k.Alg]
	ok := false
	digest, opts := a.digest(message)
	switch public := k.Public.(type) {
	case nil:
		ok = a.family == hmacFamily && hmac.Equal(signature, a.mac(k.Secret.Reveal(), message))
	case *rsa.PublicKey:
		if pss, is := opts.(*rsa.PSSOptions); is {
			ok = rsa.VerifyPSS(public, a.hash, digest, signature, pss) == nil
		} else {
			ok = rsa.VerifyPKCS1v15(public, a.hash, digest, signature) == nil
		}
	case *ecdsa.PublicKey:
		if n := a.coordinate(); len(signature) == 2*n {
			ok = ecdsa.Verify(public, digest, new(big.Int).SetBytes(signature[:n]), new(big.Int).SetBytes(signature[n:]))
		}
	case ed25519.PublicKey:
		ok = ed25519.Verify(public, message, signature)
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// mac is the HMAC under a text: its bytes are the key, as they are.
func (a algorithm) mac(text string, message []byte) []byte {
	m := hmac.New(a.hash.New, []byte(text))
	m.Write(message)
	return m.Sum(nil)
}

// digest is what of a message is signed, and how.
func (a algorithm) digest(message []byte) ([]byte, crypto.SignerOpts) {
	if a.hash == 0 {
		return message, crypto.Hash(0)
	}
	h := a.hash.New()
	h.Write(message)
	if a.pss {
		return h.Sum(nil), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: a.hash}
	}
	return h.Sum(nil), a.hash
}

// coordinate is how many bytes a coordinate on the curve has.
func (a algorithm) coordinate() int { return (a.curve.Params().BitSize + 7) / 8 }
