package format

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

func datagram(src, dst string, size int) *Datagram {
	return &Datagram{
		Time: 1_700_000_000_123_456_789, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst),
		TTL: 7, Length: uint32(size), Payload: bytes.Repeat([]byte{0xA5}, size),
	}
}

var madeCases = []struct {
	why      string
	src, dst string
	size     int
}{
	{"a usual one", "10.0.0.1:4000", "239.1.2.3:5000", 200},
	{"empty payload is legal", "10.0.0.1:4000", "239.1.2.3:5000", 0},
	{"odd length: checksum padding", "10.0.0.1:4000", "239.1.2.3:5000", 1},
	{"group above 239.127: its 24th bit is not in the MAC", "10.0.0.1:4000", "239.255.2.3:5000", 64},
	{"longest on IPv4", "10.0.0.1:4000", "239.1.2.3:5000", MaxPayloadIPv4},
	{"unicast", "10.0.0.1:4000", "10.0.0.2:5000", 64},
	{"broadcast", "10.0.0.1:4000", "255.255.255.255:5000", 64},
	{"IPv6", "[fe80::1]:4000", "[ff3e::8000:1]:5000", 200},
	{"IPv6, odd length", "[fe80::1]:4000", "[ff3e::8000:1]:5000", 199},
	{"IPv6, empty", "[fe80::1]:4000", "[ff3e::8000:1]:5000", 0},
	{"longest on IPv6", "[fe80::1]:4000", "[ff02::1]:5000", MaxPayload},
}

// TestMadeFrame holds made frames against gopacket, which recomputes every
// checksum and length.
func TestMadeFrame(t *testing.T) {
	for _, tc := range madeCases {
		t.Run(tc.why, func(t *testing.T) {
			d := datagram(tc.src, tc.dst, tc.size)
			frame, wire := AppendMadeFrame(nil, d)
			if wire != len(frame) || wire != MadeHeaderSize(d.Dst.Addr())+tc.size {
				t.Fatalf("%d bytes, %d on the wire", len(frame), wire)
			}
			p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
			if e := p.ErrorLayer(); e != nil {
				t.Fatal(e.Error())
			}
			eth := p.LinkLayer().(*layers.Ethernet)
			if mac := MulticastMAC(d.Dst.Addr()); !bytes.Equal(eth.DstMAC, mac[:]) {
				t.Errorf("destination MAC %v", eth.DstMAC)
			}
			udp := p.TransportLayer().(*layers.UDP)
			var network gopacket.SerializableLayer
			if ip4, ok := p.NetworkLayer().(*layers.IPv4); ok {
				network = ip4
				if udp.Checksum != 0 {
					t.Error("a UDP checksum on IPv4")
				}
			} else {
				ip6 := p.NetworkLayer().(*layers.IPv6)
				udp.SetNetworkLayerForChecksum(ip6)
				network = ip6
			}
			buf := gopacket.NewSerializeBuffer()
			o := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: d.Dst.Addr().Is6()}
			parts := []gopacket.SerializableLayer{eth, network, udp, gopacket.Payload(d.Payload)}
			if d.Dst.Addr().Is4() {
				// gopacket would compute the UDP checksum too, so only the header here.
				o.ComputeChecksums = true
				parts = parts[:2]
				o.FixLengths = false
			}
			if err := gopacket.SerializeLayers(buf, o, parts...); err != nil {
				t.Fatal(err)
			}
			// gopacket pads short frames, and without UDP it ends after the IP header.
			compared := len(frame)
			if d.Dst.Addr().Is4() {
				compared = ethernetHeader + ipv4Header
			}
			if got := buf.Bytes()[:compared]; !bytes.Equal(got, frame[:compared]) {
				t.Errorf("gopacket would write\n%x\nthis is\n%x", got[:min(len(got), 70)], frame[:min(len(frame), 70)])
			}
			back := Datagram{Frame: frame, FrameLength: uint32(wire)}
			if !DecodePlain(&back) {
				t.Fatal("the fast path does not take a made frame")
			}
			if back.Src != d.Src || back.Dst != d.Dst || back.TTL != d.TTL || back.Length != d.Length || !bytes.Equal(back.Payload, d.Payload) {
				t.Errorf("decoded as %v > %v ttl %d length %d", back.Src, back.Dst, back.TTL, back.Length)
			}
		})
	}
}

