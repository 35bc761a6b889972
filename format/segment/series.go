package segment

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sync"
	"time"

	"castdeck/format"
)

// Part is one file of a series: a Writer, or another tool's format.
type Part interface {
	format.BatchWriter
	format.Flusher
	io.Closer
	// Size in bytes of the file so far.
	Size() int64
	// Written counts datagrams and payload bytes that are in the file, also after an
	// error.
	Written() (datagrams, bytes uint64)
}

// lossTeller is a Part that tells losses, as Writer does. Its totals begin at 0 with
// every file, so that those of a recording's files add up.
type lossTeller interface {
	// InFile counts the interface's packets, and its losses told, in chunks that are
	// in the file.
	InFile(ifc uint16) (packets, dropped uint64)
}

// Rotate says when a segment ends and the next one begins; whatever comes first. Zero
// fields are never.
type Rotate struct {
	// Bytes in the file: it ends with the chunk that reaches them.
	Bytes int64
	// Every is a span of time; segments are cut where the clock, UTC, is at a multiple
	// of it since 1970, so that hours and days begin at their start. Exactly: by the
	// datagrams' times.
	Every time.Duration
	// Datagrams in the segment, exactly.
	Datagrams uint64
}

// SeriesOptions of a Series. Names and Create are required.
type SeriesOptions struct {
	Names  *Names
	Rotate Rotate
	Keep   Keep
	// MinFree bytes are left free on the disk: with less, it counts as full. 0 is no
	// limit.
	MinFree int64
	OnFull  OnFull
	// MaxBytes on the disk end the series: see Reached. 0 is no limit.
	MaxBytes int64
	// Create makes one file, the number-th of the recording from 0 on, on fs. Its
	// error wraps fs.ErrExist where the file exists and must not be overwritten.
	Create func(path string, number uint32, fs FS) (Part, error)
	// Event is told what happens. It is called by any goroutine, must return soon and
	// must not call the series. nil is allowed.
	Event func(Event)
	// Lock the names also where there is only one: nothing is made for now.
	Lock bool
	// FS to write to; nil is OS.
	FS FS
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Free says how many bytes are free and how many there are on the disk of a
	// folder; nil asks the system.
	Free func(dir string) (free, total int64, err error)
}

// EventKind is what an Event tells.
type EventKind uint8

const (
	// EventSealed: a segment is complete and durable.
	EventSealed EventKind = iota
	// EventUnsealed: a file could not be sealed; what it holds is readable.
	EventUnsealed
	// EventDeleted: a segment was deleted to make room, or by a limit.
	EventDeleted
	// EventKept: a segment could not be deleted.
	EventKept
	// EventPaused: the disk is full, and what comes is counted and not written.
	EventPaused
	// EventResumed: there is room again.
	EventResumed
	// EventSlow: the disk kept the writer waiting; Reason says how long.
	EventSlow
)

// Event is something that happened to a series.
type Event struct {
	Kind   EventKind
	Path   string // of the segment
	Number uint32 // of the segment, with EventSealed
	// Datagrams and Bytes of payload in the segment, and FileBytes of it.
	Datagrams, Bytes uint64
	FileBytes        int64
	// First and Last packet times, ns since the Unix epoch; 0 where there is none.
	First, Last int64
	// Lost datagrams so far for want of room.
	Lost uint64
	// Reason why, one line; Err is the cause where there is one.
	Reason string
	Err    error
}

// SeriesTotals are counts of a series.
type SeriesTotals struct {
	// Datagrams and Bytes of payload that are in files.
	Datagrams, Bytes uint64
	// FileBytes of all files, also of those that were deleted.
	FileBytes int64
	// Lost datagrams were not written for want of room. Passed came after MaxBytes
	// were reached.
	Lost, Passed uint64
	// Sealed and Deleted files.
	Sealed, Deleted int
	Paused          bool
	// Slow is the time of all writes that took half a second or more.
	Slow time.Duration
}

