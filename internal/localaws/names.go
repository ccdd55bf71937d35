package localaws

import (
	"encoding/base64"
	"iter"
	"math/bits"
	"slices"
	"strings"
)

// names lists what there is, in order. Adding costs nothing: the order is made
// when somebody reads. A name that is gone stays, so readers look it up.
type names struct {
	sorted []string
	added  []string // since the order was made
}

func (n *names) add(name string) { n.added = append(n.added, name) }

// after gives every name that comes after start.
func (n *names) after(start string) iter.Seq[string] {
	if len(n.added) > 0 {
		slices.Sort(n.added)
		n.sorted = merge(n.sorted, n.added)
		n.added = nil
	}
	i, found := slices.BinarySearch(n.sorted, start)
	if found {
		i++
	}
	return slices.Values(n.sorted[i:])
}

// merge makes one list of two in order, and leaves out what is there twice.
func merge(a, b []string) []string {
	merged := make([]string, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			merged, a = append(merged, a[0]), a[1:]
		} else {
			merged, b = append(merged, b[0]), b[1:]
		}
	}
	return slices.Compact(append(append(merged, a...), b...))
}

// bestEffort makes a page of a list shorter, as AWS says it may be: "between zero
// and the value of MaxResults", with more to come. Here the 1st, 4th, 16th, ...
// page of an operation is empty and the 2nd, 8th, 32nd, ... half full, so that
// whoever stops at a short page is caught and long lists cost few calls more.
func (s *Server) bestEffort(operation string, size int) int {
	s.pages[operation]++
	n := s.pages[operation]
	switch {
	case n&(n-1) != 0: // no power of two
		return size
	case bits.TrailingZeros(uint(n))%2 == 0:
		return 0
	default:
		return size / 2
	}
}

// cut takes one page out of a list: size entries, and the token of the next page
// or "" if there are no more. start is where the list began, name tells where an
// entry stands.
func cut[E any](list iter.Seq[E], size int, start string, name func(E) string) (entries []E, next string) {
	entries = []E{}
	for e := range list {
		if len(entries) == size {
			return entries, pageToken(start)
		}
		entries, start = append(entries, e), name(e)
	}
	return entries, ""
}

// A page token tells the name after which the page begins, so that what is made
// or deleted meanwhile makes nobody miss an entry.

func pageToken(name string) string { return base64.URLEncoding.EncodeToString([]byte(">" + name)) }

func parsePageToken(token string) (name string, ok bool) {
	if token == "" {
		return "", true
	}
	b, err := base64.URLEncoding.DecodeString(token)
	name, ok = strings.CutPrefix(string(b), ">")
	return name, ok && err == nil
}
