package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestInvoke(t *testing.T) {
	tests := []struct {
		name           string
		event          string
		args           []string
		status         int
		stdout, stderr string // what they must hold; "" is nothing
	}{
		{"response", `{"do":"echo","text":"hello"}`, nil, succeeded, "\"hello\"\n", ""},
		{"log", `{"do":"print","text":"hello"}`, nil, succeeded, "null\n", "hello\nstderr: hello\n"},
		// Whose secret it is, the caller's credentials say, not an account made up here.
		{"account", `{"do":"context","SecretId":"arn:aws:secretsmanager:us-east-1:123456789012:secret:app-AbCdEf"}`, nil, succeeded,
			`{"arn":"arn:aws:lambda:us-east-1:123456789012:function:secret-rotator"`, ""},
		{"account of a parameter", `{"do":"context","Records":[{"body":"{\"parameter\":{\"arn\":\"arn:aws:ssm:us-east-1:123456789012:parameter/app\",\"name\":\"/app\",\"base\":1}}"}]}`, nil, succeeded,
			`{"arn":"arn:aws:lambda:us-east-1:123456789012:function:secret-rotator"`, ""},
		{"error", `{"do":"fail as","text":"StepError"}`, nil, failed,
			`{"errorType":"StepError","errorMessage":"as asked"}` + "\n", "\nrekey invoke: secret-rotator failed: StepError: as asked\n"},
		{"time-out", `{"do":"hang"}`, []string{"--timeout", "300ms"}, failed,
			`{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: `, "Task timed out after 0.30 seconds\n"},
		{"exit", `{"do":"exit"}`, nil, failed,
			`{"errorType":"Runtime.ExitError","errorMessage":"RequestId: `, "exited with error: exit status 7\n"},
		{"not JSON", `{"do":`, nil, misused, "", "the event in stdin is not JSON: unexpected end of JSON input\n"},
		{"two events", `{} {}`, nil, misused, "", "the event in stdin is not JSON: "},
		{"nothing", ``, nil, misused, "", "the event in stdin is not JSON: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"invoke", "--functions", build, "secret-rotator", "-"}, tt.args...)
			status, stdout, stderr := rekey(t.Context(), tt.event, args...)
			if status != tt.status {
				t.Errorf("exit status %d, want %d", status, tt.status)
			}
			if !strings.HasPrefix(stdout, tt.stdout) || (tt.stdout == "") != (stdout == "") {
				t.Errorf("stdout is %q, want %q", stdout, tt.stdout)
			}
			if !strings.Contains(stderr, tt.stderr) || (tt.stderr == "") != (stderr == "") {
				t.Errorf("stderr is %q, want %q in it", stderr, tt.stderr)
			}
		})
	}
}

func TestInvokeFiles(t *testing.T) {
	event := filepath.Join(t.TempDir(), "event.json")
	if err := os.WriteFile(event, []byte(`{"do":"environ"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", "/home/me")
	t.Setenv("AWS_PROFILE", "dev")
	t.Setenv("AWS_REGION", "eu-west-1")
	t.Setenv("AWS_LAMBDA_FUNCTION_NAME", "somebody else")
	t.Setenv("EXCLUDE_CHARACTERS", "/@")
	t.Setenv("REKEY_ROTATORS", "postgres")
	t.Setenv("PGPASSWORD", "not for the function")
	status, stdout, stderr := rekey(t.Context(), "", "invoke", filepath.Join(build, "secret-rotator", "bootstrap"), event)
	if status != succeeded {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	var env []string
	if err := json.Unmarshal([]byte(stdout), &env); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"AWS_PROFILE=dev", "AWS_REGION=eu-west-1", "AWS_LAMBDA_FUNCTION_NAME=secret-rotator",
		"EXCLUDE_CHARACTERS=/@", "REKEY_ROTATORS=postgres", "HOME=/home/me"} {
		if !slices.Contains(env, v) {
			t.Errorf("the function did not get %q", v)
		}
	}
	if strings.Contains(stdout, "PGPASSWORD") {
		t.Error("the function got PGPASSWORD, which is none of its business")
	}

	status, _, stderr = rekey(t.Context(), "", "invoke", filepath.Join(build, "secret-rotator", "bootstrap"), event+".old")
	if status != misused || !strings.Contains(stderr, "cannot read the event: open "+event+".old") {
		t.Errorf("a missing event: exit status %d, %q", status, stderr)
	}
}

// The program as people start it finds the functions beside itself.
func TestInvokeFromTheBuildFolder(t *testing.T) {
	c := exec.CommandContext(t.Context(), filepath.Join(build, "rekey"), "invoke", "secret-rotator", "-")
	c.Stdin = strings.NewReader(`{"do":"fail","text":"no"}`)
	out, err := c.Output()
	if err == nil || c.ProcessState.ExitCode() != failed || string(out) != `{"errorType":"errorString","errorMessage":"no"}`+"\n" {
		t.Errorf("got %q and %v", out, err)
	}
}
