// Package keys tells whether a KMS key can be used, and if not, what to do about it. It
// is for the stores, which have Secrets Manager and Parameter Store encrypt: these say
// that it failed, and not which key it was or why.
package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/rotators"
)

// Managed tells whether a key is one that AWS manages, which always can be used: the
// default of Secrets Manager, which has no name, and the keys alias/aws/....
func Managed(id string) bool {
	return id == "" || id == "DefaultEncryptionKey" || strings.HasPrefix(id, "alias/aws/") || strings.Contains(id, ":alias/aws/")
}

// Usable returns nil if the key encrypts and decrypts, as far as its state tells: who may
// use it does not show. It costs one call, and none for keys that AWS manages. The error
// names the key and is permanent, unless it cannot tell. A denial of the call itself is no
// error: a key's policy may allow the key's use through Secrets Manager and Parameter Store
// (kms:ViaService) and not allow this call, which comes through neither.
func Usable(ctx context.Context, client *kms.Client, id string) error {
	if Managed(id) {
		return nil
	}
	out, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
	var missing *types.NotFoundException
	var api smithy.APIError
	switch {
	case errors.As(err, &missing):
		return rotators.Permanent(fmt.Errorf("the KMS key %s does not exist: %s (%w)", id, another, err))
	case errors.As(err, &api) && api.ErrorCode() == "AccessDeniedException":
		return nil
	case err != nil:
		return fmt.Errorf("asking for the state of the KMS key %s: %w", id, err)
	}
	key := out.KeyMetadata
	var todo string
	switch key.KeyState {
	case types.KeyStateEnabled, types.KeyStateUpdating: // which encrypts, too
		return nil
	case types.KeyStateDisabled:
		todo = "enable it with aws kms enable-key"
	case types.KeyStatePendingDeletion:
		todo = fmt.Sprintf("what it encrypts is lost from %s on, so take that back with aws kms cancel-key-deletion and then aws kms enable-key", aws.ToTime(key.DeletionDate).UTC().Format(time.DateOnly))
	case types.KeyStateCreating:
		return fmt.Errorf("the KMS key %s is being created", aws.ToString(key.Arn))
	default:
		todo = "see what KMS says about that state"
	}
	return rotators.Permanent(fmt.Errorf("the KMS key %s is in the state %s: %s, or %s", aws.ToString(key.Arn), key.KeyState, todo, another))
}

const another = "choose another key with update-secret --kms-key-id, for a parameter with put-parameter --key-id"

// IsFailure tells whether an error of Secrets Manager or Parameter Store is about a key.
func IsFailure(err error) bool {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch code := api.ErrorCode(); code {
	case "DecryptionFailure", "EncryptionFailure", // of Secrets Manager
		"InvalidKeyId", // of Parameter Store
		"DisabledException":
		return true
	case "AccessDeniedException":
		// Not about the secret or parameter itself, but about its key. The texts are those of
		// IAM, of Secrets Manager and of KMS. They have spaces in them, which no name has: a
		// denial also names the role of the caller and the resource, and "kms" may be in both.
		message := strings.ToLower(api.ErrorMessage())
		return slices.ContainsFunc([]string{"perform: kms:", "access to kms", "customer master key"}, func(text string) bool { return strings.Contains(message, text) })
	default:
		return strings.HasPrefix(code, "KMS")
	}
}

// Explain makes of such an error one that names the key, its state, and what to do. Other
// errors it returns as they are. A nil client leaves the state out.
func Explain(ctx context.Context, client *kms.Client, id string, err error) error {
	if !IsFailure(err) || rotators.IsPermanent(err) {
		return err
	}
	if client != nil {
		if unusable := Usable(ctx, client, id); rotators.IsPermanent(unusable) {
			return rotators.Permanent(fmt.Errorf("%w (%w)", unusable, err))
		}
	}
	name := "of the service's own choice"
	if id != "" {
		name = id
	}
	return rotators.Permanent(fmt.Errorf("the KMS key %s cannot be used: allow this function's role kms:Decrypt, kms:Encrypt and kms:GenerateDataKey of it, in its own policy and in the key's, and see that it is enabled (%w)", name, err))
}
