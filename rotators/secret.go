package rotators

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// placeholder is what a Secret prints as.
const placeholder = "[secret]"

// Secret is a value nobody but its readers may see: a whole secret, or one
// field of one. The zero Secret is no value at all.
//
// The bytes sit behind a func value because fmt cannot call methods on a Secret
// in an unexported field of another struct, but prints what it finds there; a
// func prints as an address.
type Secret struct {
	reveal func() string
}

// NewSecret returns value as a Secret; the zero Secret if value is empty.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{reveal: func() string { return value }}
}

// Reveal returns the value in the clear. It is the only way to see one.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsZero tells whether there is no value.
func (s Secret) IsZero() bool { return s.reveal == nil }

// Equal compares two values in a time that does not depend on where they differ.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// Format prints a placeholder, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(placeholder)) }

// LogValue logs a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(placeholder) }

// MarshalJSON encodes a placeholder.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + placeholder + `"`), nil }

// MarshalText fails. Were it to return a placeholder, some day that placeholder
// would be stored as somebody's password.
func (s Secret) MarshalText() ([]byte, error) {
	return nil, errors.New("a secret cannot be encoded; call Reveal where its value is meant to leave the process")
}
