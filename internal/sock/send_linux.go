package sock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// sendWait is how long Send lets the kernel wait for room in a socket's send
	// buffer before it returns, in ms. It bounds how long a stop takes.
	sendWait = 40
	// maxInterrupts bounds the retries of one call after EINTR, which restarts
	// sendWait.
	maxInterrupts = 8
	// msgProbe is MSG_PROBE of linux/socket.h, which x/sys/unix lacks.
	msgProbe = 0x10

	// maxRuns bounds the messages of one call of sendmmsg, each a datagram or a run
	// of them.
	maxRuns = 64
	// maxSegments is UDP_MAX_SEGMENTS of linux/udp.h; kernels since 6.9 take twice as
	// many, which gains nothing.
	maxSegments = 64
	// maxRunBytes is what fits into one IPv4 packet, less the headers; a run is one
	// until it is cut.
	maxRunBytes = 65535 - 60 - 8
)

// segmentControl is the control message that makes a message a run: UDP_SEGMENT
// with the size of a segment (udp(7)).
type segmentControl struct {
	header unix.Cmsghdr
	size   uint16
	_      [6]byte
}

// mmsghdr is struct mmsghdr, sendmmsg(2). Go aligns it like C does: Msghdr holds
// pointers, so the size is a multiple of theirs.
type mmsghdr struct {
	msghdr unix.Msghdr
	len    uint32
}

// Messages is an array of prepared datagrams: headers, and for each a payload and
// a destination. The array is made once and filled again and again; it holds on
// to the payloads and the Sockaddrs of the last filling.
type Messages struct {
	headers []mmsghdr
	iovecs  []unix.Iovec
}

// NewMessages makes room for n datagrams, 80 bytes each.
func NewMessages(n int) *Messages {
	m := &Messages{headers: make([]mmsghdr, n), iovecs: make([]unix.Iovec, n)}
	for i := range m.headers {
		h := &m.headers[i].msghdr
		h.Iov = &m.iovecs[i]
		h.SetIovlen(1)
	}
	return m
}

// Len is how many datagrams the array has room for.
func (m *Messages) Len() int { return len(m.headers) }

// Grow makes room for n datagrams, and keeps those that are set.
func (m *Messages) Grow(n int) {
	grown := NewMessages(max(n, len(m.headers)))
	for i := range m.headers {
		grown.iovecs[i] = m.iovecs[i]
		h := &grown.headers[i].msghdr
		h.Name, h.Namelen = m.headers[i].msghdr.Name, m.headers[i].msghdr.Namelen
	}
	*m = *grown
}

// Reorder puts message order[i] at i, for each i below the length of order, which names
// each of that many first messages once. What stands behind them is lost. It swaps memory with
// spare, which it makes large enough first.
func (m *Messages) Reorder(order []int32, spare *Messages) {
	if len(spare.headers) < len(m.headers) {
		*spare = *NewMessages(len(m.headers))
	}
	for to, from := range order {
		spare.iovecs[to] = m.iovecs[from]
		h, of := &spare.headers[to].msghdr, &m.headers[from].msghdr
		h.Name, h.Namelen = of.Name, of.Namelen
	}
	*m, *spare = *spare, *m
}

// Set makes message i the datagram of payload to dst. The payload is not copied:
// it must not change until it was sent.
func (m *Messages) Set(i int, payload []byte, dst *Sockaddr) {
	v := &m.iovecs[i]
	// An empty slice may point behind the memory it was cut from.
	v.Base = nil
	if len(payload) > 0 {
		v.Base = unsafe.SliceData(payload)
	}
	v.SetLen(len(payload))
	h := &m.headers[i].msghdr
	h.Name = &dst.b[0]
	h.Namelen = dst.n
}

