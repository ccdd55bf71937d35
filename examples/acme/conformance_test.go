package acme_test

import (
	"testing"

	"acme.example/acme"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

func TestConformance(t *testing.T) {
	rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
		vendor := startVendor(t)
		return rotatortest.Harness{
			Rotator: acme.New(vendor.URL, w),
			Value:   vendor.FirstValue(),
			Fields:  []string{"apiKey", "apiKeyId"},
			Accepts: vendor.Accepts,
			Keys:    vendor.Keys,
			Overlap: true,
		}
	})
}
