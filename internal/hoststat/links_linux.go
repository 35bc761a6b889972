package hoststat

import "github.com/vishvananda/netlink"

// links asks the kernel (RTM_GETLINK), which answers for the network namespace of this
// process; /sys may show another one's.
func links(name string) (InterfaceLosses, bool) {
	link, err := netlink.LinkByName(name)
	if err != nil || link.Attrs().Statistics == nil {
		return InterfaceLosses{}, false
	}
	s := link.Attrs().Statistics
	return InterfaceLosses{Errors: s.RxErrors, Missed: s.RxMissedErrors, FIFO: s.RxFifoErrors, Dropped: s.RxDropped}, true
}
