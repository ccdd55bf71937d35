// The command rekey is for people whose credentials rekey rotates, and for those
// who work on its Lambda functions or try them: it shows what will be rotated,
// rotates one secret or parameter now, watches one being rotated, and runs the
// built functions on this machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// What run returns, for the shell.
const (
	succeeded = 0
	failed    = 1
	misused   = 2
)

// command is one of rekey's commands.
type command struct {
	name string
	what string // in one line
	help string // the rest, after the usage line
	args string // the usage line after the name; "" if nothing may follow it
	run  func(context.Context, *call) int
}

// call is one use of a command.
type call struct {
	command        *command
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
	pause          time.Duration // between two looks at a rotation under way
}

// A parameter's pending value lives for two thirds of a second at the least,
// while the function waits for its share of Parameter Store's writes, so that
// looks this far apart see it unless the account's quota was raised. They are a
// tenth of the reads an account has.
const pause = 250 * time.Millisecond

func commands() []*command {
	return []*command{planCommand(), rotateCommand(), watchCommand(), localCommand(), invokeCommand(), versionCommand()}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		help(stderr)
		return misused
	}
	switch name := args[0]; name {
	case "help", "-h", "-help", "--help":
		if len(args) > 1 {
			// "rekey help invoke" is "rekey invoke --help".
			return run(ctx, []string{args[1], "--help"}, stdin, stdout, stderr)
		}
		help(stdout)
		return succeeded
	default:
		for _, c := range commands() {
			if c.name == name {
				return c.run(ctx, &call{
					command: c, args: args[1:], stdin: stdin, stdout: &screen{stdout}, stderr: &screen{stderr},
					now: time.Now, pause: pause,
				})
			}
		}
		fmt.Fprintf(stderr, "rekey: there is no command %q\n\n", name)
		help(stderr)
		return misused
	}
}

func help(w io.Writer) {
	fmt.Fprint(w, "rekey shows what is rotated on AWS and when, rotates one credential now, draws how\nan application fares meanwhile, and runs rekey's Lambda functions on this machine.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  rekey %-8s %s\n", c.name, c.what)
	}
	fmt.Fprint(w, "\nMore about one: rekey help COMMAND\n")
}

// parse reads the flags, which may stand before, between and after the other
// arguments, and returns those. If it returns false the call is over, with the
// given status.
func (c *call) parse(flags *flag.FlagSet, arguments int) (rest []string, status int, ok bool) {
	flags.Init(c.command.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	for args := c.args; ; {
		err := flags.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			c.usage(c.stdout, flags)
			return nil, succeeded, false
		}
		if err != nil {
			return nil, c.misuse("%v", err), false
		}
		if args = flags.Args(); len(args) == 0 {
			break
		}
		rest, args = append(rest, args[0]), args[1:]
	}
	if len(rest) != arguments {
		return nil, c.misuse("wrong number of arguments: %d, not %d; usage: %s", len(rest), arguments, c.command.usageLine()), false
	}
	return rest, succeeded, true
}

func (c *command) usageLine() string {
	return strings.TrimSpace("rekey " + c.name + " " + c.args)
}

func (c *call) usage(w io.Writer, flags *flag.FlagSet) {
	fmt.Fprintf(w, "usage: %s\n\n%s\n", c.command.usageLine(), strings.TrimSpace(c.command.help))
	first := true
	flags.VisitAll(func(f *flag.Flag) {
		if first {
			fmt.Fprintln(w)
			first = false
		}
		value, what := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  %-18s %s\n", "--"+f.Name+" "+value, what)
	})
}

// misuse says what is wrong with the call and where to read more.
func (c *call) misuse(format string, args ...any) int {
	fmt.Fprintf(c.stderr, "rekey %s: %s\n", c.command.name, fmt.Sprintf(format, args...))
	fmt.Fprintf(c.stderr, "see: rekey help %s\n", c.command.name)
	return misused
}

// fail says why the work was not done.
func (c *call) fail(err error) int {
	fmt.Fprintf(c.stderr, "rekey %s: %v\n", c.command.name, err)
	return failed
}
