package analysis

import (
	"cmp"
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency is a distribution of times in ns, which may be negative: two histograms
// around the first one, so that the difference of two clocks, a day perhaps, costs
// no resolution. What is more than an hour from the first counts as an hour from it;
// smallest and largest are exact.
type Latency struct {
	base, min, max int64
	digits         int
	below, above   *hdrhistogram.Histogram // of distances from base; nil without
}

func newLatency(base int64, digits int) *Latency {
	return &Latency{base: base, min: math.MaxInt64, max: math.MinInt64, digits: digits}
}

func (l *Latency) record(ns int64) {
	l.min, l.max = min(l.min, ns), max(l.max, ns)
	h, d := &l.above, ns-l.base
	if d < 0 {
		h, d = &l.below, -d
	}
	if *h == nil {
		*h = hdrhistogram.New(1, hour, l.digits)
	}
	_ = (*h).RecordValue(min(max(d, 0), hour)) // which is in its range
}

// Count of the values.
func (l *Latency) Count() int64 {
	return total(l.below) + total(l.above)
}

func total(h *hdrhistogram.Histogram) int64 {
	if h == nil {
		return 0
	}
	return h.TotalCount()
}

// Min and Max are exact; 0 where there is no value.
func (l *Latency) Min() int64 {
	if l.Count() == 0 {
		return 0
	}
	return l.min
}

// Max is the largest value.
func (l *Latency) Max() int64 {
	if l.Count() == 0 {
		return 0
	}
	return l.max
}

// Quantile is the value below or at which percent of all lie; 0 where there is none.
func (l *Latency) Quantile(percent float64) int64 {
	below, above := total(l.below), total(l.above)
	n := below + above
	if n == 0 {
		return 0
	}
	rank := min(max(int64(math.Ceil(percent/100*float64(n))), 1), n)
	v := l.base
	if rank <= below {
		v -= l.below.ValueAtQuantile(100 * float64(below-rank+1) / float64(below))
	} else {
		v += l.above.ValueAtQuantile(100 * float64(rank-below) / float64(above))
	}
	return min(max(v, l.min), l.max)
}

// Clock is how clock b stands to clock a: at the time t by a it shows
// t + Offset + Drift*(t-Start).
type Clock struct {
	Start  int64   // ns since the Unix epoch, by a
	Offset int64   // ns
	Drift  float64 // ns for each ns; a millionth of it is 1 ppm
}

// At is what b shows more than a at the time t by a, in ns.
func (c *Clock) At(t int64) int64 { return c.Offset + int64(c.Drift*float64(t-c.Start)) }

// minDriftSpan is how long matches must go on for a drift to be fitted: 10 s. In a
// shorter time the jitter of 100 us looks like 10 ppm.
const minDriftSpan = 10_000_000_000

// clockFit gathers differences of times in bins, twice as long each time they do not
// suffice, and fits a line through them at the end. Memory is constant.
type clockFit struct {
	start int64
	width uint // of a bin: 2^width ns
	bins  []clockBin
	rnd   uint64
}

const clockBins = 1024

// clockBin is a stretch of time with its smallest difference and one chosen at random.
type clockBin struct {
	count             uint64
	minTime, min      int64
	sampleTime, value int64
}

// add takes in that b showed late more than a at the time t by a.
func (f *clockFit) add(t, late int64) {
	if f.bins == nil {
		f.start, f.width, f.rnd, f.bins = t, 20, golden, make([]clockBin, clockBins)
	}
	d := max(t-f.start, 0)
	for d>>f.width >= clockBins {
		for i := range clockBins / 2 {
			f.bins[i] = f.join(f.bins[2*i], f.bins[2*i+1])
		}
		clear(f.bins[clockBins/2:])
		f.width++
	}
	b := &f.bins[d>>f.width]
	b.count++
	if b.count == 1 || late < b.min {
		b.minTime, b.min = t, late
	}
	if f.below(b.count) == 0 {
		b.sampleTime, b.value = t, late
	}
}

// below is a random number from 0 to before n (xorshift64; Marsaglia 2003).
func (f *clockFit) below(n uint64) uint64 {
	f.rnd ^= f.rnd << 13
	f.rnd ^= f.rnd >> 7
	f.rnd ^= f.rnd << 17
	return f.rnd >> 32 * (n & math.MaxUint32) >> 32
}

func (f *clockFit) join(a, b clockBin) clockBin {
	if a.count == 0 || b.count == 0 {
		if a.count == 0 {
			return b
		}
		return a
	}
	n := a.count + b.count
	if b.min < a.min {
		a.minTime, a.min = b.minTime, b.min
	}
	if f.below(n) >= a.count {
		a.sampleTime, a.value = b.sampleTime, b.value
	}
	a.count = n
	return a
}

// fit is the line: its slope is the median of the slopes between all pairs of bins
// (Theil and Sen), so that up to 29 % of them may be far off.
func (f *clockFit) fit(median bool) (Clock, bool) {
	type point struct{ t, late int64 }
	var ps []point
	for _, b := range f.bins {
		switch {
		case b.count == 0:
		case median:
			ps = append(ps, point{b.sampleTime, b.value})
		default:
			ps = append(ps, point{b.minTime, b.min})
		}
	}
	if len(ps) == 0 {
		return Clock{}, false
	}
	c := Clock{Start: f.start, Offset: ps[0].late}
	if ps[len(ps)-1].t-ps[0].t >= minDriftSpan {
		var slopes []float64
		for i := range ps {
			for _, q := range ps[i+1:] {
				if dt := q.t - ps[i].t; dt > 0 {
					slopes = append(slopes, float64(q.late-ps[i].late)/float64(dt))
				}
			}
		}
		c.Drift = middle(slopes)
	}
	c.Offset = 0
	var offsets []int64
	for _, p := range ps {
		offsets = append(offsets, p.late-c.At(p.t))
	}
	if median {
		c.Offset = middle(offsets)
	} else {
		c.Offset = slices.Min(offsets)
	}
	return c, true
}

// middle is the median; it sorts s, which is not empty.
func middle[T cmp.Ordered](s []T) T {
	slices.Sort(s)
	return s[(len(s)-1)/2]
}
