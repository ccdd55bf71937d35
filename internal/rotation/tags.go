package rotation

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// TagPrefix starts the key of every tag that rekey reads or writes.
const TagPrefix = "rekey:"

// The tags rekey writes itself.
const (
	TagRetire  = TagPrefix + "retire"  // the version to be retired
	TagRetired = TagPrefix + "retired" // the version retired last
	// TagRetiring starts the key of a tag that a run of a function writes for as long as
	// it withdraws a credential. The rest of the key is the run's own, so that no run
	// takes away the tag of another; the value is when the run is over at the latest.
	TagRetiring = TagPrefix + "retiring-"
)

// Tags is what the tags of a secret or parameter say.
type Tags struct {
	Settings rotators.Settings
	// Connection says where a plain-text password is used, as a URL without
	// the password or, if a store found the parts in one place and another, as a
	// JSON object without it; "" for a value that says so itself.
	Connection string
	// Retire names the version whose credential is to be retired; "" for none.
	Retire string
	// RetireAt is when its grace is over; zero: it is. It is written with the order,
	// because who looks for orders does not know the rotators and their graces.
	RetireAt time.Time
	// Paused says that nothing begins by itself: no rotation, and no retirement.
	Paused bool
	// Retired names the version that was retired last; "" for none.
	Retired string
	// Retiring are the runs that withdraw a credential now, by the keys of their tags, and
	// when each is over at the latest. A run that died leaves its tag behind.
	Retiring map[string]time.Time
	// Owners is how many tags there are but for those that rekey writes itself.
	Owners int
}

// maxOwners is how many tags of an owner's leave room for rekey's: AWS allows 50, and rekey
// has two at once.
const maxOwners = 48

// ReadTags decodes tags. Tags outside rekey's prefix are not rekey's business;
// within it, whatever is unknown or malformed is a permanent error that says
// what there is.
func ReadTags(tags map[string]string) (Tags, error) {
	t := Tags{Settings: rotators.Settings{Grace: -1}}
	var problems []error
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if key != TagRetire && key != TagRetired && !strings.HasPrefix(key, TagRetiring) {
			t.Owners++
		}
		name, ours := strings.CutPrefix(key, TagPrefix)
		if !ours {
			continue
		}
		if err := t.read(name, tags[key]); err != nil {
			problems = append(problems, fmt.Errorf("tag %s: %w", key, err))
		}
	}
	return t, rotators.Permanent(errors.Join(problems...))
}

// Written returns the keys and values of rekey's tags, for Attempt.Written.
func Written(tags map[string]string) (texts []string) {
	for key, value := range tags {
		if strings.HasPrefix(key, TagPrefix) {
			texts = append(texts, key, value)
		}
	}
	return texts
}

// RetireOrder is the value of the tag rekey:retire: the version and, if its grace is
// not over at once, when it is.
func (t Tags) RetireOrder() string {
	if t.RetireAt.IsZero() {
		return t.Retire
	}
	return t.Retire + " " + t.RetireAt.UTC().Format(time.RFC3339)
}

// retiring returns when the last of the runs that withdraw a credential is over; the zero
// time if there is none.
func (t Tags) retiring() (end time.Time) {
	for _, at := range t.Retiring {
		if at.After(end) {
			end = at
		}
	}
	return end
}

func (t *Tags) read(name, value string) (err error) {
	if key := TagPrefix + name; strings.HasPrefix(key, TagRetiring) {
		if t.Retiring == nil {
			t.Retiring = map[string]time.Time{}
		}
		if t.Retiring[key], err = time.Parse(time.RFC3339, value); err != nil {
			return fmt.Errorf("%q is no time: rekey writes this tag itself; remove it", value)
		}
		return nil
	}
	switch name {
	case "rotator":
		t.Settings.Rotator, t.Settings.Variant, _ = strings.Cut(value, ":")
		if t.Settings.Rotator == "" {
			return errors.New("is empty: name a rotator, such as postgres")
		}
	case "strategy":
		if !slices.Contains(strategies, value) {
			return fmt.Errorf("%q is no strategy: use one of %s", value, strings.Join(strategies, ", "))
		}
		t.Settings.Strategy = value
	case "admin":
		t.Settings.Admin = value
	case "grace":
		t.Settings.Grace, err = ParsePeriod(value)
	case "password":
		t.Settings.Password, err = parsePassword(value)
	case "options":
		t.Settings.Options, err = parsePairs(value)
	case "connection":
		t.Connection = value
	case "retire":
		var at string
		if t.Retire, at, _ = strings.Cut(value, " "); at != "" {
			if t.RetireAt, err = time.Parse(time.RFC3339, at); err != nil {
				return fmt.Errorf("%q is no time: write the version only, to have it retired at once, or put back what rekey wrote", at)
			}
		}
	case "paused":
		t.Paused = value == "yes" // what else is wrong with it package due says
	case "retired":
		t.Retired = value
	case "admin-for", "every", "window", "seal", "stage":
		// Known, and read by others: the planner, the next retirement, the
		// secrets that name this one as their admin.
	default:
		return fmt.Errorf("there is no such tag: rekey reads %s%s", TagPrefix, strings.Join(tagNames, ", "+TagPrefix))
	}
	return err
}

