package replayer

import (
	"net/netip"
	"strings"
	"testing"
)

func TestMapping(t *testing.T) {
	for _, c := range []struct{ mapping, from, to string }{ // to "": the mapping is not about it
		{"239.1.1.1:5000=239.2.1.1:6000", "239.1.1.1:5000", "239.2.1.1:6000"},
		{"239.1.1.1:5000=239.2.1.1:6000", "239.1.1.1:5001", ""},
		{"239.1.1.1:5000=239.2.1.1:6000", "239.1.1.2:5000", ""},
		{"239.1.1.1=239.2.1.1", "239.1.1.1:1", "239.2.1.1:1"},
		{"239.1.1.1=239.2.1.1", "239.1.1.1:65535", "239.2.1.1:65535"},
		{"239.1.1.1:5000=239.2.1.1", "239.1.1.1:5000", "239.2.1.1:5000"},
		{"239.1.1.1:5000=239.2.1.1", "239.1.1.1:5001", ""},
		{"239.1.1.1=239.2.1.1:7", "239.1.1.1:5001", "239.2.1.1:7"},
		{"239.1.0.0/16=239.2.0.0/16", "239.1.200.3:5000", "239.2.200.3:5000"},
		{"239.1.0.0/16=239.2.0.0/16", "239.2.200.3:5000", ""},
		{"239.1.16.0/20=239.9.240.0/20", "239.1.31.255:9", "239.9.255.255:9"}, // the cut is inside a byte
		{"239.1.16.0/20=239.9.240.0/20", "239.1.32.0:9", ""},
		{"224.0.0.0/4=224.0.0.0/4", "239.255.255.255:9", "239.255.255.255:9"},
		{"0.0.0.0/0=0.0.0.0/0", "1.2.3.4:9", "1.2.3.4:9"},
		{"239.1.1.1/32=239.1.1.2/32", "239.1.1.1:9", "239.1.1.2:9"},
		{"239.1.0.0/16=239.2.0.0/16", "[ff3e::1]:9", ""},
		{":5000=:6000", "239.1.1.1:5000", "239.1.1.1:6000"},
		{":5000=:6000", "[ff3e::1]:5000", "[ff3e::1]:6000"},
		{":5000=:6000", "239.1.1.1:6000", ""},
		{"[ff3e::1]:5000=[ff3e::2]:6000", "[ff3e::1]:5000", "[ff3e::2]:6000"},
		{"ff3e::1=ff3e::2", "[ff3e::1]:5000", "[ff3e::2]:5000"},
		{"[ff3e::1]=[ff3e::2]", "[ff3e::1]:5000", "[ff3e::2]:5000"},
		{"ff3e::/32=ff15:1::/32", "[ff3e::8000:1]:5000", "[ff15:1::8000:1]:5000"},
		{"ff3e::/17=ff15:0::/17", "[ff3e:7fff::1]:5000", "[ff15:7fff::1]:5000"},
		{"239.1.1.1=ff3e::1", "239.1.1.1:5000", "[ff3e::1]:5000"},
		{"239.1.1.1:5000=127.0.0.1:5000", "239.1.1.1:5000", "127.0.0.1:5000"},
		// Ranges and wildcards.
		{"239.1.1.1-239.1.1.16=239.2.1.1", "239.1.1.1:9", "239.2.1.1:9"},
		{"239.1.1.1-239.1.1.16=239.2.1.1", "239.1.1.16:9", "239.2.1.16:9"},
		{"239.1.1.1-239.1.1.16=239.2.1.1", "239.1.1.17:9", ""},
		{"239.1.1.1-239.1.1.16=239.2.1.1", "239.1.1.0:9", ""},
		{"239.1.1.250-239.1.2.5=239.2.255.254-239.3.0.9", "239.1.2.5:9", "239.3.0.9:9"}, // carried over
		{"239.1.1.1-239.1.1.16:5000-5003=239.2.1.1:6000-6003", "239.1.1.2:5003", "239.2.1.2:6003"},
		{"239.1.1.1-239.1.1.16:5000-5003=239.2.1.1:6000", "239.1.1.2:5003", "239.2.1.2:6003"},
		{"239.1.1.1-239.1.1.16:5000-5003=239.2.1.1:6000", "239.1.1.2:5004", ""},
		{"ff3e::fffe-ff3e::2:0=ff15::1", "[ff3e::1:0]:9", "[ff15::3]:9"},
		{"[ff3e::1]-[ff3e::9]:5=[ff15::1]:6", "[ff3e::9]:5", "[ff15::9]:6"},
		{"ff3e::1-ff3e::9=ff15::1", "239.1.1.1:5", ""},
		{":5000-5003=:6000-6003", "[ff3e::1]:5002", "[ff3e::1]:6002"},
		{":5000-5003=:65532", "239.1.1.1:5003", "239.1.1.1:65535"},
		{"239.1.1.*=239.2.2.*", "239.1.1.77:9", "239.2.2.77:9"},
		{"239.1.*.*=239.2.*.*", "239.1.8.77:9", "239.2.8.77:9"},
		{"239.1.*.*=239.2.*.*", "239.0.255.255:9", ""},
		{"239.1.1.*:5000=239.2.2.*:6000", "239.1.1.0:5000", "239.2.2.0:6000"},
		{"*=*", "239.1.1.1:5000", "239.1.1.1:5000"},
		{"*=127.0.0.1:7000", "[ff3e::1]:5000", "127.0.0.1:7000"},
		{"*:5000=*:6000", "239.1.1.1:5000", "239.1.1.1:6000"},
		{"239.1.1.1=*", "239.1.1.1:5000", "239.1.1.1:5000"},
		{"239.1.1.1=*", "239.1.1.2:5000", ""},
		{"in2:239.1.1.1=239.2.1.1%eth2,ttl=4,dscp=46", "239.1.1.1:5000", "239.2.1.1:5000"},
	} {
		m, err := ParseMapping(c.mapping)
		if err != nil {
			t.Errorf("%s: %v", c.mapping, err)
			continue
		}
		from := netip.MustParseAddrPort(c.from)
		to, ok := m.Apply(from)
		want := c.to
		if want == "" {
			want = c.from
		}
		if to.String() != want || ok != (c.to != "") {
			t.Errorf("%s: %s becomes %s, %v; want %s", c.mapping, c.from, to, ok, want)
		}
	}
}

