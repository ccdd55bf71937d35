package rotation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// Engine carries out steps. It holds nothing of an attempt between calls and
// is safe for concurrent use.
type Engine struct {
	Registry rotators.Registry
	// Others reads other secrets for a rotator that asks for one. Nil: there
	// are none.
	Others Others
	// Password holds for every generated password; an owner's own policy
	// narrows it further. Only is the owner's alone.
	Password rotators.PasswordPolicy
	// Limits are the operator's, for every rotator.
	Limits rotators.Limits
	// Log gets one line per step. Nil: none.
	Log *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Pause waits, or returns the context's error. Nil: it really waits.
	Pause func(context.Context, time.Duration) error
}

// Others is what a rotator may know of secrets other than the one rotated.
type Others interface {
	// Lookup reads the value of a secret or parameter; see rotators.Rotation.
	Lookup(ctx context.Context, ref string) (rotators.Secret, error)
	// AdminFor reads its tag rekey:admin-for; "" if it has none.
	AdminFor(ctx context.Context, ref string) (string, error)
}

// Run takes the four steps of one attempt. If somebody else changed the value
// meanwhile, their change stays: Run then returns nil if the target accepts it,
// and a *StepError that wraps ErrReadersRefused if it does not.
func (e *Engine) Run(ctx context.Context, store Driven, id, token string) error {
	for step := CreateSecret; step <= FinishSecret; step++ {
		w := &work{Engine: e, store: store, driven: store, step: step, id: id, mask: &mask{}}
		if err := w.do(ctx, token); err != nil || w.overtaken {
			return err
		}
	}
	return nil
}

// Step carries out one step. Its error is a *StepError.
func (e *Engine) Step(ctx context.Context, store Store, step Step, id, token string) error {
	w := &work{Engine: e, store: store, step: step, id: id, mask: &mask{}}
	return w.do(ctx, token)
}

// Retire withdraws the credential that a version holds, whose grace is over. It
// does nothing, and succeeds, if the tag rekey:retire does not name the version
// any more or says that the grace is not over yet, if rekey:paused was set, or while an
// attempt is open: that attempt may be between its proof and
// its promotion, and ends with the next one's createSecret at the latest. It proves
// that what readers get works before it withdraws anything. Its error is a
// *StepError of RetireStep.
func (e *Engine) Retire(ctx context.Context, store Store, id, version string) error {
	w := &work{Engine: e, store: store, step: RetireStep, id: id, mask: &mask{}}
	return w.guarded(ctx, func(ctx context.Context) error { return w.retireVersion(ctx, version) })
}

// A step stops before its deadline, so that the reason is logged before the
// platform kills the process: by a second, or by a tenth of what there is.
const margin = time.Second

var errOutOfTime = errors.New("the step ran out of time; what it waits for is named here: for AWS itself, a function in a VPC needs an endpoint or NAT and an open port 443, and a longer timeout does not help; for anything else raise the function's timeout, or look for what is slow")

func withMargin(ctx context.Context, now time.Time) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadlineCause(ctx, deadline.Add(-min(margin, deadline.Sub(now)/10)), errOutOfTime)
}

// work is one step being carried out.
type work struct {
	*Engine
	store  Store
	driven Driven // the store, if nobody else drives it
	step   Step
	id     string
	mask   *mask

	// What is known so far, for the log.
	attempt *Attempt
	rotator string
	action  action
	retired string // the version that was retired, if one was
	// overtaken: somebody else changed the value, and the attempt is over.
	overtaken bool
}

// do carries out the step that the plan has for an attempt.
func (w *work) do(ctx context.Context, token string) error {
	return w.guarded(ctx, func(ctx context.Context) error {
		err := w.run(ctx, token)
		if w.driven != nil && errors.Is(err, ErrSuperseded) {
			err = w.settle(ctx, token)
		}
		return err
	})
}

// guarded carries out a step inside the boundary and reports it.
func (w *work) guarded(ctx context.Context, run func(context.Context) error) error {
	start := w.now()
	ctx, cancel := withMargin(ctx, start)
	defer cancel()

	err := w.mask.guard(func() error {
		err := run(ctx)
		if err != nil && errors.Is(context.Cause(ctx), errOutOfTime) {
			return fmt.Errorf("%w: %w", errOutOfTime, err)
		}
		return err
	})
	if err != nil {
		err = &StepError{Step: w.step, ID: w.id, Err: err}
	}
	w.report(ctx, start, w.now().Sub(start), err)
	return err
}

func (e *Engine) now() time.Time {
	if e.Now != nil {
		return e.Now()
	}
	return time.Now()
}

// load finds the attempt that token names.
func (w *work) load(ctx context.Context, token string) (err error) {
	w.attempt, err = w.find(ctx, token)
	return err
}

