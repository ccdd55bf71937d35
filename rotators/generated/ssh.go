package generated

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

const publicField = "public_key"

// sshPEM is the type of OpenSSH's private keys, and sshMagic how they begin
// (PROTOCOL.key in OpenSSH's source).
const (
	sshPEM   = "OPENSSH PRIVATE KEY"
	sshMagic = "openssh-key-v1\x00"
)

// sshPair is a key pair for SSH.
type sshPair struct{ options }

func (sshPair) main() string { return pairField }

func (p sshPair) read(v rotators.Secret) ([]Key, error) {
	private, err := mainOf(v, pairField)
	if err != nil || private.IsZero() {
		return nil, err
	}
	signer, comment, err := readOpenSSH(private.Reveal())
	if err != nil {
		return nil, err
	}
	current := sshKey(signer.Public(), comment)
	current.signer, current.pem = func() crypto.Signer { return signer }, private
	line, err := v.Field(publicField)
	if err != nil {
		return nil, err
	}
	if !line.IsZero() {
		public, err := readLine(line.Reveal())
		if err != nil {
			return nil, fmt.Errorf("the field %q: %w", publicField, err)
		}
		if !public.same(current) {
			return nil, fmt.Errorf("the field %q is not the public half of %q", publicField, pairField)
		}
		// What servers have is what is to be proved, so it is that which is kept.
		current.Public, current.line = public.Public, public.line
	}
	older, err := p.earlier(v)
	if err != nil {
		return nil, err
	}
	keys := append([]Key{current}, older...)
	return keys, distinct(keys)
}

func (p sshPair) past(v rotators.Secret) (keys []Key, err error) {
	line, err := v.Field(publicField)
	if err != nil {
		return nil, err
	}
	if line.Reveal() != "" {
		current, err := readLine(line.Reveal())
		if err != nil {
			return nil, fmt.Errorf("the field %q: %w; empty it, too, if no earlier key is to count", publicField, err)
		}
		keys = append(keys, current)
	}
	older, err := p.earlier(v)
	if err != nil {
		return nil, err
	}
	keys = append(keys, older...)
	return keys, distinct(keys)
}

// earlier reads the keys in the field previous.
func (p sshPair) earlier(v rotators.Secret) (keys []Key, err error) {
	older, err := readPast(v, p.keyring)
	if err != nil {
		return nil, err
	}
	for _, o := range older {
		k, err := readLine(o.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("a key in the field %q: %w", previousField, err)
		}
		k.Until = time.Unix(o.Exp, 0)
		keys = append(keys, k)
	}
	return keys, nil
}

func (p sshPair) generate(_ rotators.Rotation, current Key) (Key, error) {
	signer, err := algorithms[p.alg].generate(p.bits)
	if err != nil {
		return Key{}, err
	}
	comment := p.comment
	if fields := strings.SplitN(current.line, " ", 3); comment == "" && len(fields) == 3 {
		comment = fields[2]
	}
	k := sshKey(signer.Public(), comment)
	k.signer = func() crypto.Signer { return signer }
	k.pem, err = writeOpenSSH(signer, comment)
	return k, err
}

func (p sshPair) write(v rotators.Secret, keys []Key) (rotators.Secret, error) {
	v, err := replace(v, pairField, keys[0].pem)
	if err == nil {
		v, err = fill(v, publicField, keys[0].line)
	}
	if err != nil {
		return rotators.Secret{}, err
	}
	var older []pastKey
	for _, k := range keys[1:] {
		older = append(older, pastKey{PublicKey: k.line, Exp: instant(k.Until)})
	}
	return fillPast(v, p.keyring, older)
}

// sshKey is a public key with its line for authorized_keys.
func sshKey(public crypto.PublicKey, comment string) Key {
	blob := sshBlob(public)
	sum := sha256.Sum256(blob)
	alg := algorithmOf(public, true)
	return Key{
		ID: "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:]), Alg: alg, Public: public,
		line: strings.TrimRight(alg+" "+base64.StdEncoding.EncodeToString(blob)+" "+comment, " "),
	}
}

