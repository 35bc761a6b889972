package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"castdeck/format"
	"castdeck/format/segment"
)

// splitMode is what --split-by makes a file of.
type splitMode uint8

const (
	oneFile splitMode = iota
	byGroup
	byStream
	byTime
	byCount
	bySize
	byPartition // --partition
)

// splitValue is the flag --split-by. Step is ns, datagrams or bytes by mode.
type splitValue struct {
	text string
	mode splitMode
	step int64
}

func (v *splitValue) Set(s string) error {
	key, arg, hasArg := strings.Cut(s, "=")
	n := splitValue{text: s}
	switch {
	case key == "group" && !hasArg:
		n.mode = byGroup
	case key == "stream" && !hasArg:
		n.mode = byStream
	case key == "time" && hasArg:
		d, err := time.ParseDuration(arg)
		if err != nil || d < time.Millisecond {
			return fmt.Errorf("time=%s: write a duration of at least 1ms, such as time=1m", arg)
		}
		n.mode, n.step = byTime, int64(d)
	case key == "count" && hasArg:
		c, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || c < 1 {
			return fmt.Errorf("count=%s: write a number of datagrams from 1 on, such as count=100000", arg)
		}
		n.mode, n.step = byCount, c
	case key == "size" && hasArg:
		b, err := parseSize(arg)
		if err != nil {
			return fmt.Errorf("size=%s: %w", arg, err)
		}
		if b < minSplitSize {
			return fmt.Errorf("size=%s: the least is %s", arg, formatSize(minSplitSize))
		}
		n.mode, n.step = bySize, b
	default:
		return fmt.Errorf("%q: write group, stream, time=1m, count=100000 or size=1GB", s)
	}
	*v = n
	return nil
}

func (v *splitValue) String() string { return v.text }
func (*splitValue) Type() string     { return "HOW" }

const (
	// minSplitSize is some chunks: a file ends behind the chunk that fills it.
	minSplitSize = 64 << 10
	// maxOpen bounds the files that are open at the same time: one cannot be sealed and
	// gone on with.
	maxOpen = 512
	// maxListed bounds the interfaces that the open files describe, together.
	maxListed = 1 << 15
	// maxFiles bounds what one command leaves in a folder.
	maxFiles = 99_999
	// splitChunk keeps the buffers of many files small.
	splitChunk = 64 << 10
)

// knownEnds are the ends of file names that belong together, the longer ones first.
var knownEnds = []string{
	".pcapng.zst", ".pcapng.gz", ".ndjson.zst", ".ndjson.gz", ".jsonl.zst", ".jsonl.gz", ".csv.zst", ".csv.gz",
	".pcapng", ".pcap", ".ndjson", ".jsonl", ".csv", ".parquet",
}

// maxOpenTables is maxOpen of Parquet files, each of which takes 130 KB.
const maxOpenTables = 48

func (s *splitter) maxOpen() int {
	if s.kind.parquet {
		return maxOpenTables
	}
	return maxOpen
}

// splitName puts a label between path and its end: feed-LABEL.pcapng.zst. Whatever
// the label holds, the file is in path's folder.
func splitName(path, label string) string {
	dir, name := filepath.Split(path)
	end := filepath.Ext(name)
	for _, e := range knownEnds {
		if strings.HasSuffix(name, e) {
			end = e
			break
		}
	}
	base := strings.TrimSuffix(name, end)
	if base != "" {
		base += "-"
	}
	return dir + base + safeLabel(label) + end
}

// safeLabel keeps what is harmless in file names of every system.
func safeLabel(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, s)
}

// streamKey is what --split-by group and stream tell datagrams apart by; src is zero
// for groups, both are for packets that are not UDP. Of --partition it is what was asked
// for: dst, and the day since 1970.
type streamKey struct {
	src, dst netip.AddrPort
	day      int64
}

func (k streamKey) label() string {
	port := func(a netip.AddrPort) string { return a.Addr().String() + "_" + strconv.Itoa(int(a.Port())) }
	switch {
	case !k.dst.IsValid():
		return "not-udp"
	case k.src.IsValid():
		return port(k.src) + "-" + port(k.dst)
	}
	return port(k.dst)
}

