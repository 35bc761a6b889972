package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"

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
	opened     int    // of them described in first frames
	known      bool   // interfaces are complete: descriptions in chunks are repeats
	base       int    // index of the current section's interface 0
	sections   int    // first frames seen
	next       uint32 // number of the chunk that should come next
	start      int64  // offset of the first chunk
	offset     int64
	footer     *format.Footer
	index      *format.Index        // nil until known
	indexErr   error                // why the index of a sealed file is not used
	chunks     *[]format.ChunkEntry // where Scan gathers what it reads, else nil
}

// Open opens a segment file. The error wraps format.ErrFormat where the file is
// no castdeck segment, and format.ErrVersion where it is a newer one.
func Open(path string, o ReadOptions) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = fmt.Errorf("%s is a folder", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	r, err := NewReader(f, st.Size(), path, o)
	if err != nil {
		f.Close()
		return nil, err
	}
	r.c = f
	return r, nil
}

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
	r.compression = c
	if r.dec, err = format.NewDecoder(c); err != nil {
		return nil, err
	}
	frame, err := r.frameAt(0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, format.ErrFormat, err)
	}
	if r.raw, err = r.dec.Decode(r.raw, frame); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, format.ErrFormat, err)
	}
	if err := r.opening(r.raw); err != nil {
		if errors.Is(err, format.ErrVersion) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return nil, fmt.Errorf("%s: %w: %w", path, format.ErrFormat, err)
	}
	r.start = int64(len(frame))
	r.offset = r.start
	r.readFooter()
	return r, nil
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
			interfaces = append(interfaces, i)
		case format.BlockSegment:
			info, err := format.ParseSegmentBlock(body)
			if err != nil {
				return err
			}
			r.info, r.base, r.next = info, base, 0
			r.interfaces = append(r.interfaces, interfaces...)
			r.opened = len(r.interfaces)
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

// Interfaces known so far, of a sealed file all of them; the reader's own slice.
func (r *Reader) Interfaces() []format.Interface { return r.interfaces }

// Sealed says whether the file ends in a footer. One that does not is still being
// written or was cut off.
func (r *Reader) Sealed() bool { return r.footer != nil }

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

// adopt takes the interfaces that were described behind the first frame from an
// index, so that reading can begin anywhere.
func (r *Reader) adopt(x *format.Index) {
	r.index = x
	r.interfaces = append(r.interfaces[:r.opened], x.Added...)
	r.known = true
}

// readIndex reads the index that f points to and checks that it can be this
// file's: in a copy that another tool unpacked or repacked, the offsets are wrong
// though nothing is damaged.
func (r *Reader) readIndex(f *format.Footer, footerAt int64) (*format.Index, error) {
	if f.IndexOffset < r.start || f.IndexOffset+int64(f.IndexSize) != footerAt {
		return nil, fmt.Errorf("the footer's index is not where it says: packed again by another tool?")
	}
	// The index's frames hold no more than one index: 56 bytes a chunk. Its size is
	// bounded by the file's, and by what a frame may hold.
	frame := make([]byte, f.IndexSize)
	if _, err := r.f.ReadAt(frame, f.IndexOffset); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	raw, err := r.dec.Decode(nil, frame)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	x, err := format.ParseIndex(raw)
	if err != nil {
		return nil, err
	}
	if x.Recording != f.Recording || x.Segment != f.Segment || len(x.Chunks) != int(f.Chunks) {
		return nil, fmt.Errorf("index and footer disagree")
	}
	end := r.start
	for i := range x.Chunks {
		c := &x.Chunks[i]
		if c.Offset < end || c.Offset+int64(c.Size) > f.IndexOffset {
			return nil, fmt.Errorf("index places chunk %d at byte %d", i, c.Offset)
		}
		end = c.Offset + int64(c.Size)
	}
	return x, nil
}

// IndexError says why the index of a sealed file is not used; nil where it is, or
// where the file is not sealed.
func (r *Reader) IndexError() error { return r.indexErr }

// frameAt is the whole frame at off, in the window's memory until its next use.
func (r *Reader) frameAt(off int64) ([]byte, error) {
	want := 64 << 10
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
		case off+int64(n) > r.size:
			return nil, errCut
		}
		// Twice as much each time: what was looked at is looked at again.
		want = int(min(max(int64(n), 2*int64(want)), r.size-off))
	}
}

var errCut = errors.New("the file ends within a frame")

