package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/internal/tools"
)

// shell is one in which the exports that rekey local printed were pasted.
type shell struct {
	t   *testing.T
	env []string
	arn string // that of secret-rotator, as printed
	dir string // where everything is compiled
	cli string // the AWS CLI
}

// shipped compiles what ships, once, as make build lays it out.
var shipped = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Join(build, "shipped")
	programs := map[string]string{"rekey": "."}
	for _, name := range []string{"secret-rotator", "parameter-planner", "parameter-rotator"} {
		programs[name+"/bootstrap"] = "../../functions/" + name
	}
	for output, program := range programs {
		if out, err := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", filepath.Join(dir, output), program).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
	}
	return dir, nil
})

// startLocal runs the compiled rekey local and reads what it prints.
func startLocal(t *testing.T) *shell {
	t.Helper()
	dir, err := shipped()
	if err != nil {
		t.Fatal(err)
	}
	cli, err := tools.Find("aws")
	if err != nil {
		t.Fatal(err)
	}
	local := exec.Command(filepath.Join(dir, "rekey"), "local", "--port", "0")
	var log bytes.Buffer
	local.Stderr = &log
	out, err := local.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := local.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = local.Process.Signal(os.Interrupt)
		if err := local.Wait(); err != nil {
			t.Errorf("rekey local ended with %v", err)
		}
		if t.Failed() {
			t.Logf("rekey local logged:\n%s", log.String())
		}
	})
	s := &shell{t: t, dir: dir, cli: cli["aws"], env: append(os.Environ(), "PATH="+os.Getenv("PATH")+":"+filepath.Dir(cli["aws"]),
		"AWS_PAGER=", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "arn:aws:lambda:") && strings.HasSuffix(line, ":secret-rotator") {
			s.arn = line
		}
		export, ok := strings.CutPrefix(line, "export ")
		if !ok {
			continue
		}
		s.env = append(s.env, export)
		if strings.HasPrefix(export, "AWS_DEFAULT_REGION=") { // the last one
			return s
		}
	}
	t.Fatal("rekey local printed no exports")
	return nil
}

// aws runs the AWS CLI and decodes what it prints, if into is not nil. Old versions of it know no
// AWS_ENDPOINT_URL, so the flag is given.
func (s *shell) aws(into any, args ...string) error {
	s.t.Helper()
	for _, v := range s.env {
		if endpoint, ok := strings.CutPrefix(v, "AWS_ENDPOINT_URL="); ok {
			args = append([]string{"--endpoint-url", endpoint, "--output", "json"}, args...)
		}
	}
	cmd := exec.CommandContext(s.t.Context(), s.cli, args...)
	cmd.Env = s.env
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("aws %s: %w: %s", strings.Join(args, " "), err, problems.String())
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(out.Bytes(), into)
}

type description struct {
	RotationEnabled    bool
	VersionIdsToStages map[string][]string
	LastRotatedDate    any
}

// until describes the secret until it looks as wanted. Each look starts the AWS
// CLI, which takes long enough to need no pause.
func (s *shell) until(secret, what string, wanted func(description) bool) description {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		var d description
		if err := s.aws(&d, "secretsmanager", "describe-secret", "--secret-id", secret); err != nil {
			s.t.Fatal(err)
		}
		if wanted(d) {
			return d
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s did not happen: %+v", what, d)
		}
	}
}

func (d description) pending() bool {
	for _, labels := range d.VersionIdsToStages {
		if strings.Join(labels, " ") == "AWSPENDING" {
			return true
		}
	}
	return false
}

func TestTheAWSCLIRotatesAgainstRekeyLocal(t *testing.T) {
	db := servers.StartPostgres(t, servers.PostgresOptions{})
	if err := db.Exec(t.Context(), "CREATE ROLE app LOGIN PASSWORD 'the first password'"); err != nil {
		t.Fatal(err)
	}
	s := startLocal(t)
	value := fmt.Sprintf(`{"engine":"postgres","host":%q,"port":%d,"username":"app","password":"the first password","ssl":false}`, db.Host, db.Port)

	var created struct{ ARN, VersionId string }
	if err := s.aws(&created, "secretsmanager", "create-secret", "--name", "app", "--secret-string", value); err != nil {
		t.Fatal(err)
	}

	// Configuring a schedule without rotating runs testSecret alone, on an empty
	// version that is gone afterwards.
	var rotated struct{ ARN, VersionId string }
	if err := s.aws(&rotated, "secretsmanager", "rotate-secret", "--secret-id", "app", "--rotation-lambda-arn", s.arn,
		"--rotation-rules", "AutomaticallyAfterDays=30", "--no-rotate-immediately"); err != nil {
		t.Fatal(err)
	}
	d := s.until("app", "the dry test", func(d description) bool { return d.RotationEnabled && !d.pending() })
	if labels := d.VersionIdsToStages[created.VersionId]; len(d.VersionIdsToStages) != 1 || strings.Join(labels, " ") != "AWSCURRENT" {
		t.Errorf("after the dry test the versions are %v", d.VersionIdsToStages)
	}
	if err := db.Login(t.Context(), "app", "the first password"); err != nil {
		t.Errorf("after the dry test, the first password: %v", err)
	}

	if err := s.aws(&rotated, "secretsmanager", "rotate-secret", "--secret-id", "app", "--rotate-immediately"); err != nil {
		t.Fatal(err)
	}
	if rotated.VersionId == "" || rotated.ARN != created.ARN {
		t.Errorf("rotate-secret answered %+v", rotated)
	}
	d = s.until("app", "the rotation", func(d description) bool {
		return strings.Contains(strings.Join(d.VersionIdsToStages[rotated.VersionId], " "), "AWSCURRENT") && d.LastRotatedDate != nil
	})
	if labels := d.VersionIdsToStages[created.VersionId]; strings.Join(labels, " ") != "AWSPREVIOUS" {
		t.Errorf("the first version has %v", labels)
	}

	var current struct {
		SecretString, VersionId string
		VersionStages           []string
	}
	if err := s.aws(&current, "secretsmanager", "get-secret-value", "--secret-id", "app"); err != nil {
		t.Fatal(err)
	}
	var next struct{ Password string }
	if err := json.Unmarshal([]byte(current.SecretString), &next); err != nil || current.VersionId != rotated.VersionId {
		t.Fatalf("get-secret-value answers version %s (%v)", current.VersionId, err)
	}
	if err := db.Login(t.Context(), "app", next.Password); err != nil {
		t.Errorf("the new password: %v", err)
	}
	if err := db.Login(t.Context(), "app", "the first password"); !servers.Refused(err) {
		t.Errorf("the first password: %v", err)
	}

	// A wrong function is told at once, and the secret stays as it is.
	err := s.aws(&rotated, "secretsmanager", "rotate-secret", "--secret-id", "app", "--rotation-lambda-arn", s.arn+"x")
	if err == nil || !strings.Contains(err.Error(), "ResourceNotFoundException") {
		t.Errorf("an unknown function: %v", err)
	}
}

