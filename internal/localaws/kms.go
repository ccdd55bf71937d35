package localaws

import (
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

// defaultKey is the key AWS keeps for secrets that name none. It is always
// enabled, and CreateKey did not make it.
const defaultKey = "alias/aws/secretsmanager"

// key is a symmetric KMS key. It encrypts nothing: secrets are kept as they are,
// and the key's state decides whether they can be read and written.
type key struct {
	id, arn, description string
	state                string
	created, deletion    time.Time
}

func (s *Server) kmsOperations() map[string]operation {
	return map[string]operation{
		"kms.CreateKey":           decoded(s.createKey),
		"kms.DescribeKey":         decoded(s.describeKey),
		"kms.DisableKey":          decoded(s.disableKey),
		"kms.EnableKey":           decoded(s.enableKey),
		"kms.ScheduleKeyDeletion": decoded(s.scheduleKeyDeletion),
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
		KeyManager:            "CUSTOMER",
		CustomerMasterKeySpec: "SYMMETRIC_DEFAULT",
		KeySpec:               "SYMMETRIC_DEFAULT",
		EncryptionAlgorithms:  []string{"SYMMETRIC_DEFAULT"},
	}}
}

type createKeyInput struct{ Description, KeySpec, CustomerMasterKeySpec string }

func (s *Server) createKey(c call, in createKeyInput) (any, error) {
	for _, spec := range []string{in.KeySpec, in.CustomerMasterKeySpec} {
		if spec != "" && spec != "SYMMETRIC_DEFAULT" {
			return nil, &apiError{code: "UnsupportedOperationException", message: "localaws makes symmetric keys only: leave KeySpec out"}
		}
	}
	id := newUUID()
	k := &key{id: id, arn: s.arn("kms", "key/"+id), description: in.Description, state: keyEnabled, created: c.now}
	s.keys[id] = k
	return s.keyOutput(k), nil
}

func (s *Server) describeKey(_ call, in keyInput) (any, error) {
	k, err := s.findKey(in.KeyId)
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
	k, err := s.findKey(id)
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
	k, err := s.findKey(in.KeyId)
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

// findKey finds a key by id or ARN.
func (s *Server) findKey(id string) (*key, error) {
	k, ok := s.keys[strings.TrimPrefix(id, s.arn("kms", "key/"))]
	if !ok {
		return nil, &apiError{code: "NotFoundException", message: fmt.Sprintf("Key '%s' does not exist", id)}
	}
	return k, nil
}

func pendingDeletion(k *key) error {
	return &apiError{code: "KMSInvalidStateException", message: k.arn + " is pending deletion."}
}

// canEncrypt tells whether Secrets Manager can write under the key of that id.
// The documentation names the error, not its text.
func (s *Server) canEncrypt(keyID string) error {
	if s.usable(keyID) {
		return nil
	}
	return &apiError{code: "EncryptionFailure", message: "Secrets Manager can't encrypt the protected secret text using the provided KMS key. Check that the KMS key is available, enabled, and not in an invalid state."}
}

// canDecrypt tells whether Secrets Manager can read what the key of that id has
// encrypted.
func (s *Server) canDecrypt(keyID string) error {
	if s.usable(keyID) {
		return nil
	}
	return &apiError{code: "DecryptionFailure", message: "Secrets Manager can't decrypt the protected secret text using the provided KMS key."}
}

func (s *Server) usable(keyID string) bool {
	if keyID == "" || strings.HasSuffix(keyID, defaultKey) {
		return true
	}
	k, err := s.findKey(keyID)
	return err == nil && k.state == keyEnabled
}
