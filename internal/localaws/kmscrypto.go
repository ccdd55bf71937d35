package localaws

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
)

// The limits of KMS.
const (
	maxPlaintext  = 4096 // bytes one Encrypt takes under a symmetric key
	maxCiphertext = 6144 // bytes Decrypt takes
	maxDataKey    = 1024 // bytes of a data key asked for by NumberOfBytes
)

// keyIDLength is that of a UUID, which begins every ciphertext and tells Decrypt
// the key.
const keyIDLength = 36

// newAEAD returns AES-GCM under a key of 16, 24 or 32 bytes.
func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the length is ours
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES has the block size GCM needs
	}
	return aead
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// encrypt gives the ciphertext of a plaintext. It does not ask for the key's
// state.
func (k *key) encrypt(plaintext []byte, context map[string]string) []byte {
	return k.aead.Seal([]byte(k.id), nil, plaintext, additionalData(context))
}

// decrypt is the reverse of encrypt, for a ciphertext without the key's id. ok is
// false for another key's ciphertext, a changed one and another context.
func (k *key) decrypt(ciphertext []byte, context map[string]string) (plaintext []byte, ok bool) {
	plaintext, err := k.aead.Open(nil, nil, ciphertext, additionalData(context))
	return plaintext, err == nil
}

// additionalData is an encryption context as bytes: the same for the same pairs,
// in whatever order they came, and for no other ones.
func additionalData(context map[string]string) []byte {
	if len(context) == 0 {
		return nil
	}
	b, _ := json.Marshal(context) // sorts by key; a map of strings always encodes
	return b
}

// usable refuses a key that is not enabled, or denied.
func (k *key) usable() error {
	if k.denied {
		return keyDenied(k)
	}
	switch k.state {
	case keyPendingDeletion:
		return pendingDeletion(k)
	case keyDisabled:
		return &apiError{code: "DisabledException", message: k.arn + " is disabled."}
	}
	return nil
}

// usableKey finds a key that can encrypt and decrypt.
func (s *Server) usableKey(id string) (*key, error) {
	k, err := s.resolveKey(id)
	if err != nil {
		return nil, err
	}
	return k, k.usable()
}

type encryptInput struct {
	KeyId             string
	Plaintext         []byte
	EncryptionContext map[string]string
	DryRun            bool
}

type encryptOutput struct {
	CiphertextBlob      []byte
	KeyId               string
	EncryptionAlgorithm string
}

func (s *Server) encrypt(_ call, in encryptInput) (any, error) {
	if n := len(in.Plaintext); n < 1 || n > maxPlaintext {
		return nil, validation("Plaintext must be 1 to %d bytes long, and this one has %d", maxPlaintext, n)
	}
	k, err := s.usableKey(in.KeyId)
	switch {
	case err != nil:
		return nil, err
	case in.DryRun:
		return nil, dryRun()
	}
	return encryptOutput{k.encrypt(in.Plaintext, in.EncryptionContext), k.arn, symmetricDefault}, nil
}

type decryptInput struct {
	KeyId             string // "": the ciphertext tells
	CiphertextBlob    []byte
	EncryptionContext map[string]string
	DryRun            bool
}

type decryptOutput struct {
	Plaintext           []byte
	KeyId               string
	EncryptionAlgorithm string
}

func (s *Server) decrypt(_ call, in decryptInput) (any, error) {
	if n := len(in.CiphertextBlob); n < 1 || n > maxCiphertext {
		return nil, validation("CiphertextBlob must be 1 to %d bytes long, and this one has %d", maxCiphertext, n)
	}
	invalid := &apiError{code: "InvalidCiphertextException", message: ""} // AWS says no more
	if len(in.CiphertextBlob) < keyIDLength {
		return nil, invalid
	}
	k, ok := s.keys[string(in.CiphertextBlob[:keyIDLength])]
	if !ok {
		return nil, invalid
	}
	if in.KeyId != "" {
		named, err := s.resolveKey(in.KeyId)
		if err != nil {
			return nil, err
		}
		if named != k {
			return nil, &apiError{code: "IncorrectKeyException", message: "The key ID in the request does not identify a CMK that can perform this operation."}
		}
	}
	if err := k.usable(); err != nil {
		return nil, err
	}
	plaintext, ok := k.decrypt(in.CiphertextBlob[keyIDLength:], in.EncryptionContext)
	switch {
	case !ok:
		return nil, invalid
	case in.DryRun:
		return nil, dryRun()
	}
	return decryptOutput{plaintext, k.arn, symmetricDefault}, nil
}

type generateDataKeyInput struct {
	KeyId, KeySpec    string
	NumberOfBytes     int
	EncryptionContext map[string]string
	DryRun            bool
}

type generateDataKeyOutput struct {
	CiphertextBlob, Plaintext []byte
	KeyId                     string
}

func (s *Server) generateDataKey(_ call, in generateDataKeyInput) (any, error) {
	size := in.NumberOfBytes
	switch {
	case (in.KeySpec == "") == (in.NumberOfBytes == 0):
		return nil, validation("Please specify either number of bytes or key spec.")
	case in.KeySpec == "AES_256":
		size = 32
	case in.KeySpec == "AES_128":
		size = 16
	case in.KeySpec != "" || size < 1 || size > maxDataKey:
		return nil, validation("KeySpec must be AES_256 or AES_128, or NumberOfBytes 1 to %d", maxDataKey)
	}
	k, err := s.usableKey(in.KeyId)
	switch {
	case err != nil:
		return nil, err
	case in.DryRun:
		return nil, dryRun()
	}
	dataKey := randomBytes(size)
	return generateDataKeyOutput{k.encrypt(dataKey, in.EncryptionContext), dataKey, k.arn}, nil
}

func dryRun() error {
	return &apiError{code: "DryRunOperationException", message: "The request would have succeeded, but the DryRun option is set."}
}
