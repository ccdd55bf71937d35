package rotation_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/memstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// leapEve is an instant before a leap day: nothing in these tests goes by the machine's clock.
var leapEve = edge(1)

// fencing is a store in which something happens while a run writes its fence.
type fencing struct {
	*memstore.Store
	meanwhile func()
	fences    int
}

func (s *fencing) Fence(ctx context.Context, a *rotation.Attempt, key string, until time.Time) error {
	s.fences++
	if s.meanwhile != nil {
		s.meanwhile()
	}
	return s.Store.Fence(ctx, a, key, until)
}

// graced is a store of a rotation that has ended at leapEve, and whose older version is in
// its grace for an hour. The spy's Test refuses the older value alone.
func graced(t *testing.T, r *retiringSpy, more map[string]string) *fencing {
	t.Helper()
	tags := map[string]string{"rekey:grace": "1h"}
	maps.Copy(tags, more)
	store := &fencing{Store: memstore.New(rotators.NewSecret(first), tags)}
	store.Begin(token)
	if err := at(leapEve, r).Run(t.Context(), store, memstore.ID, token); err != nil {
		t.Fatal(err)
	}
	r.calls = nil
	r.test = func(r rotators.Rotation) error {
		if r.Pending.Reveal() == first {
			return rotators.Refused(errors.New("wrong password"))
		}
		return nil
	}
	return store
}

// at is an engine with a clock that stands.
func at(now time.Time, r rotators.Rotator) *rotation.Engine {
	e := engine(r)
	e.Now = func() time.Time { return now }
	return e
}

// A rotation begins, or has begun and ended, or the order is another one, by the time that the
// fence of a retirement stands: what the retirement has read is not what is there, so the
// retirement changes nothing.
func TestARetirementGoesByWhatIsThereBehindItsFence(t *testing.T) {
	const third = `{"engine":"spy","host":"db.example.com","username":"app","password":"third-password"}`
	for name, meanwhile := range map[string]func(*memstore.Store){
		"a rotation began":             func(s *memstore.Store) { s.Begin(other) },
		"somebody stored a value":      func(s *memstore.Store) { s.Put(other, rotators.NewSecret(third)) },
		"another version is to retire": func(s *memstore.Store) { s.Tag(rotation.TagRetire, other) },
		"the order was taken off":      func(s *memstore.Store) { s.Tag(rotation.TagRetire, "") },
	} {
		t.Run(name, func(t *testing.T) {
			r := &retiringSpy{}
			store := graced(t, r, nil)
			store.meanwhile = func() { meanwhile(store.Store) }
			var log bytes.Buffer
			e := at(leapEve.Add(time.Hour), r)
			e.Log = slog.New(slog.NewJSONHandler(&log, nil))
			if err := e.Retire(t.Context(), store, memstore.ID, memstore.First); err != nil {
				t.Fatal(err)
			}
			if store.fences != 1 || len(r.calls) > 0 || store.Tags()[rotation.TagRetired] != "" {
				t.Errorf("behind %d fences the rotator was asked %v, and the tags are %v", store.fences, r.calls, store.Tags())
			}
			if !strings.Contains(log.String(), "a rotation began meanwhile, so version "+memstore.First) {
				t.Errorf("the log is %s", log.String())
			}
			if left := fences(store.Store); len(left) > 0 {
				t.Errorf("left over are %v", left)
			}
		})
	}
}

