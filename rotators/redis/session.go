package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// undoTime is how long undoing a change that failed may take on all servers,
// whatever is left of the caller's time.
const undoTime = 5 * time.Second

// session is a login at every server that a value names.
type session struct {
	nodes  []*node
	before map[string][]state // of each node, by user, when this session first changed the user
}

// SetPasswords has every server accept exactly these passwords, and store that. It
// goes on where an earlier run broke off: what it finds done it does not do again,
// but has it stored.
func (s *session) SetPasswords(ctx context.Context, user string, accept ...rotators.Secret) error {
	if len(accept) == 0 {
		return rotators.Permanent(errors.New("without a password nobody could log in"))
	}
	var want []string
	for _, password := range accept {
		want = append(want, hash(password))
	}
	slices.Sort(want)
	c := &change{session: s, user: user, newest: accept[0], want: slices.Compact(want)}
	for _, n := range s.nodes {
		if err := n.look(ctx, user); err != nil {
			return err
		}
		c.before = append(c.before, n.state)
	}
	if err := s.complete(ctx); err != nil {
		return err
	}
	// What cannot be stored must not be begun.
	for _, n := range s.nodes {
		if err := n.save(ctx); err != nil {
			return err
		}
	}
	if s.before == nil {
		s.before = map[string][]state{}
	}
	if s.before[user] == nil {
		s.before[user] = c.before
	}
	if err := c.make(ctx); err != nil {
		return c.undo(ctx, err)
	}
	return nil
}

var _ database.Recorder = (*session)(nil)

// Record implements database.Recorder. A password counts as stored if all servers have it,
// and as not stored if none has.
func (s *session) Record(ctx context.Context, user string) (record database.Record, err error) {
	servers := map[string]int{} // that have a password, by its hash
	for _, n := range s.nodes {
		flags, hashes, err := n.readUser(ctx, user)
		if err != nil {
			return record, err
		}
		if slices.Contains(flags, "off") {
			record.Barred = fmt.Sprintf("is off at %s (ACL SETUSER .. off)", n)
		}
		for _, h := range hashes {
			servers[h]++
		}
	}
	record.Has = func(password rotators.Secret) (has, known bool) {
		count := servers[hash(password)]
		return count == len(s.nodes), count == len(s.nodes) || count == 0
	}
	return record, nil
}

// PutBack implements database.Recorder.
func (s *session) PutBack(ctx context.Context, user string) error {
	before, ok := s.before[user]
	if !ok {
		return database.ErrUnread
	}
	c := &change{session: s, user: user}
	var errs []error
	for i, n := range s.nodes {
		n.hashes = []string{""} // none that the server can have: somebody may have changed them since
		errs = append(errs, c.undoNode(ctx, n, before[i], nil))
	}
	return errors.Join(errs...)
}

// complete refuses a value that leaves out servers on which readers may land.
func (s *session) complete(ctx context.Context) error {
	named := map[string]*node{} // by run id: two names may be one server's
	for _, n := range s.nodes {
		named[n.info["run_id"]] = n
	}
	replicas, connected := 0, 0
	for _, n := range named {
		if n.info["role"] == "slave" {
			replicas++
		}
		count, _ := strconv.Atoi(n.info["connected_slaves"]) // a number always
		connected += count
		known, err := n.knownNodes(ctx)
		if err != nil {
			return err
		}
		if known > len(named) {
			return rotators.Permanent(fmt.Errorf("%s is in a cluster of %d nodes, and the value names %d: every node has users of its own, so list all in the field \"nodes\"", n, known, len(named)))
		}
	}
	if connected > replicas {
		return rotators.Permanent(fmt.Errorf("the servers that the value names have %d replicas, of which it names %d: every server has users of its own, and a replica that is left out would go on accepting the old password only, so list all in the field \"nodes\"", connected, replicas))
	}
	if replicas == len(named) {
		n := s.nodes[0]
		return rotators.Permanent(fmt.Errorf("%s is a replica of %s:%s, and the value does not name that: every server has users of its own, so list all in the field \"nodes\"", n, bounded.Text(n.info["master_host"]), bounded.Text(n.info["master_port"])))
	}
	return nil
}

