package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"sort"

	"castdeck/format"
)

// ReadOptions of a Reader. The zero value reads files of castdeck's own recorder.
type ReadOptions struct {
	// Decoder finds the datagram in frames that format.DecodePlain does not take:
	// VLAN tags, other link types, header options. Without it such packets come out
	// as format.FlagNotUDP.
	Decoder format.FrameDecoder
}

// Reader reads one segment, sealed or not, also while it is being written. It
// implements format.BatchReader: damage is an error between batches
// (*format.CorruptError), after which reading goes on behind it; io.EOF ends. It
// is not safe for concurrent use.
type Reader struct {
	path string
	f    io.ReaderAt
	c    io.Closer
	size int64
	o    ReadOptions

	compression format.Compression
	dec         *format.Decoder
	win         window
	raw         []byte // content of frames that are no chunks

	info       *format.SegmentInfo
	interfaces []format.Interface
	texts      format.InterfaceTexts
	shown      bool   // Interfaces was called since the list was copied
	known      bool   // interfaces are complete: descriptions in chunks are repeats
	base       int    // index of the current section's interface 0
	sections   int    // first frames seen
	next       uint32 // number of the chunk that should come next
	gaps       []span // numbers below next that have not come, ascending
	late       int64  // offset of a chunk of which was told that it stands too late
	start      int64  // offset of the first chunk
	offset     int64
	footer     *format.Footer
	index      *format.Index        // nil until known
	indexErr   error                // why the index of a sealed file is not used
	taken      int                  // chunks read
	table      *format.Index        // where Scan gathers the chunks that it reads, else nil
	found      *format.Index        // where Scan gathers the index's blocks, else nil
	salvaged   bool                 // by NewSalvage
	lost       *format.CorruptError // the damage before start, to be told first
	work       int64                // bytes decoded in search of frames behind damage
}

// Open opens a segment file. Where its first frame is damaged, and a chunk follows in the
// first 4 MiB, the reader is one that Salvage makes. The error wraps format.ErrFormat
// where the file is no castdeck segment, and format.ErrVersion where it is a newer one.
func Open(path string, o ReadOptions) (*Reader, error) { return openWith(path, false, o, openFile) }

// NewReader reads a segment of size bytes from f; path is for messages only.
func NewReader(f io.ReaderAt, size int64, path string, o ReadOptions) (*Reader, error) {
	r := &Reader{path: path, f: f, size: size, o: o}
	r.win = window{f: f, size: size}
	b, err := r.win.peek(0, 64)
	if err != nil {
		return nil, err
	}
	c, ok := format.SniffCompression(b)
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, format.ErrFormat)
	}
	if err := r.unpack(c); err != nil {
		return nil, err
	}
	frame, err := r.frameAt(0)
	if err == nil {
		r.raw, err = r.dec.Decode(r.raw, frame)
	}
	if err == nil {
		err = r.opening(r.raw)
	}
	if err != nil {
		if s := r.probe(); s != nil {
			return s, nil
		}
	}
	switch {
	case errors.Is(err, format.ErrVersion):
		return nil, fmt.Errorf("%s: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %w", path, format.ErrFormat, err)
	}
	r.start = int64(len(frame))
	r.offset = r.start
	r.readFooter()
	return r, nil
}

// probe is the salvaging reader of a file whose first frame could not be read; nil where
// the file is, as far as a look at its start tells, no recording of this version.
// Readers of other formats must not have it: many would begin to read it, and a zstd
// stream, for one, ends at the damage.
func (r *Reader) probe() *Reader {
	const most = 4 << 20
	if r.compression == format.None && r.packetsFirst() {
		return nil
	}
	if s, err := salvage(r.f, min(r.size, most), r.path, r.o, r.compression); s == nil || err != nil {
		return nil
	}
	s, err := salvage(r.f, r.size, r.path, r.o, r.compression)
	if err != nil {
		return nil
	}
	return s
}

// packetsFirst says that packets come before any block of castdeck's: the capture is
// another tool's, and what looks like a chunk in it is in somebody's payload.
func (r *Reader) packetsFirst() bool {
	b, err := r.win.peek(0, windowFirst)
	for err == nil && len(b) >= format.BlockOverhead {
		typ, n, _, bad := format.BlockHeader(b, false)
		if typ == format.BlockEPB || typ == format.BlockSPB {
			return true
		}
		if bad != nil || n > len(b) || typ == format.BlockSegment || typ == format.BlockChunk {
			return false
		}
		b = b[n:]
	}
	return false
}

