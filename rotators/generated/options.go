package generated

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/rotators"
)

// options is what an owner asks for in the tag rekey:options.
type options struct {
	alg     string // "": a random text
	keyring bool
	bits    int    // of an RSA key
	comment string // of an SSH key
	field   string // that holds a random text

	// Of a random text that is made of bytes.
	encoding string
	bytes    int
}

// The least and the most random bytes. 16 are 128 bits; the most is what KMS draws
// at once.
const minBytes, maxBytes = 16, 1024

// rsaBits are the sizes of RSA keys, the default of JWTs first: the least that RFC
// 7518 allows.
var rsaBits = []int{2048, 3072, 4096}

// sshBits is the default of ssh-keygen's RSA keys.
const sshBits = 3072

const whatThereIs = "there are alg, keyring, bits (of RSA keys), comment (of SSH keys), hex, base64, base64url and field (of random texts)"

// readOptions decodes them. Its errors are permanent.
func readOptions(given map[string]string) (o options, err error) {
	defer func() {
		if err != nil {
			err = rotators.Permanent(fmt.Errorf("rekey:options: %w", err))
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(given)) {
		value := given[name]
		switch name {
		case "alg":
			if _, ok := algorithms[value]; !ok {
				return o, fmt.Errorf("there is no alg=%s: there are %s", value, strings.Join(slices.Sorted(maps.Keys(algorithms)), ", "))
			}
			o.alg = value
		case "keyring":
			if value != "yes" && value != "no" {
				return o, fmt.Errorf("keyring=%s is neither yes nor no", value)
			}
			o.keyring = value == "yes"
		case "bits":
			if o.bits, err = strconv.Atoi(value); err != nil || !slices.Contains(rsaBits, o.bits) {
				return o, fmt.Errorf("bits=%s is none of 2048, 3072 and 4096", value)
			}
		case "comment":
			o.comment = value
		case "field":
			o.field = value
		case "hex", "base64", "base64url":
			if o.encoding != "" {
				return o, fmt.Errorf("%s and %s say different things: leave one", o.encoding, name)
			}
			o.encoding = name
			if o.bytes, err = strconv.Atoi(value); err != nil || o.bytes < minBytes || o.bytes > maxBytes {
				return o, fmt.Errorf("%s=%s is no number of bytes from %d to %d", name, value, minBytes, maxBytes)
			}
		default:
			return o, fmt.Errorf("there is no option %q: %s", name, whatThereIs)
		}
	}
	a := algorithms[o.alg]
	switch {
	case o.alg != "" && o.encoding != "":
		return o, fmt.Errorf("%s is for a random text, and alg=%s is none: leave one", o.encoding, o.alg)
	case o.field != "" && (o.alg != "" || o.keyring):
		return o, fmt.Errorf("field is for a single random text: a key and a keyring have fields of their own")
	case o.bits != 0 && a.family != rsaFamily:
		return o, fmt.Errorf("bits is for RSA keys, and alg=%s asks for none", o.alg)
	case o.comment != "" && !a.ssh:
		return o, fmt.Errorf("comment is for SSH keys, and alg=%s asks for none", o.alg)
	}
	if o.bits == 0 {
		o.bits = rsaBits[0]
		if a.ssh {
			o.bits = sshBits
		}
	}
	if a.family == hmacFamily {
		o.encoding, o.bytes = "base64url", a.hash.Size()
	}
	return o, nil
}
