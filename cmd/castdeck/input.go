package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/format/segment"
)

// input is an open capture of any kind, or several as one. One of seg, file and parts
// is set.
type input struct {
	inputOptions
	path string // for messages
	size int64  // of the files, bytes
	seg  *segment.Reader
	file *pcapfile.Reader
	// rec reads the segments of a recording; it may stand beside seg, for a part of
	// that.
	rec *segment.Recording
	// parts of several captures; merge reads them.
	parts []*inputPart
	merge *format.Merge
	// empty files that were named beside these.
	empty []string
	// ahead reads all of this where readAhead was called, until ctx ends.
	ahead *format.Ahead
	ctx   context.Context
	// stream says that it is, or has in it, what can be read only once and may keep its
	// readers waiting: stdin, a FIFO.
	stream bool
}

// inputPart is one of several captures that are read as one.
type inputPart struct {
	*capture
	rec  *segment.Recording
	file *laterFile // where rec is nil
}

// inputOptions are wishes about an input; the zero value is for all that only read.
type inputOptions struct {
	// offsets in ns are added to the times of what each argument names; it may be shorter
	// than the arguments, and means nothing where all are one capture.
	offsets []int64
	// keepFragments leaves IP fragments as they were captured.
	keepFragments bool
}

func (o *inputOptions) offset(number uint16) int64 {
	if int(number) < len(o.offsets) {
		return o.offsets[number]
	}
	return 0
}

// openInput opens what the paths name (see findFiles) by its content, never by its
// name: castdeck's recordings first, then everything else. Several captures are read
// as one, in the order of time.
func openInput(paths ...string) (*input, error) { return openInputWith(inputOptions{}, paths...) }

func openInputWith(o inputOptions, paths ...string) (*input, error) {
	if len(paths) == 1 {
		if st, err := os.Stat(paths[0]); paths[0] == stdinPath || err == nil && !st.IsDir() {
			return openFile(o, paths[0])
		}
	}
	captures, empty, err := findCaptures(paths...)
	if err != nil {
		return nil, err
	}
	name := paths[0]
	if n := len(paths) - 1; n > 0 {
		name = fmt.Sprintf("%s and %d more", name, n)
	}
	in, err := openCaptures(o, name, captures)
	if err == nil {
		in.empty = empty
	}
	return in, err
}

// openFile opens one file, or stdin.
func openFile(o inputOptions, path string) (*input, error) {
	in, err := openAny(path)
	if err != nil {
		return nil, err
	}
	in.inputOptions = o
	if in.file != nil && o.keepFragments {
		in.file.KeepFragments()
	}
	return in, nil
}

func openAny(path string) (*input, error) {
	if path == stdinPath {
		r, err := pcapfile.NewReader(os.Stdin, "stdin")
		if err != nil {
			return nil, err
		}
		return &input{path: "stdin", file: r, stream: true}, nil
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, fmt.Errorf("%s is a folder; name a capture file in it", path)
	}
	in := &input{path: path, size: st.Size(), stream: !st.Mode().IsRegular()}
	if st.Mode().IsRegular() {
		in.seg, err = segment.Open(path, segmentOptions())
		if err == nil {
			return in, nil
		}
		if !errors.Is(err, format.ErrFormat) {
			return nil, err
		}
	}
	if in.file, err = pcapfile.Open(path); err == nil {
		return in, nil
	}
	if st.Mode().IsRegular() {
		// Nothing that can be recognised at its start: perhaps a recording that is
		// damaged there.
		if r, serr := segment.Salvage(path, segmentOptions()); serr == nil {
			in.file, in.seg = nil, r
			return in, nil
		}
	}
	return nil, err
}

func segmentOptions() segment.ReadOptions {
	return segment.ReadOptions{Decoder: pcapfile.NewDecoder()}
}