func (r *Reader) unpack(c format.Compression) (err error) {
	r.compression = c
	r.dec, err = format.NewDecoder(c)
	return err
}

// Salvage opens a segment file whose first frame is damaged: everything behind it
// that is whole can be read. Names of interfaces are known where the file is
// sealed. It searches the file for a chunk, so it is for files that Open and
// readers of other formats have refused; the error wraps format.ErrFormat where
// there is none.
func Salvage(path string, o ReadOptions) (*Reader, error) {
	return openWith(path, true, o, openFile)
}

// NewSalvage is Salvage on f.
func NewSalvage(f io.ReaderAt, size int64, path string, o ReadOptions) (*Reader, error) {
	for _, c := range []format.Compression{format.Zstd, format.Gzip, format.None} {
		if r, err := salvage(f, size, path, o, c); r != nil || err != nil {
			return r, err
		}
	}
	return nil, fmt.Errorf("%s: %w", path, format.ErrFormat)
}

// salvage is NewSalvage of a file that is packed so; nil where there is no chunk in it.
func salvage(f io.ReaderAt, size int64, path string, o ReadOptions, c format.Compression) (*Reader, error) {
	r := &Reader{path: path, f: f, size: size, o: o}
	r.win = window{f: f, size: size}
	if err := r.unpack(c); err != nil {
		return nil, err
	}
	pos, h, err := r.searchChunk()
	if err != nil || pos < 0 {
		return nil, err
	}
	r.info = &format.SegmentInfo{Recording: h.Recording, Number: h.Segment}
	r.sections, r.salvaged = 1, true
	r.start, r.offset = pos, pos
	r.skip(h.Number)
	r.lost = &format.CorruptError{Path: path, Length: pos, Chunks: int(h.Number), Counted: h.Number == 0,
		Reason: fmt.Sprintf("the first frame is damaged; %d chunk(s) lost before chunk %d", h.Number, h.Number)}
	r.readFooter()
	return r, nil
}

// searchChunk is the offset and header of the first whole chunk, -1 where there is
// none. Index and footer may stand before it, where something was put over the start of
// the file; so may a segment block that counts as an index after a flipped bit.
func (r *Reader) searchChunk() (int64, format.ChunkHeader, error) {
	for pos := int64(0); ; pos++ {
		var err error
		if pos, err = r.search(pos); pos < 0 || err != nil {
			return -1, format.ChunkHeader{}, err
		}
		if h, err := format.ParseChunkHeader(r.raw); err == nil {
			return pos, h, nil
		}
	}
}

// opening reads the blocks of a first frame: section header, interfaces, segment
// block.
func (r *Reader) opening(raw []byte) error {
	base := len(r.interfaces)
	var interfaces []format.Interface
	for {
		typ, body, rest, _, err := format.NextBlock(raw, false)
		if err != nil {
			return err
		}
		switch typ {
		case format.BlockSHB:
			if _, swap, err := format.ParseSHB(body); err != nil {
				return err
			} else if swap {
				return fmt.Errorf("big-endian section: not written by castdeck")
			}
		case format.BlockIDB:
			i, _, err := format.ParseIDB(body, false)
			if err != nil {
				return err
			}
			if base+len(interfaces) >= format.MaxInterfaces {
				return fmt.Errorf("more than %d interfaces", format.MaxInterfaces)
			}
			r.texts.Keep(&i)
			interfaces = append(interfaces, i)
		case format.BlockSegment:
			info, err := format.ParseSegmentBlock(body)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return fmt.Errorf("%d bytes behind the segment block: packed again by another tool", len(rest))
			}
			r.info, r.base, r.next, r.gaps = info, base, 0, nil
			r.interfaces = append(r.interfaces, interfaces...)
			r.known = false
			r.sections++
			return nil
		default:
			return fmt.Errorf("block of type %#x before the segment block", typ)
		}
		raw = rest
	}
}

