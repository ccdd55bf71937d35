package attacks

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
)

// Runs that died have left tags rekey:retiring-.. behind, up to the most tags that AWS
// allows. The next rotation takes them off and ends, with an order to retire and without,
// also if the owner has as many tags as rekey allows.
func TestTagsOfRunsThatDiedStopNoRotation(t *testing.T) {
	const over = "2026-01-01T00:00:00Z"
	for _, c := range []struct {
		name         string
		owners, dead int
		order        bool
	}{
		{"no order", 3, 47, false},
		{"an order", 3, 46, true},
		{"an order and the owner's 48", 48, 1, true},
		{"the owner's 48", 48, 2, false},
	} {
		for _, grace := range []string{"1d", "0h"} {
			t.Run(c.name+" "+grace, func(t *testing.T) {
				w := newWorld(t)
				me := w.person(bankMariaDB, "me")
				w.own = append(w.own, me.user)
				tags := []string{"rekey:strategy", "overlap", "rekey:admin", w.adminSecret(bankMariaDB)}
				if grace != "1d" {
					tags = append(tags, "rekey:grace", grace)
				}
				arn := w.newSecret(fmt.Sprintf("mine/%d", serial.Add(1)), bankMariaDB.value(account{me.user, "an-older-password"}), tags...)
				older, _ := w.current(arn)
				w.put(arn, bankMariaDB.value(me))
				for i := range c.owners - len(tags)/2 {
					w.tag(arn, fmt.Sprintf("team-%d", i), "x")
				}
				if c.order {
					w.tag(arn, "rekey:retire", older)
				}
				for i := range c.dead {
					w.tag(arn, fmt.Sprintf("rekey:retiring-%d", i), over)
				}
				if err := w.rotate(arn); err != nil {
					t.Errorf("the rotation failed: %v", w.lastError())
				}
				_, value := w.current(arn)
				if !bankMariaDB.accepts(t, me.user, field(t, value, "password")) || field(t, value, "password") == me.password {
					t.Error("what applications read is not a new password that works")
				}
				// A run that dies in the midst of a rotation leaves one more.
				w.before = func(step string) {
					if step == "finishSecret" {
						w.before = nil
						for i := len(w.tagsOf(arn)); i < 50; i++ {
							w.tag(arn, fmt.Sprintf("rekey:retiring-%d", i), over)
						}
					}
				}
				if err := w.rotate(arn); err != nil {
					t.Errorf("the second rotation failed: %v", w.lastError())
				}
				for _, key := range w.tagsOf(arn) {
					if strings.HasPrefix(key, "rekey:retiring-") {
						t.Errorf("the tag %s is left over", key)
					}
				}
			})
		}
	}
}

// tagsOf returns the keys of a secret's tags.
func (w *world) tagsOf(arn string) (keys []string) {
	w.t.Helper()
	out, err := w.secrets.DescribeSecret(w.t.Context(), &secretsmanager.DescribeSecretInput{SecretId: &arn})
	w.check(err)
	for _, tag := range out.Tags {
		keys = append(keys, *tag.Key)
	}
	return keys
}
