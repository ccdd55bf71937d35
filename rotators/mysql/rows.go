package mysql

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/rekeyhq/rekey/rotators"
)

// row is an account as the server stores it.
type row struct {
	account
	method string   // "" if it is not the same for all hashes
	hashes []string // on MySQL the primary first
	mixed  []way    // MariaDB only: each hash with its method, if that is not the same for all
	locked bool
	hourly string     // how many logins the account has in an hour; "0": any number
	priv   privileges // MariaDB only
}

// settable tells whether rekey sets passwords of this account.
func (r row) settable() bool { return r.method == native || r.method == cachingSHA2 }

const (
	// maxPriv is how many bytes of an account MariaDB may store: some hundred are usual.
	maxPriv = 16 << 10
	// maxWays is how many ways to log in an account may have beside the first. rekey
	// makes one, and each costs thousands of rounds of hashing to look at.
	maxWays = 4
	// maxCompared is how long a password may be to be compared with hashes. The longest
	// that MySQL takes by caching_sha2_password has 256 characters.
	maxCompared = 256
)

// has tells whether a password is one of the account's.
func (r row) has(p rotators.Secret) bool {
	if len(p.Reveal()) > maxCompared {
		return false
	}
	return slices.ContainsFunc(r.hashes, func(hash string) bool { return verifies(r.method, hash, p.Reveal()) }) ||
		slices.ContainsFunc(r.mixed, func(w way) bool { return verifies(w.Plugin, w.Hash, p.Reveal()) })
}

// hasAll reports whether the account has all of some passwords, of which there are some.
func (r row) hasAll(passwords []rotators.Secret) bool {
	return len(passwords) > 0 && !slices.ContainsFunc(passwords, func(p rotators.Secret) bool { return !r.has(p) })
}

// byOthers are methods of logging in that no stored password decides about, or that only
// the server's own socket does.
var byOthers = []string{"unix_socket", "auth_socket", "gssapi", "pam", "named_pipe", "mysql_no_login", "AWSAuthenticationPlugin", "authentication_pam", "authentication_ldap_sasl",
	"authentication_ldap_simple", "authentication_kerberos", "authentication_windows", "authentication_fido", "authentication_webauthn", "authentication_openid_connect"}

// unseen reports whether the account logs in by a password that is stored in a way that
// is not known here.
func (r row) unseen() bool {
	unseen := func(method string) bool {
		return method != native && method != cachingSHA2 && !slices.Contains(byOthers, method)
	}
	if r.mixed != nil {
		return slices.ContainsFunc(r.mixed, func(w way) bool { return unseen(w.Plugin) })
	}
	return unseen(r.method)
}

// privileges is what MariaDB stores of an account (mysql.global_priv), in part.
type privileges struct {
	way
	Or     []way `json:"auth_or"`
	Role   bool  `json:"is_role"`
	Locked bool  `json:"account_locked"`

	DefaultRole string `json:"default_role"`

	SSL     int    `json:"ssl_type"` // 0: none, 1: any, 2: X509, 3: as specified
	Cipher  string `json:"ssl_cipher"`
	Issuer  string `json:"x509_issuer"`
	Subject string `json:"x509_subject"`

	Questions     int64   `json:"max_questions"`
	Updates       int64   `json:"max_updates"`
	Connections   int64   `json:"max_connections"`
	Sessions      int64   `json:"max_user_connections"`
	StatementTime float64 `json:"max_statement_time"`
	Lifetime      *int64  `json:"password_lifetime"` // days; -1 and nil: the server's
}

type way struct {
	Plugin string `json:"plugin"`
	Hash   string `json:"authentication_string"`
}

// rows reads a user's accounts, of which there may be none. It takes SELECT on
// mysql.*.
func (s *session) rows(ctx context.Context, user string) (all []row, err error) {
	if s.isMariaDB() {
		found, err := s.query(ctx, "SELECT Host, Priv FROM mysql.global_priv WHERE User = "+quoteText(user)+" ORDER BY Host", 2)
		if err != nil {
			return nil, explainChange(ctx, err, s.login)
		}
		for _, f := range found {
			r := row{account: account{user, f[0]}}
			if len(f[1]) > maxPriv {
				return nil, fmt.Errorf("mysql.global_priv has %d bytes for %s, which are too many to be an account", len(f[1]), r.account)
			}
			if err := json.Unmarshal([]byte(f[1]), &r.priv); err != nil {
				return nil, fmt.Errorf("mysql.global_priv has something for %s that cannot be read", r.account)
			}
			if r.priv.Role {
				continue
			}
			if len(r.priv.Or) > maxWays {
				return nil, rotators.Permanent(fmt.Errorf("the account %s has %d ways to log in, and rekey looks at %d at the most: ALTER USER .. IDENTIFIED VIA fewer", r.account, 1+len(r.priv.Or), 1+maxWays))
			}
			r.locked, r.method, r.hourly = r.priv.Locked, r.priv.Plugin, strconv.FormatInt(r.priv.Connections, 10)
			for i, w := range append([]way{r.priv.way}, r.priv.Or...) {
				switch {
				case i > 0 && w == (way{}): // stands for the first one
					continue
				case w.Plugin != r.method:
					r.method = ""
				}
				r.hashes, r.mixed = append(r.hashes, w.Hash), append(r.mixed, w)
			}
			if r.method != "" {
				r.mixed = nil
			}
			all = append(all, r)
		}
		return all, nil
	}
	// In hexadecimal, because a salt may hold any character.
	found, err := s.query(ctx, `SELECT Host, plugin, HEX(authentication_string), HEX(User_attributes->>'$.additional_password'), account_locked, max_connections
		FROM mysql.user WHERE User = `+quoteText(user)+" ORDER BY Host", 6)
	if err != nil {
		return nil, explainChange(ctx, err, s.login)
	}
	for _, f := range found {
		r := row{account: account{user, f[0]}, method: f[1], locked: f[4] == "Y", hourly: f[5]}
		for _, h := range f[2:4] {
			if stored, err := hex.DecodeString(h); err == nil && h != "" {
				r.hashes = append(r.hashes, string(stored))
			}
		}
		all = append(all, r)
	}
	return all, nil
}
