package mysql

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/rekeyhq/rekey/internal/bounded"
)

// maxBytes is how much one login may be sent, from the first byte to the goodbye. The
// most that an honest server says is SHOW GRANTS, of which alternating users take four
// to six: the rights on a table are a line of about a hundred bytes, so that this is
// enough for ten thousand tables.
const maxBytes = 8 << 20

// maxRows is how many rows an answer may have: a row of nothing takes five bytes from
// the server and ten times as many here.
const maxRows = 1 << 16

// client speaks the client/server protocol of MySQL and MariaDB, as far as a login and
// plain statements take it (https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html).
//
// It is here, in place of a driver, because the server may be a stranger's. Drivers
// trust theirs: they reserve memory for as many columns as it announces, prove the
// password by the method that it names, offer to send it files, and panic at packets
// that end too soon. This client reads nothing that the limits above do not allow, and
// any answer that is not one to what was asked ends the connection.
type client struct {
	wire     *bounded.Conn
	conn     net.Conn // wire, or TLS on it
	in       *bufio.Reader
	sequence byte // of the next packet, in either direction
}

// serverError is an error that the server answered with.
type serverError struct {
	number  uint16
	message string // to be shown as it is
}

func (e *serverError) Error() string { return fmt.Sprintf("error %d: %s", e.number, e.message) }

// strange is what is wrong with a server's answer that is not one to what was asked.
type strange string

func (s strange) Error() string { return string(s) }

var (
	errNoTLS = errors.New("the server offers no TLS")
	// errBroken is what a client returns after an error that was no answer.
	errBroken = errors.New("the connection was ended by an earlier error")
)

// do runs f, which exchanges packets, until ctx ends. After an error that is not the
// server's the connection is over: what comes next might be half of an answer.
func (c *client) do(ctx context.Context, f func() error) error {
	if c.in == nil {
		return errBroken
	}
	err := c.wire.Do(ctx, f)
	if said := (*serverError)(nil); err != nil && !errors.As(err, &said) {
		c.in = nil
		_ = c.wire.Close()
	}
	return err
}

// readPacket reads one packet, which is never empty. An error of the server's is an
// error here, whatever was asked.
func (c *client) readPacket() ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(c.in, header[:]); err != nil {
		return nil, err
	}
	size := int(header[0]) | int(header[1])<<8 | int(header[2])<<16
	if size == 0 || size > maxBytes {
		return nil, strange(fmt.Sprintf("a packet of %d bytes", size))
	}
	p := make([]byte, size)
	if _, err := io.ReadFull(c.in, p); err != nil {
		return nil, err
	}
	// Errors come out of turn where a server ends sessions.
	if p[0] == isError {
		return nil, readError(p)
	}
	if header[3] != c.sequence {
		return nil, strange("a packet out of turn")
	}
	c.sequence++
	return p, nil
}

// The first bytes of packets that are no rows.
const (
	isOK        = 0x00
	isMoreAuth  = 0x01
	isLocalFile = 0xfb
	isEnd       = 0xfe // or, during the login, a switch to another method
	isError     = 0xff
)

func readError(p []byte) error {
	f := fields{rest: p[1:]}
	number := binary.LittleEndian.Uint16(f.take(2))
	if len(f.rest) >= 6 && f.rest[0] == '#' {
		f.take(6) // the SQLSTATE
	}
	if f.short {
		return strange("an error that ends too soon")
	}
	return &serverError{number, bounded.Text(string(f.rest))}
}

func (c *client) writePacket(p []byte) error {
	if len(p) >= 1<<24-1 {
		return fmt.Errorf("a statement of %d bytes is longer than rekey sends", len(p))
	}
	header := []byte{byte(len(p)), byte(len(p) >> 8), byte(len(p) >> 16), c.sequence}
	c.sequence++
	// In one write, so that no packet goes out by halves.
	_, err := c.conn.Write(append(header, p...))
	return err
}

// The commands that are sent.
const (
	comQuit  = 0x01
	comQuery = 0x03
)

// quit says goodbye and reads until the server has hung up.
func (c *client) quit(ctx context.Context) {
	_ = c.do(ctx, func() error {
		c.sequence = 0
		if err := c.writePacket([]byte{comQuit}); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, c.in)
		return err
	})
	_ = c.wire.Close()
}

