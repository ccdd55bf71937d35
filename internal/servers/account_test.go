package servers

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Root writes into the folders of servers that run as nobody. Whoever else runs as
// nobody may change those folders, and has nothing of root's changed by it.
func TestFoldersOfServersLeadNowhere(t *testing.T) {
	as, err := unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	mine := filepath.Join(outside, "mine")
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(dir string) error{
		"data/file": func(dir string) error { return os.Symlink(outside, filepath.Join(dir, "data")) },
		"mine":      func(dir string) error { return os.Symlink(mine, filepath.Join(dir, "mine")) },
		"mine ":     func(dir string) error { return os.Symlink(mine, filepath.Join(dir, "mine .new")) },
		"hard":      func(dir string) error { return os.Link(mine, filepath.Join(dir, "hard")) },
		"hard ":     func(dir string) error { return os.Link(mine, filepath.Join(dir, "hard .new")) },
	} {
		dir, files, err := newFolder(outside, "server-")
		if err != nil {
			t.Fatal(err)
		}
		if err := as.own(dir); err != nil {
			t.Fatal(err)
		}
		if err := plant(dir); err != nil {
			t.Fatal(err)
		}
		_ = as.write(files, name, "planted")
		_ = files.Close()
		if text, err := os.ReadFile(mine); err != nil || string(text) != "mine" {
			t.Errorf("%q: a file outside holds %q, %v", name, text, err)
		}
		if info, err := os.Stat(mine); err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
			t.Errorf("%q: a file outside is no longer its owner's: %v, %v", name, info, err)
		}
		if _, err := os.Stat(filepath.Join(outside, "file")); err == nil {
			t.Errorf("%q: a file was made outside", name)
		}
	}
}