// Close releases the file. Closing again does nothing.
func (r *Reader) Close() error {
	if r.c == nil {
		return nil
	}
	c := r.c
	r.c = nil
	return c.Close()
}

// Info is the segment block.
func (r *Reader) Info() *format.SegmentInfo { return r.info }

// Path is the name that the reader was opened with.
func (r *Reader) Path() string { return r.path }

// Compression of the file.
func (r *Reader) Compression() format.Compression { return r.compression }

// Interfaces known so far, of a sealed file all of them. The slice is the reader's; it
// never changes, a later call may return another one.
func (r *Reader) Interfaces() []format.Interface {
	r.shown = true
	n := len(r.interfaces)
	return r.interfaces[:n:n]
}

// Sealed says whether the file ends in a footer. One that does not is still being
// written or was cut off.
func (r *Reader) Sealed() bool { return r.footer != nil }

// Salvaged says that the first frame is damaged (see Salvage).
func (r *Reader) Salvaged() bool { return r.salvaged }

// Footer of a sealed file, else nil.
func (r *Reader) Footer() *format.Footer { return r.footer }

// Size of the file in bytes when it was opened.
func (r *Reader) Size() int64 { return r.size }

// readFooter looks for a footer at the end and, behind it, the index. A footer
// that does not hold is as good as none: the data are in the chunks.
func (r *Reader) readFooter() {
	n := int64(format.StoredSize(r.compression, format.FooterSize))
	if r.size < r.start+n {
		return
	}
	b := make([]byte, n)
	if _, err := r.f.ReadAt(b, r.size-n); err != nil {
		return
	}
	raw, err := r.dec.Decode(nil, b)
	if err != nil {
		return
	}
	f, err := format.ParseFooter(raw)
	if err != nil || f.Recording != r.info.Recording {
		return
	}
	r.footer = f
	if r.index, r.indexErr = r.readIndex(f, r.size-n); r.index != nil {
		r.adopt(r.index)
	}
}

// adopt takes all interfaces from an index, so that reading can begin anywhere.
func (r *Reader) adopt(x *format.Index) {
	r.index = x
	r.interfaces = slices.Clip(x.Interfaces) // which is never appended to in place
	r.known = true
}

// errMoved says that an index is sound but belongs to another packing of the file.
var errMoved = errors.New("the index is not where the footer says: unpacked or packed again by another tool")

// readIndex reads the index that f points to and checks that it can be this
// file's: in a copy that another tool unpacked or repacked, the offsets are wrong
// though nothing is damaged.
func (r *Reader) readIndex(f *format.Footer, footerAt int64) (*format.Index, error) {
	if f.IndexOffset < r.start || f.IndexOffset > footerAt || uint64(footerAt-f.IndexOffset) != uint64(f.IndexSize) {
		return nil, errMoved
	}
	// A chunk's frame takes 64 bytes at least, so a false index cannot cost more
	// memory than the file's size.
	most := r.size / 64
	x := &format.Index{Chunks: make([]format.ChunkEntry, 0, min(int64(f.Chunks), most, format.MaxIndexChunks))}
	for at := f.IndexOffset; at < footerAt; {
		frame, err := r.frameAt(at)
		if err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
		if r.raw, err = r.dec.Decode(r.raw, frame); err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
		if err := x.AddBlock(r.raw); err != nil {
			return nil, err
		}
		if int64(x.ChunkCount()) > most {
			return nil, fmt.Errorf("index of more chunks than the file can hold")
		}
		at += int64(len(frame))
	}
	switch {
	case !x.Complete():
		return nil, fmt.Errorf("index without its last part")
	case x.Recording != f.Recording || x.Segment != f.Segment || x.ChunkCount() != int(f.Chunks):
		return nil, fmt.Errorf("index and footer disagree")
	case len(x.Interfaces) < len(r.interfaces):
		return nil, fmt.Errorf("index of %d interfaces, the first frame describes %d", len(x.Interfaces), len(r.interfaces))
	}
	end, datagrams, bytes := int64(0), uint64(0), uint64(0)
	for i := range x.Chunks {
		c := &x.Chunks[i]
		datagrams += uint64(c.Datagrams)
		bytes += c.Bytes
		if c.Offset < end || c.Offset > f.IndexOffset || c.Offset+int64(c.Size) > f.IndexOffset {
			return nil, fmt.Errorf("index places chunk %d at byte %d", i, c.Offset)
		}
		end = c.Offset + int64(c.Size)
	}
	if datagrams != f.Datagrams || bytes != f.Bytes {
		return nil, fmt.Errorf("index of %d datagrams, footer of %d", datagrams, f.Datagrams)
	}
	return x, nil
}

