package segment

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"

	"castdeck/format"
)

// Options of a new segment. The zero value is usable.
type Options struct {
	// Info goes into the segment block. A zero Recording is replaced by a random
	// UUID.
	Info format.SegmentInfo
	// Application is named in the section header, such as "castdeck 0.1".
	Application string
	// Interfaces that datagrams name; more can follow by AddInterface.
	Interfaces  []format.Interface
	Compression format.Compression
	// ChunkSize is the uncompressed size in bytes at which a chunk is closed:
	// default 512 KiB, from 4 KiB to 4 MiB. Larger chunks hardly pack better
	// (3 % from 256 KiB to 1 MiB) and a crash loses more.
	ChunkSize int
	// Store, asked before each chunk, says whether to store it instead of
	// compressing it: true when the recorder would otherwise lose datagrams. nil is
	// never.
	Store func() bool
	// Sync says when data are made durable, that is, survive a power cut.
	Sync Sync
	// Overwrite an existing file.
	Overwrite bool
	// FS to write to; nil is OS.
	FS FS
	// Shared with other writers of the same goroutine; nil is nothing.
	Shared *Shared
}

// Sync is when a segment's data are made durable.
type Sync uint8

const (
	// SyncSegment makes a segment durable when it is sealed; the default.
	SyncSegment Sync = iota
	// SyncInterval makes it durable at each Flush too: a power cut loses at most what
	// came since the last one.
	SyncInterval
	// SyncNone leaves it to the system.
	SyncNone
)

var syncNames = [...]string{SyncSegment: "segment", SyncInterval: "interval", SyncNone: "none"}

func (s Sync) String() string { return syncNames[s] }

// ParseSync reads a name that String gives.
func ParseSync(name string) (Sync, error) {
	if i := slices.Index(syncNames[:], name); i >= 0 {
		return Sync(i), nil
	}
	return 0, fmt.Errorf("no sync policy %q (have none, segment, interval)", name)
}

const (
	// behind is how much is written before the system is asked to write it out.
	behind = 8 << 20

	defaultChunkSize = 512 << 10
	minChunkSize     = 4 << 10
	maxChunkSize     = 4 << 20

	// slack is the room behind ChunkSize that one packet, and the statistics of
	// the interfaces it came from, can take.
	slack = format.MaxPacketSize + 4096
)

// Writer writes one segment. It implements format.BatchWriter and format.Flusher
// and is not safe for concurrent use.
type Writer struct {
	path string
	fs   FS
	f    File
	o    Options
	enc  *format.Encoder
	err  error // sticky: the file is finished
	done bool  // closed

	raw   []byte // the open chunk, its header first
	chunk format.ChunkHeader

	offset    int64 // where the next frame goes
	allocated int64
	started   int64 // up to here writing to the disk was begun
	durable   int64 // up to here the file is on the disk

	interfaces []format.Interface
	described  int // of them in the first frame
	ifStats    []ifStats
	touched    []uint16 // interfaces with news since the last chunk
	tally      format.Tally
	index      format.Index
	dropped    uint64 // of tally.Dropped, reported by closed chunks
	stored     uint64

	written, writtenBytes uint64
}

// ifStats are an interface's running totals as the file tells them.
type ifStats struct {
	format.InterfaceStats
	touched bool
	// Of Received and Dropped, what chunks in the file tell.
	fileReceived, fileDropped uint64
}

// Create makes a segment file and writes its first frame. The error of a failed
// create names path and cause; a file that was made for it is removed again.
func Create(path string, o Options) (*Writer, error) {
	if o.ChunkSize == 0 {
		o.ChunkSize = defaultChunkSize
	}
	o.ChunkSize = min(max(o.ChunkSize, minChunkSize), maxChunkSize)
	if o.FS == nil {
		o.FS = OS
	}
	if o.Info.Recording == (format.UUID{}) {
		o.Info.Recording = NewUUID()
	}
	enc, err := o.Shared.Encoder(o.Compression)
	if err != nil {
		return nil, err
	}
	w := &Writer{path: path, fs: o.FS, o: o, enc: enc}
	w.index.Recording, w.index.Segment = o.Info.Recording, o.Info.Number
	for _, i := range o.Interfaces {
		if _, err := w.addInterface(i); err != nil {
			return nil, err
		}
	}
	w.described = len(w.interfaces)
	if o.Shared == nil {
		w.raw = make([]byte, 0, o.ChunkSize+slack)
	} else {
		w.tally.Room = &o.Shared.room
	}

	if w.f, err = o.FS.Create(path, o.Overwrite); err != nil {
		return nil, err
	}
	if err := w.writeOpening(); err != nil {
		w.f.Close()
		o.FS.Remove(path)
		return nil, err
	}
	if o.Sync != SyncNone {
		// The name must survive a crash too; a folder that cannot be synced (some
		// network file systems) is no reason not to record.
		_ = o.FS.SyncDir(filepath.Dir(path))
	}
	o.Shared.Join()
	w.beginChunk()
	return w, nil
}

