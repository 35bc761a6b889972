package main

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"unicode"
)

// FuzzUnits: sizes, durations, counts, rates and speeds.
func FuzzUnits(f *testing.F) {
	for _, s := range []string{"64MiB", "1.5kB", "0B", "99999999999TB", "1e9B", "64", "10s", "-1s", "1000", "50kpps", "1Gbit", "1bps", "2x", "max", "NaN", "0.01", "1e400"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseSize(s); err == nil {
			if again, err := parseSize(formatSize(n)); n < 0 || err != nil || again != n {
				t.Errorf("%q is %d, which is %s, which is %d, %v", s, n, formatSize(n), again, err)
			}
		}
		size := sizeValue{min: 1 << 10, max: 1 << 20}
		if size.Set(s) == nil && (size.bytes < size.min || size.bytes > size.max) {
			t.Errorf("%q is %d bytes", s, size.bytes)
		}
		d := durationValue{min: 1, max: 1000}
		if d.Set(s) == nil && (d.Duration < d.min || d.Duration > d.max) {
			t.Errorf("%q is %v", s, d.Duration)
		}
		var c, again countValue
		if c.Set(s) == nil && c != 0 && (again.Set(c.String()) != nil || again != c) {
			t.Errorf("%q is %d, which is read as %d", s, c, again)
		}
		r := rateValue{units: ppsUnits, example: "50kpps", max: 1e9}
		if r.Set(s) == nil && !(r.value > 0 && r.value <= r.max) {
			t.Errorf("%q is %g per second", s, r.value)
		}
		var v speedValue
		if v.Set(s) == nil && !v.max && !(v.factor >= 0.01 && v.factor <= 1000) || math.IsNaN(v.factor) {
			t.Errorf("%q is %g times", s, v.factor)
		}
	})
}

// TestHarmlessText: what a terminal would obey goes through neither form of output,
// and JSON loses none of it.
func TestHarmlessText(t *testing.T) {
	const nasty = "a\x1b[2J\u009b31m\u202e\u2066\u200f\u2028\x7f\x00\r\nz\u00e9\u20ac\U000e0001"
	for _, r := range oneLine(nasty) {
		if !unicode.IsPrint(r) {
			t.Errorf("oneLine leaves %q", r)
		}
	}
	var out bytes.Buffer
	if err := printJSON(&out, []string{nasty}); err != nil {
		t.Fatal(err)
	}
	for _, r := range strings.TrimSuffix(out.String(), "\n") {
		if !unicode.IsPrint(r) {
			t.Errorf("printJSON leaves %q", r)
		}
	}
	var back []string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back[0] != nasty {
		t.Errorf("%q reads back as %q, %v", nasty, back, err)
	}
}

// TestCSVFormulas: a spreadsheet computes no name of an interface.
func TestCSVFormulas(t *testing.T) {
	for name, want := range map[string]string{
		"eth0": "eth0", "=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(A1)": "'@SUM(A1)", "=a,b": "\"'=a,b\"", "a=1": "a=1",
	} {
		if got := string(quoteField(csvText, name)); got != want {
			t.Errorf("%q is written %s, want %s", name, got, want)
		}
		if got := string(quoteField(ndjson, name)); got != "\""+name+"\"" {
			t.Errorf("%q is written %s", name, got)
		}
	}
}
