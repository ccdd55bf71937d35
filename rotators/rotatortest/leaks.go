package rotatortest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/rotators"
)

// secretsOf are the texts in a value that must not leave it: the whole of it,
// and the given fields.
func secretsOf(value rotators.Secret, fields ...string) (texts []string) {
	if value.IsZero() {
		return nil
	}
	texts = append(texts, value.Reveal())
	for _, name := range fields {
		if f, err := value.Field(name); err == nil && !f.IsZero() {
			texts = append(texts, f.Reveal())
		}
	}
	return texts
}

// textsOf is all that printing err, or an error it wraps, can show.
func textsOf(err error) []string {
	texts := []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)}
	var inner []error
	switch err := err.(type) {
	case interface{ Unwrap() error }:
		inner = append(inner, err.Unwrap())
	case interface{ Unwrap() []error }:
		inner = err.Unwrap()
	}
	for _, err := range inner {
		if err != nil {
			texts = append(texts, textsOf(err)...)
		}
	}
	return texts
}

// standsIn tells in which form a secret stands in a text; "" if in none.
func standsIn(text, secret string) string {
	inJSON, _ := json.Marshal(secret) // a string always encodes
	raw := []byte(secret)
	for _, f := range []struct{ form, spelled string }{
		{"it is", secret},
		{"a Go string", unquote(strconv.Quote(secret))},
		{"a Go string in ASCII", unquote(strconv.QuoteToASCII(secret))},
		{"JSON", unquote(string(inJSON))},
		{"an SQL string", strings.ReplaceAll(secret, "'", "''")},
		{"URL text", url.QueryEscape(secret)},
		{"a path", url.PathEscape(secret)},
		{"a URL's password", strings.TrimPrefix(url.UserPassword("", secret).String(), ":")},
		{"hexadecimal", hex.EncodeToString(raw)},
		{"hexadecimal", strings.ToUpper(hex.EncodeToString(raw))},
		{"bytes", strings.Trim(fmt.Sprint(raw), "[]")},
		{"bytes", strings.Trim(strings.TrimPrefix(fmt.Sprintf("%#v", raw), "[]byte"), "{}")},
		{"base64", inBase64(base64.RawStdEncoding, secret, 0)},
		{"base64", inBase64(base64.RawStdEncoding, secret, 1)},
		{"base64", inBase64(base64.RawStdEncoding, secret, 2)},
		{"URL base64", inBase64(base64.RawURLEncoding, secret, 0)},
		{"URL base64", inBase64(base64.RawURLEncoding, secret, 1)},
		{"URL base64", inBase64(base64.RawURLEncoding, secret, 2)},
	} {
		if f.spelled != "" && strings.Contains(text, f.spelled) {
			return f.form
		}
	}
	return ""
}

// inBase64 is what of a secret's base64 does not depend on what stands around
// it, when lead bytes (modulo three) are encoded before it: an Authorization
// header encodes "user:password".
func inBase64(encoding *base64.Encoding, secret string, lead int) string {
	encoded := encoding.EncodeToString([]byte(strings.Repeat("\x00", lead) + secret))
	from, to := (lead*8+5)/6, (lead+len(secret))*8/6
	if to-from < 8 {
		return "" // so short a text may stand anywhere by chance
	}
	return encoded[from:to]
}

// unquote takes the quotes off.
func unquote(quoted string) string { return quoted[1 : len(quoted)-1] }
