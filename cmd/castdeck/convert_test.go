package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/format/segment"
	"castdeck/internal/mcast"
)

// convert runs the command and returns its exit code and what it said.
func convert(t *testing.T, args ...string) (code int, talk string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"convert"}, args...), nil, &out, &errs)
	return code, errs.String()
}

// packet is what must survive a round trip.
type packet struct {
	time     int64
	src, dst netip.AddrPort
	length   uint32
	ttl      uint8
	flags    format.Flags
	payload  string
	frame    string
}

func readPackets(t *testing.T, path string) (packets []packet, damaged bool) {
	t.Helper()
	in, err := openInput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	err = in.each(func(b *format.Batch) error {
		for i := range b.Datagrams {
			d := &b.Datagrams[i]
			packets = append(packets, packet{d.Time, d.Src, d.Dst, d.Length, d.TTL, d.Flags, string(d.Payload), string(d.Frame)})
		}
		return nil
	}, func(error) { damaged = true })
	if err != nil {
		t.Fatal(err)
	}
	return packets, damaged
}

func datagramsOf(all []packet) []packet {
	return slices.DeleteFunc(slices.Clone(all), func(p packet) bool { return p.flags&format.FlagNotUDP != 0 })
}

// TestConvertRealCaptures: a capture of another tool, written as a recording, as a
// classic pcap and as a recording again, has the same datagrams at the same times,
// and with --frames keep the same frames.
func TestConvertRealCaptures(t *testing.T) {
	const largest = 4 << 20
	files := 0
	err := filepath.WalkDir(captures, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == captures {
			t.Skipf("no real captures: %v", err)
		}
		if err != nil {
			return err
		}
		if st, err := e.Info(); err != nil || !st.Mode().IsRegular() || st.Size() > largest {
			return err
		}
		in, err := openInput(path)
		if err != nil {
			return nil // a part of the corpus is no capture on purpose
		}
		in.Close()
		files++
		t.Run(strings.TrimPrefix(path, captures), func(t *testing.T) { roundTrip(t, path) })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Fatalf("only %d captures", files)
	}
}

func roundTrip(t *testing.T, path string) {
	all, damaged := readPackets(t, path)
	want := datagramsOf(all)
	dir := t.TempDir()
	for _, p := range want {
		// Classic pcap has no time before 1970 and none past 2106: said, not bent.
		if p.time < 0 || p.time/1e9 > 1<<32-1 {
			t.Skip("times that classic pcap does not hold")
		}
	}
	a, b, c := filepath.Join(dir, "a.pcapng.zst"), filepath.Join(dir, "b.pcap"), filepath.Join(dir, "c.pcapng")
	for i, step := range [][]string{{path, a}, {a, b}, {b, c}} {
		code, talk := convert(t, step...)
		if expect := map[bool]int{false: exitOK, true: exitLossy}[damaged && i == 0]; code != expect {
			t.Fatalf("convert %v: exit code %d, want %d: %s", step, code, expect, talk)
		}
	}
	for _, p := range []string{a, b, c} {
		got, _ := readPackets(t, p)
		sameDatagrams(t, filepath.Base(p), datagramsOf(got), want)
	}

	k := filepath.Join(dir, "k.pcap")
	code, talk := convert(t, "--frames", "keep", path, k)
	if code == exitFailed {
		if !strings.Contains(talk, "one file keeps one link type") && !strings.Contains(talk, "can be made for a datagram that was put together") {
			t.Errorf("--frames keep: %s", talk)
		}
		return
	}
	got, _ := readPackets(t, k)
	if len(got) != len(all) {
		t.Fatalf("--frames keep: %d packets, want %d", len(got), len(all))
	}
	for i := range got {
		if all[i].frame != "" && got[i].frame != all[i].frame {
			t.Errorf("--frames keep: frame %d differs", i)
			break
		}
	}
	sameDatagrams(t, "--frames keep", datagramsOf(got), want)
}

