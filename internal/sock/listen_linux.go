package sock

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a UDP socket that is a member of one group or of several, or that
// receives on an address of this machine.
//
// With one group it is bound to the group, so the kernel's own lookup leaves out
// every other. With several it is bound to the port alone, and every datagram
// tells its destination (IP_PKTINFO). IP_MULTICAST_ALL=0 keeps away what other
// processes joined. IPv6 does not compare the interface of a membership with that
// of a datagram (inet6_mc_check), so there the interface is told too, and the
// socket is bound to the interface where its memberships name one and the kernel
// lets us.
//
// Without a group it is bound to its address and, where one is named, to the
// interface; every datagram tells its destination and its interface, which older
// kernels do not let everybody bind to. Unicast is delivered to one socket only, so
// a second one with SO_REUSEADDR would take the datagrams of the program that it
// was meant to watch: such a Conn has its port for itself, and Listen fails where
// another program has it. A broadcast goes to every socket, and is shared.
//
// The descriptor does not block and is not known to the Go runtime's poller. A
// Conn belongs to one goroutine, except that Drops and Buffer may be called from
// any until Close.
type Conn struct {
	fd          int
	buffer      int
	stamped     bool // holds the kernel's time stamps on
	memberships []Membership
	dst         netip.AddrPort // where a datagram without pktinfo was sent; zero where there are several
	port        uint16
	exclusive   bool
}

// Listen opens a socket, sets every option, and only then binds and joins: what
// arrives before an option is set would be queued without it, a datagram without
// its time stamp being given the time when it is read. For the same reason the
// first Conn of a process takes a moment (100 ms at most). Either all groups are
// joined or an error names the one that is not, and why.
func Listen(c ListenConfig) (*Conn, error) {
	if len(c.Memberships) == 0 {
		return nil, errors.New("no group to join")
	}
	first := c.Memberships[0]
	family := unix.AF_INET6
	if first.Group.Addr().Is4() {
		family = unix.AF_INET
	}
	for _, m := range c.Memberships {
		switch {
		case !m.Group.Addr().IsMulticast() && (len(c.Memberships) > 1 || m.Source.IsValid()):
			return nil, fmt.Errorf("%v: not a multicast address, so it takes a socket of its own and no source", m)
		case m.Group.Addr().Is4() != first.Group.Addr().Is4(), m.Group.Port() != first.Group.Port():
			return nil, fmt.Errorf("%v and %v: one socket takes one address family and one port", first, m)
		case m.Source.IsValid() && m.Source.Is4() != m.Group.Addr().Is4():
			return nil, fmt.Errorf("%v: source and group are of different families", m)
		}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		hint := ""
		switch err {
		case unix.EMFILE:
			var limit unix.Rlimit
			_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
			hint = fmt.Sprintf(" (the limit of open files is %d: ulimit -n, LimitNOFILE= of a systemd unit)", limit.Cur)
		case unix.ENFILE:
			hint = fmt.Sprintf(" (the machine's limit of open files is sysctl fs.file-max = %s)", readSysctl("fs/file-max"))
		}
		return nil, fmt.Errorf("%v: %w%s", first, os.NewSyscallError("socket", err), hint)
	}
	conn := &Conn{fd: fd, port: first.Group.Port()}
	if err := conn.open(c, family); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *Conn) open(config ListenConfig, family int) error {
	first := config.Memberships[0]
	if sharedGroup(config.Memberships) && !first.Group.Addr().IsUnspecified() {
		c.dst = first.Group
	}
	c.exclusive = !first.Group.Addr().IsMulticast() && !isBroadcast(first.Group.Addr())
	if err := c.setOptions(family, config); err != nil {
		return fmt.Errorf("%v: %w", first, err)
	}
	var err error
	if c.buffer, err = setReceiveBuffer(c.fd, config.Buffer); err != nil {
		return fmt.Errorf("%v: receive buffer: %w", first, err)
	}
	holdStamps()
	c.stamped = true
	if err := c.bind(family, config.Memberships); err != nil {
		return fmt.Errorf("%v: %w", first, err)
	}
	for _, m := range config.Memberships {
		if !m.Group.Addr().IsMulticast() {
			break
		}
		if err := c.join(m); err != nil {
			return fmt.Errorf("joining %v: %w", m, err)
		}
		c.memberships = append(c.memberships, m)
	}
	return nil
}

