package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/internal/bounded"
)

// maxBytes is how much one login may be sent. The most that an honest server says is
// ACL LIST, which is read for each change that a session makes, two at the most: a user
// with one password is a line of 120 bytes and more, so that this is enough for twenty
// thousand users.
const maxBytes = 8 << 20

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

// client speaks the serialization protocol of Redis, version 2
// (https://redis.io/docs/latest/develop/reference/protocol-spec), as far as commands
// and their answers take it.
//
// It is here, in place of a driver, because the server may be a stranger's. Drivers
// trust theirs: they reserve memory for texts and arrays as long as it announces. This
// client reads nothing that the limits above do not allow.
type client struct {
	wire *bounded.Conn
	conn net.Conn // wire, or TLS on it
	in   *bufio.Reader
}

func newClient(wire *bounded.Conn, conn net.Conn) *client {
	return &client{wire, conn, bufio.NewReaderSize(conn, maxLine)}
}

// serverError is an error that the server answered with, as it was sent.
type serverError string

func (e serverError) Error() string { return string(e) }

// errStrange is what a server has answered with that cannot be read. Its words are left
// out: they may be those of the command.
var errStrange = errors.New("it does not answer as a Redis server does")

// errBroken is what a client returns after an error that was no answer.
var errBroken = errors.New("the connection was ended by an earlier error")

// do sends commands and returns an answer for each: a string, an int64, nil, an array
// of answers, or a serverError, which within an array is no error of do's. If there are
// serverErrors, the first is do's error too.
func (c *client) do(ctx context.Context, commands ...[]string) ([]any, error) {
	if c.in == nil {
		return nil, errBroken
	}
	var out strings.Builder
	for _, command := range commands {
		fmt.Fprintf(&out, "*%d\r\n", len(command))
		for _, word := range command {
			fmt.Fprintf(&out, "$%d\r\n%s\r\n", len(word), word)
		}
	}
	var answers []any
	err := c.wire.Do(ctx, func() error {
		if _, err := io.WriteString(c.conn, out.String()); err != nil {
			return err
		}
		for range commands {
			elements := maxElements
			answer, err := c.read(maxDepth, &elements)
			if err != nil {
				return err
			}
			answers = append(answers, answer)
		}
		return nil
	})
	if err != nil {
		// What comes next might be half of an answer.
		c.in = nil
		_ = c.wire.Close()
		return nil, err
	}
	for _, answer := range answers {
		if said, ok := answer.(serverError); ok {
			return answers, said
		}
	}
	return answers, nil
}

// read reads one answer, in which arrays stand no deeper than depth and have no more
// elements than are left.
func (c *client) read(depth int, elements *int) (any, error) {
	line, err := c.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, errStrange
	}
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok || text == "" {
		return nil, errStrange
	}
	kind, text := text[0], text[1:]
	switch {
	case kind == '+':
		return text, nil
	case kind == '-' && text != "":
		return serverError(text), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, errStrange
	}
	switch {
	case kind == ':':
		return n, nil
	case (kind == '$' || kind == '*') && n == -1:
		return nil, nil
	case kind == '$' && n >= 0 && n <= maxBytes:
		p := make([]byte, n+2)
		if _, err := io.ReadFull(c.in, p); err != nil {
			return nil, err
		}
		if p[n] != '\r' || p[n+1] != '\n' {
			return nil, errStrange
		}
		return string(p[:n]), nil
	case kind == '*' && n >= 0 && n <= int64(*elements) && depth > 0:
		*elements -= int(n)
		all := []any{}
		for range n {
			element, err := c.read(depth-1, elements)
			if err != nil {
				return nil, err
			}
			all = append(all, element)
		}
		return all, nil
	}
	return nil, errStrange
}

// close ends the connection.
func (c *client) close() {
	c.in = nil
	_ = c.conn.Close()
}
