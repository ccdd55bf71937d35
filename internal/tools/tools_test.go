package tools

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// folder makes a folder that only its owner may write, in one that is no other.
func folder(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "own", "in")
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	for at := path; at != os.TempDir(); at = filepath.Dir(at) { // whatever the umask is
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

// Each place is one where somebody else can put a program. Nobody can make files of
// another user's but root, so for others the user who asks is another one.
func TestWhatOthersCanChangeIsNotTrusted(t *testing.T) {
	const stranger = 65534
	for name, open := range map[string]func(in string) (asked int, err error){
		"its group may write":               func(in string) (int, error) { return os.Geteuid(), os.Chmod(in, 0o775) },
		"all may write":                     func(in string) (int, error) { return os.Geteuid(), os.Chmod(in, 0o757) },
		"all may add to it":                 func(in string) (int, error) { return os.Geteuid(), os.Chmod(in, 0o777|fs.ModeSticky) },
		"the one above: its group":          func(in string) (int, error) { return os.Geteuid(), os.Chmod(filepath.Dir(in), 0o775) },
		"the one above: all":                func(in string) (int, error) { return os.Geteuid(), os.Chmod(filepath.Dir(in), 0o757) },
		"it is another user's":              func(in string) (int, error) { return give(in, stranger) },
		"the one above is another user's":   func(in string) (int, error) { return give(filepath.Dir(in), stranger) },
		"a link to one that all may write":  func(in string) (int, error) { return os.Geteuid(), link(in, 0o777) },
		"a link to one that all may add to": func(in string) (int, error) { return os.Geteuid(), link(in, 0o777|fs.ModeSticky) },
	} {
		in := folder(t)
		asked, err := open(in)
		if err != nil {
			t.Fatal(err)
		}
		if path, err := trusted(in, asked); err == nil {
			t.Errorf("%s: %s is trusted", name, path)
		}
		if path, err := owned(in, asked); err == nil {
			t.Errorf("%s: %s is taken as the folder of the tools", name, path)
		}
	}
}

func give(path string, to int) (int, error) {
	if os.Geteuid() != 0 {
		return to, nil
	}
	return 0, os.Lchown(path, to, to)
}

// link has a folder be a link to another.
func link(in string, mode fs.FileMode) error {
	to := in + "-linked"
	return errors.Join(os.Rename(in, to), os.Chmod(to, mode), os.Symlink(to, in))
}

func TestWhatIsOnesOwnIsTrusted(t *testing.T) {
	in := folder(t)
	program := filepath.Join(in, "program")
	write(t, program, "", 0o755)
	alias := filepath.Join(filepath.Dir(in), "alias")
	if err := os.Symlink(in, alias); err != nil {
		t.Fatal(err)
	}
	// Others may add to the one above, and not replace what is there.
	if err := os.Chmod(filepath.Dir(in), 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	want, err := filepath.EvalSymlinks(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{program, filepath.Join(alias, "program")} {
		if got, err := Trusted(path); err != nil || got != want {
			t.Errorf("%s is %s, %v", path, got, err)
		}
	}
	if _, err := owned(in, os.Geteuid()); err != nil {
		t.Error(err)
	}
}

func TestTheFolderOfTheTools(t *testing.T) {
	in := filepath.Join(folder(t), "rekey")
	t.Setenv("REKEY_TOOLS", in)
	if _, err := Folder(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if _, err := Find("valkey"); err == nil || !strings.Contains(err.Error(), "run `make tools-valkey`") {
		t.Errorf("a kit that is not there: %v", err)
	}
	want := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		want = 0o755 // root's servers run as nobody
	}
	if _, err := makeFolder(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(in); err != nil || info.Mode().Perm() != want {
		t.Errorf("%v, %v", info, err)
	}
	for name, wrong := range map[string]error{
		"a file": errors.Join(os.Remove(in), os.WriteFile(in, nil, 0o600)),
		"a link": errors.Join(os.Remove(in), os.Symlink(t.TempDir(), in)),
	} {
		if wrong != nil {
			t.Fatal(wrong)
		}
		if _, err := makeFolder(); err == nil {
			t.Errorf("%s is taken as the folder of the tools", name)
		}
	}
	if os.Geteuid() == 0 {
		t.Setenv("REKEY_TOOLS", "")
		if got, err := named(); err != nil || got != "/var/cache/rekey" {
			t.Errorf("root's folder is %s, %v", got, err)
		}
		if err := os.Chmod(filepath.Dir(in), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := owned(filepath.Dir(in), 0); err == nil || !strings.Contains(err.Error(), "may not enter") {
			t.Errorf("a folder that root's servers cannot enter: %v", err)
		}
		return
	}
	t.Setenv("REKEY_TOOLS", "")
	t.Setenv("XDG_CACHE_HOME", "/a/cache")
	if got, err := named(); err != nil || got != "/a/cache/rekey" {
		t.Errorf("the folder is %s, %v", got, err)
	}
}

// A kit in the folder of the tools is run only if nobody else can have put it there.
func TestNoPlantedKitIsFound(t *testing.T) {
	for name, open := range map[string]func(tools string) error{
		"":                                 func(string) error { return nil },
		"the folder: others may write it":  func(tools string) error { return os.Chmod(tools, 0o777) },
		"the kit: others may write it":     func(tools string) error { return os.Chmod(filepath.Join(tools, "valkey"), 0o777) },
		"the program: others may write it": func(tools string) error { return os.Chmod(filepath.Join(tools, "valkey/usr/bin/valkey-server"), 0o777) },
	} {
		tools := folder(t)
		program := filepath.Join(tools, "valkey/usr/bin/valkey-server")
		write(t, program, "#!/bin/sh\n", 0o755)
		if err := open(tools); err != nil {
			t.Fatal(err)
		}
		t.Setenv("REKEY_TOOLS", tools)
		found, err := Find("valkey")
		if (name == "") != (err == nil) {
			t.Errorf("%s: found %v, %v", name, found, err)
		}
		if _, err := Fetch(t.Context(), "valkey", t.Output()); (name == "") != (err == nil) {
			t.Errorf("%s: Fetch takes it for brought: %v", name, err)
		}
	}
}

func TestRemoveRemovesTheToolsAlone(t *testing.T) {
	tools := folder(t)
	t.Setenv("REKEY_TOOLS", tools)
	write(t, filepath.Join(tools, "valkey/usr/bin/valkey-server"), "", 0o755)
	write(t, filepath.Join(tools, unfinished+"1/root/usr/bin/valkey-server"), "", 0o755)
	letters := filepath.Join(tools, "letters")
	write(t, letters, "", 0o644)
	if err := Remove(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(tools); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := errors.Join(os.Remove(letters), Remove()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tools); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder is left: %v", err)
	}
	if err := Remove(); err != nil {
		t.Errorf("removing nothing: %v", err)
	}
}

// packed is a package of the npm registry: files by their names.
func packed(t *testing.T, files map[string]string) (pack []byte, sum string) {
	t.Helper()
	var buffer bytes.Buffer
	zipped := gzip.NewWriter(&buffer)
	all := tar.NewWriter(zipped)
	for name, text := range files {
		if err := all.WriteHeader(&tar.Header{Name: name, Mode: 0o4777, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := all.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(all.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	hash := sha512.Sum512(buffer.Bytes())
	return buffer.Bytes(), base64.StdEncoding.EncodeToString(hash[:])
}

func TestNPMPackagesAreCheckedAndUnpacked(t *testing.T) {
	in := folder(t)
	root, err := os.OpenRoot(in)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	files := map[string]string{
		"package/package.json":                "{}",
		"package/scripts/hydrate-symlinks.js": "process.exit(1)",
		"package/native/lib/libpq.so.5.18":    "a library",
		"package/native/bin/initdb":           "a program",
		"package/native/pg-symlinks.json":     `[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so.5"},{"source":"native/bin/initdb","target":"native/lib/deep"}]`,
	}
	pack, sum := packed(t, files)

	other := bytes.Clone(pack)
	other[9] ^= 1 // the system that packed it, as gzip notes it: the files are the same
	if err := unpackNPM(other, sum, root); err == nil || !strings.Contains(err.Error(), "nothing of it is used") {
		t.Errorf("a package of another sum: %v", err)
	}
	if left, err := os.ReadDir(in); err != nil || len(left) != 0 {
		t.Errorf("of it was unpacked: %v, %v", left, err)
	}

	if err := unpackNPM(pack, sum, root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"lib/libpq.so.5": "libpq.so.5.18", "lib/deep": "../bin/initdb"} {
		if got, err := os.Readlink(filepath.Join(in, name)); err != nil || got != want {
			t.Errorf("%s leads to %q, %v", name, got, err)
		}
		if _, err := os.ReadFile(filepath.Join(in, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"package.json", "scripts", "native"} {
		if _, err := os.Lstat(filepath.Join(in, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was unpacked too: %v", name, err)
		}
	}
	if err := plain(in); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(in, "bin/initdb")); err != nil || info.Mode() != 0o755 {
		t.Errorf("the program has %v, %v", info.Mode(), err)
	}
}

// Even a package whose sum is the right one cannot write where it is not unpacked.
func TestNPMPackagesStayInTheirFolder(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"a file":             {"package/native/../../escaped": "", "package/native/pg-symlinks.json": "[]"},
		"a link's place":     {"package/native/pg-symlinks.json": `[{"source":"native/pg-symlinks.json","target":"native/../../escaped"}]`},
		"where a link leads": {"package/native/pg-symlinks.json": `[{"source":"native/../../escaped","target":"native/link"}]`},
		"an absolute link":   {"package/native/pg-symlinks.json": `[{"source":"/etc/passwd","target":"native/link"}]`},
	} {
		in := folder(t)
		root, err := os.OpenRoot(in)
		if err != nil {
			t.Fatal(err)
		}
		pack, sum := packed(t, files)
		if err := unpackNPM(pack, sum, root); err == nil {
			t.Errorf("%s leaves the folder", name)
		}
		_ = root.Close()
		for _, gone := range []string{filepath.Join(in, "../escaped"), filepath.Join(in, "../../escaped"), filepath.Join(in, "link")} {
			if _, err := os.Lstat(gone); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: there is %s", name, gone)
			}
		}
	}
}

// The sums are of the registry, and its form for a SHA-512 is 64 bytes in base64.
func TestTheSumsAreSums(t *testing.T) {
	for platform, sum := range npmSums {
		if b, err := base64.StdEncoding.DecodeString(sum); err != nil || len(b) != sha512.Size {
			t.Errorf("%s: %q is no SHA-512 sum", platform, sum)
		}
	}
}

func TestWhatIsUnpackedHasNoPrivileges(t *testing.T) {
	in := folder(t)
	for path, mode := range map[string]fs.FileMode{
		"su":       0o755 | fs.ModeSetuid,
		"wall":     0o755 | fs.ModeSetgid,
		"private":  0o400,
		"tmp/note": 0o666,
	} {
		write(t, filepath.Join(in, path), "", mode)
	}
	if err := errors.Join(os.Chmod(filepath.Join(in, "tmp"), 0o777|fs.ModeSticky), os.Symlink("/etc/passwd", filepath.Join(in, "link"))); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfifo", filepath.Join(in, "fifo")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before, err := os.Stat("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	if err := plain(in); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		"su": 0o755, "wall": 0o755, "private": 0o644, "tmp": 0o755 | fs.ModeDir, "tmp/note": 0o644,
	} {
		if info, err := os.Lstat(filepath.Join(in, path)); err != nil || info.Mode() != want {
			t.Errorf("%s has %v, %v", path, info, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(in, "fifo")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a pipe is left: %v", err)
	}
	if after, err := os.Stat("/etc/passwd"); err != nil || after.Mode() != before.Mode() || ownerOf(after) != ownerOf(before) {
		t.Errorf("what a link leads to was changed: %v, %v", after, err)
	}
}

// A launcher gives the loader that was unpacked the libraries that were unpacked,
// the program and the arguments. The loader of this test prints what it is given.
func TestLaunchers(t *testing.T) {
	root, place := folder(t), filepath.Join(folder(t), "it's in place")
	write(t, filepath.Join(root, "usr/lib/x/ld-linux-x.so.2"), "#!/bin/sh\necho \"$PYTHONHOME\"\nfor a; do echo \"$a\"; done\n", 0o755)
	write(t, filepath.Join(root, "usr/bin/compiled"), "\x7fELF", 0o755)
	write(t, filepath.Join(root, "usr/bin/python"), "#!/usr/bin/python3 -s\n", 0o755)
	write(t, filepath.Join(root, "usr/sbin/script"), "#!/bin/sh\necho as it was\n", 0o755)
	k := kit{programs: []string{"compiled", "python", "script"}}
	if err := errors.Join(k.launchers(root, place), os.Rename(root, place)); err != nil {
		t.Fatal(err)
	}
	libraries := "--library-path\n" + place + "/usr/lib/x:" + place + "/lib/x\n"
	for program, want := range map[string]string{
		"compiled": "\n" + libraries + place + "/usr/bin/compiled.real\n1 2\n$3\n",
		"python":   place + "/usr\n" + libraries + place + "/usr/bin/python3\n" + place + "/usr/bin/python.real\n1 2\n$3\n",
		"script":   "as it was\n",
	} {
		cmd := exec.Command(locate(place, program), "1 2", "$3")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", program, err, out, want)
		}
	}
}

func TestEveryKitIsSomewhere(t *testing.T) {
	for name, k := range kits {
		if len(k.programs) == 0 || len(k.packages) == 0 {
			t.Errorf("%s: %+v", name, k)
		}
	}
	if _, err := Find("nonsense"); err == nil || errors.Is(err, errMissing) {
		t.Errorf("got %v", err)
	}
}

// What the Makefile brings it brings by this package alone.
func TestTheMakefileInstallsNothing(t *testing.T) {
	text, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		for _, word := range []string{"/tmp", "PYTHONPATH", "apt-get", "brew ", "sudo", "npm ", "pip install", "curl", "go install", "@v", "@latest"} {
			if strings.Contains(line, word) && !strings.Contains(line, "echo") { // what it tells a person to do
				t.Errorf("%q in %s", word, line)
			}
		}
	}
}
