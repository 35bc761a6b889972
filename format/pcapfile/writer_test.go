package pcapfile

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"castdeck/format"
)

// rewrite reads data and writes it as classic pcap.
func rewrite(t testing.TB, data []byte) ([]byte, *Writer) {
	t.Helper()
	r := open(t, data)
	var out bytes.Buffer
	w, err := NewWriter(&out, r.Interfaces)
	if err != nil {
		t.Fatal(err)
	}
	var b format.Batch
	for {
		err := r.ReadBatch(&b)
		var damage *format.CorruptError
		if err == io.EOF {
			return out.Bytes(), w
		}
		if errors.As(err, &damage) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteBatch(&b); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		byteOf := rapid.Byte()
		var datagrams []format.Datagram
		for range rapid.IntRange(1, 40).Draw(t, "n") {
			d := format.Datagram{
				Time:    rapid.Int64Range(0, (1<<32)*second-1).Draw(t, "time"),
				TTL:     byteOf.Draw(t, "ttl"),
				Payload: rapid.SliceOfN(byteOf, 0, 300).Draw(t, "payload"),
			}
			n, port := 4, rapid.Uint16()
			if rapid.Bool().Draw(t, "IPv6") {
				n = 16
			}
			src, _ := netip.AddrFromSlice(rapid.SliceOfN(byteOf, n, n).Draw(t, "src"))
			dst, _ := netip.AddrFromSlice(rapid.SliceOfN(byteOf, n, n).Draw(t, "dst"))
			d.Src, d.Dst = netip.AddrPortFrom(src, port.Draw(t, "from")), netip.AddrPortFrom(dst, port.Draw(t, "to"))
			d.Length = uint32(len(d.Payload))
			if rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
				d.Length += 100
				d.Flags = format.FlagTruncated
			}
			datagrams = append(datagrams, d)
		}
		var out bytes.Buffer
		w, err := NewWriter(&out, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteBatch(&format.Batch{Datagrams: datagrams}); err != nil {
			t.Fatal(err)
		}
		r, err := NewReader(bytes.NewReader(out.Bytes()), "written")
		if err != nil {
			t.Fatal(err)
		}
		c, err := drain(r)
		if err != nil || len(c.damage) != 0 || len(c.datagrams) != len(datagrams) {
			t.Fatalf("%d datagrams of %d, damage %v, %v", len(c.datagrams), len(datagrams), c.damage, err)
		}
		for i, got := range c.datagrams {
			want := datagrams[i]
			if got.Time != want.Time || got.Src != want.Src || got.Dst != want.Dst || got.TTL != want.TTL ||
				got.Length != want.Length || got.Flags != want.Flags || !bytes.Equal(got.Payload, want.Payload) {
				t.Fatalf("datagram %d is %+v, want %+v", i, got, want)
			}
		}
		again, err := NewReader(bytes.NewReader(out.Bytes()), "again")
		if err != nil {
			t.Fatal(err)
		}
		var second bytes.Buffer
		w, _ = NewWriter(&second, again.Interfaces)
		var b format.Batch
		for again.ReadBatch(&b) == nil {
			if err := w.WriteBatch(&b); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(out.Bytes(), second.Bytes()) {
			t.Fatal("captured frames were not written untouched")
		}
	})
}

