package mcast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// ErrNoInterface is what an error of [Interface] wraps where the machine has no
// such interface.
var ErrNoInterface = errors.New("no such interface")

// Interface finds a network interface of this machine by its name, its index, or
// one of its own IP addresses, in this order. The error lists the interfaces that
// there are: "eth9: no such interface (have lo, eth0)".
func Interface(name string) (*net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing network interfaces: %w", err)
	}
	return find(name, all, (*net.Interface).Addrs)
}

func find(name string, all []net.Interface, addrs func(*net.Interface) ([]net.Addr, error)) (*net.Interface, error) {
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	if n, err := strconv.Atoi(name); err == nil {
		for i := range all {
			if all[i].Index == n {
				return &all[i], nil
			}
		}
	}
	if want, err := netip.ParseAddr(name); err == nil {
		for i := range all {
			if want.Zone() != "" && want.Zone() != all[i].Name {
				continue
			}
			// An interface that vanishes meanwhile has no addresses.
			list, err := addrs(&all[i])
			if err != nil {
				continue
			}
			for _, a := range list {
				if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == want.Unmap().WithZone("") {
					return &all[i], nil
				}
			}
		}
	}
	const limit = 32
	var names []string
	for i := range all {
		if i == limit {
			names = append(names, fmt.Sprintf("and %d more", len(all)-limit))
			break
		}
		names = append(names, all[i].Name)
	}
	if name == "" {
		return nil, fmt.Errorf("an interface without a name: %w (have %s)", ErrNoInterface, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%s: %w (have %s)", name, ErrNoInterface, strings.Join(names, ", "))
}

// Usable tells why multicast cannot pass an interface at the moment, or nil. It
// is for warnings: a join on an interface that is down succeeds, and datagrams
// come once it is up.
func Usable(i *net.Interface) error {
	switch {
	case i.Flags&net.FlagUp == 0:
		return fmt.Errorf("%s is down (ip link set %s up)", i.Name, i.Name)
	case i.Flags&net.FlagRunning == 0:
		return fmt.Errorf("%s is up but has no carrier (cable, switch port or peer)", i.Name)
	case i.Flags&net.FlagMulticast == 0 && i.Flags&net.FlagLoopback == 0: // lo delivers all the same
		return fmt.Errorf("%s has multicast switched off (ip link set %s multicast on)", i.Name, i.Name)
	}
	return nil
}
