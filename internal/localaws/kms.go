package localaws

import (
	"cmp"
	"crypto/cipher"
	"fmt"
	"strings"
	"time"
)

// The states of a KMS key. Only an enabled one encrypts and decrypts.
const (
	keyEnabled         = "Enabled"
	keyDisabled        = "Disabled"
	keyPendingDeletion = "PendingDeletion"
)

// The keys AWS keeps for secrets and for parameters that name none. They are
// always enabled, and CreateKey did not make them.
const (
	secretsKey    = "alias/aws/secretsmanager"
	parametersKey = "alias/aws/ssm"
)

// symmetricDefault is both the kind of every key and what it encrypts with.
const symmetricDefault = "SYMMETRIC_DEFAULT"

// key is a symmetric KMS key. SecureStrings are encrypted under it; secrets are
// kept as they are, and its state alone decides whether they can be read and
// written.
type key struct {
	id, arn, description string
	manager              string // "AWS" or "CUSTOMER"
	state                string
	denied               bool // to everybody
	created, deletion    time.Time
	aead                 cipher.AEAD
}

func (s *Server) kmsOperations() map[string]operation {
	return map[string]operation{
		"kms.CreateKey":           decoded(s.createKey),
		"kms.DescribeKey":         decoded(s.describeKey),
		"kms.DisableKey":          decoded(s.disableKey),
		"kms.EnableKey":           decoded(s.enableKey),
		"kms.ScheduleKeyDeletion": decoded(s.scheduleKeyDeletion),
		"kms.Encrypt":             decoded(s.encrypt),
		"kms.Decrypt":             decoded(s.decrypt),
		"kms.GenerateDataKey":     decoded(s.generateDataKey),
	}
}

type keyInput struct{ KeyId string }

type keyMetadata struct {
	AWSAccountId          string
	KeyId                 string
	Arn                   string
	CreationDate          epoch
	Enabled               bool
	Description           string
	KeyUsage              string
	KeyState              string
	DeletionDate          epoch `json:",omitzero"`
	Origin                string
	KeyManager            string
	CustomerMasterKeySpec string
	KeySpec               string
	EncryptionAlgorithms  []string
	MultiRegion           bool
}

type keyOutput struct{ KeyMetadata keyMetadata }

func (s *Server) keyOutput(k *key) keyOutput {
	return keyOutput{keyMetadata{
		AWSAccountId:          s.config.Account,
		KeyId:                 k.id,
		Arn:                   k.arn,
		CreationDate:          epoch{k.created},
		Enabled:               k.state == keyEnabled,
		Description:           k.description,
		KeyUsage:              "ENCRYPT_DECRYPT",
		KeyState:              k.state,
		DeletionDate:          epoch{k.deletion},
		Origin:                "AWS_KMS",
		KeyManager:            k.manager,
		CustomerMasterKeySpec: symmetricDefault,
		KeySpec:               symmetricDefault,
		EncryptionAlgorithms:  []string{symmetricDefault},
	}}
}

type createKeyInput struct{ Description, KeySpec, CustomerMasterKeySpec string }

func (s *Server) createKey(c call, in createKeyInput) (any, error) {
	for _, spec := range []string{in.KeySpec, in.CustomerMasterKeySpec} {
		if spec != "" && spec != symmetricDefault {
			return nil, &apiError{code: "UnsupportedOperationException", message: "localaws makes symmetric keys only: leave KeySpec out"}
		}
	}
	return s.keyOutput(s.newKey("CUSTOMER", in.Description, c.now)), nil
}

func (s *Server) newKey(manager, description string, now time.Time) *key {
	id := newUUID()
	k := &key{
		id: id, arn: s.arn("kms", "key/"+id), description: description, manager: manager,
		state: keyEnabled, created: now, aead: newAEAD(randomBytes(32)),
	}
	s.keys[id] = k
	return k
}

func (s *Server) describeKey(_ call, in keyInput) (any, error) {
	k, err := s.resolveKey(in.KeyId)
	if err == nil && k.denied {
		err = keyDenied(k)
	}
	if err != nil {
		return nil, err
	}
	return s.keyOutput(k), nil
}

func (s *Server) disableKey(_ call, in keyInput) (any, error) {
	return s.setKeyState(in.KeyId, keyDisabled)
}