func TestMappingRefuses(t *testing.T) {
	for _, c := range []struct{ mapping, want string }{
		{"", "no ="},
		{"239.1.1.1", "no ="},
		{"=", "recorded side"},
		{"=239.1.1.1", "recorded side"},
		{"239.1.1.1=", "new side"},
		{"239.1.1.1=239.1.1.2=239.1.1.3", "more than one ="},
		{"239.1.1.1=:5000", "one side has an address"},
		{":5000=239.1.1.1", "one side has an address"},
		{"239.1.0.0/16=239.2.0.0/24", "same length"},
		{"239.1.0.0/16=239.2.1.1", "same length"},
		{"239.1.0.0/16=ff3e::/16", "IPv4 and IPv6"},
		{"239.1.1.1-239.1.1.4=239.2.1.1-239.2.1.5", "same length"},
		{"239.1.1.1=239.2.1.1-239.2.1.5", "same length"},
		{"239.1.1.4-239.1.1.1=239.2.1.1", "one behind it"},
		{"239.1.1.4-ff3e::1=239.2.1.1", "same IP version"},
		{"239.1.1.1-239.1.1.4=255.255.255.254", "behind the last address"},
		{"ff3e::1-ff3e::4=ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "behind the last address"},
		{"239.1.1.1-239.1.1.4=ff3e::1", "IPv4 and IPv6"},
		{"239.*.1.1=239.2.1.1", "last numbers"},
		{"239.1.*=239.2.*", "last numbers"},
		{"239.1.1.*=239.2.0.200", "same length"},
		{"239.1.1.1:5-4=239.2.1.1", "one behind it"},
		{"239.1.1.1=239.2.1.1:6000-6003", "same length"},
		{":5000-5003=:65533", "behind 65535"},
		{"239.1.1.1=239.2.1.1%", "no interface"},
		{"239.1.1.1=239.2.1.1,ttl=0", "1 to 255"},
		{"239.1.1.1=239.2.1.1,ttl=256", "1 to 255"},
		{"239.1.1.1=239.2.1.1%eth0,dscp=64", "0 to 63"},
		{"239.1.1.1=239.2.1.1%eth0,hops=1", "ttl=N"},
		{"239.1.1.1=239.2.1.1,", "ttl=N"},
		{"in0:239.1.1.1=239.2.1.1", "in1:"},
		{"in:239.1.1.1=239.2.1.1", "in1:"},
		{"inside=239.2.1.1", "in1:"},
		{"239.1.1.0/16=239.2.0.0/16", "write 239.1.0.0/16"},
		{"239.1.0.0/33=239.2.0.0/33", "not a prefix"},
		{"239.1.0.0/16:5000=239.2.0.0/16:5000", "not a prefix"},
		{"239.1.1.1:0=239.1.1.2:1", "not a port"},
		{"239.1.1.1:65536=239.1.1.2:1", "not a port"},
		{"239.1.1.1:+1=239.1.1.2:1", "not a port"},
		{"239.1.1.1:=239.1.1.2:1", "not a port"},
		{"239.1.1=239.1.1.2", "not an IP address"},
		{"feed.example=239.1.1.2", "not looked up"},
		{"[239.1.1.1]:5=239.1.1.2:5", "brackets"},
		{"[ff3e::1=239.1.1.2", "no ]"},
		{"[ff3e::1]5=239.1.1.2", "behind the ]"},
		{"ff02::1%eth0=ff3e::1", "interfaces"},
		{"::ffff:239.1.1.1=239.1.1.2", "plain IPv4"},
		{"::ffff:239.1.0.0/112=::ffff:239.2.0.0/112", "plain IPv4"},
		{"239.1.1.1=0.0.0.0", "not a destination"},
		{strings.Repeat("x", 100_000) + "=239.1.1.2", "not an IP address"},
	} {
		_, err := ParseMapping(c.mapping)
		switch {
		case err == nil:
			t.Errorf("%.80s: no error", c.mapping)
		case !strings.Contains(err.Error(), c.want):
			t.Errorf("%.80s: %q does not say %q", c.mapping, err, c.want)
		case len(err.Error()) > 1000:
			t.Errorf("%.80s: an error of %d bytes", c.mapping, len(err.Error()))
		}
	}
}

func TestFirstMappingWins(t *testing.T) {
	var all []Mapping
	for _, s := range []string{"239.1.1.1:5000=239.9.9.9", "239.1.0.0/16=239.2.0.0/16", ":5000=:6000"} {
		m, err := ParseMapping(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	for from, want := range map[string]string{
		"239.1.1.1:5000": "239.9.9.9:5000", // not 6000: one mapping, once
		"239.1.1.1:5001": "239.2.1.1:5001",
		"239.3.1.1:5000": "239.3.1.1:6000",
		"239.3.1.1:5001": "239.3.1.1:5001",
	} {
		if _, got := findMapping(all, 1, netip.MustParseAddrPort(from)); got.String() != want {
			t.Errorf("%s becomes %s, want %s", from, got, want)
		}
	}
	var zero Mapping
	if to, ok := zero.Apply(netip.MustParseAddrPort("239.1.1.1:5000")); ok || to.String() != "239.1.1.1:5000" {
		t.Errorf("the zero Mapping maps to %s, %v", to, ok)
	}
	if zero.String() != "" {
		t.Errorf("the zero Mapping is %q", zero)
	}
}

func FuzzParseMapping(f *testing.F) {
	for _, s := range []string{
		"239.1.1.1:5000=239.2.1.1:6000", "239.1.1.1=239.2.1.1", "239.1.16.0/20=239.9.240.0/20", ":5000=:6000",
		"[ff3e::1]:5000=[ff3e::2]:6000", "ff3e::/32=ff15::/32", "239.1.1.1=ff3e::1", "0.0.0.0/0=0.0.0.0/0", "=", "[]:1=[]:1", "::=::", ":=:",
		"239.1.1.1-239.1.1.16:5000-5003=239.2.1.1:6000%eth1,ttl=3,dscp=8", "239.1.*.*=239.2.*.*", "in2:*=127.0.0.1:9", "[ff3e::1]-[ff3e::9]:5=[ff15::1]:6",
	} {
		f.Add(s, "239.1.1.1:5000")
		f.Add(s, "[ff3e::1]:5000")
	}
	f.Fuzz(func(t *testing.T, s, at string) {
		m, err := ParseMapping(s)
		if err != nil {
			return
		}
		again, err := ParseMapping(m.String())
		if err != nil || again != m {
			t.Fatalf("%q is written as %q and read back as %q, %v", s, m, again, err)
		}
		from, err := netip.ParseAddrPort(at)
		if err != nil {
			return
		}
		to, ok := m.Apply(from)
		switch {
		case !ok && to != from:
			t.Fatalf("%q is not about %s and changes it to %s", s, from, to)
		case ok && !to.Addr().IsValid() || ok && to.Port() == 0 && from.Port() != 0:
			t.Fatalf("%q maps %s to %s", s, from, to)
		case ok && m.new.IsValid() && to.Addr().Less(m.new):
			t.Fatalf("%q maps %s to %s, before the new side", s, from, to)
		case ok && !m.new.IsValid() && to.Addr() != from.Addr():
			t.Fatalf("%q maps %s to %s: the address changed", s, from, to)
		case ok && m.newPort == 0 && to.Port() != from.Port():
			t.Fatalf("%q maps %s to %s: the port changed", s, from, to)
		}
	})
}
