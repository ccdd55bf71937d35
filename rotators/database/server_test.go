package database_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// server is a database server that keeps users, their passwords and their one
// right in memory, and speaks HTTP so that a Wire can stand in between. "root"
// may change every user, and others themselves.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	accepts  map[string][]string // by user, newest first
	right    map[string]bool
	sets     []string                     // every change of passwords, as USER=PASSWORD,PASSWORD
	afterSet func(user string, s *server) // has the server misbehave; under the lock
}

func newServer(t *testing.T) *server {
	s := &server{accepts: map[string][]string{"app": {"number-one"}, "someone": {"of-someone"}, "root": {"of-root-alone"}}, right: map[string]bool{"app": true}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A session is a user that has logged in once: its password may have been
	// changed since.
	user, session := r.Header.Get("Session"), r.Header.Get("Session") != ""
	var password string
	if !session {
		user, password, _ = r.BasicAuth()
	}
	whom := r.URL.Query().Get("user")
	switch {
	case !session && !slices.Contains(s.accepts[user], password):
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/login":
	case r.URL.Path == "/exists" && s.accepts[whom] == nil:
		w.WriteHeader(http.StatusNotFound)
	case r.URL.Path == "/exists":
	case r.URL.Path == "/right" && r.Method == http.MethodGet && !s.right[user]:
		w.WriteHeader(http.StatusForbidden)
	case r.Method == http.MethodGet:
	case user != "root" && user != whom:
		w.WriteHeader(http.StatusForbidden)
	case r.URL.Path == "/right":
		s.right[whom] = true
	case r.URL.Path == "/passwords":
		var passwords []string
		_ = json.NewDecoder(r.Body).Decode(&passwords)
		s.accepts[whom] = passwords
		s.sets = append(s.sets, whom+"="+strings.Join(passwords, ","))
		if s.afterSet != nil {
			s.afterSet(whom, s)
		}
	}
}

// engine is the server as the strategies see it. overlap is whether a user may
// have two passwords.
func (s *server) engine(transport http.RoundTripper, overlap bool) database.Engine {
	client := &http.Client{Transport: transport}
	return database.Engine{
		Name: "MemSQL", Port: 5432, Database: "db", MaxUser: 63, Length: 32, Alphabet: "abcdefghijABCDEFGHIJ0123456789-_", Overlap: overlap,
		Open: func(ctx context.Context, l database.Login) (database.Session, error) {
			status, err := call(ctx, client, s.URL+"/login", http.MethodGet, nil, func(r *http.Request) { r.SetBasicAuth(l.User, l.Password.Reveal()) })
			if status == http.StatusUnauthorized {
				return nil, rotators.Refused(fmt.Errorf("the password of %s is wrong", l.User))
			}
			return session{client, s.URL, l.User, overlap}, err
		},
	}
}

func call(ctx context.Context, client *http.Client, address, method string, body any, change func(*http.Request)) (status int, err error) {
	text, _ := json.Marshal(body)
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(string(text)))
	if err != nil {
		return 0, err
	}
	change(req)
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the server answers %s to %s", resp.Status, req.URL.Path)
	}
	return resp.StatusCode, err
}

type session struct {
	client  *http.Client
	url     string
	user    string
	overlap bool
}

func (s session) send(ctx context.Context, method, path, user string, body any) (int, error) {
	return call(ctx, s.client, s.url+path+"?user="+url.QueryEscape(user), method, body, func(r *http.Request) { r.Header.Set("Session", s.user) })
}

func (s session) SetPasswords(ctx context.Context, user string, accept ...rotators.Secret) error {
	if len(accept) != 1 && !(len(accept) == 2 && s.overlap) {
		return rotators.Permanent(fmt.Errorf("%d passwords for one user", len(accept)))
	}
	var passwords []string
	for _, password := range accept {
		passwords = append(passwords, password.Reveal())
	}
	_, err := s.send(ctx, http.MethodPut, "/passwords", user, passwords)
	return err
}

func (s session) Close(context.Context) error { return nil }

func (s session) HasUser(ctx context.Context, user string) (bool, error) {
	status, err := s.send(ctx, http.MethodGet, "/exists", user, nil)
	if status == http.StatusNotFound {
		return false, nil
	}
	return true, err
}

func (s session) EnsureTwin(ctx context.Context, base, twin string, _ bool, password rotators.Secret) error {
	if _, err := s.send(ctx, http.MethodPut, "/right", twin, nil); err != nil {
		return err
	}
	return s.SetPasswords(ctx, twin, password)
}

func (s session) ProveTwin(ctx context.Context, base string) error {
	if status, err := s.send(ctx, http.MethodGet, "/right", s.user, nil); err != nil {
		return errors.Join(err, fmt.Errorf("the twin of %s lacks the right (%d)", base, status))
	}
	return nil
}

var _ database.Twinner = session{}

// has are the passwords that a user has, newest first.
func (s *server) has(user string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.accepts[user], ",")
}

// takes tells whether a value logs in.
func (s *server) takes(v rotators.Secret) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, _ := v.Field("username")
	password, _ := v.Field("password")
	return slices.Contains(s.accepts[user.Reveal()], password.Reveal())
}

func valueOf(user, password string) rotators.Secret {
	return rotators.NewSecret(`{"host":"db","username":"` + user + `","password":"` + password + `"}`)
}

// lookup knows one admin.
func lookup(_ context.Context, ref string) (rotators.Secret, error) {
	if ref != "the-admin" {
		return rotators.Secret{}, fmt.Errorf("there is no secret %q", ref)
	}
	return valueOf("root", "of-root-alone"), nil
}
