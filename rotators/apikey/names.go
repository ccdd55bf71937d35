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

// A key's name is proof that rekey minted the key. The name holds hashes of the secret's
// ARN and of the attempt's token, and the time from which the minting run is over:
//
//	rekey-<16 digits>-<8 digits>-<8 digits>, all hexadecimal, 40 characters

// Name returns the name for a key of a secret, given by its ARN, and of an attempt, given
// by its token. over is the time from which the run that mints the key cannot store it any
// more. [Issuer.Begin] and [Issuer.Mint] get such a name.
func Name(secret, token string, over time.Time) string {
	return attempt(secret, token) + fmt.Sprintf("%08x", uint32(over.Unix()))
}

// SameAttempt reports whether two names are of one attempt of one secret.
func SameAttempt(name, other string) bool {
	end := len(attempt("", ""))
	return len(name) >= end && len(other) >= end && name[:end] == other[:end]
}

// named reports whether a key of this name was minted for a secret. Another secret may well
// hold keys of the same account.
func named(secret, name string) bool { return strings.HasPrefix(name, prefix(secret)) }

// Over returns the time from which the run that minted the key of this name is over. It is
// the zero time if the name is none that rekey gives.
func Over(name string) time.Time {
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

// LongestRun is the longest time from the giving of a key's name to its [Over]: Lambda's
// limit for an invocation, and late.
const LongestRun = longest + late

// longest is Lambda's limit for an invocation. late is how long after the end of a run its
// last request may take effect, or stay unseen: users report that IAM takes up to 15 seconds.
const (
	longest = 15 * time.Minute
	late    = 15 * time.Second
)

// name returns the name for a key that this run is about to mint.
func (x *rotator) name(ctx context.Context, secret, token string) string {
	left := longest
	if deadline, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(deadline))
	}
	return Name(secret, token, x.clock.Time().Add(left+late))
}
