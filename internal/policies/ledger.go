package policies

import (
	"slices"
	"strings"
	"sync"
)

// Ledger decides what roles may do and remembers what was asked, so that at the end
// it can tell what a role has and nobody needs. Its methods may be called by several
// goroutines at once.
type Ledger struct {
	mu      sync.Mutex
	entries map[string]Entry
	asked   int
}

// Entry is something that was asked, of a role, and what came of it. What differs
// only in things that do not change by which statements it is decided is one entry.
type Entry struct {
	Role *Role
	Access
	Decision
}

// Permission is an action in a statement of a role.
type Permission struct{ Sid, Action string }

// Decide is Role.Decide, and remembers it.
func (l *Ledger) Decide(role *Role, a Access) Decision {
	d := role.Decide(a)
	key := role.Name + " " + a.Action + " " + strings.Join(d.By, " ")
	if len(d.By) == 0 && !d.Allowed {
		key += a.Resource // a refusal is told with what it was about
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if _, ok := l.entries[key]; !ok {
		if l.entries == nil {
			l.entries = map[string]Entry{}
		}
		l.entries[key] = Entry{role, a, d}
	}
	return d
}

// Asked is how many times Decide was called.
func (l *Ledger) Asked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// Entries are those of a role, by its name, in no order.
func (l *Ledger) Entries(role string) (all []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if e.Role.Name == role {
			all = append(all, e)
		}
	}
	return all
}

// Permissions are all that a role has.
func (r *Role) Permissions() (all []Permission) {
	for _, s := range r.Statements {
		for _, action := range s.Actions {
			all = append(all, Permission{s.Sid, action})
		}
	}
	return all
}

// Unused are the permissions of a role that decided nothing of what was asked.
func (l *Ledger) Unused(role *Role) (unused []Permission) {
	entries := l.Entries(role.Name)
	for _, p := range role.Permissions() {
		used := slices.ContainsFunc(entries, func(e Entry) bool {
			return slices.Contains(e.By, p.Sid) && role.statement(p.Sid).action(e.Action) == p.Action
		})
		if !used {
			unused = append(unused, p)
		}
	}
	return unused
}

// Idle are the permissions without which everything that was asked would have been
// decided the same way.
func (l *Ledger) Idle(role *Role) (idle []Permission) {
	entries := l.Entries(role.Name)
	for _, p := range role.Permissions() {
		matters := slices.ContainsFunc(entries, func(e Entry) bool {
			// Roles of one name differ in accounts and the like, and not in what they list.
			return e.Role.statement(p.Sid) != nil && changes(e, e.Role.Without(p.Sid, p.Action))
		})
		if !matters {
			idle = append(idle, p)
		}
	}
	return idle
}

// changes tells whether another role decides otherwise: whether it allows what was
// denied or the reverse, or no longer denies what the first one did by a statement.
func changes(e Entry, with *Role) bool {
	d := with.Decide(e.Access)
	return d.Allowed != e.Allowed || d.Denied != e.Denied
}
