package sock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// ringPatience is after how long the kernel hands over a block that is not full.
	ringPatience = 10 * time.Millisecond
	// minBlock holds the longest IP packet with its headers, maxBlock is what a wakeup
	// is worth.
	minBlock = 128 << 10
	maxBlock = 1 << 20
	// tagSize is the size of a VLAN tag in a frame.
	tagSize = 4
	// segmentHeader is the size of what PACKET_VNET_HDR puts before the frame.
	segmentHeader = 10
	// addresses is the size of the two addresses that a frame begins with.
	addresses = 12
)

// RingPatience is the longest time that a packet waits in the kernel until Next
// returns it, where the machine is not busy.
const RingPatience = ringPatience

// Ring is a packet socket whose packets the kernel writes into memory that it
// shares with us (TPACKET_V3, Documentation/networking/packet_mmap.rst): a ring of
// blocks of many packets each, so that neither a system call nor a wakeup is paid
// for a packet.
//
// It receives what arrives at the interface, not what this host sends out by it;
// on lo each packet once. It belongs to one goroutine; a Poller tells when there is
// a block.
type Ring struct {
	fd      int
	mem     []byte
	size    int // of a block
	blocks  int
	promisc bool

	block int    // the one to be read
	at    uint32 // of the next packet in it
	left  uint32 // packets in it that were not returned; 0 and open: all were
	open  bool
	lossy bool // the next packet is the first of a block before which something was lost

	taken, arrived, lost uint64
}

// OpenRing opens a packet socket. It receives nothing until everything is set,
// filter and ring, and then only what the filter takes: the socket has no protocol
// before it is bound.
func OpenRing(c RingConfig) (*Ring, error) {
	name := c.Interface.Name
	if len(c.Filter) == 0 {
		return nil, fmt.Errorf("%s: a ring without a filter", name)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		hint := ""
		if err == unix.EPERM || err == unix.EACCES {
			hint = " (needs CAP_NET_RAW: setcap cap_net_raw+ep on the program, or record by --source socket, which needs no privilege)"
		}
		return nil, fmt.Errorf("%s: packet socket: %w%s", name, os.NewSyscallError("socket", err), hint)
	}
	r := &Ring{fd: fd, promisc: c.Promiscuous}
	if err := r.set(c); err != nil {
		r.Close()
		return nil, fmt.Errorf("%s: packet socket: %w", name, err)
	}
	return r, nil
}

func (r *Ring) set(c RingConfig) error {
	type option struct {
		name        string
		code, value int
	}
	options := []option{
		{"PACKET_VERSION", unix.PACKET_VERSION, unix.TPACKET_V3},
		{"PACKET_RESERVE", unix.PACKET_RESERVE, tagSize}, // room for the tag before the frame
		{"PACKET_VNET_HDR", unix.PACKET_VNET_HDR, 1},     // which tells of joined datagrams
		{"PACKET_IGNORE_OUTGOING", unix.PACKET_IGNORE_OUTGOING, 1},
	}
	if c.Hardware {
		options = append(options, option{"PACKET_TIMESTAMP", unix.PACKET_TIMESTAMP, unix.SOF_TIMESTAMPING_RAW_HARDWARE})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, o.code, o.value); err != nil {
			return fmt.Errorf("option %s: %w", o.name, os.NewSyscallError("setsockopt", err))
		}
	}
	if err := r.SetFilter(c.Filter); err != nil {
		return err
	}
	if err := r.allocate(c.Buffer); err != nil {
		return err
	}
	if err := r.bind(c.Interface.Index); err != nil {
		return err
	}
	own, err := unix.Getsockname(r.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	if l, ok := own.(*unix.SockaddrLinklayer); ok && l.Hatype != unix.ARPHRD_ETHER && l.Hatype != unix.ARPHRD_LOOPBACK {
		return fmt.Errorf("packets of this interface have no Ethernet header (hardware type %d); record by --source socket", l.Hatype)
	}
	return nil
}

