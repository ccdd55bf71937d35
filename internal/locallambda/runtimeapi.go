package locallambda

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// runtimeAPI serves the four calls of Lambda's Runtime API, version 2018-06-01,
// with the statuses its OpenAPI description lists: 202 for what was accepted,
// 400 for a request id that is not the current one, 403 for a call out of order,
// 413 for a response that is too large.
func (e *environment) runtimeAPI() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", e.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", e.response)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", e.invocationError)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", e.initializationError)
	return mux
}

func (e *environment) next(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	if e.polling || e.current != nil && !e.current.answered {
		e.mu.Unlock()
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "the current invocation has no response yet, or another poll is open")
		return
	}
	e.polling = true
	last := e.current
	e.current = nil
	e.mu.Unlock()

	if last != nil {
		close(last.done)
	}
	e.notePoll()

	var call *invocation
	select {
	case call = <-e.work:
	case <-r.Context().Done():
	}
	e.mu.Lock()
	e.polling = false
	e.current = call
	e.mu.Unlock()
	if call == nil {
		return
	}
	e.f.mu.Lock()
	e.f.stats.Invocations++
	e.f.mu.Unlock()

	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Lambda-Runtime-Aws-Request-Id", call.id)
	header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(call.deadline.UnixMilli(), 10))
	header.Set("Lambda-Runtime-Invoked-Function-Arn", e.f.ARN())
	header.Set("Lambda-Runtime-Trace-Id", traceID())
	w.Write(call.payload)
}

// notePoll lets the start of the process go on, at its first poll.
func (e *environment) notePoll() {
	select {
	case <-e.polled:
	default:
		e.f.mu.Lock()
		e.f.stats.FirstPoll = time.Since(e.started)
		e.f.mu.Unlock()
		close(e.polled)
	}
}

func (e *environment) response(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxResponse))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		tooLarge := &FunctionError{
			Type:    "Function.ResponseSizeTooLarge",
			Message: fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", maxResponse),
		}
		if e.answer(w, r, nil, tooLarge) {
			refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", tooLarge.Message)
		}
		return
	}
	if err != nil {
		return // The process went away while it sent; its exit is reported.
	}
	if e.answer(w, r, body, nil) {
		accept(w)
	}
}

func (e *environment) invocationError(w http.ResponseWriter, r *http.Request) {
	failed, err := readError(w, r)
	if err != nil {
		return // As in response.
	}
	if e.answer(w, r, nil, failed) {
		accept(w)
	}
}

// answer records the result of the current invocation. If the call is out of
// order it refuses it and returns false.
func (e *environment) answer(w http.ResponseWriter, r *http.Request, result []byte, failed *FunctionError) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch call := e.current; {
	case call == nil || call.id != r.PathValue("id"):
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return false
	case call.answered:
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "the invocation has a response already")
		return false
	default:
		call.answered, call.result, call.err = true, result, failed
		return true
	}
}

func (e *environment) initializationError(w http.ResponseWriter, r *http.Request) {
	failed, err := readError(w, r)
	if err != nil {
		return // As in response.
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.polled:
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "the start is over: the process has asked for an invocation")
		return
	default:
	}
	if e.initError != nil {
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "a failed start was reported already")
		return
	}
	e.initError = failed
	accept(w)
	close(e.failed)
}

// readError reads a failure as a process reports it: JSON, with the type also
// in a header. What is not such JSON still is a failure, known by the header.
func readError(w http.ResponseWriter, r *http.Request) (*FunctionError, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxResponse))
	if err != nil {
		return nil, err
	}
	var failed FunctionError
	if json.Unmarshal(body, &failed) != nil {
		failed = FunctionError{Message: string(body)}
	}
	if failed.Type == "" {
		failed.Type = r.Header.Get("Lambda-Runtime-Function-Error-Type")
	}
	if failed.Type == "" {
		failed.Type = "Runtime.Unknown"
	}
	return &failed, nil
}

func accept(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, `{"status":"OK"}`)
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(&FunctionError{Type: kind, Message: message})
}

// traceID makes an X-Ray trace header that asks for no tracing.
func traceID() string {
	var b [12]byte
	rand.Read(b[:])
	return fmt.Sprintf("Root=1-%08x-%x;Sampled=0", time.Now().Unix(), b)
}