// find is the store's Load. The redactor learns what it finds.
func (w *work) find(ctx context.Context, token string) (*Attempt, error) {
	a, err := w.store.Load(ctx, w.id, token)
	if err != nil {
		return nil, err
	}
	for _, known := range a.Known {
		w.mask.learn(known)
	}
	w.mask.wrote(append(a.Written, a.ID, a.Token, a.Current, a.Previous, a.Former)...)
	return a, nil
}

func (w *work) run(ctx context.Context, token string) error {
	if err := w.load(ctx, token); err != nil {
		return err
	}
	if err := w.awaitRetirement(ctx, token); err != nil {
		return err
	}
	pending, err := w.pending(ctx)
	if err != nil {
		return err
	}
	w.action = plan[w.attempt.State][w.step]
	switch w.action {
	case nothing:
		return nil
	case create:
		return w.create(ctx)
	case set:
		return w.set(ctx, pending)
	case test:
		return w.test(ctx, pending)
	case dryTest:
		return w.dryTest(ctx)
	case promote:
		if err := w.promote(ctx); err != nil {
			return err
		}
		return w.discard(ctx)
	case retire:
		if err := w.retireIfDue(ctx); err != nil {
			return err
		}
		return w.discard(ctx)
	default:
		return w.refusal()
	}
}

// refusal says why the plan refuses.
func (w *work) refusal() error {
	switch w.attempt.State {
	case Reserved:
		// Not permanent: Secrets Manager runs all four steps again.
		return fmt.Errorf("version %s has no value yet: createSecret must store one first", w.attempt.Token)
	case Superseded:
		return rotators.Permanent(fmt.Errorf("version %s was overtaken: readers get version %s now; to rotate again, start a new rotation: %w", w.attempt.Token, w.attempt.Current, ErrSuperseded))
	default:
		// Not permanent: a label attached a moment ago may be late to be seen.
		return fmt.Errorf("version %s is not one that is being rotated: it carries no label of this secret; start a rotation with rotate-secret", w.attempt.Token)
	}
}

// settle is how long, and in what growing pauses, a pending value that is not
// to be seen is read again: the services are eventually consistent, and a
// value stored a moment ago may be late. Five seconds in all.
var settle = []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 1500 * time.Millisecond, 1750 * time.Millisecond}

// pending reads the pending value, where the step needs it, and corrects the
// state: without a value the version is only reserved.
func (w *work) pending(ctx context.Context) (rotators.Secret, error) {
	if w.attempt.State != Stored && w.attempt.State != Reserved || w.step == FinishSecret {
		return rotators.Secret{}, nil
	}
	value, err := w.value(ctx, PendingValue)
	if err != nil {
		return rotators.Secret{}, err
	}
	if w.step != CreateSecret {
		for _, d := range settle {
			if !value.IsZero() {
				break
			}
			if err := w.pause(ctx, d); err != nil {
				return rotators.Secret{}, err
			}
			if value, err = w.value(ctx, PendingValue); err != nil {
				return rotators.Secret{}, err
			}
		}
	}
	w.attempt.State = Stored
	if value.IsZero() {
		w.attempt.State = Reserved
	}
	return value, nil
}

