package generated

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/tools"
)

// sshKeygen runs OpenSSH's own program and returns what it prints.
func sshKeygen(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), keygen(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen %s: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func keygen(t *testing.T) string {
	t.Helper()
	ssh, err := tools.Find("ssh")
	if err != nil {
		t.Fatal(err)
	}
	return ssh["ssh-keygen"]
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// OpenSSH reads what is written here. It signs with the private key and verifies
// with the public one.
func TestOpenSSHReadsTheKeys(t *testing.T) {
	for _, alg := range triedSSH {
		o := newOwner(t, "{}", "comment=deploy@shop alg="+alg)
		for range 4 { // numbers of other lengths
			o.rotate()
			private, public := file(t, "key", o.field("private_key")), o.field("public_key")
			if got := sshKeygen(t, "-y", "-f", private); got != public || !strings.HasPrefix(public, alg+" ") || !strings.HasSuffix(public, " deploy@shop") {
				t.Errorf("%s: the private key is of %s, and the public one is %s", alg, got, public)
			}
			if got := sshKeygen(t, "-l", "-f", private); !strings.Contains(got, o.keys()[0].ID) {
				t.Errorf("%s: the fingerprint is %s, not %s", alg, got, o.keys()[0].ID)
			}
			message := file(t, "message", "signed by "+alg)
			sshKeygen(t, "-Y", "sign", "-n", "file", "-f", private, message)
			verify := exec.CommandContext(t.Context(), keygen(t), "-Y", "verify", "-n", "file", "-I", "shop", "-s", message+".sig", "-f", file(t, "allowed", "shop "+public+"\n"))
			verify.Stdin = strings.NewReader("signed by " + alg)
			if out, err := verify.CombinedOutput(); err != nil {
				t.Errorf("%s: OpenSSH does not verify what it signed: %s", alg, out)
			}
		}
	}
}

// What OpenSSH wrote is read here, and kept in the keyring.
func TestOpenSSHsKeysAreRead(t *testing.T) {
	for _, args := range [][]string{{"ed25519"}, {"rsa", "-b", "2048"}, {"ecdsa", "-b", "256"}, {"ecdsa", "-b", "384"}, {"ecdsa", "-b", "521"}} {
		path := filepath.Join(t.TempDir(), "key")
		sshKeygen(t, append([]string{"-q", "-N", "", "-C", "from OpenSSH", "-f", path, "-t"}, args...)...)
		private, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		public, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		value, _ := json.Marshal(map[string]string{"private_key": string(private), "public_key": string(public)})
		o := newOwner(t, string(value), "alg=ssh-ed25519 keyring=yes")
		if err := o.dryTest(); err != nil {
			t.Errorf("%s: %v", args, err)
		}
		o.rotate()
		lines, err := AuthorizedKeys(o.value, o.now)
		if err != nil || !strings.HasSuffix(string(lines), " from OpenSSH\n"+string(public)) {
			t.Errorf("%s: the lines are %s (%v)", args, lines, err)
		}
	}

	path := filepath.Join(t.TempDir(), "key")
	sshKeygen(t, "-q", "-N", "a passphrase", "-f", path, "-t", "ed25519")
	private, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	value, _ := json.Marshal(map[string]string{"private_key": string(private)})
	if _, err := newOwner(t, string(value), "alg=ssh-ed25519").try(); err == nil || !strings.Contains(err.Error(), "has a passphrase") {
		t.Errorf("got %v", err)
	}
}