// Sender sends datagrams out of one interface. A datagram leaves from the port it
// was recorded from: there is one socket for each source port, up to a bound.
//
// The sockets are not connected, block (SO_SNDTIMEO bounds it) and stay outside
// the runtime's poller. They join nothing and are never read.
//
// One goroutine may call Send while another calls Socket, provided that each
// socket number is handed over with synchronization, such as a channel. Close
// comes after both.
type Sender struct {
	options SenderOptions
	source  netip.Addr // of IPv4 sockets; the zero address where the interface has none

	// fds has its final length from the start, so that Socket can add to it while
	// Send reads other elements. Elements 0 and 1 are the sockets for IPv4 and IPv6
	// whose port the kernel chose, -1 where the family is not available.
	fds    []int
	used   int
	family [2]error // why fds[0] or fds[1] is -1
	ports  [2][65536]socketOfPort

	frames  bool // by NewFrameSender
	holding bool
	// from are the sockets of SocketFrom.
	from map[netip.AddrPort]int

	reverted uint64
	late     uint64

	// Of the call that goes on: its messages, how many datagrams each carries, and
	// the control messages of those that carry several.
	runs     [maxRuns]mmsghdr
	carries  [maxRuns]int
	controls [maxRuns]segmentControl
	// segment is the longest payload in bytes that may be a part of a run, by IP
	// version; 0 where runs are off.
	segment       [2]int
	segmentation  error  // why runs were given up
	segments, cut uint64 // datagrams in runs, runs
}

// socketOfPort is a socket number plus 1; 0 where the port was not seen yet.
type socketOfPort uint16

// NewSender opens the sockets without a fixed port, one for each IP version, and
// so finds out whether sending out of the interface is possible at all. It keeps
// a copy of the options.
func NewSender(o SenderOptions) (*Sender, error) {
	if o.Interface == nil {
		return nil, errors.New("sending needs an interface")
	}
	if o.TTL < 0 || o.TTL > 255 {
		return nil, fmt.Errorf("TTL %d is not between 0 and 255", o.TTL)
	}
	if o.TTL == 0 {
		o.TTL = 1
	}
	if o.DSCP < 0 || o.DSCP > maxDSCP {
		return nil, fmt.Errorf("DSCP %d is not between 0 and %d", o.DSCP, maxDSCP)
	}
	if o.MaxSockets == 0 {
		o.MaxSockets = MaxSendSockets
	}
	if o.MaxSockets < 0 || o.MaxSockets > limitSendSockets {
		return nil, fmt.Errorf("%d sockets is not between 0 and %d", o.MaxSockets, limitSendSockets)
	}
	s := &Sender{options: o, source: netip.IPv4Unspecified(), fds: make([]int, 2+o.MaxSockets), used: 2}
	if o.Segmentation {
		// What does not fit a packet is refused, not fragmented, where it is a segment.
		s.segment = [2]int{max(o.Interface.MTU-28, 0), max(o.Interface.MTU-48, 0)}
	}
	addresses, err := o.Interface.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", o.Interface.Name, err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok {
			if ip4 := n.IP.To4(); ip4 != nil {
				s.source = netip.AddrFrom4([4]byte(ip4))
				break
			}
		}
	}
	for i := range s.family {
		s.fds[i], s.family[i] = s.open(0, i == 1)
	}
	if o.Transparent {
		s.from = make(map[netip.AddrPort]int)
		if err := s.tryTransparent(); err != nil {
			s.Close()
			return nil, err
		}
	}
	if s.family[0] != nil && s.family[1] != nil {
		return nil, errors.Join(s.family[0], s.family[1])
	}
	return s, nil
}