func (r *Ring) bind(index int) error {
	if r.promisc {
		m := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(r.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			return fmt.Errorf("promiscuous mode: %w", os.NewSyscallError("setsockopt", err))
		}
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xFF})
	return os.NewSyscallError("bind", unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}))
}

// Rebind goes on on dev, which was made in place of the interface that there was.
// What is in the ring stays, and so does the count of losses.
func (r *Ring) Rebind(dev *net.Interface) error {
	if err := r.bind(dev.Index); err != nil {
		return fmt.Errorf("%s: packet socket: %w", dev.Name, err)
	}
	return nil
}

// SetFilter changes the filter, between one packet and the next.
func (r *Ring) SetFilter(program []Instruction) error {
	f := make([]unix.SockFilter, len(program))
	for i, in := range program {
		f[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	err := unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]})
	if err == nil {
		return nil
	}
	hint := ""
	if err == unix.ENOMEM {
		hint = fmt.Sprintf(" (a program of %d instructions: raise the sysctl net.core.optmem_max = %s)", len(f), readSysctl("net/core/optmem_max"))
	}
	return fmt.Errorf("filter: %w%s", os.NewSyscallError("setsockopt", err), hint)
}

// allocate makes the ring and maps it.
func (r *Ring) allocate(size int) error {
	if size <= 0 {
		size = DefaultBuffer
	}
	r.size = minBlock
	for r.size < maxBlock && r.size < size/64 {
		r.size *= 2
	}
	r.blocks = max((size+r.size-1)/r.size, 2)
	request := unix.TpacketReq3{
		Block_size: uint32(r.size), Block_nr: uint32(r.blocks),
		// Of V3 the kernel uses blocks; it checks that these agree with them.
		Frame_size: uint32(r.size), Frame_nr: uint32(r.blocks),
		Retire_blk_tov: uint32(ringPatience / time.Millisecond),
	}
	err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &request)
	if err == nil {
		r.mem, err = unix.Mmap(r.fd, 0, r.size*r.blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err == nil {
			return nil
		}
	}
	hint := ""
	if err == unix.ENOMEM {
		hint = " (the kernel has no memory for it: ask for a smaller --buffer)"
	}
	return fmt.Errorf("ring of %d bytes: %w%s", r.size*r.blocks, err, hint)
}

// header is the beginning of block i.
func (r *Ring) header(i int) *unix.TpacketHdrV1 {
	b := (*unix.TpacketBlockDesc)(unsafe.Pointer(&r.mem[i*r.size]))
	return (*unix.TpacketHdrV1)(unsafe.Pointer(&b.Hdr))
}

func (r *Ring) ready(i int) bool {
	return atomic.LoadUint32(&r.header(i).Block_status)&unix.TP_STATUS_USER != 0
}

// Next returns the next packet, or false where none is there. What it returned
// before goes back to the kernel, block by block. It allocates nothing and makes no
// system call.
func (r *Ring) Next(p *Packet) bool {
	for r.left == 0 {
		h := r.header(r.block)
		if r.open {
			r.open = false
			atomic.StoreUint32(&h.Block_status, unix.TP_STATUS_KERNEL)
			if r.block++; r.block == r.blocks {
				r.block = 0
			}
			continue
		}
		status := atomic.LoadUint32(&h.Block_status)
		if status&unix.TP_STATUS_USER == 0 {
			return false
		}
		r.open, r.at, r.left = true, h.Offset_to_first_pkt, h.Num_pkts
		r.lossy = r.lossy || status&unix.TP_STATUS_LOSING != 0
	}
	h := (*unix.Tpacket3Hdr)(unsafe.Pointer(&r.mem[r.block*r.size+int(r.at)]))
	from := r.block*r.size + int(r.at) + int(h.Mac)
	n := int(h.Snaplen)
	*p = Packet{
		Length:   h.Len,
		Time:     int64(h.Sec)*1e9 + int64(h.Nsec),
		Hardware: h.Status&unix.TP_STATUS_TS_RAW_HARDWARE != 0,
		Lossy:    r.lossy,
	}
	// struct virtio_net_hdr of linux/virtio_net.h: flags, kind, header length, size.
	if v := r.mem[from-segmentHeader:]; v[1]&^unix.VIRTIO_NET_HDR_GSO_ECN == unix.VIRTIO_NET_HDR_GSO_UDP_L4 {
		p.Segment = int(binary.NativeEndian.Uint16(v[4:]))
	}
	r.lossy = false
	if h.Status&unix.TP_STATUS_VLAN_VALID != 0 && n >= addresses {
		from -= tagSize
		n += tagSize
		p.Length += tagSize
		f := r.mem[from:]
		copy(f[:addresses], f[tagSize:tagSize+addresses])
		tpid := uint16(0x8100)
		if h.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			tpid = h.Hv1.Vlan_tpid
		}
		binary.BigEndian.PutUint16(f[addresses:], tpid)
		binary.BigEndian.PutUint16(f[addresses+2:], uint16(h.Hv1.Vlan_tci))
	}
	p.Frame = r.mem[from : from+n : from+n]
	r.at += h.Next_offset
	r.left--
	r.taken++
	return true
}

