package sock

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// MaxReceive is the most datagrams that one Recv takes: UIO_MAXIOV of
	// linux/uio.h.
	MaxReceive = 1024

	// slotSize holds any UDP payload, also on IPv6, where the longest is 65,527.
	slotSize = 65536
	// slotStride keeps slots apart by an odd number of cache lines. At a distance of
	// 64 KiB all payloads would compete for the same sets of the cache.
	slotStride = slotSize + 33*64
	// controlSize holds time stamps (32, or 64 with hardware), TTL (24), drops (24)
	// and pktinfo (40).
	controlSize = 160
)

// Receiver is the memory that datagrams are received into: for each a slot of
// 64 KiB, of which only touched pages are resident, an address and control
// messages. It is made once, serves any number of Conns one after another, and
// belongs to one goroutine.
type Receiver struct {
	headers []mmsghdr
	iovecs  []unix.Iovec
	names   [][addrSize]byte
	// The kernel writes struct cmsghdr here, which is aligned like a pointer.
	controls [][controlSize / 8]uint64
	slab     []byte
	dirty    int // headers that the last call has written to
	conn     *Conn
}

// NewReceiver makes a Receiver for up to n datagrams a call, 1 to MaxReceive.
func NewReceiver(n int) (*Receiver, error) {
	if n < 1 || n > MaxReceive {
		return nil, fmt.Errorf("receiving %d datagrams a call is not between 1 and %d", n, MaxReceive)
	}
	r := &Receiver{
		headers:  make([]mmsghdr, n),
		iovecs:   make([]unix.Iovec, n),
		names:    make([][addrSize]byte, n),
		controls: make([][controlSize / 8]uint64, n),
		slab:     make([]byte, n*slotStride),
		dirty:    n,
	}
	for i := range r.headers {
		r.iovecs[i].Base = &r.slab[i*slotStride]
		r.iovecs[i].SetLen(slotSize)
		h := &r.headers[i].msghdr
		h.Iov = &r.iovecs[i]
		h.SetIovlen(1)
		h.Name = &r.names[i][0]
		h.Control = (*byte)(unsafe.Pointer(&r.controls[i]))
	}
	return r, nil
}

// Len is how many datagrams one Recv takes at most.
func (r *Receiver) Len() int { return len(r.headers) }

// Recv takes the datagrams that wait on c, at most Len, in one system call that
// does not wait. 0 without an error means that none is there. The messages of the
// call before are gone. It allocates nothing.
//
// An error is of this call as a whole: recvmmsg keeps one that struck after a few
// datagrams for the next call.
func (r *Receiver) Recv(c *Conn) (int, error) {
	for i := range r.headers[:r.dirty] {
		h := &r.headers[i].msghdr
		h.Namelen = addrSize
		h.SetControllen(controlSize)
		h.Flags = 0
	}
	r.dirty, r.conn = 0, c
	for range maxInterrupts {
		// Raw: the call never sleeps, so the scheduler need not be told, and cannot
		// take this thread's processor away in the middle of a burst.
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(c.fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(r.headers))), uintptr(len(r.headers)),
			// MSG_TRUNC: the length is the datagram's, not that of what fitted.
			unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
		switch errno {
		case 0:
			r.dirty = int(n)
			return int(n), nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
			continue
		}
		return 0, errno
	}
	return 0, unix.EINTR
}

// Message describes datagram i of the last Recv. m.Payload points into the
// Receiver until the next Recv. It allocates nothing.
func (r *Receiver) Message(i int, m *Message) {
	h := &r.headers[i]
	n := min(h.len, slotSize)
	*m = Message{
		Payload:   r.slab[i*slotStride : i*slotStride+int(n) : i*slotStride+int(n)],
		Src:       sockaddr(&r.names[i], h.msghdr.Namelen),
		Dst:       r.conn.dst,
		Length:    h.len,
		Truncated: h.msghdr.Flags&unix.MSG_TRUNC != 0 || h.len > slotSize,
	}
	control := unsafe.Slice((*byte)(unsafe.Pointer(&r.controls[i])), controlSize)
	m.readControl(control[:min(uint64(h.msghdr.Controllen), controlSize)], r.conn.port)
}

// cmsgHeader is the size of struct cmsghdr: a length of the machine's word size,
// level and type.
const cmsgHeader = unix.SizeofCmsghdr

