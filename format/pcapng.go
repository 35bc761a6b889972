package format

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
)

// This file is the layout of the pcapng blocks that castdeck uses, after
// draft-ietf-opsawg-pcapng. Pure functions on byte slices: no I/O, no state.
//
// Every block:
//
//	 0      4  block type
//	 4      4  total length: a multiple of 4, at least 12, this header and trailer included
//	 8      n  body
//	 8+n    4  total length again
//
// castdeck writes little-endian sections. The parsers take both byte orders; swap
// says that the section's order is the other one than little-endian.

// Block types.
const (
	BlockSHB    = 0x0A0D0D0A // Section Header; a palindrome, so that it reads alike in both orders
	BlockIDB    = 0x00000001 // Interface Description
	BlockPacket = 0x00000002 // Packet (obsolete), still found in old files
	BlockSPB    = 0x00000003 // Simple Packet
	BlockNRB    = 0x00000004 // Name Resolution
	BlockISB    = 0x00000005 // Interface Statistics
	BlockEPB    = 0x00000006 // Enhanced Packet
)

// Limits of a block, checked before any use.
const (
	BlockOverhead = 12
	// LeastPacketBlock is the size of an Enhanced Packet Block of a packet of no bytes.
	LeastPacketBlock = 32
	// MaxBlockSize is the largest block that is read: what Wireshark and libpcap
	// take too, so a larger one is damage rather than data.
	MaxBlockSize = 16 << 20
	// MaxPacketSize is the most bytes of one packet that are read.
	MaxPacketSize = 256 << 10
	// MaxInterfaces is the number of interfaces that Datagram.Interface can name.
	MaxInterfaces = 1 << 16
)

const byteOrderMagic = 0x1A2B3C4D

// Option codes. The same code means something else in each block type.
const (
	optEnd     = 0
	optComment = 1

	optSHBHardware = 2
	optSHBOS       = 3
	optSHBUserAppl = 4

	optIfName        = 2
	optIfDescription = 3
	optIfTsresol     = 9
	optIfTsoffset    = 14

	optEPBFlags     = 2
	optEPBDropCount = 4
	// optIfLocalNumber is ours: the interface's number as a u32, in descriptions that
	// stand in a chunk, so that a lost chunk does not shift the numbers of others.
	optIfLocalNumber = 0x8CD2
	// optEPBLocalFlags is ours, from the range for local use (top bit set):
	// Datagram.Flags as a u32, written where they are not zero.
	optEPBLocalFlags = 0x8CD1

	optISBStart     = 2
	optISBEnd       = 3
	optISBReceived  = 4 // packets that reached the interface's subscription
	optISBDropped   = 5 // lost for any cause
	optISBOSDrop    = 7 // of those, dropped by the kernel
	optISBDelivered = 8 // handed to the recorder
)

// Section is what a Section Header says of the machine that wrote it.
type Section struct {
	Hardware, OS, Application string
}

// get16, get32 and get64 read in the section's byte order. Little-endian load and
// conditional swap compile to a load and a test; an interface call per field
// (binary.ByteOrder) costs five times as much.
func get16(b []byte, swap bool) uint16 {
	v := binary.LittleEndian.Uint16(b)
	if swap {
		return bits.ReverseBytes16(v)
	}
	return v
}

func get32(b []byte, swap bool) uint32 {
	v := binary.LittleEndian.Uint32(b)
	if swap {
		return bits.ReverseBytes32(v)
	}
	return v
}

func get64(b []byte, swap bool) uint64 {
	v := binary.LittleEndian.Uint64(b)
	if swap {
		return bits.ReverseBytes64(v)
	}
	return v
}

// getTime reads a timestamp as pcapng stores it: the upper 32 bits first, each
// half in the section's byte order.
func getTime(b []byte, swap bool) uint64 {
	return uint64(get32(b, swap))<<32 | uint64(get32(b[4:], swap))
}

func appendTime(dst []byte, t uint64) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(t>>32))
	return binary.LittleEndian.AppendUint32(dst, uint32(t))
}

func pad4(n int) int { return (n + 3) &^ 3 }

var zeros [4]byte

// beginBlock appends a block header whose length endBlock fills in; start is
// where the block begins.
func beginBlock(dst []byte, typ uint32) (b []byte, start int) {
	start = len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, typ)
	return binary.LittleEndian.AppendUint32(dst, 0), start
}

