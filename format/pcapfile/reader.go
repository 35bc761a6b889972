// Package pcapfile turns foreign captures into batches and batches into classic
// pcap: whatever tcpdump, Wireshark, a switch or a FRITZ!Box wrote, with or
// without compression. It is the only package that uses gopacket, and it uses
// gopacket's layer decoders only: its capture readers panic, allocate what a
// length field says and report a file that was cut off as complete.
package pcapfile

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"castdeck/format"
)

// A batch without memory of its own gets this much; one that has memory is filled
// up to it. batchBytes holds the largest packet that is read.
const (
	batchDatagrams = 512
	batchBytes     = format.MaxPacketSize
)

// Counts are running totals of a Reader. At the end of the file, and whenever no
// fragment is held back,
//
//	Packets + Reassembled == Datagrams + NotUDP + Joined
type Counts struct {
	// Packets are the packet records in the file that could be read.
	Packets uint64
	// Datagrams are the UDP datagrams delivered, reassembled ones included.
	Datagrams uint64
	// NotUDP are the packets delivered with FlagNotUDP, fragments that were not
	// joined included.
	NotUDP uint64
	// Fragments are the packets that held a fragment of a UDP datagram.
	Fragments uint64
	// Joined are the fragments that became part of a reassembled datagram and so
	// were not delivered by themselves.
	Joined uint64
	// Reassembled are the datagrams put together from Joined fragments.
	Reassembled uint64
	// ReassemblyFailed are the datagrams of which at least one fragment was held
	// and that did not become whole: fragments missing after 30 s of capture time
	// or at the end, overlapping, or given up because too many were open.
	ReassemblyFailed uint64
	// Truncated are the packets of which the capture kept fewer bytes than were
	// on the wire. A datagram may still be whole, when only padding was cut.
	Truncated uint64
}

// Reader reads a capture as batches of datagrams, in the order of the file. It is
// a format.BatchReader and, as such, for one goroutine.
//
// Payload points into Frame, and both into the batch's Buf. Frame is the packet
// as captured; Interface counts over the whole file, through all its sections.
//
// Fragments: a UDP datagram that arrived in IP fragments is delivered once, with
// FlagReassembled and without Frame, at the place and time of the fragment that
// completed it; its fragments are not delivered. Fragments that never become a
// whole datagram are delivered as they are, with FlagNotUDP, late: at the timeout
// of 30 s of capture time, when memory for them runs out (16 MiB, 4,096 datagrams)
// or at the end. So no packet of the file is lost or delivered twice, and Counts
// says what happened. Fragments are joined only within one interface, never where
// they overlap (RFC 5722), and never where the capture cut them; a repeated
// fragment is delivered by itself.
//
// Damage is an error between batches, not the end: ReadBatch first returns all
// that was read before the damage, then once a *format.CorruptError with an empty
// batch, then what follows the damage as far as reading can go on there, at last
// io.EOF. A section of a newer version of pcapng is an error that wraps
// format.ErrVersion, and reading goes on at the next section. Any other error
// comes from the underlying reader and stays.
//
// Memory is bounded whatever the file: the window of at most 16 MiB (512 KiB for
// what real tools write), the decompressor's window of at most 32 MiB, the
// fragments, and the names of at most 65,536 interfaces (2 MiB).
type Reader struct {
	src     *source
	win     *window
	parser  parser
	kind    string // "pcap" or "pcapng"
	live    bool   // what is not compressed may be a pipe, see ReadBatch
	ifaces  interfaces
	decoder *Decoder
	frags   reassembler
	counts  Counts

	rec     record    // the record read last
	have    bool      // it is not delivered yet
	apart   bool      // fragments are not joined
	whole   *assembly // a datagram that is complete and not delivered yet
	pending error     // to return once what was read before it is delivered

	file   io.Closer
	closed bool
}

// record is one packet or statistics record of a file.
type record struct {
	data     []byte // points into the window, valid until the next one is read
	time     int64
	drops    uint64
	original uint32
	iface    uint16
	flags    format.Flags
	isStats  bool
	stats    format.InterfaceStats
}

// parser reads one file format.
type parser interface {
	// next reads the next record. The errors are those of Reader.ReadBatch.
	next(*record) error
	// ready reports whether next can do without reading more from the stream.
	ready(buffered []byte) bool
}

// interfaces are the interfaces of a file. The list only grows.
type interfaces struct {
	list   []format.Interface
	clocks []clock
	texts  format.InterfaceTexts
}

