package pcapfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"castdeck/format"
)

// seedCaptures adds the small real captures; it fails where there is a folder of
// them and none is found.
func seedCaptures(f *testing.F, add func([]byte)) {
	if _, err := os.Stat(captureRoot); err != nil {
		return // the seeds made here have to do
	}
	n := 0
	for _, row := range captureIndex(f) {
		path := filepath.Join(captureRoot, row.path)
		if info, err := os.Stat(path); err != nil || info.Size() > 4096 {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		add(data)
		n++
	}
	if n < 50 {
		f.Fatalf("%d small captures in %s", n, captureRoot)
	}
}

// FuzzReader: whatever the file, no panic, an end, counts that add up, and all
// that is delivered within bounds.
func FuzzReader(f *testing.F) {
	some := flow(5)
	n := newNG(binary.BigEndian).iface(linkEthernet, 0, []byte{0, 9, 0, 1, 9, 0, 0, 0}).iface(linkRaw, 60)
	n.epb(0, 1, frame4("x")).oldPacket(1, 2, 3, packet6("y")).spb(60, frame4("z")).isb(0, 4, 5, 6)
	n.order = binary.LittleEndian
	n.section().iface(linkSLL, 0).epb(0, 1, nil)
	f.Add(n.b)
	for _, magic := range []uint32{magicMicro, magicNano, magicModified} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			f.Add(pcapKind{magic: magic, order: order, link: linkEthernet}.file(some...))
		}
	}
	f.Add(captureOf(cutUp(frame(source4, group4, make([]byte, 100)), 40, 1)...))
	f.Add(gzipped(f, littleMicro.file(some...)))
	f.Add(zstandard(f, littleMicro.file(some...)))
	f.Add(lz4ed(f, littleMicro.file(some...)))
	seedCaptures(f, func(b []byte) { f.Add(b) })
	f.Fuzz(checkCapture)
}

// FuzzClassic and FuzzPcapng begin with a sound header, so that all that the fuzzer
// does reaches the records behind it.
func FuzzClassic(f *testing.F) {
	magics := []uint32{magicMicro, magicNano, magicModified}
	for kind := range uint8(6) {
		f.Add(kind, uint16(linkEthernet), pcapKind{magic: magics[kind>>1], order: binary.LittleEndian}.file(flow(3)...)[pcapFileHeader:])
	}
	seedCaptures(f, func(b []byte) {
		if len(b) > pcapFileHeader && binary.LittleEndian.Uint32(b) == magicMicro {
			f.Add(uint8(0), binary.LittleEndian.Uint16(b[20:]), b[pcapFileHeader:])
		}
	})
	f.Fuzz(func(t *testing.T, kind uint8, link uint16, records []byte) {
		k := pcapKind{magic: magics[int(kind>>1)%len(magics)], order: binary.LittleEndian, link: uint32(link), snapLen: uint32(kind >> 4)}
		if kind&1 != 0 {
			k.order = binary.BigEndian
		}
		checkCapture(t, append(k.header(), records...))
	})
}

func FuzzPcapng(f *testing.F) {
	n := newNG(binary.LittleEndian).iface(linkEthernet, 0)
	head := len(n.b)
	n.epb(0, 1, frame4("x")).oldPacket(0, 2, 3, frame4("y")).spb(60, frame4("z")).isb(0, 4, 5, 6)
	f.Add(false, n.b[head:])
	seedCaptures(f, func(b []byte) {
		if len(b) > 28 && binary.LittleEndian.Uint32(b) == format.BlockSHB {
			f.Add(b[8] == 0x1A, b[28:])
		}
	})
	f.Fuzz(func(t *testing.T, big bool, blocks []byte) {
		n := newNG(binary.LittleEndian)
		if big {
			n = newNG(binary.BigEndian)
		}
		checkCapture(t, append(n.iface(linkEthernet, 0).b, blocks...))
	})
}

