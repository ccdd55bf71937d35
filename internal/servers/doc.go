// Package servers starts real servers privately: in a temporary folder, on a
// free loopback port, gone when the process that started them is gone, however
// it ends. It is for rekey's own tests and for the demo; no function that ships
// imports it.
package servers

import (
	"context"
	"fmt"
	"net"
)

// T is what this package needs of a test: a *testing.T or *testing.B. Naming it
// here keeps package testing out of the demo program.
type T interface {
	Helper()
	Context() context.Context
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// freePort returns a port of 127.0.0.1 that nothing listened on a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