// Open opens the capture at path; see NewReader. The Reader owns the file until
// Close.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := NewReader(f, path)
	if err != nil {
		f.Close()
		return nil, err
	}
	r.file = f
	return r, nil
}

// NewReader reads a capture from r: classic pcap (both byte orders, micro- and
// nanoseconds, Kuznetzov's modified records) or pcapng, plain or within gzip, zstd
// or lz4. It goes by the content, never by the name, which only appears in errors.
// Something else is an error that wraps format.ErrFormat and says what it looks
// like; a file version from the future wraps format.ErrVersion; compression that is
// damaged before anything could be recognised is a *format.CorruptError.
//
// It reads ahead, and does not close r.
func NewReader(r io.Reader, name string) (*Reader, error) {
	src, err := openSource(r, name)
	if err != nil {
		return nil, err
	}
	rd := &Reader{src: src, win: newWindow(src), live: src.container == "", decoder: NewDecoder()}
	rd.frags.init()
	if err := rd.recognise(); err != nil {
		src.release()
		return nil, err
	}
	return rd, nil
}

// recognise chooses the parser. It needs 4 bytes for classic pcap and 12 for
// pcapng, and takes more only to describe what it does not know.
func (r *Reader) recognise() error {
	head := r.win.fill(4)
	if len(head) >= 4 {
		if p := newClassic(head, r.win, &r.ifaces); p != nil {
			r.kind, r.parser = "pcap", p
			return p.open()
		}
		if binary.LittleEndian.Uint32(head) == format.BlockSHB {
			head = r.win.fill(12)
			_, err := format.SectionOrder(head[min(len(head), 8):])
			if err == nil || len(head) < 12 && r.win.err == io.EOF {
				p := &blocks{win: r.win, ifaces: &r.ifaces}
				r.kind, r.parser = "pcapng", p
				return p.open()
			}
		}
	}
	head = r.win.fill(headSize)
	if r.win.err != nil && r.win.err != io.EOF && len(head) < headSize {
		return r.win.end()
	}
	inside := ""
	if r.src.container != "" {
		inside = "inside " + r.src.container + ", "
	}
	return fmt.Errorf("%s: %w: %s%s", r.src.name, format.ErrFormat, inside, describe(head[:min(len(head), headSize)]))
}

// KeepFragments makes the reader deliver fragments as they are, with FlagNotUDP, at their
// place; nothing is joined. It is called before the first ReadBatch.
func (r *Reader) KeepFragments() { r.apart = true }

// Format names the container and the compression as their usual file name ends:
// "pcap", "pcapng", "pcap.gz", "pcapng.zst", "pcap.lz4".
func (r *Reader) Format() string { return r.kind + r.src.suffix }

// Interfaces are the interfaces known so far: those at the start of the file from
// the beginning, others once a batch has come from behind their description. An
// interface whose description is unreadable keeps its place, with an empty name
// and LinkType 65535. The slice is the Reader's; it never changes, a later call
// may return a longer one. Names are cut to 256 bytes and descriptions to 1,024.
func (r *Reader) Interfaces() []format.Interface {
	n := len(r.ifaces.list)
	return r.ifaces.list[:n:n]
}

// Counts are the totals so far.
func (r *Reader) Counts() Counts { return r.counts }

// Close releases the decompressor and closes the file that Open opened. It is
// idempotent, and not to be called while ReadBatch runs; later calls of ReadBatch
// return an error that wraps os.ErrClosed.
func (r *Reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.src.release()
	if r.file != nil {
		return r.file.Close()
	}
	return nil
}

// ReadBatch replaces the contents of b with what comes next in the file, at least
// one datagram or one statistics record, or returns an error; see Reader. It
// allocates nothing once b has its memory: 512 datagrams and 256 KiB where it has
// none, otherwise what its capacities allow, grown only for a single packet that
// does not fit. From a pipe it returns what is there instead of waiting until the
// batch is full.
func (r *Reader) ReadBatch(b *format.Batch) error {
	b.Reset()
	if r.closed {
		return fmt.Errorf("%s: %w", r.src.name, os.ErrClosed)
	}
	if cap(b.Datagrams) == 0 {
		b.Datagrams = make([]format.Datagram, 0, batchDatagrams)
	}
	if cap(b.Buf) == 0 {
		b.Buf = make([]byte, 0, batchBytes)
	}
	for len(b.Stats) < batchDatagrams && r.step(b) {
	}
	if len(b.Datagrams)+len(b.Stats) > 0 {
		return nil
	}
	err := r.pending
	r.pending = nil // one that stays, the parser returns again
	return err
}

