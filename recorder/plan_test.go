package recorder

import (
	"fmt"
	"net/netip"
	"slices"
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
		{"sources stay alone", append(many(64, 5000, ""), sub("232.1.1.1:5000", "10.0.0.1", ""), sub("232.1.1.1:5000", "10.0.0.2", "")),
			4096, []int{64, 1, 1}},
		{"families do not mix, and the sysctl is for IPv4", append(many(30, 5000, ""), v6(100)...), 20, []int{20, 10, 100}},
	} {
		var got []int
		for _, s := range plan(c.subs, c.limit) {
			got = append(got, len(s))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: sockets of %v, want %v", c.name, got, c.want)
		}
	}
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
		var subs []Subscription
		for i := range n {
			s := Subscription{Interface: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "interface")}
			port := rapid.Uint16Range(5000, 5002).Draw(t, "port")
			if rapid.Bool().Draw(t, "ipv6") {
				s.Group = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xFF, 1: 0x15, 14: byte(i >> 8), 15: byte(i)}), port)
			} else {
				s.Group = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 0, byte(i >> 8), byte(i)}), port)
				if rapid.IntRange(0, 9).Draw(t, "source") == 0 {
					s.Source = netip.AddrFrom4([4]byte{10, 0, 0, 1})
				}
			}
			subs = append(subs, s)
		}
		seen := make([]bool, n)
		for _, members := range plan(subs, limit) {
			first := subs[members[0]]
			if len(members) > groupsPerSocket || first.Group.Addr().Is4() && len(members) > limit {
				t.Fatalf("%d groups in a socket, the limit is %d", len(members), limit)
			}
			for _, i := range members {
				if seen[i] {
					t.Fatalf("subscription %d twice", i)
				}
				seen[i] = true
				s := subs[i]
				if s.Group.Port() != first.Group.Port() || s.Interface != first.Interface || s.Group.Addr().Is4() != first.Group.Addr().Is4() ||
					len(members) > 1 && s.Source.IsValid() {
					t.Fatalf("%v shares a socket with %v", s, first)
				}
			}
		}
		if i := slices.Index(seen, false); i >= 0 {
			t.Fatalf("subscription %d has no socket", i)
		}
	})
}
