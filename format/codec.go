package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// This file holds the frames that a recording is cut into: zstd frames (RFC 8878),
// gzip members (RFC 1952), or the bare bytes. Each frame stands alone and carries
// its own checksum, so that zstd -t and gzip -t are honest checks.
//
// Every codec can store as well as compress. A stored frame is still a frame of
// its kind that every decoder reads; it costs a copy, and its size is known
// beforehand.

// Compression is how the frames of a recording are packed.
type Compression uint8

const (
	Zstd Compression = iota // the default
	Gzip
	None
)

var compressions = [...]struct{ name, ext string }{
	Zstd: {"zstd", ".pcapng.zst"},
	Gzip: {"gzip", ".pcapng.gz"},
	None: {"none", ".pcapng"},
}

func (c Compression) String() string { return compressions[c].name }

// Extension is the end of the file names that go with c.
func (c Compression) Extension() string { return compressions[c].ext }

// ParseCompression reads a name that String gives.
func ParseCompression(name string) (Compression, error) {
	for c, k := range compressions {
		if k.name == name {
			return Compression(c), nil
		}
	}
	return 0, fmt.Errorf("no compression %q (have zstd, gzip, none)", name)
}

// CompressionOf chooses by the end of a file name; ok is false where the name
// says nothing.
func CompressionOf(path string) (c Compression, ok bool) {
	for c, k := range compressions {
		if strings.HasSuffix(path, k.ext) {
			return Compression(c), true
		}
	}
	return 0, false
}

// Encoder makes frames. It is not safe for concurrent use.
type Encoder struct {
	compression Compression
	zstd        *zstd.Encoder
	gzip        *gzip.Writer
	store       int // so many frames may be stored before one is packed again
	frame       []byte
}

// NewEncoder makes an encoder. It starts no goroutine and needs no Close.
func NewEncoder(c Compression) (*Encoder, error) {
	e := &Encoder{compression: c}
	switch c {
	case Zstd:
		// One frame per EncodeAll, window = content, so that a reader needs no more
		// memory than the chunk. Measured on an exchange feed: the fastest level
		// packs 5.7 times at 500 MB/s; the better levels cost twice for 3 %. Literals
		// without entropy coding (WithNoEntropyCompression) save 10 to 30 % of the time
		// and cost 5 % on short datagrams; a smaller window saves no time, but the encoder
		// keeps two of them, and the default would be 4 MiB.
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true), zstd.WithSingleSegment(true), zstd.WithWindowSize(1<<20))
		if err != nil {
			return nil, err
		}
		e.zstd = w
	case Gzip:
		w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			return nil, err
		}
		e.gzip = w
	case None:
	default:
		return nil, fmt.Errorf("no compression %d", c)
	}
	return e, nil
}

// Payloads that are packed or encrypted already do not get smaller, and trying it for
// every frame takes ten times as long as storing them. So behind a frame that saved less
// than 1 in packLeast, the next ones are stored where a sample of them saves no more
// either; every packAgain-th is packed whole, because a sample shows no repetitions
// over a distance.
const (
	packLeast  = 16
	packAgain  = 16
	packSample = 16 << 10
	packFrom   = 4 * packSample // shorter frames are always packed
)

// Frame is AppendFrame or, with store, AppendStored to memory of the encoder: the frame is
// valid until the next call.
func (e *Encoder) Frame(raw []byte, store bool) (frame []byte, err error) {
	if store {
		e.frame, err = e.AppendStored(e.frame[:0], raw)
	} else {
		e.frame, err = e.AppendFrame(e.frame[:0], raw)
	}
	return e.frame, err
}

// AppendFrame appends one frame that holds raw, at most MaxFrameRaw bytes. It is
// stored where the frames before it and a sample show that packing is of no use.
func (e *Encoder) AppendFrame(dst, raw []byte) ([]byte, error) {
	if len(raw) > MaxFrameRaw {
		return dst, fmt.Errorf("frame of %d bytes, limit %d", len(raw), MaxFrameRaw)
	}
	if e.compression == None || len(raw) < packFrom {
		return e.pack(dst, raw)
	}
	start := len(dst)
	if e.store > 0 {
		sample := raw[(len(raw)-packSample)/2:][:packSample]
		var err error
		if dst, err = e.pack(dst, sample); err != nil {
			return dst[:start], err
		}
		poor := packsPoorly(len(dst)-start, packSample)
		dst = dst[:start]
		if poor {
			e.store--
			return appendStored(dst, e.compression, raw), nil
		}
	}
	dst, err := e.pack(dst, raw)
	e.store = 0
	if packsPoorly(len(dst)-start, len(raw)) {
		e.store = packAgain - 1
	}
	return dst, err
}

func packsPoorly(packed, raw int) bool { return packed > raw-raw/packLeast }

