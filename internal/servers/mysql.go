package servers

import (
	"context"
	"crypto/rand"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/rekeyhq/rekey/internal/tools"
)

// MySQLOptions says what is special about a MariaDB or MySQL server. The zero
// value is a server without TLS.
type MySQLOptions struct {
	Certificate *Certificate // nil: no TLS
	Args        []string     // more arguments: "--read-only"
}

// MySQLServer is a running MariaDB or MySQL server. It logs every login and every
// statement, except those of Exec and Query.
type MySQLServer struct {
	Host     string
	Port     int
	User     string // an admin of everything, who logs in over the network with a password
	Password string
	Version  string // as the server says it: 10.11.19-MariaDB-0+deb12u1-log

	dir    string
	files  *os.Root // of dir
	keeper *exec.Cmd
	hold   io.Closer // closing it has the keeper stop the server
}

// MariaDB starts a MariaDB server from the programs on PATH or in /usr/sbin, else
// from what `make tools-mariadb` brought. Call Stop when done; the server also
// stops when this process ends without doing so.
func MariaDB(ctx context.Context, o MySQLOptions) (*MySQLServer, error) {
	programs, err := tools.Find("mariadb")
	if err != nil {
		return nil, fmt.Errorf("there is no MariaDB server to start: %w", err)
	}
	base, err := base(programs["mariadbd"])
	if err != nil {
		return nil, err
	}
	return startMySQL(ctx, o, func(data string) [][]string {
		return [][]string{
			// --force has it not ask for the address of this machine, which may have none.
			{programs["mariadb-install-db"], "--no-defaults", "--basedir=" + base, "--datadir=" + data, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--force"},
			{programs["mariadbd"], "--no-defaults", "--basedir=" + base, "--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=8M"},
		}
	})
}

// MySQL starts a MySQL server of the folder REKEY_MYSQL_BIN, else from what `make
// tools-mysql` brought. Stop is as for MariaDB.
func MySQL(ctx context.Context, o MySQLOptions) (*MySQLServer, error) {
	programs, err := tools.Find("mysql")
	if err != nil {
		return nil, fmt.Errorf("there is no MySQL server to start: %w", err)
	}
	base, err := base(programs["mysqld"])
	if err != nil {
		return nil, err
	}
	server := []string{programs["mysqld"], "--no-defaults", "--secure-file-priv=NULL",
		"--lc-messages-dir=" + filepath.Join(base, "share/mysql"), "--plugin-dir=" + filepath.Join(base, "lib/mysql/plugin")}
	return startMySQL(ctx, o, func(data string) [][]string {
		return [][]string{
			append(slices.Clone(server), "--initialize-insecure", "--datadir="+data),
			append(slices.Clone(server), "--mysqlx=OFF", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=OFF"),
		}
	})
}

// base is the folder that a server is installed in, with its messages and plugins:
// the one above that of its program.
func base(program string) (string, error) {
	program, err := filepath.EvalSymlinks(program)
	return filepath.Dir(filepath.Dir(program)), err
}

// startMySQL runs the two command lines that make a data folder and serve it.
func startMySQL(ctx context.Context, o MySQLOptions, commands func(data string) [][]string) (*MySQLServer, error) {
	s := &MySQLServer{Host: "127.0.0.1", User: "root", Password: rand.Text()}
	var err error
	if s.dir, s.files, err = newFolder("", "rekey-mysql-"); err != nil {
		return nil, err
	}
	lines := commands(filepath.Join(s.dir, "data"))
	if err := s.start(ctx, o, lines[0], lines[1]); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Stop stops the server and removes its folder.
func (s *MySQLServer) Stop() {
	if s.keeper != nil {
		_ = s.hold.Close()
		_ = s.keeper.Wait()
	}
	_ = s.files.Close()
	_ = os.RemoveAll(s.dir)
}

// Log returns the statements and logins the server has logged so far, those that
// failed too, and its own messages. What it logs for one is there before the
// client has its answer.
func (s *MySQLServer) Log() string {
	var all strings.Builder
	for _, name := range []string{"general.log", "server.out"} {
		text, err := s.files.ReadFile(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err.Error()
		}
		all.Write(text)
	}
	return all.String()
}

// Exec runs statements as the admin, over the server's socket, unlogged, and with an
// empty sql_mode.
func (s *MySQLServer) Exec(ctx context.Context, statements ...string) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, sql := range statements {
		if _, err := conn.(driver.ExecerContext).ExecContext(ctx, sql, nil); err != nil {
			return err
		}
	}
	return nil
}

// Query runs one statement as the admin, unlogged, and returns its rows as text.
func (s *MySQLServer) Query(ctx context.Context, statement string) ([][]string, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	rows, err := conn.(driver.QueryerContext).QueryContext(ctx, statement, nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all [][]string
	for {
		row := make([]driver.Value, len(rows.Columns()))
		switch err := rows.Next(row); err {
		case nil:
		case io.EOF:
			return all, nil
		default:
			return nil, err
		}
		texts := make([]string, len(row))
		for i, v := range row {
			if b, ok := v.([]byte); ok {
				texts[i] = string(b)
			} else if v != nil {
				texts[i] = fmt.Sprint(v)
			}
		}
		all = append(all, texts)
	}
}

// Login logs in over the network and out again, as Run does.
func (s *MySQLServer) Login(ctx context.Context, user, password string) error {
	return s.Run(ctx, user, password)
}

// Run logs in over the network, runs statements, and logs out again, by a plain driver:
// what it proves owes nothing to rekey's code. Where the server has TLS it is used,
// unverified.
func (s *MySQLServer) Run(ctx context.Context, user, password string, statements ...string) error {
	cfg := s.config()
	cfg.Net, cfg.Addr, cfg.User, cfg.Passwd = "tcp", net.JoinHostPort(s.Host, fmt.Sprint(s.Port)), user, password
	cfg.TLSConfig, cfg.AllowFallbackToPlaintext = "preferred", true
	conn, err := connectMySQL(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, sql := range statements {
		if _, err := conn.(driver.ExecerContext).ExecContext(ctx, sql, nil); err != nil {
			return err
		}
	}
	return nil
}

// MySQLRefused tells whether err is the server's own word that a password is
// wrong, and nothing else.
func MySQLRefused(err error) bool {
	var my *mysql.MySQLError
	return errors.As(err, &my) && my.Number == 1045
}

func (s *MySQLServer) config() *mysql.Config {
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.User, cfg.Passwd = "unix", filepath.Join(s.dir, "socket"), "root", s.Password
	cfg.Logger = &mysql.NopLogger{}
	return cfg
}

func (s *MySQLServer) connect(ctx context.Context) (driver.Conn, error) {
	cfg := s.config()
	cfg.Params = map[string]string{"sql_log_off": "1", "sql_mode": "''", "sql_quote_show_create": "1"}
	return connectMySQL(ctx, cfg)
}

func connectMySQL(ctx context.Context, cfg *mysql.Config) (driver.Conn, error) {
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return connector.Connect(ctx)
}

// maxMySQLStart is how long a server may take to make its tables and come up. It
// takes a second or two, on a busy machine ten.
const maxMySQLStart = time.Minute

func (s *MySQLServer) start(ctx context.Context, o MySQLOptions, install, serve []string) error {
	ctx, cancel := context.WithTimeout(ctx, maxMySQLStart)
	defer cancel()
	as, err := unprivileged()
	if err != nil {
		return err
	}
	if err := as.own(s.dir); err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(s.dir, name) }
	// MariaDB's script wants to be run as whom the server runs.
	argv := as.command(install[0], install[1:]...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = s.dir
	// A server that starts removes the temporary files of others in the same folder.
	env := append(os.Environ(), "TMPDIR="+s.dir, "NOTIFY_SOCKET="+at("ready"))
	cmd.Env = env
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s failed: %w\n%s", filepath.Base(install[0]), err, said)
	}

	if s.Port, err = freePort(); err != nil {
		return err
	}
	// What it runs first of all needs no password yet.
	init := fmt.Sprintf("DROP USER IF EXISTS root@'127.0.0.1';\nCREATE USER root@'127.0.0.1' IDENTIFIED BY '%s';\nGRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\nALTER USER root@localhost IDENTIFIED BY '%[1]s';\n", s.Password)
	files := map[string]string{"init.sql": init}
	serve = slices.Concat(serve, []string{
		"--datadir=" + at("data"), "--socket=" + at("socket"), "--pid-file=" + at("pid"), fmt.Sprintf("--port=%d", s.Port), "--bind-address=127.0.0.1",
		"--skip-log-bin", "--skip-name-resolve", "--init-file=" + at("init.sql"), "--general-log", "--general-log-file=" + at("general.log"), "--log-error=" + at("server.out"),
	})
	if c := o.Certificate; c != nil {
		files["ca.pem"], files["cert.pem"], files["key.pem"] = string(c.CA), string(c.Cert), string(c.Key)
		serve = append(serve, "--ssl-ca="+at("ca.pem"), "--ssl-cert="+at("cert.pem"), "--ssl-key="+at("key.pem"))
	}
	for name, text := range files {
		if err := as.write(s.files, name, text); err != nil {
			return err
		}
	}
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at("ready"), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer ready.Close()
	if err := s.files.Lchown("ready", as.uid, as.gid); err != nil {
		return err
	}

	// The keeper reads a pipe whose other end this process holds. The end of the
	// process, orderly or not, closes it; then the keeper stops the server and
	// removes the folder. A group of its own keeps Ctrl-C from it.
	argv = as.command(serve[0], append(serve[1:], o.Args...)...)
	s.keeper = exec.Command("sh", append([]string{"-c", `dir=$1; shift; "$@" & pid=$!; cat; kill -KILL $pid; wait $pid 2>/dev/null; rm -rf "$dir"`, "sh", s.dir}, argv...)...)
	s.keeper.Dir = "/"
	s.keeper.Env = env
	out, err := newOutput()
	if err != nil {
		return err
	}
	defer out.Close()
	s.keeper.Stdout, s.keeper.Stderr = out, out
	s.keeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if s.hold, err = s.keeper.StdinPipe(); err != nil {
		return err
	}
	if err := s.keeper.Start(); err != nil {
		return err
	}
	if err := awaitReady(ctx, ready); err != nil {
		return fmt.Errorf("%s does not come up: %w\n%s%s", filepath.Base(serve[0]), err, s.Log(), written(out))
	}
	version, err := s.Query(ctx, "SELECT VERSION()")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, s.Log())
	}
	s.Version = version[0][0]
	return nil
}

// awaitReady waits for the server to say, as services do to systemd, that it is
// ready. A server that gives up removes nothing, so it is the context that ends
// the wait then.
func awaitReady(ctx context.Context, ready *net.UnixConn) error {
	deadline, _ := ctx.Deadline()
	if err := ready.SetReadDeadline(deadline); err != nil {
		return err
	}
	message := make([]byte, 4096)
	for {
		n, err := ready.Read(message)
		if err != nil {
			return err
		}
		if slices.Contains(strings.Split(string(message[:n]), "\n"), "READY=1") {
			return nil
		}
	}
}
