package servers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/internal/tools"
)

// PostgresOptions says what is special about a server. The zero value is a
// server without TLS that asks everybody for SCRAM.
type PostgresOptions struct {
	Certificate *Certificate // nil: no TLS
	Conf        []string     // more lines of postgresql.conf: "max_connections = 5"
	HBA         []string     // lines of pg_hba.conf for network logins, before "host all all all scram-sha-256"

	// ReplicaOf is the server to be a read replica of: a copy that streams its
	// changes. Its superuser is that server's too. Nil: no replica.
	ReplicaOf *PostgresServer
}

// PostgresServer is a running server. It logs every connection and every
// statement, except those of the superuser's Exec.
type PostgresServer struct {
	Host     string
	Port     int
	User     string // a superuser
	Password string

	dir    string
	files  *os.Root // of dir
	keeper *exec.Cmd
	hold   io.Closer // closing it has the keeper stop the server
}

// Postgres starts a PostgreSQL server. It uses the programs in the folder
// REKEY_POSTGRES_BIN, else those on PATH, else the newest in
// /usr/lib/postgresql, else what `make tools-postgres` brought. Call Stop when
// done; the server also stops when this process ends without doing so.
func Postgres(ctx context.Context, o PostgresOptions) (*PostgresServer, error) {
	programs, err := tools.Find("postgres")
	if err != nil {
		return nil, fmt.Errorf("there is no PostgreSQL server to start: %w", err)
	}
	s := &PostgresServer{Host: "127.0.0.1", User: "postgres", Password: rand.Text()}
	if s.dir, s.files, err = newFolder("", "rekey-postgres-"); err != nil {
		return nil, err
	}
	if err := s.start(ctx, programs, o); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// StartPostgres starts a server for one test and stops it after it.
func StartPostgres(t T, o PostgresOptions) *PostgresServer {
	t.Helper()
	s, err := Postgres(t.Context(), o)
	if err != nil {
		t.Fatalf("%v", err)
		return nil
	}
	t.Cleanup(s.Stop)
	return s
}

// Stop stops the server and removes its folder.
func (s *PostgresServer) Stop() {
	if s.keeper != nil {
		_ = s.hold.Close()
		_ = s.keeper.Wait()
	}
	_ = s.files.Close()
	_ = os.RemoveAll(s.dir)
}

// Log returns what the server has logged so far. What it logs for a statement
// or a login is there before the client has its answer.
func (s *PostgresServer) Log() string {
	text, err := s.files.ReadFile("log")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Connect opens a superuser's session over the server's socket, which asks for
// no password and whose statements are not logged.
func (s *PostgresServer) Connect(ctx context.Context) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(fmt.Sprintf(
		"host=%s port=%d user=%s dbname=postgres sslmode=disable options='-c log_statement=none -c log_min_error_statement=panic'",
		s.dir, s.Port, s.User))
	if err != nil {
		return nil, err
	}
	return pgconn.ConnectConfig(ctx, cfg)
}

// Login logs in over the network and out again, without TLS, by a plain driver:
// what it proves owes nothing to rekey's code.
func (s *PostgresServer) Login(ctx context.Context, user, password string) error {
	cfg, err := pgconn.ParseConfig("sslmode=disable dbname=postgres")
	if err != nil {
		return err
	}
	cfg.Host, cfg.Port, cfg.User, cfg.Password, cfg.Fallbacks = s.Host, uint16(s.Port), user, password, nil
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Refused tells whether err is the server's own word that a password is wrong,
// and nothing else.
func Refused(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "28P01"
}

// Exec runs statements as the superuser, each in a transaction of its own.
func (s *PostgresServer) Exec(ctx context.Context, statements ...string) error {
	conn, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}

func (s *PostgresServer) start(ctx context.Context, programs map[string]string, o PostgresOptions) error {
	as, err := unprivileged()
	if err != nil {
		return err
	}
	if err := as.own(s.dir); err != nil {
		return err
	}
	run := func(program string, args ...string) error {
		argv := as.command(programs[program], args...)
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir = s.dir
		// A file, not a pipe: the server inherits it and would hold a pipe open.
		out, err := newOutput()
		if err != nil {
			return err
		}
		defer out.Close()
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s failed: %w\n%s", program, err, written(out))
		}
		return nil
	}
	data := filepath.Join(s.dir, "data")
	write := func(name string, lines ...string) error {
		return as.write(s.files, name, strings.Join(lines, "\n")+"\n")
	}

	if o.ReplicaOf != nil {
		s.Password = o.ReplicaOf.Password
		if err := o.ReplicaOf.copy(ctx, as, s, write); err != nil {
			return fmt.Errorf("copying the server to replicate: %w", err)
		}
	} else {
		if err := write("password", s.Password); err != nil {
			return err
		}
		if err := run("initdb", "--pgdata", data, "--username", s.User, "--pwfile", filepath.Join(s.dir, "password"),
			"--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync", "--no-instructions"); err != nil {
			return err
		}
	}

	port, err := freePort()
	if err != nil {
		return err
	}
	s.Port = port
	conf := []string{
		fmt.Sprintf("port = %d", s.Port),
		"listen_addresses = '127.0.0.1'",
		fmt.Sprintf("unix_socket_directories = '%s'", s.dir),
		"password_encryption = 'scram-sha-256'",
		"fsync = off",
		"dynamic_shared_memory_type = mmap", // containers may have no usable /dev/shm
		"log_connections = on",
		"log_statement = all",
	}
	if c := o.Certificate; c != nil {
		conf = append(conf, "ssl = on", "ssl_cert_file = '../cert.pem'", "ssl_key_file = '../key.pem'")
		if err := errors.Join(write("cert.pem", string(c.Cert)), write("key.pem", string(c.Key))); err != nil {
			return err
		}
	}
	if o.ReplicaOf != nil {
		conf = append(conf, fmt.Sprintf("primary_conninfo = 'host=%s port=%d user=%s'", o.ReplicaOf.dir, o.ReplicaOf.Port, s.User),
			fmt.Sprintf("primary_slot_name = '%s'", slot(s.dir)))
	}
	hba := slices.Concat([]string{"local all,replication " + s.User + " trust"}, o.HBA, []string{"host all all all scram-sha-256"})
	if err := errors.Join(
		write("data/postgresql.conf", append(conf, o.Conf...)...),
		write("data/pg_hba.conf", hba...),
	); err != nil {
		return err
	}
	// The keeper reads a pipe whose other end this process holds. The end of the
	// process, orderly or not, closes it; then the keeper stops the server and
	// removes the folder. A group of its own keeps Ctrl-C from it.
	stop := as.command(programs["pg_ctl"], "stop", "--pgdata", data, "--mode", "immediate", "-w")
	s.keeper = exec.Command("sh", append([]string{"-c", `dir=$1; shift; cat; "$@" >/dev/null 2>&1; rm -rf "$dir"`, "sh", s.dir}, stop...)...)
	s.keeper.Dir = "/"
	s.keeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hold, err := s.keeper.StdinPipe()
	if err != nil {
		return err
	}
	if err := s.keeper.Start(); err != nil {
		return err
	}
	s.hold = hold

	if err := run("pg_ctl", "start", "--pgdata", data, "--log", filepath.Join(s.dir, "log"), "-w"); err != nil {
		return fmt.Errorf("%w%s", err, s.Log())
	}
	return nil
}

// copy fills the folder of a replica. It does by hand what pg_basebackup does,
// because not every build has that.
func (s *PostgresServer) copy(ctx context.Context, as account, replica *PostgresServer, write func(name string, lines ...string) error) error {
	conn, err := s.Connect(ctx) // the backup lasts as long as the session
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	// The slot has the server keep what the replica has not got yet.
	if _, err := conn.Exec(ctx, fmt.Sprintf("SELECT pg_create_physical_replication_slot('%s', true); SELECT pg_backup_start('replica', true)", slot(replica.dir))).ReadAll(); err != nil {
		return err
	}
	argv := as.command("cp", "-Rp", filepath.Join(s.dir, "data"), filepath.Join(replica.dir, "data"))
	cp := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cp.Dir = "/"
	if said, err := cp.CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w\n%s", err, said)
	}
	result, err := conn.Exec(ctx, "SELECT labelfile FROM pg_backup_stop(false)").ReadAll()
	if err != nil {
		return err
	}
	slots, err := fs.Glob(replica.files.FS(), "data/pg_replslot/*")
	for _, gone := range append(slots, "data/postmaster.pid", "data/postmaster.opts") {
		err = errors.Join(err, replica.files.RemoveAll(gone))
	}
	return errors.Join(err, write("data/backup_label", string(result[0].Rows[0][0])), write("data/standby.signal"))
}

// slot is the name that a replica in dir has at the server it copies.
func slot(dir string) string {
	return "replica_" + dir[strings.LastIndexByte(dir, '-')+1:]
}
