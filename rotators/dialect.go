package rotators

import (
	"fmt"
	"slices"
	"strings"
)

// dialect says how the drivers of one form of connection strings read its parameters. A
// parameter that it does not list moves nothing: it is a field under its own name.
type dialect struct {
	// fields are the parameters that say what a field of a value says.
	fields map[string]string
	// refused are those, in small letters, that have the driver connect elsewhere, as somebody
	// else or in another way than the fields say: what rekey proves would not hold for
	// the applications.
	refused []string
	// noFragments says that a reader of the form takes a # for a character like any other.
	noFragments bool
	// tls are those that have the driver use TLS or not, and what a text of theirs says.
	tls map[string]func(text string) tlsWord
}

// tlsWord is what one parameter says about TLS.
type tlsWord int

const (
	tlsUnsaid    tlsWord = iota
	tlsOn                // the driver uses TLS, or tries to
	tlsOff               // the driver goes without
	tlsSoundsOff         // reads like going without, and the driver uses TLS or never reads it
)

// tlsSwitch is what said a tlsWord.
type tlsSwitch struct {
	what string
	says tlsWord
}

// offBy returns what a parameter says that goes without TLS by one of these texts, in any
// case, and uses TLS by any other.
func offBy(texts ...string) func(string) tlsWord {
	return func(text string) tlsWord {
		if slices.Contains(texts, strings.ToLower(text)) {
			return tlsOff
		}
		return tlsOn
	}
}

// offByDisable is offBy for libpq, which knows small letters only.
func offByDisable(text string) tlsWord {
	if text == "disable" {
		return tlsOff
	}
	return tlsOn
}

// neverOff is for a parameter by which no driver of the form goes without TLS, whatever
// the parameter says.
func neverOff(text string) tlsWord {
	if slices.Contains([]string{"false", "0", "no", "off", "disable", "disabled", "none"}, strings.ToLower(text)) {
		return tlsSoundsOff
	}
	return tlsOn
}

// onIfTrue is for a parameter that asks for TLS or says nothing.
func onIfTrue(text string) tlsWord {
	if slices.Contains([]string{"true", "yes"}, strings.ToLower(text)) {
		return tlsOn
	}
	return tlsUnsaid
}

// The dialects, by the sources of pgjdbc 42.7, Connector/J 8 and 9, MariaDB's Connector/J
// 3.5 and libpq 18. A URL may be read by any of many drivers, so those of URLs list what
// any of them reads: psycopg, pgx, asyncpg, node-postgres and SQLAlchemy; PyMySQL, mysql2 and
// sqlx; redis-py, ioredis and go-redis.
var (
	libpq = dialect{
		fields:  map[string]string{"user": "username", "password": "password", "host": "host", "port": "port", "dbname": "dbname", "database": "dbname"},
		refused: []string{"hostaddr", "service", "servicefile", "requiressl"},
		tls:     map[string]func(string) tlsWord{"sslmode": offByDisable},
	}
	postgresURL = dialect{
		fields:  urlFields("dbname", "database"),
		refused: append([]string{"unix_sock", "dsn", "conninfo"}, libpq.refused...), noFragments: true,
		tls: map[string]func(string) tlsWord{"sslmode": offByDisable, "ssl": neverOff},
	}
	mysqlURL = dialect{
		fields:  urlFields("dbname", "database", "db"),
		refused: []string{"socket", "socketpath", "unix_socket", "passwd", "passwordsha1", "read_default_file", "read_default_group", "option_files"},
		tls:     map[string]func(string) tlsWord{"sslmode": offByDisable, "ssl-mode": neverOff, "ssl_mode": neverOff, "ssl": neverOff, "tls": neverOff, "usessl": neverOff, "useSSL": neverOff},
	}
	redisURL = dialect{
		fields:  urlFields("dbname"),
		refused: []string{"path", "unix_socket_path", "sentinels"},
		tls:     map[string]func(string) tlsWord{"sslmode": offByDisable, "ssl": neverOff, "tls": neverOff},
	}
	otherURL = dialect{
		fields: urlFields("dbname"),
		tls:    map[string]func(string) tlsWord{"sslmode": offByDisable},
	}
	pgjdbc = dialect{
		fields:  map[string]string{"user": "username", "password": "password", "host": "host", "port": "port", "dbname": "dbname"},
		refused: []string{"pghost", "pgport", "pgdbname", "service", "socketfactory", "socketfactoryarg", "authenticationpluginclassname"},
		tls:     map[string]func(string) tlsWord{"sslmode": offBy("disable"), "ssl": neverOff},
	}
	// Of the names of the two that follow the case does not count.
	connectorJ = dialect{
		fields:  map[string]string{"user": "username", "password": "password", "host": "host", "port": "port", "dbname": "dbname"},
		refused: []string{"protocol", "path", "namedpipepath", "address", "dnssrv", "socketfactory", "socksproxyhost", "socksproxyport", "useconfigs", "propertiestransform", "password1"},
		tls: map[string]func(string) tlsWord{
			"sslmode": offBy("disabled"), "usessl": offBy("false", "no"), "requiressl": onIfTrue, "verifyservercertificate": onIfTrue,
		},
	}
	connectorMariaDB = dialect{
		fields:  map[string]string{"user": "username", "password": "password", "database": "dbname"},
		refused: []string{"localsocket", "pipe", "socketfactory", "credentialtype"},
		tls:     map[string]func(string) tlsWord{"sslmode": offBy("disable", "disabled", "false", "0"), "usessl": offBy("false", "0")},
	}
)