func TestMadeFrameTruncated(t *testing.T) {
	for _, dst := range []string{"239.1.2.3:5000", "[ff3e::1]:5000"} {
		src := "10.0.0.1:4000"
		if dst[0] == '[' {
			src = "[fe80::1]:4000"
		}
		d := datagram(src, dst, 100)
		d.Payload = d.Payload[:60]
		frame, wire := AppendMadeFrame(nil, d)
		if wire-len(frame) != 40 {
			t.Fatalf("%d bytes of %d", len(frame), wire)
		}
		back := Datagram{Frame: frame, FrameLength: uint32(wire)}
		if !DecodePlain(&back) || back.Flags != FlagTruncated || back.Length != 100 || len(back.Payload) != 60 {
			t.Errorf("decoded as %+v", back)
		}
	}
}

// TestDecodePlainRefuses: whatever the fast path is not sure of goes to the slow one.
func TestDecodePlainRefuses(t *testing.T) {
	good, wire := AppendMadeFrame(nil, datagram("10.0.0.1:4000", "239.1.2.3:5000", 20))
	good6, wire6 := AppendMadeFrame(nil, datagram("[fe80::1]:4000", "[ff3e::1]:5000", 20))
	for _, tc := range []struct {
		why   string
		frame []byte
		wire  int
		at    int
		value byte
	}{
		{"VLAN tag", good, wire, 12, 0x81},
		{"header options", good, wire, 14, 0x46},
		{"TCP", good, wire, 23, 6},
		{"fragment", good, wire, 20, 0x20},
		{"later fragment", good, wire, 21, 0x01},
		{"UDP longer than IP", good, wire, 39, 29},
		{"UDP shorter than its header", good, wire, 39, 7},
		{"IPv6 extension header", good6, wire6, 20, 0},
		{"IPv6 with version 4", good6, wire6, 14, 0x45},
		{"IPv6 lengths disagree", good6, wire6, 19, 29},
		{"frame shorter than its headers say", good[:50], 50, 0, 1},
		{"headers state more than was on the wire", good[:61], 61, 0, 1},
		{"too short for any header", good[:41], 41, 0, 1},
	} {
		f := bytes.Clone(tc.frame)
		f[tc.at] = tc.value
		d := Datagram{Frame: f, FrameLength: uint32(tc.wire)}
		if DecodePlain(&d) {
			t.Errorf("%s: taken as %+v", tc.why, d)
		}
		if d.Payload != nil || d.Dst.IsValid() || d.Flags != 0 {
			t.Errorf("%s: refused, but changed to %+v", tc.why, d)
		}
	}
	// Ethernet pads short frames to 60 bytes: the payload is what UDP says.
	padded := append(bytes.Clone(good[:42]), make([]byte, 30)...)
	short, _ := AppendMadeFrame(nil, datagram("10.0.0.1:4000", "239.1.2.3:5000", 3))
	copy(padded, short)
	d := Datagram{Frame: padded, FrameLength: uint32(len(padded))}
	if !DecodePlain(&d) || len(d.Payload) != 3 {
		t.Errorf("padded frame: payload of %d bytes", len(d.Payload))
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	d := datagram("10.0.0.1:4000", "239.1.2.3:5000", 200)
	buf := make([]byte, 0, 4096)
	var e EPB
	back := Datagram{}
	if n := testing.AllocsPerRun(100, func() {
		buf = AppendEPB(buf[:0], d)
		_, body, _, _, err := NextBlock(buf, false)
		if err != nil || ParseEPB(body, false, &e) != nil {
			t.Fatal(err)
		}
		back = Datagram{Frame: e.Data, FrameLength: e.Original}
		if !DecodePlain(&back) {
			t.Fatal("not decoded")
		}
	}); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
	var tally Tally
	b := &Batch{Datagrams: []Datagram{*d, *d}}
	tally.Add(b)
	if n := testing.AllocsPerRun(100, func() { tally.Add(b) }); n != 0 {
		t.Errorf("tally: %.0f allocations", n)
	}
	slab := NewBatch(4, 1024)
	if n := testing.AllocsPerRun(100, func() {
		slab.Reset()
		for range 2 {
			if !slab.Append(d) {
				t.Fatal("no room")
			}
		}
	}); n != 0 {
		t.Errorf("batch: %.0f allocations", n)
	}
}

func BenchmarkAppendEPB(b *testing.B) {
	d := datagram("10.0.0.1:4000", "239.1.2.3:5000", 200)
	buf := make([]byte, 0, 4096)
	b.SetBytes(200)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendEPB(buf[:0], d)
	}
}

func BenchmarkDecodePlain(b *testing.B) {
	frame, wire := AppendMadeFrame(nil, datagram("10.0.0.1:4000", "239.1.2.3:5000", 200))
	d := Datagram{Frame: frame, FrameLength: uint32(wire)}
	b.ReportAllocs()
	for b.Loop() {
		if !DecodePlain(&d) {
			b.Fatal("refused")
		}
	}
}
