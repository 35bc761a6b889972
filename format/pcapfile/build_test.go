package pcapfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"testing"

	"castdeck/format"
)

// This file builds captures for the tests, in both byte orders.

// packet is one packet of a built capture. The record's lengths are the frame's
// where wire is 0.
type packet struct {
	time  int64
	frame []byte
	wire  int
}

type pcapKind struct {
	magic   uint32
	order   binary.ByteOrder
	link    uint32
	snapLen uint32
	minor   uint16
}

var littleMicro = pcapKind{magic: magicMicro, order: binary.LittleEndian, link: linkEthernet}

func (k pcapKind) header() []byte {
	minor := k.minor
	if minor == 0 {
		minor = 4
	}
	b := make([]byte, pcapFileHeader)
	k.order.PutUint32(b, k.magic)
	k.order.PutUint16(b[4:], 2)
	k.order.PutUint16(b[6:], minor)
	k.order.PutUint32(b[16:], k.snapLen)
	k.order.PutUint32(b[20:], k.link)
	return b
}

func (k pcapKind) record(p packet) []byte {
	n := pcapRecord
	if k.magic == magicModified {
		n = pcapRecordModified
	}
	unit := int64(1000)
	if k.magic == magicNano {
		unit = 1
	}
	b := make([]byte, n)
	k.order.PutUint32(b, uint32(p.time/1e9))
	k.order.PutUint32(b[4:], uint32(p.time%1e9/unit))
	captured, original := uint32(len(p.frame)), uint32(max(p.wire, len(p.frame)))
	if k.minor != 0 && k.minor < 3 {
		captured, original = original, captured
	}
	k.order.PutUint32(b[8:], captured)
	k.order.PutUint32(b[12:], original)
	return append(b, p.frame...)
}

func (k pcapKind) file(packets ...packet) []byte {
	b := k.header()
	for _, p := range packets {
		b = append(b, k.record(p)...)
	}
	return b
}

type byteOrder interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

// ng builds pcapng.
type ng struct {
	order byteOrder
	b     []byte
}

func newNG(order byteOrder) *ng { return (&ng{order: order}).section() }

func (n *ng) u16(v uint16) []byte { return n.order.AppendUint16(nil, v) }
func (n *ng) u32(v uint32) []byte { return n.order.AppendUint32(nil, v) }
func (n *ng) u64(v uint64) []byte { return n.order.AppendUint64(nil, v) }

func (n *ng) block(typ uint32, parts ...[]byte) *ng {
	body := bytes.Join(parts, nil)
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	total := n.u32(uint32(len(body) + format.BlockOverhead))
	n.b = append(n.b, n.u32(typ)...)
	n.b = append(n.b, total...)
	n.b = append(n.b, body...)
	n.b = append(n.b, total...)
	return n
}

