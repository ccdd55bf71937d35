// Package watch watches a rotation from the outside: it does what an application
// does that uses the credential, keeps count of what happens to it, and draws that.
// It is for the rekey command and for tests of what rekey promises readers.
//
// The application it plays reads the secret or parameter, logs in at once with
// what it got, logs out and begins again. Each of these logins counts as tried,
// and those that the target refuses count as refused: also one that was begun a
// moment before the value changed, because a real one would have been refused too.
// A login that failed for another reason (no network, no connection left) is
// counted apart, as one that tells nothing.
//
// Beside that application, every other credential that was seen is tried as well,
// the pending one included, to show when the target accepts it. Those logins are
// drawn, and are not among the ones counted for the application.
package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// Source is where a credential is read.
type Source struct {
	Name    string
	Current func(context.Context) (rotators.Secret, error) // what readers get
	Pending func(context.Context) (rotators.Secret, error) // zero: none
	// Pace is the least time from the start of one read to that of the next, and
	// half of that between two of what is pending.
	Pace time.Duration
}

// Watcher watches one credential. Its fields are set before Run.
type Watcher struct {
	Source Source
	Reader *rotation.Reader
	// Stay: Run does not end by itself.
	Stay bool
	// Seen is called after each login; nil: nobody is. Calls come one at a time,
	// and must not call the Watcher.
	Seen func(Login)

	start time.Time
	tasks sync.WaitGroup

	mu      sync.Mutex // of all below
	record  *Record
	values  []rotators.Secret // by lane
	current int               // the lane readers got last; -1: none yet
	pending int               // the lane that was pending last; -1: none
	moved   bool              // readers got another credential than at first
	changed time.Duration     // when something was last other than before
	missed  int               // reads that failed
	lost    error             // why the last of them did
	unclear error             // why the last login that told nothing did not
}

const (
	// pace is the least time from the start of one login to that of the next with
	// the same credential.
	pace = 10 * time.Millisecond
	// maxLogin is how long a login may take.
	maxLogin = 10 * time.Second
	// settled is how long nothing must have changed after a rotation for it to be
	// over: one that retires at once does so within the step that promotes.
	settled = 2 * time.Second
)

// Run watches until ctx ends or, without Stay, until readers got another
// credential, none is pending, and nothing changed for two seconds. It fails only
// at the start: if the credential cannot be read, or if nobody can tell whether
// the target accepts it.
func (w *Watcher) Run(ctx context.Context) error {
	w.mu.Lock()
	w.start, w.record, w.current, w.pending = time.Now(), NewRecord(w.Source.Name), -1, -1
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer w.tasks.Wait()
	defer cancel()

	value, err := w.Source.Current(ctx)
	if err != nil {
		return fmt.Errorf("reading %s: %w", w.Source.Name, err)
	}
	if err := w.login(ctx, w.lane(ctx, value, &w.current), true); err != nil && !rotators.IsRefused(err) && ctx.Err() == nil {
		return fmt.Errorf("cannot tell whether the target accepts what %s holds: %w", w.Source.Name, err)
	}
	w.tasks.Go(func() { w.lookForPending(ctx) })
	repeat(ctx, w.Source.Pace, func() bool {
		value, err := w.Source.Current(ctx)
		if err != nil {
			w.miss(ctx, err)
			return true
		}
		_ = w.login(ctx, w.lane(ctx, value, &w.current), true) // is in the record
		return w.Stay || !w.over()
	})
	return nil
}

// Record returns what was seen so far.
func (w *Watcher) Record() *Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.record == nil {
		return NewRecord(w.Source.Name)
	}
	r := *w.record
	r.Notes = slices.Clone(r.Notes)
	if w.missed > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%s failed, the last one so: %v", count(w.missed, "read"), bounded.Text(w.lost.Error())))
	}
	if w.unclear != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("The last login that told nothing: %s", bounded.Printable(w.unclear.Error())))
	}
	r.Lanes = slices.Clone(r.Lanes)
	for i := range r.Lanes {
		r.Lanes[i].Spans = slices.Clone(r.Lanes[i].Spans)
	}
	return &r
}

// lane finds the lane of a value, or makes one and has it tried from now on. It
// notes that readers, or those who look for what is pending, got it.
func (w *Watcher) lane(ctx context.Context, value rotators.Secret, who *int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	lane := slices.IndexFunc(w.values, value.Equal)
	if lane < 0 {
		w.values = append(w.values, value)
		lane = w.record.AddLane(w.Reader.User(value))
		w.tasks.Go(func() {
			repeat(ctx, pace, func() bool {
				if !w.readersGet(lane) {
					_ = w.login(ctx, lane, false) // is in the record
				}
				return true
			})
		})
	}
	if *who != lane {
		w.moved = w.moved || who == &w.current && *who >= 0
		*who, w.changed = lane, time.Since(w.start)
	}
	return lane
}

// readersGet tells whether the application has this credential, and so tries it.
func (w *Watcher) readersGet(lane int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current == lane
}

// login tries a credential and records what came of it. One that the end of the
// watch called off is not recorded.
func (w *Watcher) login(ctx context.Context, lane int, readers bool) error {
	w.mu.Lock()
	value := w.values[lane]
	w.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, maxLogin)
	defer cancel()
	l := Login{Lane: lane, From: time.Since(w.start), Readers: readers}
	err := w.Reader.Login(limited, value)
	l.To = time.Since(w.start)
	switch {
	case err == nil:
		l.Outcome = Accepted
	case rotators.IsRefused(err):
		l.Outcome = Refused
	case ctx.Err() != nil:
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.Outcome == Unclear {
		w.unclear = err
	}
	if w.record.Add(l) {
		w.changed = l.To
	}
	if w.Seen != nil {
		w.Seen(l)
	}
	return err
}

// over tells whether a rotation was seen to its end.
func (w *Watcher) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.moved && (w.pending < 0 || w.pending == w.current) && time.Since(w.start)-w.changed >= settled
}

// lookForPending reads what is pending, as long as it is allowed to.
func (w *Watcher) lookForPending(ctx context.Context) {
	repeat(ctx, 2*w.Source.Pace, func() bool {
		value, err := w.Source.Pending(ctx)
		switch denied := smithy.APIError(nil); {
		case errors.As(err, &denied) && denied.ErrorCode() == "AccessDeniedException":
			w.mu.Lock()
			defer w.mu.Unlock()
			w.record.Notes = append(w.record.Notes, "What is pending may not be read, so each credential is seen only from when readers got it.")
			return false
		case err != nil:
			w.miss(ctx, err)
		case value.IsZero():
			w.mu.Lock()
			defer w.mu.Unlock()
			w.pending = -1
		default:
			w.lane(ctx, value, &w.pending)
		}
		return true
	})
}

// miss notes a read that failed. AWS's errors hold no values.
func (w *Watcher) miss(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.missed, w.lost = w.missed+1, err
}

// repeat does something over and over, so that at least the given time is between
// two starts, until it says that it is done or ctx ends.
func repeat(ctx context.Context, apart time.Duration, do func() (more bool)) {
	for ctx.Err() == nil {
		next := time.NewTimer(apart)
		if !do() {
			next.Stop()
			return
		}
		select {
		case <-next.C:
		case <-ctx.Done():
			next.Stop()
		}
	}
}