// NewUUID is a random UUID (RFC 9562 version 4).
func NewUUID() (u format.UUID) {
	rand.Read(u[:])
	u[6] = u[6]&0x0F | 0x40
	u[8] = u[8]&0x3F | 0x80
	return u
}

func (w *Writer) writeOpening() error {
	raw := format.AppendSHB(w.raw[:0], format.Section{
		Hardware: runtime.GOARCH, OS: runtime.GOOS, Application: w.o.Application,
	})
	for _, i := range w.interfaces {
		raw = format.AppendIDB(raw, i)
	}
	raw = format.AppendSegmentBlock(raw, &w.o.Info)
	return w.writeFrame(raw, false)
}

// Path of the file.
func (w *Writer) Path() string { return w.path }

// Recording is the UUID that the file carries.
func (w *Writer) Recording() format.UUID { return w.o.Info.Recording }

// Size is the number of bytes written to the file so far.
func (w *Writer) Size() int64 { return w.offset }

// Tally is what was written so far, the open chunk included. It is the writer's:
// read it before the next call.
func (w *Writer) Tally() *format.Tally { return &w.tally }

// Written counts the datagrams and payload bytes in chunks that are in the file;
// after an error, what can be read from it.
func (w *Writer) Written() (datagrams, bytes uint64) { return w.written, w.writtenBytes }

// InFile counts an interface's packets, and its losses told, in chunks that are in the
// file.
func (w *Writer) InFile(ifc uint16) (packets, dropped uint64) {
	if int(ifc) >= len(w.ifStats) {
		return 0, 0
	}
	return w.ifStats[ifc].fileReceived, w.ifStats[ifc].fileDropped
}

// Stored counts the chunks that were stored uncompressed under pressure.
func (w *Writer) Stored() uint64 { return w.stored }

// AddInterface describes one more interface and returns its index.
func (w *Writer) AddInterface(i format.Interface) (uint16, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.addInterface(i)
	if err != nil {
		return 0, err
	}
	w.raw = format.AppendNumberedIDB(w.raw, i, n)
	return n, nil
}

func (w *Writer) addInterface(i format.Interface) (uint16, error) {
	if len(w.interfaces) == format.MaxInterfaces {
		return 0, fmt.Errorf("%s: more than %d interfaces", w.path, format.MaxInterfaces)
	}
	w.interfaces = append(w.interfaces, i)
	w.ifStats = append(w.ifStats, ifStats{InterfaceStats: format.InterfaceStats{Interface: uint16(len(w.interfaces) - 1)}})
	return uint16(len(w.interfaces) - 1), nil
}

// Interfaces described so far; the writer's own slice.
func (w *Writer) Interfaces() []format.Interface { return w.interfaces }

func (w *Writer) beginChunk() {
	w.raw = format.BeginChunk(w.o.Shared.Spare(w.raw, w.o.ChunkSize))
	w.chunk = format.ChunkHeader{
		Recording: w.o.Info.Recording, Segment: w.o.Info.Number, Number: uint32(len(w.index.Chunks)),
	}
}

// WriteBatch adds the batch to the open chunk and writes chunks that are full. It
// keeps nothing of the batch. In steady state it allocates nothing per datagram.
func (w *Writer) WriteBatch(b *format.Batch) error {
	if w.err != nil {
		return w.err
	}
	if err := w.check(b); err != nil {
		return err
	}
	from := 0 // of the datagrams that the tally does not know yet
	full := w.o.Shared.Limit(w.o.ChunkSize)
	for i := range b.Datagrams {
		w.add(&b.Datagrams[i])
		if len(w.raw) < full && w.chunk.Packets < format.MaxChunkPackets {
			continue
		}
		w.tally.Add(&format.Batch{Datagrams: b.Datagrams[from : i+1]})
		from = i + 1
		if err := w.closeChunk(); err != nil {
			return err
		}
	}
	w.tally.Add(&format.Batch{Datagrams: b.Datagrams[from:], Stats: b.Stats})
	for i := range b.Stats {
		s := &b.Stats[i]
		w.touch(s.Interface, s.Time)
		t := &w.ifStats[s.Interface]
		t.KernelDropped = max(t.KernelDropped, s.KernelDropped)
	}
	return w.addEvents(b.Events)
}

