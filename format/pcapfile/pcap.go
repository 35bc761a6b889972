package pcapfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"

	"castdeck/format"
)

// This file is the layout of classic pcap (draft-ietf-opsawg-pcap, and libpcap's
// sf-pcap.c for what the draft leaves out). The magic tells byte order and unit.
//
// File header:
//
//	 0      4  magic
//	 4      2  major version 2
//	 6      2  minor version 4
//	 8      8  time zone and accuracy: 0, not used
//	16      4  snap length
//	20      4  link type in the lower 16 bits; above, the length of a frame check
//	           sequence, which does not matter here: IP states its own length
//
// Record:
//
//	 0      4  seconds since the Unix epoch, unsigned: up to the year 2106
//	 4      4  microseconds or nanoseconds
//	 8      4  captured length
//	12      4  length on the wire
//	16      8  Kuznetzov's files only: interface, protocol, packet type
//	           the packet, not padded
const (
	magicMicro    = 0xA1B2C3D4
	magicNano     = 0xA1B23C4D
	magicModified = 0xA1B2CD34 // Alexey Kuznetzov's patched libpcap, FRITZ!Box

	pcapFileHeader     = 24
	pcapRecord         = 16
	pcapRecordModified = 24
)

// Reading goes on behind damage where this many records in a row are plausible,
// or fewer that end exactly with the file.
const (
	chainRecords = 4
	// chainSeconds is how far apart successive packets of such a chain may be.
	chainSeconds = 30 * 86400
	// chainSpan is the most bytes that a chain takes.
	chainSpan = chainRecords * (pcapRecordModified + format.MaxPacketSize)
)

// classic parses classic pcap.
type classic struct {
	win      *window
	ifaces   *interfaces
	swap     bool // the file's byte order is not little-endian
	swapLens bool // before version 2.3 the two lengths stood the other way round
	mixLens  bool // in version 2.3 either way is found
	cut      bool // the file ends within its header
	header   int  // bytes of a record's header
	unit     int64
	perSec   uint32
	snapLen  uint32
	lastSec  uint32
	seen     bool  // lastSec is set
	usual    uint8 // oddities of this file's writer
	head     [pcapFileHeader]byte
}

// recordHeader is a record's header in this machine's order.
type recordHeader struct {
	sec, frac, captured, original uint32
}

// newClassic returns nil where head does not start with a pcap magic.
func newClassic(head []byte, win *window, ifaces *interfaces) *classic {
	c := &classic{win: win, ifaces: ifaces, header: pcapRecord, unit: 1000, perSec: 1e6}
	magic := binary.LittleEndian.Uint32(head)
	if top := byte(magic); top == magicMicro>>24 {
		magic, c.swap = bits.ReverseBytes32(magic), true
	}
	switch magic {
	case magicMicro:
	case magicNano:
		c.unit, c.perSec = 1, 1e9
	case magicModified:
		c.header = pcapRecordModified
	default:
		return nil
	}
	return c
}

func (c *classic) get32(b []byte) uint32 {
	v := binary.LittleEndian.Uint32(b)
	if c.swap {
		return bits.ReverseBytes32(v)
	}
	return v
}

// open reads the file header. One that is cut off is left to next, which reports
// it as any other damage.
func (c *classic) open() error {
	b := c.win.fill(pcapFileHeader)
	if len(b) < pcapFileHeader {
		c.cut = true
		return nil
	}
	major, minor := binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:])
	if c.swap {
		major, minor = bits.ReverseBytes16(major), bits.ReverseBytes16(minor)
	}
	switch {
	case major > 2:
		return fmt.Errorf("%s: pcap version %d.%d: %w", c.win.src.name, major, minor, format.ErrVersion)
	case major < 2:
		return fmt.Errorf("%s: %w: pcap version %d.%d does not exist", c.win.src.name, format.ErrFormat, major, minor)
	}
	c.swapLens, c.mixLens = minor < 3, minor == 3
	c.snapLen = c.get32(b[16:])
	c.head = [pcapFileHeader]byte(b)
	c.ifaces.list = append(c.ifaces.list, format.Interface{LinkType: uint16(c.get32(b[20:])), SnapLen: c.snapLen})
	c.win.consume(pcapFileHeader)
	return nil
}

func (c *classic) parse(b []byte) recordHeader {
	h := recordHeader{sec: c.get32(b), frac: c.get32(b[4:]), captured: c.get32(b[8:]), original: c.get32(b[12:])}
	if c.swapLens || c.mixLens && h.captured > h.original {
		h.captured, h.original = h.original, h.captured
	}
	return h
}

func (c *classic) ready(b []byte) bool {
	return len(b) >= c.header && len(b)-c.header >= int(min(c.parse(b).captured, format.MaxPacketSize))
}

