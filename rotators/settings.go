package rotators

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Settings is what the owner of a secret asked for, decoded from its tags
// (docs/settings.md).
type Settings struct {
	// Rotator is the name the registry is asked for; Variant is what follows a
	// colon in it: "http:cloudflare" is Rotator "http", Variant "cloudflare".
	Rotator, Variant string
	// Strategy is "single-user", "alternating-users", "overlap", or "" for the
	// rotator's default.
	Strategy string
	// Admin says whose login makes the change; "" for the credential's own.
	Admin string
	// Grace is how long the previous credential stays valid after promotion.
	// Retirer.Grace is given what the owner set, negative if nothing; the other
	// methods are given what Grace made of it, negative if nothing outlives the
	// promotion. A rotator that is no Retirer is given what the owner set.
	Grace time.Duration
	// Password is the policy for generated passwords.
	Password PasswordPolicy
	// Options are the rotator's own. A rotator rejects keys it does not know,
	// with a permanent error that lists the ones it does.
	Options map[string]string
}

// PasswordPolicy is what an owner asks of generated passwords. It narrows the
// set a rotator holds to be safe for its target and never widens it. The zero
// policy asks for nothing.
type PasswordPolicy struct {
	Length  int    // characters, at most MaxPasswordLength; 0: the rotator's default
	Only    string // use only these characters; "": no such limit
	Exclude string // use none of these
}

// The least a generated password may be. 8 is the shortest length any RDS
// engine accepts; 10 characters is an alphabet of digits.
const (
	minLength   = 8
	minAlphabet = 10
)

// MaxPasswordLength is the longest password that is generated, in characters. It is what
// Secrets Manager's own GetRandomPassword makes at the most, which AWS's rotation
// templates call. Each target may have a lower limit of its own: MySQL takes 256
// characters.
const MaxPasswordLength = 4096

// Generate returns a random password of length characters from alphabet, both
// as narrowed by the policy. It holds at least one character of each class
// (lower case, upper case, digit, other) that is left in the alphabet, because
// many servers insist. The error, which is permanent, says what the policy
// leaves too little of, or that it asks for more than MaxPasswordLength.
func (p PasswordPolicy) Generate(length int, alphabet string) (Secret, error) {
	length, left, err := p.narrow(length, alphabet)
	if err != nil {
		return Secret{}, err
	}
	want := classes(left)
	// Drawing again until every class is there keeps each password that
	// qualifies equally likely. An alphabet has at most four classes, so with
	// eight characters or more a draw fails seldom enough.
	for {
		drawn := make([]rune, length)
		for i := range drawn {
			n, err := rand.Int(rand.Reader, big.NewInt(int64(len(left))))
			if err != nil {
				return Secret{}, fmt.Errorf("drawing a random password: %w", err)
			}
			drawn[i] = left[n.Int64()]
		}
		if classes(drawn) == want {
			return NewSecret(string(drawn)), nil
		}
	}
}

// Generated returns nil if Generate may have returned this password for the same length
// and alphabet. The error, which is permanent, says what the policy would not have made.
func (p PasswordPolicy) Generated(password Secret, length int, alphabet string) error {
	length, left, err := p.narrow(length, alphabet)
	text := []rune(password.Reveal())
	switch {
	case err != nil:
		return err
	case len(text) != length:
		err = fmt.Errorf("it has %d characters, and generated passwords have %d", len(text), length)
	case slices.ContainsFunc(text, func(c rune) bool { return !slices.Contains(left, c) }):
		err = errors.New("it has characters that are in no generated password")
	case classes(text) != classes(left):
		err = errors.New("it lacks a class of characters (lower case, upper case, digit, other) that every generated password has")
	}
	return Permanent(err)
}

// narrow returns how long a password is to be and of which characters.
func (p PasswordPolicy) narrow(length int, alphabet string) (int, []rune, error) {
	if p.Length != 0 {
		length = p.Length
	}
	if length < minLength {
		return 0, nil, Permanent(fmt.Errorf("a password of %d characters is too short: ask for %d or more", length, minLength))
	}
	if length > MaxPasswordLength {
		return 0, nil, Permanent(fmt.Errorf("a password of %d characters is too long: ask for %d or fewer", length, MaxPasswordLength))
	}
	left := []rune(strings.Map(func(r rune) rune {
		if p.Only != "" && !strings.ContainsRune(p.Only, r) || strings.ContainsRune(p.Exclude, r) {
			return -1
		}
		return r
	}, alphabet))
	if len(left) < minAlphabet {
		return 0, nil, Permanent(fmt.Errorf("the password policy leaves %d of the %d characters this target takes: allow at least %d", len(left), len([]rune(alphabet)), minAlphabet))
	}
	return length, left, nil
}

// classes tells which classes of characters occur, one bit each.
func classes(text []rune) (set uint) {
	for _, r := range text {
		switch {
		case unicode.IsLower(r):
			set |= 1
		case unicode.IsUpper(r):
			set |= 2
		case unicode.IsDigit(r):
			set |= 4
		default:
			set |= 8
		}
	}
	return set
}
