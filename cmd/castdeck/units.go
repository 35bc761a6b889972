package main

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// sizeValue is a flag in bytes. The unit is required: 64 could be bytes or
// megabytes, and a wrong guess loses data.
type sizeValue struct {
	bytes    int64
	min, max int64
}

var sizeUnits = map[string]int64{
	"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}

func parseSize(s string) (int64, error) {
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i < 0 {
		return 0, fmt.Errorf("%q has no unit; write B, kB, MB, GB, KiB, MiB or GiB, such as 64MiB", s)
	}
	unit, ok := sizeUnits[strings.ToLower(strings.TrimSpace(s[i:]))]
	n, good := new(big.Rat).SetString(s[:i])
	if !ok || !good || i == 0 {
		return 0, fmt.Errorf("%q is no size; write a number and B, kB, MB, GB, KiB, MiB or GiB, such as 64MiB", s)
	}
	n.Mul(n, new(big.Rat).SetInt64(unit))
	q := new(big.Int).Quo(n.Num(), n.Denom())
	if !q.IsInt64() {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return q.Int64(), nil
}

func (v *sizeValue) Set(s string) error {
	n, err := parseSize(s)
	if err != nil {
		return err
	}
	if n < v.min || n > v.max {
		return fmt.Errorf("%s is outside %s to %s", s, formatSize(v.min), formatSize(v.max))
	}
	v.bytes = n
	return nil
}

func (v *sizeValue) String() string { return formatSize(v.bytes) }
func (*sizeValue) Type() string     { return "SIZE" }

// formatSize is the shortest exact form that parseSize reads.
func formatSize(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// durationValue is a flag with a duration within bounds.
type durationValue struct {
	time.Duration
	min, max time.Duration
}

func (v *durationValue) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no duration; write a number and ms, s, m or h, such as 10s", s)
	}
	if d < v.min || d > v.max {
		return fmt.Errorf("%s is outside %s to %s", s, v.min, v.max)
	}
	v.Duration = d
	return nil
}

func (v *durationValue) String() string {
	if v.Duration == 0 {
		return ""
	}
	return v.Duration.String()
}
func (*durationValue) Type() string { return "DURATION" }

const forever = time.Duration(math.MaxInt64)

// count writes a number of things: 13,022.
func count[T int | int64 | uint64 | uint32](n T) string {
	if uint64(n) > math.MaxInt64 {
		return strconv.FormatUint(uint64(n), 10)
	}
	return humanize.Comma(int64(n))
}

// plural writes a number of things with their name.
func plural[T int | int64 | uint64 | uint32](n T, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + one + "s"
}

// size writes bytes for people: 4.1 MB.
func size[T int | int64 | uint64](n T) string { return humanize.Bytes(uint64(max(n, 0))) }

// rate writes a number per second for people: 100 k/s.
func rate(n uint64, d time.Duration) string {
	if d <= 0 {
		return "-"
	}
	v, prefix := humanize.ComputeSI(float64(n) / d.Seconds())
	return humanize.FtoaWithDigits(v, 1) + " " + prefix + "/s"
}

// bitrate writes payload bits per second for people: 12.3 Mbit/s.
func bitrate(bytes uint64, d time.Duration) string {
	if d <= 0 {
		return "-"
	}
	v, prefix := humanize.ComputeSI(float64(bytes) * 8 / d.Seconds())
	return humanize.FtoaWithDigits(v, 1) + " " + prefix + "bit/s"
}

// nanos writes a short time for people: 3.4 us.
func nanos(ns int64) string {
	switch {
	case ns < 1e3:
		return fmt.Sprintf("%d ns", ns)
	case ns < 1e6:
		return fmt.Sprintf("%.1f us", float64(ns)/1e3)
	case ns < 1e9:
		return fmt.Sprintf("%.1f ms", float64(ns)/1e6)
	}
	return fmt.Sprintf("%.2f s", float64(ns)/1e9)
}

// stamp writes a time to the nanosecond, UTC.
func stamp(ns int64) string {
	return time.Unix(0, ns).UTC().Format("2006-01-02 15:04:05.000000000")
}

// countValue is a flag with a number of things; 0 is no limit.
type countValue uint64

func (v *countValue) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return fmt.Errorf("%q is no number of datagrams; write a whole number, such as 1000", s)
	}
	*v = countValue(n)
	return nil
}

func (v *countValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(*v), 10)
}
func (*countValue) Type() string { return "N" }
