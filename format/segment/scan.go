package segment

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"castdeck/format"
)

// maxDamage bounds the list of damaged places that a scan keeps; DamagedPlaces
// goes on counting.
const maxDamage = 1000

// Scan is what reading a whole segment found.
type Scan struct {
	// Index rebuilt from the chunks.
	Index *format.Index
	Tally format.Tally
	// Damage in file order, at most the first 1,000 places of DamagedPlaces.
	Damage        []*format.CorruptError
	DamagedPlaces int
	// DamagedChunks is how many chunks are lost, counted from their numbers where
	// they tell, else one for each damaged place.
	DamagedChunks int
	// LostBytes is the sum of the damaged lengths, in bytes of the file.
	LostBytes int64
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
	// First and Last are the earliest and latest packet times, where Chunks > 0.
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
	fresh.chunks, fresh.found = &s.Index.Chunks, s.Found
	ahead := format.NewAhead(fresh, fresh.Interfaces)
	defer ahead.Close()
	var b format.Batch
	for {
		err := ahead.ReadBatch(&b)
		var damage *format.CorruptError
		switch {
		case err == nil:
			s.Tally.Add(&b)
		case errors.Is(err, io.EOF):
			s.Index.Streams, s.Index.StreamsCut = s.Tally.Streams(), s.Tally.StreamsCut
			s.Index.Interfaces = fresh.interfaces
			s.Index.Events, s.Index.EventCount = s.Tally.LastEvents(), uint32(s.Tally.Events)
			s.Sections, s.gaps, s.next = fresh.sections, fresh.gaps, fresh.next
			return s, nil
		case errors.As(err, &damage):
			s.DamagedPlaces++
			if damage.Chunks < 0 {
				s.DamagedChunks += damage.Chunks
			} else {
				s.DamagedChunks += max(1, damage.Chunks)
			}
			s.LostBytes += damage.Length
			if len(s.Damage) < maxDamage {
				s.Damage = append(s.Damage, damage)
			}
		default:
			return nil, err
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
	var problems []string
	add := func(f string, args ...any) { problems = append(problems, fmt.Sprintf(f, args...)) }
	for _, d := range s.Damage {
		if d.Length > 0 {
			add("byte %d: %s; %d bytes cannot be used", d.Offset, d.Reason, d.Length)
		} else {
			add("byte %d: %s", d.Offset, d.Reason)
		}
	}
	if more := s.DamagedPlaces - len(s.Damage); more > 0 {
		add("%d more damaged places", more)
	}
	if s.Sections > 1 {
		add("%d recordings stand one behind the other in this file", s.Sections)
		return s, problems, nil
	}
	f := r.footer
	if f == nil {
		add("not sealed: still being written, or cut off")
		return s, problems, nil
	}
	if r.indexErr != nil && !(r.Repacked() && s.repacked()) {
		add("index not usable: %v", r.indexErr)
	}
	for _, c := range []struct {
		what         string
		footer, data uint64
	}{
		{"chunks", uint64(f.Chunks), uint64(len(s.Index.Chunks))},
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
				l.Chunks, l.Datagrams, l.Bytes, stamp(l.First), stamp(l.Last))
		}
	}
	if r.index != nil && len(problems) == 0 {
		for i := range r.index.Chunks {
			if r.index.Chunks[i] != s.Index.Chunks[i] {
				add("the index describes chunk %d otherwise than the chunk itself", i)
				break
			}
		}
		if !equalStreams(r.index.Streams, s.Index.Streams) {
			add("the index's table of streams does not agree with the datagrams")
		}
		if x := r.index; x.EventCount != s.Index.EventCount || !slices.Equal(x.Events, s.Index.Events) {
			add("the index's table of events does not agree with the events")
		}
	}
	return s, problems, nil
}

// missing sums up the chunks that the file's index has and the scan did not find.
func (r *Reader) missing(s *Scan) (l Loss) {
	for i := range r.index.Chunks {
		if n := uint32(i); n < s.next && gapOf(s.gaps, n) < 0 {
			continue
		}
		c := &r.index.Chunks[i]
		if l.Chunks == 0 {
			l.First, l.Last = c.First, c.Last
		}
		l.Chunks++
		l.Datagrams += uint64(c.Datagrams)
		l.Bytes += c.Bytes
		l.First, l.Last = min(l.First, c.First), max(l.Last, c.Last)
	}
	return l
}

func stamp(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

// repacked says that the index that was found describes the chunks of this file, but
// at other places: what unpacking and packing again leaves.
func (s *Scan) repacked() bool {
	if !s.Found.Complete() || len(s.Found.Chunks) != len(s.Index.Chunks) {
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
	return moved && equalStreams(s.Found.Streams, s.Index.Streams)
}

func equalStreams(a, b []format.Stream) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
