package servers

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/rekeyhq/rekey/internal/tools"
)

// PgBouncerOptions says what a pooler stands in front of, and how it knows users.
type PgBouncerOptions struct {
	// Databases are the servers that the pooler leads to, by the database that a client
	// asks for. Each is the database "postgres" of its server.
	Databases map[string]*PostgresServer
	// Users are the passwords that the pooler has of its own (auth_file), by user. The
	// pooler asks the servers for those of other users (auth_query); with Closed it does
	// not, and refuses other users.
	Users  map[string]string
	Closed bool

	Mode        string       // of pooling: "session", "transaction"; "": session
	AuthType    string       // how the pooler asks clients for passwords; "": scram-sha-256
	Certificate *Certificate // of the pooler; nil: no TLS
	Conf        []string     // more lines of the section [pgbouncer]: "default_pool_size = 1"
}

// PgBouncer is a running connection pooler.
type PgBouncer struct {
	Host string
	Port int

	dir    string
	files  *os.Root // of dir
	keeper *exec.Cmd
	hold   io.Closer // closing it has the keeper stop the pooler

	mu  sync.Mutex
	log strings.Builder
}

// StartPgBouncer starts a pooler for one test and stops it after it. It uses the
// system's program, else what `make tools-pgbouncer` brought.
func StartPgBouncer(t T, o PgBouncerOptions) *PgBouncer {
	t.Helper()
	programs, err := tools.Find("pgbouncer")
	if err != nil {
		t.Fatalf("there is no PgBouncer to start: %v", err)
		return nil
	}
	b := &PgBouncer{Host: "127.0.0.1"}
	if b.dir, b.files, err = newFolder("", "rekey-pgbouncer-"); err != nil {
		t.Fatalf("%v", err)
		return nil
	}
	t.Cleanup(b.Stop)
	if err := b.start(t.Context(), programs["pgbouncer"], o); err != nil {
		t.Fatalf("%v", err)
		return nil
	}
	return b
}

// Stop stops the pooler and removes its folder.
func (b *PgBouncer) Stop() {
	if b.keeper != nil {
		_ = b.hold.Close()
		_ = b.keeper.Wait()
	}
	_ = b.files.Close()
	_ = os.RemoveAll(b.dir)
}

// Log returns what the pooler has logged so far.
func (b *PgBouncer) Log() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

func (b *PgBouncer) start(ctx context.Context, program string, o PgBouncerOptions) (err error) {
	as, err := unprivileged() // PgBouncer refuses to run as root
	if err != nil {
		return err
	}
	if err := as.own(b.dir); err != nil {
		return err
	}
	if b.Port, err = freePort(); err != nil {
		return err
	}
	databases := []string{"[databases]"}
	for _, name := range slices.Sorted(maps.Keys(o.Databases)) {
		s := o.Databases[name]
		databases = append(databases, fmt.Sprintf("%s = host=%s port=%d dbname=postgres", name, s.Host, s.Port))
	}
	conf := []string{
		"[pgbouncer]",
		"listen_addr = " + b.Host,
		fmt.Sprintf("listen_port = %d", b.Port),
		"unix_socket_dir =",
		"auth_file = " + filepath.Join(b.dir, "users"),
		"auth_type = " + cmp.Or(o.AuthType, "scram-sha-256"),
		"pool_mode = " + cmp.Or(o.Mode, "session"),
	}
	users := maps.Clone(o.Users)
	if !o.Closed {
		// Of its own, because other poolers may ask the same server.
		asker, password := fmt.Sprintf("pgbouncer_%d", b.Port), rand.Text()
		for _, s := range o.Databases {
			if err := s.Exec(ctx, "DROP ROLE IF EXISTS "+asker, "CREATE ROLE "+asker+" LOGIN SUPERUSER PASSWORD '"+password+"'"); err != nil {
				return err
			}
		}
		if users == nil {
			users = map[string]string{}
		}
		users[asker] = password
		conf = append(conf, "auth_user = "+asker, "auth_query = SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1")
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(users)) {
		list = append(list, quoted(name)+" "+quoted(users[name]))
	}
	write := func(name string, lines ...string) error {
		return as.write(b.files, name, strings.Join(lines, "\n")+"\n")
	}
	if c := o.Certificate; c != nil {
		conf = append(conf, "client_tls_sslmode = require",
			"client_tls_cert_file = "+filepath.Join(b.dir, "cert.pem"), "client_tls_key_file = "+filepath.Join(b.dir, "key.pem"))
		if err := errors.Join(write("cert.pem", string(c.Cert)), write("key.pem", string(c.Key))); err != nil {
			return err
		}
	}
	if err := errors.Join(write("users", list...), write("ini", slices.Concat(databases, conf, o.Conf)...)); err != nil {
		return err
	}

	// The keeper reads a pipe whose other end this process holds, as that of Postgres.
	const script = `dir=$1; shift; "$@" </dev/null 2>&1 & cat; kill -9 $!; wait $!; rm -rf "$dir"`
	b.keeper = exec.Command("sh", append([]string{"-c", script, "sh", b.dir}, as.command(program, filepath.Join(b.dir, "ini"))...)...)
	b.keeper.Dir = "/"
	b.keeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hold, err := b.keeper.StdinPipe()
	if err != nil {
		return err
	}
	out, err := b.keeper.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.keeper.Start(); err != nil {
		return err
	}
	b.hold = hold
	up := make(chan struct{})
	go b.listen(out, up)
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for PgBouncer: %w\n%s", ctx.Err(), b.Log())
	}
}

// listen keeps what the pooler says. It closes up when the pooler takes connections.
func (b *PgBouncer) listen(out io.Reader, up chan struct{}) {
	for lines, said := bufio.NewScanner(out), false; lines.Scan(); {
		b.mu.Lock()
		b.log.WriteString(lines.Text() + "\n")
		b.mu.Unlock()
		if !said && strings.Contains(lines.Text(), "process up") {
			said = true
			close(up)
		}
	}
}

// quoted writes a name or a password as auth_file has it.
func quoted(text string) string { return `"` + strings.ReplaceAll(text, `"`, `""`) + `"` }
