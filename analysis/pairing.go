package analysis

import (
	"cmp"
	"errors"
	"io"
	"net/netip"
	"slices"

	"github.com/cespare/xxhash/v2"

	"castdeck/format"
)

// Pairing says that a stream of one input is a line of another one.
type Pairing struct {
	Input    int
	From, To netip.AddrPort
	// Common is how many payloads of those looked at both have.
	Common int
}

// pairSample is how many datagrams of each input are looked at, pairLeast how many
// payloads two streams must have in common at least; besides, it must be half of those of
// the smaller one.
const (
	pairSample = 1 << 17
	pairLeast  = 4
)

// leg is one destination in one input.
type leg struct {
	legKey
	sources  []netip.AddrPort
	payloads int
}

type legKey struct {
	input int
	dst   netip.AddrPort
}

const pairSources = 16

// FindLines looks at the first 131,072 datagrams of each input for streams of different
// destinations with the same payloads, and for the sources, 16 at most, that each
// destination has in the first input with it. Where
// several inputs have the same destination that is one stream, and no pairing. The
// destination of the earlier input is the one that others are paired to. Damage is
// passed over; the error is a failure to read.
func FindLines(inputs ...format.BatchReader) (pairs []Pairing, sources map[netip.AddrPort][]netip.AddrPort, err error) {
	f := &lineFinder{legs: map[legKey]int{}, seen: map[uint64][4]int32{}, common: map[[2]int]int{}}
	for n, r := range inputs {
		if err := f.read(n, r); err != nil {
			return nil, nil, err
		}
	}
	sources = map[netip.AddrPort][]netip.AddrPort{}
	for _, l := range f.list {
		if _, ok := sources[l.dst]; !ok {
			sources[l.dst] = l.sources
		}
	}
	return f.pair(), sources, nil
}

type lineFinder struct {
	list []leg
	legs map[legKey]int // to its place in list
	// seen are the streams that have a payload, place+1; one that more than four have
	// says nothing.
	seen   map[uint64][4]int32
	common map[[2]int]int
}

func (f *lineFinder) read(input int, r format.BatchReader) error {
	var b format.Batch
	for n := 0; n < pairSample; {
		switch err := r.ReadBatch(&b); {
		case errors.Is(err, io.EOF):
			return nil
		case format.Damaged(err):
			continue
		case err != nil:
			return err
		}
		for i := range b.Datagrams {
			if d := &b.Datagrams[i]; d.Flags&format.FlagNotUDP == 0 {
				n++
				f.add(input, d)
			}
		}
	}
	return nil
}

func (f *lineFinder) add(input int, d *format.Datagram) {
	k := legKey{input, d.Dst}
	at, ok := f.legs[k]
	if !ok {
		if len(f.list) >= maxStreams {
			return
		}
		at = len(f.list)
		f.legs[k] = at
		f.list = append(f.list, leg{legKey: k})
	}
	if l := &f.list[at]; len(l.sources) < pairSources && !slices.Contains(l.sources, d.Src) {
		l.sources = append(l.sources, d.Src)
	}
	hash := xxhash.Sum64(d.Payload) ^ uint64(d.Length)*golden
	have := f.seen[hash]
	for i, o := range have {
		if o == int32(at)+1 {
			return // it repeats itself
		}
		if o == 0 {
			have[i] = int32(at) + 1
			f.seen[hash] = have
			f.list[at].payloads++
			for _, o := range have[:i] {
				f.common[[2]int{int(o) - 1, at}]++
			}
			return
		}
	}
}

// pair joins those streams that have the most in common, each with one of any other
// input, or of its own.
func (f *lineFinder) pair() (pairs []Pairing) {
	type candidate struct{ a, b, common int }
	var all []candidate
	for k, n := range f.common {
		a, b := f.list[k[0]], f.list[k[1]]
		if a.dst != b.dst && n >= pairLeast && 2*n >= min(a.payloads, b.payloads) {
			all = append(all, candidate{k[0], k[1], n})
		}
	}
	slices.SortFunc(all, func(x, y candidate) int {
		return cmp.Or(cmp.Compare(y.common, x.common), cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b))
	})
	// to is the destination that a stream is a line of; roots are not paired themselves.
	to := map[int]int{}
	root := map[int]bool{}
	taken := map[netip.AddrPort]bool{}
	for _, l := range f.list {
		taken[l.dst] = taken[l.dst] || l.input == 0
	}
	for _, c := range all {
		_, paired := to[c.b]
		if _, aPaired := to[c.a]; aPaired || paired || root[c.b] || taken[f.list[c.b].dst] && f.list[c.b].input > 0 {
			continue
		}
		to[c.b], root[c.a] = c.a, true
		pairs = append(pairs, Pairing{f.list[c.b].input, f.list[c.b].dst, f.list[c.a].dst, c.common})
	}
	return pairs
}
