package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Beside is a second network namespace in which a thread of this process lives, for the
// far end of a path. It ends with Close, and with what was started in it.
type Beside struct {
	do   chan func()
	self *os.File // the namespace
}

// NewBeside makes a namespace with nothing but lo, which is up. It takes the rights of
// root in the user namespace that owns the one of this process.
func NewBeside() (*Beside, error) {
	b := &Beside{do: make(chan func())}
	ready := make(chan error)
	go func() {
		// The thread is not given back: it ends with the goroutine, and the namespace with it.
		runtime.LockOSThread()
		err := os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET))
		if err == nil {
			b.self, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		if err != nil {
			return
		}
		for f := range b.do {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("a second network namespace: %w", err)
	}
	if err := b.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		return err
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("lo: up: %w", err), b.Close())
	}
	return b, nil
}

// Do runs f in the namespace, on its thread: sockets that f opens are of the namespace,
// and so are processes that it starts; they are killed by Close where they asked for
// that (Pdeathsig). f does not call Do.
func (b *Beside) Do(f func() error) error {
	done := make(chan error)
	b.do <- func() { done <- f() }
	return <-done
}

// Veth is Veth with its end rx in the namespace. In both, multicast leads to the pair.
func (b *Beside) Veth(tx, rx string, n int) (remove func() error, err error) {
	if remove, err = Veth(tx, rx, n); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	link, err := netlink.LinkByName(rx)
	if err == nil {
		err = netlink.LinkSetNsFd(link, int(b.self.Fd()))
	}
	if err == nil {
		err = b.Do(func() error { return errors.Join(address(rx, n, 2), multicastTo(rx)) })
	}
	if err == nil {
		err = errors.Join(multicastTo(tx), waitUp(tx), b.Do(func() error { return waitUp(rx) }))
	}
	if err != nil {
		return remove, fmt.Errorf("%s in a namespace of its own: %w", rx, err)
	}
	return remove, nil
}

// multicastTo makes an interface the way to all groups of IPv4, before any other.
func multicastTo(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	all := &net.IPNet{IP: net.IPv4(224, 0, 0, 0), Mask: net.CIDRMask(4, 32)}
	return netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Scope: netlink.SCOPE_LINK})
}

// Close ends the thread. Nothing may be called afterwards.
func (b *Beside) Close() error {
	close(b.do)
	return b.self.Close()
}
