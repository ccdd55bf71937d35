package attacks

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// fake is a server of the attacker's. It lets everybody in whom it can, with and without
// TLS, does nothing of what it is told, says that all went well, and remembers every login
// and every byte.
type fake struct {
	engine      string
	certificate tls.Certificate

	mu          sync.Mutex
	connections int
	logins      []login
	sent        bytes.Buffer // what clients sent, TLS taken off

	// How it behaves in the test that runs.
	knows    []string                    // passwords by which it can pass for a server where a login proves the server too (SCRAM)
	speaks   string                      // another engine than its own; "": its own
	refuses  func(user string) bool      // nil: nobody
	replica  bool                        // it says that it is a read-only replica
	huge     bool                        // once somebody is let in, it answers with lengths that no memory holds
	account  string                      // what it says the account of a MySQL login is; "": user@%
	answered func(user, password string) // called with each login that it lets in; nil: not
}

// login is what a client sent to be let in.
type login struct {
	user     string
	password string            // in the clear; "" if the fake got only a proof
	proves   func(string) bool // whether the proof was made with a password; nil: it got none
	tls      bool
}

// reset has a fake forget all, and behave well.
func (f *fake) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connections, f.logins, f.knows, f.speaks = 0, nil, nil, ""
	f.refuses, f.replica, f.huge, f.account, f.answered = nil, false, false, "", nil
	f.sent.Reset()
}

// learned lists which of these passwords a fake was sent, or was sent a proof of.
func (f *fake) learned(passwords ...string) (found []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range passwords {
		if bytes.Contains(f.sent.Bytes(), []byte(p)) || slices.ContainsFunc(f.logins, func(l login) bool {
			return l.password == p || l.proves != nil && l.proves(p)
		}) {
			found = append(found, p)
		}
	}
	return found
}

// seen lists the users that logged in, or tried to.
func (f *fake) seen() (users []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.logins {
		users = append(users, l.user)
	}
	return users
}

// reached is how many connections were made to a fake.
func (f *fake) reached() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.connections
}

// enter takes a login down, and reports whether it is let in.
func (f *fake) enter(l login) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logins = append(f.logins, l)
	if f.refuses != nil && f.refuses(l.user) {
		return false
	}
	if f.answered != nil {
		f.answered(l.user, l.password)
	}
	return true
}

func newFake(engine, address string, port int, certificate tls.Certificate) (*fake, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	f := &fake{engine: engine, certificate: certificate}
	serve := map[string]func(*peer) error{"postgres": f.postgres, "mariadb": f.mysql, "redis": f.redis}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				p := &peer{fake: f}
				p.use(conn)
				f.mu.Lock()
				f.connections++
				speaks := cmp.Or(f.speaks, f.engine)
				f.mu.Unlock()
				_ = serve[speaks](p) // an error is the client's goodbye
			}()
		}
	}()
	return f, nil
}

// peer is one connection to a fake.
type peer struct {
	*fake
	net.Conn
	in     *bufio.Reader
	secure bool
}

// use reads and writes a connection from now on, and records what comes.
func (p *peer) use(conn net.Conn) {
	p.Conn = conn
	p.in = bufio.NewReader(&recorded{conn, p.fake})
}

// startTLS does what the client has asked for. What was read of the connection already is
// read again.
func (p *peer) startTLS() {
	secured := tls.Server(&buffered{p.Conn, p.in}, &tls.Config{Certificates: []tls.Certificate{p.certificate}})
	p.secure = true
	p.use(secured)
}

type recorded struct {
	io.Reader
	fake *fake
}

func (r *recorded) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.fake.mu.Lock()
	defer r.fake.mu.Unlock()
	r.fake.sent.Write(b[:n])
	return n, err
}

