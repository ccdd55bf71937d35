// Command fetch brings those of the named tools that are missing, and prints the
// folder of each one's programs. With -remove it removes all that it ever brought.
// Run it with make tools.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/rekeyhq/rekey/internal/tools"
)

func main() {
	remove := flag.Bool("remove", false, "remove the tools")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *remove, flag.Args()); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, remove bool, names []string) error {
	if remove {
		return tools.Remove()
	}
	for _, name := range names {
		found, err := tools.Fetch(ctx, name, os.Stderr)
		if err != nil {
			return err
		}
		// Where a folder is asked for, all the programs are in one.
		for _, path := range found {
			fmt.Println(filepath.Dir(path))
			break
		}
	}
	return nil
}
