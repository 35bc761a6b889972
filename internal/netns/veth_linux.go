package netns

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Veth makes a pair of connected interfaces, both up: a multicast datagram sent out
// of tx arrives on rx and is delivered to the sockets that joined its group there.
// tx has the addresses 10.77.n.1/24 and fd77:n::1/64, rx 10.77.n.2/24 and
// fd77:n::2/64, with n from 0 to 255. remove removes both; it may be called where
// they are gone.
//
// Both ends are in one namespace, so the source of what arrives is an address of
// this very host: the kernel takes that for forged unless accept_local is set and
// rp_filter is 0 (Documentation/networking/ip-sysctl.rst), and so they are.
func Veth(tx, rx string, n int) (remove func() error, err error) {
	if HasIPv6() {
		// Duplicate address detection would hold the addresses back for a second.
		if err := SetSysctl("net/ipv6/conf/default/accept_dad", "0"); err != nil {
			return nil, err
		}
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: tx}, PeerName: rx}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("veth pair %s, %s: %w", tx, rx, err)
	}
	remove = func() error {
		// By its name: it may have been made again meanwhile.
		link, err := netlink.LinkByName(tx)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("removing %s: %w", tx, err)
		}
		return nil
	}
	if err := RestoreVeth(tx, rx, n); err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

// RestoreVeth gives both ends of a pair the addresses that Veth gave them, where they
// have lost them, sets them up and waits until they carry datagrams. Setting a link
// down takes its IPv6 addresses away.
func RestoreVeth(tx, rx string, n int) error {
	for i, name := range []string{tx, rx} {
		if err := address(name, n, i+1); err != nil {
			return err
		}
	}
	return waitUp(tx, rx)
}

// address gives an end of a pair its addresses and sets it up.
func address(name string, n, host int) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for key, value := range map[string]string{"accept_local": "1", "rp_filter": "0"} {
		if err := SetSysctl(filepath.Join("net/ipv4/conf", name, key), value); err != nil {
			return err
		}
	}
	addresses := []string{fmt.Sprintf("10.77.%d.%d/24", n, host)}
	if HasIPv6() {
		addresses = append(addresses, fmt.Sprintf("fd77:%x::%d/64", n, host))
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("%s: address %s: %w", name, a, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: up: %w", name, err)
	}
	return nil
}

// waitUp waits until the interfaces carry datagrams. The first end has no carrier
// before the other is up, and the kernel then makes its queue in its own time
// (net/core/link_watch.c); until it has, everything sent is lost without an error.
func waitUp(names ...string) error {
	deadline := time.Now().Add(10 * time.Second)
	for _, name := range names {
		for {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if link.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s is %v, and not up", name, link.Attrs().OperState)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// CutRuns makes an interface hand on runs of datagrams (UDP_SEGMENT) cut, as a
// network would carry them. A pair of virtual interfaces otherwise passes them whole,
// and who captures packets at the other end sees one of up to 64 KiB.
func CutRuns(iface string) error { return setSegmentation(iface, false) }

// PassRuns undoes CutRuns: runs leave whole, as a network card takes them that cuts them
// itself.
func PassRuns(iface string) error { return setSegmentation(iface, true) }

func setSegmentation(iface string, on bool) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer e.Close()
	if err := e.Change(iface, map[string]bool{"tx-udp-segmentation": on}); err != nil {
		return fmt.Errorf("%s: tx-udp-segmentation %v: %w", iface, on, err)
	}
	return nil
}
