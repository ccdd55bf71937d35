package redis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// node is a login at one server.
type node struct {
	*client
	login database.Login

	state
}

// state is what a server has of a user, and of itself.
type state struct {
	hashes      []string          // of the passwords it accepts
	masterAuth  rotators.Secret   // what it logs in with to a primary, if it does so as this user
	requirePass rotators.Secret   // the old form of the password of the user default, if this is that
	aclFile     bool              // users are stored in a file of their own
	info        map[string]string // what INFO says
}

// own tells whether something of the user's stands in the configuration file.
func (s *state) own() bool { return !s.masterAuth.IsZero() || !s.requirePass.IsZero() }

// hash is how Redis keeps a password.
func hash(password rotators.Secret) string {
	sum := sha256.Sum256([]byte(password.Reveal()))
	return hex.EncodeToString(sum[:])
}

// look reads the state of a user. Its errors say why the user cannot be changed.
func (n *node) look(ctx context.Context, user string) error {
	answers, err := n.do(ctx, []string{"INFO"}, []string{"ACL", "GETUSER", user}, []string{"ACL", "LIST"},
		[]string{"CONFIG", "GET", "aclfile"}, []string{"CONFIG", "GET", "masteruser"},
		[]string{"CONFIG", "GET", "masterauth"}, []string{"CONFIG", "GET", "requirepass"})
	if err != nil {
		return n.explain(ctx, err, "reading the user and the configuration")
	}
	info, isText := answers[0].(string)
	list, isList := textsOf(answers[2])
	config, isConfig := map[string]string{}, true
	for _, answer := range answers[3:] {
		pair, ok := textsOf(answer)
		if ok && len(pair) == 2 {
			config[pair[0]] = pair[1]
		}
		isConfig = isConfig && ok && (len(pair) == 0 || len(pair) == 2)
	}
	getUser, isUser := answers[1].([]any)
	switch {
	case answers[1] == nil:
		return rotators.Permanent(fmt.Errorf("there is no user %q at %s: make it, with the rights it is to have", user, n))
	case !isText || !isList || !isConfig || !isUser:
		return n.explain(ctx, errStrange, "reading the user and the configuration")
	}

	flags, hashes := readUser(getUser)
	if slices.Contains(flags, "nopass") {
		return rotators.Permanent(fmt.Errorf("the user %q at %s logs in with any password or none (nopass), so a login proves nothing: give it one by ACL SETUSER %s resetpass >PASSWORD, and put it into the value", user, n, user))
	}
	n.state = state{hashes: hashes, aclFile: config["aclfile"] != "", info: map[string]string{}}
	for line := range strings.Lines(info) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), ":")
		n.info[name] = text
	}
	master := config["masteruser"]
	if master == user || master == "" && user == "default" {
		n.masterAuth = rotators.NewSecret(config["masterauth"])
	}
	if user == "default" {
		n.requirePass = rotators.NewSecret(config["requirepass"])
	}

	if n.info["config_file"] == "" && (!n.aclFile || n.own()) {
		return rotators.Permanent(fmt.Errorf("%s was started without a configuration file, so the new password would be lost when it restarts, and nothing was changed: start it with a file that it may write, with \"aclfile\" in it or without", n))
	}
	if !n.aclFile {
		for _, rules := range list {
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

// textsOf returns the elements of an array, and whether all of them are texts.
func textsOf(answer any) (all []string, ok bool) {
	list, ok := answer.([]any)
	for _, element := range list {
		text, isText := element.(string)
		all, ok = append(all, text), ok && isText
	}
	return all, ok
}

// run sends one command whose answer says nothing but whether it was carried out.
func (n *node) run(ctx context.Context, command ...string) error {
	answers, err := n.do(ctx, command)
	if err == nil && answers[0] != "OK" {
		return errStrange
	}
	return err
}

// readUser reads flags and password hashes from what ACL GETUSER says.
func readUser(list []any) (flags, hashes []string) {
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
	command := []string{"ACL", "SETUSER", user, "resetpass"}
	for _, h := range hashes {
		command = append(command, "#"+h)
	}
	return n.explain(ctx, curt(n.run(ctx, command...)), "ACL SETUSER")
}

// configure sets a parameter to a password.
func (n *node) configure(ctx context.Context, name string, password rotators.Secret) error {
	return n.explain(ctx, curt(n.run(ctx, "CONFIG", "SET", name, password.Reveal())), "CONFIG SET "+name)
}

// save has the server store its users, and its configuration where that holds
// something of the user's.
func (n *node) save(ctx context.Context) error {
	if n.aclFile {
		if err := n.run(ctx, "ACL", "SAVE"); err != nil {
			return n.explain(ctx, err, "ACL SAVE, without which the change would be lost at a restart,")
		}
		if !n.own() {
			return nil
		}
	}
	return n.explain(ctx, n.run(ctx, "CONFIG", "REWRITE"), "CONFIG REWRITE, without which the change would be lost at a restart,")
}

// knownNodes is how many nodes a server's cluster has; 1 if it is in none.
func (n *node) knownNodes(ctx context.Context) (int, error) {
	if n.info["cluster_enabled"] != "1" {
		return 1, nil
	}
	answers, err := n.do(ctx, []string{"CLUSTER", "INFO"})
	if err != nil {
		return 0, n.explain(ctx, err, "CLUSTER INFO")
	}
	text, ok := answers[0].(string)
	if !ok {
		return 0, n.explain(ctx, errStrange, "CLUSTER INFO")
	}
	known := 1
	for line := range strings.Lines(text) {
		_, _ = fmt.Sscanf(line, "cluster_known_nodes:%d", &known)
	}
	return known, nil
}

// String says which server it is.
func (n *node) String() string { return server(n.login) }
