// Package locallambda runs a function's shipped bootstrap file on this machine
// the way Lambda does: as processes that poll the Runtime API, version
// 2018-06-01, with the environment variables Lambda documents. It is for the
// rekey command and for tests, which so run the very file that is deployed.
//
// What Lambda does and this does not: it freezes idle processes, enforces the
// memory size, isolates processes from the machine and from each other, runs
// extensions and streams responses.
package locallambda

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"
)

// maxRequest is Lambda's limit on the payload of a synchronous invocation, in
// bytes: 6 MB.
const maxRequest = 6 << 20

// maxResponse is Lambda's limit on a response, in bytes: what it names in the
// error it reports, 100 bytes over 6 MB.
const maxResponse = 6<<20 + 100

// initTime is how long Lambda lets a process take until its first poll.
const initTime = 10 * time.Second

// Config describes a function.
type Config struct {
	Name      string        // the function's name
	Bootstrap string        // path of the executable
	Region    string        // for the ARN and AWS_REGION; "": us-east-1
	Account   string        // for the ARN; "": 000000000000
	Env       []string      // "K=V", on top of Lambda's own; the last of equal names counts
	Timeout   time.Duration // of one invocation, the start of a process not counted; 0: 30 s
	MemoryMB  int           // told to the function, not enforced; 0: 256
	Log       io.Writer     // the processes' stdout and stderr; nil: discarded
}

// Function is one Lambda function. It is safe for concurrent use.
type Function struct {
	config Config
	init   time.Duration
	log    io.Writer

	running sync.WaitGroup // one for each process that has not been waited for

	mu     sync.Mutex
	closed bool
	all    map[*environment]bool // every process that has not been waited for
	idle   []*environment        // those that wait for an invocation, the last used at the end
	stats  Stats
}

// Stats is what a benchmark needs to know of a function.
type Stats struct {
	Starts      int           // processes started
	Invocations int           // invocations handed to a process
	FirstPoll   time.Duration // of the process that polled last for the first time: from exec to that poll
	// PeakRSS is the largest resident memory of any process, in bytes, read from
	// /proc when Stats is called and before a process is killed; 0 where there
	// is no /proc. The kernel's own account at exit (ru_maxrss) is no use here: a
	// child starts with its parent's peak.
	PeakRSS int64
}

// FunctionError says that the function failed, in the words in which Lambda
// reports it: those of the function itself if it gave any. Its JSON form is the
// payload Lambda returns.
type FunctionError struct {
	Type    string `json:"errorType"`
	Message string `json:"errorMessage"`
}

func (e *FunctionError) Error() string { return e.Type + ": " + e.Message }

// New returns a function. It starts nothing: the first invocation does.
func New(config Config) *Function {
	if config.Region == "" {
		config.Region = "us-east-1"
	}
	if config.Account == "" {
		config.Account = "000000000000"
	}
	if config.Timeout == 0 {
		config.Timeout = 30 * time.Second
	}
	if config.MemoryMB == 0 {
		config.MemoryMB = 256
	}
	if config.Log == nil {
		config.Log = io.Discard
	}
	// The process runs in its own folder, where a relative path means another file.
	if path, err := filepath.Abs(config.Bootstrap); err == nil {
		config.Bootstrap = path
	}
	return &Function{
		config: config,
		init:   initTime,
		log:    &lockedWriter{w: config.Log},
		all:    make(map[*environment]bool),
	}
}

// ARN returns the function's ARN.
func (f *Function) ARN() string {
	return fmt.Sprintf("arn:aws:lambda:%s:%s:function:%s", f.config.Region, f.config.Account, f.config.Name)
}

// Invoke hands payload to the function and returns its response. It uses the
// process of an earlier invocation if one is idle and starts one if none is, so
// concurrent invocations run in processes of their own. As on Lambda, an
// invocation is over when its process polls again or exits.
//
// The error is a *FunctionError if the function failed: its own error, or
// Lambda's. Sandbox.Timedout is a function that took longer than Config.Timeout
// and was killed, Runtime.ExitError one whose process exited,
// Runtime.InitError one that did not poll within 10 s,
// Runtime.InvalidEntrypoint one whose file cannot be executed,
// Function.ResponseSizeTooLarge one whose response is over 6 MB. The next
// invocation then starts a new process. When ctx ends first, the process is
// killed and the error wraps the cause of ctx.
func (f *Function) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	if len(payload) > maxRequest {
		return nil, fmt.Errorf("invoke %s: the payload has %d bytes; Lambda takes at most %d", f.config.Name, len(payload), maxRequest)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("invoke %s: %w", f.config.Name, err)
	}
	call := &invocation{id: newID(), payload: payload, done: make(chan struct{})}
	result, err := f.invoke(ctx, call)
	if failed, ok := errors.AsType[*FunctionError](err); ok {
		return nil, failed
	}
	if err != nil {
		return nil, fmt.Errorf("invoke %s: %w", f.config.Name, err)
	}
	return result, nil
}

func (f *Function) invoke(ctx context.Context, call *invocation) ([]byte, error) {
	for {
		e := f.takeIdle()
		if e == nil {
			break
		}
		result, err := e.run(ctx, call)
		// An idle process can exit before it takes the invocation. That is no
		// failure of the invocation, which another process then gets.
		if err != errNotTaken {
			return result, err
		}
	}
	e, err := f.start(ctx, call.id)
	if err != nil {
		return nil, err
	}
	result, err := e.run(ctx, call)
	if err == errNotTaken {
		return nil, e.exitError(call.id)
	}
	return result, err
}

// Stats returns what has been counted and measured so far.
func (f *Function) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	for e := range f.all {
		f.stats.PeakRSS = max(f.stats.PeakRSS, e.peakRSS())
	}
	return f.stats
}

// Close kills the function's processes and waits until they are gone.
// Invocations under way fail, as do later ones. The error is always nil.
func (f *Function) Close() error {
	f.mu.Lock()
	f.closed = true
	f.idle = nil
	for e := range f.all {
		f.stats.PeakRSS = max(f.stats.PeakRSS, e.peakRSS())
		e.kill()
	}
	f.mu.Unlock()
	f.running.Wait()
	return nil
}

var errClosed = errors.New("the function is closed")

// takeIdle returns the idle process used last, nil if there is none.
func (f *Function) takeIdle() *environment {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.idle) == 0 {
		return nil
	}
	last := len(f.idle) - 1
	e := f.idle[last]
	f.idle = f.idle[:last]
	return e
}

// putIdle makes e available to other invocations, unless it is gone.
func (f *Function) putIdle(e *environment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all[e] && !f.closed {
		f.idle = append(f.idle, e)
	}
}

// lockedWriter keeps the output of several processes apart.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A process must not block or die because its log cannot be written.
	l.w.Write(p)
	return len(p), nil
}

// newID returns a random UUID, the form of Lambda's request ids.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
