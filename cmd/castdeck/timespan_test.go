package main

import (
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"castdeck/format"
)

func TestParseTime(t *testing.T) {
	at := func(s string) int64 {
		x, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return x.UnixNano()
	}
	for _, c := range []struct {
		text     string
		ns       int64
		relative bool
	}{
		{"2023-11-14T22:13:20Z", 1_700_000_000_000_000_000, false},
		{"2023-11-14T22:13:20.000000001Z", 1_700_000_000_000_000_001, false},
		{"2023-11-14T23:13:20+01:00", 1_700_000_000_000_000_000, false},
		{"2023-11-14 22:13:20.5", 1_700_000_000_500_000_000, false}, // as dump prints it
		{"2023-11-14 22:13:20-00:30", at("2023-11-14T22:43:20Z"), false},
		{"1969-12-31T23:59:59Z", -1_000_000_000, false},
		{"0", 0, false},
		{"1700000000", 1_700_000_000_000_000_000, false},
		{"1700000000.000000001", 1_700_000_000_000_000_001, false},
		{"1700000000.5", 1_700_000_000_500_000_000, false},
		{"1700000000123456789", 1_700_000_000_123_456_789, false},
		{"9223372036854775807", math.MaxInt64, false},
		{"+0s", 0, true},
		{"+1.5s", 1_500_000_000, true},
		{"+1h2m", int64(62 * time.Minute), true},
	} {
		v, err := parseTime(c.text)
		if err != nil || v.ns != c.ns || v.relative != c.relative || v.String() != c.text {
			t.Errorf("%s: %+v, %v; want %d", c.text, v, err, c.ns)
		}
	}
	for text, why := range map[string]string{
		"":                              "is no time",
		"now":                           "is no time",
		".":                             "is no time",
		"1.":                            "is no time",
		".5":                            "is no time",
		"1.2.3":                         "is no time",
		"1.0000000001":                  "is no time",
		"99999999999":                   "is no time", // 5138, behind the end of int64
		"9223372036854775808":           "is no time",
		"1700000000000":                 "seconds or nanoseconds", // milliseconds
		"1700000000000000":              "seconds or nanoseconds", // microseconds
		"-5":                            "is no time",
		"+":                             "no time from the start",
		"+5":                            "no time from the start", // of what?
		"+-5s":                          "no time from the start",
		"++5s":                          "no time from the start",
		"2023-11-14":                    "is no time",
		"2023-11-14T22:13:20":           "is no time", // in which zone?
		"2023-13-14T22:13:20Z":          "is no time",
		"9999-01-01T00:00:00Z":          "from 1678 to 2261",
		"0001-01-01T00:00:00Z":          "from 1678 to 2261",
		"+9223372036854775807h":         "no time from the start",
		"99999999999999999999999999999": "is no time",
	} {
		if v, err := parseTime(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %+v, %v; want %q", text, v, err, why)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"", "+1s", "1700000000.5", "1700000000123456789", "2023-11-14T22:13:20Z", "2023-11-14 22:13:20.5", "17000000000000", "-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseTime(s)
		if err != nil {
			return
		}
		if v.relative != (s[0] == '+') || v.relative && v.ns < 0 {
			t.Fatalf("%q: %+v", s, v)
		}
		for _, start := range []int64{math.MinInt64, -1, 0, math.MaxInt64} {
			if at := v.at(start); v.relative && at < start {
				t.Fatalf("%q from %d is %d", s, start, at)
			}
		}
		if v.relative {
			return
		}
		// What is printed of a time, and its nanoseconds, are read as the same time.
		again := []string{stamp(v.ns), time.Unix(0, v.ns).UTC().Format(time.RFC3339Nano)}
		for _, text := range again {
			if w, err := parseTime(text); err != nil || w.ns != v.ns {
				t.Fatalf("%q is %d, printed as %s, which is %d, %v", s, v.ns, text, w.ns, err)
			}
		}
	})
}

// batches is a source of batches with datagrams of these times.
type batches [][]int64

func (s *batches) ReadBatch(b *format.Batch) error {
	b.Reset()
	if len(*s) == 0 {
		return io.EOF
	}
	for _, t := range (*s)[0] {
		b.Datagrams = append(b.Datagrams, format.Datagram{Time: t})
	}
	b.Stats = append(b.Stats, format.InterfaceStats{})
	*s = (*s)[1:]
	return nil
}

func TestCutter(t *testing.T) {
	span := func(start, end string) *timeSpan {
		s := &timeSpan{}
		for v, text := range map[*timeValue]string{&s.start: start, &s.end: end} {
			if text == "" {
				continue
			}
			if err := v.Set(text); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	for _, c := range []struct {
		why        string
		start, end string
		want       []int64
	}{
		{"start is in, end is out", "0.000000003", "0.000000006", []int64{3, 5, 4}},
		{"from the first datagram, which is not the earliest", "+1ns", "+3ns", []int64{3, 4}},
		{"mixed", "+4ns", "0.000000008", []int64{6, 7}},
		{"only start", "0.000000007", "", []int64{7, 8}},
		{"only end", "", "+1ns", []int64{2, 1}},
		{"nothing", "+1h", "", nil},
	} {
		s := span(c.start, c.end)
		src := batches{{2, 3}, {}, {5, 1, 4}, {6, 7, 8}}
		cut := &cutter{src: &src, span: s}
		var got []int64
		var b format.Batch
		var err error
		for err = cut.ReadBatch(&b); err == nil; err = cut.ReadBatch(&b) {
			if len(b.Datagrams) == 0 || len(b.Stats) > 0 {
				t.Fatalf("%s: a batch of %d datagrams and %d statistics", c.why, len(b.Datagrams), len(b.Stats))
			}
			for _, d := range b.Datagrams {
				got = append(got, d.Time)
			}
		}
		if !errors.Is(err, io.EOF) || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.why, got, err, c.want)
		}
	}
	for _, c := range [][2]string{{"5", "5"}, {"6", "5"}, {"+2s", "+1s"}} {
		if err := span(c[0], c[1]).check(); err == nil {
			t.Errorf("--start %s --end %s is taken", c[0], c[1])
		}
	}
	if err := span("+5s", "1").check(); err != nil {
		t.Errorf("a span that may or may not be empty: %v", err)
	}
}