// hardwareStamps are both stamps of a datagram, so that one that the card did not
// stamp has at least the kernel's.
const hardwareStamps = unix.SOF_TIMESTAMPING_RX_HARDWARE | unix.SOF_TIMESTAMPING_RAW_HARDWARE |
	unix.SOF_TIMESTAMPING_RX_SOFTWARE | unix.SOF_TIMESTAMPING_SOFTWARE

func (c *Conn) setOptions(family int, config ListenConfig) error {
	type option struct {
		name        string
		level, code int
		value       int
	}
	// The 64-bit form of the time stamp is the only one that every architecture
	// agrees on; it needs Linux 5.1.
	options := []option{
		{"SO_TIMESTAMPNS_NEW", unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1},
		{"SO_RXQ_OVFL", unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1},
	}
	joins := config.Memberships[0].Group.Addr().IsMulticast()
	if !c.exclusive || config.Shared {
		options = append(options, option{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	}
	if config.Hardware {
		options[0] = option{"SO_TIMESTAMPING_NEW", unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, hardwareStamps}
	}
	if family == unix.AF_INET {
		options = append(options,
			option{"IP_RECVTTL", unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
			option{"IP_MULTICAST_ALL", unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0})
		if !joins || !sharedGroup(config.Memberships) {
			// 41 ns a datagram that a socket bound to its only group saves.
			options = append(options, option{"IP_PKTINFO", unix.IPPROTO_IP, unix.IP_PKTINFO, 1})
		}
	} else {
		options = append(options,
			option{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			option{"IPV6_RECVHOPLIMIT", unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
			option{"IPV6_RECVPKTINFO", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
			option{"IPV6_MULTICAST_ALL", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(c.fd, o.level, o.code, o.value); err != nil {
			return fmt.Errorf("option %s: %w", o.name, os.NewSyscallError("setsockopt", err))
		}
	}
	if index, ok := commonInterface(config.Memberships); ok && (family == unix.AF_INET6 || !joins) {
		// Before Linux 5.7 this needs CAP_NET_RAW. Without it the receiver sorts out by
		// Message.Interface.
		err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index)
		if err != nil && err != unix.EPERM && err != unix.ENOPROTOOPT {
			return fmt.Errorf("option SO_BINDTOIFINDEX: %w", os.NewSyscallError("setsockopt", err))
		}
	}
	return nil
}

// sharedGroup says that all memberships are of one group, from several sources, so
// that a socket can be bound to it.
func sharedGroup(all []Membership) bool {
	for _, m := range all {
		if m.Group != all[0].Group {
			return false
		}
	}
	return true
}

// isBroadcast says that a is the broadcast address of a network of this machine, or
// of all: the last address of each network (RFC 919), which the kernel enters into
// its local table for every address with a prefix up to 30 bits.
func isBroadcast(a netip.Addr) bool {
	if a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil || !a.Is4() {
		return false
	}
	for _, o := range own {
		n, ok := o.(*net.IPNet)
		if !ok || n.IP.To4() == nil {
			continue
		}
		if ones, bits := n.Mask.Size(); bits != 32 || ones > 30 || !n.Contains(a.AsSlice()) {
			continue
		}
		ip, last := a.As4(), true
		for i, m := range n.Mask {
			last = last && ip[i]|m == 0xFF
		}
		if last {
			return true
		}
	}
	return false
}

// SetShared allows other sockets that allow it too (SO_REUSEADDR) to be bound to the
// port of a Conn that has it for itself, or ends that; it says nothing to other
// Conns. So the Conns of one program can be bound to one port: the exclusive ones
// first, shared while the others are made.
func (c *Conn) SetShared(shared bool) error {
	if !c.exclusive {
		return nil
	}
	value := 0
	if shared {
		value = 1
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, value))
}

// commonInterface is the index of the interface that all memberships name.
func commonInterface(all []Membership) (index int, ok bool) {
	for _, m := range all {
		if m.Interface == nil || index != 0 && m.Interface.Index != index {
			return 0, false
		}
		index = m.Interface.Index
	}
	return index, true
}

// setReceiveBuffer asks for size bytes and returns what the kernel granted.
// SO_RCVBUFFORCE needs CAP_NET_ADMIN; SO_RCVBUF is cut to net.core.rmem_max without
// a word.
func setReceiveBuffer(fd, size int) (int, error) {
	if size <= 0 {
		size = DefaultBuffer
	}
	half := min((size+1)/2, 1<<30-1) // the kernel doubles it, and it is an int
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, half) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, half); err != nil {
			return 0, os.NewSyscallError("setsockopt", err)
		}
	}
	granted, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return granted, os.NewSyscallError("getsockopt", err)
}

func (c *Conn) bind(family int, all []Membership) error {
	first := all[0]
	addr := netip.AddrPortFrom(netip.IPv4Unspecified(), c.port)
	if family == unix.AF_INET6 {
		addr = netip.AddrPortFrom(netip.IPv6Unspecified(), c.port)
	}
	var zone uint32
	if sharedGroup(all) {
		addr = first.Group
		if first.Interface != nil {
			zone = uint32(first.Interface.Index)
		}
	}
	var b [addrSize]byte
	n := putSockaddr(&b, addr, zone)
	_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(c.fd), uintptr(unsafe.Pointer(&b)), uintptr(n))
	hint := ""
	switch errno {
	case 0:
		return nil
	case unix.EADDRINUSE:
		hint = fmt.Sprintf(" (a program has UDP port %d for itself, without SO_REUSEADDR: ss -ulpn sport = :%d)", c.port, c.port)
		if c.exclusive {
			hint = fmt.Sprintf(" (a program receives on UDP port %d: ss -ulpn sport = :%d; two sockets cannot both have unicast datagrams: end the program, or have the sender send here what is to be recorded)", c.port, c.port)
		}
	case unix.EADDRNOTAVAIL:
		hint = " (neither a multicast group nor an address of this machine: ip addr)"
	case unix.EACCES:
		hint = " (a port below net.ipv4.ip_unprivileged_port_start needs CAP_NET_BIND_SERVICE)"
	case unix.EINVAL:
		if a := first.Group.Addr(); (a.IsLinkLocalMulticast() || a.IsLinkLocalUnicast()) && first.Interface == nil {
			hint = " (an address of link scope needs an interface)"
		}
	}
	return fmt.Errorf("%w%s", os.NewSyscallError("bind", errno), hint)
}

// group_req and group_source_req of linux/in.h, whose sockaddr_storage is aligned
// like a pointer.
type (
	sockaddrStorage struct {
		_    [0]uintptr
		addr [addrSize]byte
		_    [128 - addrSize]byte
	}
	groupRequest struct {
		index uint32
		group sockaddrStorage
	}
	groupSourceRequest struct {
		index         uint32
		group, source sockaddrStorage
	}
)

func (c *Conn) join(m Membership) error {
	errno := c.membership(m, unix.MCAST_JOIN_GROUP, unix.MCAST_JOIN_SOURCE_GROUP)
	if errno == 0 {
		return nil
	}
	hint := ""
	switch errno {
	case unix.ENOBUFS, unix.ENOMEM:
		hint = c.limitHint(m)
	case unix.ENODEV:
		hint = " (the interface is gone)"
		if m.Interface == nil {
			hint = " (no route leads to the group: name an interface)"
		}
	case unix.EADDRINUSE:
		hint = " (this socket is a member already)"
	case unix.EINVAL:
		hint = " (one socket cannot be member for any source and for one source)"
	}
	return fmt.Errorf("%w%s", os.NewSyscallError("setsockopt", errno), hint)
}

// limitHint names the limits that a join can meet, and what the socket has. Groups
// can be dealt to more sockets, so what is needed is that one holds one.
func (c *Conn) limitHint(m Membership) string {
	names := []string{"net/core/optmem_max"}
	if m.Group.Addr().Is4() {
		names = append(names, "net/ipv4/igmp_max_memberships")
	}
	if m.Source.IsValid() {
		name := "net/ipv6/mld_max_msf"
		if m.Group.Addr().Is4() {
			name = "net/ipv4/igmp_max_msf"
		}
		names = append(names, name)
	}
	slices.Reverse(names) // the likeliest first
	for i, name := range names {
		names[i] = fmt.Sprintf("%s = %s", strings.ReplaceAll(name, "/", "."), readSysctl(name))
	}
	return fmt.Sprintf(" (this socket has %d memberships and takes no more; one of these sysctls is too low, raise it above that: %s)",
		len(c.memberships), strings.Join(names, ", "))
}

// readSysctl is for messages.
func readSysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// membership joins or leaves by the option anySource or oneSource.
func (c *Conn) membership(m Membership, anySource, oneSource uintptr) unix.Errno {
	level := uintptr(unix.IPPROTO_IP)
	if !m.Group.Addr().Is4() {
		level = unix.IPPROTO_IPV6
	}
	var index uint32
	if m.Interface != nil {
		index = uint32(m.Interface.Index)
	}
	if !m.Source.IsValid() {
		req := groupRequest{index: index}
		putSockaddr(&req.group.addr, m.Group, index)
		_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(c.fd), level, anySource,
			uintptr(unsafe.Pointer(&req)), unsafe.Sizeof(req), 0)
		return errno
	}
	req := groupSourceRequest{index: index}
	putSockaddr(&req.group.addr, m.Group, index)
	putSockaddr(&req.source.addr, netip.AddrPortFrom(m.Source, 0), index)
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(c.fd), level, oneSource,
		uintptr(unsafe.Pointer(&req)), unsafe.Sizeof(req), 0)
	return errno
}

