package database

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/rekeyhq/rekey/rotators"
)

// The strategies, as the tag rekey:strategy spells them.
const (
	singleUser       = "single-user"
	alternatingUsers = "alternating-users"
	overlap          = "overlap"
)

// plan is how a secret is rotated.
type plan struct {
	strategy string // singleUser, alternatingUsers or overlap
	admin    string // whose login makes the change, as the owner wrote it; "": the user's own
}

// plan reads from the settings and the value how a secret is rotated. Its errors
// are permanent.
func (d *rotator) plan(s rotators.Settings, value rotators.Secret) (plan, error) {
	if len(s.Options) > 0 {
		return plan{}, rotators.Permanent(fmt.Errorf("rekey:options has %s, and %s takes no options: remove the tag", strings.Join(slices.Sorted(maps.Keys(s.Options)), ", "), d.Name))
	}
	if s.Variant != "" {
		return plan{}, rotators.Permanent(fmt.Errorf("rekey:rotator asks for the variant %q, and %s has no variants: set rekey:rotator to %s", s.Variant, d.Name, s.Rotator))
	}
	master, err := value.Field("masterarn")
	if err != nil {
		return plan{}, err
	}
	admin := s.Admin
	if admin == "" {
		admin = master.Reveal()
	}
	if strings.ContainsFunc(admin, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return plan{}, rotators.Permanent(errors.New("the field \"masterarn\" holds characters that are in no ARN and no name: correct it"))
	}

	switch s.Strategy {
	case "", alternatingUsers:
		if d.Nodes && (admin != "" || s.Strategy != "") {
			return plan{}, rotators.Permanent(fmt.Errorf("%s has no alternating users: set rekey:strategy to overlap, or to single-user", d.Name))
		}
		if admin != "" {
			return plan{alternatingUsers, admin}, nil
		}
		if s.Strategy == "" {
			return plan{singleUser, ""}, nil
		}
		return plan{}, rotators.Permanent(errors.New("with alternating users one user cannot make the other: name an admin in the tag rekey:admin, or in the field \"masterarn\""))
	case singleUser:
		// The field is there for other strategies, and AWS's templates for one
		// user do not read it. Only the tag says that an admin is meant.
		return plan{singleUser, s.Admin}, nil
	case overlap:
		if !d.Overlap {
			return plan{}, rotators.Permanent(fmt.Errorf("a %s user has one password, so two cannot overlap: set rekey:strategy to alternating-users", d.Name))
		}
		return plan{overlap, admin}, nil
	default:
		return plan{}, rotators.Permanent(fmt.Errorf("there is no strategy %q: set rekey:strategy to single-user, alternating-users or, where a user can have two passwords, overlap", s.Strategy))
	}
}

// suffix makes a base user's name that of its twin. It is the one that AWS's
// templates use.
const suffix = "_clone"

// twins tells whether two names are those of a base user and its twin.
func twins(a, b string) bool { return a != b && (a == base(b) || b == base(a)) }

// base is the one of a pair of users that is not the twin.
func base(user string) string {
	if name, ok := strings.CutSuffix(user, suffix); ok && name != "" {
		return name
	}
	return user
}

// next is the user that the value after one with this user is for.
func (d *rotator) next(p plan, user string) (string, error) {
	if p.strategy != alternatingUsers {
		return user, nil
	}
	if b := base(user); b != user {
		return b, nil
	}
	twin := user + suffix
	if len(twin) > d.MaxUser {
		return "", rotators.Permanent(fmt.Errorf("the second of two alternating users would be %q, which is %d bytes long, and %s has no user name longer than %d: rename the user, or set rekey:strategy to single-user", twin, len(twin), d.Name, d.MaxUser))
	}
	return twin, nil
}