func (w *Writer) addEvents(events []format.Event) error {
	for i := range events {
		number := uint32(w.tally.Events)
		w.raw = format.AppendEvent(w.raw, w.o.Info.Recording, w.o.Info.Number, number, &events[i])
		w.tally.Add(&format.Batch{Events: events[i : i+1]})
		if len(w.raw) >= w.o.Shared.Limit(w.o.ChunkSize) {
			if err := w.closeChunk(); err != nil {
				return err
			}
		}
	}
	return nil
}

// check refuses a batch that the file could not hold, before any of it is written.
func (w *Writer) check(b *format.Batch) error {
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if int(d.Interface) >= len(w.interfaces) {
			return fmt.Errorf("%s: datagram of interface %d, %d are described", w.path, d.Interface, len(w.interfaces))
		}
		if len(d.Frame) > format.MaxPacketSize {
			return fmt.Errorf("%s: packet of %d bytes, limit %d", w.path, len(d.Frame), format.MaxPacketSize)
		}
		if d.Frame == nil && (!d.Dst.IsValid() || !d.Src.IsValid() || d.Src.Addr().Is4() != d.Dst.Addr().Is4()) {
			return fmt.Errorf("%s: packet without a frame, from %v to %v: not addresses of one family", w.path, d.Src, d.Dst)
		}
	}
	for i := range b.Events {
		if e := &b.Events[i]; e.Interface < format.NoInterface || int(e.Interface) >= len(w.interfaces) {
			return fmt.Errorf("%s: event of interface %d, %d are described", w.path, e.Interface, len(w.interfaces))
		}
	}
	for _, s := range b.Stats {
		if int(s.Interface) >= len(w.interfaces) {
			return fmt.Errorf("%s: statistics of interface %d, %d are described", w.path, s.Interface, len(w.interfaces))
		}
	}
	return nil
}

// add puts one packet into the open chunk.
func (w *Writer) add(d *format.Datagram) {
	if w.chunk.Packets == 0 {
		w.chunk.First, w.chunk.Last = d.Time, d.Time
	}
	w.chunk.First = min(w.chunk.First, d.Time)
	w.chunk.Last = max(w.chunk.Last, d.Time)
	w.chunk.Packets++
	if d.Flags&format.FlagNotUDP == 0 {
		w.chunk.Datagrams++
		w.chunk.Bytes += uint64(len(d.Payload))
	}
	w.touch(d.Interface, d.Time)
	w.ifStats[d.Interface].Received++
	w.raw = format.AppendEPB(w.raw, d)
}

func (w *Writer) touch(ifc uint16, time int64) {
	t := &w.ifStats[ifc]
	t.Time = max(t.Time, time)
	if !t.touched {
		t.touched = true
		w.touched = append(w.touched, ifc)
	}
}

// Flush writes the open chunk, if there is anything in it, and with SyncInterval
// makes it durable.
func (w *Writer) Flush() error {
	if w.err != nil {
		return w.err
	}
	if len(w.raw) > format.ChunkHeaderSize || len(w.touched) > 0 {
		if err := w.closeChunk(); err != nil {
			return err
		}
	}
	if w.o.Sync == SyncInterval {
		return w.sync()
	}
	return nil
}

// sync makes the file durable. It is not tried again on failure: the kernel may
// have dropped the dirty pages and would then report success (PostgreSQL's
// "fsyncgate").
func (w *Writer) sync() error {
	if w.durable == w.offset {
		return nil
	}
	if err := w.f.Sync(); err != nil {
		return w.fail(fmt.Errorf("%s: making it durable: %w; it may be incomplete after a power cut", w.path, Cause(err)))
	}
	w.durable = w.offset
	return nil
}

func (w *Writer) closeChunk() error {
	for _, i := range w.touched {
		t := &w.ifStats[i]
		t.touched = false
		t.Dropped = w.tally.DroppedOn(i)
		w.raw = format.AppendISB(w.raw, t.InterfaceStats)
	}
	w.chunk.Dropped = w.tally.Dropped - w.dropped
	format.FinishChunk(w.raw, &w.chunk)

	at := w.offset
	if err := w.writeFrame(w.raw, w.o.Store != nil && w.o.Store()); err != nil {
		return err
	}
	// State advances only now: a chunk that was not written is in no total.
	for _, i := range w.touched {
		t := &w.ifStats[i]
		t.fileReceived, t.fileDropped = t.Received, t.Dropped
	}
	w.touched = w.touched[:0]
	w.dropped = w.tally.Dropped
	w.written += uint64(w.chunk.Datagrams)
	w.writtenBytes += w.chunk.Bytes
	w.index.Chunks = append(w.index.Chunks, format.ChunkEntry{
		Offset: at, Size: uint32(w.offset - at), Raw: uint32(len(w.raw)),
		First: w.chunk.First, Last: w.chunk.Last, Packets: w.chunk.Packets,
		Datagrams: w.chunk.Datagrams, Bytes: w.chunk.Bytes, Dropped: w.chunk.Dropped,
	})
	w.beginChunk()
	return nil
}

