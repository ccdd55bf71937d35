package mysql

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"strings"
	"testing"
)

// TestAnswerEd25519 compares with what RFC 8032 makes of a seed, which is a password of
// 32 bytes, and with an answer from MariaDB's own test (plugin/auth_ed25519/ed25519-t.c).
// Its plugin is not among what the servers here have.
func TestAnswerEd25519(t *testing.T) {
	nonce := []byte(strings.Repeat("A", 32))
	seed := strings.Repeat("pass", 8)
	got, err := answerEd25519(nonce, seed)
	if want := ed25519.Sign(ed25519.NewKeyFromSeed([]byte(seed)), nonce); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x, %v, want %x", got, err, want)
	}
	got, err = answerEd25519(nonce, "foobar")
	const want = "e83dc93f433f33355649ee23aa7592d61a1123090884f58d3063423a24e4305473febba858a2f93923554feea76a44753887ab2f140e854f0fe57ca0b0648a0e"
	if err != nil || hex.EncodeToString(got) != want {
		t.Errorf("%x, %v, want %s", got, err, want)
	}
}
