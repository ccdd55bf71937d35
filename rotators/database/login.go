package database

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/rotators"
)

// login reads from a value what it takes to log in. A value that names a
// database by an identifier only has no Host yet. Its errors are permanent.
func (e Engine) login(value rotators.Secret) (Login, error) {
	fields := map[string]rotators.Secret{}
	for _, name := range []string{"host", "port", "username", "password", "dbname", "ssl", "sslmode", "dbInstanceIdentifier", "dbClusterIdentifier", "nodes", "engine"} {
		field, err := value.Field(name)
		if err != nil {
			return Login{}, err
		}
		fields[name] = field
	}
	// postgresql+asyncpg is how a library has URLs begin.
	engine, _, _ := strings.Cut(strings.ToLower(fields["engine"].Reveal()), "+")
	if len(e.Engines) > 0 && engine != "" && !slices.Contains(e.Engines, engine) {
		return Login{}, rotators.Permanent(fmt.Errorf("the field \"engine\" names another engine than %s, so its password is not used there: correct it to %s, or the tag rekey:rotator", e.Name, e.Engines[0]))
	}
	// A slash is in no identifier.
	id := fields["dbInstanceIdentifier"].Reveal() + "/" + fields["dbClusterIdentifier"].Reveal()
	if e.Locator == nil || id == "/" || !fields["host"].IsZero() {
		id = ""
	}
	for _, name := range []string{"host", "username", "password"} {
		if name == "host" && id != "" {
			continue
		}
		if fields[name].IsZero() {
			return Login{}, rotators.Permanent(fmt.Errorf("the value has no field %q, without which nobody can log in: add it", name))
		}
	}

	l := Login{
		Host:     fields["host"].Reveal(),
		Port:     e.Port,
		User:     fields["username"].Reveal(),
		Password: fields["password"],
		Database: e.Database,
		id:       id,
	}
	if !isHost(l.Host) {
		return Login{}, rotators.Permanent(fmt.Errorf("the field \"host\" must hold one host name or IP address and nothing else; a port has a field of its own, \"port\""))
	}
	if port := fields["port"]; !port.IsZero() {
		n, err := strconv.ParseUint(port.Reveal(), 10, 16)
		if err != nil || n == 0 {
			return Login{}, rotators.Permanent(fmt.Errorf("the field \"port\" must hold a number from 1 to 65535"))
		}
		l.Port = int(n)
	}
	if len(l.User) > e.MaxUser {
		return Login{}, rotators.Permanent(fmt.Errorf("the user name in the field \"username\" is %d bytes long, and %s has none longer than %d: correct it", len(l.User), e.Name, e.MaxUser))
	}
	if name := fields["dbname"]; !name.IsZero() {
		l.Database = name.Reveal()
	}
	if text := fields["nodes"]; e.Nodes && !text.IsZero() {
		nodes, err := l.readNodes(text.Reveal())
		if err != nil {
			return Login{}, err
		}
		l.Nodes = nodes
	}
	// sslmode is how connection URLs spell it. In an object it is some other
	// program's setting.
	isURL := !strings.HasPrefix(strings.TrimSpace(value.Reveal()), "{")
	l.Plaintext = strings.EqualFold(fields["ssl"].Reveal(), "false") || isURL && fields["sslmode"].Reveal() == "disable"
	return l, nil
}