const (
	// maxSealing bounds the segments that are being sealed, and with them the memory
	// (1.5 MB each); beyond it writing waits.
	maxSealing = 4
	// idle is how long after the end of its time a segment without new datagrams is
	// ended by the clock: what waits in queues before the series is through by then.
	idle = 2 * time.Second
	// retryAfter is the first and longest time between two attempts to go on after a
	// pause.
	retryAfter, retryAtMost = time.Second, time.Minute
	// maxHeldEvents bounds the events that wait for room.
	maxHeldEvents = 1000
	// settling is how long the file system has to show room after deleting.
	settling = 5 * time.Second
)

// Series writes a recording into one file after the other. It implements
// format.BatchWriter and format.Flusher. WriteBatch, Flush, Rotate, Tick and Close must
// not be called at the same time; Totals may be called at any time.
//
// Segments are sealed by goroutines of their own, so that making them durable does not
// hold up the writing; an error of theirs is returned by the next call. The files of a
// series, but a single plain one, are locked together against a second recorder.
type Series struct {
	o      SeriesOptions
	fs     *seriesFS
	slow   *slowMeter
	keeper *keeper
	lock   io.Closer // nil for a plain name

	part   *part1 // nil between files
	number uint32 // of the next file
	k      int    // number in the name of the last file
	name   string // of the last file, without number
	err    error  // sticky, as seen by the caller
	closed bool

	ifs       []ifLedger
	undo      []undo
	undoStats []format.InterfaceStats
	scratch   format.Batch
	wrote     time.Time // when there last was something to write
	settled   time.Time
	held      []format.Event // for the next file
	paused    bool
	retryAt   time.Time
	backOff   time.Duration

	sealing sync.WaitGroup
	slots   chan struct{}
	last    chan struct{} // closed when the segment before is sealed

	mu           sync.Mutex
	totals       SeriesTotals // of files that are closed
	sealingBytes int64        // of files that are being closed
	open         SeriesTotals // of the open file
	isOpen       bool         // there is one
	failed       error        // of sealing
	unsealed     string       // a file that could not be sealed for want of room
}

// part1 is one file.
type part1 struct {
	Part
	path        string
	number      uint32
	room        *roomFile // nil but with FullDelete
	datagrams   uint64    // given to it
	first, last int64
	end         int64 // of its time, ns
	totals      bool  // were given to it
}

// ifLedger are an interface's losses. What the files tell adds up to what was lost,
// also where a segment ends between a loss and its being told.
type ifLedger struct {
	packets uint64 // given to the open file
	lost    uint64 // by this series, for want of room
	seen    uint64 // lost, and told by datagrams so far
	told    uint64 // by files before the open one
	here    uint64 // told by datagrams of the open file
	// kernel is the latest total, toldKernel the one at the end of the file before.
	kernel, toldKernel uint64
	owes               bool // seen is more than what was told
}

type undo struct {
	d     *format.Datagram
	drops uint64
}

