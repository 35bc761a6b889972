package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"castdeck/format"
	"castdeck/format/pcapfile"
	"castdeck/format/segment"
)

// input is an open capture of any kind. Exactly one of seg and file is set.
type input struct {
	path string
	size int64 // of the file, bytes
	seg  *segment.Reader
	file *pcapfile.Reader
}

// openInput opens a capture by its content, never by its name: a castdeck segment
// first, then everything else.
func openInput(path string) (*input, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, fmt.Errorf("%s is a folder; name a capture file in it", path)
	}
	in := &input{path: path, size: st.Size()}
	if st.Mode().IsRegular() {
		in.seg, err = segment.Open(path, segment.ReadOptions{Decoder: pcapfile.NewDecoder()})
		if err == nil {
			return in, nil
		}
		if !errors.Is(err, format.ErrFormat) {
			return nil, err
		}
	}
	if in.file, err = pcapfile.Open(path); err != nil {
		return nil, err
	}
	return in, nil
}

func (in *input) ReadBatch(b *format.Batch) error {
	if in.seg != nil {
		return in.seg.ReadBatch(b)
	}
	return in.file.ReadBatch(b)
}

// interfaces known so far.
func (in *input) interfaces() []format.Interface {
	if in.seg != nil {
		return in.seg.Interfaces()
	}
	return in.file.Interfaces()
}

// format names container and compression: "pcapng.zst", "pcap.gz".
func (in *input) format() string {
	if in.seg != nil {
		return in.seg.Compression().Extension()[1:]
	}
	return in.file.Format()
}

func (in *input) Close() error {
	if in.seg != nil {
		return in.seg.Close()
	}
	return in.file.Close()
}

// summary is what is in a capture.
type summary struct {
	tally  *format.Tally
	chunks int
	// damage, the first places of it, and how many there are in all.
	damage    []error
	damaged   int
	lostBytes int64
	// problems are lines for people: damage, and statements of the file about
	// itself that are not true.
	problems []string
	sealed   bool
	// quick says that only the index was read.
	quick   bool
	streams []format.Stream
}

const maxListed = 1000

// summarize says what is in a capture. With quick the index of a sealed recording
// is believed; otherwise everything is read and checked.
func (in *input) summarize(quick bool) (*summary, error) {
	if in.seg == nil {
		return in.summarizeForeign()
	}
	if x, f := in.seg, in.seg.Footer(); quick && f != nil && x.IndexError() == nil {
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
	out := &summary{
		tally: &s.Tally, chunks: len(s.Index.Chunks), damaged: s.DamagedPlaces, lostBytes: s.LostBytes,
		problems: problems, sealed: in.seg.Sealed(), streams: s.Index.Streams,
	}
	for _, d := range s.Damage {
		out.damage = append(out.damage, d)
	}
	return out, nil
}

func quickSummary(x *format.Index, f *format.Footer) *summary {
	t := &format.Tally{
		Datagrams: f.Datagrams, NotUDP: uint64(f.NotUDP), Bytes: f.Bytes, Dropped: f.Dropped,
		Packets: f.Datagrams + uint64(f.NotUDP), StreamsCut: x.StreamsCut,
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
	return &summary{tally: t, chunks: len(x.Chunks), sealed: true, quick: true, streams: x.Streams}
}

func (in *input) summarizeForeign() (*summary, error) {
	// A capture of another tool has no footer; one that ends where a record ends is
	// as whole as it can say.
	s := &summary{tally: new(format.Tally), sealed: true}
	err := in.each(func(b *format.Batch) error {
		s.tally.Add(b)
		return nil
	}, s.note)
	s.streams = s.tally.Streams()
	return s, err
}

func (s *summary) note(err error) {
	s.damaged++
	var c *format.CorruptError
	if errors.As(err, &c) {
		s.lostBytes += c.Length
	}
	if len(s.damage) < maxListed {
		s.damage = append(s.damage, err)
		s.problems = append(s.problems, describe(err))
	}
}

// describe is damage without the path, which stands before it already.
func describe(err error) string {
	var c *format.CorruptError
	if !errors.As(err, &c) {
		return err.Error()
	}
	if c.Length > 0 {
		return fmt.Sprintf("byte %d: %s; %s cannot be used", c.Offset, c.Reason, plural(c.Length, "byte"))
	}
	return fmt.Sprintf("byte %d: %s", c.Offset, c.Reason)
}

// each reads the whole capture. Damage goes to note, any other error ends it.
func (in *input) each(f func(*format.Batch) error, note func(error)) error {
	var b format.Batch
	for {
		err := in.ReadBatch(&b)
		var c *format.CorruptError
		switch {
		case err == nil:
			if err := f(&b); err != nil {
				return err
			}
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &c) || errors.Is(err, format.ErrVersion):
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