// NewFrameSender makes a Sender of one socket, number 0, whose messages are whole frames
// from their link-layer header on (AF_PACKET, packet(7): it takes CAP_NET_RAW). They leave
// as they are, by the interface; their Sockaddr is the zero one. Nothing is looped back
// and, but on lo, nothing on this host hears them.
func NewFrameSender(iface *net.Interface, sendBuffer int) (*Sender, error) {
	if iface == nil {
		return nil, errors.New("sending needs an interface")
	}
	s := &Sender{options: SenderOptions{Interface: iface}, fds: []int{-1}, used: 1, frames: true}
	fail := func(what string, err error) (*Sender, error) {
		s.Close()
		return nil, fmt.Errorf("packet socket on %s: %s: %w", iface.Name, what, err)
	}
	// Protocol 0: it receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail("opening", err)
	}
	s.fds[0] = fd
	if sendBuffer > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer); err != nil {
			return fail("SO_SNDBUF", err)
		}
	}
	wait := unix.NsecToTimeval(sendWait * 1e6)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait); err != nil {
		return fail("SO_SNDTIMEO", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: iface.Index}); err != nil {
		return fail("binding", err)
	}
	return s, nil
}

// Source is the IPv4 source address of what is sent: the interface's first one,
// or 0.0.0.0 where it has none and the kernel takes one of another interface.
func (s *Sender) Source() netip.Addr { return s.source }

// Socket returns the number of the socket that sends datagrams of an IP version
// from a source port, and opens it where it is the first with that port. kept is
// false where that socket has another port: because the recorded one is 0, is
// taken by a socket without SO_REUSEADDR, needs a capability (below
// net.ipv4.ip_unprivileged_port_start), or because the bound of sockets is
// reached. The answer for a port never changes.
//
// The error says that this host cannot send that IP version at all.
func (s *Sender) Socket(port uint16, ipv6 bool) (socket int, kept bool, err error) {
	v := 0
	if ipv6 {
		v = 1
	}
	if s.family[v] != nil {
		return 0, false, s.family[v]
	}
	known := &s.ports[v][port]
	if *known == 0 {
		socket := v
		if port != 0 && s.used < len(s.fds) {
			if fd, err := s.open(port, ipv6); err == nil {
				socket = s.used
				s.fds[socket] = fd
				s.used++
			}
		}
		if socket == v {
			s.reverted++
		}
		*known = socketOfPort(socket + 1)
	}
	socket = int(*known) - 1
	return socket, socket > 1, nil
}

// tryTransparent finds out whether this program may send from any address.
func (s *Sender) tryTransparent() error {
	for i, option := range [2]struct{ level, name int }{{unix.IPPROTO_IP, unix.IP_TRANSPARENT}, {unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT}} {
		if s.family[i] != nil {
			continue
		}
		if err := unix.SetsockoptInt(s.fds[i], option.level, option.name, 1); err != nil {
			return fmt.Errorf("IP_TRANSPARENT: %w", err)
		}
	}
	return nil
}

// SocketFrom returns the number of the socket that sends from an address and a port,
// which need not be this host's (IP_TRANSPARENT, ip(7): it takes CAP_NET_ADMIN or
// CAP_NET_RAW, and without them NewSender fails with EPERM). It opens the socket where
// it is the first from there. The sender was made with Transparent. The error says that
// nothing can be sent from there, or that the bound of sockets is reached.
func (s *Sender) SocketFrom(src netip.AddrPort) (socket int, err error) {
	if socket, ok := s.from[src]; ok {
		return socket, nil
	}
	a, v := src.Addr(), 0
	if a.Is6() {
		v = 1
	}
	switch {
	case s.family[v] != nil:
		return 0, s.family[v]
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return 0, fmt.Errorf("%s is no sender's address: %w", src, unix.EADDRNOTAVAIL)
	case s.used == len(s.fds):
		return 0, fmt.Errorf("more than %d sources, which need a socket each: %w", s.options.MaxSockets, unix.EMFILE)
	}
	fd, err := s.openFrom(src, v == 1)
	if err != nil {
		return 0, err
	}
	socket = s.used
	s.fds[socket] = fd
	s.used++
	s.from[src] = socket
	return socket, nil
}

// Reverted counts the source ports, per IP version, that could not be kept; see
// Socket. It belongs to the goroutine that calls Socket.
func (s *Sender) Reverted() uint64 { return s.reverted }

