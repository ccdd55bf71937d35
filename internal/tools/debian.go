package tools

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// debianKeys are those that Debian signs its releases with.
const debianKeys = "/usr/share/keyrings/debian-archive-keyring.gpg"

// fetchDebian has apt-get download the kit's packages and all their dependencies,
// as if nothing were installed, and unpacks them into root. No script of a package
// runs. The system's packages and package lists do not change, and apt's hooks do
// not run. The system's configuration decides where packages come from and whose
// signatures count.
func (k kit) fetchDebian(ctx context.Context, work, root string, log io.Writer) error {
	at := func(name string) string { return filepath.Join(work, "apt", name) }
	for _, dir := range []string{"lists/partial", "next/partial", "archives/partial"} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			return err
		}
	}
	// As root, apt-get downloads as a user of its own, who has to enter.
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	conf := []string{
		`Dir::State "` + at("") + `";`,
		`Dir::State::Lists "` + at("lists") + `";`,
		`Dir::State::Status "` + at("status") + `";`, // which packages are installed: none
		`Dir::Cache "` + at("") + `";`,
		`Dir::Cache::Archives "` + at("archives") + `";`,
		`APT::Install-Recommends "0";`,
		`APT::Keep-Downloaded-Packages "1";`,
		`Acquire::Languages "none";`,
		`Acquire::Retries "3";`,
		`Debug::NoLocking "1";`, // nothing is shared
		// Hooks clear the system's caches and wake services.
		`#clear APT::Update::Pre-Invoke;`,
		`#clear APT::Update::Post-Invoke;`,
		`#clear APT::Update::Post-Invoke-Success;`,
	}
	write := func(name string, lines ...string) error {
		return os.WriteFile(at(name), []byte(strings.Join(lines, "\n")), 0o644)
	}
	apt := func(args ...string) (string, error) {
		return run(ctx, work, "apt-get", append([]string{"-c", at("conf"), "-qq"}, args...)...)
	}
	if err := errors.Join(write("status"), write("conf", conf...)); err != nil {
		return err
	}
	if _, err := apt("update"); err != nil {
		return err
	}
	if k.next {
		// The system's own mirror; of the keys that the system trusts, Debian's alone count.
		mirror, err := apt("indextargets", "--format", "$(REPO_URI)", "Identifier: Packages", "Origin: Debian", "Label: Debian")
		mirror, _, _ = strings.Cut(mirror, "\n")
		if err != nil || mirror == "" {
			return fmt.Errorf("this system's packages are not Debian's, so neither are those of its next release (%v)", err)
		}
		conf = append(conf,
			`Dir::State::Lists "`+at("next")+`";`,
			`Dir::Etc::SourceList "`+at("sources.list")+`";`,
			`Dir::Etc::SourceParts "/dev/null";`,
			`Dir::Etc::Preferences "/dev/null";`,
			`Dir::Etc::PreferencesParts "/dev/null";`,
			`#clear APT::Default-Release;`)
		if err := errors.Join(write("conf", conf...), write("sources.list", "deb [signed-by="+debianKeys+"] "+mirror+" sid main")); err != nil {
			return err
		}
		if _, err := apt("update"); err != nil {
			return err
		}
	}
	if _, err := apt(append([]string{"install", "--yes", "--download-only"}, k.packages...)...); err != nil {
		return err
	}
	packages, err := filepath.Glob(at("archives/*.deb"))
	if err != nil {
		return err
	}
	for _, file := range packages {
		if _, err := run(ctx, work, "dpkg-deb", "--extract", file, root); err != nil {
			return err
		}
		// Its name is PACKAGE_VERSION_ARCHITECTURE.deb, escaped as in a URL.
		name := strings.Split(filepath.Base(file), "_")
		if slices.Contains(k.packages, name[0]) {
			fmt.Fprintf(log, "unpacked %s %s, with what it needs: %d packages\n", name[0], strings.ReplaceAll(name[1], "%3a", ":"), len(packages))
		}
	}
	return nil
}

// launchers puts a script in the place of each of the kit's programs. The script
// starts the program by the loader and with the libraries that were unpacked with
// the program; initdb and pg_ctl find the script of postgres beside their own. The
// tree is in root now, and will be moved to place.
func (k kit) launchers(root, place string) error {
	loaders, _ := filepath.Glob(filepath.Join(root, "usr/lib/*/ld-linux*.so.*"))
	more, _ := filepath.Glob(filepath.Join(root, "lib/*/ld-linux*.so.*"))
	if loaders = append(loaders, more...); len(loaders) == 0 {
		return errors.New("no loader of programs came with the packages")
	}
	architecture := filepath.Base(filepath.Dir(loaders[0]))
	at := func(path string) string { return filepath.Join(place, strings.TrimPrefix(path, root)) }
	load := []string{"exec", quote(at(loaders[0])), "--library-path",
		quote(at("usr/lib/"+architecture) + ":" + at("lib/"+architecture))}

	for _, program := range k.programs {
		path := locate(root, program)
		if path == "" {
			return fmt.Errorf("no %s came with the packages", program)
		}
		line := append(slices.Clone(load), quote(at(path)+real))
		interpreter, err := interpreterOf(path)
		switch {
		case err != nil:
			return err
		case interpreter == "python3":
			line = slices.Concat([]string{"PYTHONHOME=" + quote(at("usr"))}, load, []string{quote(at("usr/bin/python3")), quote(at(path) + real)})
		case interpreter != "": // sh, which every system has
			continue
		}
		if err := os.Rename(path, path+real); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+strings.Join(line, " ")+` "$@"`+"\n"), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// real ends the name that a program has when its launcher has its own.
const real = ".real"

// interpreterOf returns what runs a script, without its folder; "" for a program
// that is no script.
func interpreterOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, 256)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", err
	}
	script, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return "", nil
	}
	words := strings.Fields(script)
	if len(words) > 1 && filepath.Base(words[0]) == "env" {
		words = words[1:]
	}
	if len(words) == 0 {
		return "", nil
	}
	return filepath.Base(words[0]), nil
}

// quote writes a word for a shell.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