// ReadBatch reads the next chunk. The batch's datagrams point into its Buf.
func (r *Reader) ReadBatch(b *format.Batch) error {
	for {
		b.Reset()
		if r.offset >= r.size {
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
			if len(b.Datagrams) > 0 || len(b.Stats) > 0 {
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
	switch typ := leadType(b.Buf); typ {
	case format.BlockChunk:
		return r.takeChunk(b, frameLen)
	case format.BlockIndex:
		_, err := format.ParseIndex(b.Buf)
		return err
	case format.BlockFooter:
		_, err := format.ParseFooter(b.Buf)
		return err
	case format.BlockSHB:
		// A second recording behind the first: cat of two files is a valid pcapng
		// of two sections.
		return r.opening(b.Buf)
	default:
		return fmt.Errorf("frame begins with a block of type %#x", typ)
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
	switch {
	case c.Number < r.next:
		return fmt.Errorf("chunk %d stands here again or too late, chunk %d was due", c.Number, r.next)
	case c.Number > r.next:
		// Told once, before the chunk's own datagrams: the next call reads it again.
		missing := c.Number - r.next
		r.next = c.Number
		return &format.CorruptError{Path: r.path, Offset: r.offset,
			Reason: fmt.Sprintf("%d chunk(s) missing before chunk %d", missing, c.Number)}
	}
	r.next = c.Number + 1
	if err := r.parseChunk(b, b.Buf[format.ChunkHeaderSize:]); err != nil {
		return err
	}
	if r.chunks != nil {
		*r.chunks = append(*r.chunks, format.ChunkEntry{
			Offset: r.offset, Size: uint32(frameLen), Raw: uint32(len(b.Buf)), First: c.First, Last: c.Last,
			Packets: c.Packets, Datagrams: c.Datagrams, Bytes: c.Bytes, Dropped: c.Dropped,
		})
	}
	return nil
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
			ifc := int(e.Interface) + r.base
			if ifc >= len(r.interfaces) {
				return fmt.Errorf("packet of interface %d, %d are described", e.Interface, len(r.interfaces)-r.base)
			}
			b.Datagrams = append(b.Datagrams, format.Datagram{})
			r.decode(&b.Datagrams[len(b.Datagrams)-1], &e, uint16(ifc))
		case format.BlockISB:
			s, err := format.ParseISB(body, false)
			if err != nil {
				return err
			}
			if ifc := int(s.Interface) + r.base; ifc < len(r.interfaces) {
				s.Stats.Interface, s.Stats.Time = uint16(ifc), int64(s.Time)
				b.Stats = append(b.Stats, s.Stats)
			}
		case format.BlockIDB:
			if r.known {
				continue
			}
			i, _, err := format.ParseIDB(body, false)
			if err != nil {
				return err
			}
			if len(r.interfaces) >= format.MaxInterfaces {
				return fmt.Errorf("more than %d interfaces", format.MaxInterfaces)
			}
			r.interfaces = append(r.interfaces, i)
		}
	}
	return nil
}

func (r *Reader) decode(d *format.Datagram, e *format.EPB, ifc uint16) {
	d.Time, d.Drops, d.Flags, d.Interface = int64(e.Time), e.Drops, e.Flags, ifc
	d.Frame, d.FrameLength = e.Data, e.Original
	link := r.interfaces[ifc].LinkType
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

// resync finds the next chunk behind damage and reports what lies between. A
// candidate counts only when its whole frame decodes and its checksum holds, so
// that payload bytes that look like a frame do not mislead.
func (r *Reader) resync(why error) error {
	at := r.offset
	damage := &format.CorruptError{Path: r.path, Offset: at, Reason: why.Error()}
	for pos := at + 1; ; {
		pos = r.nextMagic(pos)
		if pos < 0 {
			damage.Length = r.size - at
			r.offset = r.size
			return damage
		}
		if frame, err := r.frameAt(pos); err == nil {
			if r.raw, err = r.dec.Decode(r.raw, frame); err == nil && r.plausible(r.raw) {
				damage.Length = pos - at
				r.offset = pos
				if c, err := format.ParseChunkHeader(r.raw); err == nil && c.Number > r.next {
					damage.Reason += fmt.Sprintf("; %d chunk(s) lost before chunk %d", c.Number-r.next, c.Number)
					r.next = c.Number
				}
				return damage
			}
		}
		pos++
	}
}

// plausible says whether raw is the content of a frame of this recording.
func (r *Reader) plausible(raw []byte) bool {
	if len(raw) < format.BlockOverhead {
		return false
	}
	switch leadType(raw) {
	case format.BlockChunk:
		c, err := format.CheckChunk(raw)
		return err == nil && c.Recording == r.info.Recording
	case format.BlockIndex:
		x, err := format.ParseIndex(raw)
		return err == nil && x.Recording == r.info.Recording
	case format.BlockFooter:
		_, err := format.ParseFooter(raw)
		return err == nil
	}
	return false
}

// nextMagic is the offset, from pos on, of the next bytes that could begin a
// frame; -1 where there are none.
func (r *Reader) nextMagic(pos int64) int64 {
	const step, overlap = 256 << 10, 16
	for pos < r.size {
		b, err := r.win.peek(pos, step)
		if err != nil || len(b) == 0 {
			return -1
		}
		if i := format.FindFrame(r.compression, b); i >= 0 {
			return pos + int64(i)
		}
		if pos+int64(len(b)) >= r.size {
			return -1
		}
		pos += int64(max(1, len(b)-overlap))
	}
	return -1
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
	if s.Sections == 1 {
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
			r.offset, r.next = x.Chunks[n].Offset, uint32(n)
			return nil
		}
	}
	r.offset, r.next = r.size, uint32(n)
	return nil
}

// rewind goes back to the first chunk.
func (r *Reader) rewind() error {
	fresh, err := NewReader(r.f, r.size, r.path, r.o)
	if err != nil {
		return err
	}
	fresh.c = r.c
	*r = *fresh
	return nil
}