func sameDatagrams(t *testing.T, what string, got, want []packet) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d datagrams, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		g, w := got[i], want[i]
		// Frames can be made, and pcap does not say what was reassembled, or had no time.
		const lost = format.FlagReassembled | format.FlagNoTime
		g.frame, w.frame, g.flags, w.flags = "", "", g.flags&^lost, w.flags&^lost
		if g != w {
			g.payload, w.payload = "", ""
			t.Errorf("%s: datagram %d is\n%+v, want\n%+v", what, i, g, w)
			return
		}
	}
}

var (
	someSrc = netip.MustParseAddrPort("10.0.0.1:40000")
	someDst = netip.MustParseAddrPort("239.1.1.1:5000")
)

// writeCapture makes a pcapng file of another tool: no segment block.
func writeCapture(t *testing.T, path string, interfaces []format.Interface, datagrams ...format.Datagram) {
	t.Helper()
	b := format.AppendSHB(nil, format.Section{})
	for _, i := range interfaces {
		b = format.AppendIDB(b, i)
	}
	for i := range datagrams {
		b = format.AppendEPB(b, &datagrams[i])
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// framed gives d a frame of the link type.
func framed(t testing.TB, d format.Datagram, link uint16) format.Datagram {
	t.Helper()
	if link == format.LinkTypeEthernet {
		frame, wire := format.AppendMadeFrame(nil, &d)
		d.Frame, d.FrameLength = frame, uint32(wire)
		return d
	}
	list := make([]format.Interface, d.Interface+1)
	list[d.Interface].LinkType = link
	b := format.Batch{Datagrams: []format.Datagram{d}}
	if err := pcapfile.NewFrameMaker(func() []format.Interface { return list }).Convert(&b); err != nil {
		t.Fatal(err)
	}
	return b.Datagrams[0]
}

// TestConvertMixedLinkTypes: a file keeps one link type, and what has no packet does
// not matter.
func TestConvertMixedLinkTypes(t *testing.T) {
	const cooked = 113
	dir := t.TempDir()
	path := filepath.Join(dir, "mixed.pcapng")
	d := format.Datagram{Time: 1e18, Src: someSrc, Dst: someDst, Length: 4, Payload: []byte("abcd"), TTL: 3}
	other := d
	other.Interface, other.Dst = 2, netip.MustParseAddrPort("239.1.1.2:5000")
	writeCapture(t, path, []format.Interface{{Name: "any", LinkType: cooked}, {LinkType: 999}, {Name: "eth0", LinkType: 1}},
		framed(t, d, cooked), framed(t, other, 1))

	out := filepath.Join(dir, "out.pcap")
	code, talk := convert(t, "--frames", "keep", path, out)
	if code != exitFailed || !strings.Contains(talk, "link type 1 of interface eth0 after link type 113 of any") {
		t.Errorf("exit code %d: %s", code, talk)
	}
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made all the same: %v", err)
	}
	for _, name := range []string{"one.pcap", "one.pcapng.gz"} {
		out := filepath.Join(dir, name)
		if code, talk := convert(t, "--frames", "keep", "--only", "239.1.1.1", path, out); code != exitOK {
			t.Fatalf("exit code %d: %s", code, talk)
		}
		in, err := openInput(out)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		var b format.Batch
		if err := in.ReadBatch(&b); err != nil {
			t.Fatal(err)
		}
		if list := in.interfaces(); len(list) != 1 || list[0].LinkType != cooked || len(b.Datagrams) != 1 || b.Datagrams[0].Dst != d.Dst {
			t.Errorf("%s: interfaces %+v, %+v", name, list, b.Datagrams)
		}
	}
	// Split, each file has its own.
	if code, talk := convert(t, "--frames", "keep", "--split-by", "group", path, out); code != exitOK {
		t.Errorf("exit code %d: %s", code, talk)
	}
	if got, _ := readPackets(t, filepath.Join(dir, "out-239.1.1.2_5000.pcap")); len(got) != 1 || got[0].ttl != 3 {
		t.Errorf("%+v", got)
	}
	if code, talk := convert(t, path, out); code != exitOK {
		t.Errorf("exit code %d: %s", code, talk)
	}
	if got, _ := readPackets(t, out); len(got) != 2 {
		t.Errorf("%+v", got)
	}
}

// TestConvertSnapLengths: libpcap refuses a file whose interfaces have different snap
// lengths, and packets longer than those.
func TestConvertSnapLengths(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "in.pcapng")
	d := format.Datagram{Time: 1e18, Src: someSrc, Dst: someDst, Length: 100, Payload: make([]byte, 100), TTL: 3}
	other := d
	other.Interface = 1
	writeCapture(t, path, []format.Interface{{Name: "a", LinkType: 1, SnapLen: 96}, {Name: "b", LinkType: 1, SnapLen: 65535}}, framed(t, d, 1), framed(t, other, 1))
	for _, args := range [][]string{nil, {"--frames", "keep"}, {"--frames", "make"}} {
		out := filepath.Join(dir, "out.pcapng")
		if code, talk := convert(t, append(args, "--force", path, out)...); code != exitOK {
			t.Fatalf("%v: exit code %d: %s", args, code, talk)
		}
		in, err := openInput(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range in.interfaces() {
			if i.SnapLen != 0 {
				t.Errorf("%v: %+v", args, i)
			}
		}
		in.Close()
		if _, err := exec.LookPath("tcpdump"); err != nil {
			t.Log("tcpdump is not installed")
		} else if out := pipe(t, "tcpdump -n -r "+out+" --count 2>/dev/null"); !strings.HasPrefix(out, "2 packets") {
			t.Errorf("%v: tcpdump counts %q, want 2", args, out)
		}
	}
}

// TestConvertFullDisk: what cannot be written is an error that says so.
func TestConvertFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("no full device: %v", err)
	}
	defer full.Close()
	path := filepath.Join(t.TempDir(), "in.pcapng")
	writeCapture(t, path, []format.Interface{{LinkType: 1}}, framed(t, format.Datagram{Time: 1e18, Src: someSrc, Dst: someDst}, 1))
	for _, to := range []string{"pcapng.zst", "pcapng", "pcap", "ndjson", "csv", "csv.gz"} {
		var talk bytes.Buffer
		code := run(t.Context(), []string{"convert", "--to", to, path, "-"}, nil, full, &talk)
		if code != exitFailed || !strings.Contains(talk.String(), "stdout: writing ") || !strings.Contains(talk.String(), "no space left") {
			t.Errorf("--to %s: exit code %d: %s", to, code, talk.String())
		}
	}
}

