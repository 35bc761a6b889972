package house

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	gopacket = "github.com/google/gopacket"
	sysUnix  = "golang.org/x/sys/unix"
	netBPF   = "golang.org/x/net/bpf"
	netlink  = "github.com/vishvananda/netlink"
	klauspos = "github.com/klauspost/compress"
	xxhash   = "github.com/cespare/xxhash/v2"
	ethtool  = "github.com/safchain/ethtool"
	hdr      = "github.com/HdrHistogram/hdrhistogram-go"
)

// allowed says for every package why it exists and what it may import besides the
// standard library, module by module. Data flow in one direction:
//
//	socket -> batch -> chunk -> segment file -> reader -> schedule -> socket
var allowed = map[string]struct {
	why     string
	imports []string
}{
	"castdeck/format":               {"what a datagram is, in memory and as bytes", []string{klauspos, xxhash}},
	"castdeck/format/segment":       {"where the bytes live: segment files", []string{"castdeck/format", sysUnix}},
	"castdeck/format/pcapfile":      {"foreign captures to batches and back; the only user of gopacket", []string{"castdeck/format", gopacket, klauspos, "github.com/pierrec/lz4/v4"}},
	"castdeck/recorder":             {"groups to batches, and the ledger of loss", []string{"castdeck/format", "castdeck/internal/mcast", "castdeck/internal/pcapfilter", "castdeck/internal/sock", sysUnix, netlink}},
	"castdeck/replayer":             {"batches to groups, on time", []string{"castdeck/format", "castdeck/internal/mcast", "castdeck/internal/series", "castdeck/internal/sock", hdr, netlink}},
	"castdeck/analysis":             {"answers from recordings", []string{"castdeck/format", "castdeck/internal/series", hdr, xxhash}},
	"castdeck/analysis/parquetfile": {"datagrams and their sequence numbers as tables; the only user of parquet-go", []string{"castdeck/format", "castdeck/analysis", klauspos, "github.com/parquet-go/parquet-go"}},
	"castdeck/analysis/report":      {"what analyses and replays found, as pages", []string{"castdeck/format", "castdeck/analysis", "castdeck/replayer", hdr}},
	"castdeck/bench":                {"makes traffic and measures the whole path", []string{"castdeck/format", "castdeck/format/segment", "castdeck/recorder", "castdeck/replayer", "castdeck/analysis"}},
	"castdeck/bench/probe":          {"measures a network path with numbered datagrams", []string{"castdeck/internal/mcast", "castdeck/internal/sock", "castdeck/replayer", hdr}},
	"castdeck/bench/sidebyside":     {"castdeck beside the tools that people use today", []string{"castdeck/bench", "castdeck/format", "castdeck/format/pcapfile", "castdeck/recorder", "castdeck/replayer", "castdeck/internal/netns", "castdeck/internal/sock"}},
	"castdeck/cmd/castdeck":         {"the command line: the only place that prints, exits and reads flags", []string{"castdeck/...", "github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/goccy/go-yaml", "github.com/dustin/go-humanize", "golang.org/x/term", "golang.org/x/net/netutil", "github.com/prometheus/client_golang", "github.com/coreos/go-systemd/v22/daemon", hdr}},
	"castdeck/internal/sock":        {"the only unsafe and raw-syscall code", []string{sysUnix}},
	"castdeck/internal/mcast":       {"groups, patterns, interfaces, limits; opens no socket", nil},
	"castdeck/internal/hoststat":    {"what the host loses outside of our sockets, and its limit of memory", []string{netlink}},
	"castdeck/internal/pcapfilter":  {"the pcap filter language, and filters for groups, as programs for the kernel", []string{netBPF}},
	"castdeck/internal/netns":       {"runs the program again in a network namespace of its own, and makes links in it", []string{sysUnix, netlink, ethtool}},
	"castdeck/internal/netnstest":   {"a network namespace for the tests of a package", []string{"castdeck/internal/netns", netlink}},
	"castdeck/internal/series":      {"what goes over time, in bounded memory", nil},
	"castdeck/internal/house":       {"this test", nil},
}

type pkg struct {
	ImportPath, Dir string
	Standard        bool
	Imports         []string
	GoFiles         []string
}

// list describes packages as the go command sees them on one system.
func list(t *testing.T, goos string, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Standard,Imports,GoFiles"}, args...)...)
	cmd.Env = append(cmd.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

func TestImportMap(t *testing.T) {
	seen := map[string]bool{}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		for _, p := range list(t, goos, "castdeck/...") {
			seen[p.ImportPath] = true
			room, ok := allowed[p.ImportPath]
			if !ok {
				t.Errorf("%s is not on the map: add it with one sentence on why it exists", p.ImportPath)
				continue
			}
			for _, imp := range p.Imports {
				if first, _, _ := strings.Cut(imp, "/"); first != "castdeck" && !strings.Contains(first, ".") {
					continue // standard library
				}
				if !slices.ContainsFunc(room.imports, func(a string) bool { return covers(a, imp) }) {
					t.Errorf("%s (GOOS=%s) imports %s, which the map does not allow", p.ImportPath, goos, imp)
				}
			}
		}
	}
	for path := range allowed {
		if !seen[path] {
			t.Errorf("%s is on the map and does not exist", path)
		}
	}
}

// covers says whether the entry a of the map allows an import: the package itself,
// for a library with all its packages, for "castdeck/..." all of ours.
func covers(a, imp string) bool {
	if own, ok := strings.CutSuffix(a, "/..."); ok {
		return strings.HasPrefix(imp, own+"/")
	}
	return imp == a || !strings.HasPrefix(a, "castdeck/") && strings.HasPrefix(imp, a+"/")
}

// TestLibrariesAreQuiet: below cmd nothing prints, logs, exits or reads flags.
func TestLibrariesAreQuiet(t *testing.T) {
	forbidden := map[string]string{"log": "logs", "log/slog": "logs", "flag": "reads flags", "unsafe": "is unsafe"}
	for _, p := range list(t, "linux", "castdeck/...") {
		for _, imp := range p.Imports {
			what, bad := forbidden[imp]
			if bad && p.ImportPath != "castdeck/cmd/castdeck" && !(imp == "unsafe" && p.ImportPath == "castdeck/internal/sock") {
				t.Errorf("%s imports %s: a library that %s", p.ImportPath, imp, what)
			}
		}
	}
}
