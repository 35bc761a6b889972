package mcast

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
)

func TestInterfaceFind(t *testing.T) {
	up := net.FlagUp | net.FlagRunning | net.FlagMulticast
	all := []net.Interface{
		{Index: 1, Name: "lo", Flags: up},
		{Index: 2, Name: "eth0", Flags: up},
		{Index: 7, Name: "2", Flags: up}, // a name that looks like another's index
		{Index: 9, Name: "gone"},
	}
	addrs := func(i *net.Interface) ([]net.Addr, error) {
		cidr := map[string]string{"lo": "127.0.0.1/8", "eth0": "10.0.0.5/24", "2": "fe80::1/64"}[i.Name]
		if cidr == "" {
			return nil, errors.New("gone")
		}
		ip, n, err := net.ParseCIDR(cidr)
		return []net.Addr{&net.IPNet{IP: ip, Mask: n.Mask}}, err
	}
	for _, c := range []struct {
		in   string
		want int
	}{
		{"lo", 1}, {"eth0", 2}, {"1", 1},
		{"2", 7}, // the name comes before the index
		{"9", 9},
		{"10.0.0.5", 2}, {"127.0.0.1", 1}, {"fe80::1", 7}, {"fe80::1%2", 7}, {"::ffff:10.0.0.5", 2},
	} {
		got, err := find(c.in, all, addrs)
		if err != nil || got.Index != c.want {
			t.Errorf("%q: %v, %v, want index %d", c.in, got, err, c.want)
		}
	}
	for _, c := range []struct{ in, want string }{
		{"eth9", "eth9: no such interface (have lo, eth0, 2, gone)"},
		{"10.0.0.6", "10.0.0.6: no such interface (have lo, eth0, 2, gone)"}, // a neighbour's address
		{"10.0.0.0", "no such interface"},
		{"fe80::1%eth0", "no such interface"}, // the address of another interface
		{"3", "no such interface"},
		{"", "an interface without a name: no such interface (have lo"},
	} {
		_, err := find(c.in, all, addrs)
		if !errors.Is(err, ErrNoInterface) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.in, err, c.want)
		}
	}
	var many []net.Interface
	for i := range 100 {
		many = append(many, net.Interface{Index: i + 1, Name: fmt.Sprintf("v%d", i)})
	}
	if _, err := find("x", many, addrs); !strings.HasSuffix(err.Error(), "v31, and 68 more)") {
		t.Errorf("100 interfaces: %v", err)
	}
}

func TestInterfaceOfThisMachine(t *testing.T) {
	all, err := net.Interfaces()
	if err != nil || len(all) == 0 {
		t.Skipf("no interfaces: %v", err)
	}
	for _, i := range all {
		got, err := Interface(i.Name)
		if err != nil || got.Index != i.Index {
			t.Errorf("%s: %v, %v", i.Name, got, err)
		}
	}
}

func TestUsable(t *testing.T) {
	up := net.FlagUp | net.FlagRunning | net.FlagMulticast
	for _, c := range []struct {
		flags net.Flags
		want  string
	}{
		{up, ""},
		{up &^ net.FlagUp, "eth0 is down"},
		{up &^ net.FlagRunning, "no carrier"},
		{up &^ net.FlagMulticast, "multicast switched off"},
	} {
		err := Usable(&net.Interface{Name: "eth0", Flags: c.flags})
		if got := fmt.Sprint(err); (err == nil) != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%v: %v, want %q", c.flags, err, c.want)
		}
	}
}

func TestParseMembershipLimit(t *testing.T) {
	for in, want := range map[string]int{"20\n": 20, "4096": 4096, "0\n": 1, "-1": 1, "": DefaultMaxMemberships, "x": DefaultMaxMemberships} {
		if got := parseLimit(in, DefaultMaxMemberships); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
	if got := MaxMemberships(); got < 1 {
		t.Errorf("MaxMemberships() = %d", got)
	}
	if ipv4, ipv6 := MaxSources(); ipv4 < 1 || ipv6 < 1 {
		t.Errorf("MaxSources() = %d, %d", ipv4, ipv6)
	}
}