// OpenSeries prepares a series: it takes the lock and looks for segments that earlier
// runs left. The error wraps ErrLocked where another recorder writes files of these
// names. The first file is made by Begin, or with the first datagram.
func OpenSeries(o SeriesOptions) (*Series, error) {
	if o.FS == nil {
		o.FS = OS
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Free == nil {
		o.Free = diskFree
	}
	if o.Event == nil {
		o.Event = func(Event) {}
	}
	s := &Series{o: o, keeper: newKeeper(o.FS, o.Event), slots: make(chan struct{}, maxSealing), backOff: retryAfter}
	s.slow = &slowMeter{now: o.Now}
	s.fs = &seriesFS{FS: slowFS{o.FS, s.slow}, s: s}
	s.wrote = o.Now()
	if s.several() || o.Lock {
		lock, err := lockSeries(o.Names.lockPath())
		if err != nil {
			return nil, err
		}
		s.lock = lock
	}
	if s.several() {
		if err := s.keeper.find(o.Names); err != nil {
			s.lock.Close()
			return nil, err
		}
	}
	return s, nil
}

// Begin deletes what is beyond the limits and makes the first file, although there is
// nothing to write yet.
func (s *Series) Begin() error {
	defer s.publish()
	now := s.o.Now()
	s.enforce(now)
	if err := s.checkRoom(now); err != nil || s.paused {
		return err
	}
	err := s.openPart(now.UnixNano())
	switch {
	case err == nil:
		return nil
	case IsFull(err) && s.o.OnFull == FullPause:
		s.pause(err.Error(), "")
		return nil
	}
	return s.fail(err)
}

// several says that the names are made for more than one file.
func (s *Series) several() bool { return s.o.Names.numbered || s.o.Names.timed }

// openPart makes the next file. No file is ever overwritten, but by Create a plain one.
func (s *Series) openPart(t int64) error {
	at := time.Unix(0, t)
	if name := s.o.Names.Path(at, 1); name != s.name || s.k == 0 {
		s.name, s.k = name, 0
		if s.o.Names.numbered {
			if err := s.findNumber(); err != nil {
				return err
			}
		}
	}
	for {
		s.k++
		path := s.o.Names.Path(at, s.k)
		s.fs.last = nil
		p, err := s.o.Create(path, s.number, s.fs)
		if errors.Is(err, fs.ErrExist) && (s.several() || s.number > 0) {
			continue
		}
		if err != nil {
			s.k--
			return err
		}
		s.part = &part1{Part: p, path: path, number: s.number, room: s.fs.last, end: math.MaxInt64}
		s.span(t)
		return nil
	}
}

// span sets the end of the open file's time to the first multiple after t.
func (s *Series) span(t int64) {
	if step := int64(s.o.Rotate.Every); step > 0 {
		begin := t - (t%step+step)%step
		if s.part.end = begin + step; s.part.end < begin {
			s.part.end = math.MaxInt64
		}
	}
}

// findNumber goes on behind the highest number that stands in the folder.
func (s *Series) findNumber() error {
	entries, err := os.ReadDir(s.o.Names.folder())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if k, ok := s.o.Names.number(e.Name()); ok {
			s.k = max(s.k, k)
		}
	}
	return nil
}

// WriteBatch writes the batch into one file or, where a segment ends within it, into
// several. Nothing of the batch is kept; it is as it was afterwards.
func (s *Series) WriteBatch(b *format.Batch) error {
	if err := s.check(); err != nil {
		return err
	}
	defer s.publish()
	s.wrote = s.o.Now()
	s.tellSlow(false)
	rest := *b
	for {
		n := len(rest.Datagrams)
		switch {
		case s.reached():
			s.pass(rest.Datagrams)
			return nil
		case s.paused:
			s.lose(rest.Datagrams)
			s.hold(rest.Events...)
			return nil
		case s.part == nil && n == 0 && len(rest.Events) == 0 && !s.news(rest.Stats):
			return nil // nothing to open a file for
		case s.part == nil:
			t := s.wrote.UnixNano()
			if n > 0 {
				t = rest.Datagrams[0].Time
			}
			if err := s.openPart(t); err != nil {
				if !IsFull(err) || s.o.OnFull != FullPause {
					return s.fail(err)
				}
				s.pause(err.Error(), "")
				continue
			}
		}
		n = s.fits(rest.Datagrams)
		s.scratch = format.Batch{Datagrams: rest.Datagrams[:n]}
		rest.Datagrams = rest.Datagrams[n:]
		ended := len(rest.Datagrams) > 0
		if !ended {
			// They belong behind the last datagram.
			s.scratch.Stats, s.scratch.Events = rest.Stats, rest.Events
			if len(s.held) > 0 {
				s.scratch.Events = append(s.held, rest.Events...)
				s.held = nil
			}
		}
		if err := s.write(&s.scratch); err != nil {
			if !s.pauses(err) {
				return s.fail(err)
			}
			if !ended {
				rest.Events = s.scratch.Events
			}
			continue
		}
		if ended || s.o.Rotate.Bytes > 0 && s.part.Size() >= s.o.Rotate.Bytes {
			if err := s.handOver(); err != nil {
				return err
			}
		}
		if !ended {
			return nil
		}
	}
}

