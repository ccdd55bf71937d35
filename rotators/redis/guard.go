package redis

import (
	"bytes"
	"errors"
	"net"
	"strconv"
)

// maxBytes is how much one login may be sent, by all its nodes together. The most that an
// honest server says is ACL LIST, which is read for each change that a session makes, two
// at the most: a user with one password is a line of 120 bytes and more, so that this is
// enough for twenty thousand users on one node, and for four hundred on each of 64.
const maxBytes = 8 << 20

// maxInfo is how long an answer to INFO may be. Redis 7 says 6 KB, and a line more for
// each replica and database.
const maxInfo = 64 << 10

const (
	// maxElements is how many elements all the arrays of one answer may have: an empty
	// one takes five bytes from the server and ten times as many here.
	maxElements = 1 << 16
	// maxDepth is how deep arrays may stand in arrays. In ACL GETUSER they do so three
	// deep.
	maxDepth = 8
	// maxLine is how long a line may be. Errors are lines, and quote commands.
	maxLine = 16 << 10
)

// errStrange is what a server has answered with that cannot be read. Its words are left
// out: they may be those of the command.
var errStrange = errors.New("it does not answer as a Redis server does")

// guard is the connection that the driver is given. The driver trusts its server, and
// reserves memory for texts and arrays as long as the server announces. The server may
// be a stranger's, so the guard reads all lengths before the driver does, and ends the
// connection at one that the limits above do not allow
// (https://redis.io/docs/latest/develop/reference/protocol-spec, version 2).
type guard struct {
	net.Conn
	line     []byte // as far as it is here
	text     int    // bytes to come of a text and its end
	open     []int  // elements to come of the arrays that are open, the outermost first
	elements int    // of all arrays of this answer
	broken   error  // why the connection was ended
}

// Read implements net.Conn.
func (g *guard) Read(p []byte) (int, error) {
	if g.broken != nil {
		return 0, g.broken
	}
	n, err := g.Conn.Read(p)
	if g.broken = g.look(p[:n]); g.broken != nil {
		_ = g.Conn.Close()
		return 0, g.broken
	}
	return n, err
}

// look follows what a server sends.
func (g *guard) look(p []byte) error {
	for len(p) > 0 {
		if g.text > 0 {
			n := min(g.text, len(p))
			g.text, p = g.text-n, p[n:]
			if g.text == 0 {
				g.value()
			}
			continue
		}
		n := bytes.IndexByte(p, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(p)
		}
		g.line, p = append(g.line, p[:n]...), p[n:]
		if len(g.line) > maxLine {
			return errStrange
		}
		if !whole {
			continue
		}
		err := g.header(g.line)
		if g.line = g.line[:0]; err != nil {
			return err
		}
	}
	return nil
}

// header reads a line, with which every part of an answer begins.
func (g *guard) header(line []byte) error {
	line, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || len(line) < 2 {
		return errStrange
	}
	kind := line[0]
	if kind == '+' || kind == '-' {
		g.value()
		return nil
	}
	n, err := strconv.ParseInt(string(line[1:]), 10, 64)
	switch {
	case err != nil:
		return errStrange
	case kind == ':', (kind == '$' || kind == '*') && n == -1, kind == '*' && n == 0:
		g.value()
	case kind == '$' && n >= 0 && n <= maxBytes:
		g.text = int(n) + len("\r\n")
	case kind == '*' && n > 0 && n <= int64(maxElements-g.elements) && len(g.open) < maxDepth:
		g.elements += int(n)
		g.open = append(g.open, int(n))
	default:
		return errStrange
	}
	return nil
}

// value notes that a value has ended, and with it perhaps the arrays that it is in.
func (g *guard) value() {
	for last := len(g.open) - 1; last >= 0; last-- {
		if g.open[last]--; g.open[last] > 0 {
			return
		}
		g.open = g.open[:last]
	}
	g.elements = 0
}
