// Package examples tests the modules in its folders, where their readers will
// have them: outside of this repository.
package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	// What the examples import, so that the result of this test is not taken
	// from the cache when rekey has changed.
	_ "github.com/rekeyhq/rekey/functions"
	_ "github.com/rekeyhq/rekey/rotators/postgres"
	_ "github.com/rekeyhq/rekey/rotators/rotatortest"
)

// Each example is copied to a folder of its own, pointed at this repository as
// one points at a module, and built and tested there. It cannot import what is
// internal: Go refuses that to another module.
func TestExamplesOutsideTheRepository(t *testing.T) {
	repository, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	modules, err := filepath.Glob("*/go.mod")
	if err != nil || len(modules) == 0 {
		t.Fatalf("there are no examples (%v)", err)
	}
	for _, module := range modules {
		name := filepath.Dir(module)
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(name)); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{
				{"mod", "edit", "-replace", "github.com/rekeyhq/rekey=" + repository},
				{"mod", "tidy", "-diff"},
				{"vet", "./..."},
				{"build", "-o", filepath.Join(dir, "bootstrap"), "./function"},
				{"test", "-count=1", "./..."},
			} {
				cmd := exec.Command("go", args...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "GOWORK=off")
				out, err := cmd.CombinedOutput()
				if err == nil {
					continue
				}
				if args[0] == "mod" && args[1] == "tidy" {
					t.Fatalf("what rekey requires has changed: run go mod tidy in examples/%s\n%s", name, out)
				}
				t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		})
	}
}
