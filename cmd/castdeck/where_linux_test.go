package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"castdeck/format"
	"castdeck/internal/netnstest"

	"golang.org/x/sys/unix"
)

// wire sees every frame that arrives at an interface.
type wire struct {
	t  *testing.T
	fd int
}

func newWire(t *testing.T, iface string) *wire {
	t.Helper()
	i, err := net.InterfaceByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	all := uint16(unix.ETH_P_ALL)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: i.Index}),
	); err != nil {
		t.Fatal(err)
	}
	return &wire{t, fd}
}

// frames takes all that has arrived, without what the interface itself sent. Of what was
// sent before the call nothing is missing: a veth pair delivers while it is sent.
func (w *wire) frames() (all [][]byte) {
	w.t.Helper()
	b := make([]byte, 1<<17)
	for {
		n, from, err := unix.Recvfrom(w.fd, b, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return all
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype != unix.PACKET_OUTGOING {
			all = append(all, bytes.Clone(b[:n]))
		}
	}
}

// sent tells a frame's outermost IP destination, and whether it is UDP. ok is false for
// what the kernel of the other end says by itself: ICMPv6, and IGMP.
func sent(frame []byte) (dst netip.Addr, udp, ok bool) {
	at := 12
	for len(frame) > at+4 && frame[at] == 0x81 && frame[at+1] == 0 {
		at += 4
	}
	ip := frame[at+2:]
	switch {
	case binary.BigEndian.Uint16(frame[at:]) == 0x0800 && len(ip) >= 20:
		return netip.AddrFrom4([4]byte(ip[16:20])), ip[9] == 17, ip[9] != 2
	case binary.BigEndian.Uint16(frame[at:]) == 0x86DD && len(ip) >= 42:
		next := ip[6]
		if next == 0 || next == 44 {
			next = ip[40]
		}
		return netip.AddrFrom16([16]byte(ip[24:40])), next == 17, next != 58
	}
	return dst, false, true
}

// harmlessGroup is the guards' rule once more, in other words.
func harmlessGroup(a netip.Addr) bool {
	if a.Is4() {
		b := a.As4()
		return b[0] >= 224 && b[0] < 240 && !(b[0] == 224 && b[1] == 0 && b[2] < 2) && a.String() != "239.255.255.250" && a.String() != "224.2.127.254"
	}
	b := a.As16()
	return b[0] == 0xFF && b[1]&15 > 1 && !(b[1] < 16 && [11]byte(b[2:13]) == [11]byte{} && b[13] == 0 && b[14] < 2)
}

// beyond stands behind the datagrams of the hostile set, where no replay should look.
const beyond = "BEYOND THE RECORD"

// hostileTraffic are captures whose packets lie about themselves. What is sound in them
// goes to 239.1.1.1.
func hostileTraffic(t *testing.T) (paths []string) {
	t.Helper()
	dir := t.TempDir()
	udp := func(change func(ip []byte)) []byte {
		d := format.Datagram{
			Src: netip.MustParseAddrPort("10.0.0.1:4000"), Dst: netip.MustParseAddrPort("239.1.1.1:5000"), TTL: 64, Length: 7, Payload: []byte("payload"),
		}
		frame, _ := format.AppendMadeFrame(nil, &d)
		frame = append(frame, beyond...)
		if change != nil {
			change(frame[14:])
		}
		return frame
	}
	put := func(at int, v uint16) func([]byte) {
		return func(ip []byte) { binary.BigEndian.PutUint16(ip[at:], v) }
	}
	to := func(a string) func([]byte) {
		return func(ip []byte) {
			b := netip.MustParseAddr(a).As4()
			copy(ip[16:], b[:])
		}
	}
	udp6 := func(change func(ip []byte)) []byte {
		d := format.Datagram{
			Src: netip.MustParseAddrPort("[fd00::1]:4000"), Dst: netip.MustParseAddrPort("[ff15::1]:5000"), TTL: 64, Length: 7, Payload: []byte("payload"),
		}
		frame, _ := format.AppendMadeFrame(nil, &d)
		frame = append(frame, beyond...)
		change(frame[14:])
		return frame
	}
	tunnel := udp(nil)
	tunnel = append(append(append([]byte{}, tunnel[:14]...), udp(to("10.9.9.9"))[14:34]...), tunnel[14:]...)
	tunnel[14+9] = 4 // IP in IP
	binary.BigEndian.PutUint16(tunnel[14+2:], uint16(len(tunnel)-14))
	tagged := udp(to("10.9.9.9"))
	tagged = append(append(append([]byte{}, tagged[:12]...), 0x81, 0, 0, 7), tagged[12:]...)
	files := map[string][]byte{
		"udp lengths": pcapOf(udp(put(24, 0)), udp(put(24, 7)), udp(put(24, 8)), udp(put(24, 16)), udp(put(24, 60)), udp(put(24, 65535)), udp(nil)),
		"ip lengths":  pcapOf(udp(put(2, 0)), udp(put(2, 19)), udp(put(2, 27)), udp(put(2, 36)), udp(put(2, 60)), udp(put(2, 65535)), udp(nil)),
		"headers":     pcapOf(udp(func(ip []byte) { ip[0] = 0x4F }), udp(func(ip []byte) { ip[0] = 0x41 }), udp(func(ip []byte) { ip[0] = 0x65 }), udp(nil)),
		"fragments": pcapOf(udp(put(6, 0x3FFF)), udp(put(6, 0x1FFF)), udp(put(6, 0x2000)), udp(put(6, 1)),
			udp(func(ip []byte) { put(6, 1)(ip); to("10.9.9.9")(ip) })),
		"hosts":   pcapOf(udp(to("10.9.9.9")), udp(to("255.255.255.255")), udp(to("0.0.0.0")), udp(nil)),
		"control": pcapOf(udp(nil), udp(to("224.0.0.5")), udp(to("224.0.1.129"))),
		"tunnel":  pcapOf(tunnel, udp(nil)),
		"tagged":  pcapOf(tagged, udp(nil)),
		"ipv6": pcapOf(udp6(put(4, 65535)), udp6(put(4, 0)), udp6(put(44, 65535)), udp6(func(ip []byte) { ip[6] = 43 }), udp6(func(ip []byte) { ip[6] = 44 }),
			udp6(func(ip []byte) { copy(ip[24:], "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x09\x09\x09") })),
		"short":         pcapOf(udp(nil)[:20], udp(nil)[:34], udp(nil)[:41], udp(nil)[:45], []byte{1, 2, 3}),
		"not udp":       pcapOf(udp(func(ip []byte) { ip[9] = 2 }), udp(func(ip []byte) { ip[9] = 6 }), append(udp(nil)[:12], 0x08, 0x06, 1, 2, 3, 4), append([]byte{1, 0x80, 0xC2, 0, 0, 0}, udp(nil)[6:]...)),
		"times":         append(append(pcapOf(udp(nil)), pcapRecord(1, uint32(len(udp(nil))), udp(nil))...), pcapRecord(0xFFFFFFFF, uint32(len(udp(nil))), udp(nil))...),
		"cut in record": pcapOf(udp(nil), udp(nil))[:24+16+len(udp(nil))+16+30],
	}
	for name, content := range files {
		path := filepath.Join(dir, name+".pcap")
		makeFile(t, path, func(w io.Writer) error { _, err := w.Write(content); return err })
		paths = append(paths, path)
	}
	return paths
}

// TestGuardsHold replays every real capture and a hostile set, as payloads and as
// frames, with no permission but for one group: nothing else is seen on the wire.
func TestGuardsHold(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	w := newWire(t, rx)
	paths := hostileTraffic(t)
	hostile := len(paths)
	if _, err := os.Stat(captures); err != nil {
		t.Logf("no real captures: %v", err)
	} else {
		for _, row := range readWholeIndex(t) {
			paths = append(paths, filepath.Join(captures, row.path))
		}
	}
	modes := [][]string{nil, {"--raw"}, {"--map", "*=239.99.0.1:5000"}, {"--raw", "--map", "239.0.0.0/8=238.0.0.0/8"}}
	if testing.Short() {
		modes = modes[:2]
	}
	seen, refused := 0, 0
	for i, path := range paths {
		for _, mode := range modes {
			what := fmt.Sprintf("%s %v", filepath.Base(path), mode)
			args := append([]string{"replay", path, "-i", tx, "--speed", "max"}, mode...)
			var out, talk bytes.Buffer
			w.frames()
			code := run(t.Context(), args, nil, &out, &talk)
			if code == exitUsage || strings.Contains(talk.String(), "goroutine") {
				t.Errorf("%s: exit code %d: %s", what, code, talk.Bytes())
			}
			n := 0
			for _, f := range w.frames() {
				dst, udp, ours := sent(f)
				if !ours {
					continue
				}
				n++
				switch {
				case !udp || !harmlessGroup(dst):
					t.Errorf("%s: a frame left for %s: %.60x", what, dst, f)
				case len(mode) == 2 && dst.String() != "239.99.0.1":
					t.Errorf("%s: a frame left for %s", what, dst)
				case len(mode) == 3 && dst.Is4() && dst.As4()[0] == 239:
					t.Errorf("%s: a frame left for %s, which is mapped", what, dst)
				}
				if mac := format.MulticastMAC(dst); !bytes.Equal(f[:6], mac[:]) {
					t.Errorf("%s: a frame for %s left to %x", what, dst, f[:6])
				}
				raw := len(mode) > 0 && mode[0] == "--raw"
				if i < hostile && !raw && bytes.Contains(f, []byte(beyond[:12])) {
					t.Errorf("%s: bytes behind a datagram left: %q", what, f)
				}
			}
			if code == exitGuard {
				refused++
				if n != 0 {
					t.Errorf("%s: %d frames left before it was refused: %s", what, n, talk.Bytes())
				}
			}
			seen += n
		}
	}
	if seen == 0 || refused == 0 {
		t.Errorf("%d frames seen, %d replays refused: that proves nothing", seen, refused)
	}
	t.Logf("%d captures, %d of them hostile, in %d ways: %d frames left, %d replays were refused", len(paths), hostile, len(modes), seen, refused)
}

// sizes is a capture of datagrams from the empty to the longest one, tagged and not.
func sizes(t *testing.T) string {
	var frames [][]byte
	for i, n := range []int{0, 1, 1472, 1473, 9000, format.MaxPayloadIPv4, 0, 7} {
		d := format.Datagram{
			Src: netip.MustParseAddrPort("10.0.0.1:4000"), Dst: netip.MustParseAddrPort("239.1.1.1:5000"), TTL: 64,
			Length: uint32(n), Payload: bytes.Repeat([]byte{byte(i)}, n),
		}
		if i%2 == 1 {
			d.Src, d.Dst = netip.MustParseAddrPort("[fd00::1]:4000"), netip.MustParseAddrPort("[ff15::1]:5000")
		}
		frame, _ := format.AppendMadeFrame(nil, &d)
		tagged := append(append(bytes.Clone(frame[:12]), 0x81, 0, 0, 7), frame[12:]...)
		frames = append(frames, frame, tagged)
	}
	path := filepath.Join(t.TempDir(), "sizes.pcap")
	makeFile(t, path, func(w io.Writer) error { _, err := w.Write(pcapOf(frames...)); return err })
	return path
}

// TestEverythingArrives: every datagram of every real capture, whatever it was recorded
// for, arrives at one group: once, in order, byte for byte.
func TestEverythingArrives(t *testing.T) {
	tx, rx := netnstest.Veth(t)
	group := netip.MustParseAddrPort("239.99.0.1:5000")
	i, err := net.InterfaceByName(rx)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 512<<20),
		unix.Bind(fd, &unix.SockaddrInet4{Port: 5000, Addr: group.Addr().As4()}),
		unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.Addr().As4(), Ifindex: int32(i.Index)}),
	); err != nil {
		t.Fatal(err)
	}
	paths := []string{sizes(t)}
	for _, row := range readWholeIndex(t) {
		paths = append(paths, filepath.Join(captures, row.path))
	}
	b := make([]byte, 1<<16)
	all, empty, largest := 0, 0, 0
	for _, path := range paths {
		in, err := openInput(path)
		if err != nil {
			continue // no capture: TestGuardsHold has it
		}
		var want []string
		err = in.each(func(b *format.Batch) error {
			for i := range b.Datagrams {
				d := &b.Datagrams[i]
				if d.Flags&(format.FlagNotUDP|format.FlagTruncated) == 0 && len(d.Payload) <= format.MaxPayloadIPv4 {
					want = append(want, string(d.Payload))
				}
			}
			return nil
		}, func(error) {})
		in.Close()
		if err != nil {
			t.Fatal(err)
		}
		var out, talk bytes.Buffer
		if code := run(t.Context(), []string{"replay", path, "-i", tx, "--speed", "max", "--map", "*=" + group.String()}, nil, &out, &talk); code != exitOK && code != exitLossy {
			t.Errorf("%s: exit code %d: %s", path, code, talk.Bytes())
		}
		for n := 0; ; n++ {
			size, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
			if err != nil {
				if n != len(want) {
					t.Errorf("%s: %d datagrams arrived of %d: %s", path, n, len(want), talk.Bytes())
				}
				break
			}
			if n < len(want) && string(b[:size]) != want[n] {
				t.Errorf("%s: datagram %d: %d bytes arrived, want %d, or others", path, n, size, len(want[n]))
			}
			all++
			largest = max(largest, size)
			if size == 0 {
				empty++
			}
		}
	}
	if empty == 0 || largest != format.MaxPayloadIPv4 {
		t.Errorf("%d empty datagrams, the largest of %d bytes", empty, largest)
	}
	t.Logf("%d captures, %d datagrams, %d of them empty, the largest of %d bytes", len(paths), all, empty, largest)
}
