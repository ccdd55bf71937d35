package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/servers"
)

// section returns the commands of a section of a page: its blocks for a shell.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "\n## "+heading+"\n")
	after, _, _ = strings.Cut(after, "\n## ")
	var commands strings.Builder
	for i, block := range strings.Split(after, "```sh\n") {
		if i > 0 {
			block, _, _ = strings.Cut(block, "```")
			commands.WriteString(block)
		}
	}
	if !found || commands.Len() == 0 {
		t.Fatalf("%s has no commands under %q", page, heading)
	}
	return commands.String()
}

// A new user pastes what docs/deploy.md says, with rekey local in the place of the
// deployment and a database with TLS, as RDS has it.
func TestTheDeployPagesCommandsRotate(t *testing.T) {
	certificate, err := servers.NewCertificate("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, certificate.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", ca)
	db := servers.StartPostgres(t, servers.PostgresOptions{Certificate: certificate})
	for _, user := range []string{"app", "report"} {
		if err := db.Exec(t.Context(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'first of %[1]s'", user)); err != nil {
			t.Fatal(err)
		}
	}
	s := startLocal(t)

	const page = "../../docs/deploy.md"
	paste := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c",
		section(t, page, "Or try it first, without an account")+section(t, page, "Use"))
	paste.Dir = t.TempDir()
	if err := os.Symlink(s.dir, filepath.Join(paste.Dir, "build")); err != nil {
		t.Fatal(err)
	}
	paste.Env = append(s.env, "DB_HOST="+db.Host, fmt.Sprintf("DB_PORT=%d", db.Port),
		"APP_PASSWORD=first of app", "REPORT_PASSWORD=first of report")
	out, err := paste.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, said := range []string{"done: version 2 of /shop/report is current", "1 managed"} {
		if !strings.Contains(string(out), said) {
			t.Errorf("the commands do not print %q: %s", said, out)
		}
	}
	s.until("shop/app", "the rotation", func(d description) bool { return d.LastRotatedDate != nil && !d.pending() })

	var secret struct{ SecretString string }
	var parameter struct{ Parameter struct{ Value string } }
	if err := s.aws(&secret, "secretsmanager", "get-secret-value", "--secret-id", "shop/app"); err != nil {
		t.Fatal(err)
	}
	if err := s.aws(&parameter, "ssm", "get-parameter", "--name", "/shop/report", "--with-decryption"); err != nil {
		t.Fatal(err)
	}
	for user, value := range map[string]string{"app": secret.SecretString, "report": parameter.Parameter.Value} {
		if err := db.Login(t.Context(), user, "first of "+user); !servers.Refused(err) {
			t.Errorf("the first password of %s: %v", user, err)
		}
		_, password, _ := strings.Cut(value, `"password":"`)
		password, _, _ = strings.Cut(password, `"`)
		if err := db.Login(t.Context(), user, password); err != nil {
			t.Errorf("the new password of %s: %v", user, err)
		}
	}
}

// Ten commands, says docs/deploy.md.
func TestTheDeployPageHasTenCommands(t *testing.T) {
	const page = "../../docs/deploy.md"
	commands := section(t, page, "Deploy with SAM")
	use, _, _ := strings.Cut(section(t, page, "Use"), "aws secretsmanager describe-secret") // what looks at the result
	count := 0
	for line := range strings.Lines(commands + use) {
		if line[0] != ' ' && line[0] != '{' && line != "END\n" {
			count++
		}
	}
	if count != 10 {
		t.Errorf("there are %d commands", count)
	}
}
