package iamkey

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
)

// What an intent takes for rekey's own: a key that is none of those there were before,
// and that was made in the seconds of the intent or one before or after.
func TestWhatAnIntentProves(t *testing.T) {
	from := time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)
	n := parseIntent("rekey:intent:1", intent{name: "rekey-a-b-c", from: from, to: from.Add(maxMint), before: []string{"AKIAONE", "AKIATWO"}}.String())
	if n.name != "rekey-a-b-c" || n.key != "rekey:intent:1" {
		t.Errorf("it is read as %+v", n)
	}
	for _, c := range []struct {
		id    string
		after time.Duration
		ours  bool
	}{
		{"AKIANEW", 0, true},
		{"AKIANEW", maxMint, true},
		{"AKIANEW", -blur, true},
		{"AKIANEW", -blur - time.Second, false},
		{"AKIANEW", maxMint + blur, true},
		{"AKIANEW", maxMint + blur + time.Second, false},
		{"AKIANEW", 24 * time.Hour, false},
		{"AKIANEW", -24 * time.Hour, false},
		{"AKIAONE", 0, false}, // a person made it in the second before, and IAM listed it
		{"AKIATWO", maxMint, false},
	} {
		if got := n.minted(key{id: c.id, made: from.Add(c.after)}); got != c.ours {
			t.Errorf("a key %s, %v after the intent began, is rekey's: %t", c.id, c.after, got)
		}
	}
	for passed, spent := range map[time.Duration]bool{0: false, time.Hour: false, time.Hour + time.Second: true} {
		if got := n.spent(n.to.Add(passed)); got != spent || n.past(n.to.Add(passed)) != spent {
			t.Errorf("%v after its end the intent is spent: %t", passed, got)
		}
	}
	// The clock of the run that wrote the intent may be a minute fast, and no more.
	for early, spent := range map[time.Duration]bool{ahead: false, ahead + time.Second: true} {
		if now := from.Add(-early); n.spent(now) != spent || n.past(now) {
			t.Errorf("%v before it begins the intent is spent: %t, and past: %t", early, n.spent(now), n.past(now))
		}
	}
}

// An intent names every key that the user has by then: whatever the times say, these keys
// are nobody's but their owner's.
func TestAnIntentNamesTheKeysThatAreThere(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	v := c.value("app")
	another, _ := c.AddAccessKey("arn:aws:iam::000000000000:user/app") // in the second of the intent, and never used
	r := rotation(v, rotators.Settings{})
	r.Use = func(context.Context, func(rotators.Secret) bool) (rotators.Use, error) { return rotators.InUse, nil }
	i := &issuer{cfg: c.config(nil, "local", "local"), clock: c.apikey(), r: r}
	if err := i.Begin(t.Context(), "rekey-a-b-c"); err != nil {
		t.Fatal(err)
	}
	intents, err := i.intents(t.Context())
	if err != nil || len(intents) != 1 {
		t.Fatalf("the intents are %+v (%v)", intents, err)
	}
	if want := []string{field(t, v, fieldID), another}; len(intents[0].before) != 2 || !slices.Contains(intents[0].before, want[0]) || !slices.Contains(intents[0].before, want[1]) {
		t.Errorf("the intent names %v, and the keys are %v", intents[0].before, want)
	}
	if strays, err := i.Strays(t.Context()); err != nil || len(strays) > 0 {
		t.Errorf("taken for rekey's own are %v (%v)", strays, err)
	}
}

// A tag that is no intent proves nothing, and is cleared away.
func TestATagThatIsNoIntent(t *testing.T) {
	now := time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)
	for _, text := range []string{
		"", "x", "a b c", intent{}.String(), "name 2026-11-24T01:02:03Z soon", "release 2 2026-11-24T01:02:03Z 2026-11-24T01:02:08Z",
		"a-window-of-a-minute 2026-11-24T01:02:03Z 2026-11-24T01:03:03Z",
		apikey.Name("secret", "token", now.Add(maxMint+apikey.LongestRun+time.Second)) + " 2026-11-24T01:02:03Z 2026-11-24T01:02:08Z", // of a run longer than any
	} {
		n := parseIntent("rekey:intent:1", text)
		if n.minted(key{id: "AKIANEW", made: now}) || !n.spent(now) || n.key == "" {
			t.Errorf("%q is read as %+v", text, n)
		}
	}
}
