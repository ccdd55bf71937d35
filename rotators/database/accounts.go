package database

// Accounts is a Session of an engine in which one user name stands for several
// accounts, told apart by where their user logs in from: 'app'@'%' and
// 'app'@'10.%' of MySQL. Each has a password and rights of its own.
type Accounts interface {
	Session

	// Account is what the server calls the account of this login.
	Account() string
	// Hold tells an admin's session of a login that has just worked, and which
	// account it was, before the admin changes that user. It is what proves that
	// the account may be changed; one that nothing proves belongs, for all anybody
	// knows, to somebody else. An account of "" is a login with the right password
	// of an account that is locked.
	Hold(held Login, account string)
}

// proof is a login that worked, of the account that the server says it was.
type proof struct {
	login   Login
	account string
}

// proved takes down which account a login was that has just worked.
func (a *attempt) proved(l Login, session Session) {
	if s, ok := session.(Accounts); ok {
		a.take(proof{l, s.Account()})
	}
}

// take takes down a proof, and has the admin's session know it, if there is one yet.
func (a *attempt) take(p proof) {
	// As the value says, which is how applications log in, and so how Test does: the proof
	// itself may have been by TLS because the admin's login is.
	p.login.Plaintext = a.pending.Plaintext
	a.proofs = append(a.proofs, p)
	if s, ok := a.session.(Accounts); ok {
		s.Hold(p.login, p.account)
	}
}

// tell has an admin's session that has just begun know every proof.
func (a *attempt) tell(session Session) {
	if s, ok := session.(Accounts); ok {
		for _, p := range a.proofs {
			s.Hold(p.login, p.account)
		}
	}
}
