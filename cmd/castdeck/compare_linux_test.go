package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"castdeck/bench"
	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/netnstest"
	"castdeck/recorder"
	"castdeck/replayer"
)

// lastJSON runs a command with --json and returns its exit code and last line.
func lastJSON(t *testing.T, v any, args ...string) (code int) {
	t.Helper()
	var out, talk bytes.Buffer
	code = run(context.Background(), args, nil, &out, &talk)
	text := strings.TrimSpace(out.String())
	if err := json.Unmarshal([]byte(text[strings.LastIndexByte(text, '\n')+1:]), v); err != nil {
		t.Fatalf("castdeck %v: exit code %d, %v\n%s%s", args, code, err, text, talk.String())
	}
	return code
}

// TestComparePath: a recording and what came of its replay over a path on which nftables
// drops and doubles: compare tells what nftables counted.
func TestComparePath(t *testing.T) {
	netnstest.Require(t)
	tx, rx := netnstest.Veth(t)
	nftCounter := netnstest.Faults(t, rx, "udp dport 15077", fmt.Sprintf(`numgen inc mod 97 5 counter name lost drop
		numgen inc mod 89 3 counter name doubled meta mark set %d dup to %s`, netnstest.FaultMark, tx), "lost", "doubled")

	dir := t.TempDir()
	before, after := filepath.Join(dir, "before.pcapng.zst"), filepath.Join(dir, "after.pcapng.zst")
	groups := []netip.AddrPort{netip.MustParseAddrPort("239.255.77.1:15077"), netip.MustParseAddrPort("239.255.77.2:15077")}
	const n = 5000
	out, err := createOutput(before, outputKind{compression: format.Zstd}, segment.Options{Interfaces: []format.Interface{{LinkType: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := each(bench.NewFeed(bench.FeedOptions{Groups: groups, Count: n, Rate: 10_000, Burst: 4}), out.WriteBatch, nil); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}

	o := bench.PathOptions{Send: replayer.Options{Interface: tx}}
	for _, g := range groups {
		o.Groups = append(o.Groups, recorder.Subscription{Group: g, Interface: rx})
	}
	in, err := openInput(before)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	res, err := bench.Path(context.Background(), in, o, func(i []format.Interface) (format.BatchWriter, error) {
		out, err = createOutput(after, outputKind{compression: format.Zstd}, segment.Options{Interfaces: i})
		return out, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if d := res.Recorded.Dropped; d.Kernel > 0 {
		t.Skipf("the machine is too busy: %d datagrams did not fit into the receive buffer", d.Kernel)
	}
	lost, doubled := nftCounter("lost"), nftCounter("doubled")
	if lost < n/100 || doubled < n/100 {
		t.Fatalf("nftables dropped %d and doubled %d of %d", lost, doubled, n)
	}
	var s compareJSON
	if code := lastJSON(t, &s, "compare", "--json", "--align", before, after); code != exitLossy {
		t.Errorf("exit code %d", code)
	}
	if s.Matched != n-lost || s.OnlyA != lost || s.DuplicatesB != doubled || s.OnlyB+s.DuplicatesA+s.Changed+s.Reordered > 0 {
		t.Errorf("%+v; %d were lost and %d doubled", s, lost, doubled)
	}
	if s.Latency.Min != 0 || s.Latency.Max < s.Latency.P50 || !s.Clock.TakenOut {
		t.Errorf("latency %+v, clock %+v", s.Latency, s.Clock)
	}
	tolerate := fmt.Sprintf("lost=%d,duplicates=%d", lost, doubled)
	if code := lastJSON(t, &s, "compare", "--json", "--tolerate", tolerate, before, after); code != exitOK {
		t.Errorf("exit code %d with --tolerate %s", code, tolerate)
	}
}

// TestMergeRealLines: both lines of SMPTE ST 2022-7 in one capture, of which each lost
// something, and some packets both: the sequence numbers, as tshark reads them, say what.
func TestMergeRealLines(t *testing.T) {
	path := filepath.Join(captures, "ebu-pi-list/sample_data/pcap/st2110/2022-7/ST2022-7-Audio_dropped_in_both.pcap")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no real captures: %v", err)
	}
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skipf("no tshark: %v", err)
	}
	numbers := func(path, filter string) []string {
		out, err := exec.Command("tshark", "-r", path, "-d", "udp.port==6000,rtp", "-Y", filter, "-T", "fields", "-e", "rtp.seq").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	a, b := numbers(path, "ip.dst==239.1.2.1"), numbers(path, "ip.dst==239.1.2.2")
	all := slices.Concat(a, b)
	slices.Sort(all)
	all = slices.Compact(all)
	merged := filepath.Join(t.TempDir(), "merged.pcap")
	var s mergeJSON
	lastJSON(t, &s, "merge-lines", "--json", path, "-o", merged)
	got := numbers(merged, "ip.dst==239.1.2.1 && ip.src==192.168.120.2 && udp.port==6000")
	slices.Sort(got)
	// The two copies of the last packet differ in their last byte: both are kept.
	const differ = 1
	n := len(got)
	if got = slices.Compact(got); len(a) == len(all) || len(b) == len(all) || !slices.Equal(got, all) || n != len(all)+differ || s.Datagrams != uint64(n) {
		t.Errorf("%d merged, %d numbers, want %d; one line had %d, the other %d; %+v", n, len(got), len(all), len(a), len(b), s)
	}
	// By the numbers, those that both lost are known, and that the last one differs.
	first, err1 := strconv.Atoi(all[0])
	last, err2 := strconv.Atoi(all[len(all)-1])
	missing := uint64(last-first+1) - uint64(len(all))
	var byNumber mergeJSON
	code := lastJSON(t, &byNumber, "merge-lines", "--json", "--force", "--protocol", "rtp", path, "-o", merged)
	if err1 != nil || err2 != nil || missing == 0 || code != exitLossy || *byNumber.Missing != missing || byNumber.Datagrams != uint64(len(all)) || byNumber.Lines[0].Changed != differ {
		t.Errorf("exit code %d, %+v; %d numbers, %d missing", code, byNumber, len(all), missing)
	}
	if code := lastJSON(t, &byNumber, "merge-lines", "--json", "--force", path, "-o", merged); code != exitLossy || *byNumber.Missing != missing {
		t.Errorf("recognised: exit code %d, %d missing, want %d", code, *byNumber.Missing, missing)
	}
	l := s.Lines[0] // of the one input: both lines
	if l.Lost != uint64(2*n-len(a)-len(b)) || l.First != uint64(n) || l.Datagrams != uint64(len(a)+len(b)) {
		t.Errorf("%+v", l)
	}
}
