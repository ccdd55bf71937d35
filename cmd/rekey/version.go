package main

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
)

func versionCommand() *command {
	return &command{
		name: "version",
		what: "say which version this is",
		help: `
Prints the version of the rekey module, "(devel)" for one built from a working
copy, the version of Go it was built with, and the platform it was built for.

  rekey version`,
		run: version,
	}
}

func version(_ context.Context, c *call) int {
	if _, status, ok := c.parse(new(flag.FlagSet), 0); !ok {
		return status
	}
	module := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		module = info.Main.Version
	}
	fmt.Fprintf(c.stdout, "rekey %s %s %s/%s\n", module, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return succeeded
}