func (w *work) create(ctx context.Context) error {
	current, r, err := w.subject(ctx)
	if err != nil {
		return err
	}
	n := w.attempt.Tags.Owners
	if _, ok := w.store.(Fenced); ok {
		w.unfenceOver(ctx)
	} else {
		n += len(w.attempt.Tags.Retiring) // a person wrote them
	}
	if n > maxOwners && w.graceOf(w.rotator) >= 0 {
		// Else Promote finds no room for the order to retire, after the target was changed.
		return rotators.Permanent(fmt.Errorf("there are %d tags, and AWS allows 50, of which rekey needs two for the retirement of the older credential (%s, %s): remove %d", n, TagRetire, TagRetired, n-maxOwners))
	}
	_, mints := r.(rotators.Discarder)
	if keyed, ok := w.store.(Keyed); ok && (mints || w.attempt.Tags.Retire != "") {
		if err := keyed.KeyUsable(ctx, w.attempt); err != nil {
			return err
		}
	}
	if w.attempt.Tags.Retire != "" {
		// The grace of the rotation before is not over. An emergency rotation
		// is not refused for that: the older credential goes now.
		switch err := w.retireAlone(ctx, r, current); {
		case errors.Is(err, ErrStored):
			return nil
		case errors.Is(err, errDoesNotWork) && rotators.IsRefused(err):
			// The older one may be all that works, so it is kept: for Set, which
			// has the target accept the new value and no older one.
			w.attempt.Note = fmt.Sprintf("readers get a value that the target refuses, so version %s is not retired before there is one that works", w.attempt.Tags.Retire)
		case errors.Is(err, errNotProved), rotators.IsPermanent(err) && !errors.Is(err, errDoesNotWork):
			// No retry would help, and a person who would is not waited for.
			w.attempt.Note = w.mask.show(fmt.Sprintf("version %s, whose grace this rotation cuts short, may still work, so withdraw its credential by hand: %v", w.attempt.Tags.Retire, err))
		case err != nil:
			return fmt.Errorf("retiring version %s, whose grace this rotation cuts short: %w", w.attempt.Tags.Retire, err)
		}
		if mints {
			// A retirement takes long enough for another run to store its value. What it
			// was of is not the previous version any more, if it ever was.
			now, err := w.unchanged(ctx)
			if errors.Is(err, ErrStored) {
				return nil
			}
			if err != nil {
				return err
			}
			now.Note = w.attempt.Note
			w.attempt = now
		}
	}
	value, err := r.Create(ctx, w.rotation(current, rotators.Secret{}))
	w.mask.learn(value)
	if mints && errors.Is(err, ErrStored) {
		return nil // unchanged said so, before anything was made
	}
	if err != nil {
		return err
	}
	if value.IsZero() || value.Equal(current) {
		return rotators.Permanent(errors.New("the rotator made no new value"))
	}
	made := value
	if value, err = w.attempt.Tags.stored(value); err != nil {
		return err
	}
	w.mask.learn(value)
	err = w.store.PutPending(ctx, w.attempt, value)
	switch {
	case errors.Is(err, ErrStored):
		if err := w.discardLost(ctx, r, current, made); err != nil {
			return fmt.Errorf("another run of this attempt stored its value first; removing what was made for this one: %w", err)
		}
		return nil
	case rotators.IsPermanent(err):
		// It was certainly not stored, so nobody will ever get it.
		if lostErr := w.discardLost(ctx, r, current, made); lostErr != nil {
			err = fmt.Errorf("%w; what was made for it outside could not be removed, which the next run does: %w", err, lostErr)
		}
		fallthrough
	case err != nil:
		return fmt.Errorf("storing the pending value: %w", err)
	}
	return nil
}

// recognize refuses a pending value that no createSecret has made: somebody stored it
// before, or in the instant in which createSecret was about to. One that the target accepts
// already is finished: with a single password it may be the only one that works.
func (w *work) recognize(ctx context.Context, r rotators.Rotator, current, pending rotators.Secret) error {
	own, ok := r.(rotators.Recognizer)
	if !ok {
		return nil
	}
	strange := own.Recognize(w.rotation(current, pending))
	if strange == nil {
		return nil
	}
	switch err := r.Test(ctx, w.rotation(rotators.Secret{}, pending)); {
	case err == nil:
		return nil
	case rotators.IsRefused(err) || rotators.IsPermanent(err):
		return rotators.Permanent(fmt.Errorf("the pending value was stored by somebody else, or the policy for passwords was changed since: %w; nothing was changed, so cancel this rotation and start it again", strange))
	default:
		return fmt.Errorf("the pending value was stored by somebody else (%v), and cannot be tried: %w", strange, err)
	}
}

// discardLost removes what a rotator made outside for a value that was not stored.
func (w *work) discardLost(ctx context.Context, r rotators.Rotator, current, lost rotators.Secret) error {
	d, ok := r.(rotators.Discarder)
	if !ok {
		return nil
	}
	unseen := w.rotation(current, lost)
	// It was made a moment ago and nobody but this run has seen it, so no version holds
	// it. The versions may be unreadable: their KMS key may be why it was not stored.
	unseen.Use = func(context.Context, func(rotators.Secret) bool) (rotators.Use, error) { return rotators.Unused, nil }
	return d.Discard(ctx, unseen)
}

// errChanged says that a step must not go by what it read at its start.
var errChanged = errors.New("another run or a person has changed the secret since this step began, so nothing is revoked; the next try goes by what is there then")

// unchanged loads the attempt again. Its error says that the attempt is not what it was:
// it wraps ErrStored if that is because the value to create is there by now.
func (w *work) unchanged(ctx context.Context) (now *Attempt, err error) {
	was, token := w.attempt, w.attempt.Token
	if w.step == RetireStep {
		token = "" // it belongs to no attempt
	}
	if now, err = w.find(ctx, token); err != nil {
		return nil, err
	}
	if was.State == Reserved && now.State == Stored {
		pending, err := w.store.Value(ctx, now, PendingValue)
		if err != nil {
			return nil, err
		}
		if pending.IsZero() {
			now.State = Reserved
		}
	}
	changed := now.Current != was.Current || now.State != was.State
	switch {
	case was.State == Reserved && (now.State == Stored || now.State == Current):
		return nil, fmt.Errorf("%w: %w", errChanged, ErrStored)
	case w.step == RetireStep:
		changed = now.Current != was.Current || now.Tags.Retire != was.Tags.Retire
	case was.Current == was.Token: // by this step
		changed = now.State != Current
	}
	if changed {
		return nil, errChanged
	}
	return now, nil
}

