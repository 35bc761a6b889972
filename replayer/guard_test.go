package replayer

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	const free = ""
	for _, c := range []struct{ dst, want string }{
		// Ordinary groups.
		{"239.1.1.1:5000", free},
		{"224.0.31.1:14310", free}, // an exchange's
		{"233.54.12.111:26400", free},
		{"232.1.1.1:5000", free},
		{"225.0.0.1:5000", free}, // reserved, and in every laboratory
		{"224.0.2.1:5000", free},
		{"[ff3e::1]:5000", free},
		{"[ff15::1]:5000", free},
		{"[ff12::1234]:5000", free}, // transient, on the link
		{"[ff0e::1:1]:5000", free},
		{"[ff0e::200]:5000", free},
		// Control groups at both ends of their ranges.
		{"224.0.0.0:1", "control"},
		{"224.0.0.1:1", "control"},
		{"224.0.0.18:112", "control"}, // VRRP, which udpreplay sends
		{"224.0.0.251:5353", "control"},
		{"224.0.0.255:1", "control"},
		{"224.0.1.0:1", "control"},
		{"224.0.1.1:123", "control"},
		{"224.0.1.128:1", "control"},
		{"224.0.1.129:319", "precision time"},
		{"224.0.1.132:320", "precision time"},
		{"224.0.1.133:1", "control"},
		{"224.0.1.255:1", "control"},
		{"224.0.0.107:319", "precision time"},
		{"[ff02::1]:1", "control"},
		{"[ff02::fb]:5353", "control"},
		{"[ff02::1:ff00:1]:1", "control"},
		{"[ff02::6b]:319", "precision time"},
		{"[ff0e::181]:319", "precision time"},
		{"[ff01::1]:1", "ends at the host"},
		{"[ff11::1]:1", "ends at the host"},
		{"[ff05::2]:1", "well-known"},
		{"[ff05::fb]:5353", "well-known"},
		{"[ff0e::101]:123", "well-known"},
		{"[ff0e::1ff]:1", "well-known"},
		{"[ff05::1:3]:547", "well-known"},
		// Everything that is not multicast.
		{"255.255.255.255:5000", "broadcast"},
		{"10.1.2.255:5000", "broadcast address of 10.1.2.0/24"},
		{"10.1.3.255:5000", "unicast"},
		{"192.168.7.3:5000", "unicast"}, // of a /31, which has no broadcast
		{"10.1.2.3:5000", "unicast"},
		{"127.0.0.1:5000", "unicast"},
		{"[::1]:5000", "unicast"},
		{"[fe80::1]:5000", "unicast"},
		{"[2001:db8::1]:5000", "unicast"},
		{"[::ffff:10.0.0.1]:5000", "unicast"},
		{"0.0.0.0:5000", "no destination"},
		{"[::]:5000", "no destination"},
	} {
		g, err := newGuard(&Options{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		g.local = []netip.Prefix{netip.MustParsePrefix("10.1.2.9/24"), netip.MustParsePrefix("192.168.7.2/31")}
		dst := netip.MustParseAddrPort(c.dst)
		e := g.check(netip.AddrPort{}, dst, dst)
		switch {
		case c.want == free && e != nil:
			t.Errorf("%s: %v", c.dst, e)
		case c.want != free && e == nil:
			t.Errorf("%s may be sent to, want refused: %s", c.dst, c.want)
		case c.want != free && (!strings.Contains(e.Error(), c.want) || !strings.Contains(e.Error(), c.dst)):
			t.Errorf("%s: %q does not say %q", c.dst, e, c.want)
		}
	}
}

func TestGuardAllows(t *testing.T) {
	src := netip.MustParseAddrPort("10.0.0.1:4000")
	for _, c := range []struct {
		allow []string
		dst   string
		want  bool
	}{
		{nil, "127.0.0.1:5000", false},
		{[]string{}, "127.0.0.1:5000", false}, // an empty list allows nothing
		{[]string{"127.0.0.1"}, "127.0.0.1:5000", true},
		{[]string{"127.0.0.1:5000"}, "127.0.0.1:5001", false},
		{[]string{"127.0.0.0/8"}, "127.255.0.1:5000", true},
		{[]string{"127.0.0.0/8"}, "128.0.0.1:5000", false},
		{[]string{"10.9.9.9", "::1"}, "[::1]:5000", true},
		{[]string{"224.0.0.18"}, "224.0.0.18:112", true},
		{[]string{"224.0.0.18"}, "224.0.0.19:112", false},
		{[]string{"255.255.255.255"}, "255.255.255.255:5000", true},
		{[]string{"0.0.0.0/0"}, "0.0.0.0:5000", false}, // never
		{[]string{"10.0.0.2@127.0.0.1"}, "127.0.0.1:5000", false},
		{[]string{"239.1.1.1"}, "239.2.2.2:5000", true}, // a list of exceptions, not of all that may be
	} {
		g, err := newGuard(&Options{Allow: c.allow}, nil)
		if err != nil {
			t.Fatal(err)
		}
		dst := netip.MustParseAddrPort(c.dst)
		if e := g.check(src, dst, dst); (e == nil) != c.want {
			t.Errorf("%s with %q allowed: %v", c.dst, c.allow, e)
		}
	}
	if _, err := newGuard(&Options{Allow: []string{"nonsense"}}, nil); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a pattern that is none: %v", err)
	}
}

func TestPlan(t *testing.T) {
	streams := []Stream{
		{Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("239.1.1.1:5000"), Datagrams: 3, Bytes: 30},
		{Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("239.1.1.2:5000"), Datagrams: 4},
		{Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("224.0.0.18:112")},
		{Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("239.5.1.1:5000")},
	}
	out, err := ParseMapping("239.1.1.1=239.2.2.2")
	if err != nil {
		t.Fatal(err)
	}
	home, err := ParseMapping("239.5.1.1=127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Map: []Mapping{out, home}, Only: []string{"239.1.1.1", "224.0.0.0/24", "239.5.0.0/16"}}
	planned, err := Plan(streams, o)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		to       string
		selected bool
		refused  bool
	}{
		{"239.2.2.2:5000", true, false},
		{"239.1.1.2:5000", false, false},
		{"224.0.0.18:112", true, true},
		{"127.0.0.1:5000", true, true},
	} {
		p := planned[i]
		if p.Stream != streams[i] || p.To.String() != want.to || p.Selected != want.selected || (p.Refused != nil) != want.refused {
			t.Errorf("stream %d: %+v, want %+v", i, p, want)
		}
	}
	var refused *GuardError
	if err := Check(streams, o); !errors.As(err, &refused) || refused.Destination.String() != "224.0.0.18:112" {
		t.Errorf("Check: %v", err)
	}
	if text := planned[3].Refused.Error(); !strings.Contains(text, "recorded for 239.5.1.1:5000") {
		t.Errorf("%q does not name the recorded destination", text)
	}
	o.Allow = []string{"127.0.0.1", "224.0.0.18"}
	if err := Check(streams, o); err != nil {
		t.Errorf("Check with both allowed: %v", err)
	}
	// What is not selected is not sent, so it is not refused.
	o.Allow, o.Only = nil, []string{"239.1.1.1"}
	if err := Check(streams, o); err != nil {
		t.Errorf("Check of one group: %v", err)
	}
	for _, bad := range []Options{{Only: []string{"nonsense"}}, {Allow: []string{"nonsense"}}, {Interface: "no-such-interface"}} {
		if _, err := Plan(streams, bad); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}
