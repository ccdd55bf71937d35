// Package localaws is AWS on the laptop: an [http.Handler] that speaks the wire
// protocol of the calls rekey makes, in memory, so that the real SDK, the real
// AWS CLI and the shipped Lambda functions run against it unchanged
// (AWS_ENDPOINT_URL). It is for rekey's tests and for "rekey local"; nothing
// that runs on AWS imports it.
//
// It speaks Secrets Manager, and what rekey needs of
//
//   - Parameter Store: parameters with their versions, labels, tiers, policies and
//     tags, read by name, by ten and by path, described, and passed on to Secrets
//     Manager under /aws/reference/secretsmanager/
//   - KMS: CreateKey, DescribeKey, EnableKey, DisableKey, ScheduleKeyDeletion,
//     Encrypt, Decrypt, GenerateDataKey
//   - the Resource Groups Tagging API: GetResources, for parameters and secrets
//   - SQS, in both of its protocols: queues, FIFO and standard, with visibility,
//     deduplication and dead letters; Subscribe and Schedule invoke functions as
//     an event source mapping and EventBridge Scheduler do
//   - IAM: users with their tags and access keys, and CreateRole; with the time
//     that what is written takes to be known everywhere, where it is asked for
//   - STS: GetCallerIdentity, AssumeRole
//   - RDS: DescribeDBInstances, DescribeDBClusters
//
// and holds to what AWS documents: labels, empty pending versions, idempotence by
// token, limits, quotas, lists whose pages may be short, errors. RotateSecret
// really invokes the rotation function. SecureStrings are really encrypted, as
// AWS encrypts them: KMS opens what a read without decryption gives. Where AWS
// documents nothing, a comment says what was chosen. A call it does not speak is
// refused by name.
//
// Calls signed with a key that IAM or STS issued, AKIA... or ASIA..., are their
// caller's: the key must be active, its session not over, the signature right.
// Any other key, such as the "local" of a laptop, is the root of the account and
// not checked: a request must carry an Authorization header, that is all.
//
// What it leaves out: there are no permissions but those that Config.Authorize knows of,
// no trust policies and no resource
// policies, only IAM knows more accounts than one, secrets are not encrypted (their key's state alone counts) and not
// replicated (AddReplicaRegions is ignored), rotation schedules and parameter
// policies are validated and shown but start nothing, what is scheduled for
// deletion is never deleted, every list is up to date at once, and a message has
// no attributes of its sender's.
package localaws

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Function is a Lambda function. Invoke runs it once; a non-nil error says that
// the function failed. What it returns is not looked at, as on AWS.
type Function interface {
	Invoke(ctx context.Context, payload []byte) ([]byte, error)
}

// Call is one call that reached the server.
type Call struct {
	Service   string // "secretsmanager", "kms", "sts", "iam", "rds", "ssm", "tagging" or "sqs"
	Operation string // AWS's name: "GetSecretValue"
	N         int    // its place among all calls; 1 is the first
	Throttled bool   // refused for a quota or by Throttle; Config.Fault sees only the first
}

// Fault is what goes wrong with a call.
type Fault int

const (
	// None: the call is answered as AWS would.
	None Fault = iota
	// RefuseBefore: the call has no effect and fails with AccessDeniedException,
	// which SDKs do not retry.
	RefuseBefore
	// Throttle: the call has no effect and fails with ThrottlingException, which
	// SDKs retry.
	Throttle
	// LoseReply: the call has its effect, then the connection drops. SDKs retry.
	LoseReply
	// Lag: the call has its effect and is answered, but GetSecretValue does not
	// find the value it stored before CatchUp is called.
	Lag
	// Conflict: the call has no effect and fails with ConcurrentModification, as
	// IAM's do when another changes the same user; SDKs do not retry.
	Conflict
)

