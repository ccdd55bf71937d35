package locallambda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// environment is what Lambda calls an execution environment: one process, and
// the Runtime API it polls, on an address of its own, so that the address tells
// who is calling.
type environment struct {
	f       *Function
	cmd     *exec.Cmd
	started time.Time

	polled chan struct{}    // closed at the first poll
	work   chan *invocation // received from by a poll
	failed chan struct{}    // closed when the process reports that its start failed
	exited chan struct{}    // closed when the process has been waited for

	mu        sync.Mutex
	polling   bool           // a poll is open
	current   *invocation    // taken by the process and not over
	initError *FunctionError // as reported by the process
}

// invocation is one call of the function. Its result belongs to the lock of the
// environment that has taken it.
type invocation struct {
	id       string
	payload  []byte
	deadline time.Time
	done     chan struct{} // closed when the process polls again

	answered bool
	result   []byte
	err      *FunctionError
}

// errNotTaken says that a process exited before it took an invocation.
var errNotTaken = errors.New("the process exited before it took the invocation")

func newEnvironment(f *Function) *environment {
	return &environment{
		f:      f,
		polled: make(chan struct{}),
		work:   make(chan *invocation),
		failed: make(chan struct{}),
		exited: make(chan struct{}),
	}
}

// start starts a process and waits for its first poll. The id is that of the
// invocation it is started for.
func (f *Function) start(ctx context.Context, id string) (*environment, error) {
	e := newEnvironment(f)
	if err := e.exec(id); err != nil {
		return nil, err
	}
	limit := time.NewTimer(f.init)
	defer limit.Stop()
	var err error
	select {
	case <-e.polled:
		return e, nil
	case <-e.failed:
		err = e.reported()
	case <-e.exited:
		// A process that reports why it cannot start exits right after, and then
		// both channels are ready.
		if err = e.reported(); err == nil {
			err = e.exitError(id)
		}
	case <-limit.C:
		err = lambdaError("Runtime.InitError", id, "the process did not ask for an invocation within %.2f seconds of its start", f.init.Seconds())
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	e.stop()
	return nil, err
}

// exec starts the process and the server it polls.
func (e *environment) exec(id string) error {
	f := e.f
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: e.runtimeAPI()}

	e.cmd = exec.Command(f.config.Bootstrap)
	e.cmd.Dir = filepath.Dir(f.config.Bootstrap)
	e.cmd.Env = f.environ(listener.Addr().String())
	e.cmd.Stdout, e.cmd.Stderr = f.log, f.log
	// A group of its own lets the process's children be killed with it, and keeps
	// a terminal's ctrl-C for whoever runs this.
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// How long output is read from children that outlive the process.
	e.cmd.WaitDelay = time.Second

	// Start under the lock, so that Close finds every process there is.
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		listener.Close()
		return errClosed
	}
	e.started = time.Now()
	if err := e.cmd.Start(); err != nil {
		listener.Close()
		return lambdaError("Runtime.InvalidEntrypoint", id, "%v", err)
	}
	f.stats.Starts++
	f.all[e] = true
	f.running.Go(func() { server.Serve(listener) })
	f.running.Go(func() {
		e.cmd.Wait()
		syscall.Kill(-e.cmd.Process.Pid, syscall.SIGKILL)
		server.Close()
		e.forget()
		close(e.exited)
	})
	return nil
}

