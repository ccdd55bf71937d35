package hostile

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
)

// MySQL are false MySQL servers.
func MySQL() []Case {
	var cases []Case
	add := func(when string, at moment, lies ...lie) {
		for _, l := range lies {
			cases = append(cases, Case{Name: when + ": " + l.name, Endless: l.endless, Serve: func(c net.Conn, cfg *tls.Config) bool {
				m := &my{conn: c}
				told := m.reaches(at, cfg)
				if told {
					l.tell(m.conn)
				}
				return told
			}})
		}
	}
	// always are told as the packet with this number.
	always := func(n byte) []lie {
		return []lie{
			flood("an endless packet", []byte("x"), []byte{0xff, 0xff, 0xff, n}),
			flood("endless packets of 16 MB", bytes.Repeat([]byte("x"), 1<<12), []byte{0xff, 0xff, 0xff, n}),
			say("an empty packet", packet(n)),
			say("a packet out of turn", packet(n+7, okPacket)),
			say("an error of one byte", packet(n, []byte{0xff})),
			say("an error that ends too soon", packet(n, []byte{0xff, 1})),
			say("an error for terminals", packet(n, []byte("\xff\x17\x04#08S01"), []byte(escapes+strings.Repeat("x", 1<<16)))),
			drip("a packet, slowly", []byte("x"), []byte{0, 0, 1, n}),
		}
	}
	add("at the greeting", start, always(0)...)
	whole := Greeting("mysql_native_password", nonce, true)
	for _, n := range []int{1, 2, 8, 20, 25, 28, 32, 40, len(whole) - 23 - 14, len(whole) - 23} {
		add("at the greeting", start, say(fmt.Sprintf("%d bytes of it", n), packet(0, whole[:n])))
	}
	add("at the greeting", start,
		say("an old version", packet(0, []byte{9}, whole[1:])),
		say("no zero in it", packet(0, bytes.Repeat([]byte("x"), 200))),
		say("a challenge of 8 bytes", packet(0, Greeting("mysql_native_password", nonce[:8], true))),
	)
	atLogin := func(n byte) []lie { // n is the number of the packet that answers the login
		lies := append(always(n),
			say("a switch without a method", packet(n, []byte{0xfe})),
			say("a switch without a challenge", switchTo(n, "mysql_native_password", nil)),
			say("a switch with a short challenge", switchTo(n, "caching_sha2_password", nonce[:19])),
			say("a switch with a short challenge for ed25519", switchTo(n, "client_ed25519", nonce)),
			say("a second switch", switchTo(n, "mysql_native_password", nonce), switchTo(n+2, "caching_sha2_password", nonce)),
			say("a question for a method that has none", packet(n, []byte{1, 4})),
			say("a question of nothing", packet(n, []byte{1})),
			say("a key", packet(n, []byte("\x01"+PublicKey))),
			say("a file", packet(n, []byte("\xfb/etc/passwd"))),
			say("something else", packet(n, []byte{7})),
		)
		for _, method := range []string{"mysql_clear_password", "mysql_old_password", "dialog", "auth_gssapi_client", "authentication_ldap_sasl_client", "parsec", "", strings.Repeat("m", 1<<16), escapes} {
			lies = append(lies, say(fmt.Sprintf("a switch to %.20q", method), switchTo(n, method, nonce)))
		}
		return lies
	}
	// TLS takes one packet more.
	without, with := atLogin(2), atLogin(3)
	for i := range without {
		add("at the login", challenged, lie{without[i].name, without[i].endless, func(w io.ReadWriter) {
			if _, secured := w.(*tls.Conn); secured {
				with[i].tell(w)
			} else {
				without[i].tell(w)
			}
		}})
	}
	two := result(1, "VERSION()", "CURRENT_USER()")
	// rows are those of two columns.
	rows := func(status byte, rows ...[]byte) (all []byte) {
		n := byte(5)
		all = two
		for _, r := range rows {
			all = append(all[:len(all):len(all)], packet(n, r)...)
			n++
		}
		return append(all, packet(n, []byte{0xfe, 0, 0, status, 0})...)
	}
	honest := concat(text("8.0.99"), text("app@%"))
	answers := append([]lie{
		say("2^40 columns", packet(1, []byte{0xfe}, binary.LittleEndian.AppendUint64(nil, 1<<40))),
		say("2^64-1 columns", packet(1, []byte{0xfe}, binary.LittleEndian.AppendUint64(nil, 1<<64-1))),
		say("16,000,000 columns", packet(1, []byte{0xfd, 0xff, 0xff, 0xf0})),
		say("a number of columns that ends too soon", packet(1, []byte{0xfe, 1})),
		say("2^40 columns after more results", packet(1, []byte{0, 0, 0, 0x0a, 0, 0, 0}), packet(2, []byte{0xfe}, binary.LittleEndian.AppendUint64(nil, 1<<40))),
		flood("endless columns", counted(2, []byte("\x03def\x00\x00\x00\x00\x00\x0c\x2d\x00\xff\x00\x00\x00\xfd\x00\x00\x00\x00\x00")), packet(1, []byte{2})),
		// The number of a packet is a byte, which these let overflow as an honest server does.
		flood("endless rows", counted(5, honest), two),
		flood("endless rows of NULL", counted(5, []byte{0xfb, 0xfb}), two),
		flood("endless rows that are long", counted(5, concat([]byte{0xfc, 0xff, 0xff}, make([]byte, 1<<16-1), text(""))), two),
		flood("endless results", packet(1, []byte{0, 0, 0, 0x0a, 0, 0, 0})),
		say("a text of 2^40 bytes", two, packet(5, []byte{0xfe}, binary.LittleEndian.AppendUint64(nil, 1<<40))),
		say("a text of 2^64-1 bytes", two, packet(5, []byte{0xfe}, binary.LittleEndian.AppendUint64(nil, 1<<64-1))),
		say("no rows", rows(2)),
		say("no columns and no rows", packet(1, okPacket)),
		say("two rows", rows(2, honest, honest)),
		say("one column", result(1, "x"), packet(4, text("x")), packet(5, endPacket)),
		say("three columns", result(1, "x", "y", "z"), packet(6, text("x"), text("y"), text("z")), packet(7, endPacket)),
		say("a row of one column", rows(2, text("x"))),
		say("a row of three columns", rows(2, concat(honest, text("x")))),
		say("NULLs", rows(2, []byte{0xfb, 0xfb})),
		say("two results", rows(0x0a, honest)),
		say("a file", packet(1, []byte("\xfb/proc/self/environ"))),
		say("columns that end too soon", packet(1, []byte{2}), packet(2, endPacket)),
		say("an end that ends too soon", two, packet(5, []byte{0xfe})),
		drip("rows, slowly", counted(5, honest), two),
	}, always(1)...)
	add("after the login", loggedIn, answers...)
	add("after the login", loggedIn,
		say("no version", rows(2, concat(text(""), text("app@%")))),
		say("an account without a host", rows(2, concat(text("8.0.99"), text("app")))),
		say("another's account, for terminals", rows(2, concat(text("8.0.99"), text(escapes+"@%")))),
	)
	add("at the change", asked, answers...)
	add("at the goodbye", leaving, flood("endless packets", packet(1, okPacket)), drip("bytes, slowly", []byte("x")))
	return cases
}