// Close ends the session.
func (s *session) Close(ctx context.Context) error {
	var errs []error
	for _, n := range s.nodes {
		errs = append(errs, n.Close(ctx))
	}
	return errors.Join(errs...)
}

// change is one SetPasswords under way.
type change struct {
	*session
	user   string
	newest rotators.Secret
	want   []string // hashes
	before []state  // of each node
}

// make has all servers accept the new passwords beside the old ones, then log in
// to each other with the newest, and then accept the new passwords only. Each
// server stores each of it before the next is asked, so that also after a restart
// there is a password that all accept.
func (c *change) make(ctx context.Context) error {
	for _, n := range c.nodes {
		if err := c.set(ctx, n, union(n.hashes, c.want)); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		// A password of no server here is for a primary elsewhere.
		if n.masterAuth.IsZero() || n.masterAuth.Equal(c.newest) || !c.known(hash(n.masterAuth)) {
			continue
		}
		if err := n.configure(ctx, "masterauth", c.newest); err != nil {
			return err
		}
		n.masterAuth = c.newest
		if err := n.save(ctx); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		if err := c.set(ctx, n, c.want); err != nil {
			return err
		}
		// Setting requirepass leaves the user default this one password.
		if n.requirePass.IsZero() || n.requirePass.Equal(c.newest) || len(c.want) > 1 {
			continue
		}
		if err := n.configure(ctx, "requirepass", c.newest); err != nil {
			return err
		}
		n.requirePass = c.newest
		if err := n.save(ctx); err != nil {
			return err
		}
	}
	return nil
}

// set has a server accept exactly some passwords, and store that.
func (c *change) set(ctx context.Context, n *node, hashes []string) error {
	if slices.Equal(n.hashes, hashes) {
		return nil
	}
	if err := n.accept(ctx, c.user, hashes); err != nil {
		return err
	}
	n.hashes = hashes
	return n.save(ctx)
}

// known tells whether a server had a password with this hash.
func (c *change) known(hash string) bool {
	return slices.ContainsFunc(c.before, func(s state) bool { return slices.Contains(s.hashes, hash) })
}

// undo puts back what was changed, because of err, and returns what SetPasswords is
// to return. Where a server has answered, things are as they were. Where one has
// not, it may have let go of the old passwords, so the others go on accepting the
// new ones too, until the change is made again.
func (c *change) undo(ctx context.Context, err error) error {
	var keep []string
	if !isAnswer(err) {
		keep = c.want
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	var failed []string
	for i, n := range c.nodes {
		if undone := c.undoNode(ctx, n, c.before[i], keep); undone != nil {
			failed = append(failed, undone.Error())
		}
	}
	if len(failed) > 0 && isAnswer(err) {
		return fmt.Errorf("%w; and putting back what was changed FAILED, so rotate again at once (%s)", err, strings.Join(failed, "; "))
	}
	return err
}

func (c *change) undoNode(ctx context.Context, n *node, before state, keep []string) error {
	hashes := union(before.hashes, keep)
	if slices.Equal(n.hashes, hashes) && before.masterAuth.Equal(n.masterAuth) {
		return nil
	}
	if !before.requirePass.Equal(n.requirePass) {
		if err := n.configure(ctx, "requirepass", before.requirePass); err != nil {
			return err
		}
	}
	if err := n.accept(ctx, c.user, hashes); err != nil {
		return err
	}
	if !before.masterAuth.Equal(n.masterAuth) {
		if err := n.configure(ctx, "masterauth", before.masterAuth); err != nil {
			return err
		}
	}
	return n.save(ctx)
}

// union is what stands in either list, in order.
func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}