func TestWriterLinkTypes(t *testing.T) {
	igmp := packet4("igmp")
	igmp[9] = 2
	icmp6 := packet6("mld")
	icmp6[6] = 58
	n := newNG(binary.LittleEndian).iface(linkRaw, 0).iface(linkEthernet, 0).iface(linkSLL, 0).iface(189, 0)
	padded := append(frame4("frame"), 0, 0, 0, 0)
	sll := cat(make([]byte, 14), be16(0x0806), make([]byte, 28))
	n.epb(0, 1, packet4("raw")).epb(0, 2, igmp).epb(0, 3, icmp6).epb(1, 4, padded).epb(2, 5, sll).epb(3, 6, []byte("usb")).epb(0, 7, nil)
	out, w := rewrite(t, n.b)
	if w.Written() != 4 || w.Skipped() != 3 {
		t.Errorf("written %d, skipped %d", w.Written(), w.Skipped())
	}
	mac := func(p []byte, to, from string, proto uint16) []byte {
		a, _ := hex.DecodeString(to)
		b, _ := hex.DecodeString(from)
		return cat(a, b, be16(proto), p)
	}
	c := read(t, out)
	for i, want := range [][]byte{
		frame4("raw"), mac(igmp, "01005e010203", "02000a630001", 0x0800), mac(icmp6, "333380000001", "020000000001", 0x86DD), padded,
	} {
		got := c.datagrams[i].Frame
		if i == 0 { // the made header has no checksum in UDP and don't fragment set, as frame4
			got = bytes.Clone(got)
		}
		if !bytes.Equal(got, want) || int(c.datagrams[i].FrameLength) != len(want) || c.datagrams[i].Time != int64(i+1)*1000 {
			t.Errorf("packet %d is %x, want %x", i, got, want)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	good := format.Datagram{Src: source4, Dst: group4, Payload: []byte("x")}
	with := func(f func(*format.Datagram)) format.Datagram {
		d := good
		f(&d)
		return d
	}
	for _, c := range []struct {
		name string
		d    format.Datagram
		want string
	}{
		{"before 1970", with(func(d *format.Datagram) { d.Time = -1 }), "1970 to 2106"},
		{"after 2106", with(func(d *format.Datagram) { d.Time = (1 << 32) * second }), "1970 to 2106"},
		{"no addresses", with(func(d *format.Datagram) { d.Src = netip.AddrPort{} }), "addresses"},
		{"two families", with(func(d *format.Datagram) { d.Src = source6 }), "addresses"},
		{"unknown interface", with(func(d *format.Datagram) { d.Interface, d.Frame = 3, frame4("x") }), "interface 3 of 1"},
		{"too large", with(func(d *format.Datagram) { d.Frame = make([]byte, format.MaxPacketSize+1) }), "limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			w, err := NewWriter(&out, func() []format.Interface { return []format.Interface{{LinkType: linkEthernet}} })
			if err != nil {
				t.Fatal(err)
			}
			before := out.Len()
			err = w.WriteBatch(&format.Batch{Datagrams: []format.Datagram{good, c.d}})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(c.want, "1970") != errors.Is(err, ErrTime) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if out.Len() != before || w.Written() != 0 {
				t.Errorf("%d bytes of a refused batch were written", out.Len()-before)
			}
			if err := w.WriteBatch(&format.Batch{Datagrams: []format.Datagram{good}}); err != nil || w.Written() != 1 {
				t.Errorf("the next batch: %v", err)
			}
		})
	}
	edge := with(func(d *format.Datagram) { d.Time = (1<<32)*second - 1 })
	w, err := NewWriter(io.Discard, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteBatch(&format.Batch{Datagrams: []format.Datagram{edge}}); err != nil {
		t.Errorf("the last nanosecond of 2106: %v", err)
	}
}

// failing fails the n-th write, half done.
type failing struct {
	n, calls int
	bytes.Buffer
}

var errDisk = errors.New("no space left on device")

func (f *failing) Write(p []byte) (int, error) {
	if f.calls++; f.calls == f.n {
		f.Buffer.Write(p[:len(p)/2])
		return len(p) / 2, errDisk
	}
	return f.Buffer.Write(p)
}

func TestWriterStopsAtAnError(t *testing.T) {
	batch := &format.Batch{Datagrams: []format.Datagram{{Src: source4, Dst: group4, Payload: []byte("payload")}}}
	for n := 1; ; n++ {
		f := &failing{n: n}
		w, err := NewWriter(f, nil)
		if n == 1 {
			if !errors.Is(err, errDisk) {
				t.Fatal(err)
			}
			continue
		}
		written := 0
		for range 5 {
			if err = w.WriteBatch(batch); err == nil {
				written++
			}
		}
		if f.calls < n {
			break
		}
		if !errors.Is(err, errDisk) || f.calls != n || uint64(written) != w.Written() || !errors.Is(w.Flush(), errDisk) {
			t.Fatalf("failure %d: %v after %d calls, %d written", n, err, f.calls, written)
		}
		c := read(t, f.Bytes())
		if len(c.datagrams) != written || len(c.damage) != 1 {
			t.Fatalf("failure %d: %d datagrams of %d, damage %v", n, len(c.datagrams), written, c.damage)
		}
	}
}

func TestWriteBatchAllocatesNothing(t *testing.T) {
	n := newNG(binary.LittleEndian).iface(linkRaw, 0).iface(linkEthernet, 0)
	igmp := packet4("igmp")
	igmp[9] = 2
	for range 100 {
		n.epb(0, 1, packet4("raw")).epb(0, 1, igmp).epb(1, 1, frame4("x"))
	}
	r := open(t, n.b)
	var b format.Batch
	if err := r.ReadBatch(&b); err != nil {
		t.Fatal(err)
	}
	calls := &failing{}
	w, err := NewWriter(io.MultiWriter(calls), r.Interfaces)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteBatch(&b); err != nil || calls.calls != 2 {
		t.Fatalf("%v, %d writes", err, calls.calls)
	}
	w.w = io.Discard
	if n := testing.AllocsPerRun(100, func() {
		if err := w.WriteBatch(&b); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}

// TestOtherToolsReadIt has tshark and tcpdump count what was written and give the
// payloads back.
func TestOtherToolsReadIt(t *testing.T) {
	n := newNG(binary.LittleEndian).iface(linkRaw, 0, (&ng{order: binary.LittleEndian}).tsresol(9)).iface(linkEthernet, 0)
	var want []string
	for i := range 50 {
		payload := strings.Repeat(string(rune('a'+i%26)), 1+i*20)
		want = append(want, hex.EncodeToString([]byte(payload)))
		switch i % 3 {
		case 0:
			n.epb(0, 1_700_000_000_000_000_000+uint64(i), packet4(payload))
		case 1:
			n.epb(0, 1_700_000_000_000_000_000+uint64(i), packet6(payload))
		default:
			n.epb(1, 1_700_000_000_000_000+uint64(i), frame4(payload))
		}
	}
	whole := frame(source4, group4, bytes.Repeat([]byte("f"), 1500))
	for _, f := range cutUp(whole, 1000, 1) {
		n.epb(1, 1_700_000_000_000_000, f)
	}
	want = append(want, strings.Repeat("66", 1500))
	out, _ := rewrite(t, n.b)
	path := filepath.Join(t.TempDir(), "out.pcap")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("tshark", func(t *testing.T) {
		lines := tool(t, "tshark", "-n", "-r", path, "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
			"-T", "fields", "-e", "udp.payload", "-e", "udp.checksum.status", "-e", "ip.checksum.status", "-e", "frame.time_epoch")
		if len(lines) != len(want) {
			t.Fatalf("%d packets, want %d", len(lines), len(want))
		}
		for i, line := range lines {
			f := strings.Split(line, "\t")
			if f[0] != want[i] {
				t.Errorf("packet %d: payload %s, want %s", i, f[0], want[i])
			}
			if f[1] == "0" || f[2] == "0" { // 0 is bad, 2 not checked
				t.Errorf("packet %d: bad checksum (UDP %s, IP %s)", i, f[1], f[2])
			}
			if !strings.HasPrefix(f[3], "1700000000.0000") {
				t.Errorf("packet %d at %s", i, f[3])
			}
		}
	})
	t.Run("tcpdump", func(t *testing.T) {
		if lines := tool(t, "tcpdump", "-n", "-r", path, "udp"); len(lines) != len(want) {
			t.Errorf("%d packets, want %d", len(lines), len(want))
		}
	})
}

// tool runs a program that reads captures and returns its lines; it skips the test
// where there is none.
func tool(t *testing.T, name string, args ...string) []string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, stderr.String())
	}
	return strings.Split(strings.TrimRight(string(out), "\n"), "\n")
}
