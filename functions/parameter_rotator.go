package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"golang.org/x/time/rate"

	"github.com/rekeyhq/rekey/internal/account"
	"github.com/rekeyhq/rekey/internal/due"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/internal/secretstore"
	"github.com/rekeyhq/rekey/rotators"
)

// ParameterRotator returns the handler for the queue that ParameterPlanner
// fills: one invocation takes one message and rotates one parameter, all four
// steps of it. Set the batch size of the event source mapping to 1.
//
// A message chooses what is rotated and nothing else: one that says more, or names what is
// not this function's, is refused with an EventError before AWS is asked for anything. A
// message whose work is done, or which came too late to begin, is taken and
// nothing is changed. A message that fails comes back after 30 seconds; the queue's
// redrive policy says when it is put aside.
//
// It reads the environment once: what docs/settings.md lists for functions. A
// mistake there fails every invocation, with an error that names the variable.
func ParameterRotator(cfg aws.Config, registry rotators.Registry) lambda.Handler {
	h := &parameterRotator{
		stage: os.Getenv("REKEY_STAGE"),
		queue: sqs.NewFromConfig(cfg),
		ssm:   parameterStore(cfg),
	}
	var setUpErr, urlErr error
	h.engine, h.accounts, setUpErr = setUp(cfg, registry)
	h.url, urlErr = queueURL(os.Getenv)
	writes, writesErr := writesPerSecond(os.Getenv)
	h.writes = rate.NewLimiter(rate.Limit(writes*ofShare), ofRotation)
	h.err = environmentError(setUpErr, urlErr, writesErr)
	return h
}

const (
	// ofShare is what a worker uses of its share of the writes. The planner needs some
	// too, for names that its policy denies, and so do people who run rekey rotate and
	// rekey plan. They are refused for as long as workers leave nothing.
	ofShare = 0.97
	// ofRotation is how many of the writes a rotation takes: to describe the parameter, to
	// store its record, and to promote. A worker saves up so many while it waits for a
	// slow target.
	ofRotation = 3
)

// parameterStore returns the client of both functions. Parameter Store's quotas
// are an account's, and others use them too, so a call that is throttled is
// tried again for longer than the SDK would.
func parameterStore(cfg aws.Config) *ssm.Client {
	return ssm.NewFromConfig(cfg, func(o *ssm.Options) { o.RetryMaxAttempts = 8 })
}

type parameterRotator struct {
	engine   rotation.Engine
	accounts *accounts
	stage    string
	ssm      *ssm.Client
	writes   *rate.Limiter
	queue    *sqs.Client
	url      string
	err      error // a mistake in the environment
}

// After how many seconds a message that failed is tried again.
const (
	// comeBack is as long as a deleted parameter's name must rest.
	comeBack = 30
	// soon is for messages that no worker of this version takes. Until such a message is
	// a dead letter it holds up its parameter's others.
	soon = 1
)

// Invoke implements lambda.Handler.
func (h *parameterRotator) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	if h.err != nil {
		return nil, h.err
	}
	record, m, err := readMessage(payload, function(ctx))
	if err == nil {
		if err := h.carryOut(ctx, m); err != nil {
			return nil, h.failed(ctx, record, err, comeBack)
		}
		return []byte("null"), nil
	}
	// The engine logs what fails in a step. This fails before.
	err = &EventError{err}
	h.engine.Log.ErrorContext(ctx, "event", "messageId", record.MessageId, "error", err.Error())
	return nil, h.failed(ctx, record, err, soon)
}

// readMessage decodes an event of one message, and checks all that can be known of the
// message before AWS is asked for anything.
func readMessage(payload []byte, here arn.ARN) (events.SQSMessage, queue.Message, error) {
	record, err := readQueueEvent(payload)
	if err != nil {
		return record, queue.Message{}, err
	}
	m, err := queue.Decode(record.Body)
	if err != nil {
		return record, m, err
	}
	return record, m, m.Check(here, record.Attributes["MessageGroupId"])
}

// readQueueEvent decodes an event of one message.
func readQueueEvent(payload []byte) (events.SQSMessage, error) {
	var event events.SQSEvent
	if err := json.Unmarshal(payload, &event); err != nil {
		return events.SQSMessage{}, errors.New("not a JSON object of the form that SQS sends: this function takes messages of a queue")
	}
	if len(event.Records) != 1 {
		return events.SQSMessage{}, fmt.Errorf("it holds %d messages: set the batch size of the event source mapping to 1, so that one that fails holds up no other", len(event.Records))
	}
	return event.Records[0], nil
}

// failed has the message come back after some seconds, sooner than it would by itself:
// it is kept from others for as long as the function may run.
func (h *parameterRotator) failed(ctx context.Context, m events.SQSMessage, err error, seconds int32) error {
	if m.ReceiptHandle == "" {
		return err
	}
	_, changeErr := h.queue.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
		QueueUrl: &h.url, ReceiptHandle: &m.ReceiptHandle, VisibilityTimeout: seconds,
	})
	if changeErr != nil {
		h.engine.Log.WarnContext(ctx, "the message comes back later than it should", "messageId", m.MessageId, "error", changeErr.Error())
	}
	return err
}

