package mysql

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"

	"filippo.io/edwards25519"

	"github.com/rekeyhq/rekey/internal/bounded"
)

// What client and server can do, as bits (Capabilities Flags in the protocol's
// documentation). Files, several statements, several results and compression are not
// among what this client says it can do.
const (
	longPassword     = 1 << 0
	longFlag         = 1 << 2
	withDatabase     = 1 << 3
	protocol41       = 1 << 9
	withTLS          = 1 << 11
	transactions     = 1 << 13
	secureConnection = 1 << 15
	severalMethods   = 1 << 19
	withAttributes   = 1 << 20
)

// utf8mb4 is the number of a collation, utf8mb4_general_ci, that MySQL and MariaDB
// both have.
const utf8mb4 = 45

// The methods of logging in that are answered, beside those in hash.go.
const (
	ed25519Method = "client_ed25519"  // of MariaDB
	sha256Method  = "sha256_password" // with TLS only: it sends the password
)

var (
	// errAsked is why a login without TLS was broken off.
	errAsked = errors.New("the server asked for the password itself")
	// errMethod is why a login was broken off that the server wants otherwise.
	errMethod = errors.New("the server wants another method")
)

// challenge is how long what a password is proved with must be. A server that sends
// less could have prepared for all there is.
const challenge = 20

// connect logs in on wire, with TLS if cfg is not nil.
//
// Without TLS only challenges are answered: mysql_native_password's, ed25519's and the
// first of caching_sha2_password. Whoever asks for the password itself, in the clear or
// under a key that comes along, gets nothing. With TLS, whose certificate says which
// server asks, sha256_password and caching_sha2_password are sent it; no other method
// is.
func connect(ctx context.Context, wire *bounded.Conn, cfg *tls.Config, user, password, database string) (*client, error) {
	c := &client{wire: wire, conn: wire, in: bufio.NewReader(wire)}
	can := uint32(0)
	if cfg != nil {
		can |= withTLS
	}
	if database != "" {
		can |= withDatabase
	}
	err := c.do(ctx, func() error {
		method, nonce, err := c.readGreeting(cfg != nil)
		if err != nil {
			return err
		}
		if cfg != nil {
			if err := c.startTLS(ctx, cfg, can); err != nil {
				return err
			}
		}
		// The greeting names the server's default. Where the account has another
		// method, or the default is none that is answered here, the server switches.
		if method != native && method != cachingSHA2 {
			method = native
		}
		l := login{c, password, cfg != nil, method, nonce}
		answer, err := l.answer()
		if err != nil {
			return err
		}
		p := append(append(introduction(can), user...), 0)
		p = append(append(p, byte(len(answer))), answer...)
		if database != "" {
			p = append(append(p, database...), 0)
		}
		p = append(append(p, method...), 0)
		p = append(p, "\x13\x0cprogram_name\x05rekey"...)
		if err := c.writePacket(p); err != nil {
			return err
		}
		return l.finish()
	})
	return c, err
}

// introduction is how a client begins its first packets, of which the one that asks
// for TLS has nothing more. It says what the client can do besides what it always can.
func introduction(more uint32) []byte {
	p := make([]byte, 32)
	binary.LittleEndian.PutUint32(p, longPassword|longFlag|protocol41|transactions|secureConnection|severalMethods|withAttributes|more)
	p[8] = utf8mb4
	return p
}

// readGreeting reads what a server says first: its default method and a challenge.
func (c *client) readGreeting(needsTLS bool) (method string, nonce []byte, err error) {
	p, err := c.readPacket()
	if err != nil {
		return "", nil, err
	}
	f := fields{rest: p}
	if version := f.take(1)[0]; version != 10 {
		return "", nil, strange(fmt.Sprintf("a greeting of the protocol's version %d, and not 10", version))
	}
	f.line()  // the server's version
	f.take(4) // the session's number
	nonce = bytes.Clone(f.take(8))
	f.take(1)
	can := uint32(binary.LittleEndian.Uint16(f.take(2)))
	f.take(1 + 2) // collation and status
	can |= uint32(binary.LittleEndian.Uint16(f.take(2))) << 16
	size := int(f.take(1)[0])
	f.take(10)
	const must = protocol41 | secureConnection | severalMethods
	switch {
	case f.short || can&must != must:
		return "", nil, strange("the greeting of a server that is too old, or of none")
	case needsTLS && can&withTLS == 0:
		return "", nil, errNoTLS
	}
	// The last byte is a zero.
	nonce = append(nonce, f.take(max(12, size-8-1))...)
	f.take(1)
	method = f.line()
	if f.short || len(nonce) < challenge {
		return "", nil, strange("a greeting without a challenge")
	}
	return method, nonce[:challenge], nil
}

