// Package generated rotates values that no other system holds: random tokens, keys
// that sign JWTs, SSH key pairs. It is for people who list it in a registry, and, by
// [Keys], [JWKS] and [AuthorizedKeys], for Go programs that read such a value.
//
// # What is made
//
// The tag rekey:options says it (docs/rotators/generated.md has every value before
// and after):
//
//	(nothing)                      a random text, as rekey:password says
//	hex=32 base64=32 base64url=32  so many random bytes, in that encoding
//	alg=HS256 ...                  a key that signs and verifies JWTs, a text
//	alg=ES256 ...                  a private key in PKCS#8, the public one as a JWKS
//	alg=ssh-ed25519 ...            a key pair as OpenSSH writes it
//
// A value is a JSON object of strings, or a plain text that is a random text, whole.
// A first value may be {}. A field that is empty is filled; one that is not is taken
// for a key in use.
//
// # The keyring
//
// With keyring=yes the value also holds the keys before the current one, each with
// the time from which it no longer counts: as long as rekey:grace says after the
// rotation that replaced it, else 24 hours. So what was signed before a rotation
// verifies until then, and nobody has to write anything then. A key whose time is
// over goes at the next rotation. No key counts longer than the grace that is set
// when a rotation comes: one with rekey:grace=0m ends all keys but the new one.
//
// Nothing is left to withdraw, so there is no Retire.
package generated