// openCaptures opens captures as one input, which messages call name.
func openCaptures(o inputOptions, name string, captures []*capture) (*input, error) {
	if len(captures) == 1 && len(captures[0].segments) <= 1 {
		return openFile(o, captures[0].path)
	}
	in := &input{path: name, inputOptions: o}
	for _, c := range captures {
		p := &inputPart{capture: c}
		in.parts = append(in.parts, p)
		in.stream = in.stream || c.stream
		var err error
		if c.segments != nil {
			for _, s := range c.segments {
				in.size += s.Size
			}
			p.rec, err = segment.NewRecording(c.segments, segmentOptions())
		} else {
			p.file, err = openLater(c, o.keepFragments)
		}
		if err != nil {
			in.parts = in.parts[:len(in.parts)-1]
			in.Close()
			return nil, err
		}
		if p.file != nil {
			in.size += p.file.size
		}
	}
	if len(in.parts) == 1 {
		in.rec = in.parts[0].rec
		return in, nil
	}
	in.merge = format.NewMerge(in.sources()...)
	return in, nil
}

func (in *input) sources() (sources []format.MergeSource) {
	for _, p := range in.parts {
		if p.rec == nil {
			sources = append(sources, format.MergeSource{Reader: p.file, Interfaces: p.file.interfaces, NotBefore: p.file.start,
				Offset: in.offset(p.input), Input: p.input})
			continue
		}
		start, known := p.rec.Start()
		if !known {
			start = 0
		}
		sources = append(sources, format.MergeSource{
			Reader: p.rec, Interfaces: p.rec.Interfaces, Recording: p.segments[0].Info.Recording, NotBefore: start,
			Offset: in.offset(p.input), Input: p.input,
		})
	}
	return sources
}

// readAhead makes reading go on beside what is done with each batch, in a goroutine
// that ends with the input or with Close. When ctx ends, ReadBatch returns its error
// even where it waits for a pipe. It is called once, behind seek.
func (in *input) readAhead(ctx context.Context) {
	in.ctx, in.ahead = ctx, format.NewAhead(files{in}, files{in}.interfaces)
}

// ReadBatch may give the batch other memory; see format.Ahead.
func (in *input) ReadBatch(b *format.Batch) error {
	if in.ahead != nil {
		return in.ahead.Read(in.ctx, b)
	}
	return files{in}.ReadBatch(b)
}

// interfaces known so far.
func (in *input) interfaces() []format.Interface {
	if in.ahead != nil {
		return in.ahead.Interfaces()
	}
	return files{in}.interfaces()
}

// files are what an input reads.
type files struct{ in *input }

func (f files) ReadBatch(b *format.Batch) error {
	in := f.in
	switch {
	case in.rec != nil && in.seg != nil:
		return in.rec.ReadBatch(b)
	case in.seg != nil:
		return in.seg.ReadBatch(b)
	case in.file != nil:
		return in.file.ReadBatch(b)
	case in.rec != nil:
		return inFile(in.rec.ReadBatch(b))
	}
	return inFile(in.merge.ReadBatch(b))
}

// inFile puts the name of the file into damage of an input of many.
func inFile(err error) error {
	var c *format.CorruptError
	if !errors.As(err, &c) || c.Path == "" {
		return err
	}
	named := *c
	named.Reason = filepath.Base(c.Path) + ": " + c.Reason
	return &named
}

func (f files) interfaces() []format.Interface {
	in := f.in
	switch {
	case in.seg != nil:
		return in.seg.Interfaces()
	case in.file != nil:
		return in.file.Interfaces()
	case in.rec != nil:
		return in.rec.Interfaces()
	}
	return in.merge.Interfaces()
}

// format names container and compression: "pcapng.zst", "pcap.gz"; all of them where
// there are several.
func (in *input) format() string {
	switch {
	case in.seg != nil:
		return in.seg.Compression().Extension()[1:]
	case in.file != nil:
		return in.file.Format()
	}
	var names []string
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, p := range in.parts {
		if p.rec == nil {
			add(p.file.format)
			continue
		}
		for _, s := range p.segments {
			add(s.Compression.Extension()[1:])
		}
	}
	return strings.Join(names, "+")
}

// info is the segment block of a recording, of its first segment; nil for anything
// else, several recordings included.
func (in *input) info() *format.SegmentInfo {
	switch {
	case in.seg != nil:
		return in.seg.Info()
	case in.rec != nil:
		return in.rec.Segments()[0].Info
	}
	return nil
}