// Config says what a Server is. The zero Config is a whole one.
type Config struct {
	Region  string // "": us-east-1
	Account string // "": 000000000000
	// Functions are the Lambda functions there are, by name.
	Functions map[string]Function
	// Quotas are in calls a second; the zero value: none.
	Quotas Quotas
	// StandardParameters is how many parameters of the Standard tier there can be;
	// 0: any number. On AWS it is 10,000.
	StandardParameters int
	// IAMDelays are how long it takes until what was written to IAM is known
	// everywhere; the zero value: no time.
	IAMDelays IAMDelays
	// Fault decides what goes wrong with each call; nil: nothing. It may be
	// called by several requests at once.
	Fault func(Call) Fault
	// Authorize says which permission the holder of an access key lacks of those that a
	// call needs, nil if none; nil: everybody may do everything. It runs with the server
	// locked: it must not call it.
	Authorize func(accessKeyID string, needs []Access) *Denial
	// Now is the clock; nil: time.Now. Who moves it by hand calls Wake.
	Now func() time.Time
	// Pause waits between two tries of a rotation and ends the rotation by
	// returning an error; nil: really waits.
	Pause func(ctx context.Context, d time.Duration) error
	// Log gets one line per rotation step, delivered message and tick; nil: none.
	// No line holds a value.
	Log *slog.Logger
}

// Server is AWS on the laptop. Make one with New, serve it on a loopback
// address, Close it at the end.
type Server struct {
	config     Config
	operations map[string]operation

	stop context.CancelCauseFunc // ends every rotation
	life context.Context         // ends with stop
	runs sync.WaitGroup          // running rotations, pollers of queues and schedules

	// mu guards all that follows, what is in the maps included. It is held
	// for the whole of an operation, except while ReceiveMessage waits, and never
	// while a Function, Config.Fault or Config.Pause runs.
	mu        sync.Mutex
	calls     []Call
	functions map[string]Function
	secrets   map[string]*secret // by name
	arns      map[string]*secret
	keys      map[string]*key // by id
	aliases   map[string]*key // by name: "alias/aws/ssm"

	instances map[string]DBInstance // by identifier, as the next one
	clusters  map[string]DBCluster

	parameters     map[string]*parameter // by name
	parameterNames names
	secretNames    names
	deleted        map[string]time.Time // when a parameter of that name was deleted
	buckets        map[string]*bucket   // by pool
	pages          map[string]int       // how many pages of each best-effort list were asked for

	users      map[userName]*user
	accessKeys map[string]*iamKey  // by id
	roles      map[string]string   // the ids, by ARN
	sessions   map[string]*session // by the id of the key

	queues map[string]*queue // by name
	sent   int               // messages sent to FIFO queues
}

// New returns a Server with nothing in it.
func New(config Config) *Server {
	if config.Region == "" {
		config.Region = "us-east-1"
	}
	if config.Account == "" {
		config.Account = "000000000000"
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Pause == nil {
		config.Pause = wait
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		config:     config,
		operations: map[string]operation{},
		functions:  map[string]Function{},
		secrets:    map[string]*secret{},
		arns:       map[string]*secret{},
		keys:       map[string]*key{},
		aliases:    map[string]*key{},
		instances:  map[string]DBInstance{},
		clusters:   map[string]DBCluster{},
		parameters: map[string]*parameter{},
		deleted:    map[string]time.Time{},
		buckets:    map[string]*bucket{},
		pages:      map[string]int{},
		users:      map[userName]*user{},
		accessKeys: map[string]*iamKey{},
		roles:      map[string]string{},
		sessions:   map[string]*session{},
		queues:     map[string]*queue{},
	}
	for _, alias := range []string{secretsKey, parametersKey} {
		s.aliases[alias] = s.newKey("AWS", "Default key that protects my data when no other key is defined", config.Now())
	}
	s.life, s.stop = context.WithCancelCause(context.Background())
	maps.Copy(s.functions, config.Functions)
	maps.Copy(s.operations, s.secretsManagerOperations())
	maps.Copy(s.operations, s.kmsOperations())
	maps.Copy(s.operations, s.iamOperations())
	maps.Copy(s.operations, s.stsOperations())
	maps.Copy(s.operations, s.rdsOperations())
	maps.Copy(s.operations, s.ssmOperations())
	maps.Copy(s.operations, s.taggingOperations())
	maps.Copy(s.operations, s.sqsOperations())
	return s
}

// Handle adds a function, or replaces the one of that name. It is for functions
// that must know the server's address first.
func (s *Server) Handle(name string, f Function) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.functions[name] = f
}

// FunctionARN returns the ARN of the function of that name.
func (s *Server) FunctionARN(name string) string {
	return s.arn("lambda", "function:"+name)
}

// Calls returns every call so far, in order. Calls the server does not speak, or
// refused for want of an Authorization header, are not among them.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// CatchUp ends the Lag of every value stored so far.
func (s *Server) CatchUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sec := range s.secrets {
		for _, v := range sec.versions {
			v.lagging = false
		}
	}
}