// login is one under way.
type login struct {
	*client
	password string
	secured  bool
	method   string
	nonce    []byte
}

// finish answers what the server asks after the client has introduced itself.
func (l *login) finish() error {
	sent := false // the password itself
	for switched := false; ; {
		p, err := l.readPacket()
		if err != nil {
			return err
		}
		f := fields{rest: p[1:]}
		switch p[0] {
		case isOK:
			return nil
		case isEnd:
			if switched {
				return strange("a second change of the method to log in by")
			}
			switched = true
			if len(p) == 1 {
				return fmt.Errorf("%w: mysql_old_password", errMethod)
			}
			l.method = f.line()
			l.nonce = f.rest // and a zero, from some servers
			answer, err := l.answer()
			if err != nil {
				return err
			}
			if err := l.writePacket(answer); err != nil {
				return err
			}
		case isMoreAuth:
			const known, unknown = 3, 4
			switch what := f.take(1)[0]; {
			case !l.secured && (l.method != cachingSHA2 || what != known):
				return errAsked
			case l.method != cachingSHA2 || f.short || len(f.rest) > 0 || sent:
				return strange("a question that the method to log in by does not have")
			case what == known:
				// The end follows.
			case what != unknown:
				return strange("a question that the method to log in by does not have")
			default:
				sent = true
				if err := l.writePacket(append([]byte(l.password), 0)); err != nil {
					return err
				}
			}
		default:
			return strange("an answer to a login that is none")
		}
	}
}

// answer is what proves the password by the method that the server wants.
func (l *login) answer() ([]byte, error) {
	switch l.method {
	case native, cachingSHA2:
		if len(l.nonce) < challenge {
			return nil, strange("a challenge that is too short")
		}
		if l.method == native {
			return answerNative(l.nonce[:challenge], l.password), nil
		}
		return answerCaching(l.nonce[:challenge], l.password), nil
	case ed25519Method:
		if n := len(l.nonce); n != 32 && n != 33 {
			return nil, strange("a challenge that is not 32 bytes long")
		}
		return answerEd25519(l.nonce[:32], l.password)
	case sha256Method:
		if !l.secured {
			return nil, errAsked
		}
		return append([]byte(l.password), 0), nil
	}
	return nil, fmt.Errorf("%w: %s", errMethod, bounded.Text(l.method))
}

// answerNative is SHA1(password) XOR SHA1(nonce, SHA1(SHA1(password))).
func answerNative(nonce []byte, password string) []byte {
	once := sha1.Sum([]byte(password))
	twice := sha1.Sum(once[:])
	with := sha1.Sum(append(bytes.Clone(nonce), twice[:]...))
	return xor(once[:], with[:])
}

// answerCaching is SHA256(password) XOR SHA256(SHA256(SHA256(password)), nonce).
func answerCaching(nonce []byte, password string) []byte {
	once := sha256.Sum256([]byte(password))
	twice := sha256.Sum256(once[:])
	with := sha256.Sum256(append(twice[:], nonce...))
	return xor(once[:], with[:])
}

func xor(a, b []byte) []byte {
	for i := range a {
		a[i] ^= b[i]
	}
	return a
}

// answerEd25519 is an Ed25519 signature (RFC 8032) of the nonce, by a key that is made
// of the password as RFC 8032 makes one of a seed, but that a password may be of any
// length. For that, crypto/ed25519 has no function.
func answerEd25519(nonce []byte, password string) ([]byte, error) {
	key := sha512.Sum512([]byte(password))
	s, err := edwards25519.NewScalar().SetBytesWithClamping(key[:32])
	if err != nil {
		return nil, err
	}
	public := new(edwards25519.Point).ScalarBaseMult(s).Bytes()
	hash := func(parts ...[]byte) (*edwards25519.Scalar, error) {
		sum := sha512.Sum512(bytes.Join(parts, nil))
		return edwards25519.NewScalar().SetUniformBytes(sum[:])
	}
	r, err := hash(key[32:], nonce)
	if err != nil {
		return nil, err
	}
	commitment := new(edwards25519.Point).ScalarBaseMult(r).Bytes()
	k, err := hash(commitment, public, nonce)
	if err != nil {
		return nil, err
	}
	return append(commitment, edwards25519.NewScalar().MultiplyAdd(k, s, r).Bytes()...), nil
}
