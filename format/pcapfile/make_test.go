package pcapfile

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"testing"

	"castdeck/format"
)

// TestFrameMaker: a made frame of each link type decodes to the datagram it was
// made for.
func TestFrameMaker(t *testing.T) {
	four := [2]netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("239.1.1.1:5000")}
	six := [2]netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:40000"), netip.MustParseAddrPort("[ff3e::1]:5000")}
	for _, c := range []struct {
		link  uint16
		pairs [][2]netip.AddrPort
	}{
		{linkRaw, [][2]netip.AddrPort{four, six}},
		{linkRawBSD, [][2]netip.AddrPort{four, six}},
		{linkRawOpen, [][2]netip.AddrPort{four, six}},
		{linkIPv4, [][2]netip.AddrPort{four}},
		{linkIPv6, [][2]netip.AddrPort{six}},
		{linkNull, [][2]netip.AddrPort{four, six}},
		{linkLoop, [][2]netip.AddrPort{four, six}},
		{linkPPP, [][2]netip.AddrPort{four, six}},
		{linkPPPHDLC, [][2]netip.AddrPort{four, six}},
		{linkCHDLC, [][2]netip.AddrPort{four, six}},
		{linkSLL, [][2]netip.AddrPort{four, six}},
		{linkSLL2, [][2]netip.AddrPort{four, six}},
	} {
		m := NewFrameMaker(func() []format.Interface { return []format.Interface{{LinkType: c.link}} })
		var b format.Batch
		for _, p := range c.pairs {
			for _, payload := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("long"), 16000)} {
				b.Datagrams = append(b.Datagrams,
					format.Datagram{Src: p[0], Dst: p[1], TTL: 7, Length: uint32(len(payload)), Payload: payload},
					format.Datagram{Src: p[0], Dst: p[1], TTL: 7, Length: uint32(len(payload)) + 5, Payload: payload, Flags: format.FlagTruncated})
			}
		}
		if err := m.Convert(&b); err != nil {
			t.Fatalf("link type %d: %v", c.link, err)
		}
		for i := range b.Datagrams {
			want := &b.Datagrams[i]
			got := format.Datagram{Frame: want.Frame, FrameLength: want.FrameLength}
			NewDecoder().Decode(c.link, &got)
			if got.Src != want.Src || got.Dst != want.Dst || got.TTL != 7 || got.Length != want.Length ||
				got.Flags != want.Flags || !bytes.Equal(got.Payload, want.Payload) {
				t.Errorf("link type %d, datagram %d: %v > %v, length %d, %v; want %v > %v, length %d, %v",
					c.link, i, got.Src, got.Dst, got.Length, got.Flags, want.Src, want.Dst, want.Length, want.Flags)
			}
		}
	}
}

func TestFrameMakerKeeps(t *testing.T) {
	own := []byte("captured")
	list := []format.Interface{{LinkType: linkSLL}, {LinkType: linkEthernet}, {LinkType: linkRadiotap}, {LinkType: linkIPv6}}
	m := NewFrameMaker(func() []format.Interface { return list })
	a, g := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("239.1.1.1:2")
	b := format.Batch{Datagrams: []format.Datagram{{Src: a, Dst: g, Frame: own, FrameLength: 9}, {Src: a, Dst: g, Interface: 1}}}
	if err := m.Convert(&b); err != nil {
		t.Fatal(err)
	}
	if d := b.Datagrams[0]; &d.Frame[0] != &own[0] || d.FrameLength != 9 {
		t.Error("a captured frame was replaced")
	}
	if b.Datagrams[1].Frame != nil {
		t.Error("a frame was made for Ethernet, which writers do themselves")
	}
	for ifc := uint16(2); ifc < 4; ifc++ {
		b.Datagrams = []format.Datagram{{Src: a, Dst: g, Interface: ifc}}
		if err := m.Convert(&b); err == nil {
			t.Errorf("link type %d: a frame was made", list[ifc].LinkType)
		}
	}
}

// TestLinkWriter: frames of another link type come back as they were, and one that
// is missing is an error that leaves the file readable.
func TestLinkWriter(t *testing.T) {
	var file bytes.Buffer
	w, err := NewLinkWriter(&file, linkRaw)
	if err != nil {
		t.Fatal(err)
	}
	d := format.Datagram{Time: 5, Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("239.1.1.1:2"), Length: 3, Payload: []byte("abc")}
	frame, wire, err := appendMade(nil, linkRaw, &d)
	if err != nil {
		t.Fatal(err)
	}
	bare := d
	d.Frame, d.FrameLength = frame, uint32(wire)
	if err := w.WriteBatch(&format.Batch{Datagrams: []format.Datagram{d}}); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteBatch(&format.Batch{Datagrams: []format.Datagram{d, bare}}); err == nil {
		t.Error("a datagram without a frame was written")
	}
	r, err := NewReader(&file, "file")
	if err != nil {
		t.Fatal(err)
	}
	var b format.Batch
	if err := r.ReadBatch(&b); err != nil {
		t.Fatal(err)
	}
	if r.Interfaces()[0].LinkType != linkRaw || len(b.Datagrams) != 1 || !bytes.Equal(b.Datagrams[0].Frame, frame) || b.Datagrams[0].Dst != d.Dst {
		t.Errorf("%+v, %+v", r.Interfaces(), b.Datagrams)
	}
	if err := r.ReadBatch(&b); !errors.Is(err, io.EOF) {
		t.Errorf("then %v", err)
	}
}
