package mysql

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/rekeyhq/rekey/internal/bounded"
)

// guard is the connection that the driver is given. The driver trusts its server: it
// reserves memory for as many columns as the server announces, and asks a server that
// wants the password itself for a key to encrypt it with. The server may be a
// stranger's, so the guard looks at each packet before the driver reads it, and makes
// TLS in the driver's place, because nothing could look at the packets otherwise
// (https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html).
type guard struct {
	net.Conn               // the wire, or TLS on it
	wire     *bounded.Conn // under it
	tls      *tls.Config   // nil: without TLS
	in       *bufio.Reader

	state    state
	columns  int    // to come, in the state awaitColumn
	method   string // of logging in, that the server has chosen
	switched bool   // to that method
	shift    byte   // by how much the driver's packets are numbered too low

	checked []byte // of a packet that the driver may read
	left    int    // of a packet that the driver may read and that is not here yet
	broken  error  // why the connection was ended

	quitting bool // Close waits until the server has hung up
}

// state is what the server's next packet has to be.
type state int

const (
	awaitGreeting state = iota
	awaitLogin          // how the login goes on
	awaitAnswer         // the first packet of an answer to a statement
	awaitColumn         // what a column is
	awaitColumnsEnd
	awaitRow     // or the end of rows
	awaitNothing // nothing was asked
)

// Bits of what servers and clients say that they can do (Capabilities Flags in the
// protocol's documentation).
const (
	canFiles     = 1 << 7
	canTLS       = 1 << 11
	canMulti     = 1<<16 | 1<<17 // several statements, several results
	canEndWithOK = 1 << 24       // in place of the packet that ends columns and rows
)

// The first bytes of packets that are no rows.
const (
	isOK        = 0x00
	isMoreAuth  = 0x01
	isLocalFile = 0xfb
	isEnd       = 0xfe // or, during the login, a switch to another method
	isError     = 0xff
)

const (
	// maxColumns is more than any statement asks for.
	maxColumns = 16
	// maxLogin is more than a packet of a login has: a key of 16,384 bits takes 2.8 KB.
	maxLogin = 4 << 10
	// moreResults is the status that says that another result follows. One statement is
	// sent at a time, and no procedure is called.
	moreResults = 0x0008
	// challenge is how long what a password is proved with must be. A server that sends
	// less could have prepared for all there is.
	challenge = 20
)

// The methods of logging in that are answered, beside those in hash.go.
const (
	ed25519Method = "client_ed25519"  // of MariaDB
	sha256Method  = "sha256_password" // with TLS only: it sends the password, encrypted
)

var (
	errNoTLS = errors.New("the server offers no TLS")
	// errAsked is why a login without TLS was broken off.
	errAsked = errors.New("the server asked for the password itself")
	// errMethod is why a login was broken off that the server wants otherwise.
	errMethod = errors.New("the server wants another method")
)

// strange is what is wrong with a server's answer that is not one to what was asked.
type strange string

func (s strange) Error() string { return string(s) }

func newGuard(wire *bounded.Conn, cfg *tls.Config) *guard {
	return &guard{Conn: wire, wire: wire, tls: cfg, in: bufio.NewReader(wire)}
}

