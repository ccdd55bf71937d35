package functions_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/rekeyhq/rekey/internal/hostile"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/internal/servers"
)

// maxMore is how many bytes more than in a clean rotation the function may take, whatever
// a server does. With what a clean one takes it is a third of the function's 256 MB.
const maxMore = 64 << 20

// TestTheMemoryThatHostileServersTake has the shipped binary set passwords at servers that
// send what takes memory. A process meets all of one engine's, one after the other, as on
// AWS: it lives on, and its peak is theirs.
func TestTheMemoryThatHostileServersTake(t *testing.T) {
	certificate, err := servers.NewCertificate("localhost")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate.Cert, certificate.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, certificate.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", ca)
	withTLS := &tls.Config{Certificates: []tls.Certificate{pair}}

	clean := newSetup(t, "the first password", asJSON)
	f := function(t, clean.endpoint, "", nil)
	for _, step := range steps {
		if _, err := f.Invoke(t.Context(), clean.event(step)); err != nil {
			t.Fatal(err)
		}
	}
	usual := f.Stats().PeakRSS
	t.Logf("a clean rotation takes %d MB", usual>>20)

	for engine, cases := range map[string][]hostile.Case{"postgres": hostile.Postgres(), "mysql": hostile.MySQL(), "redis": hostile.Redis()} {
		for way, cfg := range map[string]*tls.Config{"": nil, " with TLS": withTLS} {
			t.Run(engine+way, func(t *testing.T) {
				t.Parallel()
				cloud := localaws.New(localaws.Config{Authorize: policed(t, ours)})
				t.Cleanup(cloud.Close)
				server := httptest.NewServer(cloud)
				t.Cleanup(server.Close)
				client := secretsmanager.NewFromConfig((&setup{endpoint: server.URL}).config(http.DefaultTransport))
				file, err := bootstrap("secret-rotator")
				if err != nil {
					t.Fatal(err)
				}
				var log bytes.Buffer
				f := locallambda.New(locallambda.Config{
					Name: "secret-rotator", Bootstrap: file, Log: &log, Timeout: stepTime,
					Env: []string{"AWS_ENDPOINT_URL=" + server.URL, "AWS_ACCESS_KEY_ID=secret-rotator", "AWS_SECRET_ACCESS_KEY=test"},
				})
				t.Cleanup(func() { _ = f.Close() })
				worst, peak := "", int64(0)
				for i, c := range cases {
					if !c.Endless && !strings.Contains(c.Name, "^") && !strings.Contains(c.Name, "0,") && !strings.Contains(c.Name, " 2") {
						continue // it ends before it has taken memory, or time
					}
					s := hostile.Listen(t, c, cfg)
					value, _ := json.Marshal(map[string]any{"engine": engine, "host": "localhost", "port": s.Port, "username": "app", "password": hostile.Password, "ssl": cfg != nil})
					out, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String(fmt.Sprintf("hostile-%d", i)), SecretString: aws.String(string(value))})
					if err != nil {
						t.Fatal(err)
					}
					if err := cloud.Reserve(*out.ARN, token); err != nil {
						t.Fatal(err)
					}
					event := (&setup{arn: *out.ARN}).event
					if _, err := f.Invoke(t.Context(), event("createSecret")); err != nil {
						t.Fatal(err)
					}
					_, err = f.Invoke(t.Context(), event("setSecret"))
					var failed *locallambda.FunctionError
					if !errors.As(err, &failed) || failed.Type != "StepError" || !strings.Contains(failed.Message, fmt.Sprintf("localhost:%d", s.Port)) {
						t.Errorf("%s: the step ends with %v", c.Name, err)
					}
					if !s.Left(stepTime) {
						t.Errorf("%s: the connection is still there", c.Name)
					} else if !s.Told() {
						t.Errorf("%s: nobody has heard the lie", c.Name)
					}
					if now := f.Stats().PeakRSS; now > peak {
						worst, peak = c.Name, now
					}
				}
				_ = f.Close()
				if starts := f.Stats().Starts; starts != 1 {
					t.Errorf("it took %d processes: the others died", starts)
				}
				t.Logf("%d MB more, for %s", (peak-usual)>>20, worst)
				if peak-usual > maxMore {
					t.Errorf("%d MB more than a clean rotation, for %s", (peak-usual)>>20, worst)
				}
				for line := range bytes.Lines(log.Bytes()) {
					if !json.Valid(line) {
						t.Errorf("a line of the log that is none: %q", line)
					}
				}
				if bytes.Contains(log.Bytes(), []byte(hostile.Password)) {
					t.Error("a password is in the log")
				}
			})
		}
	}
}

// stepTime is how long a step may take: Lambda's timeout. A slow server is given a third
// of it for a login, and the rest for an answer.
const stepTime = 6 * time.Second
