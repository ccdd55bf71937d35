package rotatortest

import (
	"context"
	"iter"

	"github.com/rekeyhq/rekey/internal/memstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// wired sends a store's calls through the Wire, so that a crash can fall
// before and after each of them too.
type wired struct {
	rotation.Store
	wire *Wire
}

func (s wired) Load(ctx context.Context, id, token string) (a *rotation.Attempt, err error) {
	err = s.wire.call(func() error { a, err = s.Store.Load(ctx, id, token); return err })
	return a, err
}

func (s wired) Value(ctx context.Context, a *rotation.Attempt, which rotation.Which) (v rotators.Secret, err error) {
	err = s.wire.call(func() error { v, err = s.Store.Value(ctx, a, which); return err })
	return v, err
}

func (s wired) Leftovers(ctx context.Context, a *rotation.Attempt) iter.Seq2[rotators.Secret, error] {
	return func(yield func(rotators.Secret, error) bool) {
		var err error
		var all iter.Seq2[rotators.Secret, error]
		if err = s.wire.call(func() error { all = s.Store.Leftovers(ctx, a); return nil }); err != nil {
			yield(rotators.Secret{}, err)
			return
		}
		all(yield)
	}
}

func (s wired) Held(ctx context.Context, a *rotation.Attempt) iter.Seq2[rotation.Held, error] {
	return func(yield func(rotation.Held, error) bool) {
		var err error
		var all iter.Seq2[rotation.Held, error]
		if err = s.wire.call(func() error { all = s.Store.Held(ctx, a); return nil }); err != nil {
			yield(rotation.Held{}, err)
			return
		}
		all(yield)
	}
}

func (s wired) PutPending(ctx context.Context, a *rotation.Attempt, v rotators.Secret) error {
	return s.wire.call(func() error { return s.Store.PutPending(ctx, a, v) })
}

func (s wired) Promote(ctx context.Context, a *rotation.Attempt) error {
	return s.wire.call(func() error { return s.Store.Promote(ctx, a) })
}

func (s wired) Retired(ctx context.Context, a *rotation.Attempt) error {
	return s.wire.call(func() error { return s.Store.Retired(ctx, a) })
}

// others is what the Harness says of other secrets, through a Wire, and what a
// rotator was told of them.
type others struct {
	tr   *trial
	wire *Wire
}

var _ rotation.Others = others{}

// Lookup implements rotation.Others.
func (o others) Lookup(ctx context.Context, ref string) (v rotators.Secret, err error) {
	err = o.wire.call(func() error { v, err = o.tr.Lookup(ctx, ref); return err })
	if err != nil {
		return rotators.Secret{}, err
	}
	o.tr.mu.Lock()
	defer o.tr.mu.Unlock()
	o.tr.lookedUp = append(o.tr.lookedUp, v)
	return v, nil
}

// AdminFor implements rotation.Others: a tag that covers the one secret there
// is, or none.
func (o others) AdminFor(ctx context.Context, ref string) (list string, err error) {
	err = o.wire.call(func() error {
		if o.tr.Vouches == nil {
			return nil
		}
		ok, err := o.tr.Vouches(ctx, ref)
		if ok {
			list = memstore.ID
		}
		return err
	})
	return list, err
}
