package locallambda

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bootstrap is the test function, built.
var bootstrap string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "locallambda")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bootstrap = filepath.Join(dir, "bootstrap")
		if out, err := exec.Command("go", "build", "-o", bootstrap, "./testfunction").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the test function: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// start returns a function that runs the test function until the test ends.
func start(t *testing.T, config Config) *Function {
	config.Name = "f"
	if config.Bootstrap == "" {
		config.Bootstrap = bootstrap
	}
	f := New(config)
	t.Cleanup(func() { f.Close() })
	return f
}

// do has the function do something and decodes its answer.
func do[T any](t *testing.T, f *Function, what, with string) T {
	t.Helper()
	var answer T
	out, err := f.Invoke(t.Context(), event(what, with))
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatalf("%s: %v in %q", what, err, out)
	}
	return answer
}

func event(what, with string) []byte {
	return fmt.Appendf(nil, `{"do":%q,"text":%q}`, what, with)
}

func TestOneProcessHandlesManyInvocations(t *testing.T) {
	f := start(t, Config{})
	for i := range 100 {
		text := fmt.Sprint("nr ", i)
		if got := do[string](t, f, "echo", text); got != text {
			t.Fatalf("echo returned %q, want %q", got, text)
		}
	}
	stats := f.Stats()
	if stats.Starts != 1 || stats.Invocations != 100 {
		t.Errorf("100 invocations took %d starts and %d invocations, want 1 and 100", stats.Starts, stats.Invocations)
	}
	if stats.FirstPoll <= 0 || stats.FirstPoll > initTime {
		t.Errorf("first poll after %v", stats.FirstPoll)
	}
	if stats.PeakRSS < 1<<20 || stats.PeakRSS > 1<<30 {
		t.Errorf("peak memory is %d bytes", stats.PeakRSS)
	}
	t.Logf("%+v", stats)
}

func TestConcurrentInvocationsRunInProcessesOfTheirOwn(t *testing.T) {
	const n = 4
	// Nobody gets an answer before all are there: had two to share a process,
	// they would wait for ever.
	var all sync.WaitGroup
	all.Add(n)
	meeting := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		all.Done()
		all.Wait()
	}))
	defer meeting.Close()

	f := start(t, Config{})
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := f.Invoke(t.Context(), event("call", meeting.URL))
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for range n {
		do[string](t, f, "echo", "again")
	}
	if got := f.Stats().Starts; got != n {
		t.Errorf("%d starts, want %d", got, n)
	}
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name, do, with string
		init           string
		kind, message  string
		starts         int // after the failure and one invocation that works
	}{
		{name: "error", do: "fail", with: "no such table", kind: "errorString", message: "no such table", starts: 1},
		{name: "error with a type", do: "fail as", with: "StepError", kind: "StepError", message: "as asked", starts: 1},
		{name: "panic", do: "panic", with: "out of range", kind: "string", message: "out of range", starts: 2},
		{name: "exit", do: "exit", kind: "Runtime.ExitError", message: "Error: Runtime exited with error: exit status 7", starts: 2},
		{name: "exit with status 0", do: "exit well", kind: "Runtime.ExitError", message: "Error: Runtime exited without providing a reason", starts: 2},
		{name: "time-out", do: "hang", kind: "Sandbox.Timedout", message: "Error: Task timed out after 0.50 seconds", starts: 2},
		{name: "large response", do: "big", kind: "Function.ResponseSizeTooLarge", message: "maximum allowed payload size (6291556 bytes)", starts: 2},
		{name: "exit at start", init: "exit", kind: "Runtime.ExitError", message: "Error: Runtime exited with error: exit status 3", starts: 2},
		{name: "error at start", init: "error", kind: "Config.Missing", message: "no table named", starts: 2},
		{name: "no poll", init: "hang", kind: "Runtime.InitError", message: "did not ask for an invocation within 0.50 seconds", starts: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, Config{Env: []string{"TESTFUNCTION_INIT=" + tt.init}})
			if tt.do == "hang" {
				f.config.Timeout = 500 * time.Millisecond
			}
			if tt.init == "hang" {
				f.init = 500 * time.Millisecond
			}
			out, err := f.Invoke(t.Context(), event(tt.do, tt.with))
			failed, ok := err.(*FunctionError)
			if !ok {
				t.Fatalf("returned %q and %v, want a *FunctionError", out, err)
			}
			if failed.Type != tt.kind || !strings.Contains(failed.Message, tt.message) {
				t.Errorf("failed with %q, want %q: ...%q...", failed, tt.kind, tt.message)
			}

			f.config.Env = nil
			f.config.Timeout = 30 * time.Second
			f.init = initTime
			do[string](t, f, "echo", "well again")
			if got := f.Stats().Starts; got != tt.starts {
				t.Errorf("%d starts, want %d", got, tt.starts)
			}
		})
	}
}

