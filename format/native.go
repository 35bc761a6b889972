package format

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math"
	"net/netip"
)

// This file is the layout of castdeck's own blocks. Their types are from the range
// that pcapng leaves for local use (top bit set), so that every other reader passes
// over them. The body of each begins with the same 40 bytes:
//
//	 0      8  magic "CASTDECK"
//	 8      2  version of the layout: 1
//	10      2  flags, by block type
//	12      4  CRC-32C (Castagnoli) of the body with this field 0; for a chunk
//	           header, of its body and of the rest of the chunk
//	16     16  recording UUID
//	32      4  segment number, from 0
//	36      4  part: chunk number in the segment from 0, index part from 0, else 0
//
// All numbers are little-endian, whatever the section's byte order; castdeck
// writes little-endian sections.
const (
	BlockSegment = 0x80CD0001
	BlockChunk   = 0x80CD0002
	BlockIndex   = 0x80CD0003
	BlockFooter  = 0x80CD0004
	BlockEvent   = 0x80CD0005
)

const (
	nativeMagic = "CASTDECK"
	// Version is the version of castdeck's own blocks that this package writes and
	// the newest that it reads.
	Version = 1

	headSize  = 40
	crcOffset = 12
)

// Sizes on disk.
const (
	chunkBody = headSize + 48
	// ChunkHeaderSize is the whole chunk header block.
	ChunkHeaderSize = BlockOverhead + chunkBody
	footerBody      = headSize + 48
	// FooterSize is the whole footer block, uncompressed.
	FooterSize = BlockOverhead + footerBody

	chunkEntrySize  = 56
	streamEntrySize = 72

	// MaxFrameRaw is the most bytes that one frame of a recording decodes to.
	MaxFrameRaw = 8 << 20
	// MaxChunkPackets is the most packets of one chunk: in memory a packet of no bytes
	// takes five times what it takes in the chunk.
	MaxChunkPackets = 1 << 15
	// MaxIndexChunks is the most entries that a reader holds of an index (7 MB). Of a file
	// with more chunks an entry stands for several.
	MaxIndexChunks = 1 << 17
	// maxSubscriptions and maxSegmentText bound what a segment block is believed.
	maxSubscriptions = 1 << 12
	maxSegmentText   = 1 << 10 // bytes of each text
	// maxIndexPart bounds one index block, far below what other readers refuse.
	maxIndexPart = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// UUID identifies a recording; all its segments carry it.
type UUID [16]byte

// String is the usual form, 8-4-4-4-12 hexadecimal digits.
func (u UUID) String() string {
	var s [36]byte
	at := 0
	for i, b := range u {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			s[at] = '-'
			at++
		}
		hex.Encode(s[at:], []byte{b})
		at += 2
	}
	return string(s[:])
}

// Head is what every one of castdeck's own blocks begins with.
type Head struct {
	Recording UUID
	Segment   uint32
	Part      uint32
	Flags     uint16
	crc       uint32
}