// Close stops running rotations, deliveries of messages and schedules, and waits
// for them. The server goes on answering calls, but invokes no function any more.
func (s *Server) Close() {
	s.mu.Lock()
	s.stop(errClosed)
	s.mu.Unlock()
	s.runs.Wait()
}

func (s *Server) arn(service, resource string) string {
	return strings.Join([]string{"arn:aws", service, s.config.Region, s.config.Account, resource}, ":")
}

// call is what an operation is told about the request besides its input.
type call struct {
	now     time.Time
	lag     bool
	request *http.Request // its body has been read
	caller  caller
}

// operation carries out one call; s.mu is held. A non-nil error has had no
// effect. What is returned is encoded before s.mu is let go.
type operation func(c call, body []byte) (any, error)

// form makes an operation of a method that takes the query protocol's form.
func form(f func(call, url.Values) (any, error)) operation {
	return func(c call, body []byte) (any, error) {
		in, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, &apiError{code: "MalformedQueryString", message: "the request is not a form"}
		}
		return f(c, in)
	}
}

// decoded makes an operation of a method that takes the decoded JSON input.
func decoded[In any](f func(call, In) (any, error)) operation {
	return func(c call, body []byte) (any, error) {
		var in In
		if err := json.Unmarshal(body, &in); err != nil {
			// The decoder's error may quote the input, and the input may be a secret.
			return nil, &apiError{code: "SerializationException", message: "the request is not the JSON this operation takes"}
		}
		return f(c, in)
	}
}

// maxBody is above any request AWS accepts: the largest holds messages of 1 MiB,
// up to six times longer as escaped JSON.
const maxBody = 7 << 20

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the request could not be read", http.StatusRequestEntityTooLarge)
		return
	}
	service, name, p := target(r, body)
	w.Header().Set("X-Amzn-Requestid", newUUID())
	if r.Header.Get("Authorization") == "" {
		p.fail(w, p.missingToken())
		return
	}
	op, ok := s.operations[service+"."+name]
	if !ok {
		p.fail(w, p.unknown(service, name))
		return
	}
	now := s.config.Now()
	fault := s.count(service, name, now)
	switch fault {
	case RefuseBefore:
		p.fail(w, &apiError{code: p.accessDenied(), message: "localaws refused this call because its Config.Fault said so"})
		return
	case Throttle:
		p.fail(w, &apiError{code: p.throttled(), message: "Rate exceeded"})
		return
	case Conflict:
		p.fail(w, &apiError{status: http.StatusConflict, code: "ConcurrentModification", message: "The request was rejected because multiple requests to change this object were submitted simultaneously."})
		return
	}
	reply, err := s.do(op, call{now: now, lag: fault == Lag, request: r}, service, name, body, p)
	if fault == LoseReply {
		panic(http.ErrAbortHandler) // net/http drops the connection and logs nothing
	}
	if err != nil {
		p.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", p.contentType())
	_, _ = w.Write(reply)
}

// count writes the call down and tells what goes wrong with it. A call over its
// quota is throttled, unless Config.Fault refuses it.
func (s *Server) count(service, operation string, now time.Time) Fault {
	s.mu.Lock()
	c := Call{Service: service, Operation: operation, N: len(s.calls) + 1, Throttled: !s.allow(service, operation, now)}
	s.calls = append(s.calls, c)
	s.mu.Unlock()
	fault := None
	if s.config.Fault != nil {
		fault = s.config.Fault(c)
	}
	if c.Throttled && fault != RefuseBefore {
		fault = Throttle
	}
	s.mu.Lock()
	s.calls[c.N-1].Throttled = fault == Throttle
	s.mu.Unlock()
	return fault
}

func (s *Server) do(op operation, c call, service, name string, body []byte, p protocol) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if c.caller, err = s.authenticate(c.now, c.request, body); err != nil {
		return nil, err
	}
	if err := s.authorize(c, service, name, body); err != nil {
		return nil, err
	}
	out, err := op(c, body)
	if err != nil {
		return nil, err
	}
	return p.encode(out)
}

// protocol is one of the ways AWS's services talk.
type protocol string

const (
	jsonProtocol  protocol = "json"  // JSON 1.1: Secrets Manager, KMS, Parameter Store, tagging
	queryProtocol protocol = "query" // form in, XML out: IAM, STS, RDS, SQS as old clients speak it
	// sqsProtocol is JSON 1.0, with the error's name in the query protocol in a
	// header: who knew it by that name goes on doing so.
	sqsProtocol protocol = "sqs"
)