func TestNotExecutable(t *testing.T) {
	f := start(t, Config{Bootstrap: filepath.Join(t.TempDir(), "bootstrap")})
	_, err := f.Invoke(t.Context(), nil)
	if failed, ok := err.(*FunctionError); !ok || failed.Type != "Runtime.InvalidEntrypoint" {
		t.Errorf("got %v, want Runtime.InvalidEntrypoint", err)
	}
}

func TestAnIdleProcessThatDiesIsReplaced(t *testing.T) {
	f := start(t, Config{})
	pid := do[int](t, f, "pid", "")
	f.mu.Lock()
	e := f.idle[0]
	f.mu.Unlock()
	syscall.Kill(pid, syscall.SIGKILL)
	<-e.exited
	if again := do[int](t, f, "pid", ""); again == pid {
		t.Errorf("process %d answered after it was killed", pid)
	}
}

func TestCancelKillsTheProcess(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	called := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel(errors.New("somebody pressed ctrl-C"))
		<-r.Context().Done()
	}))
	defer called.Close()
	f := start(t, Config{})
	pid := do[int](t, f, "pid", "")
	_, err := f.Invoke(ctx, event("call", called.URL))
	if !errors.Is(err, context.Cause(ctx)) {
		t.Errorf("got %v, want the cause of the context", err)
	}
	if alive(pid) {
		t.Errorf("process %d lives on", pid)
	}
}

func TestContext(t *testing.T) {
	f := start(t, Config{Timeout: 20 * time.Second})
	type answer struct {
		ID, ARN string
		Left    time.Duration
	}
	one, two := do[answer](t, f, "context", ""), do[answer](t, f, "context", "")
	if one.ARN != f.ARN() || f.ARN() != "arn:aws:lambda:us-east-1:000000000000:function:f" {
		t.Errorf("the function is told its ARN is %q; it is %q", one.ARN, f.ARN())
	}
	if one.ID == two.ID || len(one.ID) != 36 {
		t.Errorf("request ids %q and %q, want two UUIDs", one.ID, two.ID)
	}
	if one.Left <= 10*time.Second || one.Left > 20*time.Second {
		t.Errorf("%v left until the deadline, want nearly 20 s", one.Left)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("AWS_SESSION_TOKEN", "the caller's")
	t.Setenv("HOME", "/home/caller")
	t.Setenv("SSL_CERT_FILE", "/etc/private-ca.pem")
	f := start(t, Config{Region: "eu-west-1", MemoryMB: 512, Env: []string{"A=b=c", "AWS_LAMBDA_LOG_LEVEL=DEBUG"}})
	env := do[[]string](t, f, "environ", "")
	want := []string{
		"AWS_LAMBDA_FUNCTION_NAME=f",
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=512",
		"AWS_LAMBDA_LOG_FORMAT=JSON",
		"AWS_LAMBDA_LOG_LEVEL=DEBUG",
		"AWS_REGION=eu-west-1",
		"_HANDLER=bootstrap",
		"LAMBDA_TASK_ROOT=" + filepath.Dir(bootstrap),
		"PATH=" + os.Getenv("PATH"),
		"SSL_CERT_FILE=/etc/private-ca.pem",
		"A=b=c",
	}
	for _, v := range want {
		if !slices.Contains(env, v) {
			t.Errorf("no %q in %q", v, env)
		}
	}
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		if name == "AWS_SESSION_TOKEN" || name == "HOME" {
			t.Errorf("%s of the caller reached the function", name)
		}
	}
}

