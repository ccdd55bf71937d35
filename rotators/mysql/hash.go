package mysql

import (
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strconv"
	"strings"
)

// The methods of logging in that rekey sets passwords for.
const (
	native      = "mysql_native_password"
	cachingSHA2 = "caching_sha2_password"
)

// hashFor returns what the server stores for a password of an account that logs
// in by a method.
func hashFor(method, password string) string {
	if method == native {
		return nativeHash(password)
	}
	salt := make([]byte, sha2Salt)
	_, _ = rand.Read(salt)
	for i := range salt {
		salt[i] = crypt64[salt[i]%64]
	}
	return cachingHash(password, string(salt), sha2Thousands)
}

// verifies tells whether a stored hash is that of a password. It knows the methods
// above only.
func verifies(method, stored, password string) bool {
	want := ""
	switch method {
	case native:
		want = nativeHash(password)
		stored = strings.ToUpper(stored)
	case cachingSHA2:
		// $A$<thousands of rounds, hexadecimal>$<salt><digest>
		if len(stored) != 7+sha2Salt+43 || !strings.HasPrefix(stored, "$A$") || stored[6] != '$' {
			return false
		}
		thousands, err := strconv.ParseUint(stored[3:6], 16, 12)
		if err != nil || thousands == 0 || thousands > maxThousands {
			return false
		}
		want = cachingHash(password, stored[7:7+sha2Salt], int(thousands))
	default:
		return false
	}
	return subtle.ConstantTimeCompare([]byte(want), []byte(stored)) == 1
}

// nativeHash is mysql_native_password's: *SHA1(SHA1(password)).
func nativeHash(password string) string {
	once := sha1.Sum([]byte(password))
	twice := sha1.Sum(once[:])
	return fmt.Sprintf("*%X", twice)
}

const (
	sha2Salt = 20
	// sha2Thousands is MySQL 8's own choice, and the least it takes. The passwords
	// are random.
	sha2Thousands = 5
	// maxThousands is how many are computed to check a password. A server may claim
	// 4,095, which take seconds for each account that it also claims to have.
	maxThousands = 100
	crypt64      = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// cachingHash is caching_sha2_password's: the digest of SHA-crypt with SHA-256
// (https://www.akkadia.org/drepper/SHA-crypt.txt), with a longer salt.
func cachingHash(password, salt string, thousands int) string {
	key := []byte(password)
	b := sha256.Sum256([]byte(password + salt + password))
	first := sha256.New()
	first.Write([]byte(password + salt))
	first.Write(repeated(b, len(key)))
	for n := len(key); n > 0; n >>= 1 {
		if n&1 == 1 {
			first.Write(b[:])
		} else {
			first.Write(key)
		}
	}
	a := [32]byte(first.Sum(nil))

	keys := sha256.New()
	for range key {
		keys.Write(key)
	}
	p := repeated([32]byte(keys.Sum(nil)), len(key))
	salts := sha256.New()
	for range 16 + int(a[0]) {
		salts.Write([]byte(salt))
	}
	s := repeated([32]byte(salts.Sum(nil)), len(salt))

	for round := range thousands * 1000 {
		c := sha256.New()
		if round%2 == 1 {
			c.Write(p)
		} else {
			c.Write(a[:])
		}
		if round%3 != 0 {
			c.Write(s)
		}
		if round%7 != 0 {
			c.Write(p)
		}
		if round%2 == 1 {
			c.Write(a[:])
		} else {
			c.Write(p)
		}
		a = [32]byte(c.Sum(nil))
	}

	// Three bytes make four characters, least significant first, in an order of
	// the scheme's own.
	digest := make([]byte, 0, 43)
	emit := func(v, n int) {
		for range n {
			digest = append(digest, crypt64[v&63])
			v >>= 6
		}
	}
	for i := range 10 {
		// 0,10,20; 21,1,11; 12,22,2; 3,13,23; ..
		x, y, z := i, i+10, i+20
		switch i % 3 {
		case 1:
			x, y, z = i+20, i, i+10
		case 2:
			x, y, z = i+10, i+20, i
		}
		emit(int(a[x])<<16|int(a[y])<<8|int(a[z]), 4)
	}
	emit(int(a[31])<<8|int(a[30]), 3)
	return fmt.Sprintf("$A$%03X$%s%s", thousands, salt, digest)
}

// repeated is a digest written again and again, n bytes of it.
func repeated(digest [32]byte, n int) []byte {
	out := make([]byte, 0, n+len(digest))
	for len(out) < n {
		out = append(out, digest[:]...)
	}
	return out[:n]
}