func (w *Writer) writeFrame(raw []byte, store bool) error {
	frame := raw
	if w.o.Compression != format.None {
		if store {
			w.stored++
		}
		var err error
		if frame, err = w.enc.Frame(raw, store); err != nil {
			return w.fail(err)
		}
	}
	return w.write(frame)
}

// write appends one frame in one write.
func (w *Writer) write(frame []byte) error {
	end := w.offset + int64(len(frame))
	if end > w.allocated {
		// A growing step keeps small recordings small and large ones in few extents.
		step := min(max(w.offset, 2*int64(w.o.ChunkSize)), 64<<20)
		if w.f.Allocate(w.offset, max(step, int64(len(frame)))) == nil {
			w.allocated = w.offset + max(step, int64(len(frame)))
		} else {
			w.allocated = end // full or not supported: the write itself tells
		}
	}
	if _, err := w.f.WriteAt(frame, w.offset); err != nil {
		// A part of the frame may stand in the file. Readers pass over it, but
		// without it the file ends in a whole chunk.
		_ = w.f.Truncate(w.offset)
		before := "; what was written before is readable"
		if w.offset == 0 {
			before = ""
		}
		return w.fail(fmt.Errorf("%s: writing %d bytes at byte %d: %w%s", w.path, len(frame), w.offset, Cause(err), before))
	}
	w.offset = end
	if w.offset-w.started >= behind {
		_ = w.f.WriteBehind(w.started, w.offset-w.started)
		w.started = w.offset
	}
	return nil
}

func (w *Writer) fail(err error) error {
	w.err = err
	return err
}

// Close writes the open chunk, the index and the footer, makes the file durable
// and releases it. After a write error it only releases the file and returns that
// error. Closing again does nothing.
func (w *Writer) Close() error {
	if w.done {
		if w.err == errClosed {
			return nil
		}
		return w.err
	}
	w.done = true
	defer w.leave()
	if err := w.seal(); err != nil {
		w.f.Close()
		return err
	}
	if err := w.f.Close(); err != nil {
		return w.fail(fmt.Errorf("%s: closing: %w", w.path, Cause(err)))
	}
	w.err = errClosed
	return nil
}

// leave gives back what the writer had of what is shared.
func (w *Writer) leave() {
	if s := w.o.Shared; s != nil {
		w.raw = nil
		s.room += len(w.index.Streams)
		s.Leave()
	}
}

var errClosed = errors.New("segment is closed")

func (w *Writer) seal() error {
	if err := w.Flush(); err != nil {
		return err
	}
	w.index.Streams, w.index.StreamsCut = w.tally.Streams(), w.tally.StreamsCut
	w.index.Interfaces = w.interfaces
	w.index.Events, w.index.EventCount = w.tally.LastEvents(), uint32(w.tally.Events)
	at, raw := w.offset, 0
	if err := w.index.Blocks(func(b []byte) error {
		raw += len(b)
		return w.writeFrame(b, false)
	}); err != nil {
		return err
	}
	foot := format.AppendFooter(nil, &format.Footer{
		Recording: w.index.Recording, Segment: w.index.Segment,
		IndexOffset: at, IndexSize: uint32(w.offset - at), IndexRaw: uint32(raw),
		Chunks: uint32(len(w.index.Chunks)), NotUDP: w.tally.NotUDP32(),
		Datagrams: w.tally.Datagrams, Bytes: w.tally.Bytes, Dropped: w.tally.Dropped,
	})
	frame, err := w.enc.Frame(foot, true)
	if err != nil {
		return w.fail(err)
	}
	if err := w.write(frame); err != nil {
		return err
	}
	if err := w.f.Truncate(w.offset); err != nil { // gives back what Allocate reserved
		return w.fail(fmt.Errorf("%s: %w", w.path, Cause(err)))
	}
	if w.o.Sync == SyncNone {
		return nil
	}
	return w.sync() // the name has been durable since Create
}