// LeaveAll ends every membership: nothing more is queued, and what is queued can
// still be read. It returns the first error and goes on; a membership whose
// interface is gone has ended by itself and is none.
func (c *Conn) LeaveAll() error {
	var first error
	for _, m := range c.memberships {
		errno := c.membership(m, unix.MCAST_LEAVE_GROUP, unix.MCAST_LEAVE_SOURCE_GROUP)
		switch errno {
		case 0, unix.ENODEV, unix.EADDRNOTAVAIL:
		default:
			if first == nil {
				first = fmt.Errorf("leaving %v: %w", m, os.NewSyscallError("setsockopt", errno))
			}
		}
	}
	c.memberships = nil
	return first
}

// Buffer is the receive buffer in bytes that the kernel granted.
func (c *Conn) Buffer() int { return c.buffer }

// Drops is the number of datagrams that the kernel has dropped on this socket
// since it was opened, modulo 2^32 (SO_MEMINFO). Unlike Message.Drops it knows of
// what was lost after the last datagram.
func (c *Conn) Drops() (uint32, error) {
	info, err := c.memory()
	return info[unix.SK_MEMINFO_DROPS], err
}

// Queued is the memory in bytes that datagrams take in the receive buffer now, to
// be compared with Buffer.
func (c *Conn) Queued() (int, error) {
	info, err := c.memory()
	return int(info[unix.SK_MEMINFO_RMEM_ALLOC]), err
}

func (c *Conn) memory() (info [unix.SK_MEMINFO_VARS]uint32, err error) {
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(c.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return info, os.NewSyscallError("getsockopt", errno)
	}
	return info, nil
}

// Close closes the socket, which ends its memberships. It may be called again.
func (c *Conn) Close() error {
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	if c.stamped {
		releaseStamps()
	}
	return os.NewSyscallError("close", unix.Close(fd))
}
