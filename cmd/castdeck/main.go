// Castdeck records UDP multicast without unseen loss, keeps it in capture files
// that every packet tool opens, and plays it back with the original timing.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"castdeck/replayer"
)

// Exit codes, fixed: scripts rely on them.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitLossy  = 3 // done, but data were lost, damaged or differ
	exitGuard  = 4 // refused by a safety guard
)

// exitError carries an exit code. An error without text ends the program silently:
// what there was to say has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// lossy ends a command that did its work on data that were not whole.
var lossy = &exitError{code: exitLossy}

// processors of Go's scheduler.
var processors = runtime.NumCPU() + 2

func main() { os.Exit(process(os.Args[1:])) }

// process is the program as a process of its own.
func process(args []string) int {
	// The receiving and the sending thread sleep by system call, and on waking need a
	// processor of Go's scheduler at once. With one for each CPU they would wait for
	// compression or the collector to yield theirs, for up to 10 ms.
	runtime.GOMAXPROCS(processors)
	ignoreFatalSignals()
	boundMemory(args)
	return run(context.Background(), args, os.Stdin, os.Stdout, os.Stderr)
}

// memoryLimit is what the commands that read files hold themselves to: above it the
// collector works harder instead of letting garbage double the memory. Readers hold
// less than this of any file.
const memoryLimit = 40 << 20

// windowMemory is memoryLimit of the commands that keep a window, of the size that they
// have by default.
const windowMemory = 52 << 20

func limitMemory() {
	debug.SetMemoryLimit(memoryLimit)
	// There is hardly any garbage: both limits cost up to 4 % of the processor time of
	// convert, info and verify (300 MB, the least of 15 runs with and without each).
	debug.SetGCPercent(50)
}

// boundMemory applies to the commands that read files and have no deadlines to meet.
// What GOMEMLIMIT says goes before it.
func boundMemory(args []string) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	cmd, rest, err := newRoot().Find(args)
	if err != nil {
		return
	}
	switch cmd.Name() {
	case "info", "dump", "verify", "convert", "repair", "gaps", "stats", "report":
		limitMemory()
	case "compare", "merge-lines":
		debug.SetGCPercent(50)
		if !slices.ContainsFunc(rest, func(arg string) bool {
			return strings.HasPrefix(arg, "--window") || strings.HasPrefix(arg, "--hold")
		}) {
			debug.SetMemoryLimit(windowMemory) // else that decides how much they hold
		}
	case "replay":
		if slices.Contains(rest, "--dry-run") {
			limitMemory()
		}
	}
}

// orderlyEnd is a context that the first INT, TERM or HUP ends, for commands that
// have something to bring to an end; the second signal has its default effect, and
// so has the first one with all other commands.
func orderlyEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	return endOn(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
}

func endOn(ctx context.Context, signals ...os.Signal) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// run is the whole program but for the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil || errors.Is(err, syscall.EPIPE) {
		return exitOK // whoever reads our output has had enough, as head and less do
	}
	code := exitFailed
	var ex *exitError
	var guard *replayer.GuardError
	switch {
	case errors.As(err, &ex):
		code = ex.code
	case errors.As(err, &guard):
		code = exitGuard
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintf(stderr, "castdeck: %s\n", oneLine(msg))
	}
	if code == exitUsage {
		fmt.Fprintf(stderr, "Try \"%s -h\".\n", cmd.CommandPath())
	}
	return code
}

func newRoot() *cobra.Command {
	root := parent(&cobra.Command{
		Use:   "castdeck COMMAND [flags] ARGS",
		Short: "Record and replay UDP multicast",
		Long: `castdeck records UDP multicast without unseen loss, keeps it in capture files
that every packet tool opens, and plays it back with the original timing.

Data go to stdout, talk to stderr. Exit codes: 0 done, nothing lost; 1 failed;
2 usage; 3 done, but data were lost, damaged or differ; 4 refused by a safety
guard.`,
		Example: `  castdeck demo
  castdeck record 239.1.1.1:5000 -i eth0 -o feed.pcapng.zst
  castdeck info feed.pcapng.zst
  castdeck replay feed.pcapng.zst -i eth1 --map 239.1.1.1:5000=239.9.9.1:5000`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}, "no command %q", "name a command")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitUsage, err} })
	for _, c := range []struct {
		cmd       *cobra.Command
		arguments string // what a config file calls them
	}{
		{recordCmd(), "groups"}, {replayCmd(), "paths"}, {infoCmd(), "paths"}, {dumpCmd(), "paths"}, {verifyCmd(), "paths"},
		{convertCmd(), "paths"}, {repairCmd(), "paths"}, {compareCmd(), "paths"},
		{mergeLinesCmd(), "paths"}, {gapsCmd(), "paths"}, {statsCmd(), "paths"}, {reportCmd(), "paths"}, {demoCmd(), ""},
	} {
		configurable(c.cmd, c.arguments)
		root.AddCommand(c.cmd)
	}
	root.AddCommand(benchCmd(), versionCmd())
	return root
}

// parent makes cmd one that only has others below it. An argument that is none of
// them is refused with unknown, a format for it; without one there are help and missing.
func parent(cmd *cobra.Command, unknown, missing string) *cobra.Command {
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef(unknown, args[0])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cmd.SetOut(cmd.ErrOrStderr())
		_ = cmd.Help()
		return &exitError{exitUsage, errors.New(missing)}
	}
	return cmd
}

// argsN checks the number of arguments and says what they are.
func argsN(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("%s: name %s", cmd.Name(), what)
		case most >= 0 && len(args) > most:
			return usagef("%s: too many arguments: %q; it takes %s", cmd.Name(), args[most], what)
		}
		return nil
	}
}

// oneLine makes a message safe for a terminal: names from files and networks can
// hold line ends, escape sequences, and characters that turn the direction of text.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ReplaceAll(strings.TrimSpace(s), "\n", "; "))
}

// printJSON prints v as one line of JSON. What oneLine would take out is escaped, so
// that a terminal is safe and nothing is lost.
func printJSON(w io.Writer, v any) error {
	return json.NewEncoder(escaper{w}).Encode(v) // Marshal would copy what can be megabytes
}

// escaper writes JSON that it is given in whole runes.
type escaper struct{ w io.Writer }

func (e escaper) Write(b []byte) (int, error) {
	size := len(b)
	out := bufio.NewWriterSize(e.w, 64<<10)
	for len(b) > 0 {
		n := 0 // of plain ASCII, which nearly everything is
		for n < len(b) && b[n] < 0x7F {
			n++
		}
		out.Write(b[:n])
		if b = b[n:]; len(b) == 0 {
			break
		}
		r, n := utf8.DecodeRune(b)
		if unicode.IsPrint(r) {
			out.Write(b[:n])
		} else {
			for _, u := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(out, "\\u%04x", u)
			}
		}
		b = b[n:]
	}
	return size, out.Flush() // tells what any write before it failed of
}
