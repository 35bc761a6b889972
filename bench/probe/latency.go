package probe

import (
	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// mostNanos is the largest value that a histogram tells apart, in ns: a minute.
	mostNanos = 60_000_000_000
	// exactly is below which difference of clocks one-way latencies are recorded as they
	// are, in ns; slack is left below the first one otherwise.
	exactly, slack = 1_000_000_000, 1_000_000
	// mostRebases bounds the work that clocks which run apart, or lie, can make.
	mostRebases = 16
)

// Latency are times in ns, percentiles exact to three digits of what is above the
// histogram's beginning; Min and Max are exact. They may be negative where clocks differ.
type Latency struct {
	Count                         int64
	Min, P50, P90, P99, P999, Max int64
	Mean                          float64
	// Histogram holds all values, each less Base, as far as they lie between 0 and a minute;
	// nil where there are none, and in Interval and Remote. It is not changed any more.
	Histogram *hdrhistogram.Histogram
	Base      int64
}

// AboveMin are the same times with the least one taken off: what datagrams waited for
// on their way beyond what the fastest took. It does not depend on how the clocks are set.
func (l Latency) AboveMin() Latency {
	return Latency{
		Count: l.Count, P50: l.P50 - l.Min, P90: l.P90 - l.Min, P99: l.P99 - l.Min, P999: l.P999 - l.Min, Max: l.Max - l.Min, Mean: l.Mean - float64(l.Min),
	}
}

// latencies gathers times. A histogram holds no negative ones, and few digits of large
// ones; so where the first time shows that the clocks differ, what is recorded is the
// time above a reference near it.
type latencies struct {
	h        *hdrhistogram.Histogram
	digits   int
	ref      int64
	n        int64
	min, max int64
	sum      float64
	rebases  int
}

// newLatencies tells values apart to so many digits.
func newLatencies(digits int) *latencies {
	return &latencies{h: hdrhistogram.New(1, mostNanos, digits), digits: digits}
}

func (l *latencies) add(v int64) {
	if l.n == 0 {
		l.ref = 0
		if v < 0 || v >= exactly {
			l.ref = v - slack
		}
		l.min, l.max = v, v
	}
	l.n++
	l.min, l.max = min(l.min, v), max(l.max, v)
	l.sum += float64(v)
	if v < l.ref && l.rebases < mostRebases {
		l.rebase(v - (l.ref - v))
	}
	_ = l.h.RecordValue(min(max(v-l.ref, 0), mostNanos))
}

// rebase moves the reference down. Values lose no more than the histogram's resolution.
func (l *latencies) rebase(ref int64) {
	l.rebases++
	moved := hdrhistogram.New(1, mostNanos, l.digits)
	for _, b := range l.h.Distribution() {
		if b.Count > 0 {
			_ = moved.RecordValues(min((b.From+b.To)/2+l.ref-ref, mostNanos), b.Count)
		}
	}
	l.h, l.ref = moved, ref
}

func (l *latencies) reset() {
	l.h.Reset()
	*l = latencies{h: l.h, digits: l.digits}
}

// whole is the summary with the histogram, to which nothing may be added any more.
func (l *latencies) whole() Latency {
	s := l.summary()
	if s.Count > 0 {
		s.Histogram, s.Base = l.h, l.ref
	}
	return s
}

func (l *latencies) summary() Latency {
	if l.n == 0 {
		return Latency{}
	}
	at := func(q float64) int64 { return min(max(l.h.ValueAtQuantile(q)+l.ref, l.min), l.max) }
	return Latency{Count: l.n, Min: l.min, P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: l.max, Mean: l.sum / float64(l.n)}
}

// difference of two times, which may be anything, within bounds whose differences do
// not overflow.
func difference(a, b int64) int64 {
	const time, most = 1 << 61, 1 << 60
	within := func(v, m int64) int64 { return max(min(v, m), -m) }
	return within(within(a, time)-within(b, time), most)
}