// Late counts errors that arrived after the datagram they are about had left:
// what ICMP brought back, such as ECONNREFUSED of a unicast destination where
// nobody listens. It is a lower bound: the kernel keeps one at a time and names
// it only where it met the first datagram of a call. It belongs to the goroutine
// that calls Send.
func (s *Sender) Late() uint64 { return s.late }

// Hold says whether Send keeps the goroutine's processor (GOMAXPROCS) during its system
// calls, of some 40 ms at most each: see SleepHolding, which it goes with. It belongs to
// the goroutine that calls Send.
func (s *Sender) Hold(on bool) { s.holding = on }

// Segmentation reports whether the sender was made to send runs.
func (s *Sender) Segmentation() bool { return s.options.Segmentation }

// Send sends messages from (inclusive) to to (exclusive) in order through one
// socket. It returns how many left; with an error, which is a syscall.Errno,
// message from+sent was not sent and is the one the error is about:
//
//	EAGAIN      there was no room in the send buffer for some 40 ms: the message
//	            may be tried again
//	ENOBUFS     the queue of the interface was full and dropped it (known only
//	            because IP_RECVERR is on; without it the kernel says success)
//	EMSGSIZE    longer than an IP packet can be
//	EPERM       a firewall dropped it
//	ENETUNREACH, EADDRNOTAVAIL, ENODEV, ENETDOWN  no way out, or no interface any more
//
// The caller decides whether to go on with from+sent+1. A datagram longer than
// the MTU is fragmented. Send does not allocate, and no message is sent twice.
func (s *Sender) Send(socket int, m *Messages, from, to int) (sent int, err error) {
	fd := s.fds[socket]
	interrupts := 0
	pending := false
	for next := from; next < to; {
		count := s.gather(m, next, to)
		call := unix.Syscall6
		if s.holding {
			call = unix.RawSyscall6
		}
		n, _, errno := call(unix.SYS_SENDMMSG, uintptr(fd),
			uintptr(unsafe.Pointer(&s.runs[0])), uintptr(count), 0, 0, 0)
		if errno == 0 {
			// Fewer than asked: the message behind them failed. The kernel keeps the reason
			// for itself and gives it when that message comes first, sendmmsg(2) BUGS. So it
			// is tried once more; nothing of the first try left, or only part of its
			// fragments, which nobody puts together.
			for _, k := range s.carries[:n] {
				next += k
				if k > 1 {
					s.segments += uint64(k)
					s.cut++
				}
			}
			if pending {
				s.late++
				pending = false
			}
			continue
		}
		switch {
		case errno == unix.EINTR:
			// With SO_SNDTIMEO set the kernel does not restart the call, signal(7).
			if interrupts++; interrupts < maxInterrupts {
				continue
			}
			errno = unix.EAGAIN
		case s.carries[0] > 1 && refusesRuns(errno):
			// The whole run comes again, datagram by datagram.
			s.segmentation = errno
			s.segment = [2]int{}
			continue
		case !pending && maybeLate(errno):
			// This may be about an earlier datagram, and then this one was not tried. The
			// report has cleared it: an error about this one comes again.
			pending = true
			continue
		}
		return next - from, errno
	}
	return to - from, nil
}

// gather makes the messages of one call from those of m: neighbours to one
// destination and of one length become a run, which ends with the first that is
// shorter. The iovecs of a run stand side by side already, so nothing is copied.
func (s *Sender) gather(m *Messages, from, to int) (count int) {
	for i := from; i < to && count < maxRuns; count++ {
		run := &s.runs[count]
		*run = m.headers[i]
		size, dst := int(m.iovecs[i].Len), run.msghdr.Name
		end := i + 1
		if limit := s.segment[familyIndex(run.msghdr.Namelen)]; size > 0 && size <= limit {
			last := min(to, i+maxSegments, i+maxRunBytes/size)
			for end < last && m.headers[end].msghdr.Name == dst && int(m.iovecs[end].Len) == size {
				end++
			}
			if end < last && m.headers[end].msghdr.Name == dst && m.iovecs[end].Len > 0 && int(m.iovecs[end].Len) < size {
				end++
			}
		}
		if n := end - i; n > 1 {
			c := &s.controls[count]
			c.header = unix.Cmsghdr{Level: unix.IPPROTO_UDP, Type: unix.UDP_SEGMENT}
			c.header.SetLen(unix.CmsgLen(2))
			c.size = uint16(size)
			run.msghdr.Control = (*byte)(unsafe.Pointer(c))
			run.msghdr.SetControllen(unix.CmsgSpace(2))
			run.msghdr.SetIovlen(n)
		}
		s.carries[count] = end - i
		i = end
	}
	return count
}

