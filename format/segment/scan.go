package segment

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"castdeck/format"
)

// Scan is what reading a whole segment found.
type Scan struct {
	// Index rebuilt from the chunks.
	Index *format.Index
	// Chunks that were read.
	Chunks int
	Tally  format.Tally
	// DamageLog is what is wrong with the frames. The datagrams of lost chunks are
	// counted from the index, else from the totals of the interfaces behind them.
	format.DamageLog
	// Lost is what the index of a sealed file tells of chunks that could not be read;
	// Verify fills it in.
	Lost Loss
	// Found is the index that stands in the file, complete or not, wherever it stands.
	Found *format.Index
	// Sections counts recordings that stand one behind the other in the file.
	Sections int

	gaps []span // chunk numbers that did not come, up to next
	next uint32
}

// Loss sums up chunks that are lost.
type Loss struct {
	Chunks           int
	Datagrams, Bytes uint64 // Bytes of payload
	// First and Last are the earliest and latest packet times, where Chunks > 0. With
	// more than format.MaxIndexChunks in the file the span can be a little longer.
	First, Last int64
}

// Scan reads every frame of the file and checks it. The reader's position does not
// change. The error is an I/O error or format.ErrVersion; damage is in the result.
func (r *Reader) Scan() (*Scan, error) {
	fresh, err := r.again()
	if err != nil {
		return nil, err
	}
	s := &Scan{Index: &format.Index{Recording: fresh.info.Recording, Segment: fresh.info.Number}, Found: &format.Index{}}
	fresh.table, fresh.found = s.Index, s.Found
	ahead := format.NewAhead(fresh, fresh.Interfaces)
	defer ahead.Close()
	var b format.Batch
	totals := lossTotals{scan: s}
	for {
		err := ahead.ReadBatch(&b)
		var damage *format.CorruptError
		switch {
		case err == nil:
			s.Tally.Add(&b)
			s.Saw(&b)
			totals.saw(&b)
		case errors.Is(err, io.EOF):
			s.Index.Streams, s.Index.StreamsCut = s.Tally.Streams(), s.Tally.StreamsCut
			s.Index.Interfaces = fresh.interfaces
			s.Index.Events, s.Index.EventCount = s.Tally.LastEvents(), uint32(s.Tally.Events)
			s.Sections, s.Chunks = fresh.sections, fresh.taken
			s.gaps, s.next = fresh.gaps, fresh.next
			totals.end(len(fresh.interfaces))
			switch x := s.Found; {
			case fresh.index != nil:
				s.count(fresh.index)
			case x.Complete() && x.Recording == r.info.Recording && s.Sections == 1:
				s.count(x) // it does not fit where chunks are missing; their numbers do
			}
			return s, nil
		case errors.As(err, &damage):
			s.Note(damage)
			totals.late = totals.late || damage.Chunks < 0
		default:
			return nil, err
		}
	}
}

// lossTotals counts the datagrams of lost chunks: the running totals of an interface,
// which stand at the end of each chunk that has datagrams of it, go on across them.
type lossTotals struct {
	scan       *Scan
	interfaces []interfaceTotals
	told       []int // by damaged place: the interfaces that told of it
	late       bool  // chunks came out of their order, and so do totals
}

// interfaceTotals are what an interface's last totals told.
type interfaceTotals struct {
	received uint64
	places   int // that were damaged before
}

// saw is told of each chunk that was read. An interface that was silent between two
// damaged places does not tell which of them lost its datagrams.
func (t *lossTotals) saw(b *format.Batch) {
	places := t.scan.DamagedPlaces
	for i := range b.Stats {
		s := &b.Stats[i]
		if n := int(s.Interface) + 1; n > len(t.interfaces) {
			t.interfaces = append(t.interfaces, make([]interfaceTotals, n-len(t.interfaces))...)
		}
		was := t.interfaces[s.Interface]
		t.interfaces[s.Interface] = interfaceTotals{s.Received, places}
		if places != was.places+1 || places > len(t.scan.Damage) {
			continue
		}
		for j := range b.Datagrams {
			if b.Datagrams[j].Interface == s.Interface {
				was.received++
			}
		}
		t.told = append(t.told, make([]int, places-len(t.told))...)
		t.told[places-1]++
		if d := t.scan.Damage[places-1]; !d.Counted && s.Received > was.received {
			d.Datagrams += s.Received - was.received
		}
	}
}

// end says of which places all of the file's interfaces told.
func (t *lossTotals) end(interfaces int) {
	for i, told := range t.told {
		switch d := t.scan.Damage[i]; {
		case d.Counted:
		case t.late:
			d.Datagrams = 0
		case told == interfaces:
			d.Counted = true
		}
	}
}