// unsealed are the files that are recordings without a footer, and those that are empty:
// still being written, or cut off.
func (in *input) unsealed() (paths []string) {
	if in.seg != nil && !in.seg.Sealed() {
		return append([]string{in.path}, in.empty...)
	}
	for _, p := range in.parts {
		if p.rec == nil {
			continue
		}
		for _, s := range p.rec.Segments() {
			if !s.Sealed {
				paths = append(paths, s.Path)
			}
		}
	}
	return append(paths, in.empty...)
}

// sealed says that nothing is known to be missing at the end of any file.
func (in *input) sealed() bool { return len(in.unsealed()) == 0 }

// start is the earliest time of a packet, ns since the Unix epoch, where that is known
// without reading.
func (in *input) start() (int64, bool) {
	switch {
	case in.rec != nil:
		return in.rec.Start()
	case in.seg != nil:
		rec, err := segment.OpenRecording([]string{in.path}, segmentOptions())
		if err != nil {
			return 0, false
		}
		return rec.Start()
	case in.file != nil:
		return 0, false
	}
	start := int64(math.MaxInt64)
	for _, s := range in.sources() {
		if s.NotBefore == 0 {
			return 0, false
		}
		start = min(start, without(s.NotBefore, -s.Offset))
	}
	return start, true
}

// seek leaves out, as far as that saves reading, what lies before start and from end
// on (ns since the Unix epoch). It is called before the first ReadBatch.
func (in *input) seek(start, end int64) error {
	if in.seg != nil && in.seg.Sealed() && in.seg.IndexError() == nil && !in.seg.Salvaged() && in.rec == nil {
		rec, err := segment.OpenRecording([]string{in.path}, segmentOptions())
		if err != nil {
			return err
		}
		in.rec = rec
	}
	seek := func(r *segment.Recording, offset int64) {
		if r != nil {
			r.SeekTime(without(start, offset))
			r.EndTime(without(end, offset))
		}
	}
	switch {
	case in.parts == nil:
		seek(in.rec, 0)
	case in.merge == nil:
		seek(in.parts[0].rec, 0)
	default:
		for _, p := range in.parts {
			seek(p.rec, in.offset(p.input))
		}
	}
	return nil
}

// without takes an offset from a time; the ends of the range, which mean no limit, stay.
func without(t, offset int64) int64 {
	switch d := t - offset; {
	case t == math.MinInt64 || t == math.MaxInt64:
		return t
	case (d < t) != (offset > 0) && offset != 0: // beyond the range
		if offset > 0 {
			return math.MinInt64
		}
		return math.MaxInt64
	default:
		return d
	}
}

// Close ends the reading and closes the files; streams are left to the end of the
// program where they are being read ahead, because that may be waiting.
func (in *input) Close() error {
	if in.ahead != nil {
		if in.stream {
			return nil
		}
		in.ahead.Close()
	}
	var err error
	if in.rec != nil {
		err = in.rec.Close()
	}
	if in.seg != nil {
		err = errors.Join(err, in.seg.Close())
	}
	if in.file != nil {
		err = errors.Join(err, in.file.Close())
	}
	for _, p := range in.parts {
		if p.rec != nil {
			err = errors.Join(err, p.rec.Close())
		} else {
			err = errors.Join(err, p.file.Close())
		}
	}
	return err
}

// laterFile is a capture of another tool that is opened when its time comes, so that a
// thousand files of an hour each are not all open at once.
type laterFile struct {
	*capture
	apart  bool // fragments are kept
	size   int64
	format string
	start  int64 // time of the first datagram; 0 where that is not known
	known  []format.Interface
	r      *pcapfile.Reader
	done   bool
}

func openLater(c *capture, keepFragments bool) (*laterFile, error) {
	f := &laterFile{capture: c, apart: keepFragments}
	if err := f.open(); err != nil {
		return nil, err
	}
	f.format, f.known = f.r.Format(), f.r.Interfaces()
	if c.stream {
		return f, nil
	}
	var b format.Batch
	err := f.r.ReadBatch(&b)
	for err == nil && len(b.Datagrams) == 0 {
		err = f.r.ReadBatch(&b)
	}
	if err == nil {
		f.start = b.Datagrams[0].Time
	}
	// An error will come again when the file is read.
	return f, f.Close()
}

