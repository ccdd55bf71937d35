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
	p := s.parameter
	var (
		pattern  *types.ParameterPatternMismatchException
		full     *types.ParameterLimitExceeded
		labelled *types.ParameterMaxVersionLimitExceeded
		api      smithy.APIError
	)
	switch {
	case errors.As(err, &pattern):
		return rotators.Permanent(fmt.Errorf("the new value does not match the parameter's AllowedPattern %s: set rekey:password so that it does, or change the pattern (%w)", p.AllowedPattern, err))
	case keys.IsFailure(err):
		return keys.Explain(ctx, s.Keys, p.KeyID, err)
	case errors.As(err, &full):
		return rotators.Permanent(fmt.Errorf("the account has no room for one more parameter, which a rotation needs while it runs: delete some, or raise the tier of others (%w)", err))
	case errors.As(err, &labelled):
		return rotators.Permanent(fmt.Errorf("the oldest of the parameter's %d versions has a label and cannot make room for the next: take the label off with unlabel-parameter-version (%w)", versionsKept, err))
	case errors.As(err, &api) && api.ErrorCode() == "ValidationException":
		return rotators.Permanent(fmt.Errorf("Parameter Store does not take the value: %w", err))
	}
	return err
}
