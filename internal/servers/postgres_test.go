package servers

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestServerEndsWithItsProcess starts a server in a process of its own, kills
// that process, and waits for the server to be gone.
func TestServerEndsWithItsProcess(t *testing.T) {
	if os.Getenv("SERVERS_TEST_CHILD") != "" {
		s := StartPostgres(t, PostgresOptions{})
		os.Stdout.WriteString("READY " + s.dir + "\n")
		select {}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(exe, "-test.run=^TestServerEndsWithItsProcess$")
	child.Env = append(os.Environ(), "SERVERS_TEST_CHILD=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		_, dir, _ = strings.Cut(lines.Text(), "READY ")
	}
	if dir == "" {
		t.Fatal("the child started no server")
	}
	sockets, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	for _, f := range sockets {
		if strings.HasPrefix(f.Name(), ".s.PGSQL.") && !strings.HasSuffix(f.Name(), ".lock") {
			conn, err = net.Dial("unix", dir+"/"+f.Name())
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if conn == nil {
		t.Fatal("the child's server has no socket")
	}
	defer conn.Close()

	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	// The server never speaks first, so a read returns when the server ends.
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the server spoke")
	}
}

func TestExecRunsAndLogHearsOthersOnly(t *testing.T) {
	s := StartPostgres(t, PostgresOptions{Conf: []string{"max_connections = 7"}})
	if err := s.Exec(t.Context(), "CREATE ROLE quiet LOGIN PASSWORD 'silence'", "SELECT nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a failing statement: %v", err)
	}
	if log := s.Log(); strings.Contains(log, "silence") || !strings.Contains(log, "connection authorized: user=postgres") {
		t.Errorf("log: %s", log)
	}
}
