package localaws

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Limits of IAM's ("IAM and AWS STS quotas").
const (
	maxUserTags = 50
	maxTagKey   = 128 // characters
	maxTagValue = 256
)

// formTags are the tags in a form.
func formTags(in url.Values) (tags []tag) {
	for n := 1; in.Has(fmt.Sprintf("Tags.member.%d.Key", n)); n++ {
		tags = append(tags, tag{in.Get(fmt.Sprintf("Tags.member.%d.Key", n)), in.Get(fmt.Sprintf("Tags.member.%d.Value", n))})
	}
	return tags
}

func userTagList(tags map[string]tag) []tag {
	return slices.SortedFunc(maps.Values(tags), func(a, b tag) int { return cmp.Compare(a.Key, b.Key) })
}

// addUserTags returns old, which it leaves alone, with tags added or changed. The
// keys of a user's tags are not told apart by case: the later one replaces the
// former.
func addUserTags(old map[string]tag, tags []tag) (map[string]tag, error) {
	if len(tags) > maxUserTags {
		return nil, iamInvalid("1 validation error detected: Value at 'tags' failed to satisfy constraint: Member must have length less than or equal to %d", maxUserTags)
	}
	added := map[string]tag{}
	for _, t := range tags {
		key := strings.ToLower(t.Key)
		switch length := len([]rune(t.Key)); {
		case length < 1 || length > maxTagKey || len([]rune(t.Value)) > maxTagValue:
			return nil, iamInvalid("the key of a tag must be 1 to %d characters long and its value at most %d", maxTagKey, maxTagValue)
		case !tagText.MatchString(t.Key) || !tagText.MatchString(t.Value):
			return nil, iamInvalid("the key and the value of a tag may hold letters, digits, spaces and _ . : / = + - @")
		case strings.HasPrefix(key, "aws:"):
			return nil, iamInvalidInput("the key of a tag must not begin with aws:")
		}
		if _, twice := added[key]; twice {
			return nil, iamInvalidInput("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		added[key] = t
	}
	all := map[string]tag{}
	maps.Copy(all, old)
	maps.Copy(all, added)
	if len(all) > maxUserTags {
		return nil, limitExceeded("The number of tags has reached the maximum limit.")
	}
	return all, nil
}

func (s *Server) tagUser(c call, in url.Values) (any, error) {
	u, err := s.named(c, in)
	if err != nil {
		return nil, err
	}
	all, err := addUserTags(u.tags.value, formTags(in))
	if err == nil {
		u.tags.write(all, c.now, s.config.IAMDelays.Reads)
	}
	return nil, err
}

func (s *Server) untagUser(c call, in url.Values) (any, error) {
	u, err := s.named(c, in)
	if err != nil {
		return nil, err
	}
	left := maps.Clone(u.tags.value)
	for n := 1; in.Has(fmt.Sprintf("TagKeys.member.%d", n)); n++ {
		delete(left, strings.ToLower(in.Get(fmt.Sprintf("TagKeys.member.%d", n))))
	}
	u.tags.write(left, c.now, s.config.IAMDelays.Reads)
	return nil, nil
}

func (s *Server) listUserTags(c call, in url.Values) (any, error) {
	u, err := s.named(c, in)
	if err != nil {
		return nil, err
	}
	list, more, err := iamPage(s, "ListUserTags", in, userTagList(u.tags.look(c.now)), func(t tag) string { return t.Key })
	return struct {
		Tags members[tag]
		listEnd
	}{list, more}, err
}
