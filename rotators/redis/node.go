package redis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// node is a login at one server.
type node struct {
	login  database.Login
	wire   *bounded.Conn // under TLS, if there is any
	guard  *guard        // above TLS
	client *redis.Client
	conn   *redis.Conn
	in     bool // the server has taken the login

	state
}

// do runs f, which uses the driver, until ctx ends. A server's errors come out as
// serverErrors. After any other the connection is over: what comes next might be half of
// an answer.
func (n *node) do(ctx context.Context, f func() error) error {
	err := n.wire.Do(ctx, func() (err error) {
		defer func() {
			if recover() != nil {
				err = errStrange
			}
		}()
		return f()
	})
	if err == nil || errors.Is(err, redis.Nil) {
		return err
	}
	if said := redis.Error(nil); errors.As(err, &said) {
		return serverError(said.Error())
	}
	_ = n.wire.Close()
	switch {
	case n.guard.broken != nil:
		return n.guard.broken
	case n.wire.Spent():
		return bounded.ErrTooMuch
	case strings.Contains(err.Error(), "redis: "): // the driver's own, with what it could not read
		return errStrange
	}
	return err
}

// accepted is the error of a command that a server answers with OK.
func accepted(answer *redis.StatusCmd) error {
	text, err := answer.Result()
	if err == nil && text != "OK" {
		err = errStrange
	}
	return err
}

// state is what a server has of a user, and of itself.
type state struct {
	hashes      []string          // of the passwords it accepts
	masterAuth  rotators.Secret   // what it logs in with to a primary, if it does so as this user
	requirePass rotators.Secret   // the old form of the password of the user default, if this is that
	aclFile     bool              // users are stored in a file of their own
	info        map[string]string // what INFO says under infoNames
}

// infoNames are the names that are read of INFO.
var infoNames = []string{"role", "run_id", "config_file", "cluster_enabled", "connected_slaves", "master_host", "master_port"}

// own tells whether something of the user's stands in the configuration file.
func (s *state) own() bool { return !s.masterAuth.IsZero() || !s.requirePass.IsZero() }

// hash is how Redis keeps a password.
func hash(password rotators.Secret) string {
	sum := sha256.Sum256([]byte(password.Reveal()))
	return hex.EncodeToString(sum[:])
}

// look reads the state of a user. Its errors say why the user cannot be changed.
func (n *node) look(ctx context.Context, user string) error {
	var (
		info    *redis.StringCmd
		getUser *redis.Cmd
		list    *redis.StringSliceCmd
		config  = map[string]*redis.MapStringStringCmd{"aclfile": nil, "masteruser": nil, "masterauth": nil, "requirepass": nil}
	)
	err := n.do(ctx, func() error {
		_, err := n.conn.Pipelined(ctx, func(p redis.Pipeliner) error {
			info = p.Info(ctx)
			getUser = p.Do(ctx, "ACL", "GETUSER", user)
			list = p.ACLList(ctx)
			for _, name := range []string{"aclfile", "masteruser", "masterauth", "requirepass"} {
				config[name] = p.ConfigGet(ctx, name)
			}
			return nil
		})
		return err
	})
	if errors.Is(err, redis.Nil) {
		return rotators.Permanent(fmt.Errorf("there is no user %q at %s: make it, with the rights it is to have", user, n))
	}
	if err != nil {
		return n.explain(ctx, err, "reading the user and the configuration")
	}
	value := func(name string) string {
		for _, v := range config[name].Val() {
			return v
		}
		return ""
	}

	isUser, ok := getUser.Val().([]any)
	if !ok || len(info.Val()) > maxInfo {
		return n.explain(ctx, errStrange, "reading the user and the configuration")
	}
	flags, hashes := parseUser(isUser)
	if slices.Contains(flags, "nopass") {
		return rotators.Permanent(fmt.Errorf("the user %q at %s logs in with any password or none (nopass), so a login proves nothing: give it one by ACL SETUSER %s resetpass >PASSWORD, and put it into the value", user, n, user))
	}
	n.state = state{hashes: hashes, aclFile: value("aclfile") != "", info: map[string]string{}}
	for line := range strings.Lines(info.Val()) {
		if name, text, _ := strings.Cut(strings.TrimSpace(line), ":"); slices.Contains(infoNames, name) {
			n.info[name] = text
		}
	}
	master := value("masteruser")
	if master == user || master == "" && user == "default" {
		n.masterAuth = rotators.NewSecret(value("masterauth"))
	}
	if user == "default" {
		n.requirePass = rotators.NewSecret(value("requirepass"))
	}

	if n.info["config_file"] == "" && (!n.aclFile || n.own()) {
		return rotators.Permanent(fmt.Errorf("%s was started without a configuration file, so the new password would be lost when it restarts, and nothing was changed: start it with a file that it may write, with \"aclfile\" in it or without", n))
	}
	if !n.aclFile {
		for _, rules := range list.Val() {
			// Redis writes these lines into the file as they are, and reads them as quoted.
			if strings.ContainsAny(rules, `"'`) {
				_, name, _ := strings.Cut(rules, " ")
				name, _, _ = strings.Cut(name, " ")
				return rotators.Permanent(fmt.Errorf("%s has a user %q, and with a quotation mark in a name or a rule the configuration file that CONFIG REWRITE writes keeps Redis from starting, so nothing was changed: have it store users in an ACL file (\"aclfile\")", n, bounded.Text(name)))
			}
		}
	}
	return nil
}

