package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"castdeck/analysis"
	"castdeck/format"
	"castdeck/internal/mcast"
)

// openRecordings opens recordings that are read side by side, each cut to the span and
// with what change makes of it. They are read ahead until ctx ends. The inputs are to be
// closed, also after an error.
func openRecordings(ctx context.Context, paths []string, span *timeSpan, change func(i int, src format.BatchReader) format.BatchReader) (ins []*input, readers []format.BatchReader, err error) {
	for i, path := range paths {
		in, err := openInput(path)
		if err != nil {
			return ins, nil, err
		}
		ins = append(ins, in)
		src, err := span.cut(in)
		if err != nil {
			return ins, nil, err
		}
		readers = append(readers, change(i, src))
	}
	for _, in := range ins {
		in.readAhead(ctx)
	}
	return ins, readers, nil
}

func closeAll(ins []*input) {
	for _, in := range ins {
		in.Close()
	}
}

// tellDamage says what is wrong with an input that was read to its end; false where
// something is.
func tellDamage(w io.Writer, in *input, l *format.DamageLog) bool {
	lines := damageLines(in, l)
	for _, p := range lines {
		fmt.Fprintf(w, "castdeck: %s\n", p)
	}
	return len(lines) == 0
}

// damageLines are what is wrong with an input that was read to its end.
func damageLines(in *input, l *format.DamageLog) (lines []string) {
	for _, p := range l.Problems() {
		lines = append(lines, oneLine(in.path)+": "+oneLine(p))
	}
	unsealed := in.unsealed()
	for _, p := range unsealed[:min(len(unsealed), 20)] {
		lines = append(lines, oneLine(p)+": not sealed: still being written, or cut off")
	}
	return lines
}

// sieve passes on the datagrams that are for some groups, behind a mapping.
type sieve struct {
	src    format.BatchReader
	only   *mcast.Matcher
	mapped func(netip.AddrPort) netip.AddrPort // nil: as they are
}

func (s *sieve) ReadBatch(b *format.Batch) error {
	for {
		if err := s.src.ReadBatch(b); err != nil {
			return err
		}
		n := 0
		for i := range b.Datagrams {
			d := &b.Datagrams[i]
			dst := d.Dst
			if s.mapped != nil && dst.IsValid() {
				dst = s.mapped(dst)
			}
			if d.Flags&format.FlagNotUDP == 0 && s.only.Match(d.Src, dst) {
				b.Datagrams[n] = *d
				n++
			}
		}
		b.Datagrams = b.Datagrams[:n]
		if !b.Empty() {
			return nil
		}
	}
}

// renamed gives datagrams the destinations that they have elsewhere.
type renamed struct {
	src    format.BatchReader
	mapped func(netip.AddrPort) netip.AddrPort
}

func (r *renamed) ReadBatch(b *format.Batch) error {
	if err := r.src.ReadBatch(b); err != nil {
		return err
	}
	for i := range b.Datagrams {
		if d := &b.Datagrams[i]; d.Dst.IsValid() {
			d.Dst = r.mapped(d.Dst)
		}
	}
	return nil
}

// aligned gives everything the time of another clock, by which clock stands as it says.
type aligned struct {
	src   format.BatchReader
	clock *analysis.Clock
}

func (a *aligned) ReadBatch(b *format.Batch) error {
	if err := a.src.ReadBatch(b); err != nil {
		return err
	}
	for i := range b.Datagrams {
		a.move(&b.Datagrams[i].Time)
	}
	for i := range b.Stats {
		a.move(&b.Stats[i].Time)
	}
	for i := range b.Events {
		a.move(&b.Events[i].Time)
	}
	return nil
}

func (a *aligned) move(t *int64) { *t -= a.clock.At(*t - a.clock.Offset) }

// clockText says how a clock stands to the one of a recording before it.
func clockText(c *analysis.Clock, align string) string {
	drift := ""
	if c.Drift != 0 {
		drift = fmt.Sprintf(" at first and drifts by %+.3f ppm", c.Drift*1e6)
	}
	return fmt.Sprintf("clock shows %s more%s (by %s): taken out", signedNanos(c.Offset), drift, byWhat(align))
}

func toClockJSON(c *analysis.Clock, align string, taken bool) *compareClock {
	return &compareClock{c.Start, c.Offset, c.Drift * 1e6, align, taken}
}

func byWhat(align string) string {
	if align == "median" {
		return "the median of the differences"
	}
	return "the smallest differences"
}

// checkAlign is the flag --align, of paths that are read twice with it.
func checkAlign(align string) error {
	if align != "" && align != "min" && align != "median" {
		return usagef("--align %s: write min or median", align)
	}
	return nil
}
