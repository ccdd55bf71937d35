package hostile

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
)

// Redis are false Redis servers.
func Redis() []Case {
	var cases []Case
	add := func(when string, at moment, lies ...lie) {
		for _, l := range lies {
			cases = append(cases, Case{Name: when + ": " + l.name, Endless: l.endless, Serve: func(c net.Conn, cfg *tls.Config) bool {
				if cfg != nil {
					c = tls.Server(c, cfg)
				}
				told := redisReaches(c, at)
				if told {
					l.tell(c)
				}
				return told
			}})
		}
	}
	always := []lie{
		say("a text of 2,147,483,000 bytes", []byte("$2147483000\r\n"), bytes.Repeat([]byte("x"), 1<<10)),
		say("a text of 2^63-1 bytes", []byte("$9223372036854775807\r\n")),
		say("a text of 2^64 bytes", []byte("$18446744073709551616\r\n")),
		say("a text of less than nothing", []byte("$-2\r\n")),
		say("an array of 2^31 elements", []byte("*2147483648\r\n")),
		say("an array of 2^40 elements", []byte("*1099511627776\r\n")),
		say("an array of less than nothing", []byte("*-9\r\n")),
		flood("arrays in arrays", []byte("*1\r\n")),
		flood("wide arrays in wide arrays", []byte("*1024\r\n")),
		flood("an endless text", []byte("x"), []byte("$1000000000\r\n")),
		flood("an endless line", []byte("x"), []byte("+")),
		flood("an endless error", []byte("x"), []byte("-ERR ")),
		flood("an endless number", []byte("9"), []byte(":")),
		flood("an endless array of nothing", []byte("$0\r\n\r\n"), []byte("*2000000000\r\n")),
		say("a line of two", []byte("+OK\n+OK\n")),
		say("an empty line", []byte("\r\n")),
		say("an empty error", []byte("-\r\n")),
		say("a number", []byte(":1\r\n")),
		say("nothing", []byte("$-1\r\n")),
		say("an empty array", []byte("*0\r\n")),
		say("an array of arrays", []byte("*1\r\n*1\r\n*1\r\n+x\r\n")),
		say("a text that does not end as it should", []byte("$2\r\nOKxx")),
		say("a map of the next protocol", []byte("%1\r\n+a\r\n+b\r\n")),
		say("a push of the next protocol", []byte(">2147483647\r\n")),
		say("an attribute of the next protocol", []byte("|1000000000\r\n")),
		say("a text in pieces", []byte("$?\r\n;4\r\n")),
		say("the greeting of another", []byte("SSH-2.0-OpenSSH_9.2\r\n")),
		say("an error for terminals", []byte("-ERR "+strings.ReplaceAll(escapes, "\n", " ")+strings.Repeat("x", 1<<10)+"\r\n")),
		say("an error whose code is for terminals", []byte("-\x1b]0;PWNED\x07 x\r\n")),
		say("an error whose code is long", []byte("-"+strings.Repeat("E", 1<<12)+" x\r\n")),
		drip("a line, slowly", []byte("x"), []byte("+")),
		drip("a text, slowly", []byte("x"), []byte("$1000000\r\n")),
	}
	add("at the greeting", start, always...)
	add("at the login", challenged, always...)
	add("at the change", asked, always...)
	answer := func(parts ...string) []byte { return []byte(strings.Join(parts, "")) }
	text := func(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }
	info := text("role:master\r\nconfig_file:/x")
	user := "*4\r\n+flags\r\n*1\r\n+on\r\n+passwords\r\n*0\r\n"
	none := strings.Repeat("*0\r\n", 4)
	// short are many lines, each of which takes many times its length once it is a string
	// or a key of a map.
	short := func(size int) string {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			fmt.Fprintf(&b, "%x\n", i)
		}
		return b.String()
	}
	add("at the change", asked,
		say("an INFO of 8,000,000 bytes in short lines", answer(text("config_file:/x\n"+short(8_000_000)), user, "*0\r\n", none)),
		say("an INFO without lines", answer(text(strings.Repeat("x", 100_000)), user, "*0\r\n", none)),
		say("an array where a text is asked for", answer("*1\r\n+role\r\n", user, "*0\r\n", none)),
		say("a text where a user is asked for", answer(info, "+user\r\n", "*0\r\n", none)),
		say("numbers where users are listed", answer(info, user, "*1\r\n:1\r\n", none)),
		say("a text where users are listed", answer(info, user, "+user\r\n", none)),
		say("half a setting", answer(info, user, "*0\r\n", "*1\r\n+aclfile\r\n", none)),
		say("users without names", answer(info, user, "*1\r\n+'\r\n", none)),
		say("an error in an array", answer(info, user, "*1\r\n-ERR x\r\n", none)),
		flood("endless users", []byte("+user x on #0123456789012345678901234567890123456789012345678901234567890123 ~* +@all\r\n"), answer(info, user, "*1000000000\r\n")),
		flood("many users, again and again", answer("*60000\r\n", strings.Repeat("$0\r\n\r\n", 60000)), answer(info, user)),
		drip("users, slowly", []byte("+user\r\n"), answer(info, user, "*60000\r\n")),
	)
	return cases
}

// redisReaches serves a connection honestly until a moment, if that comes. The client
// says HELLO, AUTH and then what a change takes.
func redisReaches(c net.Conn, at moment) bool {
	in := bufio.NewReader(c)
	for _, step := range []struct {
		moment moment
		answer string
	}{
		// Redis 7.0 says so where the user default has a password.
		{start, "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"},
		{challenged, "+OK\r\n"},
	} {
		if !command(in) {
			return false
		}
		if at == step.moment {
			return true
		}
		if _, err := io.WriteString(c, step.answer); err != nil {
			return false
		}
	}
	return command(in)
}

// command reads a command, which is an array of texts.
func command(in *bufio.Reader) bool {
	var words, size int
	if _, err := fmt.Fscanf(in, "*%d\r\n", &words); err != nil {
		return false
	}
	for range words {
		if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
			return false
		}
		if _, err := in.Discard(size + 2); err != nil {
			return false
		}
	}
	return true
}