// IndexError says why the index of a sealed file is not used; nil where it is, or
// where the file is not sealed.
func (r *Reader) IndexError() error { return r.indexErr }

// Repacked says that the file is whole, but was unpacked or packed again by another
// tool: its index then does not fit.
func (r *Reader) Repacked() bool { return errors.Is(r.indexErr, errMoved) }

// frameAt is the whole frame at off, in the window's memory until its next use.
func (r *Reader) frameAt(off int64) ([]byte, error) {
	want := windowFirst
	for {
		b, err := r.win.peek(off, want)
		if err != nil {
			return nil, err
		}
		n, err := format.FrameLength(r.compression, b)
		switch {
		case err == nil:
			return b[:n], nil
		case !errors.Is(err, format.ErrShort):
			return nil, err
		case off+int64(n) > r.win.size: // which shrinks with the file
			return nil, errCut
		}
		// Twice as much each time: what was looked at is looked at again.
		want = int(min(max(int64(n), 2*int64(want)), r.win.size-off))
	}
}

var errCut = errors.New("the file ends within a frame")

// ReadBatch reads the next chunk. The batch's datagrams point into its Buf.
func (r *Reader) ReadBatch(b *format.Batch) error {
	for {
		b.Reset()
		if lost := r.lost; lost != nil {
			r.lost = nil
			return lost
		}
		if r.offset >= r.win.size {
			return io.EOF
		}
		frame, err := r.frameAt(r.offset)
		if err == nil {
			b.Buf, err = r.dec.Decode(b.Buf, frame)
		}
		if err == nil {
			err = r.take(b, len(frame))
		}
		if err == nil {
			r.offset += int64(len(frame))
			if !b.Empty() {
				return nil
			}
			continue
		}
		b.Reset()
		// A newer version behind a first frame of a known one is a flipped bit, not a
		// newer castdeck: damage like any other.
		var missing *format.CorruptError
		var failed *fs.PathError
		if errors.As(err, &missing) || errors.As(err, &failed) {
			return err
		}
		return r.resync(err)
	}
}

// take interprets a frame's content, which is b.Buf.
func (r *Reader) take(b *format.Batch, frameLen int) error {
	if len(b.Buf) < format.BlockOverhead {
		return fmt.Errorf("frame of %d bytes", len(b.Buf))
	}
	switch leadType(b.Buf) {
	case format.BlockChunk:
		return r.takeChunk(b, frameLen)
	case format.BlockIndex:
		if r.found != nil && r.sections == 1 {
			return r.found.AddBlock(b.Buf)
		}
		_, _, err := format.ParseIndexBlock(b.Buf)
		return err
	case format.BlockFooter:
		_, err := format.ParseFooter(b.Buf)
		return err
	case format.BlockSHB:
		// A second recording behind the first: cat of two files is a valid pcapng
		// of two sections.
		return r.opening(b.Buf)
	default:
		return format.CheckBlock(b.Buf)
	}
}

