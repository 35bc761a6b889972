package main

import (
	"strings"
	"testing"
)

func TestReadBadChecksums(t *testing.T) {
	for why, tc := range map[string]struct {
		text string
		want uint64
	}{
		"IPv4":       {"Ip: InReceives InCsumErrors\nIp: 5 9\nUdp: InDatagrams NoPorts InErrors InCsumErrors IgnoredMulti\nUdp: 3 0 13021 13020 0\nUdpLite: InCsumErrors\nUdpLite: 7\n", 13020},
		"IPv6":       {"Udp6InErrors                    \t4\nUdp6InCsumErrors                \t3\nUdpLite6InCsumErrors 8\n", 3},
		"no counter": {"Udp: InDatagrams\nUdp: 3\n", 0},
		"cut short":  {"Udp: InDatagrams NoPorts InCsumErrors\nUdp: 3\n", 0},
		"nothing":    {"", 0},
	} {
		if got := readBadChecksums(strings.NewReader(tc.text)); got != tc.want {
			t.Errorf("%s: %d, want %d", why, got, tc.want)
		}
	}
}
