package report

import (
	"fmt"
	"math"
	"strconv"
)

// comma writes a whole number in groups of three.
func comma(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural writes a number of things with their name.
func plural(n uint64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return comma(n) + " " + one + "s"
}

// si writes a number with a unit and three digits: 18.5 Mbit/s.
func si(v float64, unit string) string {
	prefix := ""
	for _, p := range []string{"k", "M", "G", "T"} {
		if v < 999.5 {
			break
		}
		v, prefix = v/1000, p
	}
	digits := 0
	if prefix != "" || v != math.Trunc(v) {
		digits = min(max(2-int(math.Floor(math.Log10(max(v, 1)))), 0), 2)
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + " " + prefix + unit
}

// nanos writes a time: 3.4 us, 2 h 3 min.
func nanos(ns int64) string {
	if ns < 0 {
		if ns == math.MinInt64 {
			ns++
		}
		return "-" + nanos(-ns)
	}
	switch {
	case ns < 1e3:
		return fmt.Sprintf("%d ns", ns)
	case ns < 1e6:
		return fmt.Sprintf("%.1f us", float64(ns)/1e3)
	case ns < 1e9:
		return fmt.Sprintf("%.1f ms", float64(ns)/1e6)
	case ns < 120e9:
		return fmt.Sprintf("%.2f s", float64(ns)/1e9)
	case ns < 7200e9:
		return fmt.Sprintf("%d min %d s", ns/60e9, ns/1e9%60)
	}
	return fmt.Sprintf("%d h %d min", ns/3600e9, ns/60e9%60)
}

// perSecond is a number over a time in ns; 0 over none.
func perSecond(n uint64, ns int64) float64 {
	if ns <= 0 {
		return 0
	}
	return float64(n) / float64(ns) * 1e9
}
