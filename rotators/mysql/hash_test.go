package mysql

import (
	"encoding/hex"
	"strings"
	"testing"
)

// The hashes are servers' own: MariaDB 10.11 and MySQL 9.7 stored them for these
// passwords.
func TestHashes(t *testing.T) {
	unhex := func(text string) string {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct{ method, stored, password string }{
		{native, "*74445CD742AF268FD22866DA0D12758951D638F7", "one"},
		{native, "*74445cd742af268fd22866da0d12758951d638f7", "one"},
		{cachingSHA2, unhex("24412430304124184A752D5743217849581B3E716A43262D3322256E684D66786F72717776667274544C73324341704355654153757A6430723343653366417868572F434438"), "one"},
		{cachingSHA2, unhex("24412430304124575B52383F4E16444E6B1E6A257577570C5A07567837486E5573756974547876464A625A36706D44623965536473665A5A353972632F593047526C4D4C4936"),
			"the password of seventy-odd characters, which is more than two blocks of SHA-256"},
	} {
		if !verifies(c.method, c.stored, c.password) {
			t.Errorf("%s does not verify %s", c.password, c.stored)
		}
		if verifies(c.method, c.stored, "two") || verifies("other", c.stored, c.password) {
			t.Errorf("%s verifies what it should not", c.stored)
		}
	}
	for _, password := range []string{"x", "ünï", strings.Repeat("long", 20), printable} {
		for _, method := range []string{native, cachingSHA2} {
			stored := hashFor(method, password)
			if !verifies(method, stored, password) || verifies(method, stored, password+"x") {
				t.Errorf("%s: %s", method, stored)
			}
		}
	}
	if first, second := hashFor(cachingSHA2, "x"), hashFor(cachingSHA2, "x"); first == second {
		t.Error("no salt")
	}
	for _, broken := range []string{"", "$A$005$", "$A$000$" + strings.Repeat("x", 63), "$A$00G$" + strings.Repeat("x", 63), "$5$" + strings.Repeat("x", 67)} {
		if verifies(cachingSHA2, broken, "x") {
			t.Errorf("%q verifies", broken)
		}
	}
}