func endBlock(dst []byte, start int) []byte {
	total := uint32(len(dst) - start + 4)
	binary.LittleEndian.PutUint32(dst[start+4:], total)
	return binary.LittleEndian.AppendUint32(dst, total)
}

func appendOption(dst []byte, code uint16, value string) []byte {
	value = value[:min(len(value), 0xFFFF)]
	dst = appendOptionHeader(dst, code, len(value))
	dst = append(dst, value...)
	return append(dst, zeros[:pad4(len(value))-len(value)]...)
}

func appendOptionHeader(dst []byte, code uint16, length int) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, code)
	return binary.LittleEndian.AppendUint16(dst, uint16(length))
}

func appendOption32(dst []byte, code uint16, v uint32) []byte {
	return binary.LittleEndian.AppendUint32(appendOptionHeader(dst, code, 4), v)
}

func appendOption64(dst []byte, code uint16, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(appendOptionHeader(dst, code, 8), v)
}

func appendOptionEnd(dst []byte) []byte { return appendOptionHeader(dst, optEnd, 0) }

// AppendSHB appends a Section Header Block:
//
//	 0      4  byte order magic 1A2B3C4D
//	 4      2  major version 1
//	 6      2  minor version 0
//	 8      8  section length: -1, not stated
//	16      n  options
func AppendSHB(dst []byte, s Section) []byte {
	dst, start := beginBlock(dst, BlockSHB)
	dst = binary.LittleEndian.AppendUint32(dst, byteOrderMagic)
	dst = binary.LittleEndian.AppendUint16(dst, 1)
	dst = binary.LittleEndian.AppendUint16(dst, 0)
	dst = binary.LittleEndian.AppendUint64(dst, ^uint64(0))
	for _, o := range [...]struct {
		code  uint16
		value string
	}{{optSHBHardware, s.Hardware}, {optSHBOS, s.OS}, {optSHBUserAppl, s.Application}} {
		if o.value != "" {
			dst = appendOption(dst, o.code, o.value)
		}
	}
	return endBlock(appendOptionEnd(dst), start)
}

// ParseSHB reads the body of a Section Header Block, and the first 4 bytes of a
// body suffice to learn swap. The error is ErrVersion for a major version above 1.
func ParseSHB(body []byte) (s Section, swap bool, err error) {
	if len(body) < 16 {
		return s, false, fmt.Errorf("section header of %d bytes, want at least 16", len(body))
	}
	swap, err = SectionOrder(body)
	if err != nil {
		return s, false, err
	}
	if major := get16(body[4:], swap); major != 1 {
		if major > 1 {
			return s, swap, fmt.Errorf("pcapng version %d: %w", major, ErrVersion)
		}
		return s, swap, fmt.Errorf("pcapng version %d does not exist", major)
	}
	err = eachOption(body[16:], swap, func(code uint16, v []byte) error {
		switch code {
		case optSHBHardware:
			s.Hardware = cString(v)
		case optSHBOS:
			s.OS = cString(v)
		case optSHBUserAppl:
			s.Application = cString(v)
		}
		return nil
	})
	return s, swap, err
}

// SectionOrder reads a section's byte order from the first 4 bytes of its header
// block's body.
func SectionOrder(body []byte) (swap bool, err error) {
	if len(body) >= 4 {
		switch binary.LittleEndian.Uint32(body) {
		case byteOrderMagic:
			return false, nil
		case bits.ReverseBytes32(byteOrderMagic):
			return true, nil
		}
	}
	return false, fmt.Errorf("section header without byte order magic")
}

// AppendIDB appends an Interface Description Block with nanosecond timestamps:
//
//	0      2  link type
//	2      2  0
//	4      4  snap length; 0 is no limit
//	8      n  options if_name, if_description, if_tsresol = 9
func AppendIDB(dst []byte, i Interface) []byte { return appendIDB(dst, i, -1) }

// AppendNumberedIDB appends an Interface Description Block that states the
// interface's number in a local option (8CD2, u32), for use behind the first frame.
func AppendNumberedIDB(dst []byte, i Interface, number uint16) []byte {
	return appendIDB(dst, i, int(number))
}

func appendIDB(dst []byte, i Interface, number int) []byte {
	dst, start := beginBlock(dst, BlockIDB)
	dst = binary.LittleEndian.AppendUint16(dst, i.LinkType)
	dst = binary.LittleEndian.AppendUint16(dst, 0)
	dst = binary.LittleEndian.AppendUint32(dst, i.SnapLen)
	if i.Name != "" {
		dst = appendOption(dst, optIfName, i.Name)
	}
	if i.Description != "" {
		dst = appendOption(dst, optIfDescription, i.Description)
	}
	dst = appendOption(dst, optIfTsresol, "\x09")
	if number >= 0 {
		dst = appendOption32(dst, optIfLocalNumber, uint32(number))
	}
	return endBlock(appendOptionEnd(dst), start)
}