// fits is how many of the datagrams, from the first on, belong into the open file.
func (s *Series) fits(ds []format.Datagram) int {
	p, limit := s.part, s.o.Rotate.Datagrams
	if s.o.Rotate.Every == 0 && limit == 0 {
		return len(ds)
	}
	n := p.datagrams
	for i := range ds {
		if ds[i].Time >= p.end {
			if n > 0 {
				return i
			}
			s.span(ds[i].Time) // an empty file waits for its first datagram
		}
		if ds[i].Flags&format.FlagNotUDP != 0 {
			continue
		}
		if limit > 0 && n >= limit {
			return i
		}
		n++
	}
	return len(ds)
}

func (s *Series) write(b *format.Batch) error {
	p := s.part
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if p.datagrams == 0 && p.first == 0 {
			p.first, p.last = d.Time, d.Time
		}
		p.first, p.last = min(p.first, d.Time), max(p.last, d.Time)
		if d.Flags&format.FlagNotUDP == 0 {
			p.datagrams++
		}
		s.tell(d)
	}
	if _, ok := p.Part.(lossTeller); ok {
		s.tellTotals(b.Stats)
		p.totals = p.totals || len(b.Stats) > 0
	}
	err := p.WriteBatch(b)
	for _, u := range s.undo {
		u.d.Drops = u.drops
	}
	s.undo = s.undo[:0]
	copy(b.Stats, s.undoStats)
	s.undoStats = s.undoStats[:0]
	return err
}

// on is an interface's ledger.
func (s *Series) on(ifc uint16) *ifLedger {
	if n := int(ifc) + 1; n > len(s.ifs) {
		s.ifs = append(s.ifs, make([]ifLedger, n-len(s.ifs))...)
	}
	return &s.ifs[ifc]
}

// tell makes the datagram say what was lost before it and stands in no file yet.
func (s *Series) tell(d *format.Datagram) {
	l := s.on(d.Interface)
	l.packets++
	if d.Drops == 0 && !l.owes {
		return
	}
	l.seen += d.Drops
	l.owes = false
	drops := l.seen - min(l.seen, l.told+l.here)
	l.here += drops
	if drops != d.Drops {
		s.undo = append(s.undo, undo{d, d.Drops})
		d.Drops = drops
	}
}

// news says whether the totals tell of losses that stand in no file yet.
func (s *Series) news(stats []format.InterfaceStats) bool {
	for i := range stats {
		if l := s.on(stats[i].Interface); stats[i].Dropped+l.lost > l.told {
			return true
		}
	}
	return false
}

// tellTotals makes totals of the recording totals of the file.
func (s *Series) tellTotals(stats []format.InterfaceStats) {
	s.undoStats = append(s.undoStats[:0], stats...)
	for i := range stats {
		st := &stats[i]
		l := s.on(st.Interface)
		l.kernel = max(l.kernel, st.KernelDropped)
		st.Dropped += l.lost
		st.Dropped -= min(st.Dropped, l.told)
		st.KernelDropped -= min(st.KernelDropped, l.toldKernel)
	}
}

// handOver writes what is gathered for the open file and has the file sealed by another
// goroutine. What that one can fail to write is the index only.
func (s *Series) handOver() error {
	p := s.part
	if err := p.Flush(); err != nil {
		if s.pauses(err) {
			return nil
		}
		return s.fail(err)
	}
	s.part = nil
	s.number++
	s.settle(p, false)
	if p.room != nil {
		p.room.sealing = true
	}
	size := p.Size()
	s.mu.Lock()
	s.sealingBytes += size
	s.mu.Unlock()
	s.publish()
	s.slots <- struct{}{}
	s.keeper.begin()
	before, done := s.last, make(chan struct{})
	s.last = done
	s.sealing.Go(func() {
		defer func() { <-s.slots }()
		defer close(done)
		err := p.Close()
		if before != nil {
			s.keeper.park(func() { <-before }) // told in order
		}
		s.sealed(p, size, err)
	})
	return nil
}

