package localaws

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
)

// How often a rotation is tried, and how long it rests after the first failure;
// each further rest is twice as long. AWS says only that it tries again "multiple
// times" while the window is open. These are short because somebody watches.
const (
	tries     = 4
	firstRest = time.Second
)

// Why a rotation ended without having succeeded or failed.
var (
	errAbandoned = errors.New("the rotation was abandoned: its version carries neither AWSPENDING nor AWSCURRENT any more")
	errCanceled  = errors.New("the rotation was canceled by CancelRotateSecret")
	errClosed    = errors.New("the rotation was stopped: localaws is closing")
)

// The steps, in order.
var (
	steps     = []string{"createSecret", "setSecret", "testSecret", "finishSecret"}
	testSteps = []string{"testSecret"}
)

// rotation is one rotation of one secret, with all its tries.
type rotation struct {
	token    string
	function Function
	dry      bool // runs testSecret only, then removes its version

	cancel context.CancelCauseFunc
	done   chan struct{} // closed when it is over
	err    error         // how it ended; read it after done
}

func (r *rotation) running() bool {
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

type rotateSecretInput struct {
	SecretId, ClientRequestToken, RotationLambdaARN string
	RotationRules                                   *rotationRules
	RotateImmediately                               *bool
}

func (s *Server) rotateSecret(c call, in rotateSecretInput) (any, error) {
	sec, err := s.find(in.SecretId)
	if err != nil {
		return nil, err
	}
	token, err := tokenOrNew(in.ClientRequestToken)
	if err != nil {
		return nil, err
	}
	if in.RotationRules != nil {
		if err := in.RotationRules.check(); err != nil {
			return nil, err
		}
	}
	if err := s.writable(sec); err != nil {
		return nil, err
	}
	arn := in.RotationLambdaARN
	if arn == "" {
		arn = sec.function
	}
	if arn == "" {
		return nil, invalidRequest("No Lambda rotation function ARN is associated with this secret: give RotationLambdaARN.")
	}
	function, err := s.findFunction(arn)
	if err != nil {
		return nil, err
	}
	out := versionOutput{ARN: sec.arn, Name: sec.name, VersionId: token}
	last, open := sec.rotation, sec.open()
	switch again := last != nil && last.token == token; {
	case again && !last.running() && open != nil && open.id == token:
		// The same request once more, after all its tries failed. AWS goes on
		// trying by itself while the window is open; here the caller asks for it.
	case again:
		return out, nil // an SDK that lost the first reply
	case open != nil || last != nil && last.running():
		return nil, invalidRequest("A previous rotation isn't complete. That rotation will be reattempted.")
	case sec.version(token) != nil:
		return nil, invalidRequest("ClientRequestToken %s is already in use for a version of secret %s.", token, sec.arn)
	default:
		if err := s.reserve(sec, token, c.now); err != nil {
			return nil, err
		}
	}
	sec.function = arn
	if in.RotationRules != nil {
		sec.rules = in.RotationRules
	}
	sec.enable()
	sec.schedule(c.now)
	s.start(sec, &rotation{
		token:    token,
		function: function,
		dry:      in.RotateImmediately != nil && !*in.RotateImmediately,
	})
	return out, nil
}

// Reserve leaves a secret the way RotateSecret leaves it before it invokes the
// function for the first time: rotation enabled, by the function that template.yaml
// makes in a stack named rekey, and an empty version of that id with AWSPENDING. It is for tests that take the four steps themselves.
func (s *Server) Reserve(secretID, token string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sec, err := s.find(secretID)
	if err != nil {
		return err
	}
	if sec.open() != nil || sec.version(token) != nil {
		return fmt.Errorf("version %s of %s cannot be reserved: it exists, or another one is pending", token, sec.arn)
	}
	if err := s.reserve(sec, token, s.config.Now()); err != nil {
		return err
	}
	sec.enable()
	sec.function = cmp.Or(sec.function, s.arn("lambda", "function:rekey-secret-rotator"))
	return nil
}

func (s *Server) reserve(sec *secret, token string, now time.Time) error {
	if err := sec.roomFor(pending); err != nil {
		return err
	}
	v, err := sec.add(token, now)
	if err != nil {
		return err
	}
	sec.attach(pending, v)
	sec.changed = now
	return nil
}

func (sec *secret) enable() {
	on := true
	sec.rotationEnabled = &on
}

// schedule sets when the next rotation is due, if a rule says so.
func (sec *secret) schedule(now time.Time) {
	sec.next = time.Time{}
	if sec.rules != nil && sec.rotationEnabled != nil && *sec.rotationEnabled {
		sec.next = sec.rules.next(now)
	}
}

// cancelRotateSecret leaves the labels as they are: AWSPENDING must be taken off
// by hand before the next rotation.
func (s *Server) cancelRotateSecret(c call, in secretInput) (any, error) {
	sec, err := s.find(in.SecretId)
	if err != nil {
		return nil, err
	}
	if err := s.writable(sec); err != nil {
		return nil, err
	}
	off := false
	sec.rotationEnabled = &off
	sec.schedule(c.now)
	sec.changed = c.now
	out := versionOutput{ARN: sec.arn, Name: sec.name}
	if sec.rotation != nil && sec.rotation.running() {
		out.VersionId = sec.rotation.token
		sec.rotation.cancel(errCanceled)
	}
	return out, nil
}

// findFunction finds a function by its ARN, with or without a version or alias.
func (s *Server) findFunction(arn string) (Function, error) {
	name, ok := strings.CutPrefix(arn, s.FunctionARN(""))
	name, _, _ = strings.Cut(name, ":")
	f, known := s.functions[name]
	if !ok || !known {
		var have []string
		for _, name := range slices.Sorted(maps.Keys(s.functions)) {
			have = append(have, s.FunctionARN(name))
		}
		return nil, notFound("There is no Lambda function %s. There are: [%s].", arn, strings.Join(have, " "))
	}
	return f, nil
}

// start runs a rotation in the background; s.mu is held.
func (s *Server) start(sec *secret, r *rotation) {
	var ctx context.Context
	ctx, r.cancel = context.WithCancelCause(s.life)
	r.done = make(chan struct{})
	sec.rotation = r
	if s.life.Err() != nil {
		// Close may have stopped waiting for rotations: run none it does not know.
		r.err = errClosed
		close(r.done)
		return
	}
	s.runs.Go(func() {
		defer r.cancel(nil)
		err := s.rotate(ctx, sec, r)
		s.finish(sec, r, err)
	})
}

// rotate tries the whole rotation until it succeeds, from the first step and
// with the same token each time.
func (s *Server) rotate(ctx context.Context, sec *secret, r *rotation) error {
	if r.dry {
		return s.try(ctx, sec, r, testSteps)
	}
	for n, rest := 1, firstRest; ; n, rest = n+1, 2*rest {
		err := s.try(ctx, sec, r, steps)
		if err == nil || n == tries || errors.Is(err, errAbandoned) || ctx.Err() != nil {
			return err
		}
		if s.config.Pause(ctx, rest) != nil {
			return err
		}
	}
}

// try invokes the function for each step, up to the first that fails.
func (s *Server) try(ctx context.Context, sec *secret, r *rotation, steps []string) error {
	for _, step := range steps {
		if s.abandoned(sec, r) {
			return errAbandoned
		}
		started := s.config.Now()
		err := s.invoke(ctx, sec, r, step)
		log, outcome := s.config.Log.Info, "ok"
		if err != nil {
			log, outcome = s.config.Log.Warn, err.Error()
		}
		log("rotation step", "secret", sec.arn, "version", r.token, "step", step,
			slog.Int64("ms", s.config.Now().Sub(started).Milliseconds()), "outcome", outcome)
		switch {
		case err == nil:
		case s.abandoned(sec, r):
			return errAbandoned
		default:
			return err
		}
	}
	return nil
}

// invoke takes one step.
func (s *Server) invoke(ctx context.Context, sec *secret, r *rotation, step string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	payload, err := json.Marshal(events.SecretsManagerSecretRotationEvent{
		Step:               step,
		SecretID:           sec.arn,
		ClientRequestToken: r.token,
		RotationToken:      newUUID(),
	})
	if err != nil {
		return err
	}
	if _, err := r.function.Invoke(ctx, payload); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("the function failed during %s of %s: %w", step, sec.arn, err)
	}
	if step == "finishSecret" && !s.promoted(sec, r) {
		return fmt.Errorf("the function ended finishSecret of %s well, but AWSCURRENT is not on version %s", sec.arn, r.token)
	}
	return nil
}

