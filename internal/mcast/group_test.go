package mcast

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string // as String writes them
	}{
		{"239.1.1.1:5000", []string{"239.1.1.1:5000"}},
		{"10.0.0.1@232.1.1.1:5000", []string{"10.0.0.1@232.1.1.1:5000"}},
		{"239.1.1.1:5000%eth0", []string{"239.1.1.1:5000%eth0"}},
		{"239.1.1.1:5000%10.0.0.5", []string{"239.1.1.1:5000%10.0.0.5"}}, // interface by own address
		{"239.1.1.1:5000%eth0:1.200", []string{"239.1.1.1:5000%eth0:1.200"}},
		{"224.0.0.0:1", []string{"224.0.0.0:1"}},
		{"239.255.255.255:65535", []string{"239.255.255.255:65535"}},
		{"239.1.1.1-239.1.1.3:5000", []string{"239.1.1.1:5000", "239.1.1.2:5000", "239.1.1.3:5000"}},
		{"239.1.1.1:5000-5001", []string{"239.1.1.1:5000", "239.1.1.1:5001"}},
		{"10.0.0.1@239.1.1.1-239.1.1.2:7-8%v0", []string{
			"10.0.0.1@239.1.1.1:7%v0", "10.0.0.1@239.1.1.1:8%v0", "10.0.0.1@239.1.1.2:7%v0", "10.0.0.1@239.1.1.2:8%v0"}},
		{"239.1.0.255-239.1.1.0:1", []string{"239.1.0.255:1", "239.1.1.0:1"}},        // across an octet
		{"239.1.1.1-239.1.1.1:5-5", []string{"239.1.1.1:5"}},                         // a range of one
		{"239.255.255.255-239.255.255.255:65535", []string{"239.255.255.255:65535"}}, // the end of the space
		{"239.1.1.1:65534-65535", []string{"239.1.1.1:65534", "239.1.1.1:65535"}},
		{"[ff3e::1]:5000%eth0", []string{"[ff3e::1]:5000%eth0"}},
		{"[ff02::1%eth0]:5000", []string{"[ff02::1]:5000%eth0"}},
		{"[ff02::1%eth0]:5000%eth0", []string{"[ff02::1]:5000%eth0"}},
		{"[ff3e::ffff:ffff:ffff:ffff]-[ff3e::1:0:0:0:0]:5", []string{"[ff3e::ffff:ffff:ffff:ffff]:5", "[ff3e:0:0:1::]:5"}}, // across the halves
		{"[ff3e::1-ff3e::2]:5", []string{"[ff3e::1]:5", "[ff3e::2]:5"}},
		{"2001:db8::1@[ff3e::1]:5000", []string{"2001:db8::1@[ff3e::1]:5000"}},
		{"10.0.0.1,10.0.0.2@232.1.1.1-232.1.1.2:5000%v0", []string{
			"10.0.0.1@232.1.1.1:5000%v0", "10.0.0.2@232.1.1.1:5000%v0", "10.0.0.1@232.1.1.2:5000%v0", "10.0.0.2@232.1.1.2:5000%v0"}},
		{"[2001:db8::2],2001:db8::1@[ff3e::1]:5000", []string{"2001:db8::2@[ff3e::1]:5000", "2001:db8::1@[ff3e::1]:5000"}}, // as written
		{"udp://0.0.0.0:5000", []string{"0.0.0.0:5000"}},
		{"0.0.0.0:5000-5001%eth0", []string{"0.0.0.0:5000%eth0", "0.0.0.0:5001%eth0"}},
		{"192.168.1.5:5000", []string{"192.168.1.5:5000"}},
		{"255.255.255.255:5000", []string{"255.255.255.255:5000"}},
		{"[::]:5000", []string{"[::]:5000"}},
		{"[fe80::1%eth0]:5000", []string{"[fe80::1]:5000%eth0"}},
		{"[2001:db8::1]@[ff3e::1]:5000", []string{"2001:db8::1@[ff3e::1]:5000"}},
		{"udp://239.1.1.1:5000", []string{"239.1.1.1:5000"}},
		{"udp://@239.1.1.1:5000", []string{"239.1.1.1:5000"}}, // VLC
		{"rtp://@239.1.1.1:5000/", []string{"239.1.1.1:5000"}},
		{"UDP://10.0.0.1@239.1.1.1:5000?iface=eth0", []string{"10.0.0.1@239.1.1.1:5000%eth0"}},
		{"udp://[ff3e::1]:5000?iface=en%70", []string{"[ff3e::1]:5000%enp"}}, // an escaped query
		{"udp://239.1.1.1:5000%eth0", []string{"239.1.1.1:5000%eth0"}},
	} {
		got, err := Parse(c.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", c.in, err)
			continue
		}
		var s []string
		for _, g := range got {
			s = append(s, g.String())
		}
		if strings.Join(s, " ") != strings.Join(c.want, " ") {
			t.Errorf("Parse(%q) = %v, want %v", c.in, s, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "is empty (want group:port"},
		{"  ", "is empty"},
		{"239.1.1.1", "has no port (want 239.1.1.1:5000)"},
		{"[ff3e::1]", "has no port (want [ff3e::1]:5000)"},
		{"239.1.1.1:", "has no port behind the colon"},
		{"239.1.1.1:0", "port 0 cannot be received on"},
		{"239.1.1.1:65536", `port "65536" is not a number from 1 to 65535`},
		{"239.1.1.1:http", `port "http"`},
		{"239.1.1.1:+5", `port "+5"`},
		{"239.1.1.1:05000", `port "05000"`}, // octal to some
		{"239.1.1.1:-1", "has no port"},     // an empty first port
		{"0.1.1.1:5000", "0.1.1.1 is not a multicast address (want 224.0.0.0 to 239.255.255.255)"},
		{"10.1.1.1", "has no port (want 10.1.1.1:5000)"},
		{"10.1.1.1-10.1.1.2:5000", "10.1.1.1 is not a multicast address"}, // a machine has no range of addresses
		{"[2001:db8::1-2001:db8::2]:5000", "2001:db8::1 is not a multicast address (want ff00::/8)"},
		{"10.0.0.1@192.168.1.5:5000", "only groups are joined by source (want 192.168.1.5:5000)"},
		{"10.0.0.1,@232.1.1.1:5000", "has @ without a source"},
		{"10.0.0.1,10.0.0.1@232.1.1.1:5000", "names source 10.0.0.1 twice"},
		{"10.0.0.1, 10.0.0.2@232.1.1.1:5000", `source " 10.0.0.2" is not an IP address`},
		{strings.Repeat("10.0.0.1,", 4096) + "10.0.0.2@232.1.1.1:5000", "has 4097 sources, the limit is 4096"},
		{"10.0.0.1,10.0.0.2@232.1.0.0-232.1.255.255:5000", "stands for 65536 addresses of 1 ports from 2 sources"},
		{"udp://@:5000", "has no address"}, // some players mean every address by it
		{"ff3e::1:5000", "needs brackets (want [ff3e::1]:5000)"},
		{"[239.1.1.1]:5000", "has brackets around IPv4 (want 239.1.1.1:5000)"},
		{"[ff3e::1:5000", "has [ without ]"},
		{"[ff3e::1]5000", `has "5000" where :port was expected`},
		{"[ff02::1%]:5000", "% without an interface"},
		{"[ff02::1%eth0]:5000%eth1", "names two interfaces"},
		{"239.1.1.1:5000%", "% without an interface"},
		{"239.1.1.1:5000%a/b", `interface "a/b" cannot exist`},
		{"239.1.1.1:5000%a b", "cannot exist"},
		{"239.1.1.1:5000%" + strings.Repeat("x", 65), "cannot exist"},
		{"[::ffff:239.1.1.1]:5000", "is IPv4 dressed as IPv6 (want 239.1.1.1)"},
		{"239.1.1:5000", `"239.1.1" is not an IP address`},
		{"feed-a:5000", "is not an IP address"}, // a name; never looked up
		{"239.1.1.1-[ff3e::1]:5000", "needs brackets"},
		{"[ff3e::1-239.1.1.1]:5000", "mixes IPv4 and IPv6"},
		{"239.1.1.9-239.1.1.1:5000", "has its range reversed (want 239.1.1.1-239.1.1.9)"},
		{"239.1.1.1-16:5000", "want a whole address, such as 239.1.1.1-239.1.1.16:5000"},
		{"239.1.1.1-:5000", "has no address"},
		{"239.1.1.1-239.1.1.2-239.1.1.3:5000", "is not an IP address"},
		{"239.255.255.0-240.0.0.1:5000", "240.0.0.1 is not a multicast address"},
		{"239.1.1.1:5001-5000", "has its ports reversed (want 5000-5001)"},
		{"239.1.1.1:5000-", "has no port behind"},
		{"239.0.0.0-239.1.0.0:5000", "stands for 65537 addresses of 1 ports, the limit is 65536 groups"},
		{"239.0.0.0-239.0.255.255:5000-5001", "stands for 65536 addresses of 2 ports"},
		{"[ff3e::-ff3e:1::]:5000", "more than 2^64"},
		{"[ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:1", "more than 2^64"},
		{"@239.1.1.1:5000", "has @ without a source"},
		{"x@239.1.1.1:5000", `source "x" is not an IP address`},
		{"239.1.1.2@239.1.1.1:5000", "source 239.1.1.2 is a multicast address"},
		{"0.0.0.0@239.1.1.1:5000", "is no sender's address"},
		{"255.255.255.255@239.1.1.1:5000", "is no sender's address"},
		{"::1@239.1.1.1:5000", "source ::1 and group 239.1.1.1 are of different families"},
		{"10.0.0.1@[ff3e::1]:5000", "are of different families"},
		{"fe80::1%eth0@[ff3e::1]:5000", "want the interface at the end, as in fe80::1@[ff3e::1]:5000%eth0"},
		{"10.0.0.1@10.0.0.2@239.1.1.1:5000", "is not an IP address"},
		{"http://239.1.1.1:5000", `scheme "http" is not known (want udp:// or rtp://)`},
		{"udp://239.1.1.1:5000?ttl=3", `parameter "ttl" is not known (want ?iface=NAME)`},
		{"udp://239.1.1.1:5000?iface=", "iface is empty"},
		{"udp://239.1.1.1:5000?iface=a&iface=b", "gives iface 2 times"},
		{"udp://239.1.1.1:5000%eth0?iface=eth1", "names two interfaces"},
		{"udp://239.1.1.1:5000/path", `port "5000/path"`},
		{"udp://", "has no address"},
	} {
		got, err := Parse(c.in)
		if err == nil {
			t.Errorf("Parse(%q) = %d groups, want an error with %q", c.in, len(got), c.want)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%q): %v\nwant it to say %q", c.in, err, c.want)
		}
	}
}