// use implements rotators.Rotation.Use.
func (w *work) use(ctx context.Context, holds func(rotators.Secret) bool) (rotators.Use, error) {
	now, err := w.unchanged(ctx)
	if err != nil {
		return 0, err
	}
	if now.State == Stored {
		pending, err := w.store.Value(ctx, now, PendingValue)
		if err == nil {
			pending, err = w.present(pending)
		}
		if err != nil {
			return 0, err
		}
		if holds(pending) {
			return rotators.InUse, nil
		}
	}
	most := rotators.Unused
	for held, err := range w.store.Held(ctx, now) {
		if err == nil {
			held.Value, err = w.present(held.Value)
		}
		if err != nil {
			return 0, err
		}
		if holds(held.Value) {
			most = max(most, held.Use)
		}
	}
	if most != rotators.Unused {
		return most, nil
	}
	// A version without a label lost it before the one before the current was replaced, or
	// never was current. Once that one is retired, the grace of all is over or was cut short.
	if now.Former != "" && now.Former == now.Tags.Retired {
		return rotators.Unused, nil
	}
	if now.State == Superseded {
		now.State = Stored // so that what this attempt stored itself is not left over
	}
	for value, err := range w.store.Leftovers(ctx, now) {
		if err == nil {
			value, err = w.present(value)
		}
		if err != nil {
			return 0, err
		}
		if holds(value) {
			return rotators.Former, nil
		}
	}
	return rotators.Unused, nil
}

func (w *work) set(ctx context.Context, pending rotators.Secret) error {
	current, r, err := w.subject(ctx)
	if err != nil {
		return err
	}
	if err := w.recognize(ctx, r, current, pending); err != nil {
		return err
	}
	return r.Set(ctx, w.rotation(current, pending))
}

func (w *work) test(ctx context.Context, pending rotators.Secret) error {
	r, err := w.resolve(pending)
	if err != nil {
		return err
	}
	return r.Test(ctx, w.rotation(rotators.Secret{}, pending))
}

func (w *work) dryTest(ctx context.Context) error {
	current, err := w.current(ctx)
	if err != nil {
		return err
	}
	return w.test(ctx, current)
}

func (w *work) promote(ctx context.Context) error {
	grace, err := w.grace(ctx)
	if err != nil {
		return err
	}
	w.attempt.Tags.Retire, w.attempt.Tags.RetireAt = "", time.Time{}
	if grace >= 0 {
		// The order to retire is not written for a version that has no value to take over.
		if pending, err := w.value(ctx, PendingValue); err != nil {
			return err
		} else if pending.IsZero() {
			w.attempt.State, w.action = Reserved, refuse
			return w.refusal()
		}
		w.attempt.Tags.Retire = w.attempt.Current
	}
	if grace > 0 {
		w.attempt.Tags.RetireAt = w.now().Add(grace)
	}
	w.unfenceOver(ctx) // else there may be no room for the order to retire
	if err := w.store.Promote(ctx, w.attempt); err != nil {
		return fmt.Errorf("making version %s current: %w", w.attempt.Token, err)
	}
	w.attempt.Previous, w.attempt.Current = w.attempt.Current, w.attempt.Token
	if grace != 0 {
		return nil
	}
	return w.retireNow(ctx)
}

// grace tells how long the attempt's previous value stays valid; negative if
// there is nothing to retire. It reads a value only if no tag names the rotator
// and some rotator that a value can name would leave something to retire.
func (w *work) grace(ctx context.Context) (time.Duration, error) {
	name := w.attempt.Tags.Settings.Rotator
	if name == "" {
		if !slices.ContainsFunc(w.Registry.Names(), func(name string) bool { return !tagged(w.Registry[name]) && w.graceOf(name) >= 0 }) {
			return -1, nil
		}
		if _, _, err := w.subject(ctx); err != nil {
			return 0, err
		}
		name = w.rotator
	} else if _, err := w.resolve(rotators.Secret{}); err != nil {
		return 0, err
	}
	return w.graceOf(name), nil
}

// graceOf is a rotator's answer, with the settings of the attempt.
func (w *work) graceOf(name string) time.Duration {
	retirer, ok := w.Registry[name].(rotators.Retirer)
	if !ok {
		return -1
	}
	settings := w.attempt.Tags.Settings
	settings.Rotator = name
	return retirer.Grace(settings)
}

// retireIfDue retires at once what has no grace. What has one is retired by
// the planner when its time has come.
func (w *work) retireIfDue(ctx context.Context) error {
	if w.attempt.Tags.Retire == "" {
		return nil
	}
	if grace, err := w.grace(ctx); err != nil || grace != 0 {
		return err
	}
	return w.retireNow(ctx)
}

