package hostile

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Postgres are false PostgreSQL servers.
func Postgres() []Case {
	var cases []Case
	add := func(when string, at moment, lies ...lie) {
		for _, l := range lies {
			cases = append(cases, Case{Name: when + ": " + l.name, Endless: l.endless, Serve: func(c net.Conn, cfg *tls.Config) bool {
				p := &pg{conn: c}
				told := p.reaches(at, cfg)
				if told {
					l.tell(p.conn)
				}
				return told
			}})
		}
	}
	always := []lie{
		flood("endless notices", message('N', []byte("SNOTICE\x00C00000\x00Mhello\x00\x00"))),
		flood("endless settings", message('S', []byte("a\x00b\x00"))),
		flood("endless notifications", message('A', big(1), []byte("channel\x00\x00"))),
		flood("an endless message", bytes.Repeat([]byte("x"), 1<<12), []byte("N"), big(1<<30-1)),
		flood("a message of two gigabytes", []byte("x"), []byte("N"), big(1<<31-1)),
		say("a message of less than nothing", []byte("N"), big(3)),
		say("a message of a kind that there is not", message('?')),
		say("an error that ends too soon", message('E', []byte("SERROR\x00Mx"))),
		say("an empty error", message('E')),
		say("an error for terminals", pgError("57P03", escapes+strings.Repeat("x", 1<<16))),
		say("an error with a strange code", pgError(escapes, "no")),
		drip("a notice, slowly", []byte("x"), []byte("N"), big(1<<16)),
	}
	add("at the greeting", start, always...)
	add("at the greeting", start,
		say("a version to agree upon", message('v', big(0), big(1<<31-1))),
		say("no login at all", message('R', big(0)), message('Z', []byte("I"))),
		say("the end of a login that has not begun", message('Z', []byte("I"))),
		say("a login of a kind that there is not", message('R', big(99))),
		say("a login that ends too soon", message('R', []byte("\x00\x00"))),
		say("a challenge before the login", message('R', big(11), []byte("r=x,s=eA==,i=4096"))),
		say("the password in the clear, and nothing then", message('R', big(3))),
		flood("endless methods", []byte("SCRAM-SHA-1\x00"), []byte("R"), big(1<<20-8), big(10)),
		say("a key that ends too soon", message('K', big(1))),
		say("rows", message('D', []byte("\x00\x01"), big(1), []byte("1"))),
		say("a copy", message('W', []byte("\x00\x00\x01\x00\x00"))),
	)
	for name, i := range map[string]string{"ten million rounds": "10000000", "no number of rounds": "x", "a negative number of rounds": "-1", "two numbers of rounds": "4096,i=9000000", "two billion rounds": "2147483648"} {
		add("at the greeting", challenged, lie{name, false, func(w io.ReadWriter) { scramOffer(w, i) }})
	}
	one := message('T', []byte("\x00\x01?column?\x00"), make([]byte, 18))
	row := message('D', []byte("\x00\x01"), big(1), []byte("1"))
	done := message('C', []byte("SELECT 1\x00"))
	ready := message('Z', []byte("I"))
	many := concat([]byte("\xff\xff"), bytes.Repeat([]byte("\xff\xff\xff\xff"), 65535)) // NULLs
	var columns []byte
	for range 40000 {
		columns = append(columns, make([]byte, 19)...)
	}
	answers := []lie{
		flood("endless rows", row, one),
		flood("endless rows of nothing", message('D', []byte("\x00\x00")), message('T', []byte("\x00\x00"))),
		flood("endless rows of 65,535 columns", message('D', many), one),
		flood("endless columns", message('T', []byte("\x9c\x40"), columns)),
		flood("endless results", done),
		flood("endless empty results", message('I')),
		say("no rows", one, message('C', []byte("SELECT 0\x00")), ready),
		say("no columns and no rows", done, ready),
		say("two rows", one, row, row, done, ready),
		say("two results", one, row, done, one, row, done, ready),
		say("no result", ready),
		say("more columns than announced", one, message('D', []byte("\x00\x02"), big(1), []byte("1"), big(1), []byte("1")), done, ready),
		say("fewer columns than announced", one, message('D', []byte("\x00\x00")), done, ready),
		say("a column that ends too soon", one, message('D', []byte("\x00\x01"), big(1000), []byte("1"))),
		say("a column of less than nothing", one, message('D', []byte("\x00\x01"), big(1<<31), []byte("1"))),
		say("a row before its columns", row, done, ready),
		say("columns that end too soon", message('T', []byte("\xff\xff?column?\x00"))),
		say("a copy out", message('H', []byte("\x00\x00\x01\x00\x00")), done, ready),
		say("a copy in", message('G', []byte("\x00\x00\x01\x00\x00"))),
		say("copies both ways", message('W', []byte("\x00\x7f\xff"))),
		say("a login again", message('R', big(3))),
		drip("rows, slowly", row, one),
	}
	add("after the login", loggedIn, append(answers, always...)...)
	add("at the change", asked, append(answers, always...)...)
	add("at the goodbye", leaving, flood("endless notices", message('N', []byte("SNOTICE\x00C00000\x00Mhello\x00\x00"))), drip("bytes, slowly", []byte("x")))
	return cases
}

// moment is when in a conversation a server begins to lie.
type moment int

const (
	start      moment = iota // asked to log somebody in
	challenged               // asked for its challenge
	loggedIn                 // asked the first thing after the login
	asked                    // asked the next thing
	leaving                  // told goodbye
)