// Asks is a server whose default method is this one, and that answers the client's
// introduction with some packets, one after the other as the client answers them. What
// the client says after its introduction is handed on.
func Asks(method string, answers [][]byte, learned func([]byte)) Case {
	return Case{Name: method, Serve: func(c net.Conn, cfg *tls.Config) bool {
		m := &my{conn: c}
		if _, err := c.Write(packet(0, Greeting(method, nonce, cfg != nil))); err != nil {
			return false
		}
		n, said, err := m.read()
		if err == nil && cfg != nil {
			m.conn = tls.Server(c, cfg)
			n, said, err = m.read()
		}
		for err == nil {
			learned(said)
			if len(answers) == 0 {
				return true
			}
			if _, err = m.conn.Write(packet(n+1, answers[0])); err == nil {
				answers = answers[1:]
				n, said, err = m.read()
			}
		}
		return false
	}}
}

// result is the answer to a statement as far as its rows.
func result(n byte, columns ...string) (all []byte) {
	all = packet(n, []byte{byte(len(columns))})
	for _, name := range columns {
		n++
		all = append(all, packet(n, []byte("\x03def\x00\x00\x00"), text(name), []byte("\x00\x0c\x2d\x00\xff\x00\x00\x00\xfd\x00\x00\x00\x00\x00"))...)
	}
	return append(all, packet(n+1, endPacket)...)
}

// Switch is the packet by which a server asks for another method.
func Switch(method string) []byte {
	if method == "client_ed25519" {
		return concat([]byte("\xfe"+method+"\x00"), nonce, nonce[:12])
	}
	return concat([]byte("\xfe"+method+"\x00"), nonce, []byte{0})
}

