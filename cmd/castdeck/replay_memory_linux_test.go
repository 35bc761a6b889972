package main

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/netnstest"
)

// A recording of any size is replayed in the memory that a small one takes: 300 MiB at
// most, at full speed. CASTDECK_BENCH_SIZE=10GB makes it one of 10 GB (uncompressed),
// default 200 MB.
func TestReplayMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes a large recording")
	}
	netnstest.Require(t)
	size := int64(200e6)
	if s := os.Getenv("CASTDECK_BENCH_SIZE"); s != "" {
		var err error
		size, err = parseSize(s)
		ok(t, err)
	}
	path := filepath.Join(t.TempDir(), "large.pcapng.zst")
	w, err := segment.Create(path, segment.Options{Compression: format.Zstd, Sync: segment.SyncNone, Interfaces: []format.Interface{{Name: "eth0", LinkType: format.LinkTypeEthernet}}})
	ok(t, err)
	const payload, perBatch = 1400, 700
	b := format.NewBatch(perBatch, perBatch*payload)
	n := 0
	for written := int64(0); written < size; written += perBatch * payload {
		b.Reset()
		for i := range perBatch {
			b.Append(&format.Datagram{
				Time: 1_700_000_000_000_000_000 + int64(n)*1000, Src: netip.MustParseAddrPort("10.1.1.1:40000"),
				Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 5, 2, byte(i / 100)}), 5000), TTL: 1, Length: payload, Payload: make([]byte, payload),
			})
			n++
		}
		ok(t, w.WriteBatch(b))
	}
	ok(t, w.Close())
	peak := filepath.Join(t.TempDir(), "peak")
	cmd := exec.Command("castdeck", "replay", path, "-i", "lo", "--speed", "max", "--json")
	cmd.Env = append(os.Environ(), peakEnv+"="+peak)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	status, err := os.ReadFile(peak)
	ok(t, err)
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no peak in %s", status)
	}
	kB, err := strconv.Atoi(string(m[1]))
	ok(t, err)
	t.Logf("%d datagrams, %.1f GB: peak %d MiB", n, float64(n)*payload/1e9, kB>>10)
	if kB>>10 > 300 {
		t.Errorf("%d MiB at the peak", kB>>10)
	}
}