func message(kind byte, body ...[]byte) []byte {
	all := concat(body...)
	return concat([]byte{kind}, big(uint32(len(all)+4)), all)
}

func pgError(code, text string) []byte {
	return message('E', []byte("SFATAL\x00C"+code+"\x00M"+text+"\x00\x00"))
}

type pg struct {
	conn   net.Conn
	server *pgproto3.Backend
}

// reaches serves a connection honestly until a moment, if that comes.
func (p *pg) reaches(at moment, cfg *tls.Config) bool {
	p.server = pgproto3.NewBackend(p.conn, p.conn)
	m, err := p.server.ReceiveStartupMessage()
	if _, ok := m.(*pgproto3.SSLRequest); ok && cfg != nil && err == nil {
		if _, err := p.conn.Write([]byte("S")); err != nil {
			return false
		}
		p.conn = tls.Server(p.conn, cfg)
		p.server = pgproto3.NewBackend(p.conn, p.conn)
		_, err = p.server.ReceiveStartupMessage()
	}
	if err != nil || at == start {
		return err == nil
	}
	if at == challenged {
		return true
	}
	if !p.login() {
		return false
	}
	// The queries are answered as if each of their statements found a 1 if the last does.
	for n := 0; ; n++ {
		m, err := p.server.Receive()
		if err != nil {
			return false
		}
		query, isQuery := m.(*pgproto3.Query)
		if at == loggedIn || at == asked && n == 1 || at == leaving && !isQuery {
			return true
		}
		if !isQuery {
			return false
		}
		for sql := range strings.SplitSeq(query.String, "; ") {
			if strings.HasPrefix(sql, "SELECT 1") {
				p.server.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("?column?")}}})
				p.server.Send(&pgproto3.DataRow{Values: [][]byte{[]byte("1")}})
			}
			p.server.Send(&pgproto3.CommandComplete{CommandTag: []byte("OK")})
		}
		p.server.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if p.server.Flush() != nil {
			return false
		}
	}
}

// FewRounds is a server that asks for as few rounds of hashing as there are, and hands
// on what it is sent then.
func FewRounds(rounds string, learned func([]byte)) Case {
	return Case{Name: "few rounds", Serve: func(c net.Conn, cfg *tls.Config) bool {
		p := &pg{conn: c}
		told := p.reaches(challenged, cfg)
		if told {
			scramOffer(&recorder{p.conn, learned}, rounds)
		}
		return told
	}}
}

type recorder struct {
	io.ReadWriter
	read func([]byte)
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.ReadWriter.Read(p)
	r.read(p[:n])
	return n, err
}

// scramOffer offers SCRAM, and goes on to ask for as many rounds.
func scramOffer(w io.ReadWriter, rounds string) {
	server := pgproto3.NewBackend(w, w)
	server.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
	if server.Flush() != nil || server.SetAuthType(pgproto3.AuthTypeSASL) != nil {
		return
	}
	m, err := server.Receive()
	first, ok := m.(*pgproto3.SASLInitialResponse)
	if err != nil || !ok {
		return
	}
	_, nonce, _ := strings.Cut(string(first.Data), ",r=")
	server.Send(&pgproto3.AuthenticationSASLContinue{Data: fmt.Appendf(nil, "r=%sfalse,s=c2FsdHNhbHRzYWx0c2FsdA==,i=%s", nonce, rounds)})
	if server.Flush() == nil {
		_, _ = io.Copy(io.Discard, w)
	}
}

// login makes an honest SCRAM login (RFC 5802), in which the client's proof is not
// looked at.
func (p *pg) login() bool {
	p.server.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
	if p.server.Flush() != nil || p.server.SetAuthType(pgproto3.AuthTypeSASL) != nil {
		return false
	}
	m, err := p.server.Receive()
	hello, ok := m.(*pgproto3.SASLInitialResponse)
	if err != nil || !ok {
		return false
	}
	at := bytes.Index(hello.Data, []byte("n=,r="))
	bare := string(hello.Data[max(at, 0):])
	const iterations = 4096
	salt := []byte("saltsaltsaltsalt")
	first := fmt.Sprintf("r=%shonest,s=%s,i=%d", strings.TrimPrefix(bare, "n=,r="), base64.StdEncoding.EncodeToString(salt), iterations)
	p.server.Send(&pgproto3.AuthenticationSASLContinue{Data: []byte(first)})
	if p.server.Flush() != nil || p.server.SetAuthType(pgproto3.AuthTypeSASLContinue) != nil {
		return false
	}
	m, err = p.server.Receive()
	proof, ok := m.(*pgproto3.SASLResponse)
	if err != nil || !ok {
		return false
	}
	final, _, _ := strings.Cut(string(proof.Data), ",p=")
	salted, err := pbkdf2.Key(sha256.New, Password, salt, iterations, sha256.Size)
	if err != nil {
		return false
	}
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	signature := mac(mac(salted, "Server Key"), bare+","+first+","+final)
	p.server.Send(&pgproto3.AuthenticationSASLFinal{Data: []byte("v=" + base64.StdEncoding.EncodeToString(signature))})
	p.server.Send(&pgproto3.AuthenticationOk{})
	p.server.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: "17.2"})
	p.server.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte("1234")})
	p.server.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	return p.server.Flush() == nil
}
