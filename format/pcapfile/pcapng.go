package pcapfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"castdeck/format"
)

// LinkTypeUnknown stands for the link type of an interface whose description is
// unreadable.
const LinkTypeUnknown = 0xFFFF

const (
	// resyncBlock is the largest block that is looked for behind damage.
	resyncBlock = 512 << 10
	// chainBlocks in a row, or fewer that end exactly with the file, make a place
	// behind damage credible.
	chainBlocks = 3
	chainBytes  = chainBlocks * resyncBlock
)

// clock is an interface's clock and what was already said about it.
type clock struct {
	format.Clock
	bad      bool // its resolution is not usable
	reported bool // a time that does not fit was reported
}

// blocks parses pcapng.
type blocks struct {
	win    *window
	ifaces *interfaces
	swap   bool // the section's byte order is not little-endian
	skip   bool // the section is of a newer version
	first  int  // index of the section's interface 0 in ifaces
	count  int  // interfaces of the section, described or beyond the limit
	last   int64
	after  error // to return after the record that was just returned
	epb    format.EPB
}

// open reads what describes the capture before its first packet, so that
// Interfaces is of use from the start. Damage is left to next.
func (p *blocks) open() error {
	for range 1024 {
		b := p.win.fill(format.BlockOverhead)
		if len(b) < format.BlockOverhead {
			return nil
		}
		typ, n, order, err := format.BlockHeader(b[:format.BlockOverhead], p.swap)
		if err != nil || typ != format.BlockSHB && typ != format.BlockIDB || n > windowSize {
			return nil
		}
		_, body, _, _, err := format.NextBlock(p.win.fill(n), order)
		if err != nil {
			return nil
		}
		if typ == format.BlockSHB {
			// The section that begins the file decides whether it can be read.
			if p.win.off > 0 {
				return nil
			}
			if _, _, err := format.ParseSHB(body); errors.Is(err, format.ErrVersion) {
				return fmt.Errorf("%s: %w", p.win.src.name, err)
			}
		}
		if p.block(typ, body, order, nil) != nil {
			p.forget(typ)
			return nil
		}
		p.win.consume(n)
	}
	return nil
}

// forget takes back what block did for a description that open leaves to next.
func (p *blocks) forget(typ uint32) {
	if typ == format.BlockIDB {
		p.count--
		p.ifaces.list = p.ifaces.list[:len(p.ifaces.list)-1]
		p.ifaces.clocks = p.ifaces.clocks[:len(p.ifaces.clocks)-1]
	}
}

func (p *blocks) ready(b []byte) bool {
	if len(b) < format.BlockOverhead {
		return false
	}
	_, n, _, err := format.BlockHeader(b[:format.BlockOverhead], p.swap)
	return err != nil || n <= len(b)
}

func (p *blocks) next(rec *record) error {
	if err := p.after; err != nil {
		p.after = nil
		return err
	}
	for {
		typ, body, n, order, err := p.cut()
		if err != nil {
			return err
		}
		start := p.win.off
		p.win.consume(n)
		rec.data, rec.isStats = nil, false
		if err := p.block(typ, body, order, rec); err != nil {
			if errors.Is(err, format.ErrVersion) {
				return fmt.Errorf("%s: section at byte %d is left out: %w", p.win.src.name, start, err)
			}
			damage := p.win.corrupt(start, int64(n), err.Error())
			damage.Counted = true
			if rec.data == nil {
				if isPacket(typ) {
					damage.Datagrams = 1
				}
				return damage
			}
			damage.Length = 0 // the packet was read
			p.after = damage
		}
		if rec.data != nil || rec.isStats {
			return nil
		}
	}
}

// fastAhead is how much must be in the window for cut to try a block at once: with
// less, the block may well be there in part only, and the error of that costs more
// than is gained.
const fastAhead = 64 << 10

// cut makes the next block of n bytes visible; body is valid until the window is
// filled again. The block is not consumed, what an error is about is.
func (p *blocks) cut() (typ uint32, body []byte, n int, order bool, err error) {
	if b := p.win.buffered(); len(b) >= fastAhead {
		var rest []byte
		if typ, body, rest, order, err = format.NextBlock(b, p.swap); err == nil {
			return typ, body, len(b) - len(rest), order, nil
		}
	}
	b := p.win.fill(format.BlockOverhead)
	if len(b) == 0 {
		return 0, nil, 0, false, p.win.end()
	}
	if len(b) < format.BlockOverhead {
		return 0, nil, 0, false, p.win.cut("a block's header")
	}
	typ, n, _, err = format.BlockHeader(b[:format.BlockOverhead], p.swap)
	if err != nil {
		return 0, nil, 0, false, p.resyncer().resync(err.Error())
	}
	if b = p.win.fill(n); len(b) < n {
		r := p.resyncer()
		if at := r.find(); at > 0 {
			return 0, nil, 0, false, r.skipTo(at, fmt.Sprintf("block of %d bytes where %d are left", n, len(b)))
		}
		damage := p.win.cut(fmt.Sprintf("a block of %d bytes", n))
		if isPacket(typ) {
			atLeastOne(damage)
		}
		return 0, nil, 0, false, damage
	}
	if typ, body, _, order, err = format.NextBlock(b[:n], p.swap); err != nil {
		return 0, nil, 0, false, p.resyncer().resync(err.Error())
	}
	return typ, body, n, order, nil
}