type buffered struct {
	net.Conn
	in io.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// take reads n bytes.
func (p *peer) take(n int) ([]byte, error) {
	if n < 0 || n > 1<<20 {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(p.in, b)
	return b, err
}

// redis speaks RESP2.
func (f *fake) redis(p *peer) error {
	if first, err := p.in.Peek(1); err != nil {
		return err
	} else if first[0] == 0x16 { // a TLS record with a handshake
		p.startTLS()
	}
	number := func(kind byte) (int, error) {
		line, err := p.in.ReadString('\n')
		if err != nil || line[0] != kind {
			return 0, fmt.Errorf("%q: %w", line, err)
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	for {
		count, err := number('*')
		if err != nil {
			return err
		}
		var args []string
		for range count {
			n, err := number('$')
			if err != nil {
				return err
			}
			text, err := p.take(n + 2)
			if err != nil {
				return err
			}
			args = append(args, string(text[:n]))
		}
		bulk := func(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }
		reply := "+OK\r\n"
		switch command := strings.ToUpper(args[0]); {
		case command == "HELLO":
			reply = "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"
		case command == "AUTH":
			if !f.enter(login{user: args[1], password: args[len(args)-1], tls: p.secure}) {
				reply = "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
			}
		case command == "INFO":
			reply = bulk("run_id:fake\r\nrole:master\r\nconnected_slaves:0\r\nconfig_file:/etc/redis.conf\r\n")
		case command == "ACL" && strings.EqualFold(args[1], "GETUSER"):
			reply = "*4\r\n" + bulk("flags") + "*1\r\n" + bulk("on") + bulk("passwords") + "*0\r\n"
		case command == "ACL" && strings.EqualFold(args[1], "LIST"):
			reply = "*0\r\n"
		case command == "CONFIG" && strings.EqualFold(args[1], "GET"):
			reply = "*2\r\n" + bulk(args[2]) + bulk("")
		}
		if f.huge && strings.ToUpper(args[0]) == "INFO" {
			reply = "$2147483000\r\n" + strings.Repeat("x", 1024)
		}
		if _, err := io.WriteString(p, reply); err != nil {
			return err
		}
	}
}

// postgres speaks version 3 of the protocol. By TLS it asks for the password itself,
// without TLS for SCRAM.
func (f *fake) postgres(p *peer) error {
	const sslRequest = 80877103
	send := func(kind byte, body string) error {
		m := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
		_, err := p.Write(append(m, body...))
		return err
	}
	integer := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	var startup []byte
	for startup == nil {
		head, err := p.take(4)
		if err != nil {
			return err
		}
		body, err := p.take(int(binary.BigEndian.Uint32(head)) - 4)
		if err != nil {
			return err
		}
		if binary.BigEndian.Uint32(body) != sslRequest {
			startup = body
			continue
		}
		if _, err := io.WriteString(p, "S"); err != nil {
			return err
		}
		p.startTLS()
	}
	parameters := strings.Split(string(startup[4:]), "\x00")
	l := login{tls: p.secure, user: parameters[slices.Index(parameters, "user")+1]}

	receive := func() (kind byte, body []byte, err error) {
		head, err := p.take(5)
		if err != nil {
			return 0, nil, err
		}
		body, err = p.take(int(binary.BigEndian.Uint32(head[1:])) - 4)
		return head[0], body, err
	}
	wrong := "SFATAL\x00C28P01\x00Mpassword authentication failed\x00\x00"
	if p.secure {
		if err := send('R', integer(3)); err != nil {
			return err
		}
		_, body, err := receive()
		if err != nil {
			return err
		}
		l.password = strings.TrimSuffix(string(body), "\x00")
	} else {
		if err := send('R', integer(10)+"SCRAM-SHA-256\x00\x00"); err != nil {
			return err
		}
		_, body, err := receive()
		if err != nil {
			return err
		}
		_, first, _ := strings.Cut(string(body), "\x00")
		first = strings.TrimPrefix(first[4:], "n,,")
		_, nonce, _ := strings.Cut(first, "r=")
		salt := []byte("a salt of the fake's")
		challenge := "r=" + nonce + rand.Text() + ",s=" + base64.StdEncoding.EncodeToString(salt) + ",i=4096"
		if err := send('R', integer(11)+challenge); err != nil {
			return err
		}
		if _, body, err = receive(); err != nil {
			return err
		}
		final, proof, _ := strings.Cut(string(body), ",p=")
		message := first + "," + challenge + "," + final
		sent, _ := base64.StdEncoding.DecodeString(proof)
		mac := func(key []byte, text string) []byte {
			h := hmac.New(sha256.New, key)
			h.Write([]byte(text))
			return h.Sum(nil)
		}
		salted := func(password string) []byte {
			key, _ := pbkdf2.Key(sha256.New, password, salt, 4096, sha256.Size)
			return key
		}
		l.proves = func(password string) bool {
			key := mac(salted(password), "Client Key")
			stored := sha256.Sum256(key)
			want := make([]byte, len(key))
			subtle.XORBytes(want, key, mac(stored[:], message))
			return bytes.Equal(want, sent)
		}
		known := slices.IndexFunc(f.knows, l.proves)
		if known < 0 {
			f.enter(l)
			return send('E', wrong)
		}
		l.password = f.knows[known]
		signature := mac(mac(salted(l.password), "Server Key"), message)
		if err := send('R', integer(12)+"v="+base64.StdEncoding.EncodeToString(signature)); err != nil {
			return err
		}
	}
	if !f.enter(l) {
		return send('E', wrong)
	}
	if err := send('R', integer(0)); err != nil {
		return err
	}
	if err := send('S', "server_version\x0015.0\x00"); err != nil {
		return err
	}
	if f.huge {
		_, err := io.WriteString(p, "S\x7f\xff\xff\xff"+strings.Repeat("x", 1024))
		return err
	}
	for {
		if err := send('Z', "I"); err != nil {
			return err
		}
		kind, body, err := receive()
		if err != nil || kind == 'X' {
			return err
		}
		if f.replica && strings.Contains(string(body), "ROLE") {
			err = send('E', "SERROR\x00C25006\x00Mcannot execute ALTER ROLE in a read-only transaction\x00\x00")
		} else {
			err = send('C', "SELECT 1\x00")
		}
		if err != nil {
			return err
		}
	}
}

// mysql speaks version 10 of the protocol, and asks for mysql_native_password.
func (f *fake) mysql(p *peer) error {
	const (
		version = "8.0.99"
		// CLIENT_LONG_PASSWORD, _CONNECT_WITH_DB, _PROTOCOL_41, _SSL, _TRANSACTIONS,
		// _SECURE_CONNECTION and _PLUGIN_AUTH.
		capabilities = 0x00000001 | 0x00000008 | 0x00000200 | 0x00000800 | 0x00002000 | 0x00008000 | 0x00080000
		withSSL      = 0x00000800
	)
	sequence := byte(0)
	send := func(body string) error {
		n := len(body)
		m := append([]byte{byte(n), byte(n >> 8), byte(n >> 16), sequence}, body...)
		sequence++
		_, err := p.Write(m)
		return err
	}
	receive := func() ([]byte, error) {
		head, err := p.take(4)
		if err != nil {
			return nil, err
		}
		sequence = head[3] + 1
		return p.take(int(head[0]) | int(head[1])<<8 | int(head[2])<<16)
	}
	const salt = "01234567abcdefghijkl"
	plugin := "mysql_native_password\x00"
	if err := send("\x0a" + version + "\x00\x01\x00\x00\x00" + salt[:8] + "\x00" +
		string([]byte{byte(capabilities & 0xff), byte(capabilities >> 8 & 0xff), 45, 2, 0, byte(capabilities >> 16 & 0xff), byte(capabilities >> 24), 21}) +
		strings.Repeat("\x00", 10) + salt[8:] + "\x00" + plugin); err != nil {
		return err
	}
	hello, err := receive()
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(hello)&withSSL != 0 {
		p.startTLS()
		if hello, err = receive(); err != nil {
			return err
		}
	}
	user, rest, _ := bytes.Cut(hello[32:], []byte{0})
	answer := rest[1 : 1+int(rest[0])]
	l := login{user: string(user), tls: p.secure, proves: func(password string) bool {
		once := sha1.Sum([]byte(password))
		twice := sha1.Sum(once[:])
		mixed := sha1.Sum(append([]byte(salt), twice[:]...))
		want := make([]byte, sha1.Size)
		subtle.XORBytes(want, once[:], mixed[:])
		return bytes.Equal(want, answer)
	}}
	const ok = "\x00\x00\x00\x02\x00\x00\x00"
	if !f.enter(l) {
		return send("\xff\x15\x04#28000Access denied")
	}
	if err := send(ok); err != nil {
		return err
	}
	text := func(s string) string { return string([]byte{byte(len(s))}) + s }
	for {
		command, err := receive()
		if err != nil || command[0] == 1 { // COM_QUIT
			return err
		}
		if f.huge { // so many columns
			return send("\xfe\x00\x00\x00\x00\x00\x01\x00\x00")
		}
		statement := string(command[1:])
		var row []string
		switch {
		case strings.Contains(statement, "CURRENT_USER()"):
			row = []string{version, f.account}
			if f.account == "" {
				row[1] = l.user + "@%"
			}
		case strings.Contains(statement, "read_only"):
			row = []string{"0", "0"}
			if f.replica {
				row = []string{"1", "1"}
			}
		case strings.HasPrefix(statement, "SELECT"):
			row = []string{"1"}
		default:
			if err := send(ok); err != nil {
				return err
			}
			continue
		}
		const end = "\xfe\x00\x00\x02\x00"
		packets := []string{string([]byte{byte(len(row))})}
		body := ""
		for _, value := range row {
			packets = append(packets, text("def")+text("")+text("")+text("")+text("c")+text("")+"\x0c\x2d\x00\xff\x00\x00\x00\xfd\x00\x00\x00\x00\x00")
			body += text(value)
		}
		for _, packet := range append(packets, end, body, end) {
			if err := send(packet); err != nil {
				return err
			}
		}
	}
}

// relay passes connections on to another server, and remembers what clients sent.
type relay struct {
	mu   sync.Mutex
	sent bytes.Buffer
	// intercept may take a connection away; nil: it does not. n counts from 0.
	intercept func(n int, conn net.Conn) bool
	count     int
}

func newRelay(address string, port int, target string) (*relay, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	r := &relay{}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go r.pass(conn, target)
		}
	}()
	return r, nil
}

func (r *relay) pass(conn net.Conn, target string) {
	defer conn.Close()
	r.mu.Lock()
	n, intercept := r.count, r.intercept
	r.count++
	r.mu.Unlock()
	if intercept != nil && intercept(n, conn) {
		return
	}
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(io.MultiWriter(server, r), conn)
		_ = server.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(conn, server)
}

// Write takes down what a client sent.
func (r *relay) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent.Write(b)
}

func (r *relay) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent.Reset()
	r.count, r.intercept = 0, nil
}

// holds reports whether clients have sent a text through the relay.
func (r *relay) holds(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Contains(r.sent.Bytes(), []byte(text))
}