// settle closes the ledgers for a file that is complete but for its index, or, with
// failed, as complete as it will ever be: what did not get into it is lost.
func (s *Series) settle(p *part1, failed bool) {
	teller, _ := p.Part.(lossTeller)
	for i := range s.ifs {
		l := &s.ifs[i]
		if teller != nil {
			packets, dropped := teller.InFile(uint16(i))
			l.told += dropped
			if failed {
				l.lost += l.packets - packets
				l.seen += l.packets - packets
			} else {
				l.toldKernel = l.kernel
			}
		}
		l.packets, l.here = 0, 0
		l.owes = l.seen > l.told
	}
}

// sealed takes up a file that was closed, of size bytes when it was handed over.
// Goroutines of handOver call it, in order.
func (s *Series) sealed(p *part1, size int64, err error) {
	datagrams, bytes := p.Written()
	e := Event{Path: p.path, Number: p.number, Datagrams: datagrams, Bytes: bytes, FileBytes: p.Size(), First: p.first, Last: p.last}
	var f *kept
	if err == nil {
		if st, serr := os.Lstat(p.path); serr == nil {
			f = &kept{path: p.path, size: e.FileBytes, start: p.first, last: p.last, file: st, own: true}
			if f.last == 0 {
				f.last = s.o.Now().UnixNano()
			}
		}
	}
	s.mu.Lock()
	s.totals.Datagrams += datagrams
	s.totals.Bytes += bytes
	s.totals.FileBytes += e.FileBytes
	s.sealingBytes -= size
	switch {
	case err == nil:
		s.totals.Sealed++
	case IsFull(err) && s.o.OnFull == FullPause:
		s.unsealed = p.path
	default:
		s.failed = cmp.Or(s.failed, err)
	}
	s.mu.Unlock()
	if e.Err = err; err != nil {
		e.Kind = EventUnsealed
	}
	s.o.Event(e)
	s.keeper.end(f)
	s.enforce(s.o.Now())
}

func (s *Series) enforce(now time.Time) {
	if s.o.Keep == (Keep{}) {
		return
	}
	open := int64(-1)
	s.mu.Lock()
	if s.isOpen {
		open = s.open.FileBytes
	}
	s.mu.Unlock()
	s.keeper.enforce(s.o.Keep, open, now)
}

// pauses says whether the failure of the open file is a pause, and begins it.
func (s *Series) pauses(err error) bool {
	if !IsFull(err) || s.o.OnFull != FullPause {
		return false
	}
	p := s.part
	s.part = nil
	s.settle(p, true)
	s.abandon(p)
	s.pause(err.Error(), p.path)
	return true
}

// abandon takes up a file that could not be written to its end. One without a datagram
// goes away, unless an error ended the series.
func (s *Series) abandon(p *part1) {
	_ = p.Close()
	datagrams, bytes := p.Written()
	s.mu.Lock()
	s.totals.Datagrams += datagrams
	s.totals.Bytes += bytes
	s.totals.Lost += p.datagrams - datagrams
	s.totals.FileBytes += p.Size()
	s.mu.Unlock()
	if datagrams == 0 && !p.totals && s.err == nil {
		_ = s.o.FS.Remove(p.path)
		s.backOff = min(2*s.backOff, retryAtMost)
		return
	}
	s.number++
	s.backOff = retryAfter
	s.o.Event(Event{Kind: EventUnsealed, Path: p.path, Number: p.number, Datagrams: datagrams, Bytes: bytes,
		FileBytes: p.Size(), First: p.first, Last: p.last})
}

func (s *Series) pause(why, path string) {
	now := s.o.Now()
	s.paused = true
	s.retryAt = now.Add(s.backOff)
	s.hold(format.Event{Time: now.UnixNano(), Kind: format.EventPaused, Text: why, Interface: format.NoInterface})
	s.mu.Lock()
	s.totals.Paused = true
	lost := s.totals.Lost
	s.mu.Unlock()
	s.o.Event(Event{Kind: EventPaused, Path: path, Lost: lost, Reason: why})
}

