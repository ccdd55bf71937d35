package servers

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
)

// account is who a server runs as.
type account struct {
	prefix   []string // what to put in front of a command to run it as them
	uid, gid int      // -1: whoever this process is
}

// unprivileged returns this process's own account, unless that is root, as whom
// PostgreSQL refuses to run.
func unprivileged() (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: -1, gid: -1}, nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return account{}, fmt.Errorf("looking for a user to run PostgreSQL as: %w", err)
	}
	nogroup, err := user.LookupGroup("nogroup")
	if err != nil {
		return account{}, fmt.Errorf("looking for a group to run PostgreSQL as: %w", err)
	}
	a := account{prefix: []string{"setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"}}
	var uidErr, gidErr error
	a.uid, uidErr = strconv.Atoi(nobody.Uid)
	a.gid, gidErr = strconv.Atoi(nogroup.Gid)
	return a, errors.Join(uidErr, gidErr)
}

// command returns the argument list that runs program as the account.
func (a account) command(program string, args ...string) []string {
	return slices.Concat(a.prefix, []string{program}, args)
}

// own gives a folder to the account. From then on every process of the account may
// change what is in the folder, so root reads and writes there through an os.Root,
// which no link leads out of.
func (a account) own(folder string) error { return os.Lchown(folder, a.uid, a.gid) }

// write writes a file of the account's. The file is new and changes owner by its
// descriptor, so that a planted link cannot have another file written or given away.
func (a account) write(folder *os.Root, name, text string) error {
	f, err := folder.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Chown(a.uid, a.gid), f.Close()); err != nil {
		return err
	}
	return folder.Rename(name+".new", name)
}

// newFolder makes a temporary folder for a server, in the one named.
func newFolder(in, pattern string) (string, *os.Root, error) {
	dir, err := os.MkdirTemp(in, pattern)
	if err != nil {
		return "", nil, fmt.Errorf("making a folder for the server: %w", err)
	}
	files, err := os.OpenRoot(dir)
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	return dir, files, nil
}

// newOutput opens a file without a name for what a program says.
func newOutput() (*os.File, error) {
	f, err := os.CreateTemp("", "rekey-output-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// written returns the first MiB that was written to a file of newOutput.
func written(f *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		return err.Error()
	}
	return string(text)
}