// FuzzConvert: whatever the input holds, what is written of it is whole: a recording
// that verifies, and a pcap with as many packets.
func FuzzConvert(f *testing.F) {
	for _, link := range []uint16{0, 1, 9, 101, 113, 276} {
		d := framed(f, format.Datagram{Time: 1e18, Src: someSrc, Dst: someDst, Length: 4, Payload: []byte("abcd"), TTL: 3}, link)
		b := format.AppendEPB(format.AppendIDB(format.AppendSHB(nil, format.Section{}), format.Interface{LinkType: link}), &d)
		f.Add(b, byte(link))
	}
	flags := [][]string{
		{}, {"--frames", "keep"}, {"--frames", "make"}, {"--strip", "2"}, {"--shift", "-1s"}, {"--skip", "1"}, {"--not", "239.1.1.1"},
		{"--payload", "0:61"}, {"--strip", "1", "--frames", "keep"}, {"--start", "+1s"},
	}
	f.Fuzz(func(t *testing.T, b []byte, choice byte) {
		dir := t.TempDir()
		in, mid, out := filepath.Join(dir, "in"), filepath.Join(dir, "mid.pcapng"), filepath.Join(dir, "out.pcap")
		if err := os.WriteFile(in, b, 0o600); err != nil {
			t.Fatal(err)
		}
		args := flags[int(choice)%len(flags)]
		code, talk := convert(t, append(slices.Clone(args), in, mid)...)
		if code == exitFailed {
			return
		}
		if code != exitOK && code != exitLossy {
			t.Fatalf("exit code %d: %s", code, talk)
		}
		var report bytes.Buffer
		if code := run(t.Context(), []string{"verify", mid}, nil, &report, &report); code != exitOK {
			t.Fatalf("%v: verify: exit code %d: %s", args, code, report.String())
		}
		want, _ := readPackets(t, mid)
		if code, talk := convert(t, "--frames", "keep", mid, out); code != exitOK {
			if strings.Contains(talk, "1970 to 2106") {
				return
			}
			t.Fatalf("%v: to pcap: exit code %d: %s", args, code, talk)
		}
		if got, damaged := readPackets(t, out); len(got) != len(want) || damaged {
			t.Errorf("%v: %d packets in the pcap, %d in the recording", args, len(got), len(want))
		}
	})
}

