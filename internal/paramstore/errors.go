package paramstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/internal/keys"
	"github.com/rekeyhq/rekey/rotators"
)

// explain says what to do about a refusal of Parameter Store's that no retry
// cures. Other errors it returns as they are.
func (s *Store) explain(ctx context.Context, err error) error {
	var (
		pattern  *types.ParameterPatternMismatchException
		full     *types.ParameterLimitExceeded
		labelled *types.ParameterMaxVersionLimitExceeded
		api      smithy.APIError
	)
	switch {
	case errors.As(err, &pattern):
		return rotators.Permanent(fmt.Errorf("the new value does not match the parameter's AllowedPattern %s: set rekey:password so that it does, or change the pattern (%w)", s.described.AllowedPattern, err))
	case keys.IsFailure(err):
		return keys.Explain(ctx, s.Keys, s.keyID(ctx), err)
	case errors.As(err, &full):
		return rotators.Permanent(fmt.Errorf("the account has no room for one more parameter, which a rotation needs while it runs: delete some, or raise the tier of others (%w)", err))
	case errors.As(err, &labelled):
		return rotators.Permanent(fmt.Errorf("the oldest of the parameter's %d versions has a label and cannot make room for the next: take the label off with unlabel-parameter-version (%w)", versionsKept, err))
	case errors.As(err, &api) && api.ErrorCode() == "ValidationException":
		return rotators.Permanent(fmt.Errorf("Parameter Store does not take the value: %w", err))
	}
	return err
}

// keyID is the parameter's KMS key, for an error to name; "" if that cannot be told.
func (s *Store) keyID(ctx context.Context) string {
	d := s.described
	if d == nil {
		d, _ = s.describe(ctx) // the value could not be read, which comes first
	}
	if d == nil {
		return ""
	}
	return d.KeyID
}
