package main

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

// badChecksums is how many UDP datagrams with a wrong checksum the kernel has thrown
// away since it started, in this network namespace: the sockets' own counters hold
// only a part of them and do not tell them from others. 0 where the system does not
// say.
func badChecksums() uint64 {
	var n uint64
	for _, path := range []string{"/proc/self/net/snmp", "/proc/self/net/snmp6"} {
		if f, err := os.Open(path); err == nil {
			n += readBadChecksums(f)
			f.Close()
		}
	}
	return n
}

// readBadChecksums reads the two forms in which the kernel prints its counters: a
// line of names and one of values ("Udp: InDatagrams ..."), or one of each a line
// ("Udp6InCsumErrors 3").
func readBadChecksums(r io.Reader) uint64 {
	var names []string
	for s := bufio.NewScanner(r); s.Scan(); {
		f := strings.Fields(s.Text())
		switch {
		case len(f) == 2 && f[0] == "Udp6InCsumErrors":
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n
		case len(f) < 2 || f[0] != "Udp:":
		case names == nil:
			names = f
		default:
			for i := range min(len(names), len(f)) {
				if names[i] == "InCsumErrors" {
					n, _ := strconv.ParseUint(f[i], 10, 64)
					return n
				}
			}
		}
	}
	return 0
}