func fences(s *memstore.Store) (keys []string) {
	for key := range s.Tags() {
		if strings.HasPrefix(key, rotation.TagRetiring) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// The same holds for createSecret, which cuts a grace short: another run has stored the value
// by the time that the fence stands.
func TestACreateThatCutsAGraceShortGoesByWhatIsThereBehindItsFence(t *testing.T) {
	r := &retiringSpy{}
	store := graced(t, r, nil)
	store.Begin(other)
	store.meanwhile = func() {
		if err := store.PutPending(t.Context(), &rotation.Attempt{Token: other}, rotators.NewSecret("of another run")); err != nil {
			t.Error(err)
		}
	}
	if err := at(leapEve, r).Step(t.Context(), store, rotation.CreateSecret, memstore.ID, other); err != nil {
		t.Fatal(err)
	}
	if store.fences != 1 || len(r.calls) > 0 {
		t.Errorf("behind %d fences the rotator was asked %v", store.fences, r.calls)
	}
}

// A key that was minted is revoked by its id, so no rotation waits for that.
func TestTheRetirementOfAMintedKeyHasNoFence(t *testing.T) {
	r := &minting{}
	store := graced(t, &r.retiringSpy, nil)
	store.Tag("rekey:rotator", "spy")
	store.fences = 0
	if err := at(leapEve.Add(time.Hour), r).Retire(t.Context(), store, memstore.ID, memstore.First); err != nil {
		t.Fatal(err)
	}
	if store.fences != 0 || !slices.Contains(r.calls, "Retire") {
		t.Errorf("behind %d fences the rotator was asked %v", store.fences, r.calls)
	}
}

// A retirement clears away the fences of runs that died, a minute after their end: clocks
// differ. Those of runs that may be alive stay.
func TestFencesOfRunsThatDied(t *testing.T) {
	now := leapEve.Add(time.Hour)
	more := map[string]string{}
	for name, end := range map[string]time.Time{
		"dead": now.Add(-61 * time.Second), "long-dead": now.AddDate(0, -1, 0), "perhaps": now.Add(-30 * time.Second), "alive": now.Add(time.Minute),
	} {
		more[rotation.TagRetiring+name] = end.Format(time.RFC3339)
	}
	r := &retiringSpy{}
	store := graced(t, r, nil)
	for key, value := range more {
		store.Tag(key, value)
	}
	if err := at(now, r).Retire(t.Context(), store, memstore.ID, memstore.First); err != nil {
		t.Fatal(err)
	}
	if left, want := fences(store.Store), []string{rotation.TagRetiring + "alive", rotation.TagRetiring + "perhaps"}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}

// A rotation waits for the last of several retirements.
func TestARotationWaitsForTheLastRetirement(t *testing.T) {
	tags, last := map[string]string{}, leapEve.Add(10*time.Minute).Truncate(time.Second)
	for n := range 16 { // in no order
		tags[fmt.Sprint(rotation.TagRetiring, n)] = last.Add(-time.Duration(n*7%16) * time.Minute).Format(time.RFC3339)
	}
	for range 8 {
		store := memstore.New(rotators.NewSecret(first), tags)
		store.Begin(token)
		err := at(leapEve, &retiringSpy{}).Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
		if err == nil || !strings.Contains(err.Error(), "over at "+last.Format(time.RFC3339)) {
			t.Fatalf("got %v, want the end at %s", err, last)
		}
	}
}

// An owner's tags leave room for the two that rekey writes for a retirement. Where nothing
// is retired there is no need of room, and what rekey has written counts for none.
func TestRoomForTags(t *testing.T) {
	for name, c := range map[string]struct {
		owners  int // with rekey:grace
		retires bool
		refused bool
	}{
		"room":                  {48, true, false},
		"no room":               {49, true, true},
		"nothing to be retired": {50, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			tags := map[string]string{"rekey:grace": "1h", rotation.TagRetired: "an-older-version", rotation.TagRetiring + "x": leapEve.Add(-time.Hour).Format(time.RFC3339)}
			for n := range c.owners - 1 {
				tags[fmt.Sprint("team", n)] = "x"
			}
			store := memstore.New(rotators.NewSecret(first), tags)
			store.Begin(token)
			retires, keeps := &retiringSpy{}, &spy{}
			r, calls := rotators.Rotator(keeps), &keeps.calls
			if c.retires {
				r, calls = retires, &retires.calls
			}
			err := at(leapEve, r).Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
			if !c.refused && err != nil || c.refused && (!rotators.IsPermanent(err) || !strings.Contains(err.Error(), "there are 49 tags") || !strings.Contains(err.Error(), "remove 1") || len(*calls) > 0) {
				t.Errorf("after %v: %v", *calls, err)
			}
		})
	}
}

// forgetful is a store that knows when the current version was promoted.
type forgetful struct {
	*fencing
	promoted time.Time
}

func (s forgetful) PromotedAt(context.Context, *rotation.Attempt) (time.Time, error) {
	return s.promoted, nil
}

func (s forgetful) Remember(_ context.Context, a *rotation.Attempt) error {
	s.Tag(rotation.TagRetire, a.Tags.RetireOrder())
	return nil
}

// Somebody took the order to retire off. It is written anew, and carried out, only for the
// version before the current one, whose grace is over for all that the store knows.
func TestAnOrderThatWasTakenOff(t *testing.T) {
	for name, c := range map[string]struct {
		version string
		tags    map[string]string
		passed  time.Duration // since the promotion; 0: nobody knows of one
		begun   bool
		retired bool
	}{
		"its grace is over":         {memstore.First, nil, time.Hour, false, true},
		"its grace is not over":     {memstore.First, nil, time.Hour - time.Second, false, false},
		"a person stored it":        {memstore.First, nil, 0, false, false},
		"the secret is paused":      {memstore.First, map[string]string{"rekey:paused": "yes"}, time.Hour, false, false},
		"it was retired before":     {memstore.First, map[string]string{rotation.TagRetired: memstore.First}, time.Hour, false, false},
		"the message names another": {other, nil, time.Hour, false, false},
		"the message names none":    {"", nil, time.Hour, false, false},
		"another is to be retired":  {memstore.First, map[string]string{rotation.TagRetire: other}, time.Hour, false, false},
		"a rotation is under way":   {memstore.First, nil, time.Hour, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := &retiringSpy{}
			store := forgetful{fencing: graced(t, r, nil)}
			store.Tag(rotation.TagRetire, "")
			for key, value := range c.tags {
				store.Tag(key, value)
			}
			if c.begun {
				store.Begin(other)
			}
			if c.passed > 0 {
				store.promoted = leapEve
			}
			if err := at(leapEve.Add(c.passed), r).Retire(t.Context(), store, memstore.ID, c.version); err != nil {
				t.Fatal(err)
			}
			if retired := slices.Contains(r.calls, "Retire"); retired != c.retired {
				t.Errorf("the rotator was asked %v, and the tags are %v", r.calls, store.Tags())
			}
			if order := store.Tags()[rotation.TagRetire]; order != c.tags[rotation.TagRetire] {
				t.Errorf("the order is %q", order)
			}
			if c.retired && store.Tags()[rotation.TagRetired] != memstore.First {
				t.Errorf("the tags are %v", store.Tags())
			}
		})
	}
}