// readUser reads the flags and password hashes of a user, who may not exist.
func (n *node) readUser(ctx context.Context, user string) (flags, hashes []string, err error) {
	var said any
	err = n.do(ctx, func() (err error) {
		said, err = n.conn.Do(ctx, "ACL", "GETUSER", user).Result()
		return err
	})
	if errors.Is(err, redis.Nil) {
		return nil, nil, nil
	}
	is, ok := said.([]any)
	if err == nil && !ok {
		err = errStrange
	}
	if err != nil {
		return nil, nil, n.explain(ctx, err, "ACL GETUSER")
	}
	flags, hashes = parseUser(is)
	return flags, hashes, nil
}

// parseUser reads flags and password hashes from what ACL GETUSER says.
func parseUser(list []any) (flags, hashes []string) {
	for i := 0; i+1 < len(list); i += 2 {
		texts, _ := list[i+1].([]any)
		for _, text := range texts {
			switch text, _ := text.(string); list[i] {
			case "flags":
				flags = append(flags, text)
			case "passwords":
				hashes = append(hashes, text)
			}
		}
	}
	slices.Sort(hashes)
	return flags, hashes
}

// accept has the server take exactly the passwords with these hashes for a user.
// It does so in one command, which is applied as a whole, so that no login falls
// between taking away and adding.
func (n *node) accept(ctx context.Context, user string, hashes []string) error {
	rules := []string{"resetpass"}
	for _, h := range hashes {
		rules = append(rules, "#"+h)
	}
	err := n.do(ctx, func() error { return accepted(n.conn.ACLSetUser(ctx, user, rules...)) })
	return n.explain(ctx, curt(err), "ACL SETUSER")
}

// configure sets a parameter to a password.
func (n *node) configure(ctx context.Context, name string, password rotators.Secret) error {
	err := n.do(ctx, func() error { return accepted(n.conn.ConfigSet(ctx, name, password.Reveal())) })
	return n.explain(ctx, curt(err), "CONFIG SET "+name)
}

// save has the server store its users, and its configuration where that holds
// something of the user's.
func (n *node) save(ctx context.Context) error {
	if n.aclFile {
		save := redis.NewStatusCmd(ctx, "ACL", "SAVE")
		if err := n.do(ctx, func() error { _ = n.conn.Process(ctx, save); return accepted(save) }); err != nil {
			return n.explain(ctx, err, "ACL SAVE, without which the change would be lost at a restart,")
		}
		if !n.own() {
			return nil
		}
	}
	err := n.do(ctx, func() error { return accepted(n.conn.ConfigRewrite(ctx)) })
	return n.explain(ctx, err, "CONFIG REWRITE, without which the change would be lost at a restart,")
}

// knownNodes is how many nodes a server's cluster has; 1 if it is in none.
func (n *node) knownNodes(ctx context.Context) (int, error) {
	if n.info["cluster_enabled"] != "1" {
		return 1, nil
	}
	var text string
	err := n.do(ctx, func() (err error) {
		text, err = n.conn.ClusterInfo(ctx).Result()
		return err
	})
	if err != nil {
		return 0, n.explain(ctx, err, "CLUSTER INFO")
	}
	known := 1
	for line := range strings.Lines(text) {
		_, _ = fmt.Sscanf(line, "cluster_known_nodes:%d", &known)
	}
	return known, nil
}

// maxGoodbye is how long Close waits for the server to end the login.
const maxGoodbye = time.Second

// Close ends the login, and waits until the server has hung up: else the next login could
// find no connection free where few are allowed (maxclients).
// The context's deadline counts if that is sooner.
func (n *node) Close(ctx context.Context) error {
	deadline := time.Now().Add(maxGoodbye)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if half, ok := n.wire.Conn.(interface{ CloseWrite() error }); ok && n.in {
		_ = n.wire.SetDeadline(deadline)
		if half.CloseWrite() == nil {
			_, _ = io.Copy(io.Discard, n.wire)
		}
	}
	_ = n.conn.Close()
	err := n.client.Close()
	_ = n.wire.Close() // which the driver may not have come to use
	return err
}

// String says which server it is.
func (n *node) String() string { return server(n.login) }