// splitter writes datagrams to one file or to many. It implements
// format.BatchWriter; what it is given must name interfaces of the list last
// described.
type splitter struct {
	how  splitValue
	kind outputKind
	keep bool // frames keep their link type
	// Of --partition: by what, and where the files are.
	parts *partitionValue
	spool *spool
	// create makes the output at path, whose first interfaces are in o.
	create func(path string, k outputKind, o segment.Options) (*output, error)
	path   string
	o      segment.Options

	interfaces []format.Interface
	files      []*splitFile // that are open
	byKey      map[streamKey]*splitFile
	last       *splitFile // the one that took the last datagram
	end        int64      // byTime: of its span, ns; byCount: datagrams still to come
	made       int
	listed     int // interfaces that the open files describe
	done       splitTotals
	names      fieldNames // of text files

	// placeLosses says that InterfaceStats.Dropped of what is written are new losses, of
	// a lossReader, which the next datagram of their interface tells, and the last file
	// that has the interface where there is none.
	placeLosses bool
	lost        losses
	// unplaced are those that no file could tell, unsaid those of files of a format
	// without a place for them.
	unplaced, unsaid uint64

	round   uint64       // of writing by key
	which   []*splitFile // the file of each datagram of the batch at hand
	touched []*splitFile // these, each once
	sorted  []format.Datagram
	run     format.Batch // the part of the batch that is being written
}

// splitTotals are of the files that are closed.
type splitTotals struct {
	datagrams uint64
	size      int64
}

// splitFile is one output, with interfaces of its own where it does not have all.
type splitFile struct {
	*output
	key   streamKey
	count int    // how many of the batch at hand are for it
	at    int    // where the next one of them goes
	used  uint64 // the round in which it was last wanted
	own   bool
	index map[uint16]uint16
	list  []format.Interface
}

// describe says which interfaces the next batch may name.
func (s *splitter) describe(list []format.Interface) {
	s.interfaces, s.names.list = list, list
	if s.kind.tables != nil {
		s.kind.tables.interfaces = list
	}
}

// WriteBatch writes b. It changes the interfaces in b's datagrams.
func (s *splitter) WriteBatch(b *format.Batch) error {
	if s.placeLosses {
		s.place(b)
	}
	switch s.how.mode {
	case byGroup, byStream, byPartition:
		return s.writeByKey(b)
	case byTime, byCount, bySize:
		return s.writeInTurn(b)
	}
	if s.last == nil {
		if err := s.open(s.path, b); err != nil {
			return err
		}
	}
	return s.last.write(s, b)
}