// query runs one statement and returns its rows as text, "" for NULL. columns is how
// many the statement asks for; 0 for one that has no rows.
func (c *client) query(ctx context.Context, statement string, columns int) (rows [][]string, err error) {
	err = c.do(ctx, func() error {
		c.sequence = 0
		if err := c.writePacket(append([]byte{comQuery}, statement...)); err != nil {
			return err
		}
		rows, err = c.readRows(columns)
		return err
	})
	return rows, err
}

// moreResults is the status that says that another result follows. One statement is
// sent at a time, and no procedure is called.
const moreResults = 0x0008

func (c *client) readRows(columns int) ([][]string, error) {
	p, err := c.readPacket()
	if err != nil {
		return nil, err
	}
	f := fields{rest: p}
	switch p[0] {
	case isOK:
		f.take(1)
		f.number() // of rows changed
		f.number() // the last one's key
		status := binary.LittleEndian.Uint16(f.take(2))
		switch {
		case f.short || status&moreResults != 0:
			return nil, strange("an answer that it does not end")
		case columns > 0:
			return nil, strange("no rows where some were asked for")
		}
		return nil, nil
	case isLocalFile:
		return nil, strange("a request for a file of this machine's")
	}
	if n := f.number(); f.short || n != uint64(columns) {
		return nil, strange(fmt.Sprintf("%d columns where %d were asked for", n, columns))
	}
	for range columns { // what the columns are is known
		if _, err := c.readPacket(); err != nil {
			return nil, err
		}
	}
	if p, err = c.readPacket(); err != nil {
		return nil, err
	}
	if !isEndOf(p) {
		return nil, strange("more columns than it announced")
	}
	var rows [][]string
	for {
		if p, err = c.readPacket(); err != nil {
			return nil, err
		}
		if isEndOf(p) {
			f := fields{rest: p[1:]}
			f.take(2) // the number of warnings
			if status := binary.LittleEndian.Uint16(f.take(2)); f.short || status&moreResults != 0 {
				return nil, strange("an answer that it does not end")
			}
			return rows, nil
		}
		if len(rows) == maxRows {
			return nil, strange(fmt.Sprintf("more than %d rows", maxRows))
		}
		f := fields{rest: p}
		row := make([]string, columns)
		for i := range row {
			row[i] = f.text()
		}
		if f.short || len(f.rest) > 0 {
			return nil, strange("a row that is not as it was announced")
		}
		rows = append(rows, row)
	}
}

// isEndOf reports whether a packet is the end of columns or rows. A row that begins
// with the same byte has 16 MB and more.
func isEndOf(p []byte) bool { return p[0] == isEnd && len(p) <= 5 }

// fields reads what a packet is made of. What is not there reads as zeroes, and sets
// short.
type fields struct {
	rest  []byte
	short bool
}

func (f *fields) take(n int) []byte {
	if n > len(f.rest) {
		f.short, f.rest = true, nil
		return make([]byte, min(n, 8))
	}
	taken := f.rest[:n]
	f.rest = f.rest[n:]
	return taken
}

// number reads a number of one to nine bytes.
func (f *fields) number() uint64 {
	first := f.take(1)[0]
	size := map[byte]int{0xfc: 2, 0xfd: 3, 0xfe: 8}[first]
	if size == 0 {
		f.short = f.short || first > 0xfa
		return uint64(first)
	}
	var eight [8]byte
	copy(eight[:], f.take(size))
	return binary.LittleEndian.Uint64(eight[:])
}

// text reads a text with its length before it; "" if it is NULL.
func (f *fields) text() string {
	if len(f.rest) > 0 && f.rest[0] == 0xfb {
		f.take(1)
		return ""
	}
	n := f.number()
	if n > uint64(len(f.rest)) {
		f.short = true
		return ""
	}
	return string(f.take(int(n)))
}

// line reads a text that a zero ends, or the packet.
func (f *fields) line() string {
	for i, b := range f.rest {
		if b == 0 {
			line := string(f.rest[:i])
			f.rest = f.rest[i+1:]
			return line
		}
	}
	line := string(f.rest)
	f.rest = nil
	return line
}

// startTLS asks the server for TLS and goes on with that.
func (c *client) startTLS(ctx context.Context, cfg *tls.Config, can uint32) error {
	if err := c.writePacket(introduction(can)); err != nil {
		return err
	}
	// Nobody has any business to have spoken on meanwhile.
	if c.in.Buffered() > 0 {
		return strange("something in the clear before TLS began")
	}
	secured := tls.Client(c.wire, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		return err
	}
	c.conn, c.in = secured, bufio.NewReader(secured)
	return nil
}