var nonce = []byte("abcdefghijklmnopqrst")

var (
	okPacket  = []byte{0, 0, 0, 2, 0, 0, 0}
	endPacket = []byte{0xfe, 0, 0, 2, 0}
)

func packet(number byte, body ...[]byte) []byte {
	all := concat(body...)
	n := len(all)
	return concat([]byte{byte(n), byte(n >> 8), byte(n >> 16), number}, all)
}

// counted are 256 packets, whose numbers begin with this one.
func counted(number byte, body []byte) (all []byte) {
	for range 256 {
		all = append(all, packet(number, body)...)
		number++
	}
	return all
}

func text(s string) []byte {
	if len(s) < 251 {
		return append([]byte{byte(len(s))}, s...)
	}
	return append([]byte{0xfc, byte(len(s)), byte(len(s) >> 8)}, s...)
}

func switchTo(n byte, method string, challenge []byte) []byte {
	return packet(n, []byte("\xfe"+method+"\x00"), challenge, []byte{0})
}

// Greeting is a server's first packet, without its header. It has a challenge of 20
// bytes if it is an honest one's.
func Greeting(method string, challenge []byte, withTLS bool) []byte {
	p := append([]byte("\x0a8.0.99\x00\x01\x00\x00\x00"), challenge[:8]...)
	low := byte(0x82) // protocol 4.1, secure connections
	if withTLS {
		low |= 0x08
	}
	p = append(p, 0, 0x08, low, 0x2d, 0x02, 0x00, 0x08, 0x00, byte(len(challenge)+1)) // several methods
	p = append(p, make([]byte, 10)...)
	return append(append(append(p, challenge[8:]...), 0), method+"\x00"...)
}

// PublicKey is an RSA key of 2048 bits, whose other half nobody has.
const PublicKey = `-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAqswN+o/TwDQpJNhh3XEq
Wqa3oI4H0I1/7EFyOrjDNeFV/6Qad+5RKvA1q2F3Br9YDHzj+96QxJTsSYiDgobD
FIwQkp1Xl3EcZ3o84gPRUWTmn6HId9ZVdMozk3D5zkyLl90VVZqloCvnagXl3l1B
8MO+v6N88K8hK72xxTlnsdn2vilPS6FKZBcf0MzQtMYohM84IlYYx4o1f2OlJKCx
tppKWaVDdqzGRgEwxDiTygyULURUqAWFjTGP1Z+JhXM28UBKSwXMraI/JJXgDCap
Nm3FcxnCZwzCgNfp9XprmOnUXnLVdpEI2pDp1f61C94mTSFQtPt3hwKyuUjtNgN2
lQIDAQAB
-----END PUBLIC KEY-----
`

type my struct{ conn net.Conn }

// reaches serves a connection honestly until a moment, if that comes.
func (m *my) reaches(at moment, cfg *tls.Config) bool {
	if at == start {
		return true
	}
	if _, err := m.conn.Write(packet(0, Greeting("mysql_native_password", nonce, cfg != nil))); err != nil {
		return false
	}
	number, _, err := m.read()
	if err == nil && cfg != nil {
		m.conn = tls.Server(m.conn, cfg)
		number, _, err = m.read()
	}
	if err != nil || at == challenged {
		return err == nil
	}
	if _, err := m.conn.Write(packet(number+1, okPacket)); err != nil {
		return false
	}
	for n := 0; ; {
		_, said, err := m.read()
		if err != nil {
			return false
		}
		sql := string(said[1:])
		switch {
		case said[0] == 1: // goodbye
			return at == leaving
		case !strings.HasPrefix(sql, "SELECT "):
			if _, err := m.conn.Write(packet(1, okPacket)); err != nil {
				return false
			}
			continue
		case at == loggedIn, at == asked && n == 1:
			return true
		}
		n++
		answer := concat(result(1, "VERSION()", "CURRENT_USER()"), packet(5, text("8.0.99"), text("app@%")), packet(6, endPacket))
		if _, err := m.conn.Write(answer); err != nil {
			return false
		}
	}
}

func (m *my) read() (number byte, body []byte, err error) {
	header := make([]byte, 4)
	if _, err := io.ReadFull(m.conn, header); err != nil {
		return 0, nil, err
	}
	body = make([]byte, int(header[0])|int(header[1])<<8|int(header[2])<<16)
	_, err = io.ReadFull(m.conn, body)
	return header[3], body, err
}
