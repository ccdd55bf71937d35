package servers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// TestRedisEndsWithItsProcess starts a server in a process of its own, kills that
// process, and waits for the server and its folder to be gone.
func TestRedisEndsWithItsProcess(t *testing.T) {
	if os.Getenv("SERVERS_TEST_CHILD") != "" {
		s := StartRedis(t, RedisOptions{})
		if err := s.Restart(t.Context()); err != nil { // the second must end too
			t.Fatal(err)
		}
		fmt.Printf("READY %s %d\n", s.dir, s.Port)
		select {}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(exe, "-test.run=^TestRedisEndsWithItsProcess$")
	child.Env = append(os.Environ(), "SERVERS_TEST_CHILD=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	var port int
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "READY %s %d", &dir, &port)
	}
	if dir == "" {
		t.Fatal("the child started no server")
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The keeper holds the other end until it has removed the folder.
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	// The server never speaks first, so a read returns when the server ends.
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the server spoke")
	}
}

func TestRedisStops(t *testing.T) {
	s := StartRedis(t, RedisOptions{ACLFile: true})
	if err := s.Login(t.Context(), s.User, s.Password); err != nil {
		t.Fatal(err)
	}
	if err := s.Login(t.Context(), s.User, "wrong"); !RedisRefused(err) {
		t.Errorf("a wrong password: %v", err)
	}
	s.Stop()
	if err := s.Login(t.Context(), s.User, s.Password); err == nil || RedisRefused(err) {
		t.Errorf("a stopped server: %v", err)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its folder is left: %v", err)
	}
}

func TestRedisThatCannotStartSaysWhy(t *testing.T) {
	s, err := Redis(t.Context(), RedisOptions{Conf: []string{"nonsense yes"}})
	if err == nil || !strings.Contains(err.Error(), "nonsense yes") {
		t.Errorf("%v, %v", s, err)
	}
}

// Whoever is on the machine can connect to the server and do nothing there: it runs as
// whoever runs the tests, and would load code that its configuration names.
func TestRedisWantsAPassword(t *testing.T) {
	for _, o := range []RedisOptions{{}, {ACLFile: true}, {NoConfig: true}} {
		s := StartRedis(t, o)
		conn := s.newClient("", "", -1)
		for _, command := range [][]any{{"PING"}, {"CONFIG", "GET", "dir"}, {"REPLICAOF", "NO", "ONE"}} {
			if err := conn.Do(t.Context(), command...).Err(); !redis.HasErrorPrefix(err, "NOAUTH") {
				t.Errorf("%+v: %v without a password: %v", o, command, err)
			}
		}
		_ = conn.Close()
	}
}