func appendHead(dst []byte, h Head) []byte {
	dst = append(dst, nativeMagic...)
	dst = binary.LittleEndian.AppendUint16(dst, Version)
	dst = binary.LittleEndian.AppendUint16(dst, h.Flags)
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	dst = append(dst, h.Recording[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, h.Segment)
	return binary.LittleEndian.AppendUint32(dst, h.Part)
}

// parseHead checks magic, then version, in that order: a newer version is
// ErrVersion, never damage. It checks no CRC.
func parseHead(body []byte, size int, what string) (h Head, err error) {
	if len(body) < 10 || string(body[:8]) != nativeMagic {
		return h, fmt.Errorf("%s without castdeck's magic", what)
	}
	if v := binary.LittleEndian.Uint16(body[8:]); v > Version {
		return h, fmt.Errorf("%s of version %d: %w", what, v, ErrVersion)
	} else if v == 0 {
		return h, fmt.Errorf("%s of version 0", what)
	}
	if len(body) < size {
		return h, fmt.Errorf("%s of %d bytes, want at least %d", what, len(body), size)
	}
	h.Flags = binary.LittleEndian.Uint16(body[10:])
	h.crc = binary.LittleEndian.Uint32(body[crcOffset:])
	copy(h.Recording[:], body[16:])
	h.Segment = binary.LittleEndian.Uint32(body[32:])
	h.Part = binary.LittleEndian.Uint32(body[36:])
	return h, nil
}

// checksum is the CRC of body with its CRC field taken as 0, continued over rest.
func checksum(body, rest []byte) uint32 {
	c := crc32.Update(0, castagnoli, body[:crcOffset])
	c = crc32.Update(c, castagnoli, zeros[:])
	c = crc32.Update(c, castagnoli, body[crcOffset+4:])
	return crc32.Update(c, castagnoli, rest)
}

// sealBlock ends the block that begins at start and fills in its CRC.
func sealBlock(dst []byte, start int) []byte {
	body := dst[start+8:]
	binary.LittleEndian.PutUint32(body[crcOffset:], checksum(body, nil))
	return endBlock(dst, start)
}

func parseSealed(body []byte, size int, what string) (Head, error) {
	h, err := parseHead(body, size, what)
	if err == nil && h.crc != checksum(body, nil) {
		err = fmt.Errorf("%s: checksum does not match", what)
	}
	return h, err
}

// CheckBlock checks magic, version and checksum of a frame's content that is one of
// castdeck's blocks, of whatever type: a type that this version does not know is
// passed over.
func CheckBlock(b []byte) error {
	typ, body, rest, _, err := NextBlock(b, false)
	if err != nil {
		return err
	}
	if typ&localUse == 0 || len(rest) > 0 {
		return fmt.Errorf("frame begins with a block of type %#x", typ)
	}
	_, err = parseSealed(body, headSize, fmt.Sprintf("block of type %#x", typ))
	return err
}

// SegmentFlagMade says that the file holds no captured frames: all link-layer and
// network headers were made from what the socket told (see AppendMadeFrame).
const SegmentFlagMade = 1

const (
	optSegHost         = 2
	optSegClock        = 3
	optSegSubscription = 4
	segmentFixed       = headSize + 16
)

// SegmentInfo is the segment block: what the file is, before its first packet.
type SegmentInfo struct {
	Recording UUID
	// Number of the segment within the recording, from 0.
	Number uint32
	// Made says that no packet has a captured frame.
	Made bool
	// Start of the segment, ns since the Unix epoch by the recorder's clock.
	Start int64
	// Host that recorded, and Clock that stamped the datagrams, such as
	// "kernel software timestamp, CLOCK_REALTIME".
	Host, Clock string
	// Subscriptions as they were asked for; empty for a converted capture. Of a file
	// the first 4,096 are read, and of each text the first 1,024 bytes.
	Subscriptions []string
}

// AppendSegmentBlock appends the segment block:
//
//	 0     40  head; flag 1: frames are made, not captured
//	40      8  start time, ns since the Unix epoch
//	48      8  0
//	56      n  options as in every pcapng block: 2 host, 3 clock, 4 subscription
//	           (repeated), each UTF-8
func AppendSegmentBlock(dst []byte, s *SegmentInfo) []byte {
	dst, start := beginBlock(dst, BlockSegment)
	h := Head{Recording: s.Recording, Segment: s.Number}
	if s.Made {
		h.Flags |= SegmentFlagMade
	}
	dst = appendHead(dst, h)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(s.Start))
	dst = binary.LittleEndian.AppendUint64(dst, 0)
	dst = appendOption(dst, optSegHost, s.Host)
	dst = appendOption(dst, optSegClock, s.Clock)
	for _, sub := range s.Subscriptions {
		dst = appendOption(dst, optSegSubscription, sub)
	}
	return sealBlock(appendOptionEnd(dst), start)
}

// ParseSegmentBlock reads the body of a segment block.
func ParseSegmentBlock(body []byte) (*SegmentInfo, error) {
	h, err := parseSealed(body, segmentFixed, "segment block")
	if err != nil {
		return nil, err
	}
	s := &SegmentInfo{
		Recording: h.Recording,
		Number:    h.Segment,
		Made:      h.Flags&SegmentFlagMade != 0,
		Start:     int64(binary.LittleEndian.Uint64(body[40:])),
	}
	err = eachOption(body[segmentFixed:], false, func(code uint16, v []byte) error {
		switch code {
		case optSegHost:
			s.Host = cutText(cString(v), maxSegmentText)
		case optSegClock:
			s.Clock = cutText(cString(v), maxSegmentText)
		case optSegSubscription:
			if len(s.Subscriptions) < maxSubscriptions {
				s.Subscriptions = append(s.Subscriptions, cutText(cString(v), maxSegmentText))
			}
		}
		return nil
	})
	return s, err
}

