package pcapfile

import (
	"bytes"
	"io"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"castdeck/format"
)

// TestAgainstGopacket compares, over every real capture, the datagrams that we find
// in Ethernet frames with those of gopacket's full decoding of the same frames:
// addresses, times and payloads of each stream. The frames are ours (TestCaptures
// compares their number with other tools); fragments are compared by themselves, as
// neither side's Decoder joins them.
func TestAgainstGopacket(t *testing.T) {
	frames := 0
	for _, row := range captureIndex(t) {
		if _, ok := refused[row.path]; ok {
			continue
		}
		t.Run(row.path, func(t *testing.T) {
			r, err := Open(filepath.Join(captureRoot, row.path))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, want := digests{}, digests{}
			c := readAll(t, r)
			for i := range c.datagrams {
				d := &c.datagrams[i]
				if d.Frame == nil || c.ifaces[d.Interface].LinkType != linkEthernet {
					continue
				}
				frames++
				if d.Flags&format.FlagNotUDP == 0 {
					got.add(stream{d.Src, d.Dst}, d.Time, d.Payload)
				}
				if s, payload, ok := gopacketDatagram(d); ok {
					want.add(s, d.Time, payload)
				}
			}
			got.compare(t, want)
		})
	}
	if frames < 20_000 && !t.Failed() {
		t.Errorf("only %d frames were compared", frames)
	}
}

// gopacketDatagram finds the outermost UDP datagram as gopacket decodes it. What
// gopacket lets pass and no receiver would is left out: a datagram or an IP packet
// that states more bytes than were on the wire, and a UDP length of 0.
func gopacketDatagram(d *format.Datagram) (s stream, payload []byte, ok bool) {
	p := gopacket.NewPacket(bytes.Clone(d.Frame), layers.LayerTypeEthernet, gopacket.NoCopy)
	var src, dst netip.Addr
	var room int
	for _, layer := range p.Layers() {
		switch l := layer.(type) {
		case *layers.IPv4:
			src, _ = netip.AddrFromSlice(l.SrcIP.To4())
			dst, _ = netip.AddrFromSlice(l.DstIP.To4())
			room = int(l.Length) - len(l.Contents)
			if before := offsetOf(d.Frame, p, layer); before+int(l.Length) > int(d.FrameLength) {
				return s, nil, false
			}
		case *layers.IPv6:
			src, _ = netip.AddrFromSlice(l.SrcIP.To16())
			dst, _ = netip.AddrFromSlice(l.DstIP.To16())
			room = int(l.Length)
			if before := offsetOf(d.Frame, p, layer); before+40+int(l.Length) > int(d.FrameLength) {
				return s, nil, false
			}
		case *layers.UDP:
			if int(l.Length) < 8 || int(l.Length) > room {
				return s, nil, false
			}
			return stream{netip.AddrPortFrom(src, uint16(l.SrcPort)), netip.AddrPortFrom(dst, uint16(l.DstPort))}, l.Payload, true
		case *layers.TCP, *layers.GRE, *layers.ICMPv4, *layers.ICMPv6, *layers.MPLS, *layers.PPPoE:
			return s, nil, false
		}
	}
	return s, nil, false
}

// offsetOf is where a layer starts in the frame.
func offsetOf(frame []byte, p gopacket.Packet, of gopacket.Layer) (n int) {
	for _, l := range p.Layers() {
		if l == of {
			return n
		}
		n += len(l.LayerContents())
	}
	return n
}

// TestCapturesRewritten writes every real capture as classic pcap and reads it
// again: every datagram, its time and addresses.
func TestCapturesRewritten(t *testing.T) {
	for _, row := range captureIndex(t) {
		if _, ok := refused[row.path]; ok {
			continue
		}
		t.Run(row.path, func(t *testing.T) {
			r, err := Open(filepath.Join(captureRoot, row.path))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			want := readAll(t, r)
			var out bytes.Buffer
			w, err := NewWriter(&out, func() []format.Interface { return want.ifaces })
			if err != nil {
				t.Fatal(err)
			}
			if err := w.WriteBatch(&format.Batch{Datagrams: want.datagrams}); err != nil {
				t.Fatal(err)
			}
			again, err := NewReader(&out, "written")
			if err != nil {
				t.Fatal(err)
			}
			got := readAll(t, again)
			a, b := digests{}, digests{}
			for _, d := range got.datagrams {
				if d.Flags&format.FlagNotUDP == 0 {
					a.add(stream{d.Src, d.Dst}, d.Time, d.Payload)
				}
			}
			for _, d := range want.datagrams {
				if d.Flags&format.FlagNotUDP == 0 {
					b.add(stream{d.Src, d.Dst}, d.Time, d.Payload)
				}
			}
			a.compare(t, b)
			if n := uint64(len(want.datagrams)); w.Written()+w.Skipped() != n || uint64(len(got.datagrams))+got.counts.Joined-got.counts.Reassembled != w.Written() {
				t.Errorf("%d packets: %d written, %d skipped, %d read", n, w.Written(), w.Skipped(), len(got.datagrams))
			}
			if len(got.damage) != 0 {
				t.Error(got.damage)
			}
			if err := again.ReadBatch(&format.Batch{}); err != io.EOF {
				t.Error(err)
			}
		})
	}
}