// writeByKey writes b in rounds, mostly one: a round ends where there is no room for
// another file beside those that it fills.
func (s *splitter) writeByKey(b *format.Batch) error {
	for rest := b.Datagrams; len(rest) > 0; {
		n, err := s.writeRound(rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// errRoom ends a round.
var errRoom = errors.New("every open file has datagrams of this round")

// writeRound sorts the datagrams by their files, each file's in their order, in memory
// that all files share, and writes them; n of list.
func (s *splitter) writeRound(list []format.Datagram) (n int, err error) {
	var failed error
	s.round++
	s.which, s.touched = s.which[:0], s.touched[:0]
	for i := range list {
		d := &list[i]
		if k := s.keyOf(d); s.last == nil || s.last.key != k {
			if failed = s.find(k, d); failed != nil {
				break // what came before is still written
			}
		}
		f := s.last
		if f.count == 0 {
			s.touched = append(s.touched, f)
		}
		f.count++
		f.used = s.round
		s.which = append(s.which, f)
	}
	s.sorted = slices.Grow(s.sorted[:0], len(s.which))[:len(s.which)]
	at := 0
	for _, f := range s.touched {
		f.at = at
		at += f.count
	}
	for i, f := range s.which {
		s.sorted[f.at] = list[i]
		f.at++
	}
	for _, f := range s.touched {
		s.run.Datagrams = s.sorted[f.at-f.count : f.at]
		f.count = 0
		if err := f.write(s, &s.run); err != nil {
			return 0, err
		}
	}
	if errors.Is(failed, errRoom) {
		failed = nil
	}
	return len(s.which), failed
}

// keyOf says to which file d belongs.
func (s *splitter) keyOf(d *format.Datagram) (k streamKey) {
	switch {
	case s.how.mode == byPartition:
		return s.parts.key(d)
	case d.Flags&format.FlagNotUDP != 0:
		return k
	case s.how.mode == byStream:
		k.src = d.Src
	}
	k.dst = d.Dst
	return k
}

// place lets datagrams tell the losses that statistics told.
func (s *splitter) place(b *format.Batch) {
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		d.Drops += s.lost.take(d.Interface)
	}
	for _, st := range b.Stats {
		s.lost.add(st.Interface, st.Dropped)
	}
	b.Stats = b.Stats[:0]
}

// placeRest tells the losses behind the last datagram, in totals.
func (s *splitter) placeRest() error {
	for i := range s.lost {
		n := s.lost.take(uint16(i))
		if n == 0 {
			continue
		}
		f, to := s.holder(uint16(i))
		if f == nil {
			s.unplaced += n
			continue
		}
		st := format.InterfaceStats{Interface: to, Dropped: f.droppedOn(to) + n}
		if err := f.output.WriteBatch(&format.Batch{Stats: []format.InterfaceStats{st}}); err != nil {
			return err
		}
	}
	return nil
}

// holder is the file in which the losses of an interface behind its last datagram
// belong, and the interface's number there; nil where none has it.
func (s *splitter) holder(ifc uint16) (*splitFile, uint16) {
	files := s.files
	if s.last != nil {
		files = append(files[:len(files):len(files)], s.last)
	}
	for _, f := range slices.Backward(files) {
		if to, ok := f.index[ifc]; ok {
			return f, to
		}
		if !f.own && int(ifc) < len(s.interfaces) {
			return f, ifc
		}
	}
	return nil, 0
}

// find makes the file of k the last one.
func (s *splitter) find(k streamKey, d *format.Datagram) error {
	if f := s.byKey[k]; f != nil {
		s.last = f
		return nil
	}
	path := splitName(s.path, k.label())
	switch {
	case s.how.mode == byPartition:
		if err := s.makeRoom(); err != nil {
			return err
		}
		path = s.spool.next(k)
	case len(s.files) == s.maxOpen():
		return fmt.Errorf("--split-by %s: more than %d files at the same time; choose some by --only, or split by time, count or size", s.how.text, s.maxOpen())
	}
	if err := s.open(path, &format.Batch{Datagrams: []format.Datagram{*d}}); err != nil {
		return err
	}
	s.last.key = k
	if s.byKey == nil {
		s.byKey = make(map[streamKey]*splitFile)
	}
	s.byKey[k] = s.last
	return nil
}

// writeInTurn writes files one after the other.
func (s *splitter) writeInTurn(b *format.Batch) error {
	from := 0
	flush := func(to int) error {
		s.run.Datagrams = b.Datagrams[from:to]
		from = to
		if len(s.run.Datagrams) == 0 {
			return nil
		}
		return s.last.write(s, &s.run)
	}
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if s.last != nil && s.full(d) {
			if err := flush(i); err != nil {
				return err
			}
			if err := s.closeLast(); err != nil {
				return err
			}
		}
		if s.last == nil {
			if err := s.openNext(&format.Batch{Datagrams: b.Datagrams[i : i+1]}); err != nil {
				return err
			}
		}
		switch {
		case s.how.mode == byCount && d.Flags&format.FlagNotUDP == 0:
			s.end--
		case s.how.mode == bySize && i-from >= 255:
			if err := flush(i + 1); err != nil {
				return err
			}
		}
	}
	return flush(len(b.Datagrams))
}

// full says whether d begins a new file. A datagram earlier than the file's span
// stays in it: the file it would belong to is sealed.
func (s *splitter) full(d *format.Datagram) bool {
	switch s.how.mode {
	case byTime:
		return d.Time >= s.end
	case byCount:
		return s.end == 0
	}
	return s.last.size() >= s.how.step
}

func (s *splitter) openNext(b *format.Batch) error {
	label := fmt.Sprintf("%05d", s.made+1)
	switch s.how.mode {
	case byTime:
		// Spans count from 1970, so that they begin at whole minutes, hours and days
		// and two recordings are cut at the same places.
		start := b.Datagrams[0].Time / s.how.step * s.how.step
		if s.end = start + s.how.step; s.end < start {
			s.end = 1<<63 - 1
		}
		layout := "20060102T150405Z"
		if s.how.step%int64(time.Second) != 0 {
			layout = "20060102T150405.000000000Z"
		}
		label = time.Unix(0, start).UTC().Format(layout)
	case byCount:
		s.end = s.how.step
	}
	return s.open(splitName(s.path, label), b)
}

// flag that asks for several files.
func (s *splitter) flag() string {
	if s.how.mode == byPartition {
		return "--partition"
	}
	return "--split-by"
}

// open makes a file whose first datagrams are in b, and makes it the last one.
func (s *splitter) open(path string, b *format.Batch) error {
	if s.made == maxFiles {
		return fmt.Errorf("%s %s: more than %s files; split by less, or choose some groups by --only", s.flag(), s.how.text, count(maxFiles))
	}
	if s.o.Shared == nil && s.how.mode != oneFile {
		s.o.Shared = segment.NewShared()
	}
	k, o := s.kind, s.o
	f := &splitFile{own: s.keep || s.how.mode != oneFile, index: make(map[uint16]uint16)}
	if f.own {
		if s.how.mode != oneFile {
			o.ChunkSize = splitChunk
		}
		for i := range b.Datagrams {
			if err := f.place(s, &b.Datagrams[i], path); err != nil {
				return err
			}
		}
		if len(f.list) == 0 && len(s.interfaces) > 0 {
			f.list = []format.Interface{s.interfaces[0]} // a file of nothing still has a link type
			f.index[0] = 0
		}
		o.Interfaces = f.list
		if k.keep = s.keep; k.keep && len(f.list) > 0 {
			k.link = f.list[0].LinkType
		} else {
			k.keep = false
		}
	} else {
		o.Interfaces = s.interfaces
	}
	var err error
	if f.output, err = s.create(path, k, o); err != nil {
		return err
	}
	if f.text != nil {
		s.names.kind, f.text.names = k.text, &s.names
	}
	s.made++
	s.files, s.last = append(s.files, f), f
	return nil
}

// place gives d's interface a number in the file, and does not change d.
func (f *splitFile) place(s *splitter, d *format.Datagram, path string) error {
	if _, ok := f.index[d.Interface]; ok || int(d.Interface) >= len(s.interfaces) {
		return nil
	}
	i := s.interfaces[d.Interface]
	if s.keep && len(f.list) > 0 && i.LinkType != f.list[0].LinkType {
		return fmt.Errorf("%s: link type %d of interface %s after link type %d of %s: one file keeps one link type, or tcpdump refuses it; convert without --frames keep, or choose by --only",
			path, i.LinkType, interfaceName(s.interfaces, d.Interface), f.list[0].LinkType, interfaceName(f.list, 0))
	}
	if s.listed == maxListed && s.how.mode != oneFile {
		return fmt.Errorf("%s %s: more than %s interfaces in the files together; choose some groups by --only, or split by time, count or size", s.flag(), s.how.text, count(maxListed))
	}
	s.listed++
	i.SnapLen = 0 // see pcapfile.Ethernet: frames of the same file can be made
	f.index[d.Interface] = uint16(len(f.list))
	f.list = append(f.list, i)
	return nil
}

func (f *splitFile) write(s *splitter, b *format.Batch) error {
	if f.text != nil || f.table != nil {
		return f.output.WriteBatch(b)
	}
	list := s.interfaces
	if f.own {
		last, to := -1, uint16(0)
		for i := range b.Datagrams {
			d := &b.Datagrams[i]
			if int(d.Interface) != last {
				if err := f.place(s, d, f.path); err != nil {
					return err
				}
				last, to = int(d.Interface), f.index[d.Interface]
			}
			d.Interface = to
		}
		kept := b.Stats[:0]
		for _, st := range b.Stats {
			// Totals of an interface without datagrams here are of no use here.
			if to, ok := f.index[st.Interface]; ok {
				st.Interface = to
				kept = append(kept, st)
			}
		}
		b.Stats = kept
		for i := range b.Events {
			e := &b.Events[i]
			if to, ok := f.index[uint16(e.Interface)]; ok && e.Interface != format.NoInterface {
				e.Interface = int32(to)
			} else {
				e.Interface = format.NoInterface
			}
		}
		list = f.list
	}
	if err := f.describe(list); err != nil {
		return err
	}
	return f.output.WriteBatch(b)
}

// closeLast seals the last file.
func (s *splitter) closeLast() error {
	f := s.last
	s.last = nil
	for i := range s.files {
		if s.files[i] == f {
			s.files = append(s.files[:i], s.files[i+1:]...)
			break
		}
	}
	return s.seal(f)
}

func (s *splitter) seal(f *splitFile) error {
	err := f.Close()
	if s.spool == nil { // else it is removed in any case
		err = f.unfinished(err)
	}
	s.listed -= len(f.list)
	n, _ := f.written()
	s.unsaid += f.unsaid()
	s.done.datagrams += n
	s.done.size += f.size()
	return err
}

// finish makes the one file that was asked for where nothing was written to it.
// Rest are losses that no datagram was there to tell.
func (s *splitter) finish(rest losses) error {
	if s.made == 0 && s.how.mode == oneFile {
		if err := s.open(s.path, &format.Batch{}); err != nil {
			return err
		}
	}
	for i, n := range rest {
		s.lost.add(uint16(i), n)
	}
	return s.placeRest()
}

// Close seals all files that are open.
func (s *splitter) Close() error {
	var first error
	for _, f := range s.files {
		if err := s.seal(f); first == nil {
			first = err
		}
	}
	s.files, s.last = nil, nil
	return first
}

// written are the datagrams and the file bytes of all files so far.
func (s *splitter) written() (t splitTotals) {
	t = s.done
	for _, f := range s.files {
		n, _ := f.output.written()
		t.datagrams += n
		t.size += f.size()
	}
	return t
}

// flushText writes the lines that are gathered, where they are not compressed:
// frames of a few lines would hardly pack.
func (s *splitter) flushText() error {
	for _, f := range s.files {
		if f.text != nil && f.text.enc == nil {
			if err := f.text.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
