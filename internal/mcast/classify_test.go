package mcast

import (
	"net/netip"
	"testing"
)

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		addr    string
		want    Class
		control bool
	}{
		{"10.0.0.1", NotMulticast, false},
		{"223.255.255.255", NotMulticast, false},
		{"240.0.0.0", NotMulticast, false},
		{"2001:db8::1", NotMulticast, false},
		{"224.0.0.0", LocalControl, true},
		{"224.0.0.18", LocalControl, true}, // VRRP
		{"224.0.0.107", PTP, true},
		{"224.0.0.255", LocalControl, true},
		{"224.0.1.1", InternetworkControl, true}, // NTP
		{"224.0.1.128", InternetworkControl, true},
		{"224.0.1.129", PTP, true},
		{"224.0.1.132", PTP, true},
		{"224.0.1.133", InternetworkControl, true},
		{"224.0.2.0", AdHoc, false},
		{"224.0.255.255", AdHoc, false},
		{"224.1.0.0", Reserved, false},
		{"224.2.127.254", SAP, false},
		{"224.3.1.1", AdHoc, false},
		{"224.4.1.1", AdHoc, false},
		{"224.5.0.0", Reserved, false},
		{"225.0.0.1", Reserved, false},
		{"231.255.255.255", Reserved, false},
		{"232.0.0.1", SSM, false},
		{"233.54.12.1", GLOP, false},
		{"233.251.255.255", GLOP, false},
		{"233.252.0.1", AdHoc, false},
		{"234.1.1.1", UnicastPrefix, false},
		{"235.0.0.1", Reserved, false},
		{"238.255.255.255", Reserved, false},
		{"239.0.0.0", AdministrativeScope, false},
		{"239.255.255.255", AdministrativeScope, false},
		{"::ffff:224.0.0.1", LocalControl, true}, // mapped
		{"ff01::1", InterfaceLocal, false},
		{"ff02::1", LinkLocalControl, true},
		{"ff02::fb", LinkLocalControl, true}, // mDNS
		{"ff02::1:ff00:1", LinkLocalControl, true},
		{"ff02::6b", PTP, true},
		{"ff05::6b", SiteLocal, false}, // peer delay exists on the link only
		{"ff12::1234", LinkLocal, false},
		{"ff03::1", RealmLocal, false},
		{"ff04::1", AdminLocal, false},
		{"ff05::2", SiteLocal, false},
		{"ff05::181", PTP, true},
		{"ff0e::184", PTP, true},
		{"ff0e::185", Global, false},
		{"ff15::181", SiteLocal, false}, // transient: somebody's own
		{"ff18::1", OrganizationLocal, false},
		{"ff1e::1", Global, false},
		{"ff3e::1", SSM, false},
		{"ff35:0:1::1", SSM, false},
		{"ff3e:40:2001:db8::1", UnicastPrefix, false},
		{"ff0f::1", Reserved, false},
		{"ff00::1", Reserved, false},
	} {
		got := Classify(netip.MustParseAddr(c.addr))
		if got != c.want || got.Control() != c.control {
			t.Errorf("%s: %v (control %v), want %v (control %v)", c.addr, got, got.Control(), c.want, c.control)
		}
	}
	if got := Classify(netip.Addr{}); got != NotMulticast {
		t.Errorf("the zero address: %v", got)
	}
	names := map[string]bool{}
	for c := range classEnd {
		if c.String() == "" || names[c.String()] {
			t.Errorf("class %d has the name %q, empty or taken", c, c)
		}
		names[c.String()] = true
	}
	if classEnd.String() != "unknown" {
		t.Errorf("a class beyond the last is %q", classEnd)
	}
}