func (c *classic) next(rec *record) error {
	if c.cut {
		if c.win.err != nil && len(c.win.buffered()) > 0 {
			return c.win.cut("the file header")
		}
		return c.win.end()
	}
	b := c.win.fill(c.header)
	if len(b) < c.header {
		if len(b) == 0 {
			return c.win.end()
		}
		return atLeastOne(c.win.cut("a record's header"))
	}
	h := c.parse(b)
	if h.captured > format.MaxPacketSize {
		return c.resyncer().resync(fmt.Sprintf("a record states %d captured bytes", h.captured))
	}
	n := c.header + int(h.captured)
	if h.captured == 0 && bytes.Equal(b[:8], c.head[:8]) {
		if b = c.win.fill(pcapFileHeader); len(b) >= pcapFileHeader {
			return c.appended(b)
		}
	}
	if odd := c.oddities(h); odd != 0 {
		if b = c.win.fill(n + c.header); len(b) > n {
			if len(b) < n+c.header {
				return c.resyncer().resync("a record's header makes no sense")
			}
			after := c.parse(b[n:])
			more := c.oddities(after)
			if after.captured > format.MaxPacketSize || more&^odd != 0 {
				return c.resyncer().resync("a record's header makes no sense")
			}
			c.usual |= more // two in a row: that is how this file was written
		}
	}
	b = c.win.fill(n)
	if len(b) < n {
		r := c.resyncer()
		if at := r.find(); at > 0 {
			return r.skipTo(at, fmt.Sprintf("a record states %d captured bytes", h.captured))
		}
		return atLeastOne(c.win.cut(fmt.Sprintf("a record of %d bytes", n)))
	}
	if c.seen && c.far(h.sec, c.lastSec) && !c.followed(n) {
		return c.resyncer().resync("a record's header makes no sense")
	}
	b = c.win.buffered() // followed may have moved it
	// The fields that this format has not stay as they are, zero.
	rec.data = b[c.header:n:n]
	rec.time = int64(h.sec)*1e9 + int64(h.frac)*c.unit
	rec.original = max(h.original, h.captured) // some writers leave it 0
	c.lastSec, c.seen = h.sec, true
	c.win.consume(n)
	return nil
}

// Oddities of a record's header. Some writers break each of these rules in every
// record, so an oddity is damage only where the next record does not bear it out.
const (
	oddFraction = 1 << iota // a second or more
	oddOriginal             // more captured than was on the wire
	oddSnapLen              // more captured than the file's limit
)

// oddities are those of h that this file is not known for.
func (c *classic) oddities(h recordHeader) (odd uint8) {
	if h.frac >= c.perSec {
		odd |= oddFraction
	}
	if h.captured > h.original {
		odd |= oddOriginal
	}
	if c.snapLen != 0 && h.captured > c.snapLen {
		odd |= oddSnapLen
	}
	return odd &^ c.usual
}

// far says that two packets in a row are further apart than is usual.
func (c *classic) far(a, b uint32) bool { return a-b > chainSeconds && b-a > chainSeconds }

// followed reports whether the record of n bytes is followed by a plausible header
// or the end. It does not wait for a pipe.
func (c *classic) followed(n int) bool {
	b := c.win.buffered()
	if !c.win.short {
		b = c.win.fill(n + c.header)
	}
	if len(b) < n+c.header {
		return true
	}
	h := c.parse(b[n:])
	return h.captured <= format.MaxPacketSize && c.oddities(h) == 0
}

// appended passes over the header of a capture of the same kind that somebody
// appended with cat, or reports damage where its link type is another.
func (c *classic) appended(b []byte) error {
	reason := "another capture is appended here"
	start := c.win.off
	if c.get32(b[20:]) != c.get32(c.head[20:]) {
		left := c.discard()
		return c.win.corrupt(start, left, fmt.Sprintf("%s, of link type %d; it needs a file of its own", reason, uint16(c.get32(b[20:]))))
	}
	c.win.consume(pcapFileHeader)
	damage := c.win.corrupt(start, pcapFileHeader, reason)
	damage.Counted = true
	return damage
}

// discard passes over the rest of the stream.
func (c *classic) discard() (n int64) {
	for {
		b := c.win.fill(1)
		if len(b) == 0 {
			return n
		}
		n += int64(len(b))
		c.win.consume(len(b))
	}
}

func (c *classic) resyncer() *resyncer {
	return &resyncer{win: c.win, unit: "record", least: c.header, span: chainSpan, chained: c.chained}
}

func (c *classic) chained(b []byte) bool {
	last, seen := c.lastSec, c.seen
	for range chainRecords {
		if len(b) == 0 {
			return c.win.err != nil // ends with the file; the first round never comes here
		}
		if len(b) < c.header {
			return false
		}
		h := c.parse(b)
		if c.oddities(h) != 0 || h.captured == 0 || max(h.captured, h.original) > format.MaxPacketSize {
			return false
		}
		if seen && c.far(h.sec, last) {
			return false
		}
		n := c.header + int(h.captured)
		if n > len(b) {
			return false
		}
		b, last, seen = b[n:], h.sec, true
	}
	return true
}