// TestConvertKeepsLosses: what the filters take away told of losses too.
func TestConvertKeepsLosses(t *testing.T) {
	dir := t.TempDir()
	path, out := filepath.Join(dir, "in.pcapng"), filepath.Join(dir, "out.pcapng")
	var all []format.Datagram
	for i := range 6 {
		d := format.Datagram{Time: 1e18 + int64(i), Src: someSrc, Dst: someDst, Interface: uint16(i / 3), Drops: uint64(i) + 1, TTL: 1}
		if i%3 != 2 {
			d.Dst = netip.MustParseAddrPort("239.1.1.2:5000")
		}
		all = append(all, framed(t, d, 1))
	}
	writeCapture(t, path, []format.Interface{{LinkType: 1}, {LinkType: 1}}, all...)
	for _, c := range []struct {
		args []string
		want []uint64
	}{
		{[]string{"--only", "239.1.1.1"}, []uint64{1 + 2 + 3, 4 + 5 + 6}},
		{[]string{"--not", "239.1.1.2"}, []uint64{6, 15}},
		{[]string{"--not", "239.1.1.2", "--skip", "1"}, []uint64{15}},
		{[]string{"--skip", "2", "--count", "2"}, []uint64{3, 4}},
		{[]string{"--only", "239.1.1.1", "--count", "1"}, []uint64{6}},
	} {
		if code, talk := convert(t, append(c.args, "--force", path, out)...); code != exitOK {
			t.Fatalf("%v: exit code %d: %s", c.args, code, talk)
		}
		in, err := openInput(out)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		err = in.each(func(b *format.Batch) error {
			for i := range b.Datagrams {
				got = append(got, b.Datagrams[i].Drops)
			}
			return nil
		}, func(err error) { t.Error(err) })
		if in.Close(); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v: lost before each datagram %v, want %v (%v)", c.args, got, c.want, err)
		}
	}
}

// TestConvertSplitLimit: more groups than files can be open is an error with a way
// out, and what was converted until then is whole.
func TestConvertSplitLimit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "in.pcapng")
	var all []format.Datagram
	for i := range maxOpen + 1 {
		d := format.Datagram{Time: 1e18 + int64(i), Src: someSrc, Dst: netip.AddrPortFrom(someDst.Addr(), uint16(1000+i)), TTL: 1}
		all = append(all, framed(t, d, 1))
	}
	writeCapture(t, path, []format.Interface{{LinkType: 1}}, all...)
	code, talk := convert(t, "--split-by", "group", path, filepath.Join(dir, "out.csv"))
	if code != exitFailed || !strings.Contains(talk, "more than 512 files at the same time; choose some by --only, or split by time, count or size") {
		t.Errorf("exit code %d: %s", code, talk)
	}
	if got, err := filepath.Glob(filepath.Join(dir, "out-*.csv")); err != nil || len(got) != maxOpen {
		t.Errorf("%d files, want %d (%v)", len(got), maxOpen, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("out-239.1.1.1_%d.csv", 1000+maxOpen-1))); err != nil || strings.Count(string(got), "\n") != 2 {
		t.Errorf("the last file that was opened holds %q (%v)", got, err)
	}
	if code, talk := convert(t, "--split-by", "group", "--not", ":1000", path, filepath.Join(dir, "out.pcapng.zst")); code != exitOK {
		t.Errorf("exit code %d: %s", code, talk)
	}
	if got, damaged := readPackets(t, filepath.Join(dir, fmt.Sprintf("out-239.1.1.1_%d.pcapng.zst", 1000+maxOpen))); len(got) != 1 || damaged {
		t.Errorf("%+v", got)
	}
}