// clocks is how far the clocks of the two functions may differ: the planner orders a
// retirement by its clock, and the end of the grace was written by another one.
const clocks = time.Minute

// retireVersion is what the planner asks for.
func (w *work) retireVersion(ctx context.Context, version string) error {
	if err := w.load(ctx, ""); err != nil {
		return err
	}
	w.action = nothing
	if err := w.remember(ctx, version); err != nil {
		return err
	}
	switch {
	case w.attempt.ID != w.id:
		return rotators.Permanent(fmt.Errorf("the message names %s, and the whole ARN of that secret is %s: order the retirement by the whole ARN", w.id, w.attempt.ID))
	case version == "" || w.attempt.Tags.Retire != version:
		return nil
	case w.attempt.Tags.Paused:
		w.attempt.Note = fmt.Sprintf("the tag %spaused was set, so version %s is not retired", TagPrefix, version)
		return nil
	case w.attempt.Tags.RetireAt.After(w.now().Add(clocks)):
		// Who sends the message does not decide when: applications may still use that
		// version.
		w.attempt.Note = fmt.Sprintf("the grace of version %s is over at %s, and the version is not retired before that", version, w.attempt.Tags.RetireAt.UTC().Format(time.RFC3339))
		return nil
	case w.attempt.State != Current:
		w.attempt.Note = fmt.Sprintf("a rotation is under way, so version %s is retired after it, or by the one that follows", version)
		return nil
	}
	w.action = retire
	current, r, err := w.subject(ctx)
	if err != nil {
		return err
	}
	if err := w.retireAlone(ctx, r, current); err != nil {
		return fmt.Errorf("retiring version %s: %w", version, err)
	}
	return nil
}

// remember writes an order to retire anew that somebody took off, Terraform say: the
// version that clients got before a rotation made the current one, of a secret with two live
// credentials, which was not retired and whose grace is over. Nobody takes the message's word
// for any of this.
func (w *work) remember(ctx context.Context, version string) error {
	a := w.attempt
	store, ok := w.store.(Forgetful)
	if !ok || a.ID != w.id || a.Tags.Retire != "" || a.State != Current || a.Tags.Paused || version == "" || version != a.Former || version == a.Tags.Retired {
		return nil
	}
	grace, err := w.grace(ctx)
	if err != nil || grace < 0 {
		return err
	}
	at, err := store.PromotedAt(ctx, a)
	if err != nil || at.IsZero() || at.Add(grace).After(w.now()) {
		return err
	}
	a.Tags.Retire, a.Previous = version, version
	a.Note = fmt.Sprintf("the tag %s was taken off before version %s was retired, and is written anew", TagRetire, version)
	return store.Remember(ctx, a)
}

const (
	// longest is Lambda's limit for an invocation.
	longest = 15 * time.Minute
	// late is for how long after a run was ended its last request may take effect at the
	// target.
	late = 15 * time.Second
)

// retireAlone is retire where the store is Fenced: with no Set of an attempt beside it. Else
// a whole rotation could begin and end between what this run has read and its call of
// Retire, which has the target accept the value that was current then, and no newer one. A
// key that was minted is revoked by its id, and needs no fence.
func (w *work) retireAlone(ctx context.Context, r rotators.Rotator, current rotators.Secret) (err error) {
	fenced, ok := w.store.(Fenced)
	if !ok || tagged(r) {
		return w.retire(ctx, r, current)
	}
	left := longest
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline) + margin
	}
	w.unfenceOver(ctx)
	own := TagRetiring + strings.ToLower(rand.Text())
	if err := fenced.Fence(ctx, w.attempt, own, w.now().Add(left+late)); err != nil {
		return err
	}
	defer func() {
		// What this run changes is changed by now, also if there is no time left.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unfenceTime)
		defer cancel()
		if unfenceErr := fenced.Unfence(ctx, w.attempt, own); unfenceErr != nil && err == nil {
			w.attempt.Note = w.mask.show(fmt.Sprintf("the tag %s could not be removed, so the next rotation waits until that is over: %v", own, unfenceErr))
		}
	}()
	if w.step == CreateSecret {
		if _, err := w.unchanged(ctx); err != nil {
			return err
		}
		return w.retire(ctx, r, current)
	}
	now, err := w.find(ctx, "")
	switch {
	case err != nil:
		return err
	case now.State != Current || now.Current != w.attempt.Current || now.Tags.Retire != w.attempt.Tags.Retire:
		w.attempt.Note = fmt.Sprintf("a rotation began meanwhile, so version %s is retired after it, or by the one that follows", w.attempt.Tags.Retire)
		return nil
	}
	return w.retire(ctx, r, current)
}