func (n *ng) option(code uint16, value []byte) []byte {
	b := append(n.u16(code), n.u16(uint16(len(value)))...)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (n *ng) section() *ng { return n.versioned(1) }

func (n *ng) versioned(major uint16) *ng {
	return n.block(format.BlockSHB, n.u32(0x1A2B3C4D), n.u16(major), n.u16(0), n.u64(1<<64-1))
}

func (n *ng) iface(link uint16, snapLen uint32, options ...[]byte) *ng {
	return n.block(format.BlockIDB, n.u16(link), n.u16(0), n.u32(snapLen), bytes.Join(options, nil))
}

func (n *ng) tsresol(v uint8) []byte { return n.option(9, []byte{v}) }

// epb takes the time in the interface's units.
func (n *ng) epb(iface uint32, raw uint64, frame []byte, options ...[]byte) *ng {
	return n.block(format.BlockEPB, n.u32(iface), n.u32(uint32(raw>>32)), n.u32(uint32(raw)),
		n.u32(uint32(len(frame))), n.u32(uint32(len(frame))), pad(frame), bytes.Join(options, nil))
}

func (n *ng) oldPacket(iface, drops uint16, raw uint64, frame []byte) *ng {
	return n.block(format.BlockPacket, n.u16(iface), n.u16(drops), n.u32(uint32(raw>>32)), n.u32(uint32(raw)),
		n.u32(uint32(len(frame))), n.u32(uint32(len(frame))), pad(frame))
}

func (n *ng) spb(original uint32, frame []byte) *ng {
	return n.block(format.BlockSPB, n.u32(original), pad(frame))
}

func (n *ng) isb(iface uint32, raw uint64, received, dropped uint64) *ng {
	return n.block(format.BlockISB, n.u32(iface), n.u32(uint32(raw>>32)), n.u32(uint32(raw)),
		n.option(4, n.u64(received)), n.option(5, n.u64(dropped)))
}

func pad(b []byte) []byte {
	p := bytes.Clone(b)
	for len(p)%4 != 0 {
		p = append(p, 0)
	}
	return p
}

var (
	source4 = netip.MustParseAddrPort("10.99.0.1:5000")
	group4  = netip.MustParseAddrPort("239.1.2.3:7777")
	source6 = netip.MustParseAddrPort("[fe80::1]:5000")
	group6  = netip.MustParseAddrPort("[ff3e::8000:1]:7777")
)

// frame is a made Ethernet frame with payload.
func frame(src, dst netip.AddrPort, payload []byte) []byte {
	f, _ := format.AppendMadeFrame(nil, &format.Datagram{Src: src, Dst: dst, TTL: 7, Payload: payload})
	return f
}

func frame4(payload string) []byte { return frame(source4, group4, []byte(payload)) }

// packet4 is the same from the IP header on.
func packet4(payload string) []byte { return frame4(payload)[14:] }
func packet6(payload string) []byte { return frame(source6, group6, []byte(payload))[14:] }

const second = int64(1e9)

// stamp is the time of the i-th packet: whole microseconds.
func stamp(i int) int64 { return 1700000000*second + int64(i)*1000 }

// flow is n packets, of payloads that tell them apart.
func flow(n int) []packet {
	var p []packet
	for i := range n {
		p = append(p, packet{time: stamp(i), frame: frame4("payload " + string(rune('A'+i%26)) + string(make([]byte, i%50)))})
	}
	return p
}

// content is what a capture gave: copies, for they outlive their batches.
type content struct {
	datagrams []format.Datagram
	stats     []format.InterfaceStats
	damage    []*format.CorruptError
	versions  int
	counts    Counts
	ifaces    []format.Interface
	kind      string
	clocks    []clock
	unit      int64
}

// readAll reads to the end and fails the test where an error is none of those that
// a reader may return, an error comes with contents, or the counts do not add up.
func readAll(t testing.TB, r *Reader) content {
	t.Helper()
	c, err := drain(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func drain(r *Reader) (c content, err error) {
	c.kind = r.Format()
	var b format.Batch
	for {
		err := r.ReadBatch(&b)
		if err != nil && len(b.Datagrams)+len(b.Stats) > 0 {
			return c, errors.New("an error with a batch that is not empty")
		}
		var damage *format.CorruptError
		switch {
		case err == io.EOF:
			if again := r.ReadBatch(&b); again != io.EOF {
				return c, errors.New("no io.EOF after io.EOF")
			}
			c.counts, c.ifaces, c.clocks = r.Counts(), r.Interfaces(), r.ifaces.clocks
			if p, ok := r.parser.(*classic); ok {
				c.unit = p.unit
			}
			n := c.counts
			if n.Packets+n.Reassembled != n.Datagrams+n.NotUDP+n.Joined {
				return c, errors.New("the counts do not add up")
			}
			if uint64(len(c.datagrams)) != n.Datagrams+n.NotUDP {
				return c, errors.New("the counts disagree with what was delivered")
			}
			return c, nil
		case errors.As(err, &damage):
			c.damage = append(c.damage, damage)
		case errors.Is(err, format.ErrVersion):
			c.versions++
		case err != nil:
			return c, err
		case len(b.Datagrams)+len(b.Stats) == 0:
			return c, errors.New("an empty batch without an error")
		}
		for _, d := range b.Datagrams {
			d.Frame, d.Payload = bytes.Clone(d.Frame), bytes.Clone(d.Payload)
			c.datagrams = append(c.datagrams, d)
		}
		c.stats = append(c.stats, b.Stats...)
	}
}

func open(t testing.TB, b []byte) *Reader {
	t.Helper()
	r, err := NewReader(bytes.NewReader(b), "built")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func read(t testing.TB, b []byte) content {
	t.Helper()
	return readAll(t, open(t, b))
}
