package segment

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"castdeck/format"
)

// Segment is what is known of a segment file without reading it through.
type Segment struct {
	Path string
	// Info is the segment block: recording, number, host, clock.
	Info        *format.SegmentInfo
	Compression format.Compression
	// Size of the file in bytes.
	Size int64
	// Sealed says whether the file ends in a footer.
	Sealed bool
	// Salvaged says that the first frame is damaged; see Salvage.
	Salvaged bool
	// Indexed says that an index was found and fits: First and Last are then those of
	// the whole segment. Without one First is the earliest time of the first chunk
	// and Last is the end of time, because nobody knows.
	Indexed bool
	// First and Last packet times, ns since the Unix epoch; both 0 where an indexed
	// segment holds no packet.
	First, Last int64
	// Interfaces described in the first frame and, where Indexed, all others.
	Interfaces []format.Interface
}

// Inspect looks at a segment file and closes it again. Of a sealed one it reads the
// first frame, the footer and the index, of another one the first frame and the first
// chunk. The errors are those of Open.
func Inspect(path string, o ReadOptions) (*Segment, error) {
	return inspect(path, false, o, openFile)
}

// InspectSalvaged looks at a segment file whose first frame is damaged, as Salvage
// opens it.
func InspectSalvaged(path string, o ReadOptions) (*Segment, error) {
	return inspect(path, true, o, openFile)
}

// file is what reading needs of a file; a test counts what is read.
type file interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

