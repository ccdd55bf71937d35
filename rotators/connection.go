package rotators

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// A connection string is a text that says where a credential is used and holds it: a URL,
// a JDBC URL, or keywords and values as libpq reads them. Each form is read as the
// drivers of that form read it, on its bytes: so the bytes that are replaced are the
// drivers' password. A text is refused if its drivers disagree about where the password
// ends.

// errNoConnection says that a text is no connection string at all.
var errNoConnection = errors.New("no connection string")

// parseConnection reads a connection string. A text that is none gets errNoConnection; any
// other error says what is wrong, without a byte of the text. One without a password is
// returned without a field "password".
func parseConnection(text string) (value, error) {
	trimmed := strings.TrimLeft(text, " \t\r\n")
	c := connection{text: text, at: len(text) - len(trimmed), end: len(strings.TrimRight(text, " \t\r\n"))}
	var err error
	switch scheme, _, isURL := strings.Cut(trimmed, "://"); {
	case strings.HasPrefix(trimmed, "jdbc:"):
		err = c.readJDBC()
	case isURL && isScheme(scheme):
		err = c.readURL()
	default:
		err = c.readKeywords()
	}
	return value{fields: c.fields, isConnection: true}, err
}

// connection is a connection string as it is read. at and end are where it starts and ends
// in the text, without white space.
type connection struct {
	text     string
	at, end  int
	fields   []field
	given    []string // what parameters have said, also if they said nothing of it
	switches []tlsSwitch
}

// add adds a field unless it is empty. spell is nil for what cannot be replaced.
func (c *connection) add(name, text string, start, end int, spell func(string) (string, error)) {
	if text != "" {
		c.fields = append(c.fields, field{name: name, text: text, isString: true, start: start, end: end, spell: spell})
	}
}

// isScheme reports whether a text is what a URL starts with.
func isScheme(text string) bool {
	return text != "" && strings.Trim(strings.ToLower(text), "abcdefghijklmnopqrstuvwxyz0123456789+-.") == ""
}

var (
	errRawMark   = errors.New("has an @ where readers do not agree on what it ends: if the user or the password holds one of @ / ? # %, write it as %40 %2F %3F %23 %25, and an @ behind the host as %40 too")
	errBadEscape = errors.New("holds a % that starts no escape of UTF-8: write a % of the user, the password or elsewhere as %25")
)

// What some readers take for parameters and others do not.
const (
	errFragment = parameterError("has a # behind the host, where some readers end and others read on: if it belongs to the password, the user or the database, write it as %23; else take it out with what is behind")
	errControl  = parameterError("has a space, a tab or a line break in it, which some readers leave out, and where others read escapes otherwise: take it out, or write a space as %20")
)

// decode undoes percent escapes. form also takes + for a space, as in a form's data.
func decode(text string, form bool) (string, error) {
	unescape := url.PathUnescape
	if form {
		unescape = url.QueryUnescape
	}
	plain, err := unescape(text)
	if err != nil || !utf8.ValidString(plain) {
		return "", errBadEscape
	}
	return plain, nil
}

// readURL reads scheme://user:password@host:port/path?query. It does not call url.Parse,
// which re-spells what it reads. User and password may also be the parameters user and
// password, as libpq has it. A parameter's name may have escapes.
func (c *connection) readURL() error {
	scheme, rest, _ := strings.Cut(c.text[c.at:c.end], "://")
	base := c.end - len(rest)
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	// The last @ ends the password for some readers, the first one for others (libpq).
	if strings.Contains(tail, "@") || strings.Count(authority, "@") > 1 {
		return errRawMark
	}
	if strings.ContainsAny(rest, " \t\r\n") {
		return errControl
	}
	d := dialectOf(scheme)
	tail, fragment, hasFragment := strings.Cut(tail, "#")
	if hasFragment && d.noFragments || strings.ContainsAny(fragment, "?&=") {
		return errFragment
	}
	path, query, hasQuery := strings.Cut(tail, "?")
	c.add("engine", strings.ToLower(scheme), c.at, c.end, nil)
	if err := c.readAuthority(authority, base, decodePlain, escapeUser); err != nil {
		return err
	}
	dbname, err := decode(strings.TrimPrefix(path, "/"), false)
	if err != nil {
		return err
	}
	c.add("dbname", dbname, c.at, c.end, nil)
	if scheme, _, _ := strings.Cut(strings.ToLower(scheme), "+"); scheme == "rediss" || scheme == "valkeys" {
		c.switches = append(c.switches, tlsSwitch{"the scheme " + scheme, tlsOn})
	}
	if hasQuery {
		at := base + len(authority) + len(path) + 1
		err = c.readQuery(d, query, at, func(name, text string) (string, string, func(string) (string, error), error) {
			name, err := decode(name, false)
			if err == nil && name == "password" && strings.Contains(text, "+") {
				err = errors.New("has a + in the parameter password, which some readers take for a space: write it as %2B, or a space as %20")
			}
			if err != nil {
				return "", "", nil, err
			}
			plain, err := decode(text, false)
			return name, plain, escapeParameter, err
		})
	}
	if err == nil {
		err = c.settleTLS()
	}
	return err
}