// step adds at most one datagram or statistics record to b. It reports false where
// b is to be returned as it is.
func (r *Reader) step(b *format.Batch) bool {
	switch {
	case r.frags.failed != nil:
		return r.deliverFailed(b)
	case r.whole != nil:
		return r.deliverWhole(b)
	case r.have:
		return r.deliver(b)
	case r.pending != nil:
		return false
	}
	if r.live && r.win.short && len(b.Datagrams) > 0 && !r.parser.ready(r.win.buffered()) {
		return false
	}
	if err := r.parser.next(&r.rec); err != nil {
		r.pending = err
		if r.frags.open > 0 && !format.Damaged(err) {
			// Fragments that are still alone will stay so. Deliver them first;
			// the parser returns this error again.
			r.frags.failAll(&r.counts)
			r.pending = nil
		}
		return r.pending == nil
	}
	if r.rec.isStats {
		b.Stats = append(b.Stats, r.rec.stats)
		return true
	}
	r.have = true
	if r.frags.open > 0 {
		r.frags.expire(r.rec.time, &r.counts)
	}
	return true
}

// room reserves a datagram and n bytes of Buf; false where b must be returned
// first.
func room(b *format.Batch, n int) bool {
	if len(b.Datagrams) == cap(b.Datagrams) {
		return false
	}
	if n > cap(b.Buf)-len(b.Buf) {
		if len(b.Datagrams) > 0 {
			return false
		}
		b.Buf = make([]byte, 0, n)
	}
	return true
}

// deliver puts the record into b, or hands it to the reassembler.
func (r *Reader) deliver(b *format.Batch) bool {
	rec := &r.rec
	if !room(b, len(rec.data)) {
		return false
	}
	r.have = false
	r.counts.Packets++
	if uint32(len(rec.data)) < rec.original {
		r.counts.Truncated++
	}
	n, start := len(b.Datagrams), len(b.Buf)
	b.Buf = append(b.Buf, rec.data...)
	b.Datagrams = b.Datagrams[:n+1]
	d := &b.Datagrams[n]
	*d = format.Datagram{
		Time:        rec.time,
		Drops:       rec.drops,
		FrameLength: rec.original,
		Interface:   rec.iface,
		Flags:       rec.flags,
		Frame:       b.Buf[start:len(b.Buf):len(b.Buf)],
	}
	switch r.decoder.decode(r.ifaces.list[rec.iface].LinkType, d) {
	case isUDP:
		r.counts.Datagrams++
		return true
	case isFragment:
		r.counts.Fragments++
		if r.apart {
			break
		}
		held, whole := r.frags.add(&r.decoder.fragment, d, &r.counts)
		if held {
			b.Datagrams, b.Buf = b.Datagrams[:n], b.Buf[:start]
			r.whole = whole
			return true
		}
	}
	r.counts.NotUDP++
	return true
}

// deliverWhole puts the completed datagram into b.
func (r *Reader) deliverWhole(b *format.Batch) bool {
	a := r.whole
	if !room(b, a.total) {
		return false
	}
	r.whole = nil
	n, start := len(b.Datagrams), len(b.Buf)
	b.Buf = a.join(b.Buf)
	b.Datagrams = b.Datagrams[:n+1]
	d := &b.Datagrams[n]
	if !a.datagram(r.decoder, b.Buf[start:len(b.Buf):len(b.Buf)], d) {
		b.Datagrams, b.Buf = b.Datagrams[:n], b.Buf[:start]
		r.frags.giveUp(a, &r.counts)
		return true
	}
	r.counts.Datagrams++
	r.counts.Reassembled++
	r.counts.Joined += uint64(len(a.pieces))
	r.frags.release(a)
	return true
}

// deliverFailed puts the next fragment of a datagram that was given up into b.
func (r *Reader) deliverFailed(b *format.Batch) bool {
	a := r.frags.failed
	p := &a.pieces[a.delivered]
	if !room(b, p.frameEnd-p.frame) {
		return false
	}
	n, start := len(b.Datagrams), len(b.Buf)
	b.Buf = append(b.Buf, a.data[p.frame:p.frameEnd]...)
	b.Datagrams = b.Datagrams[:n+1]
	b.Datagrams[n] = format.Datagram{
		Time:        p.time,
		Drops:       p.drops,
		FrameLength: p.frameLength,
		Interface:   a.key.iface,
		Flags:       p.flags,
		Frame:       b.Buf[start:len(b.Buf):len(b.Buf)],
	}
	r.counts.NotUDP++
	if a.delivered++; a.delivered == len(a.pieces) {
		r.frags.failed = a.next
		r.frags.release(a)
	}
	return true
}
