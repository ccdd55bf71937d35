// Package memstore keeps one secret's versions in memory. It is the plainest
// store that holds to rotation.Store's contract, for the tests of the engine
// and for the conformance suite that rotators run.
package memstore

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// Store is a rotation.Store of one secret.
type Store struct {
	mu                         sync.Mutex
	tags                       map[string]string
	versions                   []version // oldest first
	current, pending, previous string
	promoted                   map[string]bool   // the versions that readers ever got
	labels                     map[string]string // versions by an owner's own label
}

type version struct {
	name  string
	value rotators.Secret
}

var (
	_ rotation.Driven = (*Store)(nil)
	_ rotation.Fenced = (*Store)(nil)
)

// ID is the ARN of the one secret.
const ID = "arn:aws:secretsmanager:us-east-1:000000000000:secret:memory-AbCdEf"

// First is the name of the version a new store has.
const First = "00000000-0000-4000-8000-000000000000"

// New returns a store whose secret has value as its current version.
func New(value rotators.Secret, tags map[string]string) *Store {
	return &Store{
		tags:     maps.Clone(tags),
		versions: []version{{First, value}},
		current:  First,
		promoted: map[string]bool{First: true},
		labels:   map[string]string{},
	}
}

// Label puts a label of the owner's own on a version, in place of where it was.
func (s *Store) Label(label, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.labels[label] = name
}

// Begin starts an attempt, the way Secrets Manager does: token names a pending
// version that has no value yet.
func (s *Store) Begin(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = token
}

// Put stores a version by hand and makes it current, which abandons an attempt.
func (s *Store) Put(name string, value rotators.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions = append(s.versions, version{name, value})
	s.previous, s.current, s.pending = s.current, name, ""
	s.promoted[name] = true
}

// Labelled returns the value that an owner's own label is on.
func (s *Store) Labelled(label string) (value rotators.Secret, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, ok := s.labels[label]
	return s.find(name), ok
}

// Revert makes the first version current again by hand.
func (s *Store) Revert() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.previous, s.current = s.current, First
}

// Forget drops the pending value, as if the process had died before storing it.
func (s *Store) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions = slices.DeleteFunc(s.versions, func(v version) bool { return v.name == s.pending })
}

// Current is what readers get.
func (s *Store) Current() (name string, value rotators.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.find(s.current)
}

// Values are all the values the store holds, oldest first.
func (s *Store) Values() []rotators.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	var values []rotators.Secret
	for _, v := range s.versions {
		values = append(values, v.value)
	}
	return values
}

// Tag writes a tag, as an owner may at any time.
func (s *Store) Tag(key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tag(key, value)
}

// Tags are the secret's tags.
func (s *Store) Tags() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.tags)
}

// Load implements rotation.Store.
func (s *Store) Load(_ context.Context, id, token string) (*rotation.Attempt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != ID {
		return nil, rotators.Permanent(errors.New("there is no such secret"))
	}
	tags, err := rotation.ReadTags(s.tags)
	if err != nil {
		return nil, err
	}
	if token == "" {
		if token = s.pending; token == "" {
			token = s.current
		}
	}
	if tags.Retire == s.current {
		tags.Retire = ""
	}
	a := &rotation.Attempt{ID: ID, Token: token, Tags: tags, Current: s.current, Previous: s.previous, Former: s.previous, Written: rotation.Written(s.tags)}
	if tags.Retire != "" {
		a.Previous = tags.Retire
	}
	switch {
	case token == s.current:
		a.State = rotation.Current
	case token == s.pending && s.find(token).IsZero():
		a.State = rotation.Reserved
	case token == s.pending:
		a.State = rotation.Stored
	case !s.find(token).IsZero():
		a.State = rotation.Superseded
	}
	return a, nil
}

// Value implements rotation.Store.
func (s *Store) Value(_ context.Context, a *rotation.Attempt, which rotation.Which) (rotators.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(map[rotation.Which]string{
		rotation.CurrentValue: a.Current, rotation.PendingValue: a.Token, rotation.PreviousValue: a.Previous,
	}[which]), nil
}