// familyIndex is 0 for IPv4 and 1 for IPv6, by the length of an address.
func familyIndex(namelen uint32) int {
	if namelen == unix.SizeofSockaddrInet4 {
		return 0
	}
	return 1
}

// refusesRuns reports whether the kernel may mean the run and not the datagrams: it
// does not know UDP_SEGMENT (before 4.18), the device does no checksums (EIO), a
// segment does not fit the MTU (EINVAL, EMSGSIZE): udp_send_skb, net/ipv4/udp.c.
func refusesRuns(e syscall.Errno) bool {
	switch e {
	case unix.EIO, unix.EINVAL, unix.EMSGSIZE, unix.ENOPROTOOPT, unix.EOPNOTSUPP:
		return true
	}
	return false
}

// Segmented counts the datagrams that left as parts of a run, and the runs. refused
// is why the kernel took no more runs, nil where it does or none was asked for. It
// belongs to the goroutine that calls Send.
func (s *Sender) Segmented() (datagrams, runs uint64, refused error) {
	return s.segments, s.cut, s.segmentation
}

// maybeLate reports whether ICMP may have brought the error back for a datagram
// that had left: those of icmp_err_convert, net/ipv4/icmp.c, and icmpv6_err_convert,
// without EMSGSIZE (fragmentation is on) and EACCES.
func maybeLate(e syscall.Errno) bool {
	switch e {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENOPROTOOPT,
		unix.EOPNOTSUPP, unix.EHOSTDOWN, unix.ENONET, unix.EPROTO:
		return true
	}
	return false
}

// Warm runs the kernel's sending path for message i, route lookup included,
// without sending: an empty datagram with MSG_PROBE ("do not send", linux/socket.h)
// to the same destination. The first datagram of a cold path leaves 30 to 45 us
// late. Warm changes nothing in m.
func (s *Sender) Warm(socket int, m *Messages, i int) {
	if s.frames {
		return // packet sockets know no MSG_PROBE
	}
	probe := NewMessages(1)
	probe.headers[0].msghdr.Name = m.headers[i].msghdr.Name
	probe.headers[0].msghdr.Namelen = m.headers[i].msghdr.Namelen
	for range 16 {
		// udp_sendmsg returns before it makes a packet where both flags are set and
		// the length is 0. An error is left to the first real datagram.
		unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fds[socket]), uintptr(unsafe.Pointer(&probe.headers[0])),
			1, msgProbe|unix.MSG_CONFIRM, 0, 0)
	}
}