// readLine reads a line of authorized_keys that has no options: type, key and
// comment.
func readLine(line string) (Key, error) {
	bad := errors.New("it is no public key as ssh-keygen writes it: type, key and comment, on one line")
	line = strings.TrimSpace(line)
	fields := strings.SplitN(line, " ", 3)
	if len(fields) < 2 || strings.ContainsAny(line, "\r\n") {
		return Key{}, bad
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return Key{}, bad
	}
	r := wireReader{rest: blob}
	public, err := r.public(r.text())
	if err != nil || len(r.rest) > 0 || algorithmOf(public, true) != fields[0] {
		return Key{}, bad
	}
	k := sshKey(public, "")
	k.line = line
	return k, nil
}

// sshCurve is OpenSSH's name of a key type's curve, which is how that ends.
func sshCurve(alg string) string { return strings.TrimPrefix(alg, "ecdsa-sha2-") }

// sshBlob is a public key as SSH sends it (RFC 4253, RFC 5656, RFC 8709).
func sshBlob(public crypto.PublicKey) []byte {
	var w wireWriter
	alg := algorithmOf(public, true)
	w.text(alg)
	switch public := public.(type) {
	case *rsa.PublicKey:
		w.number(big.NewInt(int64(public.E)))
		w.number(public.N)
	case *ecdsa.PublicKey:
		w.text(sshCurve(alg))
		point, _ := public.Bytes() // fails for no key on a curve that is known here
		w.bytes(point)
	case ed25519.PublicKey:
		w.bytes(public)
	}
	return w.Bytes()
}

// sshBlock is what the private part of a key without a passphrase is padded to.
const sshBlock = 8

// writeOpenSSH writes a private key without a passphrase.
func writeOpenSSH(signer crypto.Signer, comment string) (rotators.Secret, error) {
	alg := algorithmOf(signer.Public(), true)
	var private wireWriter
	check := random(4) // by it, twice, a wrong passphrase is noticed where there is one
	private.Write(check)
	private.Write(check)
	private.text(alg)
	switch key := signer.(type) {
	case *rsa.PrivateKey:
		private.number(key.N)
		private.number(big.NewInt(int64(key.E)))
		private.number(key.D)
		private.number(key.Precomputed.Qinv)
		private.number(key.Primes[0])
		private.number(key.Primes[1])
	case *ecdsa.PrivateKey:
		point, err := key.PublicKey.Bytes()
		if err != nil {
			return rotators.Secret{}, err
		}
		d, err := key.Bytes()
		if err != nil {
			return rotators.Secret{}, err
		}
		private.text(sshCurve(alg))
		private.bytes(point)
		private.number(new(big.Int).SetBytes(d))
	case ed25519.PrivateKey:
		private.bytes(key[ed25519.SeedSize:])
		private.bytes(key)
	}
	private.text(comment)
	for pad := byte(1); private.Len()%sshBlock != 0; pad++ {
		private.WriteByte(pad)
	}

	var w wireWriter
	w.WriteString(sshMagic)
	w.text("none") // cipher
	w.text("none") // how its key is derived
	w.text("")     // and with which options
	w.Write(binary.BigEndian.AppendUint32(nil, 1))
	w.bytes(sshBlob(signer.Public()))
	w.bytes(private.Bytes())
	return rotators.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: sshPEM, Bytes: w.Bytes()}))), nil
}

// readOpenSSH reads a private key without a passphrase.
func readOpenSSH(text string) (signer crypto.Signer, comment string, err error) {
	bad := errors.New(`the field "private_key" holds no private key in OpenSSH's own format: convert it (ssh-keygen -p -f FILE), or empty the field to have one made`)
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != sshPEM || strings.TrimSpace(string(rest)) != "" || !bytes.HasPrefix(block.Bytes, []byte(sshMagic)) {
		return nil, "", bad
	}
	r := wireReader{rest: block.Bytes[len(sshMagic):]}
	if cipher := r.text(); cipher != "none" && !r.short {
		return nil, "", errors.New(`the key in the field "private_key" has a passphrase: take it off (ssh-keygen -p -f FILE), because nobody can type it here`)
	}
	r.bytes()
	r.bytes()
	one, public, private := r.uint32(), r.bytes(), r.bytes()
	if r.short || one != 1 || len(r.rest) > 0 || len(private)%sshBlock != 0 {
		return nil, "", bad
	}
	p := wireReader{rest: private}
	if check, again := p.uint32(), p.uint32(); check != again {
		return nil, "", bad
	}
	signer, err = p.private(p.text())
	comment = p.text()
	if err != nil || p.short || len(p.rest) >= sshBlock {
		return nil, "", bad
	}
	for i, pad := range p.rest {
		if int(pad) != i+1 {
			return nil, "", bad
		}
	}
	if !bytes.Equal(public, sshBlob(signer.Public())) || strings.ContainsAny(comment, "\r\n") {
		return nil, "", bad
	}
	return signer, comment, nil
}

