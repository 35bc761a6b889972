package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"castdeck/format/segment"
	"castdeck/internal/netnstest"
)

// TestGapsOfABadPath: a path that drops every seventh datagram and doubles every eleventh
// of the rest: gaps finds exactly these.
func TestGapsOfABadPath(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	group := netip.MustParseAddrPort("239.77.7.7:5777")
	netnstest.Faults(t, rx, fmt.Sprintf("ip daddr %s udp dport %d", group.Addr(), group.Port()), fmt.Sprintf(`numgen inc mod 7 == 3 drop
		numgen inc mod 11 == 5 meta mark set %d dup to %s`, netnstest.FaultMark, tx))

	const sent = 2100
	feed := filepath.Join(t.TempDir(), "feed.pcapng")
	w, err := createSegment(feed, segment.NewUUID(), 0)
	if err == nil {
		err = writeFeed(w, sent, 1_700_000_000_000_000_000)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	r := startRecorder(t, group, "-i", rx)
	to := "=" + group.String() // both groups, so that every number goes there
	if code, out, talk := command(t, "replay", feed, "-i", tx, "--pps", "20kpps", "--map", "239.1.1.1:5000"+to, "--map", "239.1.1.2:5000"+to); code != exitOK {
		t.Fatalf("replay: exit code %d: %s%s", code, out, talk)
	}
	if s, code := r.finish(t); code != exitOK || s.Dropped.Kernel != 0 {
		t.Fatalf("record: exit code %d: %+v", code, s)
	}
	lost, doubled := uint64(sent/7), uint64((sent-sent/7+5)/11)
	code, lines, sum := gapsOf(t, "--seq", "0:8:be", r.path)
	if code != exitLossy || len(lines) != 1 {
		t.Fatalf("exit code %d, %d lines", code, len(lines))
	}
	g := lines[0]
	if g.FirstSeq != 0 || g.LastSeq != sent-1 || g.Missing != lost || g.Duplicates != doubled || g.Received != sent-lost || g.GapCount != lost || g.Reordered != 0 {
		t.Errorf("%+v, want %d missing and %d twice", g.gapCountsJSON, lost, doubled)
	}
	for i, gap := range g.Gaps {
		if gap.From != uint64(7*i+3) || gap.To != gap.From || gap.Noted != 0 {
			t.Errorf("gap %d is %+v", i, gap)
		}
	}
	if sum.Missing != lost || sum.Dropped != 0 {
		t.Errorf("summary %+v", sum)
	}
}