// abandoned tells whether the version lost its part in the rotation: a value was
// stored by hand, the label was taken away, or the secret is gone.
func (s *Server) abandoned(sec *secret, r *rotation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := sec.version(r.token)
	return !sec.deletion.IsZero() || v == nil || !v.has(pending) && !v.has(current)
}

func (s *Server) promoted(sec *secret, r *rotation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := sec.version(r.token)
	return v != nil && v.has(current)
}

// finish writes down how a rotation ended.
func (s *Server) finish(sec *secret, r *rotation, err error) {
	now := s.config.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.dry:
		sec.versions = slices.DeleteFunc(sec.versions, func(v *version) bool {
			return v.id == r.token && !v.has(current)
		})
	case err == nil:
		sec.Rotated, sec.changed = now, now
		sec.schedule(now)
	}
	r.err = err
	close(r.done)
}

// Wait waits until no rotation of the secret runs and returns how the last one
// ended: nil if it succeeded, or if there was none. The error of a function that
// failed is wrapped in it.
func (s *Server) Wait(ctx context.Context, secretID string) error {
	for {
		r, err := s.lastRotation(secretID)
		if err != nil || r == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.done:
		}
		if last, err := s.lastRotation(secretID); err != nil || last == r {
			return r.err
		}
	}
}

func (s *Server) lastRotation(secretID string) (*rotation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sec, err := s.find(secretID)
	if err != nil {
		return nil, err
	}
	return sec.rotation, nil
}

