package replayer

import (
	"net"

	"github.com/vishvananda/netlink"
)

// cutsRuns reports whether a queue of the interface cuts runs into datagrams before
// it passes or drops them: what it drops of a run the sender does not hear of, where
// it passes the rest (tbf_segment in net/sched/sch_tbf.c, and its like). Where the
// queues cannot be listed it is taken for the worse.
func cutsRuns(iface *net.Interface) bool {
	link, err := netlink.LinkByIndex(iface.Index)
	if err != nil {
		return true
	}
	queues, err := netlink.QdiscList(link)
	if err != nil {
		return true
	}
	for _, q := range queues {
		switch q.Type() {
		case "tbf", "netem", "cake", "taprio":
			return true
		}
	}
	return false
}