func decodePlain(text string) (string, error) { return decode(text, false) }

func escapeUser(text string) (string, error)      { return escapeUserinfo(text), nil }
func escapeParameter(text string) (string, error) { return escapeQuery(text), nil }

func escapeUserinfo(text string) string {
	return strings.TrimPrefix(url.UserPassword("", text).String(), ":")
}

// escapeQuery escapes for a query. A space becomes %20, which every reader understands.
func escapeQuery(text string) string {
	return strings.ReplaceAll(url.QueryEscape(text), "+", "%20")
}

// readAuthority reads user:password@host:port, which starts at base. decode undoes the
// escapes that spell makes.
func (c *connection) readAuthority(authority string, base int, decode, spell func(string) (string, error)) error {
	host := authority
	if info, rest, ok := strings.Cut(authority, "@"); ok {
		host = rest
		user, password, _ := strings.Cut(info, ":")
		for _, part := range []struct {
			name, text string
			start      int
		}{{"username", user, base}, {"password", password, base + len(user) + 1}} {
			plain, err := decode(part.text)
			if err != nil {
				return err
			}
			c.add(part.name, plain, part.start, part.start+len(part.text), spell)
		}
	}
	port := ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host, port = host[:i], host[i+1:]
	}
	for _, part := range []struct{ name, text string }{{"host", strings.Trim(host, "[]")}, {"port", port}} {
		plain, err := decode(part.text)
		if err != nil {
			return err
		}
		c.add(part.name, plain, c.at, c.end, nil)
	}
	return nil
}

// readQuery reads name=text&name=text, which starts at a byte of the text. read gives each
// parameter's name, what it means and how a replacement is spelled. A name alone says
// nothing, and some drivers take that for what the parameter says.
func (c *connection) readQuery(d dialect, query string, at int, read func(name, text string) (string, string, func(string) (string, error), error)) error {
	for pair := range strings.SplitSeq(query, "&") {
		start := at
		at += len(pair) + 1
		if pair == "" {
			continue
		}
		name, text, _ := strings.Cut(pair, "=")
		name, plain, spell, err := read(name, text)
		if err != nil {
			return err
		}
		end := start + len(pair)
		if err := c.parameter(d, name, plain, end-len(text), end, spell); err != nil {
			return err
		}
	}
	return nil
}

// readJDBC reads the URLs of three drivers for Java, as the sources of pgjdbc 42.7,
// Connector/J 8 and 9, and MariaDB's Connector/J 3.5 read them:
//
//   - PostgreSQL: user and password are parameters of exactly these names, form-encoded;
//     a # is a character like others.
//   - MySQL: the same, but names in any case, and user:password@ may stand before the host,
//     form-encoded too. What follows a # is ignored.
//   - MariaDB: parameters with names in any case and with nothing encoded, so that no text
//     with & can stand there.
func (c *connection) readJDBC() error {
	kind, rest, ok := strings.Cut(strings.TrimPrefix(c.text[c.at:c.end], "jdbc:"), "://")
	if !ok || kind != "postgresql" && kind != "mysql" && kind != "mariadb" {
		return errors.New("is a JDBC URL of a kind that rekey does not read: those it reads start with jdbc:postgresql://, jdbc:mysql:// or jdbc:mariadb://")
	}
	base := c.end - len(rest)
	form := func(text string) (string, error) { return decode(text, true) }
	spell := escapeParameter
	// MariaDB's driver takes URLs of MySQL that have this parameter.
	ofMariaDB := kind == "mariadb" || kind == "mysql" && strings.Contains(rest, "permitMysqlScheme")
	if ofMariaDB {
		form = func(text string) (string, error) { return strings.TrimSpace(text), nil }
		spell = spellMariaDB
	} else if kind == "mysql" {
		// The driver trims what it reads before it undoes escapes.
		form = func(text string) (string, error) { return decode(strings.TrimSpace(text), true) }
		if strings.Contains(rest, "#") {
			return errors.New("holds a #, behind which the driver reads nothing: if it belongs to the password, write it as %23")
		}
	}
	place, query, hasQuery := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(place, "/")
	switch {
	case strings.Contains(path, "@"), strings.Count(authority, "@") > 1:
		return errRawMark
	case strings.Contains(authority, "@") && (kind == "postgresql" || ofMariaDB):
		return fmt.Errorf("has a user before the host, which the driver of a jdbc:%s: URL does not read: write user and password as parameters", kind)
	}
	c.add("engine", kind, c.at, c.end, nil)
	if err := c.readAuthority(authority, base, form, spell); err != nil {
		return err
	}
	dbname, err := form(path)
	if err != nil {
		return err
	}
	c.add("dbname", dbname, c.at, c.end, nil)
	d := connectorJ
	switch {
	case kind == "postgresql":
		d = pgjdbc
	case ofMariaDB:
		d = connectorMariaDB
	}
	if hasQuery {
		err = c.readQuery(d, query, base+len(place)+1, func(name, text string) (string, string, func(string) (string, error), error) {
			plain, err := form(text)
			switch {
			case err != nil:
				return "", "", nil, err
			case kind == "postgresql":
				if lower := strings.ToLower(name); lower == "host" || lower == "port" || lower == "dbname" {
					name = lower
				}
				return name, plain, spell, nil
			}
			name, err = form(name)
			return strings.ToLower(name), plain, spell, err
		})
	}
	if err == nil {
		err = c.settleTLS()
	}
	return err
}

