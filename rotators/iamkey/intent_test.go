package iamkey

import (
	"testing"
	"time"
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
		if got := n.spent(n.to.Add(passed)); got != spent {
			t.Errorf("%v after its end the intent is spent: %t", passed, got)
		}
	}
}

// A tag that is no intent proves nothing, and is cleared away.
func TestATagThatIsNoIntent(t *testing.T) {
	now := time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)
	for _, text := range []string{"", "x", "a b c", intent{}.String(), "name 2026-11-24T01:02:03Z soon", "release 2 2026-11-24T01:02:03Z 2026-11-24T01:02:08Z"} {
		n := parseIntent("rekey:intent:1", text)
		if n.minted(key{id: "AKIANEW", made: now}) || !n.spent(now) || n.key == "" {
			t.Errorf("%q is read as %+v", text, n)
		}
	}
}