// ChunkHeader opens every chunk.
type ChunkHeader struct {
	Recording UUID
	Segment   uint32
	Number    uint32 // of the chunk in its segment, from 0
	// First and Last are the earliest and latest packet times, ns. Packets need
	// not be in time order.
	First, Last int64
	Packets     uint32 // UDP or not
	Datagrams   uint32 // UDP
	Bytes       uint64 // UDP payload, as kept
	// Dropped counts the datagrams that this chunk newly reports as lost.
	Dropped uint64
	// Length in bytes of the chunk behind this header block.
	Length uint32
}

// BeginChunk appends room for a chunk header block that FinishChunk fills in once
// the packets are behind it.
func BeginChunk(dst []byte) []byte { return append(dst, make([]byte, ChunkHeaderSize)...) }

// FinishChunk writes the header into the first ChunkHeaderSize bytes of chunk,
// which holds the whole chunk. It sets c.Length.
//
//	 0     40  head; part is the chunk number
//	40      8  earliest packet time, ns since the Unix epoch
//	48      8  latest packet time
//	56      4  packets
//	60      4  of these, UDP datagrams
//	64      8  UDP payload bytes kept
//	72      8  datagrams that this chunk newly reports as lost
//	80      4  bytes of the chunk behind this block
//	84      4  0
func FinishChunk(chunk []byte, c *ChunkHeader) {
	c.Length = uint32(len(chunk) - ChunkHeaderSize)
	b, start := beginBlock(chunk[:0], BlockChunk)
	b = appendHead(b, Head{Recording: c.Recording, Segment: c.Segment, Part: c.Number})
	b = binary.LittleEndian.AppendUint64(b, uint64(c.First))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.Last))
	b = binary.LittleEndian.AppendUint32(b, c.Packets)
	b = binary.LittleEndian.AppendUint32(b, c.Datagrams)
	b = binary.LittleEndian.AppendUint64(b, c.Bytes)
	b = binary.LittleEndian.AppendUint64(b, c.Dropped)
	b = binary.LittleEndian.AppendUint32(b, c.Length)
	b = binary.LittleEndian.AppendUint32(b, 0)
	body := b[8:]
	binary.LittleEndian.PutUint32(body[crcOffset:], checksum(body, chunk[ChunkHeaderSize:]))
	endBlock(b, start)
}

// ParseChunkHeader reads a chunk header block at the start of b without checking
// the checksum, which needs the whole chunk (CheckChunk). Use it to learn how long
// a chunk is that is not compressed.
func ParseChunkHeader(b []byte) (c ChunkHeader, err error) {
	if len(b) < ChunkHeaderSize || get32(b, false) != BlockChunk {
		return c, fmt.Errorf("no chunk header")
	}
	body := b[8 : ChunkHeaderSize-4]
	h, err := parseHead(body, chunkBody, "chunk header")
	if err != nil {
		return c, err
	}
	if get32(b[4:], false) != ChunkHeaderSize || get32(b[ChunkHeaderSize-4:], false) != ChunkHeaderSize {
		return c, fmt.Errorf("chunk header states a wrong length")
	}
	c = ChunkHeader{
		Recording: h.Recording,
		Segment:   h.Segment,
		Number:    h.Part,
		First:     int64(binary.LittleEndian.Uint64(body[40:])),
		Last:      int64(binary.LittleEndian.Uint64(body[48:])),
		Packets:   binary.LittleEndian.Uint32(body[56:]),
		Datagrams: binary.LittleEndian.Uint32(body[60:]),
		Bytes:     binary.LittleEndian.Uint64(body[64:]),
		Dropped:   binary.LittleEndian.Uint64(body[72:]),
		Length:    binary.LittleEndian.Uint32(body[80:]),
	}
	if c.Length > MaxFrameRaw-ChunkHeaderSize {
		return c, fmt.Errorf("chunk states a length of %d bytes", c.Length)
	}
	if c.Packets > MaxChunkPackets {
		return c, fmt.Errorf("chunk states %d packets, limit %d", c.Packets, MaxChunkPackets)
	}
	return c, nil
}