// unfenceOver removes the tags of runs that died, before they take the room of tags that are
// to be written. It costs a call only if there are some. A failure stops nothing: if there
// is no room, the next tag to be written says so.
func (w *work) unfenceOver(ctx context.Context) {
	fenced, ok := w.store.(Fenced)
	if !ok {
		return
	}
	// A rotation has gone by its own clock when it awaited them.
	differ := time.Duration(0)
	if w.step == RetireStep {
		differ = clocks
	}
	var over []string
	for key, end := range w.attempt.Tags.Retiring {
		if end.Add(differ).Before(w.now()) {
			over = append(over, key)
		}
	}
	if len(over) == 0 {
		return
	}
	slices.Sort(over)
	if err := fenced.Unfence(ctx, w.attempt, over...); err != nil {
		w.attempt.Note = w.mask.show(fmt.Sprintf("the tags %s are over and could not be removed: %v", strings.Join(over, ", "), err))
		return
	}
	for _, key := range over {
		delete(w.attempt.Tags.Retiring, key)
	}
}

// unfenceTime is how long it may take to remove the tag of a run, whatever is left of its
// time.
const unfenceTime = time.Second

// awaitRetirement waits until no run withdraws a credential of the secret, for five seconds
// in all: most take less. The error is not permanent.
func (w *work) awaitRetirement(ctx context.Context, token string) error {
	if _, ok := w.store.(Fenced); !ok || w.step > SetSecret {
		return nil
	}
	for _, d := range settle {
		if !w.attempt.Tags.retiring().After(w.now()) {
			return nil
		}
		if err := w.pause(ctx, d); err != nil {
			return err
		}
		if err := w.load(ctx, token); err != nil {
			return err
		}
	}
	if end := w.attempt.Tags.retiring(); end.After(w.now()) {
		return fmt.Errorf("an older credential of the secret is being withdrawn by another run, which is over at %s at the latest: nothing was changed, and the next try goes on", end.UTC().Format(time.RFC3339))
	}
	return nil
}

// retireNow retires the version that the retire tag names.
func (w *work) retireNow(ctx context.Context) error {
	current, r, err := w.subject(ctx)
	if err != nil {
		return err
	}
	if err := w.retireAlone(ctx, r, current); err != nil {
		return fmt.Errorf("retiring version %s: %w", w.attempt.Tags.Retire, err)
	}
	return nil
}

// errDoesNotWork says why nothing was retired.
var errDoesNotWork = errors.New("what readers get does not work, so the older credential was left alone")

// errNotProved says that the rotator did its part, and that this does not show.
var errNotProved = errors.New("the retirement is not proved")

// retire withdraws the version that the retire tag names, once the current one
// is known to work, and proves it both ways before it is recorded: the old
// credential is refused, the current one works. A version that holds what readers
// get, stored anew by hand, is left alone.
func (w *work) retire(ctx context.Context, r rotators.Rotator, current rotators.Secret) error {
	retirer, ok := r.(rotators.Retirer)
	if !ok {
		return rotators.Permanent(fmt.Errorf("the rotator %q cannot retire: name in %srotator the one that made the old credential, or withdraw that by hand and remove the tag %s", w.rotator, TagPrefix, TagRetire))
	}
	old, err := w.value(ctx, PreviousValue)
	if err != nil {
		return err
	}
	if old.Equal(current) {
		w.attempt.Note = fmt.Sprintf("version %s holds what readers get, so it is not retired", w.attempt.Tags.Retire)
		return nil
	}
	if err := r.Test(ctx, w.rotation(rotators.Secret{}, current)); err != nil {
		return fmt.Errorf("%w: %w", errDoesNotWork, err)
	}
	if err := retirer.Retire(ctx, w.rotation(current, rotators.Secret{})); err != nil {
		return err
	}
	if !old.IsZero() {
		switch err := r.Test(ctx, w.rotation(rotators.Secret{}, old)); {
		case err == nil:
			return fmt.Errorf("%w: the old credential still works: if it stays so withdraw it by hand, then remove the tag %s", errNotProved, TagRetire)
		case !rotators.IsRefused(err):
			return fmt.Errorf("%w: cannot tell whether the old credential still works: %w", errNotProved, err)
		}
	}
	if err := r.Test(ctx, w.rotation(rotators.Secret{}, current)); err != nil {
		return fmt.Errorf("%w: the current credential: %w", errNotProved, err)
	}
	if err := w.store.Retired(ctx, w.attempt); err != nil {
		return err
	}
	w.retired = w.attempt.Tags.Retire
	return nil
}

// discard clears up after an attempt that is over, where nobody else does.
func (w *work) discard(ctx context.Context) error {
	if w.driven == nil {
		return nil
	}
	if err := w.driven.Discard(ctx, w.attempt); err != nil {
		return fmt.Errorf("readers get a value that works; clearing up the pending one: %w", err)
	}
	return nil
}

