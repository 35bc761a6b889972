package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"castdeck/bench"
	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/netnstest"
)

// TestMain runs everything in a network namespace: the tests in this process, and
// the castdeck commands that scripts start, which inherit it.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "castdeck" { // started by a script
		os.Unsetenv("CASTDECK_TEST_OUTSIDE")
		testscript.Main(m, commands)
	}
	netnstest.Main(scriptMain{m})
}

type scriptMain struct{ m *testing.M }

// Run runs the tests with the commands on the PATH; it does not return.
func (s scriptMain) Run() int {
	testscript.Main(s.m, commands)
	return 0
}

var commands = map[string]func(){
	"castdeck": func() {
		code := process(os.Args[1:])
		notePeak()
		os.Exit(code)
	},
}

// peakEnv names the file into which a castdeck of the tests writes what /proc says of
// its memory. The kernel's ru_maxrss will not do: a child begins with its parent's.
const peakEnv = "CASTDECK_TEST_PEAK"

func notePeak() {
	path := os.Getenv(peakEnv)
	if path == "" {
		return
	}
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		err = os.WriteFile(path, status, 0o600)
	}
	if err != nil {
		panic(err)
	}
}

// quiet scripts send nothing that one of them records.
var quiet = []string{"compare", "convert", "events", "gaps", "mergelines", "report", "segments", "stats"}

// oneByOne runs scripts at the same time only where they are quiet: they share a network,
// and would hear each other's datagrams.
type oneByOne struct{ *testing.T }

func (o oneByOne) Parallel() {
	if slices.Contains(quiet, path.Base(o.Name())) {
		o.T.Parallel()
	}
}

func (oneByOne) Verbose() bool { return testing.Verbose() }

func (o oneByOne) Run(name string, script func(testscript.T)) {
	o.T.Run(name, func(t *testing.T) { script(oneByOne{t}) })
}

func TestScripts(t *testing.T) {
	netnstest.Require(t)
	testscript.RunT(oneByOne{t}, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error { // what make race says to every process
			env.Vars = append(env.Vars, "GORACE="+os.Getenv("GORACE"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"feed":     scriptFeed,
			"joined":   scriptJoined,
			"grown":    scriptGrown,
			"cut":      scriptCut,
			"flip":     scriptFlip,
			"fliphead": scriptFlipHead,
			"exit":     scriptExit,
			"record":   scriptRecord,
		},
		RequireUniqueNames: true,
	})
}

// scriptFeed makes a sealed recording: feed FILE COUNT [EVENTS]. The n-th event comes a
// second after the one before.
func scriptFeed(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	c, _ := format.CompressionOf(args[0])
	w, err := segment.Create(ts.MkAbs(args[0]), segment.Options{
		Compression: c, ChunkSize: 8 << 10, Interfaces: []format.Interface{{Name: "eth0", Description: "a feed", LinkType: 1}},
		Info: format.SegmentInfo{Made: true, Host: "somewhere", Clock: "made up", Start: 1_700_000_000_000_000_000},
	})
	ts.Check(err)
	feed := bench.NewFeed(bench.FeedOptions{
		Groups: []netip.AddrPort{netip.MustParseAddrPort("239.1.1.1:5000"), netip.MustParseAddrPort("239.1.1.2:5000")},
		Count:  n, Rate: 1000, MinSize: 100, Start: 1_700_000_000_000_000_000,
	})
	var b format.Batch
	for feed.ReadBatch(&b) == nil {
		ts.Check(w.WriteBatch(&b))
	}
	if len(args) > 2 {
		n, err = strconv.Atoi(args[2])
		ts.Check(err)
		for i := range n {
			ts.Check(w.WriteBatch(&format.Batch{Events: []format.Event{{
				Time: 1_700_000_000_000_000_000 + int64(i)*1e9, Monotonic: 5, Kind: format.EventLinkDown, Text: fmt.Sprintf("no carrier\x1b[31m, %d", i),
			}}}))
		}
	}
	ts.Check(w.Close())
}

// scriptJoined waits until groups are joined in this namespace: joined GROUP...
func scriptJoined(ts *testscript.TestScript, _ bool, args []string) {
	for _, a := range args {
		ts.Check(waitJoined(netip.MustParseAddr(a)))
	}
}

// joined says whether the kernel lists the group as joined by somebody.
func joined(group netip.Addr) (bool, error) {
	b := group.As4()
	// /proc/net/igmp prints the address as a number of the machine's byte order.
	want := fmt.Sprintf("%02X%02X%02X%02X", b[3], b[2], b[1], b[0])
	list, err := os.ReadFile("/proc/self/net/igmp")
	return bytes.Contains(list, []byte(want)), err
}

// waitJoined waits, for at most 30 s, until somebody has joined the group.
func waitJoined(group netip.Addr) error { return waitMembership(group, true) }

// waitLeft waits, for at most 30 s, until nobody has joined the group.
func waitLeft(group netip.Addr) error { return waitMembership(group, false) }

func waitMembership(group netip.Addr, want bool) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if is, err := joined(group); err != nil || is == want {
			return err
		}
	}
	return fmt.Errorf("%s joined by somebody: still not %v after 30 s", group, want)
}

// scriptGrown waits, for at most 30 s, until a file has N bytes: grown FILE N.
func scriptGrown(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if st, err := os.Stat(ts.MkAbs(args[0])); err == nil && st.Size() >= n {
			return
		}
	}
	ts.Fatalf("%s has no %d bytes within 30 s", args[0], n)
}

// scriptCut shortens a file by N bytes: cut FILE N.
func scriptCut(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	st, err := os.Stat(path)
	ts.Check(err)
	ts.Check(os.Truncate(path, st.Size()-n))
}

// scriptFlip changes the byte in the middle of a file: flip FILE.
func scriptFlip(ts *testscript.TestScript, _ bool, args []string) {
	b := []byte(ts.ReadFile(args[0]))
	b[len(b)/2] ^= 0xFF
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

// scriptFlipHead changes the 61st byte of a file, in its first frame.
func scriptFlipHead(ts *testscript.TestScript, _ bool, args []string) {
	b := []byte(ts.ReadFile(args[0]))
	b[60] ^= 0xFF
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

// scriptExit runs castdeck and checks its exit code: exit CODE ARGS...; stdout and
// stderr can be matched afterwards.
func scriptExit(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("castdeck", args[1:]...)
	code := 0
	if err != nil {
		var ok bool
		if code, ok = exitCode(err); !ok {
			ts.Fatalf("castdeck %v: %v", args[1:], err)
		}
	}
	if want, _ := strconv.Atoi(args[0]); code != want {
		ts.Fatalf("castdeck %v: exit code %d, want %d", args[1:], code, want)
	}
}

func exitCode(err error) (int, bool) {
	e, ok := err.(interface{ ExitCode() int })
	if !ok {
		return 0, false
	}
	return e.ExitCode(), true
}