// Clock converts an interface's raw timestamps to ns since the Unix epoch.
type Clock struct {
	perSecond uint64 // raw units in a second
	offset    int64  // seconds to add (if_tsoffset)
}

// NewClock makes a clock from if_tsresol (0x80 set: negative power of 2, else of
// 10) and if_tsoffset in seconds. A resolution finer than 2^-63 or 10^-19 seconds
// does not fit a 64-bit timestamp and is an error.
func NewClock(tsresol uint8, offset int64) (Clock, error) {
	exp := tsresol & 0x7F
	if tsresol&0x80 != 0 {
		if exp > 63 {
			return Clock{}, fmt.Errorf("timestamp resolution 2^-%d is not usable", exp)
		}
		return Clock{perSecond: 1 << exp, offset: offset}, nil
	}
	if exp > 19 {
		return Clock{}, fmt.Errorf("timestamp resolution 10^-%d is not usable", exp)
	}
	n := uint64(1)
	for range exp {
		n *= 10
	}
	return Clock{perSecond: n, offset: offset}, nil
}

// Nanoseconds is raw as ns since the Unix epoch, rounded down; ok is false where
// it does not fit int64 (a time past the year 2262).
func (c Clock) Nanoseconds(raw uint64) (ns int64, ok bool) {
	if c.perSecond == 1e9 && c.offset == 0 {
		return int64(raw), int64(raw) >= 0
	}
	sec, rest := raw/c.perSecond, raw%c.perSecond
	hi, lo := bits.Mul64(rest, 1e9)
	frac, _ := bits.Div64(hi, lo, c.perSecond)
	const limit = (1<<63 - 1) / 1_000_000_000
	if sec > limit {
		return 0, false
	}
	s := int64(sec) + c.offset
	if s >= limit || s < -limit || (c.offset > 0 && s < int64(sec)) {
		return 0, false
	}
	return s*1e9 + int64(frac), true
}

// ParseIDB reads the body of an Interface Description Block.
func ParseIDB(body []byte, swap bool) (i Interface, c Clock, err error) {
	if len(body) < 8 {
		return i, c, fmt.Errorf("interface description of %d bytes, want at least 8", len(body))
	}
	i.LinkType = get16(body, swap)
	i.SnapLen = get32(body[4:], swap)
	tsresol, tsoffset := uint8(6), int64(0)
	err = eachOption(body[8:], swap, func(code uint16, v []byte) error {
		switch {
		case code == optIfName:
			i.Name = cString(v)
		case code == optIfDescription:
			i.Description = cString(v)
		case code == optIfTsresol && len(v) >= 1:
			tsresol = v[0]
		case code == optIfTsoffset && len(v) >= 8:
			tsoffset = int64(get64(v, swap))
		}
		return nil
	})
	if err != nil {
		return i, c, err
	}
	c, err = NewClock(tsresol, tsoffset)
	return i, c, err
}

// InterfaceNumber is the number that the body of an Interface Description Block
// states; ok is false where it states none, or one that cannot be.
func InterfaceNumber(body []byte, swap bool) (n uint16, ok bool) {
	if len(body) < 8 {
		return 0, false
	}
	_ = eachOption(body[8:], swap, func(code uint16, v []byte) error {
		if code == optIfLocalNumber && len(v) == 4 && get32(v, swap) < MaxInterfaces {
			n, ok = uint16(get32(v, swap)), true
		}
		return nil
	})
	return n, ok
}

// EPB is a parsed Enhanced Packet Block (or its predecessors); Data points into
// the body that was parsed.
//
//	 0      4  interface
//	 4      4  timestamp, upper half
//	 8      4  timestamp, lower half
//	12      4  captured length
//	16      4  original length
//	20      n  packet, padded to 4 bytes
//	20+n    m  options
type EPB struct {
	Time      uint64 // raw, in the interface's resolution
	Drops     uint64
	Data      []byte
	Interface uint32
	Original  uint32 // length on the wire
	Flags     Flags
}

const epbFixed = 20