// Read implements net.Conn.
func (g *guard) Read(p []byte) (int, error) {
	if g.broken == nil && len(g.checked) == 0 && g.left == 0 {
		if g.broken = g.next(); g.broken != nil {
			_ = g.wire.Close()
		}
	}
	switch {
	case g.broken != nil:
		return 0, g.broken
	case len(g.checked) > 0:
		n := copy(p, g.checked)
		g.checked = g.checked[n:]
		return n, nil
	}
	n, err := g.in.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

// Write implements net.Conn. The driver writes each packet at once.
func (g *guard) Write(p []byte) (int, error) {
	if g.broken != nil {
		return 0, g.broken
	}
	if len(p) < 4 {
		return 0, errors.New("the driver wrote half of a packet")
	}
	p = bytes.Clone(p)
	if p[3] == 0 { // a command
		g.state, g.shift = awaitAnswer, 0
	}
	if p[3] == 1 && g.tls != nil {
		if g.broken = g.startTLS(p); g.broken != nil {
			_ = g.wire.Close()
			return 0, g.broken
		}
	}
	p[3] += g.shift
	return g.Conn.Write(p)
}

// Close implements net.Conn. After a goodbye it waits until the server has hung up, no
// longer than the wire's deadline.
func (g *guard) Close() error {
	if g.quitting {
		_, _ = io.Copy(io.Discard, g.in)
	}
	return g.wire.Close()
}

// next reads the beginning of the server's next packet, and all of it where there is
// something to look at.
func (g *guard) next() error {
	header := make([]byte, 4, 5)
	if _, err := io.ReadFull(g.in, header); err != nil {
		return err
	}
	header[3] -= g.shift
	size := int(header[0]) | int(header[1])<<8 | int(header[2])<<16
	if size == 0 || size > maxBytes {
		return strange(fmt.Sprintf("a packet of %d bytes", size))
	}
	kind, err := g.in.ReadByte()
	if err != nil {
		return err
	}
	end := kind == isEnd && size <= 5
	switch {
	case kind == isError && size >= 3:
	case g.state == awaitNothing || kind == isError:
		return strange("a packet that nothing asked for")
	case g.state == awaitColumn:
		if g.columns--; g.columns == 0 {
			g.state = awaitColumnsEnd
		}
	case g.state == awaitColumnsEnd && !end:
		return strange("more columns than it announced")
	case g.state == awaitRow && !end:
	default: // short, and looked at
		if size > maxLogin {
			return strange(fmt.Sprintf("a packet of %d bytes", size))
		}
		body := make([]byte, size)
		body[0] = kind
		if _, err := io.ReadFull(g.in, body[1:]); err != nil {
			return err
		}
		if body, err = g.look(body); err != nil {
			return err
		}
		header[0], header[1] = byte(len(body)), byte(len(body)>>8)
		g.checked = append(header, body...)
		return nil
	}
	g.checked, g.left = append(header, kind), size-1
	return nil
}

// look says what is wrong with a packet, or returns what of it the driver may read.
func (g *guard) look(p []byte) ([]byte, error) {
	switch {
	case g.state == awaitGreeting:
		return g.greeting(p)
	case g.state == awaitLogin:
		return p, g.login(p)
	case g.state == awaitColumnsEnd:
		g.state = awaitRow
		return p, ends(p, 3)
	case g.state == awaitRow:
		g.state = awaitNothing
		return p, ends(p, 3)
	case p[0] == isOK:
		g.state = awaitNothing
		// Two numbers come before the status, of one byte for what is sent here.
		return p, ends(p, 3)
	case p[0] == isLocalFile:
		return nil, strange("a request for a file of this machine's")
	case len(p) != 1 || p[0] > maxColumns:
		return nil, strange("more columns than were asked for")
	}
	g.state, g.columns = awaitColumn, int(p[0])
	return p, nil
}

// ends checks the status of an answer, which stands at some place of a packet.
func ends(p []byte, at int) error {
	if len(p) < at+2 || binary.LittleEndian.Uint16(p[at:])&moreResults != 0 {
		return strange("an answer that it does not end")
	}
	return nil
}

// greeting returns the greeting of a server without TLS, files, and several results. If the server's method is none that is
// answered here, it names another: the server switches to what the account has.
func (g *guard) greeting(p []byte) ([]byte, error) {
	const version = 10
	at := 1 + bytes.IndexByte(p[1:], 0) + 1 + 4 + 8 + 1 // after the version, a number and half of the challenge
	const rest = 2 + 1 + 2 + 2 + 1 + 10 + 13            // up to the method
	if p[0] != version || at < 1+1+4+8+1 || len(p) < at+rest {
		return nil, strange("the greeting of a server that is too old, or of none")
	}
	can := uint32(binary.LittleEndian.Uint16(p[at:])) | uint32(binary.LittleEndian.Uint16(p[at+5:]))<<16
	if g.tls != nil && can&canTLS == 0 {
		return nil, errNoTLS
	}
	can &^= canFiles | canTLS | canMulti | canEndWithOK
	p = bytes.Clone(p)
	binary.LittleEndian.PutUint16(p[at:], uint16(can))
	binary.LittleEndian.PutUint16(p[at+5:], uint16(can>>16))
	clear(p[at+8 : at+18]) // what MariaDB can besides
	method, _, _ := bytes.Cut(p[at+rest:], []byte{0})
	if g.method = string(method); g.method != native && g.method != cachingSHA2 {
		g.method = native
	}
	g.state = awaitLogin
	return append(append(p[:at+rest], g.method...), 0), nil
}

// startTLS asks the server for TLS, which is done by the beginning of the packet in
// which the client introduces itself, and goes on with TLS. It takes one packet, so that
// from here on the driver's are numbered one too low.
func (g *guard) startTLS(introduction []byte) error {
	const header, beginning = 4, 32
	if len(introduction) < header+beginning {
		return errors.New("the driver's introduction is too short")
	}
	introduction[header+1] |= canTLS >> 8
	request := append([]byte{beginning, 0, 0, introduction[3]}, introduction[header:header+beginning]...)
	if _, err := g.wire.Write(request); err != nil {
		return err
	}
	if g.in.Buffered() > 0 {
		return strange("something in the clear before TLS began")
	}
	secured := tls.Client(g.wire, g.tls)
	// The caller's deadline is the wire's.
	if err := secured.HandshakeContext(context.Background()); err != nil {
		return err
	}
	g.Conn, g.in, g.shift = secured, bufio.NewReader(secured), 1
	return nil
}

// login checks how a server goes on with a login. Without TLS only challenges are
// answered: mysql_native_password's, ed25519's and the first of caching_sha2_password.
// Whoever asks for the password itself, in the clear or under a key that comes along,
// gets nothing.
func (g *guard) login(p []byte) error {
	switch p[0] {
	case isOK:
		g.state = awaitNothing
		return nil
	case isEnd:
		if g.switched {
			return strange("a second change of the method to log in by")
		}
		method, nonce, _ := bytes.Cut(p[1:], []byte{0})
		g.method, g.switched = string(method), true
		least := map[string]int{native: challenge, cachingSHA2: challenge, ed25519Method: 32}
		if g.tls != nil {
			least[sha256Method] = challenge
		}
		n, known := least[g.method]
		switch {
		case g.method == sha256Method && !known:
			return errAsked
		case !known:
			return fmt.Errorf("%w: %s", errMethod, bounded.Text(g.method))
		case len(nonce) < n:
			return strange("a challenge that is too short")
		}
		return nil
	case isMoreAuth:
		known, unknown := []byte{isMoreAuth, 3}, []byte{isMoreAuth, 4}
		switch {
		case g.method == cachingSHA2 && bytes.Equal(p, known):
			return nil
		case g.tls == nil:
			return errAsked
		case g.method == cachingSHA2 && bytes.Equal(p, unknown), g.method == sha256Method:
			return nil
		}
		return strange("a question that the method to log in by does not have")
	}
	return strange("an answer to a login that is none")
}
