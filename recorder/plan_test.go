package recorder

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func sub(group, source, iface string) Subscription {
	s := Subscription{Group: netip.MustParseAddrPort(group), Interface: iface}
	if source != "" {
		s.Source = netip.MustParseAddr(source)
	}
	return s
}

// many are n groups on one port.
func many(n int, port uint16, iface string) (subs []Subscription) {
	for i := range n {
		a := netip.AddrFrom4([4]byte{239, 7, byte(i >> 8), byte(i)})
		subs = append(subs, Subscription{Group: netip.AddrPortFrom(a, port), Interface: iface})
	}
	return subs
}

func TestPlan(t *testing.T) {
	sizes := func(n, size int) (want []int) {
		for range n {
			want = append(want, size)
		}
		return want
	}
	var ports []Subscription
	for i := range 100 {
		ports = append(ports, sub(fmt.Sprintf("239.1.1.1:%d", 5000+i), "", "eth0"))
	}
	for _, c := range []struct {
		name  string
		subs  []Subscription
		limit int
		want  []int // subscriptions in each socket
	}{
		{"one", many(1, 5000, ""), 20, sizes(1, 1)},
		{"few have a socket each", many(64, 5000, "eth0"), 20, sizes(64, 1)},
		{"one more shares, by the sysctl", many(65, 5000, "eth0"), 20, []int{20, 20, 20, 5}},
		{"and by our own limit", many(300, 5000, "eth0"), 4096, []int{128, 128, 44}},
		{"a limit of nothing still makes sockets", many(65, 5000, "eth0"), 0, sizes(65, 1)},
		{"ports do not mix", ports, 4096, sizes(100, 1)},
		{"interfaces do not mix", append(many(40, 5000, "a"), many(40, 5000, "b")...), 4096, []int{40, 40}},
		{"sources share, by their own sysctl", append(many(64, 5000, ""), from("232.1.1.1:5000", 25)...), 4096, []int{74, 10, 5}},
		{"a group of many sources is one of the sysctl's groups", append(from("232.1.1.1:5000", 10), many(64, 5000, "")...), 20, []int{29, 20, 20, 5}},
		{"few sources have a socket each", from("232.1.1.1:5000", 25), 20, sizes(25, 1)},
		{"what is no group stays alone, and comes first", append(many(64, 5000, ""), sub("192.168.1.5:5000", "", "")), 4096, []int{1, 64}},
		{"all addresses of a port: nothing else is bound to them", append(many(65, 5000, ""), sub("0.0.0.0:5000", "", "")), 4096, sizes(66, 1)},
		{"another program's port", append(many(65, 5009, ""), many(2, 5000, "")...), 4096, append(sizes(65, 1), 2)},
		{"of another port, and another family", append(many(65, 5000, ""), sub("0.0.0.0:5001", "", ""), sub("[::]:5000", "", "")), 4096, []int{1, 1, 65}},
		{"families do not mix, and the sysctl is for IPv4", append(many(30, 5000, ""), v6(100)...), 20, []int{20, 10, 100}},
	} {
		var got []int
		for _, s := range plan(c.subs, limits{c.limit, 10, 64}, func(p port) bool { return p == port{true, 5009} }) {
			got = append(got, len(s))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: sockets of %v, want %v", c.name, got, c.want)
		}
	}
}

// from are n sources of a group.
func from(group string, n int) (subs []Subscription) {
	for i := range n {
		subs = append(subs, sub(group, fmt.Sprintf("10.9.%d.%d", i>>8, i&0xFF), ""))
	}
	return subs
}

func v6(n int) (subs []Subscription) {
	for i := range n {
		subs = append(subs, sub(fmt.Sprintf("[ff15::7:%x]:5000", i), "", ""))
	}
	return subs
}

func TestPlanHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 400).Draw(t, "n")
		limit := rapid.IntRange(1, 200).Draw(t, "limit")
		sources := rapid.IntRange(1, 20).Draw(t, "sources")
		var subs []Subscription
		for i := range n {
			s := Subscription{Interface: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "interface")}
			port := rapid.Uint16Range(5000, 5002).Draw(t, "port")
			if rapid.Bool().Draw(t, "ipv6") {
				s.Group = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xFF, 1: 0x15, 14: byte(i >> 8), 15: byte(i)}), port)
			} else {
				s.Group = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 0, byte(i >> 8), byte(i)}), port)
				switch rapid.IntRange(0, 9).Draw(t, "kind") {
				case 0, 1:
					s.Group = netip.AddrPortFrom(netip.AddrFrom4([4]byte{232, 0, 0, byte(i % 3)}), port)
					s.Source = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
				case 2:
					s.Group = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), port)
				}
			}
			subs = append(subs, s)
		}
		seen := make([]bool, n)
		for _, members := range plan(subs, limits{limit, sources, sources}, func(port) bool { return false }) {
			first := subs[members[0]]
			groups := map[netip.Addr]int{}
			for _, i := range members {
				if groups[subs[i].Group.Addr()]++; groups[subs[i].Group.Addr()] > sources {
					t.Fatalf("more than %d sources of %v in a socket", sources, subs[i])
				}
			}
			if len(members) > groupsPerSocket || first.Group.Addr().Is4() && len(groups) > limit {
				t.Fatalf("%d groups in a socket, the limit is %d", len(groups), limit)
			}
			for _, i := range members {
				if seen[i] {
					t.Fatalf("subscription %d twice", i)
				}
				seen[i] = true
				s := subs[i]
				if s.Group.Port() != first.Group.Port() || s.Interface != first.Interface || s.Group.Addr().Is4() != first.Group.Addr().Is4() ||
					len(members) > 1 && !s.Group.Addr().IsMulticast() {
					t.Fatalf("%v shares a socket with %v", s, first)
				}
			}
		}
		if i := slices.Index(seen, false); i >= 0 {
			t.Fatalf("subscription %d has no socket", i)
		}
	})
}

func TestDistinct(t *testing.T) {
	for _, c := range []struct {
		name    string
		subs    []Subscription
		devices []int
		want    string // "" is no error
	}{
		{"the same", []Subscription{sub("239.1.1.1:5000", "", "lo"), sub("239.1.1.1:5000", "", "1")}, []int{1, 1}, "239.1.1.1:5000%1 is subscribed to twice"},
		{"two interfaces", []Subscription{sub("239.1.1.1:5000", "", "a"), sub("239.1.1.1:5000", "", "b")}, []int{1, 2}, ""},
		{"two sources", from("232.1.1.1:5000", 2), []int{1, 1}, ""},
		{"a source of a group that is recorded whole", []Subscription{sub("239.1.1.1:5000", "10.0.0.1", ""), sub("239.1.1.1:5000", "", "")}, []int{0, 0},
			"10.0.0.1@239.1.1.1:5000 is a part of 239.1.1.1:5000: its datagrams would be recorded twice"},
		{"on another interface", []Subscription{sub("239.1.1.1:5000", "10.0.0.1", "a"), sub("239.1.1.1:5000", "", "b")}, []int{1, 2}, ""},
		{"every address, and one", []Subscription{sub("10.0.0.1:5000", "", ""), sub("0.0.0.0:5000", "", "a")}, []int{0, 1}, "10.0.0.1:5000 and 0.0.0.0:5000%a overlap"},
		{"every address, and broadcast", []Subscription{sub("0.0.0.0:5000", "", "a"), sub("255.255.255.255:5000", "", "a")}, []int{1, 1}, "overlap"},
		{"every address of two interfaces", []Subscription{sub("0.0.0.0:5000", "", "a"), sub("0.0.0.0:5000", "", "b")}, []int{1, 2}, ""},
		{"of one, and of all", []Subscription{sub("0.0.0.0:5000", "", "a"), sub("0.0.0.0:5000", "", "")}, []int{1, 0}, "overlap"},
		{"other ports, another family, a group", []Subscription{sub("0.0.0.0:5000", "", ""), sub("10.0.0.1:5001", "", ""), sub("[::]:5000", "", ""), sub("239.1.1.1:5000", "", "")},
			[]int{0, 0, 0, 0}, ""},
		{"one broadcast address, twice", []Subscription{sub("255.255.255.255:5000", "", ""), sub("255.255.255.255:5000", "", "a")}, []int{0, 1}, "overlap"},
	} {
		err := distinct(c.subs, c.devices)
		if got := fmt.Sprint(err); (err == nil) != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
