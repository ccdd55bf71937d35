package servers

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/rekeyhq/rekey/internal/tools"
)

// RedisOptions says what is special about a server. The zero value is a server
// without TLS that keeps its users in its configuration file.
type RedisOptions struct {
	Certificate *Certificate // nil: no TLS; else nothing but TLS
	ACLFile     bool         // users are kept in an ACL file
	NoConfig    bool         // what would be the configuration file is read and then unknown to the server
	Conf        []string     // more lines of redis.conf: "maxclients 5"

	// ReplicaOf is the server to be a replica of, which it follows with that
	// server's superuser. Nil: no replica.
	ReplicaOf *RedisServer
}

// RedisServer is a running server.
type RedisServer struct {
	Host     string
	Port     int
	User     string // a superuser, beside the user default, whose password nobody knows
	Password string
	Version  string // "Redis 7.0.15", "Valkey 9.1.2"

	dir     string
	clients *tls.Config // nil: no TLS
	keeper  *exec.Cmd
	orders  io.WriteCloser // a line has the keeper restart the server, the end stop it
	ready   chan struct{}  // the server takes connections; closed when the keeper ends
	client  *redis.Client  // the superuser's

	mu  sync.Mutex
	log strings.Builder
}

// Redis starts a Redis server: redis-server or valkey-server of the folder
// REKEY_REDIS_BIN, else one of them on PATH, else what `make tools-redis` brought.
// Call Stop when done; the server also stops when this process ends without doing
// so.
func Redis(ctx context.Context, o RedisOptions) (*RedisServer, error) {
	programs, err := tools.Find("redis")
	if err != nil {
		return nil, fmt.Errorf("there is no Redis server to start: %w", err)
	}
	program := slices.Collect(maps.Values(programs)) // the one of the two
	// In memory where there is a place for it: the server writes a file, and waits
	// for the disk, whenever a user is changed.
	dir, err := os.MkdirTemp("/dev/shm", "rekey-redis-")
	if err != nil {
		dir, err = os.MkdirTemp("", "rekey-redis-")
	}
	if err != nil {
		return nil, fmt.Errorf("making a folder for Redis: %w", err)
	}
	s := &RedisServer{Host: "127.0.0.1", User: "root", Password: rand.Text(), dir: dir}
	if err := s.start(ctx, program, o); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// StartRedis starts a server for one test and stops it after it.
func StartRedis(t T, o RedisOptions) *RedisServer {
	t.Helper()
	s, err := Redis(t.Context(), o)
	if err != nil {
		t.Fatalf("%v", err)
		return nil
	}
	t.Cleanup(s.Stop)
	return s
}

// Stop stops the server and removes its folder.
func (s *RedisServer) Stop() {
	if s.client != nil {
		_ = s.client.Close()
	}
	if s.keeper != nil {
		_ = s.orders.Close()
		_ = s.keeper.Wait()
	}
	_ = os.RemoveAll(s.dir)
}

// Restart kills the server, as a power cut would, and starts it again with the
// files that it left.
func (s *RedisServer) Restart(ctx context.Context) error {
	if _, err := io.WriteString(s.orders, "again\n"); err != nil {
		return err
	}
	return s.awaitReady(ctx)
}

// Log returns what the server has logged so far.
func (s *RedisServer) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// Files returns the text of all files that the server keeps, the log apart.
func (s *RedisServer) Files() string {
	var all strings.Builder
	for _, name := range []string{"redis.conf", "users.acl"} {
		if text, err := os.ReadFile(filepath.Join(s.dir, name)); err == nil {
			all.Write(text)
		}
	}
	return all.String()
}

// Do runs a command as the superuser.
func (s *RedisServer) Do(ctx context.Context, args ...any) (any, error) {
	return s.client.Do(ctx, args...).Result()
}

// Dial connects to the server and does not log in.
func (s *RedisServer) Dial(ctx context.Context) (net.Conn, error) {
	addr := net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	if s.clients != nil {
		return (&tls.Dialer{Config: s.clients}).DialContext(ctx, "tcp", addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// Login logs in and out again, by a plain driver: what it proves owes nothing to
// rekey's code.
func (s *RedisServer) Login(ctx context.Context, user, password string) error {
	conn := s.newClient("", "", -1)
	defer conn.Close()
	return conn.Conn().AuthACL(ctx, user, password).Err()
}

// RedisRefused tells whether err is the server's own word that a password is
// wrong, and nothing else.
func RedisRefused(err error) bool { return redis.HasErrorPrefix(err, "WRONGPASS") }

func (s *RedisServer) newClient(user, password string, retries int) *redis.Client {
	return redis.NewClient(&redis.Options{
		Dialer:          func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx) },
		Username:        user,
		Password:        password,
		Protocol:        2,
		DisableIdentity: true,
		DialerRetries:   1,
		MaxRetries:      retries,
	})
}

func (s *RedisServer) start(ctx context.Context, program []string, o RedisOptions) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	s.Port = port
	// Else the user default needs no password, and whoever is on this machine could have
	// the server, which runs as whoever runs the tests, load code of theirs at a restart.
	users := []string{
		fmt.Sprintf("user %s on >%s ~* +@all", s.User, s.Password),
		fmt.Sprintf("user default on >%s ~* &* +@all", rand.Text()),
	}
	conf := []string{
		"bind 127.0.0.1",
		"dir " + s.dir,
		`save ""`,
		"port " + strconv.Itoa(port),
		"repl-diskless-sync-delay 0", // or a replica waits for seconds
	}
	write := func(name string, lines ...string) error {
		return os.WriteFile(filepath.Join(s.dir, name), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
	}
	if c := o.Certificate; c != nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(c.CA)
		// The name is that of every certificate the tests make.
		s.clients = &tls.Config{RootCAs: pool, ServerName: "localhost"}
		conf[3] = "port 0"
		conf = append(conf, "tls-port "+strconv.Itoa(port), "tls-cert-file cert.pem", "tls-key-file key.pem",
			"tls-ca-cert-file ca.pem", "tls-auth-clients no", "tls-replication yes")
		if err := errors.Join(write("cert.pem", string(c.Cert)), write("key.pem", string(c.Key)), write("ca.pem", string(c.CA))); err != nil {
			return err
		}
	}
	if o.ACLFile {
		conf = append(conf, "aclfile users.acl")
		if err := write("users.acl", users...); err != nil {
			return err
		}
	} else {
		conf = append(conf, users...)
	}
	if r := o.ReplicaOf; r != nil {
		conf = append(conf, fmt.Sprintf("replicaof %s %d", r.Host, r.Port), "masteruser "+r.User, "masterauth "+r.Password)
	}
	if err := write("redis.conf", append(conf, o.Conf...)...); err != nil {
		return err
	}

	// The keeper reads a pipe whose other end this process holds. The end of the
	// process, orderly or not, closes it; then the keeper kills the server and
	// removes the folder. A group of its own keeps Ctrl-C from it.
	const script = `dir=$1; shift
while "$@" </dev/null 2>&1 & read -r again; do kill -9 $!; wait $!; done
kill -9 $!; wait $!; rm -rf "$dir"`
	run := append(program, "redis.conf")
	if o.NoConfig {
		run = append([]string{"sh", "-c", `exec "$@" - <redis.conf`, "sh"}, program...)
	}
	s.keeper = exec.Command("sh", append([]string{"-c", script, "sh", s.dir}, run...)...)
	s.keeper.Dir = s.dir
	s.keeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if s.orders, err = s.keeper.StdinPipe(); err != nil {
		return err
	}
	out, err := s.keeper.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.keeper.Start(); err != nil {
		return err
	}
	s.ready = make(chan struct{}, 1)
	go s.listen(out)
	s.client = s.newClient(s.User, s.Password, 3) // a restart breaks its connections
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	info, err := s.client.Info(ctx, "server").Result()
	for line := range strings.Lines(info) {
		for field, name := range map[string]string{"redis_version:": "Redis", "valkey_version:": "Valkey"} {
			// Valkey says which Redis it is like too, and that first.
			if version, ok := strings.CutPrefix(strings.TrimSpace(line), field); ok {
				s.Version = name + " " + version
			}
		}
	}
	return err
}

// listen keeps what the server says.
func (s *RedisServer) listen(out io.Reader) {
	defer close(s.ready)
	for lines, wrong := bufio.NewScanner(out), false; lines.Scan(); {
		s.mu.Lock()
		s.log.WriteString(lines.Text() + "\n")
		s.mu.Unlock()
		// It says so once for its only port.
		if strings.Contains(lines.Text(), "Ready to accept connections") {
			s.ready <- struct{}{}
		}
		// A server that ends because of its configuration says what is wrong with
		// which line in the one after that. The keeper is to follow it.
		// A server whose port somebody took meanwhile ends after the other line.
		if wrong || strings.Contains(lines.Text(), "Failed listening on port") {
			_ = s.orders.Close()
		}
		wrong = strings.HasPrefix(lines.Text(), ">>> ")
	}
}

func (s *RedisServer) awaitReady(ctx context.Context) error {
	select {
	case _, ok := <-s.ready:
		if !ok {
			return fmt.Errorf("the Redis server ended:\n%s", s.Log())
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the Redis server: %w\n%s", ctx.Err(), s.Log())
	}
}