// settle ends an attempt that a change by hand overtook. The change stays. What
// the attempt stored is dropped once the target is known to refuse it: until
// then it may be the only credential that works.
func (w *work) settle(ctx context.Context, token string) (err error) {
	if err := w.load(ctx, token); err != nil {
		return err
	}
	current, r, err := w.subject(ctx)
	if err != nil {
		return err
	}
	switch err := r.Test(ctx, w.rotation(rotators.Secret{}, current)); {
	case rotators.IsRefused(err):
		return fmt.Errorf("%w: %w", ErrReadersRefused, err)
	case err != nil:
		return fmt.Errorf("%w: cannot tell whether the target accepts what they stored: %w", ErrSuperseded, err)
	}
	w.overtaken = true
	if w.attempt.State == Current {
		// Theirs came in the instant of promotion, and ours was the later one.
		w.attempt.Note = "somebody else stored a value in the instant of promotion, and the promoted one overwrote it; the target accepts that"
		if err := w.retireIfDue(ctx); err != nil {
			return err
		}
		return w.discard(ctx)
	}
	pending, err := w.value(ctx, PendingValue)
	if err != nil || pending.IsZero() {
		return err
	}
	err = r.Test(ctx, w.rotation(rotators.Secret{}, pending))
	if d, ok := r.(rotators.Discarder); ok && err == nil {
		// The next rotation would not know of it.
		switch err := d.Discard(ctx, w.rotation(current, pending)); {
		case errors.Is(err, rotators.ErrFormer):
			return w.orderRetirement(ctx)
		case err != nil:
			return fmt.Errorf("removing what this attempt made: %w", err)
		}
		w.attempt.Note = "somebody else changed the value meanwhile, and that stays so; what this attempt made is removed, unless their value holds it too"
		return w.discard(ctx)
	}
	switch {
	case err == nil:
		w.attempt.Note = "somebody else changed the value meanwhile; the one this attempt made works too, and is kept until the next rotation"
		return nil
	case !rotators.IsRefused(err):
		return fmt.Errorf("cannot tell whether the target accepts the value this attempt made: %w", err)
	}
	w.attempt.Note = "somebody else changed the value meanwhile, and that stays so"
	return w.discard(ctx)
}

// orderRetirement ends an attempt whose value was promoted, and overwritten before this
// run knew: applications have had it, so it gets its grace.
func (w *work) orderRetirement(ctx context.Context) error {
	version, err := w.driven.Promoted(ctx, w.attempt)
	if err != nil {
		return err
	}
	w.attempt.Note = "somebody else changed the value meanwhile, and that stays so; what this attempt made stays too, because applications may hold it"
	if version == "" {
		// Somebody stored it by hand, with something else beside it.
		return w.discard(ctx)
	}
	w.attempt.Note = fmt.Sprintf("somebody else overwrote version %s after its promotion, and that stays so; it is retired when its grace is over", version)
	if other := w.attempt.Tags.Retire; other != "" && other != version {
		w.attempt.Note += fmt.Sprintf(", in place of version %s: withdraw the credential of that by hand if no version in use holds it", other)
	}
	grace := w.graceOf(w.rotator)
	w.attempt.Tags.Retire, w.attempt.Tags.RetireAt = version, w.now().Add(grace)
	if err := w.driven.Order(ctx, w.attempt); err != nil {
		return err
	}
	if grace == 0 {
		w.attempt.Previous = version
		if err := w.retireNow(ctx); err != nil {
			return err
		}
	}
	return w.discard(ctx)
}

// subject reads the current value and finds its rotator.
func (w *work) subject(ctx context.Context) (current rotators.Secret, r rotators.Rotator, err error) {
	if current, err = w.current(ctx); err == nil {
		r, err = w.resolve(current)
	}
	return current, r, err
}

// resolve finds the rotator: by the tag, else by the engine field of value.
func (w *work) resolve(value rotators.Secret) (rotators.Rotator, error) {
	name, from := w.attempt.Tags.Settings.Rotator, "the tag "+TagPrefix+"rotator"
	if name == "" {
		from = `the field "engine" of the value`
		engine, err := value.Field("engine")
		if err != nil {
			return nil, fmt.Errorf("nothing says which rotator to use, neither the tag %srotator nor the field \"engine\" of the value: %w", TagPrefix, err)
		}
		if engine.IsZero() {
			return nil, rotators.Permanent(fmt.Errorf("nothing says which rotator to use: set the tag %srotator, or the field \"engine\" in the value, to one of %s", TagPrefix, strings.Join(w.Registry.Names(), ", ")))
		}
		name = engine.Reveal()
		if _, ok := w.Registry[name]; !ok {
			// People write PostgreSQL, and libraries postgresql+asyncpg.
			name, _, _ = strings.Cut(strings.ToLower(name), "+")
		}
	}
	r, ok := w.Registry[name]
	if !ok {
		return nil, rotators.Permanent(fmt.Errorf("%s asks for the rotator %q, and this function has %s", from, name, strings.Join(w.Registry.Names(), ", ")))
	}
	if w.attempt.Tags.Settings.Rotator == "" && tagged(r) {
		return nil, rotators.Permanent(fmt.Errorf("%s asks for the rotator %q, which makes something outside and so is used only where the owner's tag says so: set the tag %srotator to it", from, name, TagPrefix))
	}
	w.rotator = name
	return r, nil
}