// CheckChunk reads the header of the whole chunk in b and checks length and
// checksum.
func CheckChunk(b []byte) (c ChunkHeader, err error) {
	if c, err = ParseChunkHeader(b); err != nil {
		return c, err
	}
	if rest := len(b) - ChunkHeaderSize; rest != int(c.Length) {
		return c, fmt.Errorf("chunk %d has %d bytes behind its header, states %d", c.Number, rest, c.Length)
	}
	body := b[8 : ChunkHeaderSize-4]
	if get32(body[crcOffset:], false) != checksum(body, b[ChunkHeaderSize:]) {
		return c, fmt.Errorf("chunk %d: checksum does not match", c.Number)
	}
	return c, nil
}

// ChunkEntry is one chunk in the index.
type ChunkEntry struct {
	Offset int64 // of its frame in the file
	Size   uint32
	Raw    uint32 // size uncompressed
	// First and Last, Packets, Datagrams, Bytes, Dropped as in ChunkHeader.
	First, Last int64
	Packets     uint32
	Datagrams   uint32
	Bytes       uint64
	Dropped     uint64
}

// Index is a segment's table of contents.
type Index struct {
	Recording UUID
	Segment   uint32
	// Chunks in the order of the file; an entry stands for PerEntry of them.
	Chunks  []ChunkEntry
	Streams []Stream
	// StreamsCut says that there were more streams than the table keeps
	// (MaxStreams); the datagrams of the others are in the chunks all the same.
	StreamsCut bool
	// Interfaces are all that the file describes, in the first frame and behind it.
	Interfaces []Interface
	// Events are the last ones, at most MaxEvents of EventCount.
	Events     []Event
	EventCount uint32

	perEntry int // 0 is 1
	count    int // chunks added; 0 where Chunks was made in another way
	texts    InterfaceTexts
	parts    uint32 // blocks added
	complete bool
}

// PerEntry is how many chunks an entry stands for: 1, or a power of 2 in an index that
// was read and has more than MaxIndexChunks. The last entry may stand for fewer.
func (x *Index) PerEntry() int { return max(x.perEntry, 1) }

// ChunkCount is the number of chunks that the entries stand for.
func (x *Index) ChunkCount() int { return max(x.count, len(x.Chunks)) }

// AddChunk adds the next chunk, and joins entries where there are too many: neighbours
// that stand for as many chunks each. After an error, which tells of chunks that cannot
// be neighbours in a file, x is as it was.
func (x *Index) AddChunk(c ChunkEntry) error {
	n := x.ChunkCount()
	if n%x.PerEntry() != 0 {
		last := &x.Chunks[len(x.Chunks)-1]
		joined, err := last.join(&c)
		if err != nil {
			return err
		}
		*last, x.count = joined, n+1
		return nil
	}
	if len(x.Chunks) == MaxIndexChunks {
		half := x.Chunks[:MaxIndexChunks/2]
		for i := range half {
			if _, err := x.Chunks[2*i].join(&x.Chunks[2*i+1]); err != nil {
				return err
			}
		}
		for i := range half {
			half[i], _ = x.Chunks[2*i].join(&x.Chunks[2*i+1])
		}
		x.Chunks, x.perEntry = half, 2*x.PerEntry()
	}
	x.Chunks, x.count = append(x.Chunks, c), n+1
	return nil
}