// wait waits, unless ctx ends first.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rotationRules say when a secret is due.
type rotationRules struct {
	AutomaticallyAfterDays int    `json:",omitempty"`
	Duration               string `json:",omitempty"`
	ScheduleExpression     string `json:",omitempty"`
}

// The grammar of schedules, as Secrets Manager's user guide gives it.
var (
	durationRule = regexp.MustCompile(`^(\d{1,2})h$`)
	rateRule     = regexp.MustCompile(`^rate\((\d+) (hour|day)s?\)$`)
	cronRule     = regexp.MustCompile(`^cron\(0 (\d{1,2})?(?:/(\d{1,2}))? (\S+) (\S+) (\S+) \*\)$`)
	cronDay      = regexp.MustCompile(`^([0-9,*/?L-]|SUN|MON|TUE|WED|THU|FRI|SAT)+$`)
	cronMonth    = regexp.MustCompile(`^([0-9,*/-]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)+$`)
	cronWeekday  = regexp.MustCompile(`^([1-7#,*/?L-]|SUN|MON|TUE|WED|THU|FRI|SAT)+$`)
)

// Limits of the schedule grammar.
const (
	maxDays  = 1000 // AutomaticallyAfterDays
	maxRate  = 999  // days in rate()
	minHours = 4    // between two rotations
)

// check refuses rules that Secrets Manager refuses.
func (r *rotationRules) check() error {
	hours := 24 // the most a window may last
	switch {
	case (r.AutomaticallyAfterDays != 0) == (r.ScheduleExpression != ""):
		return invalidParameter("RotationRules takes either AutomaticallyAfterDays or ScheduleExpression.")
	case r.AutomaticallyAfterDays < 0 || r.AutomaticallyAfterDays > maxDays:
		return invalidParameter("AutomaticallyAfterDays must be 1 to %d.", maxDays)
	case strings.HasPrefix(r.ScheduleExpression, "rate("):
		n, unit, ok := r.rate()
		if !ok || unit == "hour" && (n < minHours || n > maxRate*24) || unit == "day" && (n < 1 || n > maxRate) {
			return invalidParameter("ScheduleExpression must be rate(N hours), N at least %d, or rate(N days), N 1 to %d.", minHours, maxRate)
		}
		if unit == "hour" {
			hours = min(hours, n)
		}
	case r.ScheduleExpression != "":
		m := cronRule.FindStringSubmatch(r.ScheduleExpression)
		if m == nil || !cronHour(m[1], m[2]) || !cronDay.MatchString(m[3]) || !cronMonth.MatchString(m[4]) || !cronWeekday.MatchString(m[5]) || (m[3] == "?") == (m[5] == "?") {
			return invalidParameter("ScheduleExpression must be rate(N hours), rate(N days), or cron(0 Hour Day-of-month Month Day-of-week *) with ? in one of the day fields, at most every %d hours.", minHours)
		}
	}
	if r.Duration != "" {
		n, ok := r.duration()
		if !ok || n < 1 || n > hours {
			return invalidParameter("Duration must be 1h to %dh for this schedule.", hours)
		}
	}
	return nil
}

// cronHour tells whether start and step are hours: "8", "/8" or "8/8" in the
// expression, not more often than allowed.
func cronHour(start, step string) bool {
	h, startErr := strconv.Atoi(start)
	n, stepErr := strconv.Atoi(step)
	if start == "" && step == "" || startErr == nil && h > 23 {
		return false
	}
	return stepErr != nil || n >= minHours && n <= 23
}

func (r *rotationRules) rate() (n int, unit string, ok bool) {
	m := rateRule.FindStringSubmatch(r.ScheduleExpression)
	if m == nil {
		return 0, "", false
	}
	n, err := strconv.Atoi(m[1])
	return n, m[2], err == nil
}

func (r *rotationRules) duration() (hours int, ok bool) {
	m := durationRule.FindStringSubmatch(r.Duration)
	if m == nil {
		return 0, false
	}
	hours, err := strconv.Atoi(m[1])
	return hours, err == nil
}

// next returns the latest time of the next rotation: the last second of its
// window. A window of days opens at midnight UTC and lasts for the day, one of
// hours opens on the hour and lasts for one, if no Duration is given. For cron it
// returns the zero time: DescribeSecret then shows none.
func (r *rotationRules) next(last time.Time) time.Time {
	n, unit := r.AutomaticallyAfterDays, "day"
	if n == 0 {
		var ok bool
		if n, unit, ok = r.rate(); !ok {
			return time.Time{}
		}
	}
	last = last.UTC()
	open, hours := time.Date(last.Year(), last.Month(), last.Day()+n, 0, 0, 0, 0, time.UTC), 24
	if unit == "hour" {
		open, hours = last.Truncate(time.Hour).Add(time.Duration(n)*time.Hour), 1
	}
	if d, ok := r.duration(); ok {
		hours = d
	}
	return open.Add(time.Duration(hours)*time.Hour - time.Second)
}
