package paramstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/rotators"
)

// explain says what to do about a refusal of Parameter Store's that no retry
// cures. Other errors it returns as they are.
func explain(err error, p Parameter) error {
	var (
		pattern  *types.ParameterPatternMismatchException
		key      *types.InvalidKeyId
		full     *types.ParameterLimitExceeded
		labelled *types.ParameterMaxVersionLimitExceeded
		api      smithy.APIError
	)
	switch {
	case errors.As(err, &pattern):
		return rotators.Permanent(fmt.Errorf("the new value does not match the parameter's AllowedPattern %s: set rekey:password so that it does, or change the pattern (%w)", p.AllowedPattern, err))
	case errors.As(err, &key):
		return rotators.Permanent(fmt.Errorf("the parameter's KMS key %s cannot be used: enable it, or cancel its deletion, or give the parameter another with put-parameter --key-id (%w)", p.KeyID, err))
	case isKeyDenied(err):
		return rotators.Permanent(fmt.Errorf("the parameter's KMS key %s may not be used by this function: allow its role kms:Decrypt, kms:Encrypt and, for the tier Advanced, kms:GenerateDataKey through Parameter Store in the key's policy (%w)", p.KeyID, err))
	case errors.As(err, &full):
		return rotators.Permanent(fmt.Errorf("the account has no room for one more parameter, which a rotation needs while it runs: delete some, or raise the tier of others (%w)", err))
	case errors.As(err, &labelled):
		return rotators.Permanent(fmt.Errorf("the oldest of the parameter's %d versions has a label and cannot make room for the next: take the label off with unlabel-parameter-version (%w)", versionsKept, err))
	case errors.As(err, &api) && api.ErrorCode() == "ValidationException":
		return rotators.Permanent(fmt.Errorf("Parameter Store does not take the value: %w", err))
	}
	return err
}

// isKeyDenied tells whether it is KMS that denied something, on behalf of who called
// Parameter Store.
func isKeyDenied(err error) bool {
	var api smithy.APIError
	return isDenied(err) && errors.As(err, &api) && strings.Contains(strings.ToLower(api.ErrorMessage()), "kms")
}
