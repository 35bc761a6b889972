package mcast

import (
	"os"
	"strconv"
	"strings"
)

// DefaultMaxMemberships is the kernel's igmp_max_memberships where nobody has
// changed it.
const DefaultMaxMemberships = 20

// MaxMemberships is the number of IPv4 groups that one socket may join: the
// sysctl net.ipv4.igmp_max_memberships of this network namespace, or
// [DefaultMaxMemberships] where it cannot be read. The join after the last fails
// with ENOBUFS. IPv6 has no such limit; there, as for an igmp_max_memberships
// above about 2,730, the socket's option memory (net.core.optmem_max) ends first.
func MaxMemberships() int {
	return readLimit("net/ipv4/igmp_max_memberships", DefaultMaxMemberships)
}

// MaxSources is the number of sources of one group that one socket may join: the
// sysctls net.ipv4.igmp_max_msf (10 where nobody has changed it) and
// net.ipv6.mld_max_msf (64). The join after the last fails with ENOBUFS.
func MaxSources() (ipv4, ipv6 int) {
	return readLimit("net/ipv4/igmp_max_msf", 10), readLimit("net/ipv6/mld_max_msf", 64)
}

func readLimit(sysctl string, unread int) int {
	b, err := os.ReadFile("/proc/sys/" + sysctl)
	if err != nil {
		return unread
	}
	return parseLimit(string(b), unread)
}

func parseLimit(s string, unread int) int {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		return unread
	}
	// 0 and below let no socket join anything; a socket each is then as good a plan
	// as any, and the join reports the error.
	return max(n, 1)
}
