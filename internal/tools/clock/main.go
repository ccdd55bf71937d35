// Clock runs Go's tests by another clock, to show that they, and what they test, go by no
// particular day:
//
//	go run ./internal/tools/clock 2028-02-29T00:00:00Z ./internal/... -run Due
//
// Each package's tests begin two seconds before that time, and so are on both sides of it.
// What preloads a library, as libfaketime does, does not reach Go programs, which ask the
// kernel themselves. So the tests are compiled with a time.Now of their own, by go test
// -overlay. Simulated time (testing/synctest) stays as it is, and so does the time of programs
// that tests compile or start: the shipped functions, database servers.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// before is how long before the time a package's tests begin.
const before = 2 * time.Second

// variable tells time.Now by how many seconds it is ahead.
const variable = "REKEY_CLOCK_AHEAD"

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: clock TIME [arguments of go test]")
	}
	at, err := time.Parse(time.RFC3339, os.Args[1])
	if err == nil && os.Getenv(variable) != "" {
		err = start(at, os.Args[2:])
	} else if err == nil {
		err = test(at, os.Args[2:])
	}
	if err != nil {
		log.Fatal("clock: ", err)
	}
}

// start becomes the program of a package's tests, as go test -exec asks.
func start(at time.Time, program []string) error {
	ahead := int64((time.Until(at) - before).Seconds())
	if ahead < 0 {
		return fmt.Errorf("%s is past", at)
	}
	if err := os.Setenv(variable, strconv.FormatInt(ahead, 10)); err != nil {
		return err
	}
	return syscall.Exec(program[0], program, os.Environ())
}

// test runs go test with the other time.Now.
func test(at time.Time, args []string) error {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	source := filepath.Join(string(bytes.TrimSpace(root)), "src", "time", "time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	for _, change := range [][2]string{
		{"\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {\n", "\tsec, nsec, mono := runtimeNow()\n\tif !runtimeIsBubbled() {\n\t\tsec += ahead\n\t}\n\tif mono == 0 {\n"},
		{"import (\n", "import (\n\t\"syscall\"\n"},
	} {
		if bytes.Count(text, []byte(change[0])) != 1 {
			return fmt.Errorf("%s is not as this program knows it: look for %q", source, change[0])
		}
		text = bytes.Replace(text, []byte(change[0]), []byte(change[1]), 1)
	}
	text = append(text, `
var ahead = func() (seconds int64) {
	text, _ := syscall.Getenv("`+variable+`")
	for _, digit := range []byte(text) {
		seconds = seconds*10 + int64(digit-'0')
	}
	return seconds
}()
`...)
	// The same place each time, so that Go's build cache is of use.
	dir, err := filepath.Abs(filepath.Join("build", "clock"))
	if err != nil {
		return err
	}
	changed, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	places, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(changed, text, 0o644)
	}
	if err == nil {
		err = os.WriteFile(overlay, places, 0o644)
	}
	self, selfErr := os.Executable()
	if err != nil || selfErr != nil {
		return fmt.Errorf("%w (%v)", err, selfErr)
	}
	c := exec.Command("go", append([]string{"test", "-count=1", "-overlay", overlay, "-exec", self + " " + at.Format(time.RFC3339)}, args...)...)
	c.Env = append(os.Environ(), variable+"=0")
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}