func urlFields(dbname ...string) map[string]string {
	fields := map[string]string{"user": "username", "username": "username", "password": "password", "host": "host", "port": "port"}
	for _, name := range dbname {
		fields[name] = "dbname"
	}
	return fields
}

// dialectOf is the dialect of URLs of a scheme.
func dialectOf(scheme string) dialect {
	scheme, _, _ = strings.Cut(strings.ToLower(scheme), "+")
	switch scheme {
	case "postgres", "postgresql", "aurora-postgresql", "postgis", "psql", "pgsql":
		return postgresURL
	case "mysql", "mysql2", "aurora-mysql", "mariadb", "trilogy":
		return mysqlURL
	case "redis", "rediss", "valkey", "valkeys":
		return redisURL
	}
	return otherURL
}

// parameterError says that a connection string is one, and has a parameter for which it is
// refused.
type parameterError string

func (e parameterError) Error() string { return string(e) }

// parameter reads one parameter, whose text stands at start. spell is how a user or a
// password is replaced.
func (c *connection) parameter(d dialect, name, text string, start, end int, spell func(string) (string, error)) error {
	lower := strings.ToLower(name)
	if slices.Contains(d.refused, lower) {
		return parameterError(fmt.Sprintf("has the parameter %s, by which its driver connects to another place, as somebody else or in another way than the rest of it says: take that out, and say it by host, port, user, password, database and the parameter for TLS", name))
	}
	said, isField := d.fields[name]
	says, isTLS := d.tls[name]
	switch {
	case isField:
		if said != "username" && said != "password" {
			spell = nil
		}
		has := slices.ContainsFunc(c.fields, func(f field) bool { return f.name == said })
		if has || slices.Contains(c.given, said) {
			return parameterError(fmt.Sprintf("says the %s twice, and drivers take the first or the last, or an empty one: remove one", said))
		}
		c.given = append(c.given, said)
		c.add(said, text, start, end, spell)
		return nil
	case isTLS:
		if slices.Contains(c.given, name) {
			return parameterError(fmt.Sprintf("has the parameter %s twice, and drivers take the first or the last: remove one", name))
		}
		c.given = append(c.given, name)
		c.switches = append(c.switches, tlsSwitch{"the parameter " + name, says(text)})
	}
	// What rekey decides by is in no parameter that merely has the name of it.
	if !Public(name) || name == "sslmode" {
		c.add(name, text, start, end, nil)
	}
	return nil
}

// settleTLS adds the field ssl, unless nothing was said about TLS.
func (c *connection) settleTLS() error {
	var on, off, ssl string
	for _, s := range c.switches {
		switch s.says {
		case tlsOn:
			on, ssl = s.what, "true"
		case tlsOff, tlsSoundsOff:
			off = s.what
		}
	}
	if on != "" && off != "" {
		return parameterError(fmt.Sprintf("asks for TLS by %s and does without by %s: drivers heed the one or the other, so remove one", on, off))
	}
	if slices.ContainsFunc(c.switches, func(s tlsSwitch) bool { return s.says == tlsOff }) {
		ssl = "false"
	}
	c.add("ssl", ssl, c.at, c.end, nil)
	return nil
}
