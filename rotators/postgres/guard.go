package postgres

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// How many rounds of hashing a server may ask of a SCRAM login.
const (
	// minIterations is what RFC 7677 wants of clients, and PostgreSQL's default. A
	// false server that may ask for one round gets an answer from which it can guess
	// passwords four thousand times as fast. With TLS the certificate says that the
	// server is none.
	minIterations = 4096
	// maxIterations is what OWASP's Password Storage Cheat Sheet wants of stored
	// passwords, the most that anybody recommends. They take half a second where
	// nothing can interrupt them.
	maxIterations = 600_000
)

// errRounds is a number of rounds that a server asked for and does not get.
type errRounds int

func (e errRounds) Error() string { return fmt.Sprintf("the server asks for %d rounds", int(e)) }

// scramGuard is what the driver reads a server's messages from. Until the login is over
// it looks at how many rounds the server asks for, because the driver makes them at
// once.
type scramGuard struct {
	r         io.Reader
	plaintext bool
	checked   []byte // of a message that may be read
	left      int    // of one that may be read and is not here yet
	over      bool   // the login
}

// maxChallenge is more than the message with the number of rounds has, which is a
// hundred bytes long.
const maxChallenge = 4 << 10

// Read implements io.Reader.
func (g *scramGuard) Read(p []byte) (int, error) {
	if len(g.checked) == 0 && g.left == 0 && !g.over {
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	switch {
	case len(g.checked) > 0:
		n := copy(p, g.checked)
		g.checked = g.checked[n:]
		return n, nil
	case g.left > 0:
		n, err := g.r.Read(p[:min(len(p), g.left)])
		g.left -= n
		return n, err
	}
	return g.r.Read(p)
}

// next reads the beginning of the next message, and all of one about the login.
func (g *scramGuard) next() error {
	header := make([]byte, 5)
	if _, err := io.ReadFull(g.r, header); err != nil {
		return err
	}
	size := int64(binary.BigEndian.Uint32(header[1:])) - 4
	switch {
	case size < 0 || size > maxBytes:
		return strange(fmt.Sprintf("a message of %d bytes", size))
	case header[0] != 'R': // AuthenticationRequest
		g.checked, g.left, g.over = header, int(size), header[0] == 'Z' // ReadyForQuery
		return nil
	case size > maxChallenge:
		return strange(fmt.Sprintf("a challenge of %d bytes", size))
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(g.r, body); err != nil {
		return err
	}
	const saslContinue = 11
	if size >= 4 && binary.BigEndian.Uint32(body) == saslContinue {
		if err := g.check(string(body[4:])); err != nil {
			return err
		}
	}
	g.checked = append(header, body...)
	return nil
}

// check looks at a server's first message (RFC 5802), which ends with the number of
// rounds: r=..,s=..,i=4096
func (g *scramGuard) check(first string) error {
	parts := strings.Split(first, ",")
	text, ok := strings.CutPrefix(parts[len(parts)-1], "i=")
	rounds, err := strconv.ParseUint(text, 10, 31)
	switch {
	case !ok || err != nil || len(parts) != 3:
		return strange("a challenge that is none of SCRAM's")
	case rounds > maxIterations, rounds < minIterations && g.plaintext:
		return errRounds(rounds)
	}
	return nil
}
