// Package plaintext tells a password in plain text from the other texts that people store
// in its place: a file of settings, a connection string, JSON that was encoded twice.
package plaintext

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Why says why a text is not taken for a password, as a clause that follows "the value":
// what the text looks like, and how to store it instead. It is "" for a text that may be a
// password. It holds no byte of the text.
//
// A rotation replaces a password whole. So a text that only might be more than a password is
// refused: the owner can store it in another form, and nobody can restore a file.
func Why(text string) string { return why(text, true) }

// bom is what Windows PowerShell begins a file of UTF-8 with.
const bom = "\ufeff"

var (
	// assignments are what .env files, libpq, ADO.NET, ODBC and YAML write: NAME=value, NAME: value.
	assignment = regexp.MustCompile(`(?:^|[\s;,&])\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*(?: [A-Za-z]+)?)\s*(?:=|:\s)\s*[^\s=]`)
	telling    = regexp.MustCompile(`(?i)pass|pwd|secret|token|key|user|host|server|data source|database|url|dsn|uri`)
	// driverDSN is how Go's MySQL driver writes an address, user:password@tcp(host:3306)/shop.
	driverDSN = regexp.MustCompile(`@[a-z0-9]+\([^()]*\)/`)
	// bareURL is a URL without a scheme, user:password@host:5432/shop.
	bareURL = regexp.MustCompile(`[:/][^\s]*@[A-Za-z0-9.-]+:[0-9]{2,5}(?:/|$)`)
)

func why(text string, decode bool) string {
	trimmed := strings.TrimSpace(text)
	switch {
	case strings.HasPrefix(text, bom):
		return "starts with a byte order mark (U+FEFF), which readers take for a part of it: store it without"
	case strings.HasPrefix(trimmed, `"`) && json.Valid([]byte(trimmed)):
		return "is a JSON string: it was encoded once too often, so store what stands in the string"
	case strings.HasPrefix(trimmed, "[") && json.Valid([]byte(trimmed)):
		return "is a JSON array: make it a JSON object with fields"
	case strings.HasPrefix(trimmed, "{") && looksLikeObject(trimmed):
		return "starts like a JSON object, and is not one: correct it"
	case strings.HasPrefix(trimmed, "<") && (strings.Contains(trimmed, "</") || strings.Contains(trimmed, "/>")):
		return "is a file of XML: store the password alone, or a JSON object"
	case strings.HasPrefix(trimmed, "-----BEGIN "):
		return "is a file in PEM: no password is one"
	case strings.ContainsAny(trimmed, "\r\n"):
		return "has several lines, as a file has: store a credential by itself, as a JSON object, a connection string or a password alone, and have the file made from it"
	case trimmed != text && strings.ContainsAny(text, "\r\n"):
		return "starts or ends in a line break, which no password does: store it without (printf, not echo)"
	case strings.Contains(text, "://") || strings.HasPrefix(trimmed, "jdbc:"):
		return "looks like a URL, and not like one with a password that rekey reads (a URL with user:password@, or jdbc:postgresql://, jdbc:mysql:// or jdbc:mariadb:// with the parameters user and password)"
	case isSettings(text):
		return "looks like settings of the form name=value, and rekey reads only those of libpq (host=.. user=.. password=..): store a JSON object or a URL"
	case driverDSN.MatchString(text), bareURL.MatchString(text):
		return "looks like a connection string of a form that rekey does not read: store a JSON object or a URL"
	}
	if decode {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding} {
			decoded, err := encoding.DecodeString(trimmed)
			if err != nil || len(decoded) == 0 || !utf8.Valid(decoded) {
				continue
			}
			if inner := string(decoded); json.Valid(decoded) && strings.HasPrefix(strings.TrimSpace(inner), "{") || strings.Contains(inner, "://") || isSettings(inner) {
				return "is base64 of a text with fields: store that text itself"
			}
		}
	}
	return ""
}

// looksLikeObject reports whether what follows a brace is what follows the brace of an object.
func looksLikeObject(text string) bool {
	rest := strings.TrimSpace(text[1:])
	return rest == "" || strings.ContainsAny(rest[:1], `"'}`)
}

// isSettings reports whether a text is made of settings: several of them, or one whose name
// says so. A single = is not enough, because passwords have that.
func isSettings(text string) bool {
	found := assignment.FindAllStringSubmatch(text, 3)
	return len(found) > 1 || len(found) == 1 && telling.MatchString(found[0][1])
}
