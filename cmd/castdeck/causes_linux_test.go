package main

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"castdeck/internal/hoststat"
	"castdeck/internal/netns"
	"castdeck/internal/netnstest"
)

// rawUDP is an IPv4 packet with one UDP datagram, or a part of one: offset in bytes,
// more says that fragments follow.
func rawUDP(src, dst netip.AddrPort, payload []byte, checksum uint16, offset int, more bool) []byte {
	udp := binary.BigEndian.AppendUint16(nil, src.Port())
	udp = binary.BigEndian.AppendUint16(udp, dst.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(binary.BigEndian.AppendUint16(udp, checksum), payload...)
	fragment := uint16(offset / 8)
	if more {
		fragment |= 1 << 13
	}
	ip := []byte{0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 1, 17, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(udp)))
	binary.BigEndian.PutUint16(ip[6:], fragment)
	s, d := src.Addr().As4(), dst.Addr().As4()
	ip = append(append(ip, s[:]...), d[:]...)
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum%0xFFFF)) // RFC 1071
	return append(ip, udp...)
}

// injector sends IPv4 packets out of tx as they are.
func injector(t *testing.T, tx string) (send func(p []byte)) {
	t.Helper()
	dev, err := net.InterfaceByName(tx)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(p []byte) {
		to := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: dev.Index, Halen: 6}
		copy(to.Addr[:], []byte{0x01, 0x00, 0x5E, p[17] & 0x7F, p[18], p[19]})
		if err := unix.Sendto(fd, p, 0, to); err != nil {
			t.Fatal(err)
		}
	}
}

// backToLosses is the inverse of toHostJSON, as far as hostLines needs it.
func backToLosses(j *hostJSON) *hoststat.Losses {
	return &hoststat.Losses{BadChecksums: j.BadChecksums, Reassembly: j.Reassembly, ReversePath: j.ReversePath, Softnet: j.Softnet}
}

// TestLossByCause provokes each loss that happens before a socket, and one datagram that
// arrives: each shows under its cause, and only there.
func TestLossByCause(t *testing.T) {
	src, group := netip.MustParseAddrPort("10.99.0.1:7000"), netip.MustParseAddrPort("239.6.8.1:6002")
	const n = 50
	for _, c := range []struct {
		why  string
		prep func(rx string) error
		send func(send func([]byte))
		got  func(h *hostJSON) uint64
		says string
	}{
		{"wrong checksum", nil, func(send func([]byte)) {
			for range n {
				send(rawUDP(src, group, []byte("hello!"), 0x1234, 0, false))
			}
		}, func(h *hostJSON) uint64 { return h.BadChecksums }, "50 datagrams with a wrong UDP checksum"},
		{"rp_filter", func(rx string) error { return netns.SetSysctl("net/ipv4/conf/"+rx+"/rp_filter", "1") }, func(send func([]byte)) {
			for range n {
				send(rawUDP(src, group, []byte("hello!"), 0, 0, false))
			}
		}, func(h *hostJSON) uint64 { return h.ReversePath }, "50 packets refused by rp_filter"},
		{"reassembly", nil, func(send func([]byte)) {
			// Two fragments that overlap are given up (RFC 5722 for IPv6, and Linux for both).
			for range n {
				send(rawUDP(src, group, make([]byte, 8), 0, 0, true))
				send(rawUDP(src, group, make([]byte, 8), 0, 8, true))
			}
		}, func(h *hostJSON) uint64 { return h.Reassembly }, "50 datagrams in fragments that could not be put together"},
	} {
		t.Run(c.why, func(t *testing.T) {
			tx, rx := netnstest.Veth(t)
			if c.prep != nil {
				if err := c.prep(rx); err != nil {
					t.Fatal(err)
				}
			}
			for _, fail := range []bool{false, true} {
				args := []string{"--silence", "0", "-i", rx}
				if fail {
					args = append(args, "--fail-on-loss")
				}
				p := startRecorder(t, group, args...)
				c.send(injector(t, tx))
				s, code := p.finish(t)
				if got := c.got(s.Host); got != n {
					t.Errorf("%d counted, want %d: %+v", got, n, s.Host)
				}
				rest := *s.Host
				rest.Interfaces = nil
				sum := rest.BadChecksums + rest.FullBuffers + rest.NoMemory + rest.Reassembly + rest.ReversePath + rest.Softnet
				if sum != c.got(s.Host) {
					t.Errorf("other causes: %+v", rest)
				}
				// The socket's own counter holds some of those with a wrong checksum, or none.
				if s.Datagrams != 0 || s.Dropped.KernelChecksum != s.Dropped.Kernel || s.Dropped.Kernel > s.Host.BadChecksums {
					t.Errorf("%d recorded, %+v", s.Datagrams, s.Dropped)
				}
				if want := map[bool]int{false: exitOK, true: exitLossy}[fail || s.Dropped.Kernel > 0]; code != want {
					t.Errorf("--fail-on-loss %v: exit code %d, want %d", fail, code, want)
				}
				in, err := openFile(inputOptions{}, p.path)
				if err != nil {
					t.Fatal(err)
				}
				sum1, err := in.summarize(true)
				in.Close()
				if err != nil || len(sum1.events) == 0 || !strings.Contains(sum1.events[len(sum1.events)-1].Text, rx+": errors 0") {
					t.Errorf("the recording's events: %+v, %v", sum1.events, err)
				}
				if lines := strings.Join(hostLines(backToLosses(s.Host)), "\n"); !strings.Contains(lines, c.says) {
					t.Errorf("%q is not in %q", c.says, lines)
				}
				os.Remove(p.path)
			}
		})
	}
}