func leadType(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func (r *Reader) takeChunk(b *format.Batch, frameLen int) error {
	c, err := format.CheckChunk(b.Buf)
	if err != nil {
		return err
	}
	if c.Recording != r.info.Recording || c.Segment != r.info.Number {
		return fmt.Errorf("chunk %d of another segment (recording %s, segment %d)", c.Number, c.Recording, c.Segment)
	}
	// What is wrong with its place is told once, before the chunk's own datagrams: the
	// next call reads it again.
	switch {
	case c.Number > r.next:
		first, missing := r.next, c.Number-r.next
		r.skip(c.Number)
		return &format.CorruptError{Path: r.path, Offset: r.offset, Chunks: int(missing), FirstChunk: first,
			Reason: fmt.Sprintf("%d chunk(s) missing before chunk %d", missing, c.Number)}
	case c.Number == r.next:
		r.next++
	case gapOf(r.gaps, c.Number) < 0:
		return fmt.Errorf("chunk %d stands here again, chunk %d was due", c.Number, r.next)
	case r.late != r.offset:
		r.late = r.offset
		return &format.CorruptError{Path: r.path, Offset: r.offset, Chunks: -1, Counted: true,
			Reason: fmt.Sprintf("chunk %d stands here, too late: chunk %d was due", c.Number, r.next)}
	default:
		r.gaps = without(r.gaps, c.Number)
	}
	rest := b.Buf[format.ChunkHeaderSize:]
	b.Datagrams = slices.Grow(b.Datagrams, min(int(c.Packets), len(rest)/format.LeastPacketBlock))
	if err := r.parseChunk(b, rest); err != nil {
		return err
	}
	if r.taken++; r.table != nil {
		// Of chunks that do not fit, such as with 4 GiB of damage between them, there is
		// no table: their number tells.
		_ = r.table.AddChunk(format.ChunkEntry{
			Offset: r.offset, Size: uint32(frameLen), Raw: uint32(len(b.Buf)), First: c.First, Last: c.Last,
			Packets: c.Packets, Datagrams: c.Datagrams, Bytes: c.Bytes, Dropped: c.Dropped,
		})
	}
	return nil
}

// span is chunk numbers, to not included.
type span struct{ from, to uint32 }

// skip notes that the chunks from r.next to n have not come. They may stand elsewhere.
func (r *Reader) skip(n uint32) {
	const most = 1 << 18 // of which a hostile file could have one for every chunk
	if n == r.next {
		return
	}
	if len(r.gaps) >= most {
		r.gaps = r.gaps[1:]
	}
	r.gaps = append(r.gaps, span{r.next, n})
	r.next = n
}

// gapOf is the place of the gap that n is in, or -1.
func gapOf(gaps []span, n uint32) int {
	i := sort.Search(len(gaps), func(i int) bool { return gaps[i].to > n })
	if i == len(gaps) || gaps[i].from > n {
		return -1
	}
	return i
}

// without takes n, which is in one of the gaps, out of them.
func without(gaps []span, n uint32) []span {
	i := gapOf(gaps, n)
	g := gaps[i]
	switch {
	case g.from == n && g.to == n+1:
		return slices.Delete(gaps, i, i+1)
	case g.from == n:
		gaps[i].from++
	case g.to == n+1:
		gaps[i].to--
	default:
		gaps[i].to = n
		return slices.Insert(gaps, i+1, span{n + 1, g.to})
	}
	return gaps
}

// parseChunk fills the batch from the blocks behind a chunk header, whose
// checksum was right: an error here means that the writer was wrong.
func (r *Reader) parseChunk(b *format.Batch, rest []byte) error {
	var e format.EPB
	for len(rest) > 0 {
		typ, body, after, _, err := format.NextBlock(rest, false)
		if err != nil {
			return err
		}
		rest = after
		switch typ {
		case format.BlockEPB:
			if err := format.ParseEPB(body, false, &e); err != nil {
				return err
			}
			ifc, err := r.interfaceAt(e.Interface)
			if err != nil {
				return err
			}
			if len(b.Datagrams) == format.MaxChunkPackets {
				return fmt.Errorf("chunk of more than %d packets", format.MaxChunkPackets)
			}
			b.Datagrams = append(b.Datagrams, format.Datagram{})
			r.decode(&b.Datagrams[len(b.Datagrams)-1], &e, uint16(ifc))
		case format.BlockISB:
			s, err := format.ParseISB(body, false)
			if err != nil {
				return err
			}
			ifc, err := r.interfaceAt(s.Interface)
			if err != nil {
				return err
			}
			if len(b.Stats) == format.MaxInterfaces {
				return fmt.Errorf("chunk of more than %d statistics", format.MaxInterfaces)
			}
			s.Stats.Interface, s.Stats.Time = uint16(ifc), int64(s.Time)
			b.Stats = append(b.Stats, s.Stats)
		case format.BlockEvent:
			// One that is not as it should be takes no datagram with it.
			v, _, err := format.ParseEvent(body)
			if err != nil {
				continue
			}
			if v.Interface != format.NoInterface {
				ifc, err := r.interfaceAt(uint32(v.Interface))
				if err != nil {
					return err
				}
				v.Interface = int32(ifc)
			}
			b.Events = append(b.Events, v)
		case format.BlockIDB:
			if r.known {
				continue
			}
			i, _, err := format.ParseIDB(body, false)
			if err != nil {
				return err
			}
			n, ok := format.InterfaceNumber(body, false)
			if !ok {
				n = uint16(min(len(r.interfaces)-r.base, format.MaxInterfaces-1))
			}
			if err := r.describe(uint32(n), i); err != nil {
				return err
			}
		}
	}
	return nil
}

// interfaceAt is the place of a section's interface n in the list. One whose
// description was in a chunk that is lost gets a place without a name.
func (r *Reader) interfaceAt(n uint32) (int, error) {
	at := int64(n) + int64(r.base)
	if at >= format.MaxInterfaces {
		return 0, fmt.Errorf("interface %d, limit %d", n, format.MaxInterfaces)
	}
	for int64(len(r.interfaces)) <= at {
		r.interfaces = append(r.interfaces, nameless)
	}
	return int(at), nil
}

// nameless is an interface whose description is not known.
var nameless = format.Interface{LinkType: format.LinkTypeEthernet}

// describe fills the place of a section's interface n, unless it is filled.
func (r *Reader) describe(n uint32, i format.Interface) error {
	had := len(r.interfaces)
	at, err := r.interfaceAt(n)
	if err != nil || r.interfaces[at] != nameless || i == nameless {
		return err
	}
	if at < had && r.shown {
		r.interfaces, r.shown = slices.Clone(r.interfaces), false // see Interfaces
	}
	r.texts.Keep(&i)
	r.interfaces[at] = i
	return nil
}

func (r *Reader) decode(d *format.Datagram, e *format.EPB, ifc uint16) {
	d.Time, d.Drops, d.Flags, d.Interface = int64(e.Time), e.Drops, e.Flags, ifc
	d.Frame, d.FrameLength = e.Data, e.Original
	link := r.interfaces[ifc].LinkType
	if r.info.Made {
		link = format.LinkTypeEthernet // no checksum covers the descriptions in a first frame
	}
	switch {
	case link == format.LinkTypeEthernet && format.DecodePlain(d):
	case r.o.Decoder != nil:
		r.o.Decoder.Decode(link, d)
	default:
		d.Flags |= format.FlagNotUDP
	}
	if r.info.Made && d.Flags&format.FlagNotUDP == 0 {
		d.Frame, d.FrameLength = nil, 0
	}
}

// resync finds the next frame behind damage and reports what lies between.
func (r *Reader) resync(why error) error {
	at := r.offset
	damage := &format.CorruptError{Path: r.path, Offset: at, Reason: why.Error(), FirstChunk: r.next}
	pos, err := r.search(at + 1)
	if err != nil {
		return err
	}
	after, told := r.next, false // the chunk that comes next, where that can be told
	switch c, err := format.ParseChunkHeader(r.raw); {
	case pos >= 0 && err == nil:
		after, told = c.Number, c.Number >= r.next
	case r.footer != nil:
		after, told = r.footer.Chunks, true
	}
	if pos < 0 {
		pos = r.win.size
	}
	damage.Length = pos - at
	r.offset = pos
	if after > r.next {
		damage.Chunks = int(after - r.next)
		if pos < r.win.size {
			damage.Reason += fmt.Sprintf("; %d chunk(s) lost before chunk %d", after-r.next, after)
			r.skip(after)
		}
	}
	damage.Counted = told && damage.Chunks == 0
	return damage
}

// search is the offset of the first whole frame of this recording from pos on, whose
// content it leaves in r.raw; -1 where there is none. A candidate counts only when
// its whole frame decodes and its checksum holds, so that payload bytes that look
// like a frame do not mislead.
//
// A file can be made of candidates whose frames all reach to its end. Decoding them
// all would take the square of its size, so the work is bounded: a file that takes
// more than this is no recording.
func (r *Reader) search(pos int64) (int64, error) {
	const slack = 64 << 20
	for ; ; pos++ {
		var err error
		if pos, err = r.nextMagic(pos); pos < 0 || err != nil {
			return pos, err
		}
		if r.work > 8*r.size+slack {
			return -1, nil
		}
		frame, err := r.frameAt(pos)
		r.work += int64(len(frame)) + 256
		if err != nil {
			var failed *fs.PathError
			if errors.As(err, &failed) {
				return -1, err
			}
			continue
		}
		r.raw, err = r.dec.Decode(r.raw, frame)
		r.work += int64(len(r.raw))
		if err == nil && r.plausible(r.raw) {
			return pos, nil
		}
	}
}

// plausible says whether raw is the content of a frame of this recording, or of any
// where the recording is not known.
func (r *Reader) plausible(raw []byte) bool {
	if len(raw) < format.BlockOverhead {
		return false
	}
	var of format.UUID
	switch leadType(raw) {
	case format.BlockChunk:
		c, err := format.CheckChunk(raw)
		if err != nil {
			return false
		}
		of = c.Recording
	case format.BlockIndex:
		h, _, err := format.ParseIndexBlock(raw)
		if err != nil {
			return false
		}
		of = h.Recording
	case format.BlockFooter:
		f, err := format.ParseFooter(raw)
		if err != nil {
			return false
		}
		of = f.Recording
	default:
		return false
	}
	return r.info == nil || of == r.info.Recording
}

// nextMagic is the offset, from pos on, of the next bytes that could begin a
// frame; -1 where there are none.
func (r *Reader) nextMagic(pos int64) (int64, error) {
	const step, overlap = 256 << 10, 16
	for pos < r.win.size {
		b, err := r.win.peek(pos, step)
		if err != nil {
			return -1, err
		}
		if i := format.FindFrame(r.compression, b); i >= 0 {
			return pos + int64(i), nil
		}
		if len(b) <= overlap || pos+int64(len(b)) >= r.win.size {
			break
		}
		pos += int64(len(b) - overlap)
	}
	return -1, nil
}

// Index is the table of contents: the file's own where it is sealed and the index
// holds, else rebuilt by reading the whole file.
func (r *Reader) Index() (*format.Index, error) {
	if r.index != nil {
		return r.index, nil
	}
	s, err := r.Scan()
	if err != nil {
		return nil, err
	}
	if s.Sections == 1 && s.Chunks == s.Index.ChunkCount() {
		r.adopt(s.Index)
	}
	return s.Index, nil
}

// SeekTime moves to the first chunk that can hold a packet at or after t (ns since
// the Unix epoch). With the index of a sealed file that reads nothing; otherwise
// the file is scanned once. A file of several recordings, one behind the other, is
// read from its start instead.
func (r *Reader) SeekTime(t int64) error {
	x, err := r.Index()
	if err != nil {
		return err
	}
	if r.index == nil {
		return r.rewind()
	}
	// Chunks need not be in order of time: the first one by the running maximum of
	// the latest times.
	n, latest := 0, int64(math.MinInt64)
	for ; n < len(x.Chunks); n++ {
		if c := &x.Chunks[n]; c.Packets > 0 {
			latest = max(latest, c.Last)
		}
		if latest >= t {
			r.seek(x.Chunks[n].Offset, n*x.PerEntry())
			return nil
		}
	}
	r.seek(r.size, x.ChunkCount())
	return nil
}

// seek goes to chunk n, at offset. Nothing that is before it has come.
func (r *Reader) seek(offset int64, n int) {
	r.offset, r.next, r.gaps, r.late = offset, 0, nil, 0
	r.skip(uint32(n))
}

// back goes to the entry of the index before the one that SeekTime found.
func (r *Reader) back() {
	per := uint32(r.index.PerEntry())
	if n := (r.next + per - 1) / per; n > 0 && int(n) <= len(r.index.Chunks) {
		r.offset, r.next = r.index.Chunks[n-1].Offset, (n-1)*per
	}
}

// rewind goes back to the first chunk.
func (r *Reader) rewind() error {
	fresh, err := r.again()
	if err != nil {
		return err
	}
	fresh.c = r.c
	*r = *fresh
	return nil
}

// again is another reader of the same file, at its start.
func (r *Reader) again() (*Reader, error) {
	if r.salvaged {
		return salvage(r.f, r.size, r.path, r.o, r.compression)
	}
	return NewReader(r.f, r.size, r.path, r.o)
}