// environ is the environment Lambda documents ("Using Lambda environment
// variables" in its guide) and, of the caller's own, what finding programs,
// temporary folders and certificate authorities takes.
func (f *Function) environ(address string) []string {
	env := []string{
		"AWS_LAMBDA_RUNTIME_API=" + address,
		"AWS_LAMBDA_FUNCTION_NAME=" + f.config.Name,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.Itoa(f.config.MemoryMB),
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + f.config.Name,
		"AWS_LAMBDA_LOG_STREAM_NAME=" + time.Now().UTC().Format("2006/01/02") + "/[$LATEST]" + newID(),
		"AWS_LAMBDA_LOG_FORMAT=JSON",
		"AWS_LAMBDA_LOG_LEVEL=INFO",
		"AWS_REGION=" + f.config.Region,
		"AWS_DEFAULT_REGION=" + f.config.Region,
		"_HANDLER=bootstrap",
		"LAMBDA_TASK_ROOT=" + filepath.Dir(f.config.Bootstrap),
		"LAMBDA_RUNTIME_DIR=/var/runtime",
		"LANG=en_US.UTF-8",
		"TZ=:UTC",
	}
	for _, name := range []string{"PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return append(env, f.config.Env...)
}

// run hands call to the process and returns its result, or errNotTaken if the
// process exits before it polls for it. After it the process is idle or gone.
func (e *environment) run(ctx context.Context, call *invocation) ([]byte, error) {
	timeout := e.f.config.Timeout
	call.deadline = time.Now().Add(timeout)
	limit := time.NewTimer(timeout)
	defer limit.Stop()

	timedOut := func() error {
		e.stop()
		return lambdaError("Sandbox.Timedout", call.id, "Task timed out after %.2f seconds", timeout.Seconds())
	}
	cancelled := func() error {
		e.stop()
		return context.Cause(ctx)
	}

	select {
	case e.work <- call:
	case <-e.exited:
		return nil, errNotTaken
	case <-limit.C:
		return nil, timedOut()
	case <-ctx.Done():
		return nil, cancelled()
	}
	select {
	case <-call.done:
		e.f.putIdle(e)
	case <-e.exited:
	case <-limit.C:
		return nil, timedOut()
	case <-ctx.Done():
		return nil, cancelled()
	}

	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case !call.answered:
		return nil, e.exitError(call.id)
	case call.err != nil:
		return nil, call.err
	}
	return call.result, nil
}

// reported returns what the process reported about a failed start, nil if it
// reported nothing.
func (e *environment) reported() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.initError == nil {
		return nil
	}
	return e.initError
}

// exitError says how the process exited, which it must have done.
func (e *environment) exitError(id string) error {
	e.f.mu.Lock()
	closed := e.f.closed
	e.f.mu.Unlock()
	if closed {
		return errClosed
	}
	how := e.cmd.ProcessState
	if how.Success() {
		return lambdaError("Runtime.ExitError", id, "Runtime exited without providing a reason")
	}
	return lambdaError("Runtime.ExitError", id, "Runtime exited with error: %s", how)
}

// stop kills the process and waits until it is gone.
func (e *environment) stop() {
	rss := e.peakRSS()
	e.f.mu.Lock()
	e.f.stats.PeakRSS = max(e.f.stats.PeakRSS, rss)
	e.f.mu.Unlock()
	e.kill()
	<-e.exited
}

// kill kills the process and its children, unless it has exited.
func (e *environment) kill() {
	select {
	case <-e.exited:
	default:
		syscall.Kill(-e.cmd.Process.Pid, syscall.SIGKILL)
	}
}

// forget takes a process that has exited off the function's lists.
func (e *environment) forget() {
	e.f.mu.Lock()
	defer e.f.mu.Unlock()
	delete(e.f.all, e)
	for i, idle := range e.f.idle {
		if idle == e {
			e.f.idle = append(e.f.idle[:i], e.f.idle[i+1:]...)
			break
		}
	}
}

// peakRSS reads the process's largest resident memory so far, in bytes.
func (e *environment) peakRSS() int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			var kib int64
			fmt.Sscanf(string(value), "%d kB", &kib)
			return kib << 10
		}
	}
	return 0
}

// lambdaError is an error that Lambda, not the function, reports: it names the
// request.
func lambdaError(kind, id, format string, args ...any) *FunctionError {
	return &FunctionError{Type: kind, Message: fmt.Sprintf("RequestId: %s Error: ", id) + fmt.Sprintf(format, args...)}
}