// join is one entry for c and the one behind it.
func (c *ChunkEntry) join(next *ChunkEntry) (ChunkEntry, error) {
	j := *c
	size := next.Offset - c.Offset + int64(next.Size)
	packets, datagrams := uint64(c.Packets)+uint64(next.Packets), uint64(c.Datagrams)+uint64(next.Datagrams)
	if next.Offset < c.Offset+int64(c.Size) || size != int64(uint32(size)) || max(packets, datagrams) > math.MaxUint32 {
		return j, fmt.Errorf("index places a chunk of %d packets at byte %d, behind %d packets at byte %d", next.Packets, next.Offset, c.Packets, c.Offset)
	}
	if c.Packets == 0 {
		j.First, j.Last = next.First, next.Last
	} else if next.Packets > 0 {
		j.First, j.Last = min(c.First, next.First), max(c.Last, next.Last)
	}
	j.Size, j.Packets, j.Datagrams = uint32(size), uint32(packets), uint32(datagrams)
	j.Raw += next.Raw
	j.Bytes += next.Bytes
	j.Dropped += next.Dropped
	return j, nil
}

// Index block kinds.
const (
	indexChunks = iota + 1
	indexStreams
	indexInterfaces
	indexEvents

	indexFixed         = headSize + 8
	indexFlagStreamCut = 1
	indexFlagLast      = 2
)

// Blocks makes the index blocks, each at most 1 MiB and in a frame of its own, and
// hands them to f in order; b is valid during the call. It stops at the first error.
//
//	 0     40  head; part counts the blocks of this index; flag 1: the table of
//	           streams is not complete; flag 2: the last block of the index
//	40      4  kind: 1 chunks, 2 streams, 3 interfaces, 4 events
//	44      4  number of entries
//	48      n  entries
//
// A chunk entry (56 bytes): frame offset u64, frame size u32, size uncompressed
// u32, earliest and latest time i64, packets u32, datagrams u32, payload bytes
// u64, dropped u64. A stream entry (72 bytes): source and destination address 16
// bytes each (IPv4 as ::ffff:a.b.c.d), source and destination port u16, interface
// u32, datagrams u64, payload bytes u64, first and last time i64. An interface
// entry is a whole Interface Description Block, in the order of their numbers. An event
// entry is a whole event block; they are the segment's last ones, MaxEvents at most.
func (x *Index) Blocks(f func(b []byte) error) error {
	tables := [...]struct {
		kind, n int
		append  func(b []byte, i int) []byte
	}{
		{indexChunks, len(x.Chunks), func(b []byte, i int) []byte { return appendChunkEntry(b, &x.Chunks[i]) }},
		{indexStreams, len(x.Streams), func(b []byte, i int) []byte { return appendStreamEntry(b, &x.Streams[i]) }},
		{indexInterfaces, len(x.Interfaces), func(b []byte, i int) []byte { return AppendIDB(b, x.Interfaces[i]) }},
		{indexEvents, len(x.Events), func(b []byte, i int) []byte {
			number := x.EventCount - uint32(len(x.Events)-i)
			return AppendEvent(b, x.Recording, x.Segment, number, &x.Events[i])
		}},
	}
	head := Head{Recording: x.Recording, Segment: x.Segment}
	if x.StreamsCut {
		head.Flags = indexFlagStreamCut
	}
	last := len(tables) - 1
	for last > 0 && tables[last].n == 0 {
		last--
	}
	var b []byte
	for k := range tables[:last+1] {
		t := &tables[k]
		for i := 0; ; {
			b, _ = beginBlock(b[:0], BlockIndex)
			b = appendHead(b, head)
			b = binary.LittleEndian.AppendUint32(b, uint32(t.kind))
			b = binary.LittleEndian.AppendUint32(b, 0)
			first := i
			// An interface's name and description are at most 64 KiB each.
			for i < t.n && len(b) < maxIndexPart-(132<<10) {
				b = t.append(b, i)
				i++
			}
			body := b[8:]
			binary.LittleEndian.PutUint32(body[44:], uint32(i-first))
			if k == last && i == t.n {
				binary.LittleEndian.PutUint16(body[10:], head.Flags|indexFlagLast)
			}
			b = sealBlock(b, 0)
			if err := f(b); err != nil {
				return err
			}
			head.Part++
			if i == t.n {
				break
			}
		}
	}
	return nil
}

func appendChunkEntry(b []byte, c *ChunkEntry) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(c.Offset))
	b = binary.LittleEndian.AppendUint32(b, c.Size)
	b = binary.LittleEndian.AppendUint32(b, c.Raw)
	b = binary.LittleEndian.AppendUint64(b, uint64(c.First))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.Last))
	b = binary.LittleEndian.AppendUint32(b, c.Packets)
	b = binary.LittleEndian.AppendUint32(b, c.Datagrams)
	b = binary.LittleEndian.AppendUint64(b, c.Bytes)
	return binary.LittleEndian.AppendUint64(b, c.Dropped)
}

