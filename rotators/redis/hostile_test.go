package redis

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/rekeyhq/rekey/internal/hostile"
)

// TestHostileServers logs in to servers that take no memory, time or answer to be
// bounded.
func TestHostileServers(t *testing.T) {
	hostile.Run(t, New(aws.Config{}, nil), hostile.Redis(), sameTLS)
}
