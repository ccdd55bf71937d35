package functions

import (
	"strings"
	"testing"
)

// Whatever comes in, reading it does not panic, and an error shows nothing of
// the rotation token.
func FuzzReadRotationEvent(f *testing.F) {
	f.Add([]byte(`{"Step":"createSecret","SecretId":"arn","ClientRequestToken":"11111111-1111-4111-8111-111111111111","RotationToken":"a-rotation-token"}`))
	f.Add([]byte(`{"RotationToken":["a-rotation-token"],"Step":"createSecret"}`))
	f.Add([]byte(`{"RotationToken":"a-rotation-token`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		event, _, err := readRotationEvent(payload)
		if err == nil && (event.SecretID == "" || len(event.ClientRequestToken) < 32) {
			t.Errorf("%q is taken for an event", payload)
		}
		if err != nil && strings.Contains(err.Error(), "a-rotation-token") {
			t.Errorf("%q: %v", payload, err)
		}
	})
}
