package main

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"castdeck/format"
)

// timeValue is a flag with a point in time: absolute, or relative to the first
// datagram of what is read.
type timeValue struct {
	text     string // as given; "" where it was not
	ns       int64  // since the Unix epoch, or since the first datagram
	relative bool
}

const timeForms = "write RFC 3339 such as 2026-11-22T15:30:09.5Z, seconds since 1970 such as 1795361409.5, nanoseconds since 1970, or +10s from the start"

// Set reads RFC 3339 (also as dump prints it, with a space and without a zone, which
// is then UTC), seconds since the Unix epoch with up to 9 decimals, nanoseconds since
// the epoch, or + and a duration.
func (v *timeValue) Set(s string) error {
	t, err := parseTime(s)
	if err != nil {
		return err
	}
	*v = t
	return nil
}

func (v *timeValue) String() string { return v.text }
func (*timeValue) Type() string     { return "TIME" }

func parseTime(s string) (timeValue, error) {
	v := timeValue{text: s}
	bad := fmt.Errorf("%q is no time; %s", s, timeForms)
	switch {
	case s == "":
		return v, bad
	case s[0] == '+':
		d, err := time.ParseDuration(s[1:])
		if err != nil || d < 0 || strings.ContainsAny(s[1:], "+-") {
			return v, fmt.Errorf("%q is no time from the start; write + and a number with ms, s, m or h, such as +90s", s)
		}
		v.ns, v.relative = int64(d), true
		return v, nil
	case strings.Trim(s, "0123456789.") == "":
		ns, err := parseEpoch(s)
		v.ns = ns
		return v, err
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999"} {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		// UnixNano is undefined outside of these years.
		if y := t.UTC().Year(); y < 1678 || y > 2261 {
			return v, fmt.Errorf("%q: a capture holds times from 1678 to 2261", s)
		}
		v.ns = t.UnixNano()
		return v, nil
	}
	return v, bad
}

// parseEpoch reads seconds since the epoch, perhaps with decimals, or nanoseconds. The
// number of digits tells: 11 digits of seconds reach to the year 5138, and 17 digits of
// nanoseconds begin in 1973. What lies between could be milli- or microseconds.
func parseEpoch(s string) (int64, error) {
	whole, decimals, dot := strings.Cut(s, ".")
	n, err := strconv.ParseUint(whole, 10, 63)
	switch {
	case err != nil:
	case !dot && len(whole) >= 17:
		return int64(n), nil
	case len(whole) > 11:
		return 0, fmt.Errorf("%q: seconds or nanoseconds since 1970? write seconds with decimals, or all 19 digits", s)
	case len(decimals) > 9 || dot && decimals == "":
	default:
		frac, err := strconv.ParseUint((decimals + "000000000")[:9], 10, 63)
		hi, lo := bits.Mul64(n, 1e9)
		if err != nil || hi != 0 || lo > math.MaxInt64-1e9 {
			break
		}
		return int64(lo + frac), nil
	}
	return 0, fmt.Errorf("%q is no time; %s", s, timeForms)
}

// at is the time as ns since the epoch, where the first datagram came at start.
func (v *timeValue) at(start int64) int64 {
	if !v.relative {
		return v.ns
	}
	if start > math.MaxInt64-v.ns {
		return math.MaxInt64
	}
	return start + v.ns
}

// timeSpan is --start and --end: the datagrams at or after start and before end.
type timeSpan struct {
	start, end timeValue
}

func (s *timeSpan) addFlags(cmd *cobra.Command) {
	cmd.Flags().Var(&s.start, "start", "begin with the first datagram at or after `TIME`: RFC 3339, seconds or ns since 1970, or +10s from the start")
	cmd.Flags().Var(&s.end, "end", "end before the first datagram at or after `TIME`")
}

// check refuses a span that is empty whatever is read.
func (s *timeSpan) check() error {
	if s.start.text != "" && s.end.text != "" && s.start.relative == s.end.relative && s.start.ns >= s.end.ns {
		return usagef("--start %s is not before --end %s", s.start.text, s.end.text)
	}
	return nil
}

// given says whether there is anything to cut.
func (s *timeSpan) given() bool { return s.start.text != "" || s.end.text != "" }

// cut is what lies within the span. Of a sealed recording only the chunks that can hold
// something of it are read. It is called before the first ReadBatch of in.
func (s *timeSpan) cut(in *input) (format.BatchReader, error) {
	return s.cutFrom(in, math.MinInt64)
}

// cutFrom is cut, where nothing before from is wanted: it may be left out, or not.
func (s *timeSpan) cutFrom(in *input, from int64) (format.BatchReader, error) {
	if !s.given() {
		if from > math.MinInt64 {
			return in, in.seek(from, math.MaxInt64)
		}
		return in, nil
	}
	c := &cutter{src: in, span: s}
	start, known := int64(0), true
	if s.start.relative || s.end.relative {
		start, known = in.start()
	}
	if known {
		c.resolve(start)
		if err := in.seek(max(c.from, from), c.to); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// lossesOnce makes of src, which cut made of in, a reader that tells each loss once; see
// lossReader.
func (s *timeSpan) lossesOnce(in *input, src format.BatchReader) format.BatchReader {
	l := &lossReader{src: in, sought: in.file == nil && s.start.text != ""}
	if cut, ok := src.(*cutter); ok {
		cut.src, cut.losses = l, l
		return cut
	}
	return l
}

// cutter passes on the datagrams and events of a span. Statistics are left out, because
// their totals are those since the recording began, unless losses makes them ones that
// hold for a part: those that are told within the span are passed on.
type cutter struct {
	src      format.BatchReader
	losses   *lossReader // src, where it is one
	span     *timeSpan
	resolved bool
	from, to int64 // ns since the Unix epoch
	// unplaced counts datagrams that were lost within the span or behind it: nobody
	// knows.
	unplaced uint64
}

func (c *cutter) resolve(start int64) {
	c.from, c.to = math.MinInt64, math.MaxInt64
	if c.span.start.text != "" {
		c.from = c.span.start.at(start)
	}
	if c.span.end.text != "" {
		c.to = c.span.end.at(start)
	}
	c.resolved = true
}

func (c *cutter) ReadBatch(b *format.Batch) error {
	for {
		if err := c.src.ReadBatch(b); err != nil {
			return err
		}
		if c.losses == nil {
			b.Stats = b.Stats[:0]
		}
		if len(b.Datagrams) == 0 && !c.resolved {
			continue
		}
		if !c.resolved {
			c.resolve(b.Datagrams[0].Time)
		}
		c.cutStats(b)
		n := 0
		for i := range b.Datagrams {
			if t := b.Datagrams[i].Time; t >= c.from && t < c.to {
				b.Datagrams[n] = b.Datagrams[i]
				n++
			}
		}
		b.Datagrams = b.Datagrams[:n]
		b.Events = slices.DeleteFunc(b.Events, func(e format.Event) bool { return e.Time < c.from || e.Time >= c.to })
		if !b.Empty() {
			return nil
		}
	}
}

// cutStats leaves the losses that were told within the span.
func (c *cutter) cutStats(b *format.Batch) {
	n := 0
	for i, s := range b.Stats {
		switch {
		case s.Time < c.from:
		case s.Time < c.to:
			b.Stats[n] = s
			n++
		case c.losses.since[i] < c.to:
			c.unplaced += s.Dropped
		}
	}
	b.Stats = b.Stats[:n]
}
