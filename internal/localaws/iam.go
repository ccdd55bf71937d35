package localaws

import (
	"cmp"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// iamVersion is the version of IAM's API, by which its calls are told from those
// to other query services.
const iamVersion = "2010-05-08"

// maxAccessKeys is how many keys a user has, inactive ones included ("IAM and AWS
// STS quotas").
const maxAccessKeys = 2

// The statuses of an access key. A deleted one has none.
const (
	activeKey   = "Active"
	inactiveKey = "Inactive"
)

// userName is what tells a user. IAM does not distinguish names by case, so the
// name is in lower case.
type userName struct{ account, name string }

type user struct {
	userName
	id      string
	created time.Time
	path    string
	asNamed string                  // with its capitals
	tags    written[map[string]tag] // by key in lower case; never changed, only replaced
}

func (u *user) arn() string { return "arn:aws:iam::" + u.account + ":user" + u.path + u.asNamed }

// iamKey is a key of a user's. It is kept when it is deleted, because some may
// not know yet.
type iamKey struct {
	id, secret string
	owner      *user
	created    time.Time
	status     string          // what it really is
	services   written[string] // the status the services go by
	reads      written[string] // the status ListAccessKeys tells

	used            time.Time // zero: never
	service, region string    // of the last use
}

func (k *iamKey) set(status string, now time.Time, delays IAMDelays) {
	k.status = status
	k.services.write(status, now, delays.Keys)
	k.reads.write(status, now, delays.Reads)
}

// User is a user of IAM's, to add.
type User struct {
	Account  string // "": the server's
	UserName string
	Path     string // "": /
	Tags     map[string]string
}

// AddUser adds a user and returns its ARN. It panics if IAM would not create it.
func (s *Server) AddUser(in User) (arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tags []tag
	for key, value := range in.Tags {
		tags = append(tags, tag{key, value})
	}
	u, err := s.newUser(cmp.Or(in.Account, s.config.Account), in.UserName, in.Path, tags, s.config.Now())
	if err != nil {
		panic("localaws: AddUser " + in.UserName + ": " + err.Error())
	}
	return u.arn()
}

// AddAccessKey adds an active key to a user, given by its ARN, and returns it. It
// is known everywhere at once. It panics if there is no such user or if it has
// two keys.
func (s *Server) AddAccessKey(userARN string) (id, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.users {
		if u.arn() == userARN {
			k, err := s.newAccessKey(u, s.config.Now(), IAMDelays{})
			if err != nil {
				panic("localaws: AddAccessKey " + userARN + ": " + err.Error())
			}
			return k.id, k.secret
		}
	}
	panic("localaws: AddAccessKey: there is no user " + userARN)
}

// RenameUser gives a user, given by its ARN, another name, as UpdateUser does: keys and tags
// stay. It returns the new ARN, and panics if there is no such user or if the name is taken.
func (s *Server) RenameUser(userARN, name string) (arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.users {
		if to := (userName{u.account, strings.ToLower(name)}); u.arn() == userARN && s.users[to] == nil {
			delete(s.users, u.userName)
			u.userName, u.asNamed = to, name
			s.users[to] = u
			return u.arn()
		}
	}
	panic("localaws: RenameUser: there is no user " + userARN + ", or the name is taken")
}

func (s *Server) iamOperations() map[string]operation {
	ops := map[string]operation{}
	for name, f := range map[string]func(call, url.Values) (any, error){
		"CreateUser":           s.createUser,
		"GetUser":              s.getUser,
		"ListUsers":            s.listUsers,
		"DeleteUser":           s.deleteUser,
		"CreateAccessKey":      s.createAccessKey,
		"ListAccessKeys":       s.listAccessKeys,
		"UpdateAccessKey":      s.updateAccessKey,
		"DeleteAccessKey":      s.deleteAccessKey,
		"GetAccessKeyLastUsed": s.getAccessKeyLastUsed,
		"TagUser":              s.tagUser,
		"UntagUser":            s.untagUser,
		"ListUserTags":         s.listUserTags,
		"CreateRole":           s.createRole,
	} {
		ops["iam."+name] = form(func(c call, in url.Values) (any, error) {
			out, err := f(c, in)
			return queryReply{"https://iam.amazonaws.com/doc/" + iamVersion + "/", name, out}, err
		})
	}
	return ops
}

// iamID makes an id of IAM's: what it is of, and n random characters.
func iamID(prefix string, n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return prefix + base32.StdEncoding.EncodeToString(b)[:n]
}

// newSecretKey makes a secret access key: 40 characters.
func newSecretKey() string {
	b := make([]byte, 30)
	_, _ = rand.Read(b) // never fails
	return base64.StdEncoding.EncodeToString(b)
}

func iamTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// members is a list, which is there when it is empty, too.
type members[E any] struct {
	Member []E `xml:"member"`
}

// listEnd is what tells where a list goes on. IAM's lists may be short although more
// is to come.
type listEnd struct {
	IsTruncated bool
	Marker      string `xml:",omitempty"`
}

// iamPage takes the page that is asked for out of all there are, which are in the
// order of their names.
func iamPage[E any](s *Server, operation string, in url.Values, all []E, name func(E) string) (members[E], listEnd, error) {
	size := 100
	if text := in.Get("MaxItems"); text != "" {
		var err error
		if size, err = strconv.Atoi(text); err != nil || size < 1 || size > 1000 {
			return members[E]{}, listEnd{}, iamInvalid("MaxItems must be 1 to 1000")
		}
	}
	start, ok := parsePageToken(in.Get("Marker"))
	if !ok {
		return members[E]{}, listEnd{}, iamInvalid("Invalid Marker.")
	}
	all = slices.DeleteFunc(all, func(e E) bool { return name(e) <= start })
	list, next := cut(slices.Values(all), s.bestEffort(operation, size), start, name)
	return members[E]{list}, listEnd{next != "", next}, nil
}

// named finds the user the call names, of the caller's account.
func (s *Server) named(c call, in url.Values) (*user, error) {
	name := in.Get("UserName")
	if name == "" {
		return nil, iamInvalid("1 validation error detected: Value null at 'userName' failed to satisfy constraint: Member must not be null")
	}
	u, ok := s.users[userName{c.caller.account, strings.ToLower(name)}]
	if !ok {
		return nil, noSuchEntity("The user with name %s cannot be found.", name)
	}
	return u, nil
}

// namedOrCaller does the same, but a call that names no user is about the one
// whose key signed it. The root of localaws has no keys of its own.
func (s *Server) namedOrCaller(c call, in url.Values) (*user, error) {
	switch {
	case in.Get("UserName") != "":
		return s.named(c, in)
	case c.caller.user == nil:
		return nil, iamInvalid("Must specify userName when calling with non-User credentials")
	case s.users[c.caller.user.userName] != c.caller.user: // deleted, and its last key not yet known to be
		return nil, noSuchEntity("The user with name %s cannot be found.", c.caller.user.asNamed)
	}
	return c.caller.user, nil
}

var (
	newUserName = regexp.MustCompile(`^[\w+=,.@-]{1,64}$`)
	iamPath     = regexp.MustCompile(`^/(?:[!-\x7f]{1,510}/)?$`)
	accessKeyID = regexp.MustCompile(`^\w{16,128}$`)
)

func (s *Server) newUser(account, name, path string, tags []tag, now time.Time) (*user, error) {
	u := &user{userName: userName{account, strings.ToLower(name)}, id: iamID("AIDA", 17), created: now, path: cmp.Or(path, "/"), asNamed: name}
	switch {
	case !newUserName.MatchString(name):
		return nil, iamInvalid("UserName must be 1 to 64 letters, digits and _+=,.@-")
	case !iamPath.MatchString(u.path):
		return nil, iamInvalid("Path must begin and end with /")
	case s.users[u.userName] != nil:
		return nil, &apiError{status: http.StatusConflict, code: "EntityAlreadyExists", message: "User with name " + name + " already exists."}
	}
	all, err := addUserTags(nil, tags)
	if err != nil {
		return nil, err
	}
	u.tags.write(all, now, 0)
	s.users[u.userName] = u
	return u, nil
}

// userElement is how a user is told.
type userElement struct {
	Path, UserName, UserId, Arn, CreateDate string
	Tags                                    *members[tag] // nil: not told
}

func (u *user) element() userElement {
	return userElement{Path: u.path, UserName: u.asNamed, UserId: u.id, Arn: u.arn(), CreateDate: iamTime(u.created)}
}

// elementWithTags tells the tags, too, if there are any.
func (u *user) elementWithTags(tags map[string]tag) any {
	e := u.element()
	if len(tags) > 0 {
		e.Tags = &members[tag]{userTagList(tags)}
	}
	return struct{ User userElement }{e}
}

func (s *Server) createUser(c call, in url.Values) (any, error) {
	u, err := s.newUser(c.caller.account, in.Get("UserName"), in.Get("Path"), formTags(in), c.now)
	if err != nil {
		return nil, err
	}
	return u.elementWithTags(u.tags.value), nil
}

func (s *Server) getUser(c call, in url.Values) (any, error) {
	u, err := s.namedOrCaller(c, in)
	if err != nil {
		return nil, err
	}
	return u.elementWithTags(u.tags.look(c.now)), nil
}

func (s *Server) listUsers(c call, in url.Values) (any, error) {
	all := []userElement{}
	for _, u := range s.users {
		if u.account == c.caller.account && strings.HasPrefix(u.path, in.Get("PathPrefix")) {
			all = append(all, u.element())
		}
	}
	byName := func(e userElement) string { return strings.ToLower(e.UserName) }
	slices.SortFunc(all, func(a, b userElement) int { return cmp.Compare(byName(a), byName(b)) })
	list, more, err := iamPage(s, "ListUsers", in, all, byName)
	return struct {
		Users members[userElement]
		listEnd
	}{list, more}, err
}

func (s *Server) deleteUser(c call, in url.Values) (any, error) {
	u, err := s.named(c, in)
	if err != nil {
		return nil, err
	}
	if s.countKeys(u) > 0 {
		return nil, &apiError{status: http.StatusConflict, code: "DeleteConflict", message: "Cannot delete entity, must delete access keys first."}
	}
	delete(s.users, u.userName)
	return nil, nil
}

// countKeys counts the keys a user really has.
func (s *Server) countKeys(u *user) (n int) {
	for _, k := range s.accessKeys {
		if k.owner == u && k.status != "" {
			n++
		}
	}
	return n
}

func (s *Server) newAccessKey(u *user, now time.Time, delays IAMDelays) (*iamKey, error) {
	if s.countKeys(u) >= maxAccessKeys {
		return nil, limitExceeded("Cannot exceed quota for AccessKeysPerUser: %d", maxAccessKeys)
	}
	k := &iamKey{id: iamID("AKIA", 16), secret: newSecretKey(), owner: u, created: now}
	k.set(activeKey, now, delays)
	s.accessKeys[k.id] = k
	return k, nil
}

// accessKeyElement is how a key is told.
type accessKeyElement struct {
	UserName, AccessKeyId, Status string
	SecretAccessKey               string `xml:",omitempty"`
	CreateDate                    string
}

func (s *Server) createAccessKey(c call, in url.Values) (any, error) {
	u, err := s.namedOrCaller(c, in)
	if err != nil {
		return nil, err
	}
	k, err := s.newAccessKey(u, c.now, s.config.IAMDelays)
	if err != nil {
		return nil, err
	}
	return struct{ AccessKey accessKeyElement }{accessKeyElement{u.asNamed, k.id, k.status, k.secret, iamTime(k.created)}}, nil
}

func (s *Server) listAccessKeys(c call, in url.Values) (any, error) {
	u, err := s.namedOrCaller(c, in)
	if err != nil {
		return nil, err
	}
	all := []accessKeyElement{}
	for _, id := range slices.Sorted(maps.Keys(s.accessKeys)) {
		if k := s.accessKeys[id]; k.owner == u {
			if status := k.reads.look(c.now); status != "" {
				all = append(all, accessKeyElement{UserName: u.asNamed, AccessKeyId: id, Status: status, CreateDate: iamTime(k.created)})
			}
		}
	}
	list, more, err := iamPage(s, "ListAccessKeys", in, all, func(e accessKeyElement) string { return e.AccessKeyId })
	return struct {
		AccessKeyMetadata members[accessKeyElement]
		listEnd
	}{list, more}, err
}

// keyOfUser finds the key a call names, of the user it is about.
func (s *Server) keyOfUser(c call, in url.Values) (*iamKey, error) {
	u, err := s.namedOrCaller(c, in)
	if err != nil {
		return nil, err
	}
	id := in.Get("AccessKeyId")
	if !accessKeyID.MatchString(id) {
		return nil, iamInvalid("AccessKeyId must be 16 to 128 letters and digits")
	}
	k, ok := s.accessKeys[id]
	if !ok || k.owner != u || k.status == "" {
		return nil, noSuchEntity("The Access Key with id %s cannot be found.", id)
	}
	return k, nil
}

func (s *Server) updateAccessKey(c call, in url.Values) (any, error) {
	status := in.Get("Status")
	if status != activeKey && status != inactiveKey {
		return nil, iamInvalid("Status must be %s or %s", activeKey, inactiveKey)
	}
	k, err := s.keyOfUser(c, in)
	if err == nil && k.status != status {
		k.set(status, c.now, s.config.IAMDelays)
	}
	return nil, err
}

func (s *Server) deleteAccessKey(c call, in url.Values) (any, error) {
	k, err := s.keyOfUser(c, in)
	if err == nil {
		k.set("", c.now, s.config.IAMDelays)
	}
	return nil, err
}

// getAccessKeyLastUsed tells the last use at once; on AWS it is behind. Of a key
// that is not there AWS says that it is not the caller's to ask about.
func (s *Server) getAccessKeyLastUsed(c call, in url.Values) (any, error) {
	type lastUsed struct {
		LastUsedDate        string `xml:",omitempty"`
		ServiceName, Region string
	}
	id := in.Get("AccessKeyId")
	k, ok := s.accessKeys[id]
	if !ok || k.status == "" || k.owner.account != c.caller.account {
		return nil, &apiError{
			status: http.StatusForbidden, code: "AccessDenied",
			message: fmt.Sprintf("User: %s is not authorized to perform iam:GetAccessKeyLastUsed on resource: access key %s", c.caller.arn, id),
		}
	}
	used := lastUsed{ServiceName: "N/A", Region: "N/A"}
	if !k.used.IsZero() {
		used = lastUsed{iamTime(k.used), k.service, k.region}
	}
	return struct {
		UserName          string
		AccessKeyLastUsed lastUsed
	}{k.owner.asNamed, used}, nil
}

func noSuchEntity(format string, args ...any) error {
	return &apiError{status: http.StatusNotFound, code: "NoSuchEntity", message: fmt.Sprintf(format, args...)}
}

func limitExceeded(format string, args ...any) error {
	return &apiError{status: http.StatusConflict, code: "LimitExceeded", message: fmt.Sprintf(format, args...)}
}

// iamInvalid is the error for what breaks the rules of a single member of the
// input, iamInvalidInput the one for what IAM finds wrong beyond them.
func iamInvalid(format string, args ...any) error {
	return &apiError{code: "ValidationError", message: fmt.Sprintf(format, args...)}
}

func iamInvalidInput(message string) error {
	return &apiError{code: "InvalidInput", message: message}
}