// pack appends one compressed frame.
func (e *Encoder) pack(dst, raw []byte) ([]byte, error) {
	switch e.compression {
	case Zstd:
		return e.zstd.EncodeAll(raw, dst), nil
	case Gzip:
		start := len(dst)
		buf := bytes.NewBuffer(dst)
		e.gzip.Reset(buf)
		e.gzip.Header = gzip.Header{Extra: gzipExtra[:], OS: 255}
		if _, err := e.gzip.Write(raw); err != nil {
			return dst, err
		}
		if err := e.gzip.Close(); err != nil {
			return dst, err
		}
		dst = buf.Bytes()
		binary.LittleEndian.PutUint32(dst[start+gzipSizeAt:], uint32(len(dst)-start))
		return dst, nil
	}
	return append(dst, raw...), nil
}

// AppendStored appends one frame of the encoder's kind that holds raw
// uncompressed. The result depends on nothing but raw.
func (e *Encoder) AppendStored(dst, raw []byte) ([]byte, error) {
	if len(raw) > MaxFrameRaw {
		return dst, fmt.Errorf("frame of %d bytes, limit %d", len(raw), MaxFrameRaw)
	}
	return appendStored(dst, e.compression, raw), nil
}

func appendStored(dst []byte, c Compression, raw []byte) []byte {
	switch c {
	case Zstd:
		return appendStoredZstd(dst, raw)
	case Gzip:
		return appendStoredGzip(dst, raw)
	}
	return append(dst, raw...)
}

// StoredSize is the size of a stored frame of n bytes.
func StoredSize(c Compression, n int) int {
	switch c {
	case Zstd:
		fcs := 4
		if n < 256 {
			fcs = 1
		}
		blocks := max(1, (n+zstdBlock-1)/zstdBlock)
		return 4 + 1 + fcs + 3*blocks + n + 4
	case Gzip:
		blocks := max(1, (n+gzipBlock-1)/gzipBlock)
		return gzipHeader + 5*blocks + n + 8
	}
	return n
}

// RFC 8878 section 3.1.1: magic, frame header (single segment, content size,
// checksum), blocks of at most 128 KiB, the low half of the content's XXH64.
const (
	zstdMagic = 0xFD2FB528
	zstdBlock = 128 << 10
	// zstdBlocks is the most blocks of a frame, far more than MaxFrameRaw needs: blocks
	// can be empty, and a search looks at frames in frames.
	zstdBlocks = 1024
)

func appendStoredZstd(dst, raw []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, zstdMagic)
	const singleSegment, hasChecksum, sizeIn4 = 1 << 5, 1 << 2, 2 << 6
	if len(raw) < 256 {
		dst = append(dst, singleSegment|hasChecksum, byte(len(raw)))
	} else {
		dst = append(dst, singleSegment|hasChecksum|sizeIn4)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(raw)))
	}
	for rest := raw; ; {
		n := min(len(rest), zstdBlock)
		head := uint32(n) << 3 // type 0, raw
		if n == len(rest) {
			head |= 1 // last
		}
		dst = append(dst, byte(head), byte(head>>8), byte(head>>16))
		dst = append(dst, rest[:n]...)
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
	}
	return binary.LittleEndian.AppendUint32(dst, uint32(xxhash.Sum64(raw)))
}

// Each gzip member states its own size in an extra field (RFC 1952 section
// 2.3.1.1, subfield "CD" with a u32), as BGZF does with "BC": without it the end
// of a member is known only by inflating it.
const (
	gzipBlock  = 65535
	gzipHeader = 10 + 2 + 8
	gzipSizeAt = 16
)

var gzipExtra = [8]byte{'C', 'D', 4, 0}

func appendStoredGzip(dst, raw []byte) []byte {
	start := len(dst)
	// Magic, deflate, FEXTRA, no time, no extra flags, unknown system, and the
	// extra field's length.
	dst = append(dst, 0x1F, 0x8B, 8, 4, 0, 0, 0, 0, 0, 255, byte(len(gzipExtra)), 0)
	dst = append(dst, gzipExtra[:]...)
	for rest := raw; ; {
		n := min(len(rest), gzipBlock)
		last := byte(0)
		if n == len(rest) {
			last = 1
		}
		dst = append(dst, last)
		dst = binary.LittleEndian.AppendUint16(dst, uint16(n))
		dst = binary.LittleEndian.AppendUint16(dst, ^uint16(n))
		dst = append(dst, rest[:n]...)
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
	}
	dst = binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(raw))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(raw)))
	binary.LittleEndian.PutUint32(dst[start+gzipSizeAt:], uint32(len(dst)-start))
	return dst
}