func TestLog(t *testing.T) {
	var log bytes.Buffer
	f := start(t, Config{Log: &log})
	do[any](t, f, "print", "hello")
	f.Close()
	if got, want := log.String(), "hello\nstderr: hello\n"; got != want {
		t.Errorf("the log is %q, want %q", got, want)
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	called := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(called)
		<-r.Context().Done()
	}))
	defer server.Close()
	f := start(t, Config{})
	pid := do[int](t, f, "pid", "")
	busy := make(chan error)
	go func() {
		_, err := f.Invoke(t.Context(), event("call", server.URL))
		busy <- err
	}()
	<-called
	f.Close()

	if err := <-busy; !errors.Is(err, errClosed) {
		t.Errorf("the invocation under way got %v, want %v", err, errClosed)
	}
	if _, err := f.Invoke(t.Context(), nil); !errors.Is(err, errClosed) {
		t.Errorf("a later invocation got %v, want %v", err, errClosed)
	}
	if alive(pid) {
		t.Errorf("process %d lives on", pid)
	}
	// A server's goroutines end shortly after its Close.
	deadline := time.Now().Add(5 * time.Second)
	for {
		var all bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&all, 1)
		if !strings.Contains(all.String(), "locallambda.(*environment)") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines left:\n%s", &all)
		}
		runtime.Gosched()
	}
}

func TestPayloadLimit(t *testing.T) {
	f := start(t, Config{})
	if _, err := f.Invoke(t.Context(), make([]byte, maxRequest+1)); err == nil || f.Stats().Starts != 0 {
		t.Errorf("a payload over 6 MB got %v and %d starts", err, f.Stats().Starts)
	}
	text := strings.Repeat("x", 5<<20)
	if got := do[string](t, f, "echo", text); got != text {
		t.Errorf("a payload of 5 MB came back with %d bytes", len(got))
	}
}

// A process that keeps to the Runtime API sees none of these answers.
func TestRuntimeAPIRefusals(t *testing.T) {
	e := newEnvironment(New(Config{}))
	server := httptest.NewServer(e.runtimeAPI())
	defer server.Close()
	request := func(method, path, body string, want int) {
		t.Helper()
		r, _ := http.NewRequestWithContext(t.Context(), method, server.URL+"/2018-06-01/runtime/"+path, strings.NewReader(body))
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s %s: status %d, want %d", method, path, response.StatusCode, want)
		}
	}

	request("POST", "invocation/1/response", "", http.StatusBadRequest) // none is under way
	call := &invocation{id: "1", done: make(chan struct{})}
	go func() { e.work <- call }()
	request("GET", "invocation/next", "", http.StatusOK)
	request("GET", "invocation/next", "", http.StatusForbidden) // 1 has no response
	request("POST", "invocation/2/response", "", http.StatusBadRequest)
	request("POST", "init/error", "{}", http.StatusForbidden) // the start is over
	request("POST", "invocation/1/error", "not JSON", http.StatusAccepted)
	request("POST", "invocation/1/response", "", http.StatusForbidden) // 1 has a response
	request("POST", "invocation/next", "", http.StatusMethodNotAllowed)
	request("GET", "invocation/1", "", http.StatusNotFound)
	if want := (FunctionError{Type: "Runtime.Unknown", Message: "not JSON"}); *call.err != want {
		t.Errorf("the failure is %v, want %v", call.err, want)
	}
}

// alive tells whether a process exists and has not been waited for.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
