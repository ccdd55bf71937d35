package apikey

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A key's name says that rekey minted the key, for which secret, in which attempt, and
// until when the run that minted the key may still store it: 40 letters, digits and
// hyphens.
//
//	rekey-<16 of the secret>-<8 of the attempt>-<8 of the time>, all hexadecimal

// Name is what to call a key that is about to be minted: for which secret, given by its
// ARN, in which attempt, and by when the run that mints the key is over. [Issuer.Begin]
// and [Issuer.Mint] are given it.
func Name(secret, token string, over time.Time) string {
	return attempt(secret, token) + fmt.Sprintf("%08x", uint32(over.Unix()))
}

// SameAttempt reports whether two names are of one attempt of one secret.
func SameAttempt(name, other string) bool {
	end := len(attempt("", ""))
	return len(name) >= end && len(other) >= end && name[:end] == other[:end]
}

// named reports whether a key of this name was minted for a secret. One that was minted
// for another secret, which may well share the account, was not.
func named(secret, name string) bool { return strings.HasPrefix(name, prefix(secret)) }

// over is when the run that minted the key of this name is over for certain.
func over(name string) time.Time {
	seconds, err := strconv.ParseInt(name[min(len(name), len(attempt("", ""))):], 16, 64)
	if err != nil {
		return time.Time{} // none of rekey's names
	}
	return time.Unix(seconds, 0)
}

func attempt(secret, token string) string { return prefix(secret) + digest(token)[:8] + "-" }

func prefix(secret string) string { return "rekey-" + digest(secret)[:16] + "-" }

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// The longest that an invocation of a Lambda function takes, by Lambda's limit, and how
// long after its end what it sent may still be carried out, or not be seen yet: IAM, the
// slowest that is known, takes as long to show a change.
const (
	longest = 15 * time.Minute
	late    = 15 * time.Second
)

// name is that of a key which this run is about to mint.
func (x *rotator) name(ctx context.Context, secret, token string) string {
	left := longest
	if deadline, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(deadline))
	}
	return Name(secret, token, x.clock.Time().Add(left+late))
}
