// Package netns runs this program again in a network namespace of its own, where
// groups, ports and routes are free to use and nothing can leave by an interface
// of the machine.
package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ID names the network namespace of this process.
func ID() (string, error) { return os.Readlink("/proc/self/ns/net") }

// Start runs this program again with the arguments and additional environment, in
// a new network namespace: with the rights at hand, or with those of a new user
// namespace, in which it is root. Standard input and outputs are this process's.
//
// The child is killed when the thread that called Start ends: lock the goroutine
// to its thread until the child has ended.
func Start(args []string, env ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, flags := range []uintptr{syscall.CLONE_NEWNET, syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER} {
		cmd := exec.Command(self, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), env...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
		who := fmt.Sprintf("as uid %d", os.Getuid())
		if flags&syscall.CLONE_NEWUSER != 0 {
			who = "as root of a user namespace"
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		if err := cmd.Start(); err == nil {
			return cmd, nil
		} else {
			errs = append(errs, fmt.Errorf("%s: %w", who, err))
		}
	}
	return nil, errors.Join(errs...)
}

// Prepare sets up lo in a new namespace: up, carrying multicast, and the route of
// 224.0.0.0/4 and ff00::/8. It may run again in the same namespace. Never call it
// in a namespace that the machine uses.
func Prepare() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if err := netlink.LinkSetMulticastOn(lo); err != nil {
		return fmt.Errorf("lo: multicast on: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("lo: up: %w", err)
	}
	// A socket with lo as its multicast interface may send from the address of
	// another one, which would be taken for forged where it arrives.
	for name, value := range map[string]string{"lo/accept_local": "1", "lo/rp_filter": "0", "all/rp_filter": "0"} {
		if err := SetSysctl("net/ipv4/conf/"+name, value); err != nil {
			return err
		}
	}
	for _, prefix := range []string{"224.0.0.0/4", "ff00::/8"} {
		if prefix[0] == 'f' && !HasIPv6() {
			continue
		}
		if err := addRoute(lo.Attrs().Index, prefix); err != nil {
			return fmt.Errorf("route %s to lo: %w", prefix, err)
		}
	}
	return nil
}

// HasIPv6 says whether the kernel speaks IPv6.
func HasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

func addRoute(index int, prefix string) error {
	_, dst, err := net.ParseCIDR(prefix)
	if err != nil {
		return err
	}
	// Without a source of its own the route takes the address of another interface,
	// and a connected socket sends multicast out of the interface that owns its
	// source (ip_route_output_key_hash_rcu), whatever the routes say.
	r := &netlink.Route{LinkIndex: index, Dst: dst, Scope: netlink.SCOPE_LINK, Src: net.IPv4(127, 0, 0, 1)}
	if dst.IP.To4() == nil {
		// Of type local: the kernel turns every other IPv6 route through a loopback
		// interface into a reject route (fib6_is_reject in net/ipv6/route.c).
		// It comes before the ff00::/8 with metric 256 that each other interface gets.
		r.Table, r.Type, r.Scope, r.Src = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, netlink.SCOPE_UNIVERSE, nil
		r.Priority = 1
	}
	if err := netlink.RouteAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// SetSysctl sets a value below /proc/sys, which shows those of this namespace.
func SetSysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(old)) == value {
		return nil // also where it may not be written
	}
	return os.WriteFile(path, []byte(value), 0)
}