// wireWriter writes SSH's data types (RFC 4251, section 5).
type wireWriter struct{ bytes.Buffer }

func (w *wireWriter) bytes(b []byte) {
	w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
	w.Write(b)
}

func (w *wireWriter) text(s string) { w.bytes([]byte(s)) }

func (w *wireWriter) number(n *big.Int) {
	b := n.Bytes()
	if len(b) > 0 && b[0]&0x80 != 0 {
		b = append([]byte{0}, b...) // else it would be negative
	}
	w.bytes(b)
}

// wireReader reads them. Once there was too little, it is short and reads nothing.
type wireReader struct {
	rest  []byte
	short bool
}

func (r *wireReader) take(n int) []byte {
	if r.short || n > len(r.rest) {
		r.short = true
		return nil
	}
	var b []byte
	b, r.rest = r.rest[:n], r.rest[n:]
	return b
}

func (r *wireReader) uint32() uint32 {
	b := r.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (r *wireReader) bytes() []byte {
	n := r.uint32()
	if uint64(n) > uint64(len(r.rest)) {
		r.short = true
		return nil
	}
	return r.take(int(n))
}

func (r *wireReader) text() string { return string(r.bytes()) }

var errSSHKey = errors.New("the key is malformed")

// public reads a public key of a type.
func (r *wireReader) public(alg string) (crypto.PublicKey, error) {
	a := algorithms[alg]
	switch {
	case !a.ssh:
	case a.family == rsaFamily:
		e, n := r.bytes(), r.bytes()
		return rsaPublic(bytes.TrimLeft(n, "\x00"), e)
	case a.family == edFamily:
		if key := r.bytes(); len(key) == ed25519.PublicKeySize {
			return ed25519.PublicKey(key), nil
		}
	default:
		if r.text() != sshCurve(alg) {
			break
		}
		if public, err := ecdsa.ParseUncompressedPublicKey(a.curve, r.bytes()); err == nil {
			return public, nil
		}
	}
	return nil, errSSHKey
}

// private reads a private key of a type.
func (r *wireReader) private(alg string) (crypto.Signer, error) {
	a := algorithms[alg]
	switch {
	case !a.ssh:
	case a.family == rsaFamily:
		var parts [6][]byte // n, e, d, the inverse of q, p, q
		for i := range parts {
			parts[i] = bytes.TrimLeft(r.bytes(), "\x00")
		}
		public, err := rsaPublic(parts[0], parts[1])
		if err != nil || len(parts[2]) > maxRSA || len(parts[4]) > maxRSA || len(parts[5]) > maxRSA {
			return nil, errSSHKey
		}
		key := &rsa.PrivateKey{PublicKey: *public, D: new(big.Int).SetBytes(parts[2])}
		key.Primes = []*big.Int{new(big.Int).SetBytes(parts[4]), new(big.Int).SetBytes(parts[5])}
		key.Precompute()
		if key.Validate() == nil {
			return key, nil
		}
	case a.family == edFamily:
		public, key := r.bytes(), r.bytes()
		if len(key) != ed25519.PrivateKeySize || !bytes.Equal(public, key[ed25519.SeedSize:]) {
			break
		}
		if whole := ed25519.NewKeyFromSeed(key[:ed25519.SeedSize]); bytes.Equal(whole, key) {
			return whole, nil
		}
	default:
		if r.text() != sshCurve(alg) {
			break
		}
		point, d := r.bytes(), new(big.Int).SetBytes(r.bytes())
		if d.BitLen() > 8*a.coordinate() {
			break
		}
		key, err := ecdsa.ParseRawPrivateKey(a.curve, d.FillBytes(make([]byte, a.coordinate())))
		if err != nil {
			break
		}
		if own, err := key.PublicKey.Bytes(); err == nil && bytes.Equal(own, point) {
			return key, nil
		}
	}
	return nil, errSSHKey
}