// block takes one block. Where it holds a record it fills rec; an error with
// rec.data set is one to report after the record. rec may be nil for the blocks
// that describe.
func (p *blocks) block(typ uint32, body []byte, order bool, rec *record) error {
	if typ == format.BlockSHB {
		_, _, err := format.ParseSHB(body)
		p.swap, p.skip = order, errors.Is(err, format.ErrVersion)
		p.first, p.count = len(p.ifaces.list), 0
		return err
	}
	if p.skip {
		return nil
	}
	switch typ {
	case format.BlockIDB:
		return p.describe(body)
	case format.BlockEPB:
		return p.packet(rec, format.ParseEPB(body, p.swap, &p.epb))
	case format.BlockPacket:
		return p.packet(rec, format.ParsePacket(body, p.swap, &p.epb))
	case format.BlockSPB:
		if p.count == 0 || p.first == len(p.ifaces.list) {
			return errors.New("simple packet block in a section without interfaces")
		}
		return p.packet(rec, format.ParseSPB(body, p.swap, p.ifaces.list[p.first].SnapLen, &p.epb))
	case format.BlockISB:
		return p.statistics(body, rec)
	}
	return nil
}

// describe takes an interface description. One that is damaged keeps its place:
// packets name their interface by number.
func (p *blocks) describe(body []byte) error {
	p.count++
	if len(p.ifaces.list) == format.MaxInterfaces {
		if p.first+p.count == format.MaxInterfaces+1 {
			return fmt.Errorf("more than %d interfaces", format.MaxInterfaces)
		}
		return nil // its packets are reported
	}
	i, c, err := format.ParseIDB(body, p.swap)
	if err != nil && i == (format.Interface{}) {
		i.LinkType = LinkTypeUnknown
	}
	p.ifaces.add(i, clock{Clock: c, bad: err != nil})
	return err
}

func (s *interfaces) add(i format.Interface, c clock) {
	s.texts.Keep(&i)
	s.list = append(s.list, i)
	s.clocks = append(s.clocks, c)
}

// lookup finds an interface of the section in the whole file.
func (p *blocks) lookup(local uint32) (global int, err error) {
	global = p.first + int(local)
	if int64(local) >= int64(p.count) || global >= len(p.ifaces.list) {
		return 0, fmt.Errorf("names interface %d of the section's %d", local, p.count)
	}
	return global, nil
}

// packet makes a record of p.epb.
func (p *blocks) packet(rec *record, err error) error {
	if err != nil {
		return err
	}
	e := &p.epb
	index, err := p.lookup(e.Interface)
	if err != nil {
		return fmt.Errorf("packet %w", err)
	}
	*rec = record{data: e.Data, time: p.last, drops: e.Drops, original: e.Original, iface: uint16(index), flags: e.Flags}
	c := &p.ifaces.clocks[index]
	if c.bad {
		rec.flags |= format.FlagNoTime
	}
	if rec.flags&format.FlagNoTime != 0 {
		return nil
	}
	ns, ok := c.Nanoseconds(e.Time)
	if !ok {
		rec.flags |= format.FlagNoTime
		if c.reported {
			return nil
		}
		c.reported = true
		return fmt.Errorf("interface %d has times that do not fit (before 1678 or after 2262); its packets come without time", index)
	}
	rec.time, p.last = ns, ns
	return nil
}

func (p *blocks) statistics(body []byte, rec *record) error {
	s, err := format.ParseISB(body, p.swap)
	if err != nil {
		return err
	}
	index, err := p.lookup(s.Interface)
	if err != nil {
		return fmt.Errorf("statistics block %w", err)
	}
	*rec = record{isStats: true, stats: s.Stats}
	rec.stats.Interface, rec.stats.Time = uint16(index), p.last
	if c := &p.ifaces.clocks[index]; !c.bad {
		if ns, ok := c.Nanoseconds(s.Time); ok {
			rec.stats.Time = ns
		}
	}
	return nil
}

func (p *blocks) resyncer() *resyncer {
	return &resyncer{win: p.win, unit: "block", least: format.BlockOverhead, span: chainBytes,
		chained: func(b []byte) bool { return p.likely(b) && p.chained(b) }}
}

// likely looks at type and length only: it rules out nearly every place at a
// nanosecond each, where chained takes a hundred times as long.
func (p *blocks) likely(b []byte) bool {
	typ, n := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	if typ == format.BlockSHB {
		return true // its length is in the order of the section that it opens
	}
	if p.swap {
		typ, n = bits.ReverseBytes32(typ), bits.ReverseBytes32(n)
	}
	return known(typ) && n >= format.BlockOverhead && n <= resyncBlock && n%4 == 0
}

// chained asks for the blocks that files consist of; the same length at both ends
// of each leaves little to chance.
func (p *blocks) chained(b []byte) bool {
	order := p.swap
	for range chainBlocks {
		if len(b) == 0 {
			return p.win.err != nil // ends with the file; the first round never comes here
		}
		if len(b) < format.BlockOverhead {
			return false
		}
		typ, n, o, err := format.BlockHeader(b[:format.BlockOverhead], order)
		if err != nil || n > resyncBlock || n > len(b) || !known(typ) {
			return false
		}
		_, _, rest, o, err := format.NextBlock(b, o)
		if err != nil {
			return false
		}
		b, order = rest, o
	}
	return true
}

func isPacket(typ uint32) bool {
	return typ == format.BlockEPB || typ == format.BlockPacket || typ == format.BlockSPB
}

func known(typ uint32) bool {
	switch typ {
	case format.BlockSHB, format.BlockIDB, format.BlockNRB, format.BlockISB:
		return true
	}
	return isPacket(typ) || typ&0x80000000 != 0 // local use, castdeck's own among them
}
