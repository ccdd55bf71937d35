package functions

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/rotators"
)

// The punctuation that Secrets Manager's GetRandomPassword may use, which is
// what EXCLUDE_PUNCTUATION takes away.
const punctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"

// passwordPolicy reads the variables by which AWS's rotation templates are
// told about passwords, so that a function set up for them needs no change.
// REQUIRE_EACH_INCLUDED_TYPE is not read: rekey always does that.
func passwordPolicy(getenv func(string) string) (p rotators.PasswordPolicy, err error) {
	if text := getenv("PASSWORD_LENGTH"); text != "" {
		if p.Length, err = strconv.Atoi(text); err != nil || p.Length < 1 || p.Length > rotators.MaxPasswordLength {
			return p, rotators.Permanent(fmt.Errorf("the environment variable PASSWORD_LENGTH is %q: set it to a number of characters from 1 to %d", text, rotators.MaxPasswordLength))
		}
	}
	p.Exclude = getenv("EXCLUDE_CHARACTERS")
	for name, characters := range map[string]string{
		"EXCLUDE_NUMBERS":     "0123456789",
		"EXCLUDE_LOWERCASE":   "abcdefghijklmnopqrstuvwxyz",
		"EXCLUDE_UPPERCASE":   "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
		"EXCLUDE_PUNCTUATION": punctuation,
	} {
		set, err := isTrue(getenv, name)
		if err != nil {
			return p, err
		}
		if set {
			p.Exclude += characters
		}
	}
	return p, nil
}

// isTrue reads a variable that turns something on, in the spellings that AWS's rotation
// templates take.
func isTrue(getenv func(string) string, name string) (bool, error) {
	switch text := getenv(name); strings.ToLower(text) {
	case "true", "1", "y", "yes":
		return true, nil
	case "", "false", "0", "n", "no":
		return false, nil
	default:
		return false, rotators.Permanent(fmt.Errorf("the environment variable %s is %q: set it to true or false", name, text))
	}
}

// limits reads what the operator of the function allows.
func limits(getenv func(string) string) (l rotators.Limits, err error) {
	if l.Hosts, err = rotators.ParseHosts(getenv("REKEY_HOSTS")); err != nil {
		return l, rotators.Permanent(fmt.Errorf("the environment variable REKEY_HOSTS: %w: set it to a list of these with commas between", err))
	}
	if l.RequireTLS, err = isTrue(getenv, "REKEY_REQUIRE_TLS"); err != nil {
		return l, err
	}
	switch text := getenv("REKEY_ADMINS"); text {
	case "":
	case "delegated":
		l.DelegatedAdmins = true
	default:
		return l, rotators.Permanent(fmt.Errorf("the environment variable REKEY_ADMINS is %q: set it to \"delegated\", or to nothing", text))
	}
	return l, nil
}

// limit keeps of the registry what REKEY_ROTATORS names; all of it if empty.
func limit(registry rotators.Registry, names string) (rotators.Registry, error) {
	if names == "" {
		return registry, nil
	}
	kept := rotators.Registry{}
	for name := range strings.SplitSeq(names, ",") {
		name = strings.TrimSpace(name)
		r, ok := registry[name]
		if !ok {
			return nil, rotators.Permanent(fmt.Errorf("the environment variable REKEY_ROTATORS names %q, and this function has %s", name, strings.Join(registry.Names(), ", ")))
		}
		kept[name] = r
	}
	return kept, nil
}

// defaultWrites is the share of one of two workers in the three writes a second
// that Parameter Store allows an account by default.
const defaultWrites = 1.5

// writesPerSecond reads how many of Parameter Store's writes a second this
// process may make.
func writesPerSecond(getenv func(string) string) (float64, error) {
	text := getenv("REKEY_SSM_WRITES_PER_SECOND")
	if text == "" {
		return defaultWrites, nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n > 0 && n <= 1000) {
		return 0, rotators.Permanent(fmt.Errorf("the environment variable REKEY_SSM_WRITES_PER_SECOND is %q: set it to the account's quota, 3 or 10, divided by how many of this function may run at once", text))
	}
	return n, nil
}

// queueURL reads where the planner puts its orders and the worker gets them from.
func queueURL(getenv func(string) string) (string, error) {
	url := getenv("REKEY_QUEUE_URL")
	if url == "" {
		return "", rotators.Permanent(errors.New("the environment variable REKEY_QUEUE_URL is not set: set it to the URL of the queue between planner and worker"))
	}
	return url, nil
}
