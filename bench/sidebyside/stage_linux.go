package sidebyside

import (
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"castdeck/internal/netns"
)

// The two ends of the pair of interfaces that a comparison makes.
const (
	stageTx, stageRx = "bench-tx", "bench-rx"
	stageNumber      = 200
)

// stageSource is the address of stageTx.
var stageSource = netip.AddrFrom4([4]byte{10, 77, stageNumber, 1})

// stage makes the pair of interfaces and a folder below parent; remove removes both.
func stage(parent string) (dir string, remove func(), err error) {
	unplug, err := netns.Veth(stageTx, stageRx, stageNumber)
	if err != nil {
		return "", nil, err
	}
	if err = netns.CutRuns(stageTx); err == nil {
		dir, err = os.MkdirTemp(parent, "castdeck-bench-")
	}
	if err != nil {
		return "", nil, errors.Join(err, unplug())
	}
	return dir, func() {
		os.RemoveAll(dir)
		_ = unplug()
	}, nil
}

// tool is what takes part in a comparison.
type tool interface {
	title() string // its name in the table
	needs() string // the program: installed, one of loops, or "", castdeck itself
}

func titles[T tool](all []T) (names []string) {
	for _, t := range all {
		names = append(names, t.title())
	}
	return names
}

// known refuses a name that no tool has.
func known(kind string, titles, wanted []string) error {
	for _, name := range wanted {
		if !slices.Contains(titles, name) {
			return fmt.Errorf("no %s %q (have %s)", kind, name, strings.Join(titles, "; "))
		}
	}
	return nil
}

// divide sorts the tools that are wanted, all where wanted is empty, by whether they
// are installed.
func divide[T tool](all []T, wanted []string) (here, away []T) {
	for _, t := range all {
		if len(wanted) > 0 && !slices.Contains(wanted, t.title()) {
			continue
		}
		program := t.needs()
		if loops[program] != nil {
			program = "cc"
		}
		if program != "" {
			if _, err := exec.LookPath(program); err != nil {
				away = append(away, t)
				continue
			}
		}
		here = append(here, t)
	}
	return here, away
}

func present[T tool](all []T, wanted []string) []T {
	here, _ := divide(all, wanted)
	return here
}

func missing[T tool](all []T, wanted []string) []string {
	_, away := divide(all, wanted)
	return titles(away)
}

// loops are the C programs that a comparison compiles, by name.
var loops = map[string][]byte{"udploop": sendingLoop, "udpreceive": receivingLoop}

//go:embed udploop.c.txt
var sendingLoop []byte

//go:embed udpreceive.c.txt
var receivingLoop []byte

// compile makes those loops in dir that are among the tools.
func compile[T tool](tools []T, dir string) error {
	for name, source := range loops {
		if !slices.ContainsFunc(tools, func(t T) bool { return t.needs() == name }) {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".c", source, 0o600); err != nil {
			return err
		}
		if out, err := exec.Command("cc", "-O2", "-o", path, path+".c").CombinedOutput(); err != nil {
			return fmt.Errorf("compiling %s: %w: %s", name, err, said(string(out)))
		}
	}
	return nil
}

// executable is what to start for a tool; dir has the loops.
func executable(t tool, castdeck, dir string) string {
	program := t.needs()
	switch {
	case program == "":
		return castdeck
	case loops[program] != nil:
		return filepath.Join(dir, program)
	}
	return program
}

// processorTime is what a process that has ended used, user and kernel (getrusage(2)).
func processorTime(p *os.ProcessState) time.Duration { return p.UserTime() + p.SystemTime() }