// readControl reads control messages, cmsg(3), of the machine's own kernel.
func (m *Message) readControl(b []byte, port uint16) {
	for len(b) >= cmsgHeader {
		h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
		n := int(h.Len)
		if n < cmsgHeader || n > len(b) {
			return
		}
		data := b[cmsgHeader:n]
		switch {
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_TIMESTAMPNS_NEW && len(data) >= 16:
			m.Time = timespec(data)
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_TIMESTAMPING_NEW && len(data) >= 48:
			// struct scm_timestamping64: the kernel's time, nothing, the card's; 0 where
			// there is none (Documentation/networking/timestamping.rst).
			if m.Time = timespec(data[32:]); m.Time != 0 {
				m.Hardware = true
			} else {
				m.Time = timespec(data)
			}
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			m.Drops, m.HasDrops = binary.NativeEndian.Uint32(data), true
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TTL && len(data) >= 4,
			h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
			m.TTL = uint8(binary.NativeEndian.Uint32(data))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= 12:
			// struct in_pktinfo: interface, local address, destination of the header.
			m.Interface = binary.NativeEndian.Uint32(data)
			m.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(data[8:12])), port)
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 20:
			// struct in6_pktinfo: destination, interface.
			m.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(data[:16])), port)
			m.Interface = binary.NativeEndian.Uint32(data[16:])
		}
		const align = unsafe.Sizeof(uintptr(0)) - 1
		b = b[min(uintptr(len(b)), (uintptr(n)+align)&^align):]
	}
}

// timespec is a struct __kernel_timespec in ns.
func timespec(b []byte) int64 {
	return int64(binary.NativeEndian.Uint64(b))*1e9 + int64(binary.NativeEndian.Uint64(b[8:]))
}

// Poller waits until one of its Conns has a datagram. An epoll that nobody waits
// in costs next to nothing per datagram, so that the receive loop may leave it
// alone while it is busy and come back when it is idle.
//
// Wake may be called from any goroutine; all else belongs to one.
type Poller struct {
	epoll  int
	wake   waker
	events []unix.EpollEvent
}

// NewPoller makes a Poller that reports up to n Conns at once.
func NewPoller(n int) (*Poller, error) {
	p := &Poller{epoll: -1, events: make([]unix.EpollEvent, max(n, 1)+1)}
	p.wake.fd = -1
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if p.wake.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		p.Close()
		return nil, os.NewSyscallError("eventfd", err)
	}
	if err := p.add(p.wake.fd, wakeKey); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// wakeKey is the key of the eventfd; Conns have keys from 0.
const wakeKey = -1

// Add registers c; Wait reports it as key, which is at least 0.
func (p *Poller) Add(c *Conn, key int) error { return p.add(c.fd, int32(key)) }

func (p *Poller) add(fd int, key int32) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: key} // Fd is the free use part of the union
	err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &e)
	if err == unix.ENOSPC {
		return fmt.Errorf("%w (the limit is sysctl fs.epoll.max_user_watches = %s)", os.NewSyscallError("epoll_ctl", err), readSysctl("fs/epoll/max_user_watches"))
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// Wait fills ready with the keys of Conns that have a datagram or an error, and
// returns how many. It waits for the first up to milliseconds, for ever where
// that is negative; 0 only looks. A Wake, or a signal, ends the wait early. It
// allocates nothing.
func (p *Poller) Wait(ready []int, milliseconds int) (int, error) {
	var n int
	var err error
	if milliseconds == 0 {
		r, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll),
			uintptr(unsafe.Pointer(unsafe.SliceData(p.events))), uintptr(len(p.events)), 0, 0, 0)
		if n = int(r); errno != 0 {
			n, err = 0, errno
		}
	} else {
		n, err = unix.EpollWait(p.epoll, p.events, milliseconds)
	}
	if err == unix.EINTR {
		return 0, nil
	}
	if err != nil {
		return 0, os.NewSyscallError("epoll_wait", err)
	}
	found := 0
	for _, e := range p.events[:n] {
		switch {
		case e.Fd == wakeKey:
			p.wake.clear()
		case found < len(ready):
			ready[found] = int(e.Fd)
			found++
		}
	}
	return found, nil
}

// Wake ends the Wait that is under way, or the next one. After Close it does
// nothing.
func (p *Poller) Wake() { p.wake.set() }

// Close closes the descriptors of the Poller, not the Conns. It may be called
// again.
func (p *Poller) Close() error {
	p.wake.close()
	if p.epoll < 0 {
		return nil
	}
	fd := p.epoll
	p.epoll = -1
	return os.NewSyscallError("close", unix.Close(fd))
}