// Verify reads the whole file and lists everything that is wrong with it, one
// line each: damage, and totals that the index or the footer state otherwise than
// the data say. A file that is not sealed is listed as such.
func (r *Reader) Verify() (*Scan, []string, error) {
	s, err := r.Scan()
	if err != nil {
		return nil, nil, err
	}
	problems := s.Problems()
	add := func(f string, args ...any) { problems = append(problems, fmt.Sprintf(f, args...)) }
	if s.Sections > 1 {
		add("%d recordings stand one behind the other in this file", s.Sections)
		return s, problems, nil
	}
	f := r.footer
	if f == nil {
		problem := "not sealed: still being written, or cut off"
		if n := len(s.Damage); s.Tally.Packets > 0 && (n == 0 || s.Damage[n-1].Until != nil) {
			problem += "; what came after " + format.Stamp(s.Tally.Last) + " is not known"
		}
		add("%s", problem)
		return s, problems, nil
	}
	if r.indexErr != nil && !(r.Repacked() && s.repacked()) {
		add("index not usable: %v", r.indexErr)
	}
	for _, c := range []struct {
		what         string
		footer, data uint64
	}{
		{"chunks", uint64(f.Chunks), uint64(s.Chunks)},
		{"datagrams", f.Datagrams, s.Tally.Datagrams},
		{"payload bytes", f.Bytes, s.Tally.Bytes},
		{"packets not UDP", uint64(f.NotUDP), uint64(s.Tally.NotUDP32())},
		{"lost datagrams", f.Dropped, s.Tally.Dropped},
	} {
		if c.footer != c.data {
			add("the footer states %d %s, the file holds %d", c.footer, c.what, c.data)
		}
	}
	if r.index != nil {
		s.Lost = r.missing(s)
		if l := s.Lost; l.Chunks > 0 {
			add("lost: %d chunk(s) with %d datagrams, %d bytes of payload, from %s to %s",
				l.Chunks, l.Datagrams, l.Bytes, format.Stamp(l.First), format.Stamp(l.Last))
		}
	}
	if r.index != nil && len(problems) == 0 {
		for i := range r.index.Chunks {
			if i >= len(s.Index.Chunks) || r.index.Chunks[i] != s.Index.Chunks[i] {
				add("the index describes chunk %d otherwise than the chunk itself", i*r.index.PerEntry())
				break
			}
		}
		if !sameStreams(r.index, s.Index) {
			add("the index's table of streams does not agree with the datagrams")
		}
		if x := r.index; x.EventCount != s.Index.EventCount || !slices.Equal(x.Events, s.Index.Events) {
			add("the index's table of events does not agree with the events")
		}
	}
	return s, problems, nil
}

// count takes from an index of the recording how many datagrams the lost chunks held,
// where it tells of each chunk.
func (s *Scan) count(x *format.Index) {
	if x.PerEntry() > 1 {
		return
	}
	for _, d := range s.Damage {
		first, n := int64(d.FirstChunk), int64(max(d.Chunks, 0))
		if d.Chunks < 0 || n == 0 && first < int64(len(x.Chunks)) || first+n > int64(len(x.Chunks)) {
			continue
		}
		d.Datagrams, d.Counted = 0, true
		for i := first; i < first+n; i++ {
			if s.isMissing(uint32(i)) {
				d.Datagrams += uint64(x.Chunks[i].Datagrams)
			}
		}
	}
}

// isMissing says of a chunk's number that the chunk did not come, in its place or later.
func (s *Scan) isMissing(n uint32) bool { return n >= s.next || gapOf(s.gaps, n) >= 0 }

// missing sums up the chunks that the file's index has and the scan did not find.
func (r *Reader) missing(s *Scan) (l Loss) {
	per := r.index.PerEntry()
	for i := range r.index.ChunkCount() {
		if !s.isMissing(uint32(i)) {
			continue
		}
		c := &r.index.Chunks[i/per]
		if l.Chunks == 0 {
			l.First, l.Last = c.First, c.Last
		}
		l.Chunks++
		l.Datagrams += uint64(c.Datagrams)
		l.Bytes += c.Bytes
		l.First, l.Last = min(l.First, c.First), max(l.Last, c.Last)
	}
	if per > 1 { // entries tell of chunks that are there too; so do the times
		l.Datagrams = r.footer.Datagrams - min(r.footer.Datagrams, s.Tally.Datagrams)
		l.Bytes = r.footer.Bytes - min(r.footer.Bytes, s.Tally.Bytes)
	}
	return l
}

// repacked says that the index that was found describes the chunks of this file, but
// at other places: what unpacking and packing again leaves.
func (s *Scan) repacked() bool {
	if !s.Found.Complete() || len(s.Found.Chunks) != len(s.Index.Chunks) || s.Found.ChunkCount() != s.Index.ChunkCount() {
		return false
	}
	moved := len(s.Index.Chunks) == 0
	for i := range s.Found.Chunks {
		was, is := s.Found.Chunks[i], s.Index.Chunks[i]
		moved = moved || was.Offset != is.Offset || was.Size != is.Size
		was.Offset, was.Size = is.Offset, is.Size
		if was != is {
			return false
		}
	}
	return moved && sameStreams(s.Found, s.Index)
}

// sameStreams compares the table of streams that a file has with the one that its
// datagrams make. A table that says that it is not complete has the first ones.
func sameStreams(file, data *format.Index) bool {
	have := data.Streams
	if file.StreamsCut {
		have = have[:min(len(file.Streams), len(have))]
	} else if data.StreamsCut {
		return false
	}
	return slices.Equal(file.Streams, have)
}