// ParseEPB reads the body of an Enhanced Packet Block into e. It allocates
// nothing.
func ParseEPB(body []byte, swap bool, e *EPB) error {
	if len(body) < epbFixed {
		return fmt.Errorf("packet block of %d bytes, want at least %d", len(body), epbFixed)
	}
	e.Interface = get32(body, swap)
	e.Time = getTime(body[4:], swap)
	captured := get32(body[12:], swap)
	e.Original = get32(body[16:], swap)
	e.Drops, e.Flags = 0, 0
	if err := e.data(body[epbFixed:], captured); err != nil {
		return err
	}
	opts := body[min(len(body), epbFixed+pad4(int(captured))):]
	for len(opts) >= 4 {
		code, n := get16(opts, swap), int(get16(opts[2:], swap))
		if code == optEnd {
			break
		}
		if n > len(opts)-4 {
			return errOptionLength
		}
		v := opts[4 : 4+n]
		switch {
		case code == optEPBDropCount && n == 8:
			e.Drops = get64(v, swap)
		case code == optEPBLocalFlags && n == 4:
			e.Flags = Flags(get32(v, swap)) & KnownFlags
		}
		opts = opts[min(len(opts), 4+pad4(n)):]
	}
	return nil
}

func (e *EPB) data(rest []byte, captured uint32) error {
	if captured > MaxPacketSize || int(captured) > len(rest) {
		return fmt.Errorf("packet of %d captured bytes in a block that holds %d", captured, len(rest))
	}
	e.Data = rest[:captured:captured]
	// A few writers store 0 or less than was captured; the captured bytes are
	// there, so they count.
	e.Original = max(e.Original, captured)
	return nil
}

// ParsePacket reads the body of an obsolete Packet Block, which has a 16-bit
// interface and drop count before the same fields as an Enhanced Packet Block.
func ParsePacket(body []byte, swap bool, e *EPB) error {
	if len(body) < epbFixed {
		return fmt.Errorf("packet block of %d bytes, want at least %d", len(body), epbFixed)
	}
	e.Interface = uint32(get16(body, swap))
	e.Drops, e.Flags = 0, 0
	if d := get16(body[2:], swap); d != 0xFFFF {
		e.Drops = uint64(d)
	}
	e.Time = getTime(body[4:], swap)
	e.Original = get32(body[16:], swap)
	return e.data(body[epbFixed:], get32(body[12:], swap))
}

// ParseSPB reads the body of a Simple Packet Block, which belongs to interface 0,
// has no time, and states its captured length only through that interface's snap
// length.
func ParseSPB(body []byte, swap bool, snapLen uint32, e *EPB) error {
	if len(body) < 4 {
		return fmt.Errorf("simple packet block of %d bytes, want at least 4", len(body))
	}
	*e = EPB{Original: get32(body, swap), Flags: FlagNoTime}
	captured := e.Original
	if snapLen != 0 {
		captured = min(captured, snapLen)
	}
	return e.data(body[4:], captured)
}

// AppendISB appends an Interface Statistics Block:
//
//	 0      4  interface
//	 4      8  time, upper half first
//	12      n  options isb_ifrecv, isb_ifdrop, isb_osdrop, isb_usrdeliv, each u64
func AppendISB(dst []byte, s InterfaceStats) []byte {
	dst, start := beginBlock(dst, BlockISB)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(s.Interface))
	dst = appendTime(dst, uint64(s.Time))
	dst = appendOption64(dst, optISBReceived, s.Received+s.Dropped)
	dst = appendOption64(dst, optISBDropped, s.Dropped)
	dst = appendOption64(dst, optISBOSDrop, s.KernelDropped)
	dst = appendOption64(dst, optISBDelivered, s.Received)
	return endBlock(appendOptionEnd(dst), start)
}

// ISB is a parsed Interface Statistics Block. Wireshark writes isb_ifrecv and
// isb_ifdrop only: Received is then what reached the interface less the drops.
type ISB struct {
	Time      uint64 // raw, in the interface's resolution
	Interface uint32
	Stats     InterfaceStats // without Time and Interface
}

// ParseISB reads the body of an Interface Statistics Block.
func ParseISB(body []byte, swap bool) (s ISB, err error) {
	if len(body) < 12 {
		return s, fmt.Errorf("interface statistics of %d bytes, want at least 12", len(body))
	}
	s.Interface = get32(body, swap)
	s.Time = getTime(body[4:], swap)
	var seen uint64
	var delivered bool
	err = eachOption(body[12:], swap, func(code uint16, v []byte) error {
		if len(v) != 8 {
			return nil
		}
		n := get64(v, swap)
		switch code {
		case optISBReceived:
			seen = n
		case optISBDropped:
			s.Stats.Dropped = n
		case optISBOSDrop:
			s.Stats.KernelDropped = n
		case optISBDelivered:
			s.Stats.Received, delivered = n, true
		}
		return nil
	})
	if !delivered {
		s.Stats.Received = seen - min(seen, s.Stats.Dropped)
	}
	return s, err
}