func openFile(path string) (file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func openWith(path string, salvaged bool, o ReadOptions, open func(string) (file, error)) (*Reader, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case st.IsDir():
		err = fmt.Errorf("%s is a folder", path)
	case !st.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file", path)
	}
	var r *Reader
	switch {
	case err != nil:
	case salvaged:
		r, err = NewSalvage(f, st.Size(), path, o)
	default:
		r, err = NewReader(f, st.Size(), path, o)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	r.c = f
	return r, nil
}

func inspect(path string, salvaged bool, o ReadOptions, open func(string) (file, error)) (*Segment, error) {
	r, err := openWith(path, salvaged, o, open)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return describe(r), nil
}

func describe(r *Reader) *Segment {
	s := &Segment{
		Path: r.Path(), Info: r.Info(), Compression: r.Compression(), Size: r.Size(),
		Sealed: r.Sealed(), Salvaged: r.salvaged, Interfaces: r.Interfaces(),
	}
	if x := r.index; x != nil {
		s.Indexed = true
		first := true
		for i := range x.Chunks {
			c := &x.Chunks[i]
			switch {
			case c.Packets == 0:
			case first:
				s.First, s.Last, first = c.First, c.Last, false
			default:
				s.First, s.Last = min(s.First, c.First), max(s.Last, c.Last)
			}
		}
		return s
	}
	// More damage before the first chunk leaves First unknown: the segment is then read
	// from the beginning of time on, and tells the damage itself.
	r.lost = nil
	var b format.Batch
	if err := r.ReadBatch(&b); err == nil && len(b.Datagrams) > 0 {
		s.First = b.Datagrams[0].Time
		for i := range b.Datagrams {
			s.First = min(s.First, b.Datagrams[i].Time)
		}
	}
	s.Last = math.MaxInt64
	return s
}

// Recording reads all segments of one recording as one capture. It implements
// format.BatchReader: segments come in the order of their numbers, and where their
// times overlap the datagrams of both come in the order of time (see format.Merge).
// A file is open only while its part of the time is read. Damage, and segments that
// are missing or stand twice, are *format.CorruptError between batches. It is not
// safe for concurrent use.
type Recording struct {
	segments []*Segment
	problems []*format.CorruptError
	tell     map[*Segment][]*format.CorruptError // before the segment
	o        ReadOptions
	open     func(string) (file, error)

	start, end int64 // what SeekTime and EndTime were asked for
	parts      []*part
	merge      *format.Merge
	closed     bool
}

// OpenRecording opens the segment files as one recording. A file of another
// recording is an error.
func OpenRecording(paths []string, o ReadOptions) (*Recording, error) {
	return openRecording(paths, o, openFile)
}

func openRecording(paths []string, o ReadOptions, open func(string) (file, error)) (*Recording, error) {
	segments := make([]*Segment, len(paths))
	for i, p := range paths {
		var err error
		if segments[i], err = inspect(p, false, o, open); err != nil {
			return nil, err
		}
	}
	return newRecording(segments, o, open)
}

// NewRecording reads segments that were looked at before. A segment of another
// recording than the first one's is a *format.CorruptError.
func NewRecording(segments []*Segment, o ReadOptions) (*Recording, error) {
	return newRecording(segments, o, openFile)
}

func newRecording(segments []*Segment, o ReadOptions, open func(string) (file, error)) (*Recording, error) {
	if len(segments) == 0 {
		return nil, errors.New("a recording without segments")
	}
	id := segments[0].Info.Recording
	for _, s := range segments {
		if s.Info.Recording != id {
			return nil, &format.CorruptError{Path: s.Path,
				Reason: fmt.Sprintf("segment of another recording (%s) than %s (%s)", s.Info.Recording, segments[0].Path, id)}
		}
	}
	r := &Recording{o: o, open: open, tell: make(map[*Segment][]*format.CorruptError), start: math.MinInt64, end: math.MaxInt64}
	r.arrange(slices.Clone(segments))
	r.reset()
	return r, nil
}

// arrange puts the segments in order and finds what is missing and what stands twice.
func (r *Recording) arrange(segments []*Segment) {
	// Of files with one number the one that is sealed comes first, then the longest:
	// the others are copies, or what was left of a copy.
	slices.SortStableFunc(segments, func(a, b *Segment) int {
		sealed := func(s *Segment) int {
			if s.Sealed {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Info.Number, b.Info.Number), cmp.Compare(sealed(a), sealed(b)),
			cmp.Compare(b.Size, a.Size), cmp.Compare(a.First, b.First), cmp.Compare(a.Path, b.Path))
	})
	for _, s := range segments {
		var last *Segment
		if n := len(r.segments); n > 0 {
			last = r.segments[n-1]
		}
		var problem *format.CorruptError
		at := s
		switch {
		case last == nil || s.Info.Number == last.Info.Number+1:
		case s.Info.Number == last.Info.Number:
			at = last
			problem = &format.CorruptError{Path: s.Path, Reason: fmt.Sprintf(
				"segment %d of the recording stands twice; %s is read, this file is not", s.Info.Number, filepath.Base(last.Path))}
		default:
			problem = missing(s, last.Info.Number)
		}
		if problem != nil {
			r.problems = append(r.problems, problem)
			r.tell[at] = append(r.tell[at], problem)
		}
		if at == s {
			r.segments = append(r.segments, s)
		}
	}
}

// missing says that there is nothing between the segment numbered last and s.
func missing(s *Segment, last uint32) *format.CorruptError {
	from, to := last+1, s.Info.Number-1
	what := fmt.Sprintf("segment %d of the recording is missing before this file", from)
	if to > from {
		what = fmt.Sprintf("segments %d to %d of the recording are missing before this file", from, to)
	}
	return &format.CorruptError{Path: s.Path, Reason: what}
}

// reset makes the readers of all segments anew; no file is opened yet.
func (r *Recording) reset() {
	for _, p := range r.parts {
		p.close()
	}
	r.parts = r.parts[:0]
	var sources []format.MergeSource
	for _, s := range r.segments {
		p := &part{of: r, Segment: s, interfaces: s.Interfaces}
		// What lies outside keeps its place, and its interfaces theirs.
		if p.done = s.Indexed && (s.Last < r.start || s.First >= r.end); !p.done {
			p.tell = r.tell[s]
		}
		r.parts = append(r.parts, p)
		sources = append(sources, format.MergeSource{
			Reader: p, Interfaces: p.known, Recording: s.Info.Recording, NotBefore: s.First,
		})
	}
	r.merge = format.NewMerge(sources...)
}

// ReadBatch reads what comes next in time. Memory may be exchanged with the
// recording's; see format.Merge.
func (r *Recording) ReadBatch(b *format.Batch) error {
	if r.closed {
		b.Reset()
		return fmt.Errorf("recording %s: %w", r.segments[0].Info.Recording, fs.ErrClosed)
	}
	return r.merge.ReadBatch(b)
}

// Interfaces of all segments as far as they are known. Interfaces that several
// segments describe alike are one.
func (r *Recording) Interfaces() []format.Interface { return r.merge.Interfaces() }

// Segments that are read, by number; the recording's own.
func (r *Recording) Segments() []*Segment { return r.segments }

// Problems are the segments that are missing or stand twice.
func (r *Recording) Problems() []*format.CorruptError { return r.problems }

// Sealed says whether all segments are. One that is not is still being written or
// was cut off.
func (r *Recording) Sealed() bool {
	return !slices.ContainsFunc(r.segments, func(s *Segment) bool { return !s.Sealed })
}

// Start is the earliest packet time that is known, ns since the Unix epoch; false
// where there is no packet or the start of a segment is not known.
func (r *Recording) Start() (int64, bool) {
	start, ok := int64(math.MaxInt64), false
	for _, s := range r.segments {
		switch {
		case s.First != 0:
			start, ok = min(start, s.First), true
		case !s.Indexed:
			return 0, false
		}
	}
	return start, ok
}

// SeekTime starts again, at the first chunk of every segment that can hold a packet at
// or after t (ns since the Unix epoch); earlier packets of these chunks come too. It
// reads nothing: the index of a segment is used when its turn comes, and a segment
// without index is read from its start.
func (r *Recording) SeekTime(t int64) {
	r.start = t
	r.reset()
}

// EndTime starts again, and ends each segment behind the last chunk that can hold a
// packet before t (ns since the Unix epoch); later packets of these chunks come too. A
// segment without index is read to its end.
func (r *Recording) EndTime(t int64) {
	r.end = t
	r.reset()
}

// Close closes the files. Closing again does nothing; ReadBatch then returns an error
// that wraps fs.ErrClosed.
func (r *Recording) Close() error {
	r.closed = true
	var err error
	for _, p := range r.parts {
		err = errors.Join(err, p.close())
	}
	return err
}

// part reads one segment of a recording. The file is opened when it is read first and
// closed at its end.
type part struct {
	*Segment
	of         *Recording
	r          *Reader
	interfaces []format.Interface
	tell       []*format.CorruptError
	stop       int64 // offset behind what is to be read
	done       bool
}

func (p *part) known() []format.Interface { return p.interfaces }

func (p *part) ReadBatch(b *format.Batch) error {
	b.Reset()
	if p.done {
		return io.EOF
	}
	if len(p.tell) > 0 {
		problem := p.tell[0]
		p.tell = p.tell[1:]
		return problem
	}
	if p.r == nil {
		if err := p.begin(); err != nil {
			return err
		}
	}
	err := io.EOF
	if p.r.offset < p.stop {
		err = p.r.ReadBatch(b)
		p.interfaces = p.r.Interfaces()
	}
	if errors.Is(err, io.EOF) {
		p.done = true
		p.close()
		return io.EOF
	}
	return err
}

func (p *part) begin() error {
	r, err := openWith(p.Path, p.Salvaged, p.of.o, p.of.open)
	if err != nil {
		return err
	}
	if i := r.Info(); i.Recording != p.Info.Recording || i.Number != p.Info.Number {
		r.Close()
		return fmt.Errorf("%s was replaced by another file while the recording was read", p.Path)
	}
	p.r, p.stop = r, math.MaxInt64
	if r.index == nil {
		return nil
	}
	if p.of.start != math.MinInt64 {
		if err := r.SeekTime(p.of.start); err != nil {
			return err
		}
		r.back() // its totals tell which losses are older
	}
	if p.of.end != math.MaxInt64 {
		p.stop = r.start
		for i := range r.index.Chunks {
			c := &r.index.Chunks[i]
			if c.Packets > 0 && c.First < p.of.end || c.Packets == 0 && c.Offset == p.stop { // totals only
				p.stop = c.Offset + int64(c.Size)
			}
		}
	}
	return nil
}

func (p *part) close() error {
	if p.r == nil {
		return nil
	}
	r := p.r
	p.r = nil
	return r.Close()
}
