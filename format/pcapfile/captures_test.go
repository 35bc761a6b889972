package pcapfile

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"castdeck/format"
)

// captureRoot holds real captures with an index of what other tools count in them.
const captureRoot = "../../../shared/captures"

// indexed is a row of the index.
type indexed struct {
	path                         string
	packets, multicast, groups   int
	truncated                    int
	duration                     float64
	resolution, format, linkType string
}

// captureIndex reads the index; it skips the test where there are no captures and
// fails it where there is a folder but nothing in it.
func captureIndex(t testing.TB) []indexed {
	t.Helper()
	if _, err := os.Stat(captureRoot); err != nil {
		t.Skipf("no real captures at %s: %v", captureRoot, err)
	}
	text, err := os.ReadFile(filepath.Join(captureRoot, "INDEX.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []indexed
	var column map[string]int
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if column == nil {
			column = map[string]int{}
			for i, name := range f {
				column[name] = i
			}
			continue
		}
		number := func(name string) int {
			n, err := strconv.Atoi(f[column[name]])
			if err != nil {
				t.Fatalf("%s: column %s: %v", f[0], name, err)
			}
			return n
		}
		row := indexed{
			path: f[column["path"]], packets: number("packets"), multicast: number("udp_multicast_packets"),
			groups: number("group_addresses"), resolution: f[column["ts_resolution"]], format: f[column["file_format"]],
			linkType: f[column["linktype"]],
		}
		row.duration, _ = strconv.ParseFloat(f[column["duration_s"]], 64)
		for _, feature := range strings.Fields(f[column["features"]]) {
			if n, ok := strings.CutPrefix(feature, "trunc="); ok {
				row.truncated, _ = strconv.Atoi(n)
			}
		}
		rows = append(rows, row)
	}
	if len(rows) < 100 {
		t.Fatalf("the index of %s has %d rows", captureRoot, len(rows))
	}
	return rows
}

// tally is what the table test compares.
type tally struct{ packets, multicast, groups, truncated int }

func tallyOf(c content) tally {
	n := tally{packets: int(c.counts.Packets), truncated: int(c.counts.Truncated)}
	groups := map[netip.Addr]bool{}
	for i := range c.datagrams {
		if a := c.datagrams[i].Dst.Addr(); a.IsMulticast() {
			n.multicast++
			groups[a] = true
		}
	}
	n.groups = len(groups)
	return n
}

// differences from the index, each with its reason.
var differences = map[string]struct {
	reason string
	want   tally
	damage int
}{
	"zeek/testing/btest/Traces/tunnels/gtp/gtp1_gn_normal_incl_fragmentation.pcap": {
		"the index counts every IP fragment as a packet; tshark's filter udp finds 41 with reassembly, as we do",
		tally{108, 41, 1, 0}, 0},
	"pcapng-test-generator/output_le/basic/test012.pcapng": {
		"tshark shows two packets with frame.cap_len < frame.len: the index misses the simple packet block",
		tally{4, 0, 0, 2}, 0},
	"pcapng-test-generator/output_le/advanced/test101.pcapng": {
		"as test012", tally{4, 0, 0, 3}, 0},
	"pcapng-test-generator/output_le/advanced/test102.pcapng": {
		"as test012", tally{5, 0, 0, 3}, 0},
	"pcapng-test-generator/output_le/difficult/test201.pcapng": {
		"as test012", tally{4, 0, 0, 3}, 0},
	"pcapng-test-generator/output_le/difficult/test202.pcapng": {
		"as test012", tally{8, 0, 0, 6}, 0},
	"libpcap/tests/pcapng-invalid-vers-1.pcapng": {
		"a section of version 0.x: tshark stops, we report it and read the packet behind it",
		tally{1, 0, 0, 0}, 1},
	"libpcap/tests/shb-option-too-long.pcapng": {
		"damaged from its first block on; the packet that the features column counts is in a block with a wrong trailer",
		tally{0, 0, 0, 0}, 1},
	"pcapplusplus/Tests/Fuzzers/RegressionTests/regression_samples/crash-81dba690a3f67ee41a41390a625db732fa1413a1": {
		"tshark stops at the first damaged record; we go on behind each",
		tally{40, 11, 2, 0}, 5},
	"pcapplusplus/Tests/Fuzzers/RegressionTests/regression_samples/igmplayer": {
		"tshark stops at the first damaged record; we go on behind it",
		tally{19, 6, 3, 2}, 2},
	"pcapplusplus/Tests/Fuzzers/RegressionTests/regression_samples/clusterfuzz-testcase-minimized-FuzzTarget-5766899836387328": {
		"version 2.3, where the two lengths of a record stand in either order; tshark and tcpdump refuse the larger one",
		tally{1, 0, 0, 1}, 0},
}

// refused are the files that are no captures of ours, with a word of the error.
var refused = map[string]string{
	"libpcap/tests/pcap-invalid-version-1.pcap":                "version 1.4",
	"libtrace/test/traces/100_packets.erf":                     "ERF",
	"pcapplusplus/Tests/Pcap++Test/PcapExamples/solaris.snoop": "snoop",
}

// timing holds the files whose duration or resolution differs from the index.
var timing = map[string]string{
	"packetnet/Test/CaptureFiles/udp-ip-fragmented.pcap": "starts with a fragment, whose datagram has the time of the last one",
}

func TestCaptures(t *testing.T) {
	for _, row := range captureIndex(t) {
		t.Run(row.path, func(t *testing.T) {
			r, err := Open(filepath.Join(captureRoot, row.path))
			if word, ok := refused[row.path]; ok {
				if !errors.Is(err, format.ErrFormat) || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("want one line with %q that wraps ErrFormat, got: %v", word, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			c := readAll(t, r)
			want, damage := tally{row.packets, row.multicast, row.groups, row.truncated}, 0
			d, explained := differences[row.path]
			if explained {
				if want == d.want && d.damage == 0 && len(c.damage) == 0 {
					t.Errorf("the difference %q is none any more", d.reason)
				}
				want, damage = d.want, d.damage
			}
			if got := tallyOf(c); got != want {
				t.Errorf("got %+v, want %+v (%s)", got, want, d.reason)
			}
			if len(c.damage) != damage {
				t.Errorf("%d damaged places, want %d: %v", len(c.damage), damage, c.damage)
			}
			checkFormat(t, row, c)
			if _, ok := timing[row.path]; !ok && !explained {
				checkTiming(t, row, c)
			}
		})
	}
}

func checkFormat(t *testing.T, row indexed, c content) {
	base, suffix, _ := strings.Cut(row.format, ".")
	want, _, _ := strings.Cut(base, "-") // pcap-ns, pcap-BE, pcap-mod
	if suffix != "" {
		want += "." + suffix
	}
	if c.kind != want {
		t.Errorf("format %q, want %q", c.kind, want)
	}
	for i, f := range c.ifaces {
		if !strings.Contains(row.linkType, "("+strconv.Itoa(int(f.LinkType))+")") {
			t.Errorf("interface %d has link type %d, want one of %s", i, f.LinkType, row.linkType)
		}
	}
}

func checkTiming(t *testing.T, row indexed, c content) {
	first, last := int64(math.MaxInt64), int64(math.MinInt64)
	for i := range c.datagrams {
		if d := &c.datagrams[i]; d.Flags&format.FlagNoTime == 0 {
			first, last = min(first, d.Time), max(last, d.Time)
		}
	}
	if first <= last {
		// The index holds microseconds, rounded.
		if got := float64(last-first) / 1e9; math.Abs(got-row.duration) > 1.1e-6 {
			t.Errorf("duration %.6f s, want %.6f", got, row.duration)
		}
	}
	names := map[int64]string{1: "ns", 1000: "us"}
	var found []string
	if c.unit != 0 {
		found = append(found, names[c.unit])
	}
	for _, k := range c.clocks {
		ns, _ := k.Nanoseconds(1)
		if k.Clock != (format.Clock{}) {
			zero, _ := k.Nanoseconds(0)
			found = append(found, names[ns-zero])
		}
	}
	slices.Sort(found)
	if got := strings.Join(slices.Compact(found), "+"); got != row.resolution && !(got == "" && row.resolution == "?") {
		t.Errorf("resolution %q, want %q", got, row.resolution)
	}
}

func TestDifferencesAreOfTheIndex(t *testing.T) {
	known := map[string]bool{}
	for _, row := range captureIndex(t) {
		known[row.path] = true
	}
	for path := range differences {
		if !known[path] {
			t.Errorf("%s is not in the index", path)
		}
	}
	for path := range timing {
		if !known[path] {
			t.Errorf("%s is not in the index", path)
		}
	}
	for path := range refused {
		if !known[path] {
			t.Errorf("%s is not in the index", path)
		}
	}
}

// stream names a flow of datagrams.
type stream struct{ src, dst netip.AddrPort }

// digests hashes the payloads of each stream, each with its length and time.
type digests map[stream]*digest

type digest struct {
	n   int
	sum [sha256.Size]byte
}

func (m digests) add(s stream, time int64, payload []byte) {
	d := m[s]
	if d == nil {
		d = &digest{}
		m[s] = d
	}
	d.n++
	h := sha256.New()
	h.Write(d.sum[:])
	fmt.Fprintf(h, "%d %d ", time, len(payload))
	h.Write(payload)
	h.Sum(d.sum[:0])
}

func (m digests) compare(t *testing.T, want digests) {
	t.Helper()
	for s, w := range want {
		g := m[s]
		if g == nil {
			t.Errorf("%v -> %v: nothing, want %d datagrams", s.src, s.dst, w.n)
		} else if *g != *w {
			t.Errorf("%v -> %v: %d datagrams, want %d with the payloads of the oracle", s.src, s.dst, g.n, w.n)
		}
	}
	for s, g := range m {
		if want[s] == nil {
			t.Errorf("%v -> %v: %d datagrams, want none", s.src, s.dst, g.n)
		}
	}
}