// What somebody types who replaces an IAM key by hand.
func TestTheAWSCLIReplacesAnIAMKey(t *testing.T) {
	s := startLocal(t)
	run := func(s *shell, into any, args string) {
		t.Helper()
		if err := s.aws(into, strings.Fields(args)...); err != nil {
			t.Fatal(err)
		}
	}
	type keys struct {
		AccessKey struct{ AccessKeyId, SecretAccessKey string }
	}
	as := func(id, secret, token string) *shell {
		user := *s
		user.env = append(slices.Clone(s.env), "AWS_ACCESS_KEY_ID="+id, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_SESSION_TOKEN="+token)
		return &user
	}
	var old, next keys
	run(s, nil, "iam create-user --user-name mail --tags Key=team,Value=a")
	run(s, &old, "iam create-access-key --user-name mail")
	user := as(old.AccessKey.AccessKeyId, old.AccessKey.SecretAccessKey, "")
	run(user, &next, "iam create-access-key")
	user = as(next.AccessKey.AccessKeyId, next.AccessKey.SecretAccessKey, "")
	run(user, nil, "iam update-access-key --status Inactive --access-key-id "+old.AccessKey.AccessKeyId)
	run(user, nil, "iam delete-access-key --access-key-id "+old.AccessKey.AccessKeyId)
	var list struct {
		AccessKeyMetadata []struct{ AccessKeyId, Status string }
	}
	run(user, &list, "iam list-access-keys")
	if len(list.AccessKeyMetadata) != 1 || list.AccessKeyMetadata[0].AccessKeyId != next.AccessKey.AccessKeyId || list.AccessKeyMetadata[0].Status != "Active" {
		t.Errorf("the keys are %+v", list)
	}
	var who struct{ Arn string }
	run(user, &who, "sts get-caller-identity")
	if who.Arn != "arn:aws:iam::000000000000:user/mail" {
		t.Errorf("the new key is %s's", who.Arn)
	}
	err := as(old.AccessKey.AccessKeyId, old.AccessKey.SecretAccessKey, "").aws(nil, "sts", "get-caller-identity")
	if err == nil || !strings.Contains(err.Error(), "InvalidClientTokenId") {
		t.Errorf("the old key: %v", err)
	}

	run(s, nil, "iam create-role --role-name rotator --assume-role-policy-document {}")
	var session struct {
		Credentials struct{ AccessKeyId, SecretAccessKey, SessionToken string }
	}
	run(user, &session, "sts assume-role --role-arn arn:aws:iam::000000000000:role/rotator --role-session-name me")
	user = as(session.Credentials.AccessKeyId, session.Credentials.SecretAccessKey, session.Credentials.SessionToken)
	var tags struct{ Tags []struct{ Key, Value string } }
	run(user, &tags, "iam list-user-tags --user-name mail")
	if len(tags.Tags) != 1 || tags.Tags[0].Value != "a" {
		t.Errorf("the tags are %+v", tags)
	}
}

// The commands the README gives, pasted into a shell with the exports.
func TestTheREADMEsCommandsRotate(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(readme), "## On your laptop")
	var commands string
	for block := range strings.SplitSeq(after, "```sh\n") {
		if strings.Contains(block, "create-secret") {
			commands, _, _ = strings.Cut(block, "```")
			break
		}
	}
	db := servers.StartPostgres(t, servers.PostgresOptions{})
	if err := db.Exec(t.Context(), "CREATE ROLE app LOGIN PASSWORD 'first'"); err != nil {
		t.Fatal(err)
	}
	s := startLocal(t)
	paste := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", commands)
	paste.Dir = t.TempDir()
	if err := os.Symlink(s.dir, filepath.Join(paste.Dir, "build")); err != nil {
		t.Fatal(err)
	}
	paste.Env = append(s.env, "DB_HOST="+db.Host, fmt.Sprintf("DB_PORT=%d", db.Port), "DB_PASSWORD=first")
	out, err := paste.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, said := range []string{"/shop/db", "1 managed", "done: version 2 of /shop/db is current"} {
		if !strings.Contains(string(out), said) {
			t.Errorf("the commands do not print %q: %s", said, out)
		}
	}
	s.until("shop", "the rotation", func(d description) bool { return d.LastRotatedDate != nil && !d.pending() })
	if err := db.Login(t.Context(), "app", "first"); !servers.Refused(err) {
		t.Errorf("the first password: %v", err)
	}
}