// SniffCompression tells from the first bytes of a file how its frames are
// packed, and reports false for anything that is none of the three.
func SniffCompression(b []byte) (Compression, bool) {
	switch {
	case len(b) >= 4 && binary.LittleEndian.Uint32(b) == zstdMagic:
		return Zstd, true
	case len(b) >= 3 && b[0] == 0x1F && b[1] == 0x8B && b[2] == 8:
		return Gzip, true
	case len(b) >= 4 && binary.LittleEndian.Uint32(b) == BlockSHB:
		return None, true
	}
	return 0, false
}

// FindFrame is the place in b of the next bytes that look like the beginning of a
// frame behind the first one of a file, or -1. Payloads can hold such bytes too:
// only a whole frame whose checksum holds is one.
func FindFrame(c Compression, b []byte) int {
	switch c {
	case Zstd:
		return bytes.Index(b, []byte{0x28, 0xB5, 0x2F, 0xFD})
	case Gzip:
		return bytes.Index(b, []byte{0x1F, 0x8B, 8, 4})
	}
	for from := 0; ; {
		i := bytes.Index(b[from:], []byte(nativeMagic))
		if i < 0 {
			return -1
		}
		// The magic stands behind the block's type and length.
		if at := from + i - 8; at >= 0 && get32(b[at:], false)&localUse != 0 {
			return at
		}
		from += i + 1
	}
}

// ErrShort says that more bytes are needed to answer.
var ErrShort = errors.New("more bytes are needed")

// FrameLength is the number of bytes that the frame at the start of b occupies,
// without decoding it. Where b is too short to tell, the error is ErrShort and n
// the number of bytes from the frame's start that are needed next. A frame that
// is not one of castdeck's is any other error.
func FrameLength(c Compression, b []byte) (n int, err error) {
	switch c {
	case Zstd:
		n, err = zstdLength(b)
	case Gzip:
		n, err = gzipLength(b)
	default:
		n, err = bareLength(b)
	}
	if err == nil && n > len(b) {
		err = ErrShort
	}
	const overhead = 1 << 20 // more than any encoder adds to MaxFrameRaw
	if n > MaxFrameRaw+overhead {
		return 0, fmt.Errorf("frame of at least %d bytes, limit %d", n, MaxFrameRaw+overhead)
	}
	return n, err
}

func zstdLength(b []byte) (int, error) {
	if len(b) < 6 {
		return 18, ErrShort
	}
	if binary.LittleEndian.Uint32(b) != zstdMagic {
		return 0, fmt.Errorf("no zstd frame")
	}
	desc := b[4]
	if desc&0x08 != 0 {
		return 0, fmt.Errorf("zstd frame with a reserved bit set")
	}
	single := desc&0x20 != 0
	at := 5
	if !single {
		at++ // window descriptor
	}
	at += [...]int{0, 1, 2, 4}[desc&3] // dictionary
	switch fcs := desc >> 6; {
	case fcs == 0 && single:
		at++
	case fcs > 0:
		at += 1 << fcs
	}
	for range zstdBlocks {
		if len(b) < at+3 {
			return at + 3, ErrShort
		}
		head := uint32(b[at]) | uint32(b[at+1])<<8 | uint32(b[at+2])<<16
		size := int(head >> 3)
		at += 3
		switch head >> 1 & 3 {
		case 1: // one byte, repeated
			size = 1
		case 3:
			return 0, fmt.Errorf("zstd block of a reserved type")
		}
		if size > zstdBlock {
			return 0, fmt.Errorf("zstd block of %d bytes", size)
		}
		at += size
		if at > MaxFrameRaw+zstdBlock {
			return at, nil // FrameLength refuses it
		}
		if head&1 != 0 {
			if desc&4 != 0 {
				at += 4
			}
			return at, nil
		}
	}
	return 0, fmt.Errorf("zstd frame of more than %d blocks", zstdBlocks)
}

func gzipLength(b []byte) (int, error) {
	if len(b) < gzipHeader {
		return gzipHeader, ErrShort
	}
	if c, ok := SniffCompression(b); !ok || c != Gzip {
		return 0, fmt.Errorf("no gzip member")
	}
	if b[3] != 4 || binary.LittleEndian.Uint16(b[10:]) != 8 || !bytes.Equal(b[12:16], gzipExtra[:4]) {
		return 0, fmt.Errorf("gzip member that does not state its size")
	}
	n := int(binary.LittleEndian.Uint32(b[gzipSizeAt:]))
	if n < gzipHeader+5+8 {
		return 0, fmt.Errorf("gzip member states a size of %d bytes", n)
	}
	return n, nil
}

// localUse is the bit of block types that pcapng leaves for local use.
const localUse = 1 << 31