func appendStreamEntry(b []byte, s *Stream) []byte {
	src, dst := s.Src.Addr().As16(), s.Dst.Addr().As16()
	b = append(append(b, src[:]...), dst[:]...)
	b = binary.LittleEndian.AppendUint16(b, s.Src.Port())
	b = binary.LittleEndian.AppendUint16(b, s.Dst.Port())
	b = binary.LittleEndian.AppendUint32(b, uint32(s.Interface))
	b = binary.LittleEndian.AppendUint64(b, s.Datagrams)
	b = binary.LittleEndian.AppendUint64(b, s.Bytes)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.First))
	return binary.LittleEndian.AppendUint64(b, uint64(s.Last))
}

// Complete says that the last block has been added.
func (x *Index) Complete() bool { return x.complete }

// AddBlock reads the content of one index frame, the next one, into x. The counts
// are checked against the bytes that are there before anything is allocated.
func (x *Index) AddBlock(b []byte) error {
	h, body, err := ParseIndexBlock(b)
	if err != nil {
		return err
	}
	if x.parts == 0 {
		x.Recording, x.Segment = h.Recording, h.Segment
	}
	if x.complete || h.Part != x.parts || h.Recording != x.Recording || h.Segment != x.Segment {
		return fmt.Errorf("index block %d of another index, or out of place", h.Part)
	}
	x.parts++
	x.complete = h.Flags&indexFlagLast != 0
	x.StreamsCut = x.StreamsCut || h.Flags&indexFlagStreamCut != 0
	return x.addEntries(get32(body[40:], false), int(get32(body[44:], false)), body[indexFixed:])
}

// ParseIndexBlock checks an index frame's content, which is one index block, and
// reads its head; body is the block's.
func ParseIndexBlock(b []byte) (h Head, body []byte, err error) {
	typ, body, rest, _, err := NextBlock(b, false)
	if err != nil {
		return h, nil, fmt.Errorf("index: %w", err)
	}
	if typ != BlockIndex || len(rest) > 0 {
		return h, nil, fmt.Errorf("index: block of type %#x, %d bytes behind it", typ, len(rest))
	}
	h, err = parseSealed(body, indexFixed, "index block")
	return h, body, err
}

func (x *Index) addEntries(kind uint32, n int, e []byte) error {
	size := map[uint32]int{indexChunks: chunkEntrySize, indexStreams: streamEntrySize, indexInterfaces: 20, indexEvents: BlockOverhead + eventFixed}[kind]
	if size == 0 {
		return nil // a kind that a later version of castdeck added
	}
	whole := kind == indexInterfaces || kind == indexEvents // entries are blocks
	if n > len(e)/size || !whole && n*size != len(e) {
		return fmt.Errorf("index states %d entries in %d bytes", n, len(e))
	}
	u64 := binary.LittleEndian.Uint64
	u32 := binary.LittleEndian.Uint32
	for range n {
		switch kind {
		case indexChunks:
			if err := x.AddChunk(ChunkEntry{
				Offset: int64(u64(e)), Size: u32(e[8:]), Raw: u32(e[12:]),
				First: int64(u64(e[16:])), Last: int64(u64(e[24:])),
				Packets: u32(e[32:]), Datagrams: u32(e[36:]), Bytes: u64(e[40:]), Dropped: u64(e[48:]),
			}); err != nil {
				return err
			}
			e = e[chunkEntrySize:]
		case indexStreams:
			addr := func(b []byte, port []byte) netip.AddrPort {
				return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[:16])).Unmap(), binary.LittleEndian.Uint16(port))
			}
			if u32(e[36:]) >= MaxInterfaces || len(x.Streams) >= MaxStreams {
				return fmt.Errorf("index names interface %d in stream %d", u32(e[36:]), len(x.Streams))
			}
			x.Streams = append(x.Streams, Stream{
				Src: addr(e, e[32:]), Dst: addr(e[16:], e[34:]), Interface: uint16(u32(e[36:])),
				Datagrams: u64(e[40:]), Bytes: u64(e[48:]), First: int64(u64(e[56:])), Last: int64(u64(e[64:])),
			})
			e = e[streamEntrySize:]
		case indexInterfaces:
			typ, body, rest, _, err := NextBlock(e, false)
			if err != nil || typ != BlockIDB {
				return fmt.Errorf("index: damaged interface description")
			}
			i, _, err := ParseIDB(body, false)
			if err != nil {
				return fmt.Errorf("index: %w", err)
			}
			if len(x.Interfaces) >= MaxInterfaces {
				return fmt.Errorf("index of more than %d interfaces", MaxInterfaces)
			}
			x.texts.Keep(&i)
			x.Interfaces = append(x.Interfaces, i)
			e = rest
		case indexEvents:
			typ, body, rest, _, err := NextBlock(e, false)
			if err != nil || typ != BlockEvent {
				return fmt.Errorf("index: damaged event")
			}
			v, number, err := ParseEvent(body)
			if err != nil {
				return fmt.Errorf("index: %w", err)
			}
			if len(x.Events) >= MaxEvents || number == math.MaxUint32 || len(x.Events) > 0 && number != x.EventCount {
				return fmt.Errorf("index: event %d out of place", number)
			}
			x.Events, x.EventCount = append(x.Events, v), number+1
			e = rest
		}
	}
	return nil
}

