package main

import (
	"math"

	"castdeck/format"
)

// lossReader makes of running totals of losses, which hold for whole captures only, what
// holds for parts of them: each loss is told once, by the first that tells of it. In the
// batches that it reads, Datagram.Drops counts nothing that statistics told before, and
// InterfaceStats.Dropped counts only what came to be known with it. Totals that begin
// anew, as those of a recording's segments do, add up.
//
// It is a format.BatchReader. Work is done per datagram where something was lost.
type lossReader struct {
	src format.BatchReader
	// sought says that reading may begin within recordings, whose first totals then hold
	// losses of before.
	sought bool

	of []ifaceLosses // by interface
	// since is, for each statistics record of the batch read last, the time of the one
	// before of the same interface: the losses came in between.
	since []int64
}

// ifaceLosses are what an interface's losses are known by.
type ifaceLosses struct {
	packets uint64 // that were read
	told    uint64 // losses by Datagram.Drops
	recent  uint64 // of these, behind the last totals
	total   int64  // losses by totals
	base    int64  // what to add to the totals
	given   uint64 // losses passed on
	last    format.InterfaceStats
	known   bool // last is set
}

func (l *lossReader) ReadBatch(b *format.Batch) error {
	if err := l.src.ReadBatch(b); err != nil {
		return err
	}
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		f := l.iface(d.Interface)
		if f.packets++; d.Drops > 0 {
			f.told += d.Drops
			f.recent += d.Drops
			d.Drops = f.news()
		}
	}
	l.since = l.since[:0]
	n := 0
	for _, s := range b.Stats {
		since, lost := l.iface(s.Interface).totals(s, l.sought)
		if lost > 0 {
			l.since = append(l.since, since)
			b.Stats[n] = format.InterfaceStats{Interface: s.Interface, Time: s.Time, Dropped: lost}
			n++
		}
	}
	b.Stats = b.Stats[:n]
	return nil
}

func (l *lossReader) iface(i uint16) *ifaceLosses {
	if n := int(i) + 1; n > len(l.of) {
		l.of = append(l.of, make([]ifaceLosses, n-len(l.of))...)
	}
	return &l.of[i]
}

// totals takes the interface's next totals, and says how many losses are new since when.
func (f *ifaceLosses) totals(s format.InterfaceStats, sought bool) (since int64, lost uint64) {
	since = math.MinInt64
	switch {
	case f.known && (s.Dropped < f.last.Dropped || s.Received < f.last.Received):
		// Another segment: its datagrams told of its losses before.
		f.base = max(int64(f.told-f.recent), f.total)
	case !f.known && sought && s.Received > f.packets:
		// Losses of before: all that no datagram told of.
		f.base = int64(f.told) - int64(min(s.Dropped, math.MaxInt64))
	}
	if f.known {
		since = f.last.Time
	}
	f.total = max(f.total, f.base+int64(min(s.Dropped, math.MaxInt64)))
	f.recent, f.last, f.known = 0, s, true
	return since, f.news()
}

// news are the losses that are known by now and were not passed on.
func (f *ifaceLosses) news() uint64 {
	all := max(f.told, uint64(max(f.total, 0)))
	n := all - f.given
	f.given = all
	return n
}

// losses are waiting to be told by a datagram of their interface: by interface.
type losses []uint64

func (l *losses) add(i uint16, n uint64) {
	if n == 0 {
		return
	}
	if need := int(i) + 1; need > len(*l) {
		*l = append(*l, make(losses, need-len(*l))...)
	}
	(*l)[i] += n
}

// take are those that the interface's next datagram tells.
func (l losses) take(i uint16) (n uint64) {
	if int(i) < len(l) {
		n, l[i] = l[i], 0
	}
	return n
}