// target finds out which operation of which service is called. JSON services say
// it in a header. Query services say the operation and their version in the form.
func target(r *http.Request, body []byte) (service, operation string, p protocol) {
	if t := r.Header.Get("X-Amz-Target"); t != "" {
		service, operation, _ = strings.Cut(t, ".")
		switch service {
		case "TrentService":
			service = "kms"
		case "AmazonSSM":
			service = "ssm"
		case "ResourceGroupsTaggingAPI_20170126":
			service = "tagging"
		case "AmazonSQS":
			return "sqs", operation, sqsProtocol
		}
		return service, operation, jsonProtocol
	}
	form, err := url.ParseQuery(string(body))
	if err == nil && form.Has("Action") {
		service = "sts"
		switch form.Get("Version") {
		case iamVersion:
			service = "iam"
		case rdsVersion:
			service = "rds"
		case sqsVersion:
			service = "sqs"
		}
		return service, form.Get("Action"), queryProtocol
	}
	return r.Method, r.URL.Path, jsonProtocol
}

func (p protocol) contentType() string {
	switch p {
	case queryProtocol:
		return "text/xml"
	case sqsProtocol:
		return "application/x-amz-json-1.0"
	}
	return "application/x-amz-json-1.1"
}

func (p protocol) encode(out any) ([]byte, error) {
	if p == queryProtocol {
		return xml.Marshal(out)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// The same refusals have other names in the query protocol.

func (p protocol) accessDenied() string {
	if p == queryProtocol {
		return "AccessDenied"
	}
	return "AccessDeniedException"
}

func (p protocol) throttled() string {
	switch p {
	case queryProtocol:
		return "Throttling"
	case sqsProtocol:
		return "RequestThrottled"
	}
	return "ThrottlingException"
}

func (p protocol) missingToken() error {
	if p == queryProtocol {
		return &apiError{status: http.StatusForbidden, code: "MissingAuthenticationToken", message: "Request is missing Authentication Token"}
	}
	return &apiError{code: "MissingAuthenticationTokenException", message: "Missing Authentication Token"}
}

func (p protocol) unknown(service, operation string) error {
	code := "UnknownOperationException"
	if p == queryProtocol {
		code = "InvalidAction"
	}
	return &apiError{code: code, message: fmt.Sprintf("localaws does not speak %s %s", service, operation)}
}

// fail answers with err the way the service would.
func (p protocol) fail(w http.ResponseWriter, err error) {
	e := &apiError{status: http.StatusInternalServerError, code: "InternalServiceError", message: err.Error()}
	errors.As(err, &e)
	var out any = struct {
		Type    string `json:"__type"`
		Message string
	}{e.code, e.message}
	switch p {
	case queryProtocol:
		out = errorResponse{Type: "Sender", Code: e.queryCode(), Message: e.message}
	case sqsProtocol:
		w.Header().Set("X-Amzn-Query-Error", e.queryCode()+";Sender")
	}
	w.Header().Set("Content-Type", p.contentType())
	w.Header().Set("X-Amzn-Errortype", e.code)
	if e.status == 0 {
		e.status = http.StatusBadRequest
	}
	w.WriteHeader(e.status)
	body, _ := p.encode(out) // two strings always encode
	_, _ = w.Write(body)
}

type errorResponse struct {
	XMLName xml.Name `xml:"ErrorResponse"`
	Type    string   `xml:"Error>Type"`
	Code    string   `xml:"Error>Code"`
	Message string   `xml:"Error>Message"`
}

// apiError is an error AWS answers with. The message never holds a value.
type apiError struct {
	status        int // HTTP; 0: 400, as AWS answers nearly all of them
	code, message string
	query         string // the code in the query protocol; "": the same
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// errorCode is AWS's name of an error; "" for nil and for what is not AWS's.
func errorCode(err error) string {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e.code
	}
	return ""
}
func (e *apiError) queryCode() string { return cmp.Or(e.query, e.code) }

// epoch is a time as JSON 1.1 writes it: seconds since 1970, to the millisecond.
type epoch struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (e epoch) MarshalJSON() ([]byte, error) {
	ms := e.UnixMilli()
	return fmt.Appendf(nil, "%d.%03d", ms/1000, ms%1000), nil
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
