package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"castdeck/bench"
	"castdeck/format"
	"castdeck/format/segment"
)

// scriptRecord makes a recording of several sealed segments, which are 1000 datagrams,
// a millisecond apart, each: record PREFIX SEGMENTS makes PREFIX-0000.pcapng.zst and
// so on.
func scriptRecord(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	id := segment.NewUUID()
	for i := range n {
		w, err := createSegment(ts.MkAbs(fmt.Sprintf("%s-%04d.pcapng.zst", args[0], i)), id, uint32(i))
		ts.Check(err)
		start := int64(1_700_000_000_000_000_000 + i*1_000_000_000)
		ts.Check(writeFeed(w, 1000, start))
		ts.Check(w.Close())
	}
}

func createSegment(path string, id format.UUID, number uint32) (*segment.Writer, error) {
	return segment.Create(path, segment.Options{
		ChunkSize: 8 << 10, Interfaces: []format.Interface{{Name: "eth0", Description: "a feed", LinkType: 1}},
		Info: format.SegmentInfo{Recording: id, Number: number, Made: true, Host: "somewhere", Clock: "made up", Start: 1_700_000_000_000_000_000},
	})
}

// writeFeed writes n datagrams of two groups, a millisecond apart.
func writeFeed(w *segment.Writer, n int, start int64) error {
	feed := bench.NewFeed(bench.FeedOptions{
		Groups: []netip.AddrPort{netip.MustParseAddrPort("239.1.1.1:5000"), netip.MustParseAddrPort("239.1.1.2:5000")},
		Count:  n, Rate: 1000, MinSize: 100, Start: start,
	})
	var b format.Batch
	for feed.ReadBatch(&b) == nil {
		if err := w.WriteBatch(&b); err != nil {
			return err
		}
	}
	return nil
}

// TestDumpFollow follows a recording while it is written, across a change of segments.
func TestDumpFollow(t *testing.T) {
	dir, id := t.TempDir(), segment.NewUUID()
	create := func(n uint32) *segment.Writer {
		w, err := createSegment(filepath.Join(dir, fmt.Sprintf("feed-%d.pcapng.zst", n)), id, n)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := create(0)
	start := int64(1_700_000_000_000_000_000)
	write := func(n int) {
		t.Helper()
		if err := writeFeed(w, n, start); err != nil {
			t.Fatal(err)
		}
		start += int64(n) * 1_000_000
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write(5)
	var out, talk lockedBuffer
	code := make(chan int, 1)
	go func() {
		code <- run(context.Background(), []string{"dump", "--follow", "--end", "+1h", filepath.Join(dir, "feed")}, nil, &out, &talk)
	}()
	await := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); out.lines() < n; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d lines after 30 s, want %d: %s", out.lines(), n, talk.String())
			}
		}
	}
	await(5)
	write(7)
	await(12)
	last := w
	w = create(1)
	if err := last.Close(); err != nil {
		t.Fatal(err)
	}
	write(3)
	await(15)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-code:
		if c != exitOK || out.lines() != 15 {
			t.Errorf("exit code %d after %d lines: %s", c, out.lines(), talk.String())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end with the recording")
	}
	if s := out.String(); !strings.Contains(s, "22:13:20.014000000") || strings.Count(s, "22:13:20.011000000") != 1 {
		t.Errorf("printed:\n%s", s)
	}
}

// TestDumpFollowEnds: with the number of datagrams that was asked for, and with a
// signal, for which the end of the context stands here.
func TestDumpFollowEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "open.pcapng.zst")
	w, err := createSegment(path, segment.NewUUID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := writeFeed(w, 5, 1_700_000_000_000_000_000); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--count", "5"}, nil} {
		ctx, cancel := context.WithCancel(t.Context())
		var out, talk lockedBuffer
		code := make(chan int, 1)
		go func() { code <- run(ctx, append([]string{"dump", "-f", path}, args...), nil, &out, &talk) }()
		for deadline := time.Now().Add(30 * time.Second); out.lines() < 5 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		}
		if args == nil {
			cancel()
		}
		select {
		case c := <-code:
			if c != exitOK || out.lines() != 5 {
				t.Errorf("%v: exit code %d after %d lines: %s", args, c, out.lines(), talk.String())
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%v: it does not end", args)
		}
		cancel()
	}
}

// TestFindFiles: what each form of a PATH names.
func TestFindFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"feed-2.zst", "feed-1.zst", "feed", "feeder", "other", ".hidden", "a[1].pcap", "sub/in"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ why, arg, want string }{
		{"the very name wins over a prefix", "feed", "feed"},
		{"a prefix", "feed-", "feed-1.zst feed-2.zst"},
		{"a prefix that is no file", "fe", "feed feed-1.zst feed-2.zst feeder"},
		{"a pattern", "feed-*.zst", "feed-1.zst feed-2.zst"},
		{"a pattern leaves folders out", "*e*", "feed feed-1.zst feed-2.zst feeder other"},
		{"a name that looks like a pattern", "a[1].pcap", "a[1].pcap"},
		{"a folder, without what is hidden and what is in folders", ".", "a[1].pcap feed feed-1.zst feed-2.zst feeder other"},
		{"nothing", "missing", ""},
		{"no folder", "missing/", ""},
		{"no match", "missing*", ""},
		{"no pattern", "[", ""},
	} {
		files, _, err := findFiles(filepath.Join(dir, c.arg))
		var names []string
		for _, f := range files {
			names = append(names, filepath.Base(f))
		}
		if got := strings.Join(names, " "); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %s names %q, %v; want %q", c.why, c.arg, got, err, c.want)
		}
	}
}