// resume goes on in a new file if there is room.
func (s *Series) resume(now time.Time) error {
	s.retryAt = now.Add(s.backOff)
	if free, total, err := s.o.Free(s.o.Names.folder()); err == nil {
		// Room for some chunks, or the next pause would follow at once.
		if free < max(s.o.MinFree, min(64<<20, total/10)) {
			return nil
		}
	}
	if err := s.openPart(now.UnixNano()); err != nil {
		if IsFull(err) {
			s.backOff = min(2*s.backOff, retryAtMost)
			return nil
		}
		return s.fail(err)
	}
	s.paused = false
	s.mu.Lock()
	s.totals.Paused = false
	lost := s.totals.Lost
	s.mu.Unlock()
	s.hold(format.Event{Time: now.UnixNano(), Kind: format.EventGoesOn, Interface: format.NoInterface,
		Text: fmt.Sprintf("%d datagrams were not written so far for want of room", lost)})
	s.o.Event(Event{Kind: EventResumed, Path: s.part.path, Lost: lost})
	return nil
}

// tellSlow tells of a slow disk, and notes it in the file.
func (s *Series) tellSlow(last bool) {
	path, text := s.slow.take(last)
	if text == "" {
		return
	}
	s.hold(format.Event{Time: s.o.Now().UnixNano(), Kind: format.EventDiskSlow, Text: text, Interface: format.NoInterface})
	s.o.Event(Event{Kind: EventSlow, Path: path, Reason: text})
}

// hold keeps events for the next file, the first ones of a long pause.
func (s *Series) hold(events ...format.Event) {
	s.held = append(s.held, events[:min(len(events), maxHeldEvents-min(len(s.held), maxHeldEvents))]...)
}

// lose counts datagrams that come while there is no room.
func (s *Series) lose(ds []format.Datagram) {
	n := uint64(0)
	for i := range ds {
		d := &ds[i]
		l := s.on(d.Interface)
		l.lost++
		l.seen += d.Drops + 1
		l.owes = true
		if d.Flags&format.FlagNotUDP == 0 {
			n++
		}
	}
	s.mu.Lock()
	s.totals.Lost += n
	s.mu.Unlock()
}

// pass counts datagrams that come after the end.
func (s *Series) pass(ds []format.Datagram) {
	n := uint64(0)
	for i := range ds {
		if ds[i].Flags&format.FlagNotUDP == 0 {
			n++
		}
	}
	s.mu.Lock()
	s.totals.Passed += n
	s.mu.Unlock()
}

func (s *Series) reached() bool {
	if s.o.MaxBytes == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.totals.FileBytes + s.sealingBytes
	if s.part != nil {
		n += s.part.Size()
	}
	return n >= s.o.MaxBytes
}

// Reached says that MaxBytes are on the disk: what comes is not written any more.
func (s *Series) Reached() bool { return s.reached() }

// Flush writes what is gathered.
func (s *Series) Flush() error {
	if err := s.check(); err != nil {
		return err
	}
	defer s.publish()
	if s.part == nil {
		return nil
	}
	if err := s.part.Flush(); err != nil && !s.pauses(err) {
		return s.fail(err)
	}
	return nil
}

// Rotate ends the open segment now, if there is anything in it.
func (s *Series) Rotate() error {
	if err := s.check(); err != nil {
		return err
	}
	defer s.publish()
	if s.part != nil && s.part.datagrams > 0 {
		return s.handOver()
	}
	return nil
}

// Tick does what is due by the clock: the end of a segment to which nothing comes any
// more, limits, room on the disk, going on after a pause. It wants to be called about
// once a second.
func (s *Series) Tick() error {
	if err := s.check(); err != nil {
		return err
	}
	defer s.publish()
	now := s.o.Now()
	s.tellSlow(false)
	if s.paused {
		if now.Before(s.retryAt) {
			return nil
		}
		return s.resume(now)
	}
	if p := s.part; p != nil && p.datagrams > 0 && now.Sub(s.wrote) >= idle && now.UnixNano() >= p.end {
		if err := s.handOver(); err != nil || s.paused {
			return err
		}
	}
	s.enforce(now)
	return s.checkRoom(now)
}

