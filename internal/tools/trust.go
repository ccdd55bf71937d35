package tools

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Folder returns the folder with the tools: REKEY_TOOLS if that is set, else
// rekey in the user's folder for caches, XDG_CACHE_HOME or .cache at home. It is
// an error if the folder is not one of the user's own that nobody else can change
// or replace; errors.Is says fs.ErrNotExist if there is none yet.
//
// For root it is /var/cache/rekey, which everybody may read. PostgreSQL refuses to
// run as root, so root's servers run as nobody, who has to be able to enter.
func Folder() (string, error) {
	folder, err := named()
	if err != nil {
		return "", err
	}
	return owned(folder, os.Geteuid())
}

// makeFolder is Folder, and makes the folder if there is none.
func makeFolder() (string, error) {
	folder, err := named()
	if err != nil {
		return "", err
	}
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o755
	}
	// If somebody else makes the folder first, owned refuses it.
	if err := os.MkdirAll(folder, mode); err != nil {
		return "", fmt.Errorf("making the folder of the tools: %w", err)
	}
	return owned(folder, os.Geteuid())
}

func named() (string, error) {
	folder := os.Getenv("REKEY_TOOLS")
	switch {
	case folder != "":
	case os.Geteuid() == 0:
		folder = "/var/cache/rekey"
	default:
		cache := os.Getenv("XDG_CACHE_HOME")
		if !filepath.IsAbs(cache) {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", fmt.Errorf("looking for a folder for the tools: %w; set REKEY_TOOLS", err)
			}
			cache = filepath.Join(home, ".cache")
		}
		folder = filepath.Join(cache, "rekey")
	}
	return filepath.Abs(folder)
}

// owned returns the path of a folder without symbolic links, if it will do as the
// folder of the tools of a user.
func owned(folder string, uid int) (string, error) {
	refuse := func(err error) (string, error) {
		return "", fmt.Errorf("nothing in %s, the folder of the tools, is run: %w; set REKEY_TOOLS to another", folder, err)
	}
	info, err := os.Lstat(folder)
	if err != nil {
		return refuse(err)
	}
	if owner := ownerOf(info); !info.IsDir() || owner != uid {
		return refuse(fmt.Errorf("the user %d runs this, and that is no folder of that user's (%v, owner %d)", uid, info.Mode(), owner))
	}
	path, err := trusted(folder, uid)
	if err != nil {
		return refuse(err)
	}
	for at := path; uid == 0 && at != filepath.Dir(at); at = filepath.Dir(at) {
		if info, err = os.Stat(at); err != nil {
			return refuse(err)
		}
		if info.Mode()&0o001 == 0 {
			return refuse(fmt.Errorf("root's servers run as nobody, who may not enter %s (%v)", at, info.Mode()))
		}
	}
	return path, nil
}

// Trusted returns the path of a file or folder without symbolic links, if nobody
// but root and the user who runs this can change or replace what is there. That
// takes an owner who is one of the two, and no right to write for others, of the
// path itself and of each folder above it; only in a folder above may others write
// whose sticky bit keeps them from what is not theirs, as /tmp.
func Trusted(path string) (string, error) { return trusted(path, os.Geteuid()) }

func trusted(path string, uid int) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return "", err
		}
		sticky := at != path && info.Mode()&fs.ModeSticky != 0
		switch owner := ownerOf(info); {
		case owner != uid && owner != 0:
			return "", fmt.Errorf("%s belongs to another user, %d", at, owner)
		case info.Mode()&0o022 != 0 && !sticky:
			return "", fmt.Errorf("others than its owner may write %s (%v); chmod go-w it if the files there are yours", at, info.Mode())
		}
		if at == filepath.Dir(at) {
			return path, nil
		}
	}
}

func ownerOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// Remove removes what Fetch brought, and the folder of the tools if nothing else
// is in it.
func Remove() error {
	folder, err := Folder()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for name, k := range kits {
		for _, name := range k.folders(name) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(folder, name)))
		}
	}
	halves, _ := filepath.Glob(filepath.Join(folder, unfinished+"*"))
	for _, half := range halves {
		err = errors.Join(err, os.RemoveAll(half))
	}
	_ = os.Remove(folder)
	return err
}