// TestConvertInterrupted: a signal ends it though the input says nothing, and what
// came until then is in a sealed file.
func TestConvertInterrupted(t *testing.T) {
	dir := t.TempDir()
	fifo, out := filepath.Join(dir, "fifo"), filepath.Join(dir, "out.pcapng.zst")
	if err := makeFifo(fifo); err != nil {
		t.Skipf("no named pipes: %v", err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var talk bytes.Buffer
	done := make(chan int, 1)
	go func() { done <- run(ctx, []string{"convert", fifo, out}, nil, io.Discard, &talk) }()
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	d := framed(t, format.Datagram{Time: 1e18, Src: someSrc, Dst: someDst, TTL: 1}, 1)
	file := filepath.Join(dir, "file")
	writeCapture(t, file, []format.Interface{{LinkType: 1}}, d, d, d)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(out); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no output within 30 s")
		}
	}
	interrupt()
	if code := <-done; code != exitFailed || !strings.Contains(talk.String(), "interrupted; "+out+" holds what was converted until then") {
		t.Errorf("exit code %d: %s", code, talk.String())
	}
	in, err := openInput(out)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if !in.seg.Sealed() {
		t.Error("the output is not sealed")
	}
}

// TestTextLines holds the lines of --to ndjson to dump --json, and those of csv to
// encoding/csv, for names that need quotes too.
func TestTextLines(t *testing.T) {
	names := []format.Interface{{Name: "eth0"}, {}, {Name: `a,"b"`}, {Name: "<&>\u2028\x1b[31m\n"}, {Name: " x"}}
	for i := range names {
		d := format.Datagram{Time: int64(i) - 1, Src: someSrc, Dst: netip.MustParseAddrPort("[ff3e::1]:5000"), Interface: uint16(i),
			TTL: 255, Length: 10, Payload: []byte("0123456\xff")[:i+3], Flags: format.Flags(i), Drops: uint64(i / 2)}
		name := interfaceName(names, d.Interface)
		want, err := json.Marshal(dumpJSON{
			TimeNS: d.Time, Source: "10.0.0.1", SourcePort: 40000, Group: "ff3e::1", Port: 5000, Interface: name,
			TTL: 255, Length: 10, Payload: hex.EncodeToString(d.Payload), Flags: d.Flags.String(), Drops: d.Drops,
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(appendNDJSON(nil, &d, quoteField(ndjson, name))); got != string(want)+"\n" {
			t.Errorf("%s\nwant %s", got, want)
		}
		line := string(appendCSV(nil, &d, quoteField(csvText, name)))
		got, err := csv.NewReader(strings.NewReader(csvHeader + line)).ReadAll()
		row := []string{strconv.Itoa(i - 1), "10.0.0.1", "40000", "ff3e::1", "5000", name, "255", "10", hex.EncodeToString(d.Payload)}
		if err != nil || len(got) != 2 || !slices.Equal(got[1], row) {
			t.Errorf("%q reads as %q (%v), want %q", line, got, err, row)
		}
	}
}

// discard is a segment.File that keeps nothing.
type discard struct{ streamFile }

func (*discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func textBatch() (*textWriter, *format.Batch) {
	t := &textWriter{kind: ndjson, flush: textFlush, f: &appender{f: &discard{}}, names: &fieldNames{kind: ndjson, list: []format.Interface{{Name: "eth0"}}}}
	b := &format.Batch{}
	for range 512 {
		b.Datagrams = append(b.Datagrams, format.Datagram{Time: 1e18, Src: someSrc, Dst: someDst, Length: 200, Payload: make([]byte, 200)})
	}
	return t, b
}

func TestTextAllocatesNothing(t *testing.T) {
	w, b := textBatch()
	if n := testing.AllocsPerRun(20, func() {
		if err := w.WriteBatch(b); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}

// TestSplitAllocatesNothing: filtering, cutting short and sorting into files.
func TestSplitAllocatesNothing(t *testing.T) {
	only, err := mcast.NewMatcher("239.1.1.1:5000-5999")
	if err != nil {
		t.Fatal(err)
	}
	payload, err := parsePayloadFilter("1:00/ff")
	if err != nil {
		t.Fatal(err)
	}
	var all []format.Datagram
	for i := range 512 {
		d := format.Datagram{Time: 1e18, Src: someSrc, Dst: netip.AddrPortFrom(someDst.Addr(), uint16(5000+i%100)), Length: 200, Payload: make([]byte, 200)}
		all = append(all, framed(t, d, 1))
		pcapfile.NewDecoder().Decode(1, &all[i])
	}
	for _, how := range []string{"group", "stream", "time=1h", "size=1GB"} {
		var v splitValue
		if err := v.Set(how); err != nil {
			t.Fatal(err)
		}
		sel := selection{only: only, payload: []payloadFilter{payload}, udpOnly: true}
		shape := reshape{strip: stripValue{bytes: 64, set: true}, shift: shiftValue{by: 1}}
		out := &splitter{how: v, kind: outputKind{pcap: true}, path: "x.pcap",
			create: func(path string, k outputKind, o segment.Options) (*output, error) {
				return streamOutput(io.Discard, k, o)
			}}
		out.describe([]format.Interface{{LinkType: 1}})
		var b format.Batch
		if n := testing.AllocsPerRun(20, func() {
			b.Datagrams = append(b.Datagrams[:0], all...)
			sel.apply(&b)
			if err := shape.apply(&b); err != nil {
				t.Fatal(err)
			}
			if err := out.WriteBatch(&b); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a batch", how, n)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		if got := out.written().datagrams; got != 21*512 {
			t.Errorf("%s: %d datagrams", how, got)
		}
	}
}

func BenchmarkNDJSON(b *testing.B) {
	w, batch := textBatch()
	b.SetBytes(int64(200 * len(batch.Datagrams)))
	for b.Loop() {
		if err := w.WriteBatch(batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(batch.Datagrams)), "ns/datagram")
}

// TestStripFrames: a captured frame is cut behind the payload that is kept, whatever
// stands before and behind it.
func TestStripFrames(t *testing.T) {
	for _, link := range []uint16{1, 101, 113} {
		for _, keep := range []int{0, 1, 4, 5, 100} {
			d := framed(t, format.Datagram{Src: someSrc, Dst: someDst, Length: 5, Payload: []byte("abcde"), TTL: 9}, link)
			d.Frame = append(d.Frame, "padding"...)
			d.FrameLength = uint32(len(d.Frame))
			pcapfile.NewDecoder().Decode(link, &d)
			r := reshape{strip: stripValue{bytes: keep, set: true}, header: 3}
			if err := r.apply(&format.Batch{Datagrams: []format.Datagram{d}}); err != nil {
				t.Fatal(err)
			}
			b := format.Batch{Datagrams: []format.Datagram{d}}
			if err := r.apply(&b); err != nil { // now with the right guess
				t.Fatal(err)
			}
			got := format.Datagram{Frame: b.Datagrams[0].Frame, FrameLength: b.Datagrams[0].FrameLength}
			pcapfile.NewDecoder().Decode(link, &got)
			if want := "abcde"[:min(keep, 5)]; string(got.Payload) != want || got.Length != 5 || got.Dst != someDst ||
				(got.Flags&format.FlagTruncated != 0) != (keep < 5) {
				t.Errorf("link type %d, %d bytes kept: %q of %d, %v", link, keep, got.Payload, got.Length, got.Flags)
			}
		}
	}
}

func FuzzPayloadFilter(f *testing.F) {
	for _, s := range []string{"0:00", "12:4e414d45", "0x10:ff/f0", "0:80/c0", "65526:00", ":", "1:2:3", "0:0g", "99999999999999999999:00"} {
		f.Add(s, []byte("payload"))
	}
	f.Fuzz(func(t *testing.T, s string, payload []byte) {
		p, err := parsePayloadFilter(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%q", err)
			}
			return
		}
		if p.offset+len(p.value) > format.MaxPayload || len(p.value) == 0 {
			t.Fatalf("%q: %+v", s, p)
		}
		want := len(payload) >= p.offset+len(p.value)
		for i := 0; want && i < len(p.value); i++ {
			mask := byte(0xFF)
			if p.mask != nil {
				mask = p.mask[i]
			}
			want = payload[p.offset+i]&mask == p.value[i]&mask
		}
		if got := p.match(payload); got != want {
			t.Errorf("%q on %x: %v, want %v", s, payload, got, want)
		}
		again := slices.Concat(make([]byte, p.offset), p.value)
		if !p.match(again) {
			t.Errorf("%q does not match its own bytes", s)
		}
	})
}

func FuzzSplitName(f *testing.F) {
	for _, s := range []string{"feed.pcapng.zst", "a/b/feed.csv", ".pcap", "/tmp/x", "dir.d/name"} {
		for _, label := range []string{"239.1.1.1_5000", "../../etc/passwd", "a/b", "\x1b[31m", "..", "", "C:\\x", "\u202e"} {
			f.Add(s, label)
		}
	}
	f.Fuzz(func(t *testing.T, path, label string) {
		got := splitName(path, label)
		dir, name := filepath.Split(got)
		if want, _ := filepath.Split(path); dir != want {
			t.Fatalf("splitName(%q, %q) = %q leaves the folder", path, label, got)
		}
		_, old := filepath.Split(path)
		if len(name) < len(old)+len(safeLabel(label)) {
			t.Errorf("splitName(%q, %q) = %q", path, label, got)
		}
		for _, r := range safeLabel(label) {
			if r > 'z' || r < '-' || r == '/' || r == ':' || r == '\\' {
				t.Errorf("label %q has %q", safeLabel(label), r)
			}
		}
	})
}

// TestSplitLabels: different streams have different names.
func TestSplitLabels(t *testing.T) {
	seen := map[string]streamKey{}
	for _, a := range []string{"", "10.0.0.1:1", "10.0.0.1:11", "10.0.0.11:1", "[fe80::1]:1", "[fe80::1:1]:1", "[fe80:1::1]:1"} {
		for _, b := range []string{"239.1.1.1:1", "239.1.1.1:12", "239.1.1.11:2", "[ff02::1]:1", "[ff02::1:1]:1", "[ff02:1::1]:1"} {
			k := streamKey{dst: netip.MustParseAddrPort(b)}
			if a != "" {
				k.src = netip.MustParseAddrPort(a)
			}
			l := safeLabel(k.label())
			if o, ok := seen[l]; ok {
				t.Errorf("%v has the name %q, as %v has", k, l, o)
			}
			seen[l] = k
		}
	}
}

func FuzzConvertFlags(f *testing.F) {
	for _, s := range []string{"+1h", "-250ms", "to=2026-05-04T09:30:00Z", "to=1777887000.5", "to=", "group", "stream", "time=1m", "count=1", "size=1GB", "time=-1s", "64", "1KiB", "-1", "to=9223372036.9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var shift shiftValue
		if err := shift.Set(s); err == nil {
			b := format.Batch{Datagrams: []format.Datagram{{Time: 1e18}, {Time: 1e18 + 1}, {Time: 1}}}
			r := reshape{shift: shift}
			if r.apply(&b) == nil && (b.Datagrams[0].Time < 0 || b.Datagrams[1].Time-b.Datagrams[0].Time != 1) {
				t.Errorf("%q: %+v", s, b.Datagrams)
			}
		}
		var split splitValue
		if err := split.Set(s); err == nil && (split.mode == oneFile || split.step < 1 && split.mode >= byTime || split.String() != s) {
			t.Errorf("%q: %+v", s, split)
		}
		var strip stripValue
		if err := strip.Set(s); err == nil && (strip.bytes < 0 || strip.bytes > format.MaxPayload) {
			t.Errorf("%q: %+v", s, strip)
		}
	})
}