// bareLength is the extent of what stands in one frame where nothing is packed.
func bareLength(b []byte) (int, error) {
	if len(b) < BlockOverhead {
		return BlockOverhead, ErrShort
	}
	switch typ := get32(b, false); typ {
	case BlockChunk:
		if len(b) < ChunkHeaderSize {
			return ChunkHeaderSize, ErrShort
		}
		c, err := ParseChunkHeader(b)
		if err != nil {
			return 0, err
		}
		return ChunkHeaderSize + int(c.Length), nil
	case BlockSHB:
		// The opening frame ends with its segment block.
		for at := 0; at <= MaxFrameRaw; {
			if len(b) < at+BlockOverhead {
				return at + BlockOverhead, ErrShort
			}
			t := get32(b[at:], false)
			if at > 0 && t != BlockIDB && t != BlockSegment {
				return 0, fmt.Errorf("block of type %#x before castdeck's segment block", t)
			}
			_, n, _, err := BlockHeader(b[at:], false)
			if err != nil {
				return 0, err
			}
			if at += n; t == BlockSegment {
				return at, nil
			}
		}
		return 0, fmt.Errorf("opening frame of more than %d bytes", MaxFrameRaw)
	default:
		// The index, the footer, and what a later version may add: a block each.
		if typ&localUse == 0 {
			return 0, fmt.Errorf("block of type %#x where a chunk should begin", typ)
		}
		_, n, _, err := BlockHeader(b, false)
		return n, err
	}
}

// Decoder unpacks frames. It is not safe for concurrent use.
type Decoder struct {
	compression Compression
	zstd        *zstd.Decoder
	gzip        *gzip.Reader
	src         bytes.Reader // of gzip
}

// NewDecoder makes a decoder. It starts no goroutine and needs no Close.
func NewDecoder(c Compression) (*Decoder, error) {
	d := &Decoder{compression: c}
	if c != Zstd {
		return d, nil
	}
	// A 9-byte frame can state a window of 128 MiB, and 131 kB can unpack to 4 GiB:
	// the limits make both an error before anything is allocated.
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(MaxFrameRaw), zstd.WithDecoderMaxMemory(MaxFrameRaw), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	d.zstd = z
	return d, nil
}

// Decode unpacks one whole frame into dst[:0], which grows to at most MaxFrameRaw
// bytes; it returns the content.
func (d *Decoder) Decode(dst, frame []byte) ([]byte, error) {
	switch d.compression {
	case Zstd:
		size, err := zstdContentSize(frame)
		if err != nil {
			return dst[:0], err
		}
		if cap(dst) < size {
			dst = make([]byte, 0, size)
		}
		return d.zstd.DecodeAll(frame, dst[:0:cap(dst)])
	case Gzip:
		return d.inflate(dst[:0], frame)
	}
	if cap(dst) < len(frame) {
		dst = make([]byte, 0, len(frame))
	}
	return append(dst[:0], frame...), nil
}

// zstdContentSize is the content size that a frame header states; every frame
// castdeck writes states it.
func zstdContentSize(frame []byte) (int, error) {
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		return 0, err
	}
	if !h.HasFCS {
		return 0, fmt.Errorf("zstd frame does not state the size of its content")
	}
	if h.FrameContentSize > MaxFrameRaw {
		return 0, fmt.Errorf("zstd frame states %d bytes, limit %d", h.FrameContentSize, MaxFrameRaw)
	}
	return int(h.FrameContentSize), nil
}

func (d *Decoder) inflate(dst, frame []byte) ([]byte, error) {
	src := &d.src
	src.Reset(frame)
	if d.gzip == nil {
		d.gzip = new(gzip.Reader)
	}
	if err := d.gzip.Reset(src); err != nil {
		return dst, err
	}
	d.gzip.Multistream(false)
	// The trailer states the size modulo 2^32 (RFC 1952): a hint that is checked.
	if n := int(binary.LittleEndian.Uint32(frame[len(frame)-4:])); n <= MaxFrameRaw && n > cap(dst) {
		dst = make([]byte, 0, n)
	}
	for {
		if len(dst) == cap(dst) {
			if len(dst) >= MaxFrameRaw {
				if n, err := d.gzip.Read(make([]byte, 1)); n > 0 || err != io.EOF {
					return dst, fmt.Errorf("gzip member unpacks to more than %d bytes", MaxFrameRaw)
				}
				return dst, memberEnd(src)
			}
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := d.gzip.Read(dst[len(dst):min(cap(dst), MaxFrameRaw)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, memberEnd(src)
		}
		if err != nil {
			return dst, err
		}
	}
}

// memberEnd checks that the member ended where its extra field says: a reader that
// believed a wrong size would miss the next member too.
func memberEnd(src *bytes.Reader) error {
	if src.Len() > 0 {
		return fmt.Errorf("gzip member ends %d bytes before its stated size", src.Len())
	}
	return nil
}