// Footer is the last block of a sealed segment.
type Footer struct {
	Recording UUID
	Segment   uint32
	// IndexOffset and IndexSize place the index's frames in the file; IndexRaw is
	// their size uncompressed.
	IndexOffset int64
	IndexSize   uint32
	IndexRaw    uint32
	Chunks      uint32
	// NotUDP, Datagrams, Bytes and Dropped are the segment's totals.
	NotUDP    uint32
	Datagrams uint64
	Bytes     uint64
	Dropped   uint64
}

// AppendFooter appends the footer block, always FooterSize bytes:
//
//	 0     40  head
//	40      8  offset in the file of the index's first frame
//	48      4  size of the index's frames in the file, together
//	52      4  their size uncompressed
//	56      4  chunks
//	60      4  packets that are not UDP datagrams (2^32-1: that many or more)
//	64      8  datagrams
//	72      8  UDP payload bytes kept
//	80      8  datagrams lost
func AppendFooter(dst []byte, f *Footer) []byte {
	dst, start := beginBlock(dst, BlockFooter)
	dst = appendHead(dst, Head{Recording: f.Recording, Segment: f.Segment})
	dst = binary.LittleEndian.AppendUint64(dst, uint64(f.IndexOffset))
	dst = binary.LittleEndian.AppendUint32(dst, f.IndexSize)
	dst = binary.LittleEndian.AppendUint32(dst, f.IndexRaw)
	dst = binary.LittleEndian.AppendUint32(dst, f.Chunks)
	dst = binary.LittleEndian.AppendUint32(dst, f.NotUDP)
	dst = binary.LittleEndian.AppendUint64(dst, f.Datagrams)
	dst = binary.LittleEndian.AppendUint64(dst, f.Bytes)
	dst = binary.LittleEndian.AppendUint64(dst, f.Dropped)
	return sealBlock(dst, start)
}

// ParseFooter reads a whole footer block of FooterSize bytes.
func ParseFooter(b []byte) (*Footer, error) {
	typ, body, rest, _, err := NextBlock(b, false)
	if err != nil {
		return nil, err
	}
	if typ != BlockFooter || len(rest) != 0 {
		return nil, fmt.Errorf("no footer")
	}
	h, err := parseSealed(body, footerBody, "footer")
	if err != nil {
		return nil, err
	}
	u64 := binary.LittleEndian.Uint64
	u32 := binary.LittleEndian.Uint32
	return &Footer{
		Recording: h.Recording, Segment: h.Segment,
		IndexOffset: int64(u64(body[40:])), IndexSize: u32(body[48:]), IndexRaw: u32(body[52:]),
		Chunks: u32(body[56:]), NotUDP: u32(body[60:]),
		Datagrams: u64(body[64:]), Bytes: u64(body[72:]), Dropped: u64(body[80:]),
	}, nil
}