func spellMariaDB(text string) (string, error) {
	if strings.ContainsAny(text, "& \t\r\n") {
		return "", errors.New("a URL of MariaDB's driver can hold no user and no password with & or white space, because it escapes nothing: have others made (rekey:password, alphabet=alphanumeric)")
	}
	return text, nil
}

// keywords are those of libpq 18, and of what reads the same strings beside it: pgx and lib/pq take
// settings of the session, of a pool and their own, too, and the examples of GORM have TimeZone.
var keywords = strings.Fields(`host hostaddr port dbname database user password passfile require_auth channel_binding
	connect_timeout client_encoding options application_name fallback_application_name keepalives keepalives_idle
	keepalives_interval keepalives_count tcp_user_timeout replication gssencmode sslmode requiressl sslnegotiation
	sslcompression sslcert sslkey sslkeylogfile sslpassword sslcertmode sslrootcert sslcrl sslcrldir sslsni
	requirepeer ssl_min_protocol_version ssl_max_protocol_version min_protocol_version max_protocol_version
	krbsrvname gsslib gssdelegation scram_client_key scram_server_key service servicefile target_session_attrs
	load_balance_hosts oauth_issuer oauth_client_id oauth_client_secret oauth_scope
	TimeZone timezone DateStyle datestyle search_path statement_timeout lock_timeout idle_in_transaction_session_timeout
	default_transaction_read_only binary_parameters prefer_simple_protocol statement_cache_mode pool_min_idle_conns
	default_query_exec_mode statement_cache_capacity description_cache_capacity pool_max_conns pool_min_conns
	pool_max_conn_lifetime pool_max_conn_lifetime_jitter pool_max_conn_idle_time pool_health_check_period`)

// isSpace is C's isspace, by which libpq divides.
func isSpace(b byte) bool { return strings.IndexByte(" \t\n\r\v\f", b) >= 0 }

// readKeywords reads keyword = value .. as libpq does (conninfo_parse): spaces around = are
// allowed; a value ends at a space, or stands in single quotes; a backslash, inside or
// outside of quotes, takes the next character as it is. A text with a keyword that libpq
// does not know, without a password, or of several lines, is no such string.
func (c *connection) readKeywords() error {
	known, hasPassword, hasPlace := true, false, false
	var refused error
	for i := c.at; i < c.end; {
		start := i
		for i < c.end && c.text[i] != '=' && !isSpace(c.text[i]) {
			i++
		}
		name := c.text[start:i]
		for i < c.end && isSpace(c.text[i]) {
			i++
		}
		if i == c.end || c.text[i] != '=' || !slices.Contains(keywords, name) {
			return errNoConnection
		}
		for i++; i < c.end && isSpace(c.text[i]); i++ {
		}
		text, end, ok := readKeywordValue(c.text, i, c.end)
		if !ok {
			known = false
		}
		hasPassword = hasPassword || name == "password"
		hasPlace = hasPlace || name != "password"
		spell := spellKeyword(i < c.end && c.text[i] == '\'')
		if err := c.parameter(libpq, name, text, i, end, spell); err != nil && refused == nil {
			refused = err // unless the text is no such string at all
		}
		for i = end; i < c.end && isSpace(c.text[i]); i++ {
		}
	}
	switch {
	case !hasPassword || !hasPlace || strings.ContainsAny(c.text[c.at:c.end], "\r\n"):
		// One setting by itself is what a file or a shell has.
		c.fields = nil
		return errNoConnection
	case !known:
		return errors.New("is a connection string of libpq with a quotation or an escape that does not end: correct it")
	}
	c.add("engine", "postgres", c.at, c.end, nil)
	if refused != nil {
		return refused
	}
	return c.settleTLS()
}

// readKeywordValue reads the value that starts at i and returns where it ends.
func readKeywordValue(text string, i, end int) (plain string, after int, ok bool) {
	var b strings.Builder
	quoted := i < end && text[i] == '\''
	if quoted {
		i++
	}
	for ; i < end; i++ {
		switch {
		case quoted && text[i] == '\'':
			return b.String(), i + 1, true
		case !quoted && isSpace(text[i]):
			return b.String(), i, true
		case text[i] == '\\':
			if i++; i == end {
				return b.String(), end, false
			}
		}
		b.WriteByte(text[i])
	}
	return b.String(), end, !quoted
}

// spellKeyword writes a value with quotes if it had some, and else only if it needs them.
func spellKeyword(quoted bool) func(string) (string, error) {
	return func(text string) (string, error) {
		if !quoted && text != "" && !strings.ContainsAny(text, "'\\ \t\n\r\v\f") {
			return text, nil
		}
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'", nil
	}
}