func (f *laterFile) open() (err error) {
	if f.path == stdinPath {
		f.r, err = pcapfile.NewReader(os.Stdin, "stdin")
		return err
	}
	st, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	f.size = st.Size()
	if f.r, err = pcapfile.Open(f.path); err == nil && f.apart {
		f.r.KeepFragments()
	}
	return err
}

func (f *laterFile) interfaces() []format.Interface { return f.known }

func (f *laterFile) ReadBatch(b *format.Batch) error {
	b.Reset()
	if f.r == nil {
		if f.done {
			return io.EOF
		}
		if err := f.open(); err != nil {
			return err
		}
	}
	err := f.r.ReadBatch(b)
	if n := f.r.Interfaces(); len(n) > len(f.known) {
		f.known = n
	}
	if errors.Is(err, io.EOF) {
		f.done = true
		f.Close()
	}
	return err
}

func (f *laterFile) Close() error {
	if f.r == nil {
		return nil
	}
	r := f.r
	f.r = nil
	return r.Close()
}

// summary is what is in a capture.
type summary struct {
	tally  *format.Tally
	chunks int
	// DamageLog is what is damaged. Of captures that are no recordings each damaged
	// place counts as a chunk.
	format.DamageLog
	// problems are lines for people: damage, and statements of the file about
	// itself that are not true.
	problems []string
	sealed   bool
	// quick says that only the index was read.
	quick   bool
	streams []format.Stream
	// events are the last ones, of all that the tally counts.
	events []format.Event
	// interfaces that the streams and events name.
	interfaces []format.Interface
}

// summarize says what is in a capture. With quick the index of a sealed recording
// is believed; otherwise everything is read and checked.
func (in *input) summarize(quick bool) (*summary, error) {
	if in.parts != nil {
		return in.summarizeParts(quick)
	}
	s, err := in.summarizeOne(quick)
	if err == nil {
		s.interfaces = in.interfaces()
	}
	return s, err
}

func (in *input) summarizeOne(quick bool) (*summary, error) {
	if in.seg == nil {
		return in.summarizeForeign()
	}
	if x, f := in.seg, in.seg.Footer(); quick && f != nil && x.IndexError() == nil && !x.Salvaged() {
		index, err := x.Index()
		if err != nil {
			return nil, err
		}
		return quickSummary(index, f), nil
	}
	s, problems, err := in.seg.Verify()
	if err != nil {
		return nil, err
	}
	return &summary{
		tally: &s.Tally, chunks: s.Chunks, DamageLog: s.DamageLog,
		problems: problems, sealed: in.seg.Sealed(), streams: s.Index.Streams, events: s.Index.Events,
	}, nil
}

func quickSummary(x *format.Index, f *format.Footer) *summary {
	t := &format.Tally{
		Datagrams: f.Datagrams, NotUDP: uint64(f.NotUDP), Bytes: f.Bytes, Dropped: f.Dropped,
		Packets: f.Datagrams + uint64(f.NotUDP), StreamsCut: x.StreamsCut, Events: uint64(x.EventCount),
	}
	first := true
	for i := range x.Chunks {
		c := &x.Chunks[i]
		if c.Packets == 0 {
			continue
		}
		if first {
			t.First, t.Last, first = c.First, c.Last, false
		}
		t.First, t.Last = min(t.First, c.First), max(t.Last, c.Last)
	}
	return &summary{tally: t, chunks: x.ChunkCount(), sealed: true, quick: true, streams: x.Streams, events: x.Events}
}

// summarizeParts looks at the files one after the other and adds up.
func (in *input) summarizeParts(quick bool) (*summary, error) {
	sum := &summary{tally: new(format.Tally), sealed: true, quick: true}
	var table format.InterfaceTable
	streams := make(map[format.Stream]int) // of what identifies one, to its place
	for _, p := range in.parts {
		if p.rec == nil {
			if p.stream {
				return nil, fmt.Errorf("%s can be read only once; save it to a file first", p.path)
			}
			if err := sum.addFile(p.path, p.input, table.Source(format.UUID{}), streams, quick); err != nil {
				return nil, err
			}
			continue
		}
		for _, problem := range p.rec.Problems() {
			problem := inFile(problem)
			sum.Note(problem)
			sum.problems = append(sum.problems, describe(problem))
		}
		for _, s := range p.rec.Segments() {
			if err := sum.addFile(s.Path, p.input, table.Source(s.Info.Recording), streams, quick); err != nil {
				return nil, err
			}
		}
	}
	sum.interfaces = table.Interfaces()
	return sum, nil
}