// FuzzWriter: what is written is read as the same datagrams.
func FuzzWriter(f *testing.F) {
	f.Add(int64(1_700_000_000_123_456_789), []byte("payload"), uint16(0), false, uint8(3))
	f.Add(int64(0), []byte{}, uint16(9), true, uint8(1))
	f.Fuzz(func(t *testing.T, at int64, payload []byte, lost uint16, six bool, n uint8) {
		if len(payload)+int(lost) > 60000 {
			return
		}
		d := format.Datagram{Time: at, Src: source4, Dst: group4, TTL: 9, Payload: payload, Length: uint32(len(payload)) + uint32(lost)}
		if six {
			d.Src, d.Dst = source6, group6
		}
		if lost > 0 {
			d.Flags = format.FlagTruncated
		}
		var b format.Batch
		for range int(n)%4 + 1 {
			b.Datagrams = append(b.Datagrams, d)
		}
		var file bytes.Buffer
		w, err := NewWriter(&file, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = w.WriteBatch(&b)
		if fits := at >= 0 && at/1e9 <= math.MaxUint32; fits != (err == nil) {
			t.Fatalf("time %d: %v", at, err)
		} else if !fits {
			return
		}
		r, err := NewReader(bytes.NewReader(file.Bytes()), "fuzz")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		c, err := drain(r)
		if err != nil || len(c.damage) > 0 || len(c.datagrams) != len(b.Datagrams) {
			t.Fatalf("%d datagrams of %d, %v %v", len(c.datagrams), len(b.Datagrams), err, c.damage)
		}
		for _, g := range c.datagrams {
			if g.Time != d.Time || g.Src != d.Src || g.Dst != d.Dst || g.TTL != d.TTL || g.Length != d.Length || g.Flags != d.Flags || !bytes.Equal(g.Payload, d.Payload) {
				t.Fatalf("%+v was written, %+v is read", d, g)
			}
		}
	})
}

// checkCapture reads anything as a capture.
func checkCapture(t *testing.T, data []byte) {
	r, err := NewReader(bytes.NewReader(data), "fuzz")
	if err != nil {
		var damage *format.CorruptError
		if !errors.As(err, &damage) && !errors.Is(err, format.ErrFormat) && !errors.Is(err, format.ErrVersion) {
			t.Fatalf("unexpected kind of error: %v", err)
		}
		return
	}
	defer r.Close()
	if len(data) > 1<<20 {
		return
	}
	c, err := drain(r)
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.datagrams {
		d := &c.datagrams[i]
		checkDatagram(t, d)
		if int(d.Interface) >= len(c.ifaces) {
			t.Fatalf("interface %d of %d", d.Interface, len(c.ifaces))
		}
	}
	for _, e := range c.damage {
		if e.Offset < 0 || e.Length < 0 || e.Reason == "" {
			t.Fatalf("%+v", e)
		}
	}
}

// checkDatagram holds what format.Datagram promises.
func checkDatagram(t *testing.T, d *format.Datagram) {
	t.Helper()
	notUDP, truncated := d.Flags&format.FlagNotUDP != 0, d.Flags&format.FlagTruncated != 0
	switch {
	case notUDP && (d.Src.IsValid() || d.Dst.IsValid() || len(d.Payload) > 0 || d.Length != 0 || d.Frame == nil):
		t.Fatalf("not UDP, but %+v", d)
	case notUDP && truncated != (len(d.Frame) < int(d.FrameLength)):
		t.Fatalf("truncated is wrong: %+v", d)
	case !notUDP && truncated != (len(d.Payload) < int(d.Length)):
		t.Fatalf("truncated is wrong: %+v", d)
	case !notUDP && (!d.Src.IsValid() || d.Src.Addr().Is4() != d.Dst.Addr().Is4() || d.Length > format.MaxPayload || len(d.Payload) > int(d.Length)):
		t.Fatalf("%+v", d)
	case d.Frame != nil && len(d.Frame) > int(d.FrameLength):
		t.Fatalf("frame of %d bytes, %d on the wire", len(d.Frame), d.FrameLength)
	}
}

// FuzzDecode: any frame of any link type. The payload is within the frame, and the
// frame stays as it was.
func FuzzDecode(f *testing.F) {
	for _, link := range []uint16{linkNull, linkEthernet, linkPPP, linkRaw, linkPPPHDLC, linkCHDLC, link80211, linkLoop,
		linkSLL, linkRadiotap, linkPPI, linkIPv4, linkIPv6, linkSLL2} {
		for _, b := range [][]byte{frame4("x"), packet4("x"), packet6("x"), make([]byte, 60), {0xFF, 3, 0, 0x21}} {
			f.Add(link, b, uint16(0))
		}
	}
	f.Add(uint16(linkRaw), withExtension(packet6("x"), 0, make([]byte, 8)), uint16(3))
	f.Add(uint16(linkRadiotap), cat([]byte{0, 0, 20, 0, 3, 0, 0, 0}, make([]byte, 8), []byte{0x20, 0, 0, 0, 8}, make([]byte, 25)), uint16(0))
	f.Add(uint16(linkEthernet), cutUp(frame(source6, group6, make([]byte, 100)), 40, 1)[0], uint16(0))
	seedCaptures(f, func(b []byte) {
		r, err := NewReader(bytes.NewReader(b), "seed")
		if err != nil {
			return
		}
		c, err := drain(r)
		if err != nil {
			f.Fatal(err)
		}
		for _, d := range c.datagrams[:min(len(c.datagrams), 3)] {
			f.Add(c.ifaces[d.Interface].LinkType, d.Frame, uint16(int(d.FrameLength)-len(d.Frame)))
		}
	})
	dec := NewDecoder()
	f.Fuzz(func(t *testing.T, link uint16, frame []byte, lost uint16) {
		if frame == nil {
			frame = []byte{}
		}
		before := bytes.Clone(frame)
		d := format.Datagram{Frame: frame[:len(frame):len(frame)], FrameLength: uint32(len(frame)) + uint32(lost)}
		what := dec.decode(link, &d)
		if !bytes.Equal(before, frame) {
			t.Fatal("the frame was changed")
		}
		checkDatagram(t, &d)
		if (what == isUDP) != (d.Flags&format.FlagNotUDP == 0) {
			t.Fatalf("outcome %d, flags %v", what, d.Flags)
		}
		if len(d.Payload) > 0 && !bytes.Contains(frame, d.Payload) {
			t.Fatal("the payload is not in the frame")
		}
		if what == isFragment {
			g := &dec.fragment
			if g.at+len(g.data) > len(frame) || !bytes.Equal(frame[g.at:g.at+len(g.data)], g.data) {
				t.Fatalf("fragment at %d of %d bytes in a frame of %d", g.at, len(g.data), len(frame))
			}
		}
	})
}

// FuzzReassembly cuts a datagram at places that the fuzzer chooses and delivers the
// pieces in its order, some twice, some not, some bent. What is reassembled is the
// datagram that was cut up, unless a piece was bent.
func FuzzReassembly(f *testing.F) {
	f.Add([]byte("payload of some length, for a start"), uint8(1), []byte{0, 1, 2, 3, 4, 5}, false)
	f.Add(make([]byte, 300), uint8(3), []byte{9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0}, true)
	f.Add(make([]byte, 3000), uint8(100), []byte{0, 0x81, 2, 0xC3}, false)
	f.Fuzz(func(t *testing.T, payload []byte, size uint8, order []byte, six bool) {
		if len(payload) == 0 || len(payload) > 4000 || len(order) > 300 {
			return
		}
		whole := frame(source4, group4, payload)
		if six {
			whole = frame(source6, group6, payload)
		}
		pieces := cutUp(whole, 8*(int(size)+1), 7)
		if len(pieces) < 2 {
			return
		}
		var frames [][]byte
		bent := false
		for _, o := range order {
			g := bytes.Clone(pieces[int(o&0x3F)%len(pieces)])
			if o&0x80 != 0 { // another place for this piece
				bent = true
				at := 21
				if six {
					at = 14 + 40 + 3
				}
				g[at] ^= 8 << (o >> 6 & 1)
			}
			frames = append(frames, g)
		}
		c := read(t, captureOf(frames...))
		// A last piece that is bent to the start is no fragment any more.
		if !bent && c.counts.Fragments != uint64(len(frames)) {
			t.Fatalf("%d fragments of %d", c.counts.Fragments, len(frames))
		}
		for _, d := range c.datagrams {
			checkDatagram(t, &d)
			if d.Flags&format.FlagReassembled != 0 && !bent && !bytes.Equal(d.Payload, payload) {
				t.Fatalf("reassembled %x of %x", d.Payload, payload)
			}
		}
		seen := map[byte]bool{}
		for _, o := range order {
			seen[byte(int(o&0x3F)%len(pieces))] = true
		}
		if !bent && len(seen) == len(pieces) && c.counts.Reassembled == 0 {
			t.Fatal("all fragments were there and were not joined")
		}
	})
}