// Filled is the share of the ring that waits to be read, 0 to 1, to an eighth.
func (r *Ring) Filled() float64 {
	for k := 7; k >= 0; k-- {
		if ahead := (r.blocks - 1) * k / 7; r.ready((r.block + ahead) % r.blocks) {
			return float64(ahead+1) / float64(r.blocks)
		}
	}
	return 0
}

// Lost asks the kernel how many packets it has lost in all because the ring was
// full (PACKET_STATISTICS). A Packet that is Lossy is the first after a loss, where
// Lost was not called between the two.
func (r *Ring) Lost() (uint64, error) {
	var s unix.TpacketStatsV3
	size := uint32(unsafe.Sizeof(s))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(r.fd), unix.SOL_PACKET, unix.PACKET_STATISTICS,
		uintptr(unsafe.Pointer(&s)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return r.lost, os.NewSyscallError("getsockopt", errno)
	}
	// The kernel begins anew with each reading; Packets includes Drops.
	r.lost += uint64(s.Drops)
	r.arrived += uint64(s.Packets)
	return r.lost, nil
}

// Waiting is the number of packets that are in the ring and were not returned, at
// the time of the last Lost.
func (r *Ring) Waiting() uint64 { return r.arrived - min(r.arrived, r.lost+r.taken) }

// Err is what has happened to the interface since it was last asked, such as
// ENETDOWN; packets come again when it is up again.
func (r *Ring) Err() error {
	code, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if code != 0 {
		return unix.Errno(code)
	}
	return nil
}

// Buffer is the size of the ring in bytes.
func (r *Ring) Buffer() int { return r.size * r.blocks }

// Close closes the socket and unmaps the ring: no Packet of it may be used any more.
// It may be called again.
func (r *Ring) Close() error {
	if r.fd < 0 {
		return nil
	}
	fd := r.fd
	r.fd = -1
	var err error
	if r.mem != nil {
		err = os.NewSyscallError("munmap", unix.Munmap(r.mem))
		r.mem = nil
	}
	return errors.Join(err, os.NewSyscallError("close", unix.Close(fd)))
}

// AddRing registers r; Wait reports it as key, which is at least 0, while it has a
// block to be read.
func (p *Poller) AddRing(r *Ring, key int) error { return p.add(r.fd, int32(key)) }

// Join opens a socket that is a member of groups and receives nothing, since it has
// no port: for the network to send what a Ring receives. Ports of the memberships
// do not matter. All are of one address family; each group is at most once there.
func Join(all []Membership) (*Conn, error) {
	if len(all) == 0 {
		return nil, errors.New("no group to join")
	}
	family := unix.AF_INET6
	if all[0].Group.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", all[0], os.NewSyscallError("socket", err))
	}
	c := &Conn{fd: fd}
	for _, m := range all {
		if err := c.join(m); err != nil {
			c.Close()
			return nil, fmt.Errorf("joining %v: %w", m, err)
		}
		c.memberships = append(c.memberships, m)
	}
	return c, nil
}
