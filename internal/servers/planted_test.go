package servers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// starts are the servers that there are, with where each one's programs are named.
var starts = []struct {
	kit, env, programs string
	start              func(*testing.T) error
}{
	{"postgres", "REKEY_POSTGRES_BIN", "initdb pg_ctl postgres", func(t *testing.T) error { s, err := Postgres(t.Context(), PostgresOptions{}); return stopped(s, err) }},
	{"mariadb", "", "mariadbd mariadb-install-db my_print_defaults", func(t *testing.T) error { s, err := MariaDB(t.Context(), MySQLOptions{}); return stopped(s, err) }},
	{"mysql", "REKEY_MYSQL_BIN", "mysqld", func(t *testing.T) error { s, err := MySQL(t.Context(), MySQLOptions{}); return stopped(s, err) }},
	{"redis", "REKEY_REDIS_BIN", "redis-server", func(t *testing.T) error { s, err := Redis(t.Context(), RedisOptions{}); return stopped(s, err) }},
	{"redis", "REKEY_REDIS_BIN", "valkey-server", func(t *testing.T) error { s, err := Redis(t.Context(), RedisOptions{}); return stopped(s, err) }},
}

func stopped(s interface{ Stop() }, err error) error {
	if err == nil {
		s.Stop()
	}
	return err
}

// emptyMachine hides the servers of this machine, as far as they are on PATH. What
// else a program needs is left.
func emptyMachine(t *testing.T) {
	t.Helper()
	bin := t.TempDir()
	for _, name := range []string{"sh", "cat", "rm", "setpriv", "touch", "dirname"} {
		path, err := exec.LookPath(name)
		if err != nil && name == "setpriv" && os.Geteuid() != 0 {
			continue // for root only
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	for _, env := range []string{"REKEY_POSTGRES_BIN", "REKEY_MYSQL_BIN", "REKEY_REDIS_BIN"} {
		t.Setenv(env, "")
	}
	t.Setenv("REKEY_TOOLS", filepath.Join(t.TempDir(), "none"))
}

// plant puts programs into a folder that, when they run, say so by a file, and
// fail as servers do.
func plant(t *testing.T, folder, programs string) (ran func() bool) {
	t.Helper()
	mark := filepath.Join(t.TempDir(), "ran")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for program := range strings.FieldsSeq(programs) {
		if err := os.WriteFile(filepath.Join(folder, program), fmt.Appendf(nil, "#!/bin/sh\n: >'%s'; echo '>>> of a configuration'; echo planted; exit 1\n", mark), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(mark), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(mark)), 0o755); err != nil {
		t.Fatal(err)
	}
	return func() bool {
		_, err := os.Stat(mark)
		return err == nil
	}
}

// A place is where somebody else plants programs: it is made with them in it, and
// then opened to others.
var places = map[string]func(t *testing.T, folder string){
	"a folder that its group may write": func(t *testing.T, folder string) { chmod(t, folder, 0o775) },
	"a folder that everybody may write": func(t *testing.T, folder string) { chmod(t, folder, 0o777) },
	"a folder like /tmp":                func(t *testing.T, folder string) { chmod(t, folder, 0o777|fs.ModeSticky) },
	"a folder in one that others may write": func(t *testing.T, folder string) {
		chmod(t, filepath.Dir(folder), 0o777)
	},
	"programs that others may write": func(t *testing.T, folder string) {
		programs, _ := filepath.Glob(filepath.Join(folder, "*"))
		for _, program := range programs {
			chmod(t, program, 0o777)
		}
	},
	"links to programs that others may replace": func(t *testing.T, folder string) {
		elsewhere := folder + "-elsewhere"
		if err := os.Rename(folder, elsewhere); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		programs, _ := filepath.Glob(filepath.Join(elsewhere, "*"))
		for _, program := range programs {
			if err := os.Symlink(program, filepath.Join(folder, filepath.Base(program))); err != nil {
				t.Fatal(err)
			}
		}
		chmod(t, elsewhere, 0o777)
	},
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// TestNothingPlantedIsRun names folders in which somebody else may have put the
// programs: none is run.
func TestNothingPlantedIsRun(t *testing.T) {
	for _, s := range starts {
		if s.env == "" {
			continue // TestNoPlantedKitIsRun has this one
		}
		for place, open := range places {
			t.Run(s.programs+" in "+place, func(t *testing.T) {
				emptyMachine(t)
				folder := filepath.Join(t.TempDir(), "in", "bin")
				ran := plant(t, folder, s.programs)
				open(t, folder)
				t.Setenv(s.env, folder)
				if err := s.start(t); err == nil || !strings.Contains(err.Error(), "may write") || !strings.Contains(err.Error(), s.env) {
					t.Errorf("got %v", err)
				}
				if ran() {
					t.Error("a planted program was run")
				}
			})
		}
	}
}

// TestNoPlantedKitIsRun has the folder of the tools be one that somebody else made
// or may write to.
func TestNoPlantedKitIsRun(t *testing.T) {
	for _, s := range starts[1:4] { // a PostgreSQL beside PATH cannot be hidden here; internal/tools tests the others
		for place, open := range places {
			t.Run(s.programs+" in "+place, func(t *testing.T) {
				emptyMachine(t)
				folder := filepath.Join(t.TempDir(), "in", "tools")
				ran := plant(t, filepath.Join(folder, s.kit, "usr/sbin"), s.programs)
				if place == "programs that others may write" || place == "links to programs that others may replace" {
					open(t, filepath.Join(folder, s.kit, "usr/sbin"))
				} else {
					open(t, folder)
				}
				t.Setenv("REKEY_TOOLS", folder)
				if err := s.start(t); err == nil || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("got %v", err)
				}
				if ran() {
					t.Error("a planted program was run")
				}
			})
		}
	}
}

// The counterpart of the two above: where nobody else may write, the programs are
// run, so that what they refuse is the place and nothing else.
func TestWhatIsOnesOwnIsRun(t *testing.T) {
	for _, s := range starts {
		if s.env == "" {
			continue
		}
		t.Run(s.programs, func(t *testing.T) {
			emptyMachine(t)
			folder := filepath.Join(t.TempDir(), "in", "bin")
			ran := plant(t, folder, s.programs)
			for at := folder; at != os.TempDir(); at = filepath.Dir(at) {
				chmod(t, at, 0o755) // root's servers run as nobody
			}
			t.Setenv(s.env, folder)
			if err := s.start(t); err == nil {
				t.Error("a program that only leaves a file is a server")
			}
			if !ran() {
				t.Error("the program was not run")
			}
		})
	}
}

func TestNoServerSaysWhatBringsOne(t *testing.T) {
	emptyMachine(t)
	for _, s := range starts[2:] { // the others may be where a system has them beside PATH
		if err := s.start(t); err == nil || !strings.Contains(err.Error(), "run `make tools-"+s.kit+"`") {
			t.Errorf("%s: the error %v does not name the command that brings one", s.kit, err)
		}
	}
}