func (s *Server) enableKey(_ call, in keyInput) (any, error) {
	return s.setKeyState(in.KeyId, keyEnabled)
}

func (s *Server) setKeyState(id, state string) (any, error) {
	k, err := s.findOwnKey(id)
	if err != nil {
		return nil, err
	}
	if k.state == keyPendingDeletion {
		return nil, pendingDeletion(k)
	}
	k.state = state
	return struct{}{}, nil
}

type scheduleKeyDeletionInput struct {
	KeyId               string
	PendingWindowInDays int
}

type scheduleKeyDeletionOutput struct {
	KeyId               string
	DeletionDate        epoch
	KeyState            string
	PendingWindowInDays int
}

func (s *Server) scheduleKeyDeletion(c call, in scheduleKeyDeletionInput) (any, error) {
	k, err := s.findOwnKey(in.KeyId)
	if err != nil {
		return nil, err
	}
	days := in.PendingWindowInDays
	if days == 0 {
		days = 30
	}
	switch {
	case k.state == keyPendingDeletion:
		return nil, pendingDeletion(k)
	case days < 7 || days > 30:
		return nil, validation("PendingWindowInDays must be 7 to 30")
	}
	k.state, k.deletion = keyPendingDeletion, c.now.AddDate(0, 0, days)
	return scheduleKeyDeletionOutput{KeyId: k.arn, DeletionDate: epoch{k.deletion}, KeyState: k.state, PendingWindowInDays: days}, nil
}

// resolveKey finds a key by its id, its ARN, its alias or its alias's ARN.
func (s *Server) resolveKey(id string) (*key, error) {
	if k, ok := s.aliases[strings.TrimPrefix(id, s.arn("kms", ""))]; ok {
		return k, nil
	}
	return s.findKey(id)
}

// findKey finds a key by id or ARN.
func (s *Server) findKey(id string) (*key, error) {
	k, ok := s.keys[strings.TrimPrefix(id, s.arn("kms", "key/"))]
	if !ok {
		return nil, &apiError{code: "NotFoundException", message: fmt.Sprintf("Key '%s' does not exist", id)}
	}
	return k, nil
}

// findOwnKey finds a key whose state the account may change: not one of AWS's.
func (s *Server) findOwnKey(id string) (*key, error) {
	k, err := s.findKey(id)
	if err == nil && k.manager == "AWS" {
		return nil, &apiError{code: "AccessDeniedException", message: k.arn + " is managed by AWS"}
	}
	return k, err
}

func pendingDeletion(k *key) error {
	return &apiError{code: "KMSInvalidStateException", message: k.arn + " is pending deletion."}
}

// DenyKey has a key's policy deny everything to everybody, or allow it again. The key is
// named by its id or ARN.
func (s *Server) DenyKey(id string, denied bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.findOwnKey(id)
	if err == nil {
		k.denied = denied
	}
	return err
}

func keyDenied(k *key) error {
	return &apiError{code: "AccessDeniedException", message: "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access. (" + k.arn + ")"}
}

// accessToKMS is how Secrets Manager passes on that a key is denied to the caller.
func accessToKMS() error {
	return &apiError{code: "AccessDeniedException", message: "Access to KMS is not allowed"}
}

// canEncrypt tells whether Secrets Manager can write under the key of that id.
// The documentation names the error, not its text.
func (s *Server) canEncrypt(keyID string) error {
	k, err := s.usableKey(cmp.Or(keyID, secretsKey))
	if err != nil && k != nil && k.denied {
		return accessToKMS()
	}
	if err != nil {
		return &apiError{code: "EncryptionFailure", message: "Secrets Manager can't encrypt the protected secret text using the provided KMS key. Check that the KMS key is available, enabled, and not in an invalid state."}
	}
	return nil
}

// canDecrypt tells whether Secrets Manager can read what the key of that id has
// encrypted.
func (s *Server) canDecrypt(keyID string) error {
	k, err := s.usableKey(cmp.Or(keyID, secretsKey))
	if err != nil && k != nil && k.denied {
		return accessToKMS()
	}
	if err != nil {
		return &apiError{code: "DecryptionFailure", message: "Secrets Manager can't decrypt the protected secret text using the provided KMS key."}
	}
	return nil
}