// tagged tells whether a rotator is used only if the tag names it: whoever can write a
// value should not have keys minted by it. It also spares the others a call, since of
// these the tag, which costs none, says that there is something to retire.
func tagged(r rotators.Rotator) bool {
	_, mints := r.(rotators.Discarder)
	return mints
}

// rotation is what a rotator gets to see. Every value it reads is known to the
// mask before the rotator has it.
func (w *work) rotation(current, pending rotators.Secret) rotators.Rotation {
	settings := w.attempt.Tags.Settings
	settings.Password = narrow(w.Password, settings.Password)
	settings.Rotator = w.rotator
	if _, ok := w.Registry[w.rotator].(rotators.Retirer); ok {
		settings.Grace = w.graceOf(w.rotator)
	}
	return rotators.Rotation{
		ID:       w.attempt.ID,
		Token:    w.attempt.Token,
		Current:  current,
		Pending:  pending,
		Settings: settings,
		Limits:   w.Limits,
		Previous: func(ctx context.Context) (rotators.Secret, error) {
			stored, err := w.store.Value(ctx, w.attempt, PreviousValue)
			if err != nil {
				return rotators.Secret{}, err
			}
			value, err := w.present(stored)
			if rotators.IsPermanent(err) {
				// It was no credential: the owner has put it right since.
				return rotators.Secret{}, nil
			}
			return value, err
		},
		Leftovers: func(ctx context.Context) iter.Seq2[rotators.Secret, error] {
			return func(yield func(rotators.Secret, error) bool) {
				for stored, err := range w.store.Leftovers(ctx, w.attempt) {
					if rotators.IsPermanent(err) {
						continue // an older KMS key is gone, say: nobody can tell what it was
					}
					if err == nil {
						if stored, err = w.present(stored); rotators.IsPermanent(err) {
							continue // it was no credential
						}
					}
					if !yield(stored, err) {
						return
					}
				}
			}
		},
		Use: w.use,
		Lookup: func(ctx context.Context, ref string) (rotators.Secret, error) {
			if w.Others == nil {
				return rotators.Secret{}, noOthers(ref)
			}
			if w.Limits.DelegatedAdmins {
				if delegated, err := w.delegated(ctx, ref); err != nil {
					return rotators.Secret{}, err
				} else if !delegated {
					return rotators.Secret{}, rotators.Permanent(fmt.Errorf("%q is not read: this function takes only admins whose tag %sadmin-for names the rotated secret (its environment variable REKEY_ADMINS); have the admin's owner add this secret there", ref, TagPrefix))
				}
			}
			value, err := w.Others.Lookup(ctx, ref)
			w.mask.learnOther(value)
			return value, err
		},
		Vouches: w.delegated,
	}
}

// delegated reports whether the tag rekey:admin-for of another secret names the rotated
// one.
func (w *work) delegated(ctx context.Context, ref string) (bool, error) {
	if w.Others == nil {
		return false, noOthers(ref)
	}
	list, err := w.Others.AdminFor(ctx, ref)
	return err == nil && covers(list, w.attempt.ID), err
}

func noOthers(ref string) error {
	return rotators.Permanent(fmt.Errorf("%q cannot be read: this function looks up no other secrets", ref))
}

func (w *work) current(ctx context.Context) (rotators.Secret, error) {
	value, err := w.value(ctx, CurrentValue)
	if err == nil && value.IsZero() {
		err = errNoCurrent
	}
	return value, err
}

func (w *work) value(ctx context.Context, which Which) (rotators.Secret, error) {
	stored, err := w.store.Value(ctx, w.attempt, which)
	if err != nil {
		return rotators.Secret{}, err
	}
	return w.present(stored)
}

func (w *work) present(stored rotators.Secret) (rotators.Secret, error) {
	w.mask.learn(stored)
	value, err := w.attempt.Tags.present(stored)
	w.mask.learn(value)
	return value, err
}

func (w *work) pause(ctx context.Context, d time.Duration) error {
	if w.Pause != nil {
		return w.Pause(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// narrow puts an owner's password policy on top of the function's, which has no Only.
func narrow(function, owner rotators.PasswordPolicy) rotators.PasswordPolicy {
	owner.Exclude = function.Exclude + owner.Exclude
	if owner.Length == 0 {
		owner.Length = function.Length
	}
	return owner
}
