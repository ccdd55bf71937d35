package rotation

import (
	"context"

	"github.com/rekeyhq/rekey/rotators"
)

// Reader does with stored values what their readers do, and nothing that takes
// part in a rotation. It is for who watches one. It is safe for concurrent use.
type Reader struct {
	Registry rotators.Registry
	ID       string // ARN of the secret or parameter
	Tags     Tags
}

// Login proves that the target accepts a stored value, as the step testSecret
// does. The error is a refusal or says why that cannot be told; its text does not
// hold the value.
func (r *Reader) Login(ctx context.Context, stored rotators.Secret) error {
	w := r.work()
	return w.mask.guard(func() error {
		value, err := w.present(stored)
		if err != nil {
			return err
		}
		return w.test(ctx, value)
	})
}

// User is whom a stored value is for; "" if it does not say.
func (r *Reader) User(stored rotators.Secret) string {
	value, err := r.work().present(stored)
	if err != nil {
		return ""
	}
	for _, name := range []string{"username", "UserName"} { // as IAM spells it
		if user, err := value.Field(name); err == nil && !user.IsZero() {
			return user.Reveal()
		}
	}
	return ""
}

// work is a new one for each call, because it learns the values of that call.
func (r *Reader) work() *work {
	return &work{Engine: &Engine{Registry: r.Registry}, id: r.ID, mask: &mask{}, attempt: &Attempt{ID: r.ID, Tags: r.Tags}}
}