func TestParseLimit(t *testing.T) {
	for _, c := range []string{"239.1.0.0-239.1.255.255:5000", "239.1.1.1:1-65535", "239.1.0.0-239.1.0.255:5000-5255"} {
		got, err := Parse(c)
		if err != nil {
			t.Errorf("Parse(%q): %v", c, err)
			continue
		}
		seen := map[netip.AddrPort]bool{}
		for _, g := range got {
			seen[g.Group] = true
		}
		if len(seen) != len(got) || len(got) < MaxGroups-1 {
			t.Errorf("Parse(%q): %d groups, %d different", c, len(got), len(seen))
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"239.1.1.1:5000", "10.0.0.1@239.1.1.1-239.1.1.16:5000-5003%eth0", "[ff3e::1]-[ff3e::3]:5000%eth0",
		"udp://2001:db8::1@[ff3e::1]:5000?iface=eth0", "1.1.1.1,2.2.2.2@232.1.1.1:5", "udp://0.0.0.0:5000", "[::]:1", "rtp://@239.1.1.1:5000/", "[ff02::1%eth0]:5000", "@", "%", ":", "[", "]-[", "://?",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		groups, err := Parse(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Fatalf("Parse(%q): the error is not one clean line: %q", s, err)
			}
			return
		}
		if len(groups) == 0 || len(groups) > MaxGroups {
			t.Fatalf("Parse(%q): %d groups", s, len(groups))
		}
		for _, g := range groups {
			if a := g.Group.Addr(); !a.IsMulticast() && (len(groups) > 1 && groups[0].Group.Addr() != a || g.Source.IsValid()) || g.Group.Port() == 0 || g.Group.Addr().Zone() != "" || g.Group.Addr().Is4In6() {
				t.Fatalf("Parse(%q): group %v", s, g)
			}
			again, err := Parse(g.String())
			if err != nil || len(again) != 1 || again[0] != g {
				t.Fatalf("Parse(%q) gave %v, which reads back as %v, %v", s, g, again, err)
			}
		}
	})
}