// Held implements rotation.Store.
func (s *Store) Held(_ context.Context, a *rotation.Attempt) iter.Seq2[rotation.Held, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []rotation.Held
	for _, v := range s.versions {
		switch {
		case v.name == s.pending:
		case v.name == s.current, s.labelled(v.name):
			all = append(all, rotation.Held{Value: v.value, Use: rotators.InUse})
		case v.name == s.previous, v.name == a.Tags.Retire:
			all = append(all, rotation.Held{Value: v.value, Use: rotators.Former})
		}
	}
	return func(yield func(rotation.Held, error) bool) {
		for _, held := range all {
			if !yield(held, nil) {
				return
			}
		}
	}
}

// labelled reports whether an owner's own label is on a version.
func (s *Store) labelled(name string) bool {
	return slices.Contains(slices.Collect(maps.Values(s.labels)), name)
}

// Leftovers implements rotation.Store.
func (s *Store) Leftovers(_ context.Context, a *rotation.Attempt) iter.Seq2[rotators.Secret, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	var values []rotators.Secret
	for _, v := range slices.Backward(s.versions) {
		own := v.name == a.Token && a.State != rotation.Superseded && !s.promoted[v.name]
		if v.name != s.current && v.name != s.pending && v.name != s.previous && !own && !s.labelled(v.name) {
			values = append(values, v.value)
		}
	}
	return func(yield func(rotators.Secret, error) bool) {
		for _, v := range values {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// PutPending implements rotation.Store.
func (s *Store) PutPending(_ context.Context, a *rotation.Attempt, value rotators.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch stored := s.find(a.Token); {
	case stored.IsZero():
		s.versions = append(s.versions, version{a.Token, value})
		return nil
	case stored.Equal(value):
		return nil
	default:
		return rotation.ErrStored
	}
}

// Promote implements rotation.Store.
func (s *Store) Promote(_ context.Context, a *rotation.Attempt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Tags.Retire != "" {
		s.tag(rotation.TagRetire, a.Tags.RetireOrder())
	}
	switch s.current {
	case a.Token:
		return nil
	case a.Current:
		s.previous, s.current, s.pending = s.current, a.Token, ""
		s.promoted[a.Token] = true
		return nil
	default:
		return rotators.Permanent(errors.New("another version is current"))
	}
}

// Retired implements rotation.Store.
func (s *Store) Retired(_ context.Context, a *rotation.Attempt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tag(rotation.TagRetired, a.Tags.Retire)
	if order, _, _ := strings.Cut(s.tags[rotation.TagRetire], " "); order == a.Tags.Retire {
		delete(s.tags, rotation.TagRetire)
	}
	return nil
}

// Fence implements rotation.Fenced.
func (s *Store) Fence(_ context.Context, _ *rotation.Attempt, key string, until time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tag(key, until.UTC().Format(time.RFC3339))
	return nil
}

// Unfence implements rotation.Fenced.
func (s *Store) Unfence(_ context.Context, _ *rotation.Attempt, keys ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		delete(s.tags, key)
	}
	return nil
}

// Discard implements rotation.Driven.
func (s *Store) Discard(_ context.Context, a *rotation.Attempt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions = slices.DeleteFunc(s.versions, func(v version) bool { return v.name == a.Token && !s.promoted[v.name] })
	return nil
}

// Promoted implements rotation.Driven.
func (s *Store) Promoted(_ context.Context, a *rotation.Attempt) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Token == s.current || !s.promoted[a.Token] {
		return "", nil
	}
	return a.Token, nil
}

// Order implements rotation.Driven.
func (s *Store) Order(_ context.Context, a *rotation.Attempt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tag(rotation.TagRetire, a.Tags.RetireOrder())
	return nil
}

func (s *Store) tag(key, value string) {
	if s.tags == nil {
		s.tags = map[string]string{}
	}
	s.tags[key] = value
}

func (s *Store) find(name string) rotators.Secret {
	for _, v := range s.versions {
		if v.name == name {
			return v.value
		}
	}
	return rotators.Secret{}
}
