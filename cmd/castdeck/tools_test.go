package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"castdeck/format"
	"castdeck/format/segment"
)

// toolFeed makes a recording of several chunks with IPv4 and IPv6, losses, and the
// smallest and largest datagrams.
func toolFeed(t *testing.T, path string) (n int, bytes int64, first, last int64) {
	t.Helper()
	w, err := segment.Create(path, segment.Options{ChunkSize: 64 << 10, Interfaces: []format.Interface{{Name: "eth0", LinkType: 1}}, Info: format.SegmentInfo{Made: true}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 600 {
		size := []int{0, 1, 200, 1400, 8000}[i%5]
		if i%200 == 7 {
			size = 65_507
		}
		d := format.Datagram{Time: 1_700_000_000_000_000_000 + int64(i)*1_000_001, Src: someSrc, Dst: someDst, Length: uint32(size), Payload: make([]byte, size), TTL: 3}
		if i%3 == 1 {
			d.Src, d.Dst = netip.MustParseAddrPort("[fe80::1]:40000"), netip.MustParseAddrPort("[ff3e::1]:5000")
		}
		for j := range d.Payload {
			d.Payload[j] = byte(i * j >> 4)
		}
		if i%100 == 50 {
			d.Drops = 3
		}
		if err := w.WriteBatch(&format.Batch{Datagrams: []format.Datagram{d}}); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			first = d.Time
		}
		n, bytes, last = n+1, bytes+int64(size), d.Time
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return n, bytes, first, last
}

// seconds writes a time, ns since the Unix epoch, as tools do.
func seconds(ns int64) string { return fmt.Sprintf("%d.%09d", ns/1e9, ns%1e9) }

// TestOtherToolsRead: each tool finds in each format that castdeck writes as many packets,
// at the same first and last time, with as many bytes of payload.
func TestOtherToolsRead(t *testing.T) {
	dir := t.TempDir()
	rec := filepath.Join(dir, "feed.pcapng.zst")
	n, bytes, first, last := toolFeed(t, rec)
	for _, name := range []string{"feed.pcapng", "feed.pcapng.gz", "feed.pcap"} {
		if code, talk := convert(t, rec, filepath.Join(dir, name)); code != exitOK {
			t.Fatal(talk)
		}
	}
	zst, gz, bare, pcap := rec, filepath.Join(dir, "feed.pcapng.gz"), filepath.Join(dir, "feed.pcapng"), filepath.Join(dir, "feed.pcap")
	const python = `python3 -c 'import gzip,shutil,sys; shutil.copyfileobj(gzip.open(sys.argv[1]), sys.stdout.buffer)' `
	const (
		tshark  = "tshark -n -o ip.defragment:FALSE -T fields -e frame.time_epoch -e udp.length -r "
		tcpdump = "tcpdump -n -tt --nano -r "
	)
	// Tshark 4.0 misreads any zstd file of several frames: it gets them unpacked.
	sources := []struct{ needs, command, file string }{
		{"", "cat ", bare}, {"", "cat ", pcap}, {"zstdcat", "zstdcat ", zst}, {"zcat", "zcat ", gz}, {"python3", python, gz},
	}
	for _, tool := range []struct{ name, command string }{
		{"tshark", tshark}, {"tcpdump", tcpdump}, {"capinfos", "capinfos -T -r -M -c -a -e -S "},
	} {
		for _, s := range append(sources, struct{ needs, command, file string }{"", "", gz}, struct{ needs, command, file string }{"", "", bare}, struct{ needs, command, file string }{"", "", pcap}) {
			t.Run(tool.name+"/"+strings.TrimSpace(s.needs+" "+filepath.Base(s.file)), func(t *testing.T) {
				for _, need := range []string{tool.name, s.needs} {
					if need != "" {
						if _, err := exec.LookPath(need); err != nil {
							t.Skipf("%s is not installed", need)
						}
					}
				}
				if tool.name == "tcpdump" && s.command == "" && s.file == gz {
					t.Skip("tcpdump does not unpack gzip")
				}
				file := s.file
				if s.command != "" {
					file = filepath.Join(t.TempDir(), "unpacked")
					b := pipe(t, s.command+s.file)
					writeFile(t, file, []byte(b))
				}
				out, err := exec.Command("sh", "-c", tool.command+file+" 2>/dev/null").Output()
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]func(*testing.T, string) toolCount{"tshark": countTshark, "tcpdump": countTcpdump, "capinfos": countCapinfos}[tool.name](t, string(out))
				want := toolCount{n, bytes, seconds(first), seconds(last)}
				if tool.name == "capinfos" {
					want.bytes = 0 // it counts whole packets
				}
				if got != want {
					t.Errorf("%s finds %+v, want %+v", tool.name, got, want)
				}
			})
		}
	}
}

// toolCount is what a tool finds in a capture.
type toolCount struct {
	packets     int
	bytes       int64
	first, last string
}

func (c *toolCount) add(t *testing.T, time, length string, header int64) {
	t.Helper()
	n, err := strconv.ParseInt(length, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if c.packets == 0 {
		c.first = time
	}
	c.packets, c.bytes, c.last = c.packets+1, c.bytes+n-header, time
}

func countTshark(t *testing.T, out string) (c toolCount) {
	for line := range strings.Lines(out) {
		time, length, _ := strings.Cut(strings.TrimSpace(line), "\t")
		c.add(t, time, length, 8)
	}
	return c
}

func countTcpdump(t *testing.T, out string) (c toolCount) {
	for line := range strings.Lines(out) {
		time, rest, _ := strings.Cut(line, " ")
		_, length, ok := strings.Cut(strings.TrimSpace(rest), "UDP, length ")
		if !ok {
			t.Fatalf("tcpdump prints %q", line)
		}
		c.add(t, time, length, 0)
	}
	return c
}

func countCapinfos(t *testing.T, out string) (c toolCount) {
	f := strings.Split(strings.TrimSpace(out), "\t")
	if len(f) != 4 {
		t.Fatalf("capinfos prints %q", out)
	}
	n, err := strconv.Atoi(f[1])
	if err != nil {
		t.Fatal(err)
	}
	return toolCount{packets: n, first: f[2], last: f[3]}
}