var (
	strategies = []string{"single-user", "alternating-users", "overlap"}
	tagNames   = []string{
		"rotator", "strategy", "admin", "admin-for", "every", "window", "grace",
		"password", "connection", "options", "seal", "stage", "paused",
	}
)

// ParsePeriod reads a length of time as tags write it: 30d, 12h or 45m.
func ParsePeriod(text string) (time.Duration, error) {
	units := map[byte]time.Duration{'d': 24 * time.Hour, 'h': time.Hour, 'm': time.Minute}
	if text != "" {
		n, err := strconv.ParseUint(text[:len(text)-1], 10, 16)
		if unit := units[text[len(text)-1]]; err == nil && unit != 0 {
			return time.Duration(n) * unit, nil
		}
	}
	return 0, fmt.Errorf("%q is no period: write a whole number and a unit, such as 7d, 12h or 30m", text)
}

// parsePassword reads "length=40 alphabet=alphanumeric".
func parsePassword(text string) (p rotators.PasswordPolicy, err error) {
	pairs, err := parsePairs(text)
	if err != nil {
		return p, err
	}
	for key, value := range pairs {
		switch key {
		case "length":
			if p.Length, err = strconv.Atoi(value); err != nil || p.Length < 1 || p.Length > rotators.MaxPasswordLength {
				return p, fmt.Errorf("length %q is no number of characters from 1 to %d", value, rotators.MaxPasswordLength)
			}
		case "alphabet":
			if value != "alphanumeric" {
				return p, fmt.Errorf("there is no alphabet %q: the only one to ask for is alphanumeric; without it, the target's own safe set is used", value)
			}
			p.Only = alphanumeric
		default:
			return p, fmt.Errorf("there is no %q: use length and alphabet", key)
		}
	}
	return p, nil
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// parsePairs reads "alg=ES256 keyring=yes".
func parsePairs(text string) (map[string]string, error) {
	pairs := map[string]string{}
	for word := range strings.FieldsSeq(text) {
		key, value, ok := strings.Cut(word, "=")
		if !ok || key == "" || value == "" {
			return nil, fmt.Errorf("%q is not of the form name=value; separate several by spaces", word)
		}
		if _, twice := pairs[key]; twice {
			return nil, fmt.Errorf("%q is set twice", key)
		}
		pairs[key] = value
	}
	return pairs, nil
}

// covers tells whether a rekey:admin-for tag, a list of names and of path
// prefixes that end in a slash, separated by spaces, covers a secret or
// parameter. A parameter's name stands there as in rekey:admin, after "ssm:": a
// secret and a parameter may have the same name, and not the same writers.
func covers(list, id string) bool {
	name := nameOf(id)
	if strings.Contains(id, ":parameter/") {
		name = "ssm:" + name
	}
	return slices.ContainsFunc(strings.Fields(list), func(entry string) bool {
		return entry == name || entry == id || strings.HasSuffix(entry, "/") && strings.HasPrefix(name, entry)
	})
}

// nameOf is the name in the ARN of a secret, which ends in a hyphen and six
// characters that are not of the name, or of a parameter, whose name starts
// with a slash if it holds one.
func nameOf(id string) string {
	if _, name, ok := strings.Cut(id, ":secret:"); ok {
		return name[:max(0, len(name)-len("-AbCdEf"))]
	}
	if _, name, ok := strings.Cut(id, ":parameter/"); ok {
		if strings.Contains(name, "/") {
			return "/" + name
		}
		return name
	}
	return id
}
