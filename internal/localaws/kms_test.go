package localaws_test

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/localaws"
)

func TestEncryption(t *testing.T) {
	s := newStore(t, localaws.Config{})
	keys := kms.NewFromConfig(s.config)
	one, other := s.newKey(), s.newKey()
	context := map[string]string{"b": "2", "a": "1"}
	plaintext := bytes.Repeat([]byte{0xff}, 4096)
	sealed, err := keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &one, Plaintext: plaintext, EncryptionContext: context})
	must(t, err)
	if bytes.Contains(sealed.CiphertextBlob, plaintext[:16]) || *sealed.KeyId != one {
		t.Errorf("encrypted under %s as %d bytes", *sealed.KeyId, len(sealed.CiphertextBlob))
	}
	open := func(keyID *string, blob []byte, context map[string]string) ([]byte, error) {
		out, err := keys.Decrypt(t.Context(), &kms.DecryptInput{KeyId: keyID, CiphertextBlob: blob, EncryptionContext: context})
		if err != nil {
			return nil, err
		}
		return out.Plaintext, nil
	}
	for _, id := range []*string{nil, &one} {
		if got, err := open(id, sealed.CiphertextBlob, map[string]string{"a": "1", "b": "2"}); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("decrypted as %d bytes, %v", len(got), err)
		}
	}
	for _, context := range []map[string]string{nil, {"a": "1"}, {"a": "1", "b": "2", "c": ""}, {"A": "1", "b": "2"}} {
		_, err := open(nil, sealed.CiphertextBlob, context)
		want[*kmstypes.InvalidCiphertextException](t, "another context", err)
	}
	_, err = open(&other, sealed.CiphertextBlob, context)
	want[*kmstypes.IncorrectKeyException](t, "another key", err)
	changed := bytes.Clone(sealed.CiphertextBlob)
	changed[len(changed)-1] ^= 1
	_, err = open(nil, changed, context)
	want[*kmstypes.InvalidCiphertextException](t, "a changed ciphertext", err)
	_, err = open(nil, []byte("x"), context)
	want[*kmstypes.InvalidCiphertextException](t, "no ciphertext", err)
	_, err = keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &one, Plaintext: make([]byte, 4097)})
	wantCode(t, "4097 bytes", err, "ValidationException")
	_, err = keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &one, Plaintext: plaintext, DryRun: aws.Bool(true)})
	want[*kmstypes.DryRunOperationException](t, "a dry run", err)

	for _, alias := range []string{"alias/aws/ssm", "alias/aws/secretsmanager", "arn:aws:kms:us-east-1:000000000000:alias/aws/ssm"} {
		data, err := keys.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &alias, KeySpec: kmstypes.DataKeySpecAes256, EncryptionContext: context})
		must(t, err)
		if got, err := open(&alias, data.CiphertextBlob, context); err != nil || len(got) != 32 || !bytes.Equal(got, data.Plaintext) {
			t.Errorf("the data key under %s opens as %d bytes, %v", alias, len(got), err)
		}
	}
	_, err = keys.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &one})
	wantCode(t, "a data key of no length", err, "ValidationException")

	_, err = keys.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &one})
	must(t, err)
	_, err = open(nil, sealed.CiphertextBlob, context)
	want[*kmstypes.DisabledException](t, "a disabled key", err)
	_, err = keys.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &one})
	must(t, err)
	_, err = keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &one, Plaintext: plaintext})
	want[*kmstypes.KMSInvalidStateException](t, "a key pending deletion", err)
	aws1, err := keys.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String("alias/aws/ssm")})
	must(t, err)
	_, err = keys.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: aws1.KeyMetadata.KeyId})
	wantCode(t, "AWS's own key disabled", err, "AccessDeniedException")
}

func TestSecureString(t *testing.T) {
	s := newStore(t, localaws.Config{})
	keys := kms.NewFromConfig(s.config)
	key := s.newKey()
	for name, tier := range map[string]types.ParameterTier{"/standard": "Standard", "/advanced": "Advanced"} {
		s.mustPut(name, "hunter2", func(in *ssm.PutParameterInput) { in.Tier, in.KeyId = tier, &key })
		raw, err := s.ssm.GetParameter(t.Context(), &ssm.GetParameterInput{Name: &name})
		must(t, err)
		blob, err := base64.StdEncoding.DecodeString(*raw.Parameter.Value)
		must(t, err)
		if bytes.Contains(blob, []byte("hunter2")) {
			t.Errorf("%s is not encrypted", name)
		}
		if tier == "Advanced" {
			continue // under a data key
		}
		for arn, opens := range map[string]bool{*raw.Parameter.ARN: true, *raw.Parameter.ARN + "x": false} {
			out, err := keys.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: map[string]string{"PARAMETER_ARN": arn}})
			if (err == nil) != opens || opens && (string(out.Plaintext) != "hunter2" || *out.KeyId != key) {
				t.Errorf("decrypted for %s: %+v, %v", arn, out, err)
			}
		}
	}
	calls := len(s.Calls())
	s.wantValue("/standard", "hunter2")
	s.wantValue("/advanced", "hunter2")
	if n := len(s.Calls()) - calls; n != 2 {
		t.Errorf("two reads are %d calls", n)
	}

	_, err := keys.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key})
	must(t, err)
	for _, name := range []string{"/standard", "/advanced"} {
		_, err = s.get(name)
		want[*types.InvalidKeyId](t, "read under a disabled key", err)
		_, err = s.put(name, "x", func(in *ssm.PutParameterInput) { overwrite(in); in.Tier, in.KeyId = "Advanced", &key })
		want[*types.InvalidKeyId](t, "written under a disabled key", err)
	}
	_, err = s.ssm.GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{"/standard"}, WithDecryption: aws.Bool(true)})
	want[*types.InvalidKeyId](t, "one of ten under a disabled key", err)
	out, err := s.ssm.GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{"/standard"}})
	if err != nil || out.Parameters[0].Version != 1 {
		t.Errorf("without decryption: %+v, %v", out, err)
	}
}

// A key that its policy denies: what Secrets Manager and Parameter Store say then is
// neither of the errors that are about its state.
func TestAKeyThatIsDenied(t *testing.T) {
	s := newStore(t, localaws.Config{})
	keys, key := kms.NewFromConfig(s.config), s.newKey()
	_, err := s.ssm.PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("/p"), Value: aws.String("v"), Type: types.ParameterTypeSecureString, KeyId: &key})
	must(t, err)
	must(t, s.DenyKey(key, true))
	_, err = keys.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
	wantCode(t, "describe", err, "AccessDeniedException")
	_, err = keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")})
	wantCode(t, "encrypt", err, "AccessDeniedException")
	_, err = s.ssm.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("/p"), WithDecryption: aws.Bool(true)})
	wantCode(t, "read", err, "AccessDeniedException")
	_, err = s.ssm.PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("/p"), Value: aws.String("w"), Type: types.ParameterTypeSecureString, KeyId: &key, Overwrite: aws.Bool(true)})
	wantCode(t, "write", err, "AccessDeniedException")
	must(t, s.DenyKey(key, false))
	_, err = s.ssm.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("/p"), WithDecryption: aws.Bool(true)})
	must(t, err)
}
