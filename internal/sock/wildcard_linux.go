package sock

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

// Wildcard is a UDP port of one address family.
type Wildcard struct {
	IPv4 bool
	Port uint16
}

// Wildcards are the ports on which sockets of this network namespace are bound to
// every address. Another socket that is bound so to one of them, with SO_REUSEADDR,
// would be given the unicast datagrams that were theirs: the kernel looks from the
// latest to the oldest. A socket bound to [::] may receive IPv4 too, and counts for
// both families. What the system does not tell is left out.
func Wildcards() map[Wildcard]bool {
	found := map[Wildcard]bool{}
	for _, name := range []string{"udp", "udp6"} {
		f, err := os.Open("/proc/self/net/" + name)
		if err != nil {
			continue
		}
		readWildcards(f, found)
		f.Close()
	}
	return found
}

// readWildcards reads lines such as "  12: 00000000:1388 00000000:0000 07 ...", in
// hexadecimal, proc_net_udp of the kernel's documentation.
func readWildcards(r io.Reader, found map[Wildcard]bool) {
	for s := bufio.NewScanner(r); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}
		addr, hex, ok := strings.Cut(f[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if !ok || err != nil || strings.Trim(addr, "0") != "" {
			continue
		}
		switch len(addr) {
		case 8:
			found[Wildcard{true, uint16(port)}] = true
		case 32:
			found[Wildcard{true, uint16(port)}] = true
			found[Wildcard{false, uint16(port)}] = true
		}
	}
}
