package mcast

import (
	"net/netip"
	"strings"
	"testing"
)

func TestMatcher(t *testing.T) {
	for _, c := range []struct {
		patterns string // separated by spaces
		src, dst string
		want     bool
	}{
		{"", "10.0.0.1:1", "239.1.1.1:5000", true}, // no pattern, no choice
		{"239.1.1.1", "10.0.0.1:1", "239.1.1.1:5000", true},
		{"239.1.1.1", "10.0.0.1:1", "239.1.1.1:0", true},
		{"239.1.1.1", "10.0.0.1:1", "239.1.1.2:5000", false},
		{"239.1.1.1:5000", "10.0.0.1:1", "239.1.1.1:5000", true},
		{"239.1.1.1:5000", "10.0.0.1:5000", "239.1.1.1:5001", false}, // the destination's port, not the source's
		{"239.1.1.1:5000-5002", "10.0.0.1:1", "239.1.1.1:5002", true},
		{"239.1.1.1:5000-5002", "10.0.0.1:1", "239.1.1.1:5003", false},
		{"239.1.0.0/16", "10.0.0.1:1", "239.1.255.255:9", true},
		{"239.1.0.0/16", "10.0.0.1:1", "239.2.0.0:9", false},
		{"239.1.1.0/25:5000", "10.0.0.1:1", "239.1.1.127:5000", true},
		{"239.1.1.0/25:5000", "10.0.0.1:1", "239.1.1.128:5000", false},
		{"0.0.0.0/0", "10.0.0.1:1", "239.1.1.1:1", true},
		{"0.0.0.0/0", "[::1]:1", "[ff3e::1]:1", false}, // every IPv4 address only
		{"239.1.1.1-239.1.1.16:5000", "10.0.0.1:1", "239.1.1.16:5000", true},
		{"239.1.1.1-239.1.1.16:5000", "10.0.0.1:1", "239.1.1.17:5000", false},
		{":5000", "10.0.0.1:1", "239.1.1.1:5000", true},
		{":5000", "[::1]:1", "[ff3e::1]:5000", true},
		{":5000-5001", "10.0.0.1:1", "239.1.1.1:5002", false},
		{"10.0.0.1@239.1.1.1", "10.0.0.1:1", "239.1.1.1:5000", true},
		{"10.0.0.1@239.1.1.1", "10.0.0.2:1", "239.1.1.1:5000", false},
		{"10.0.0.0/30@", "10.0.0.3:1", "239.1.1.1:5000", true},
		{"10.0.0.0/30@:5000", "10.0.0.3:1", "239.1.1.1:5001", false},
		{"10.0.0.0/30@:5000", "10.0.0.4:1", "239.1.1.1:5000", false},
		{"ff3e::1", "[::1]:1", "[ff3e::1]:5000", true},
		{"[ff3e::1]:5000", "[::1]:1", "[ff3e::1]:5000", true},
		{"[ff3e::1]:5000", "[::1]:1", "[ff3e::1]:5001", false},
		{"ff3e::/32", "[::1]:1", "[ff3e:0:1::]:5", true},
		{"[ff3e::]/32:6", "[::1]:1", "[ff3e:0:1::]:5", false},
		{"[ff3e::1-ff3e::3]:5", "[::1]:1", "[ff3e::3]:5", true},
		{"[ff3e::1]-[ff3e::3]:5", "[::1]:1", "[ff3e::4]:5", false},
		{"2001:db8::1@[ff3e::1]:5", "[2001:db8::1]:1", "[ff3e::1]:5", true},
		{"10.1.1.1:53", "10.0.0.1:1", "10.1.1.1:53", true}, // captures hold unicast too
		{"239.1.1.1 239.1.1.2:7", "10.0.0.1:1", "239.1.1.2:7", true},
		{"239.1.1.1 239.1.1.2:7", "10.0.0.1:1", "239.1.1.2:8", false},
	} {
		m, err := NewMatcher(strings.Fields(c.patterns)...)
		if err != nil {
			t.Errorf("%q: %v", c.patterns, err)
			continue
		}
		if got := m.Match(netip.MustParseAddrPort(c.src), netip.MustParseAddrPort(c.dst)); got != c.want {
			t.Errorf("%q matches %s -> %s: %v, want %v", c.patterns, c.src, c.dst, got, c.want)
		}
	}
}

func TestMatcherRefuses(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "is empty"},
		{"239.1.1.1:0", "port 0"},
		{":", "has no port"},
		{"@239.1.1.1", "has @ without a source"},
		{"x@239.1.1.1", "source: \"x\" is not an IP address"},
		{"10.0.0.1@ff3e::1", "different families"},
		{"239.1.1.1/16", "has bits behind its prefix (want 239.1.0.0/16)"},
		{"239.0.0.0/33", "prefix length \"33\" is not a number from 0 to 32"},
		{"239.0.0.0/", "prefix length"},
		{"ff3e::/129", "from 0 to 128"},
		{"239.1.1.2-239.1.1.1", "reversed"},
		{"239.1.1.2-ff3e::1", "mixes"},
		{"239.1.1.1%eth0", "not selected by interface"},
		{"nonsense", "is not an IP address"},
	} {
		_, err := NewMatcher("239.1.1.1", c.in)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one with %q", c.in, err, c.want)
		}
	}
}

func TestMatcherAllocatesNothing(t *testing.T) {
	m, err := NewMatcher("239.1.0.0/16:5000", "[ff3e::1]:5000", ":7")
	if err != nil {
		t.Fatal(err)
	}
	src, dst := netip.MustParseAddrPort("[2001:db8::1]:9"), netip.MustParseAddrPort("[ff3e::1]:5000")
	matched := false
	if n := testing.AllocsPerRun(100, func() { matched = m.Match(src, dst) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	if !matched {
		t.Error("no match")
	}
	var none *Matcher
	if !none.Match(src, dst) {
		t.Error("no matcher must match everything")
	}
}

func FuzzMatcher(f *testing.F) {
	for _, s := range []string{"239.1.0.0/16:5000", "10.0.0.0/8@", "[ff3e::1]-[ff3e::3]:5", ":7-9", "ff3e::/32"} {
		f.Add(s, "239.1.1.1:5000")
	}
	f.Fuzz(func(t *testing.T, pattern, dst string) {
		m, err := NewMatcher(pattern)
		if err != nil {
			return
		}
		to, err := netip.ParseAddrPort(dst)
		if err != nil {
			return
		}
		r := m.rules[0]
		m.Match(to, to)
		// What a pattern ends in is in it.
		if r.groups.first.IsValid() {
			src := r.sources.last
			if !m.Match(netip.AddrPortFrom(src, 1), netip.AddrPortFrom(r.groups.last, r.lastPort)) {
				t.Fatalf("%q does not match its own end %s", pattern, r.groups.last)
			}
		}
	})
}