// addFile adds what is in one file of many.
func (s *summary) addFile(path string, input uint16, ifaces *format.InterfaceMap, streams map[format.Stream]int, quick bool) error {
	in, err := openFile(inputOptions{}, path)
	if err != nil {
		return err
	}
	defer in.Close()
	one, err := in.summarize(quick)
	if err != nil {
		return err
	}
	if err := ifaces.Learn(one.interfaces); err != nil {
		return err
	}
	t, a := s.tally, one.tally
	if a.Packets > 0 {
		if t.Packets == 0 {
			t.First, t.Last = a.First, a.Last
		}
		t.First, t.Last = min(t.First, a.First), max(t.Last, a.Last)
	}
	t.Packets += a.Packets
	t.Datagrams += a.Datagrams
	t.NotUDP += a.NotUDP
	t.Truncated += a.Truncated
	t.Bytes += a.Bytes
	t.Dropped += a.Dropped
	t.Events += a.Events
	t.StreamsCut = t.StreamsCut || a.StreamsCut
	s.chunks += one.chunks
	s.Append(&one.DamageLog)
	for _, p := range one.problems[:min(len(one.problems), max(format.MaxDamage-len(s.problems), 0))] {
		s.problems = append(s.problems, filepath.Base(path)+": "+p)
	}
	s.sealed = s.sealed && one.sealed
	s.quick = s.quick && one.quick
	for _, e := range one.events {
		if e.Interface != format.NoInterface {
			n, _ := ifaces.Index(uint16(e.Interface))
			e.Interface = int32(n)
		}
		s.events = format.AppendLastEvents(s.events, e)
	}
	for _, st := range one.streams {
		st.Interface, _ = ifaces.Index(st.Interface)
		st.Input = input
		id := format.Stream{Src: st.Src, Dst: st.Dst, Interface: st.Interface, Input: input}
		at, known := streams[id]
		switch {
		case known:
			have := &s.streams[at]
			have.Datagrams += st.Datagrams
			have.Bytes += st.Bytes
			have.First, have.Last = min(have.First, st.First), max(have.Last, st.Last)
		case len(s.streams) >= format.MaxStreams:
			t.StreamsCut = true
		default:
			streams[id] = len(s.streams)
			s.streams = append(s.streams, st)
		}
	}
	return nil
}

func (in *input) summarizeForeign() (*summary, error) {
	// A capture of another tool has no footer; one that ends where a record ends is
	// as whole as it can say.
	s := &summary{tally: new(format.Tally), sealed: true}
	err := in.each(func(b *format.Batch) error {
		s.tally.Add(b)
		s.Saw(b)
		return nil
	}, s.Note)
	s.streams, s.problems = s.tally.Streams(), s.Problems()
	return s, err
}

// describe is damage without the path, which stands before it already.
func describe(err error) string {
	var c *format.CorruptError
	if errors.As(err, &c) {
		return c.Place()
	}
	return err.Error()
}

// each reads the whole capture ahead. Damage goes to note, any other error ends it.
func (in *input) each(f func(*format.Batch) error, note func(error)) error {
	in.readAhead(context.Background())
	return each(in, f, note)
}

func each(r format.BatchReader, f func(*format.Batch) error, note func(error)) error {
	var b format.Batch
	for {
		err := r.ReadBatch(&b)
		switch {
		case err == nil:
			if err := f(&b); err != nil {
				return err
			}
		case errors.Is(err, io.EOF):
			return nil
		case format.Damaged(err):
			note(err)
		default:
			return err
		}
	}
}

// span is the time from the first to the last packet.
func span(t *format.Tally) time.Duration {
	if t.Packets == 0 {
		return 0
	}
	return time.Duration(t.Last - t.First)
}
