// Package functions builds Lambda handlers from a registry of rotators. It is
// what a main needs, rekey's own or one with your rotators beside rekey's:
//
//	func main() {
//		cfg, err := config.LoadDefaultConfig(context.Background())
//		if err != nil {
//			log.Fatal(err)
//		}
//		lambda.Start(functions.SecretRotator(cfg, rotators.Registry{
//			"postgres": postgres.New(cfg, nil),
//			"acme":     acme.New(nil),
//		}))
//	}
package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/rekeyhq/rekey/internal/account"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/internal/secretstore"
	"github.com/rekeyhq/rekey/rotators"
)

// EventError says that an event is not one the function takes. Nothing was
// changed. Lambda reports the name of this type as the errorType.
type EventError struct{ Err error }

func (e *EventError) Error() string { return "event: " + e.Err.Error() }
func (e *EventError) Unwrap() error { return e.Err }

// EnvironmentError says that an environment variable of the function is set to
// what it does not take. Nothing was changed. Lambda reports the name of this
// type as the errorType.
type EnvironmentError struct{ Err error }

func (e *EnvironmentError) Error() string { return "environment: " + e.Err.Error() }
func (e *EnvironmentError) Unwrap() error { return e.Err }

// SecretRotator returns the handler for Secrets Manager's rotation events: one
// invocation is one of the steps createSecret, setSecret, testSecret and
// finishSecret of one secret.
//
// It reads the environment once: what docs/settings.md lists for functions. A
// mistake there fails every invocation, with an error that names the variable. What
// rotators log by package slog then goes to Lambda's log, as JSON.
func SecretRotator(cfg aws.Config, registry rotators.Registry) lambda.Handler {
	h := &secretRotator{}
	var err error
	h.engine, h.accounts, err = setUp(cfg, registry)
	h.err = environmentError(err)
	return h
}

// setUp makes of the registry and the environment what both rotating functions
// have.
func setUp(cfg aws.Config, registry rotators.Registry) (engine rotation.Engine, accounts *accounts, err error) {
	engine.Log = slog.New(lambdacontext.NewLogHandler())
	slog.SetDefault(engine.Log) // what rotators log, Lambda takes as JSON, too
	var policyErr, limitsErr, limitErr, roleErr error
	engine.Password, policyErr = passwordPolicy(os.Getenv)
	engine.Limits, limitsErr = limits(os.Getenv)
	engine.Registry, limitErr = limit(registry, os.Getenv("REKEY_ROTATORS"))
	accounts, roleErr = newAccounts(cfg, os.Getenv)
	return engine, accounts, errors.Join(policyErr, limitsErr, limitErr, roleErr)
}

// environmentError is nil if all errors are.
func environmentError(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return &EnvironmentError{err}
	}
	return nil
}

type secretRotator struct {
	accounts *accounts
	engine   rotation.Engine
	err      error // a mistake in the environment
}

// Invoke implements lambda.Handler.
func (h *secretRotator) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	if h.err != nil {
		return nil, h.err
	}
	event, step, err := readRotationEvent(payload)
	if err != nil {
		return nil, &EventError{err}
	}
	engine := h.engine
	engine.Others = &others{h.accounts, event.SecretID}
	client := h.accounts.secrets(ctx, event.SecretID)
	ctx = account.With(ctx, h.accounts.credentials, event.SecretID)
	store := secretstore.New(client, rotators.NewSecret(event.RotationToken))
	store.Keys = h.accounts.keys(ctx, event.SecretID)
	if err := engine.Step(ctx, store, step, event.SecretID, event.ClientRequestToken); err != nil {
		return nil, err
	}
	return []byte("null"), nil
}

// readRotationEvent decodes an event. Its errors name fields and never hold
// what was in them: one of them is the rotation token.
func readRotationEvent(payload []byte) (event events.SecretsManagerSecretRotationEvent, step rotation.Step, err error) {
	if err := json.Unmarshal(payload, &event); err != nil {
		var mistyped *json.UnmarshalTypeError
		if errors.As(err, &mistyped) && mistyped.Field != "" {
			return event, 0, fmt.Errorf("the field %s is no string", mistyped.Field)
		}
		return event, 0, errors.New("not a JSON object: this function takes Secrets Manager's rotation events")
	}
	for _, f := range []struct{ name, value string }{
		{"Step", event.Step}, {"SecretId", event.SecretID}, {"ClientRequestToken", event.ClientRequestToken},
	} {
		if f.value == "" {
			return event, 0, fmt.Errorf("the field %s is missing: this function takes Secrets Manager's rotation events", f.name)
		}
	}
	// Secrets Manager's own limits for a version id.
	if n := len(event.ClientRequestToken); n < 32 || n > 64 {
		return event, 0, fmt.Errorf("the ClientRequestToken has %d characters: a version id has 32 to 64", n)
	}
	step, err = rotation.ParseStep(event.Step)
	return event, step, err
}