// checkRoom keeps MinFree bytes free, or does what is to be done where they are not.
func (s *Series) checkRoom(now time.Time) error {
	if s.o.MinFree == 0 {
		return nil
	}
	free, _, err := s.o.Free(s.o.Names.folder())
	if err != nil {
		return s.fail(fmt.Errorf("%s: asking for the free space: %w", s.o.Names.folder(), err))
	}
	if free >= s.o.MinFree {
		return nil
	}
	why := fmt.Sprintf("%d bytes are free, fewer than the %d to be left", free, s.o.MinFree)
	switch s.o.OnFull {
	case FullPause:
		if s.part != nil {
			if err := s.handOver(); err != nil || s.paused {
				return err
			}
		}
		s.pause(why, "")
		return nil
	case FullDelete:
		if now.Before(s.settled) {
			return nil
		}
		need, before := s.o.MinFree-free, s.keeper.size()
		for before-s.keeper.size() < need {
			if !s.keeper.free(why, false) {
				break
			}
			s.settled = now.Add(settling)
		}
		if before > s.keeper.size() {
			return nil // looks again later: not every file system frees at once
		}
		why += ", and there is no sealed segment of this name left to delete"
	}
	return s.fail(fmt.Errorf("%s: %s", s.o.Names.path, why))
}

// check returns what ended the series, and takes up what sealing has found.
func (s *Series) check() error {
	if s.closed {
		return fmt.Errorf("%s: %w", s.o.Names.path, fs.ErrClosed)
	}
	s.mu.Lock()
	failed, unsealed := s.failed, s.unsealed
	s.unsealed = ""
	s.mu.Unlock()
	if unsealed != "" && !s.paused && s.err == nil {
		if s.part != nil {
			if err := s.handOver(); err != nil {
				return err
			}
		}
		if !s.paused {
			s.pause("no room to seal a segment", unsealed)
		}
	}
	if failed != nil && s.err == nil {
		s.err = failed
	}
	return s.err
}

func (s *Series) fail(err error) error {
	if s.err == nil {
		s.err = err
	}
	return err
}

// publish makes the open file's counts known to Totals.
func (s *Series) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open, s.isOpen = SeriesTotals{}, s.part != nil
	if s.isOpen {
		s.open.Datagrams, s.open.Bytes = s.part.Written()
		s.open.FileBytes = s.part.Size()
	}
}

// Totals so far. They are exact after Close.
func (s *Series) Totals() SeriesTotals {
	s.mu.Lock()
	t := s.totals
	t.Datagrams += s.open.Datagrams
	t.Bytes += s.open.Bytes
	t.FileBytes += s.open.FileBytes
	s.mu.Unlock()
	t.Deleted = int(s.keeper.deleted.Load())
	t.Slow = s.slow.sum()
	return t
}

// Close seals the open file, waits until all are sealed and releases the names. It
// returns the first error of the series. Closing again does nothing.
func (s *Series) Close() error {
	if s.closed {
		return s.err
	}
	_ = s.check()
	if p := s.part; p != nil {
		if p.datagrams == 0 && !p.totals && p.number > 0 {
			s.part = nil
			s.abandon(p)
		} else if err := s.handOver(); err != nil {
			s.part = nil
			s.abandon(p)
		}
	}
	s.sealing.Wait()
	s.tellSlow(true)
	err := s.check()
	s.closed = true
	s.publish()
	if s.lock != nil {
		err = cmp.Or(err, s.lock.Close())
	}
	return err
}

// seriesFS is what the files of a series are made on: entries of the folder are made
// durable in the background, and with FullDelete a full disk makes room.
type seriesFS struct {
	FS
	s    *Series
	last *roomFile
}

func (f *seriesFS) Create(path string, overwrite bool) (File, error) {
	if f.s.o.OnFull != FullDelete {
		return f.FS.Create(path, overwrite)
	}
	file, err := roomFS{f.FS, f.s.keeper}.Create(path, overwrite)
	if err == nil {
		f.last = file.(*roomFile)
		return file, nil
	}
	return nil, err
}

func (f *seriesFS) SyncDir(dir string) error {
	f.s.slots <- struct{}{}
	f.s.sealing.Go(func() {
		_ = f.FS.SyncDir(dir)
		<-f.s.slots
	})
	return nil
}
