package netnstest

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// FaultMark marks a packet, meta mark set, that no rule of Faults is to see again: a copy
// that dup makes comes back to the interface.
const FaultMark = 77

// Faults installs nftables rules, of nft(8), for packets that arrive at device, until the
// test ends. They see what match matches and nothing else: a rule that leaves packets alone
// by "udp dport != N accept" has nothing to say of one that is not UDP, and IGMP or ARP would
// get to those behind it. count tells how many packets one of the counters has counted. The
// test is skipped where nftables cannot do that.
func Faults(t testing.TB, device, match, rules string, counters ...string) (count func(counter string) uint64) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("no nftables: %v", err)
	}
	declared := ""
	for _, c := range counters {
		declared += "counter " + c + " {}\n"
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(fmt.Sprintf(`table netdev faults {
	%s
	chain matched {
		%s
	}
	chain in {
		type filter hook ingress device %s priority 0;
		meta mark %d accept
		%s jump matched
	}
}`, declared, rules, device, FaultMark, match))
	if out, err := nft.CombinedOutput(); err != nil {
		t.Skipf("nftables cannot do that on ingress here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("nft", "delete", "table", "netdev", "faults").CombinedOutput(); err != nil {
			t.Errorf("nft delete table: %v: %s", err, out)
		}
	})
	return func(counter string) uint64 {
		t.Helper()
		out, err := exec.Command("nft", "list", "counter", "netdev", "faults", counter).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		m := regexp.MustCompile(`packets (\d+)`).FindSubmatch(out)
		if m == nil {
			t.Fatalf("no counter in %s", out)
		}
		n, err := strconv.ParseUint(string(m[1]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}