// readNodes reads the field nodes, a JSON array or a list with commas of hosts
// with or without a port, and returns those that are not the login's own server
// as Login.Nodes has them.
func (l Login) readNodes(text string) (string, error) {
	var list []string
	if json.Unmarshal([]byte(text), &list) != nil {
		list = strings.Split(text, ",")
	}
	own := net.JoinHostPort(strings.ToLower(l.Host), strconv.Itoa(l.Port))
	var nodes []string
	for _, entry := range list {
		host, port := strings.TrimSpace(entry), strconv.Itoa(l.Port)
		if h, p, err := net.SplitHostPort(host); err == nil {
			host, port = h, p
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if host == "" || !isHost(host) || err != nil || n == 0 {
			return "", rotators.Permanent(errors.New("the field \"nodes\" must list host names or IP addresses, each with :port or without, as a JSON array or with commas between"))
		}
		if node := net.JoinHostPort(strings.ToLower(host), port); node != own {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	if len(nodes) > maxNodes {
		return "", rotators.Permanent(fmt.Errorf("the field \"nodes\" lists %d servers beside the one in \"host\", and rekey changes a user on at most %d: rotate fewer servers by this secret", len(nodes), maxNodes))
	}
	return strings.Join(nodes, ","), nil
}

// maxNodes is how many servers a login may be for beside the one at its host. A step logs
// in to each, one after the other, and all share one limit of bytes: of 8 MB that leaves
// 128 KB to each, twice what INFO says and a few hundred users. A cluster of Redis may
// have 1,000 nodes, which is more logins than a step has time for.
const maxNodes = 63

// Servers returns the login once for each server that it is for, the one at Host
// first.
func (l Login) Servers() []Login {
	all := []Login{l}
	for node := range strings.SplitSeq(l.Nodes, ",") {
		host, port, err := net.SplitHostPort(node)
		if err != nil {
			continue // there are none
		}
		n, _ := strconv.Atoi(port) // readNodes wrote it
		all = append(all, l.at(host, n))
	}
	for i := range all {
		all[i].Nodes = ""
	}
	return all
}

// nodesOf are the nodes of this login that another login goes to as well, written as
// Nodes is.
func (l Login) nodesOf(other Login) string {
	known := other.Servers()
	var shared []string
	for _, server := range l.Servers()[1:] {
		if slices.ContainsFunc(known, server.sameServer) {
			shared = append(shared, net.JoinHostPort(server.Host, strconv.Itoa(server.Port)))
		}
	}
	return strings.Join(shared, ",")
}

// maxHost is how many bytes a host name can have (RFC 1035), the dot at the end included.
const maxHost = 254

// isHost reports whether host is one host name or IP address: no list, no address with a
// port, no path of a socket. A name has letters, digits, hyphens and underscores of ASCII
// only, as names in DNS have: what else looks alike, or is alike but for its case, leads
// elsewhere or nowhere.
func isHost(host string) bool {
	if len(host) > maxHost {
		return false
	}
	if address, err := netip.ParseAddr(host); err == nil {
		return address.Zone() == ""
	}
	return !strings.ContainsFunc(host, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.')
	})
}

// entrusts reports whether a password of this login may be sent where another login
// goes: to no server that this login does not go to as well, and not without TLS unless
// this login does without.
func (l Login) entrusts(to Login) bool {
	if l.id != to.id || to.Plaintext && !l.Plaintext {
		return false
	}
	known := l.Servers()
	return !slices.ContainsFunc(to.Servers(), func(server Login) bool { return !slices.ContainsFunc(known, server.sameServer) })
}

// sameServer reports whether two logins go to one server.
func (l Login) sameServer(other Login) bool {
	return sameHost(l.Host, other.Host) && l.Port == other.Port
}

// differs names the first field, other than the password, in which two logins
// differ; "" if there is none.
func (l Login) differs(other Login) string {
	switch {
	case l.User != other.User:
		return "username"
	case l.Host != other.Host:
		return "host"
	case l.id != other.id:
		return "dbInstanceIdentifier\" or \"dbClusterIdentifier"
	case l.Port != other.Port:
		return "port"
	case l.Database != other.Database:
		return "dbname"
	case l.Plaintext != other.Plaintext:
		return "ssl"
	case l.Nodes != other.Nodes:
		return "nodes"
	}
	return ""
}

// at returns the login as one to another server.
func (l Login) at(host string, port int) Login {
	l.Host, l.Port = host, port
	return l
}

// String says whose login it is, for error messages.
func (l Login) String() string {
	if l.Host == "" {
		return fmt.Sprintf("user %q of %q", l.User, strings.Trim(l.id, "/"))
	}
	return fmt.Sprintf("user %q at %s:%d", l.User, l.Host, l.Port)
}
