package sock

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Rejoin joins again, on dev, what was joined on the interface of its name: the same
// one, whose switch may have forgotten us, or one that was deleted and made again and
// has another index now. What is queued stays, and so does the drop counter. It goes on
// behind a group that cannot be joined and returns the first error; it may be called
// again then.
//
// The error wraps unix.EPERM, and nothing has changed, where the Conn is bound to the
// old interface and the kernel lets only CAP_NET_RAW bind it to another one: then a
// new Conn is needed.
func (c *Conn) Rejoin(dev *net.Interface) error {
	// An error: an older kernel, on which it was not bound in the first place.
	bound, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	if err == nil && bound != 0 && bound != dev.Index {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, dev.Index); err != nil {
			return fmt.Errorf("option SO_BINDTOIFINDEX: %w", os.NewSyscallError("setsockopt", err))
		}
	}
	// A membership of an interface that is gone stays with the socket and counts
	// against its limit until it is left. By MCAST_LEAVE_GROUP, also where it was one
	// for a source: leaving a source looks for the interface first (ip_mc_source).
	var again []int
	for i, m := range c.memberships {
		if m.Interface != nil && m.Interface.Name == dev.Name {
			again = append(again, i)
			m.Source = netip.Addr{}
			c.membership(m, unix.MCAST_LEAVE_GROUP, unix.MCAST_LEAVE_GROUP)
		}
	}
	var errs []error
	for _, i := range again {
		m := &c.memberships[i]
		m.Interface = dev
		if err := c.join(*m); err != nil {
			errs = append(errs, fmt.Errorf("joining %v: %w", *m, err))
		}
	}
	return errors.Join(errs[:min(len(errs), 1)]...)
}