var errOptionLength = fmt.Errorf("option longer than its block")

// eachOption calls f for each option up to the end of the list. The values point
// into opts.
func eachOption(opts []byte, swap bool, f func(code uint16, value []byte) error) error {
	for len(opts) >= 4 {
		code, n := get16(opts, swap), int(get16(opts[2:], swap))
		if code == optEnd {
			return nil
		}
		if n > len(opts)-4 {
			return errOptionLength
		}
		if err := f(code, opts[4:4+n]); err != nil {
			return err
		}
		opts = opts[min(len(opts), 4+pad4(n)):]
	}
	return nil
}

// cString is an option's text without the NUL that some writers leave at its end,
// and valid UTF-8.
func cString(v []byte) string {
	return strings.ToValidUTF8(strings.TrimRight(string(v), "\x00"), "\uFFFD")
}

// BlockHeader reads the type and total length at the start of b (at least 8
// bytes) and checks the length against the limits. For a Section Header the
// length is in the order of the section it opens, so 12 bytes are needed to read
// it; the order is returned.
func BlockHeader(b []byte, swap bool) (typ uint32, total int, order bool, err error) {
	typ = get32(b, swap)
	if typ == BlockSHB {
		if len(b) < 12 {
			return typ, 0, swap, fmt.Errorf("section header cut off")
		}
		if swap, err = SectionOrder(b[8:]); err != nil {
			return typ, 0, swap, err
		}
	}
	n := get32(b[4:], swap)
	if n < BlockOverhead || n > MaxBlockSize || n%4 != 0 {
		return typ, 0, swap, fmt.Errorf("block of type %#x states a length of %d bytes", typ, n)
	}
	return typ, int(n), swap, nil
}

// NextBlock cuts the first block off b. Body and rest point into b.
func NextBlock(b []byte, swap bool) (typ uint32, body, rest []byte, order bool, err error) {
	if len(b) < BlockOverhead {
		return 0, nil, nil, swap, fmt.Errorf("%d bytes left, a block has at least %d", len(b), BlockOverhead)
	}
	typ, n, order, err := BlockHeader(b, swap)
	if err != nil {
		return typ, nil, nil, order, err
	}
	if n > len(b) {
		return typ, nil, nil, order, fmt.Errorf("block of %d bytes where %d are left", n, len(b))
	}
	if trailer := get32(b[n-4:], order); trailer != uint32(n) {
		return typ, nil, nil, order, fmt.Errorf("block states %d bytes at its start and %d at its end", n, trailer)
	}
	return typ, b[8 : n-4 : n-4], b[n:], order, nil
}

// AppendEPB appends an Enhanced Packet Block with d's captured frame, or one made
// for it (AppendMadeFrame). Options are written only where there is something to
// say: epb_dropcount, and the local option 8CD1 with d.Flags. Interface
// timestamps are in ns, as AppendIDB declares. It allocates nothing beyond the
// growth of dst.
func AppendEPB(dst []byte, d *Datagram) []byte {
	dst, start := beginBlock(dst, BlockEPB)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(d.Interface))
	dst = appendTime(dst, uint64(d.Time))
	dst = append(dst, make([]byte, 8)...)
	at := len(dst)
	wire := int(d.FrameLength)
	if d.Frame != nil {
		dst = append(dst, d.Frame...)
	} else {
		dst, wire = AppendMadeFrame(dst, d)
	}
	captured := len(dst) - at
	binary.LittleEndian.PutUint32(dst[at-8:], uint32(captured))
	binary.LittleEndian.PutUint32(dst[at-4:], uint32(max(wire, captured)))
	dst = append(dst, zeros[:pad4(captured)-captured]...)
	if d.Drops != 0 || d.Flags != 0 {
		if d.Drops != 0 {
			dst = appendOption64(dst, optEPBDropCount, d.Drops)
		}
		if d.Flags != 0 {
			dst = appendOption32(dst, optEPBLocalFlags, uint32(d.Flags))
		}
		dst = appendOptionEnd(dst)
	}
	return endBlock(dst, start)
}
