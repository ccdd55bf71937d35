package rotators

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Limits is what the operator of a function allows, whatever the owners of secrets
// ask for. The zero value allows everything. A rotator asks Limits before it opens a
// connection to a place that a value or a tag names.
type Limits struct {
	// Hosts are the places a function may connect to.
	Hosts Hosts
	// RequireTLS forbids connections without TLS.
	RequireTLS bool
	// DelegatedAdmins forbids every admin whose own tag rekey:admin-for does not name
	// the rotated secret. Lookup enforces it; an admin that Lookup does not read, and
	// that therefore has no such tag, a rotator refuses itself.
	DelegatedAdmins bool
}

// Hosts is a list of host names and networks. The zero value holds every place.
type Hosts struct {
	names    []string // lower case; ".example.com" is every name below example.com
	networks []netip.Prefix
}

// ParseHosts reads a list with commas between the entries. An entry is a host name
// (db.example.com), a pattern for all names below a domain (*.example.com), an address
// (10.1.2.3) or a network (10.0.0.0/8, fd00::/8). An empty text is the zero Hosts.
// Its error names the entry that is none of these.
func ParseHosts(text string) (h Hosts, err error) {
	if strings.TrimSpace(text) == "" {
		return Hosts{}, nil
	}
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.ToLower(strings.TrimSpace(entry))
		if address, err := netip.ParseAddr(entry); err == nil && address.Zone() == "" {
			address = address.Unmap()
			h.networks = append(h.networks, netip.PrefixFrom(address, address.BitLen()))
			continue
		}
		if network, err := netip.ParsePrefix(entry); err == nil && network == network.Masked() && !network.Addr().Is4In6() {
			h.networks = append(h.networks, network)
			continue
		}
		name := strings.TrimSuffix(strings.TrimPrefix(entry, "*"), ".")
		if pattern := strings.HasPrefix(entry, "*"); pattern != strings.HasPrefix(name, ".") || !isName(strings.TrimPrefix(name, ".")) {
			return Hosts{}, fmt.Errorf("%q is no host name, no pattern like *.example.com, no address and no network like 10.0.0.0/8", entry)
		}
		h.names = append(h.names, name)
	}
	return h, nil
}

// isName reports whether text can be a host name: labels of letters, digits, hyphens
// and underscores, the last of which is no number, as that of an address would be.
func isName(text string) bool {
	labels := strings.Split(text, ".")
	for _, label := range labels {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// All reports whether the list holds every place.
func (h Hosts) All() bool { return len(h.names)+len(h.networks) == 0 }

// Name reports whether the list holds a host name, wherever that name leads.
func (h Hosts) Name(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, name := range h.names {
		if below := strings.HasPrefix(name, "."); below && len(host) > len(name) && strings.HasSuffix(host, name) || !below && host == name {
			return true
		}
	}
	return h.All()
}

// Address reports whether the list holds an address.
func (h Hosts) Address(address netip.Addr) bool {
	address = address.Unmap().WithZone("")
	for _, network := range h.networks {
		if network.Contains(address) {
			return true
		}
	}
	return h.All()
}

// ErrHost is wrapped by the error about a place that Hosts does not hold.
var ErrHost = errors.New("this function may not connect to it: its environment variable REKEY_HOSTS lists the host names and networks that it may connect to")
