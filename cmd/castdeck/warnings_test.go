package main

import (
	"fmt"
	"strings"
	"testing"

	"castdeck/internal/mcast"
)

func TestGroupWarnings(t *testing.T) {
	for _, c := range []struct {
		groups string   // separated by spaces
		want   []string // the beginning of each line
	}{
		{"239.1.1.1:5000 239.1.1.2:5000 233.2.1.1:5 10.0.0.1@232.3.1.1:5000 [ff15::2]:5 2001:db8::1@[ff3e::1]:5", nil},
		{"224.0.0.5:5000 224.0.1.1:5000", []string{"224.0.0.5:5000: for control protocols"}},
		{"224.0.0.107:319", []string{"224.0.0.107:319: for control protocols"}}, // PTP, and local all the same
		{"[ff02::5]:5000 [ff12::5]:5000", []string{"[ff02::5]:5000: for control protocols", "ff02::5 and ff12::5 (33:33:00:00:00:05): groups that share"}},
		{"232.1.1.1:5000", []string{"232.1.1.1:5000: source-specific (232.0.0.0/8, ff3x::/32) without a source"}},
		{"[ff3e::1]:5000", []string{"[ff3e::1]:5000: source-specific"}},
		{"232.1.1.1-232.1.1.5:5000", []string{"232.1.1.1:5000, 232.1.1.2:5000, 232.1.1.3:5000 and 2 more: source-specific"}},
		{"239.1.1.1:5000 239.129.1.1:6000", []string{"239.1.1.1 and 239.129.1.1 (01:00:5e:01:01:01): groups that share an Ethernet address"}},
		{"238.1.1.1:5000 239.1.1.1:5000 239.129.1.1:6000 225.1.1.1:7", []string{"238.1.1.1 and 239.1.1.1 (01:00:5e:01:01:01): "}},
		{"239.1.1.1:5000%a 239.129.1.1:5000%b", nil},                       // on different wires
		{"239.1.1.1:5000 239.1.1.1:5001 10.0.0.1@239.1.1.1:5002", nil},     // the same group
		{"192.168.1.5:5000 0.0.0.0:5001 255.255.255.255:5000 [::]:5", nil}, // no groups
	} {
		var groups []mcast.Group
		for _, s := range strings.Fields(c.groups) {
			g, err := mcast.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			groups = append(groups, g...)
		}
		got := groupWarnings(groups)
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %q", c.groups, got, c.want)
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i], c.want[i]) {
				t.Errorf("%s: %q, want %q", c.groups, got[i], c.want[i])
			}
		}
	}
}

func TestGroupWarningsOfManyStayShort(t *testing.T) {
	var all []mcast.Group
	for _, s := range []string{"239.0.0.0-239.0.255.255:5000", "239.128.0.0-239.128.255.255:5000", "224.0.0.0-224.0.0.255:1"} {
		g, err := mcast.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, g...)
	}
	got := groupWarnings(all)
	if len(got) != 2 || !strings.Contains(got[1], fmt.Sprintf(" and %d more: ", 65536-3)) {
		t.Errorf("%d lines: %q", len(got), got)
	}
}