// Close closes all sockets. Datagrams that the kernel took still leave. It may
// be called again; nothing else may.
func (s *Sender) Close() error {
	var errs []error
	for i, fd := range s.fds[:s.used] {
		if fd >= 0 {
			s.fds[i] = -1
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// open makes one socket; port 0 lets the kernel choose.
func (s *Sender) open(port uint16, ipv6 bool) (fd int, err error) {
	if ipv6 {
		// The kernel picks the source among the interface's addresses by the scope of
		// the destination, RFC 6724 section 5; one fixed address cannot fit them all.
		return s.openFrom(netip.AddrPortFrom(netip.IPv6Unspecified(), port), ipv6)
	}
	return s.openFrom(netip.AddrPortFrom(s.source, port), ipv6)
}

// openFrom makes one socket with the source src.
func (s *Sender) openFrom(src netip.AddrPort, ipv6 bool) (fd int, err error) {
	family, version := unix.AF_INET, "IPv4"
	if ipv6 {
		family, version = unix.AF_INET6, "IPv6"
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, fmt.Errorf("%s socket: %w", version, err)
	}
	name := ""
	defer func() {
		if err != nil {
			unix.Close(fd)
			fd, err = -1, fmt.Errorf("%s socket on %s: %s: %w", version, s.options.Interface.Name, name, err)
		}
	}()
	set := func(what string, level, option, value int) {
		if err == nil {
			name = what
			err = unix.SetsockoptInt(fd, level, option, value)
		}
	}
	// A receiver on this host may have the port too; it sets this option as well.
	set("SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	// Nothing is read: what arrives on the port is not to occupy memory.
	set("SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, 0)
	if s.options.SendBuffer > 0 {
		set("SO_SNDBUF", unix.SOL_SOCKET, unix.SO_SNDBUF, s.options.SendBuffer)
	}
	if s.options.Broadcast && !ipv6 {
		set("SO_BROADCAST", unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	}
	if err == nil {
		name = "SO_SNDTIMEO"
		wait := unix.NsecToTimeval(sendWait * 1e6)
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
	}
	index, loop := s.options.Interface.Index, 0
	if s.options.Loopback {
		loop = 1
	}
	// IP_UNICAST_IF and IPV6_UNICAST_IF take the index in network byte order.
	var networkOrder [4]byte
	binary.BigEndian.PutUint32(networkOrder[:], uint32(index))
	unicastIndex := int(int32(binary.NativeEndian.Uint32(networkOrder[:])))
	if ipv6 {
		set("IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		set("IPV6_MULTICAST_IF", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
		set("IPV6_UNICAST_IF", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF, unicastIndex)
		set("IPV6_MULTICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, s.options.TTL)
		set("IPV6_UNICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, s.options.TTL)
		set("IPV6_TCLASS", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, s.options.DSCP<<2)
		if s.from != nil {
			set("IPV6_TRANSPARENT", unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1)
		}
		set("IPV6_MULTICAST_LOOP", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, loop)
		set("IPV6_MULTICAST_ALL", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
		set("IPV6_RECVERR", unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		set("IPV6_MTU_DISCOVER", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
	} else {
		if err == nil {
			// bind alone sends out of whatever device the routing table says.
			name = "IP_MULTICAST_IF"
			err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
		}
		set("IP_UNICAST_IF", unix.IPPROTO_IP, unix.IP_UNICAST_IF, unicastIndex)
		set("IP_MULTICAST_TTL", unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, s.options.TTL)
		set("IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, s.options.TTL)
		set("IP_TOS", unix.IPPROTO_IP, unix.IP_TOS, s.options.DSCP<<2)
		if s.from != nil {
			set("IP_TRANSPARENT", unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
		}
		set("IP_MULTICAST_LOOP", unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, loop)
		set("IP_MULTICAST_ALL", unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0)
		// A full queue then says ENOBUFS instead of success, ip(7).
		set("IP_RECVERR", unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		// No DF bit: the kernel fragments what is longer than the MTU.
		set("IP_MTU_DISCOVER", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	}
	if err != nil {
		return fd, err
	}
	name = fmt.Sprintf("binding %s", src)
	if ipv6 {
		sa := &unix.SockaddrInet6{Port: int(src.Port()), Addr: src.Addr().As16()}
		if src.Addr().IsLinkLocalUnicast() {
			sa.ZoneId = uint32(index)
		}
		err = unix.Bind(fd, sa)
	} else {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(src.Port()), Addr: src.Addr().As4()})
	}
	return fd, err
}

// ErrnoName is the name of an error number, such as "ENOBUFS".
func ErrnoName(e syscall.Errno) string {
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(e))
}