func (h *parameterRotator) carryOut(ctx context.Context, m queue.Message) error {
	if m.Retire != nil {
		return h.retire(ctx, *m.Retire)
	}
	return h.rotate(ctx, m)
}

// retire withdraws an old credential whose grace is over, of a parameter or of a
// secret.
func (h *parameterRotator) retire(ctx context.Context, r queue.Retirement) error {
	ctx = account.With(ctx, h.accounts.credentials, r.ARN)
	engine := h.engine
	engine.Others = &others{h.accounts, r.ARN}
	var store rotation.Store
	if r.Name != "" {
		store = h.store(ctx, paramstore.Parameter{ARN: r.ARN, Name: r.Name})
	} else {
		secret := secretstore.New(h.accounts.secrets(ctx, r.ARN), rotators.Secret{})
		secret.Keys = h.accounts.keys(ctx, r.ARN)
		store = secret
	}
	err := engine.Retire(ctx, store, r.ARN, r.Version)
	for _, hopeless := range []error{paramstore.ErrGone, paramstore.ErrUntagged, secretstore.ErrRotationOff, secretstore.ErrDeleted, secretstore.ErrReplica} {
		if errors.Is(err, hopeless) {
			return nil // the engine has logged it, and to try again at once would change nothing
		}
	}
	return err
}

func (h *parameterRotator) rotate(ctx context.Context, m queue.Message) error {
	p := m.Parameter
	ctx = account.With(ctx, h.accounts.credentials, p.ARN)
	engine := h.engine
	engine.Others = &others{h.accounts, p.ARN}
	store := h.store(ctx, p)
	why, err := h.drop(ctx, store, m)
	if err != nil {
		return h.logged(ctx, p, err)
	}
	if why != "" {
		h.engine.Log.InfoContext(ctx, "nothing is done", "id", p.ARN, "version", p.Base, "reason", why)
		return nil
	}
	err = engine.Run(ctx, store, p.ARN, p.Token())
	if !errors.Is(err, rotation.ErrReadersRefused) {
		return err
	}
	// What somebody stored by hand does not work. A new attempt, from their
	// version, has the target accept what readers get.
	now, err := store.Look(ctx, p.ARN, p.Token())
	if err == nil {
		p.Base, err = strconv.ParseInt(now.Current, 10, 64)
	}
	if err != nil {
		return h.logged(ctx, p, err)
	}
	again := h.store(ctx, p)
	again.Adopt = true
	return engine.Run(ctx, again, p.ARN, p.Token())
}

// store is the parameter's, for one order.
func (h *parameterRotator) store(ctx context.Context, p paramstore.Parameter) *paramstore.Store {
	store := paramstore.New(h.ssm, p, h.writes)
	store.Keys = h.accounts.keys(ctx, p.ARN)
	return store
}

// logged makes an error of what failed before a step, which the engine does not log.
func (h *parameterRotator) logged(ctx context.Context, p paramstore.Parameter, err error) error {
	err = &rotation.StepError{Step: rotation.CreateSecret, ID: p.ARN, Err: err}
	h.engine.Log.ErrorContext(ctx, "order", "id", p.ARN, "error", err.Error(), "permanent", rotators.IsPermanent(err))
	return err
}

// drop says why an order is not carried out; "" if it is. What has begun is
// always finished: the target may accept the pending value already.
func (h *parameterRotator) drop(ctx context.Context, store *paramstore.Store, m queue.Message) (why string, err error) {
	a, err := store.Look(ctx, m.Parameter.ARN, m.Parameter.Token())
	switch {
	case errors.Is(err, paramstore.ErrGone):
		return "the parameter was deleted", nil
	case errors.Is(err, paramstore.ErrUntagged):
		return paramstore.ErrUntagged.Error(), nil
	case err != nil:
		return "", err
	case a.State == rotation.Current && a.Tags.Retire == "" && !store.Begun():
		return fmt.Sprintf("version %s is current: the rotation is done, or somebody changed the parameter since it was ordered", a.Current), nil
	case a.State != rotation.Reserved:
		return "", nil
	}
	tags, err := store.Tags(ctx)
	if err != nil {
		return "", err
	}
	schedule, _, err := due.Read(tags)
	switch {
	case tags[rotation.TagPrefix+"rotator"] == "":
		return "the tag rekey:rotator was taken off", nil
	case err != nil:
		return "", err
	case schedule.Stage != h.stage:
		return fmt.Sprintf("the tag rekey:stage is %q since, and this function serves %q", schedule.Stage, h.stage), nil
	case schedule.Paused && m.Nonce == "":
		return "the tag rekey:paused was set", nil
	case !m.Until.IsZero() && time.Now().After(m.Until):
		return "the window is over; the planner orders it again in the next one", nil
	}
	return "", nil
}
