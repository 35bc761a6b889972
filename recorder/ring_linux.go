package recorder

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"castdeck/format"
	"castdeck/internal/mcast"
	"castdeck/internal/pcapfilter"
	"castdeck/internal/sock"
)

// ring is the packet socket of a network interface and the subscriptions that it
// serves; it is joined by sockets that receive nothing themselves.
type ring struct {
	ring    *sock.Ring
	config  sock.RingConfig // ring's
	joins   []*sock.Conn
	decoder format.FrameDecoder
	// groups are in order of group, port and source; empty where the filter alone
	// decides, and sub then stands for the interface.
	groups []ringGroup
	recent int // index in groups of the last datagram's
	sub    uint16

	packet sock.Packet
	frame  []byte // of one datagram of several in a packet
	// lost is what the kernel has told of, placed what datagrams carry of it, booked
	// what has been booked on subscriptions.
	lost, placed, booked uint64
	failures             int
	left                 bool // the filter is closed
}

// ringGroup is a subscription; source is the zero Addr for any.
type ringGroup struct {
	dst    netip.AddrPort
	source netip.Addr
	sub    uint16
	// alone: no other has this dst.
	alone bool
}

// ringSettling is settling for rings: a packet may stay in a block that is not full
// besides.
const ringSettling = settling + 2*int64(sock.RingPatience)

// resolveInterfaces is resolve where a filter alone says what to record.
func (r *Recorder) resolveInterfaces(p *PacketOptions) ([]*net.Interface, error) {
	var devices []*net.Interface
	for _, name := range p.Interfaces {
		dev, err := mcast.Interface(name)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(devices, func(d *net.Interface) bool { return d.Index == dev.Index }) {
			return nil, fmt.Errorf("%s is there twice", dev.Name)
		}
		devices = append(devices, dev)
		r.interfaces = append(r.interfaces, format.Interface{
			Name: dev.Name, Description: p.Filter + " on " + dev.Name, LinkType: format.LinkTypeEthernet})
	}
	return devices, nil
}

// openRings opens a ring for each interface and joins the groups.
func (r *Recorder) openRings(subs []Subscription, devices []*net.Interface) error {
	l, p := r.loop, r.options.Packet
	l.settling = ringSettling
	var restrict *pcapfilter.Expr
	if p.Filter != "" {
		var err error
		if restrict, err = pcapfilter.Parse(p.Filter); err != nil {
			return err
		}
	}
	var err error
	if r.poller, err = sock.NewPoller(len(devices)); err != nil {
		return err
	}
	l.poller = r.poller
	keys := map[int]int{} // of the rings, by interface
	for i, dev := range devices {
		if dev == nil {
			return fmt.Errorf("%v: a packet socket needs an interface", subs[i])
		}
		key, ok := keys[dev.Index]
		if !ok {
			key = len(l.inlets)
			keys[dev.Index] = key
			l.inlets = append(l.inlets, &ring{decoder: p.Decoder, sub: uint16(i), config: sock.RingConfig{
				Interface: dev, Buffer: r.options.Buffer, Promiscuous: p.Promiscuous, Hardware: r.options.Hardware}})
		}
		l.place(dev, i, key)
		if len(subs) == 0 {
			continue
		}
		if subs[i].Group.Addr().IsUnspecified() {
			return fmt.Errorf("%v: a packet socket needs an address; or record by a filter such as dst port %d, without groups", subs[i], subs[i].Group.Port())
		}
		s := l.inlets[key].(*ring)
		s.groups = append(s.groups, ringGroup{dst: subs[i].Group, source: subs[i].Source, sub: uint16(i)})
	}
	for i, in := range l.inlets {
		s := in.(*ring)
		s.sort()
		if s.config.Filter, err = s.program(restrict); err != nil {
			return err
		}
		if s.ring, err = sock.OpenRing(s.config); err != nil {
			return err
		}
		if err := s.join(); err != nil {
			return err
		}
		if err := r.poller.AddRing(s.ring, i); err != nil {
			return err
		}
	}
	l.ready = make([]int, len(l.inlets))
	return nil
}

// sort puts the groups into the order that find wants.
func (s *ring) sort() {
	g := s.groups
	slices.SortFunc(g, func(a, b ringGroup) int { return cmp.Or(a.dst.Compare(b.dst), a.source.Compare(b.source)) })
	for i := range g {
		g[i].alone = (i == 0 || g[i-1].dst != g[i].dst) && (i == len(g)-1 || g[i+1].dst != g[i].dst)
	}
}

// program is the kernel's filter. Where it does not hold all groups, find sorts out.
func (s *ring) program(restrict *pcapfilter.Expr) ([]sock.Instruction, error) {
	groups := make([]pcapfilter.Group, len(s.groups))
	for i, g := range s.groups {
		groups[i] = pcapfilter.Group{Dst: g.dst, Source: g.source}
	}
	raw, _, err := pcapfilter.CompileGroups(groups, restrict)
	program := make([]sock.Instruction, len(raw))
	for i, in := range raw {
		program[i] = sock.Instruction(in)
	}
	return program, err
}

// join makes the network send the groups.
func (s *ring) join() error {
	for _, members := range joins(s.groups, s.config.Interface, mcast.MaxMemberships()) {
		c, err := sock.Join(members)
		if err != nil {
			return err
		}
		s.joins = append(s.joins, c)
	}
	return nil
}

// joins deals memberships to sockets: each group once a socket, since a socket takes
// one for any source and for one source not both, and few sources of a group; and
// at most maxIPv4 (igmp_max_memberships) of IPv4, groupsPerSocket of IPv6. Ports do
// not matter.
func joins(groups []ringGroup, dev *net.Interface, maxIPv4 int) [][]sock.Membership {
	type socketKind struct {
		ipv4  bool
		layer int // how many memberships of its group a membership is behind
	}
	var sockets [][]sock.Membership
	open := map[socketKind]int{}
	seen := map[sock.Membership]bool{}
	layers := map[netip.Addr]int{}
	for _, g := range groups {
		addr := g.dst.Addr()
		m := sock.Membership{Group: netip.AddrPortFrom(addr, 0), Source: g.source, Interface: dev}
		if !addr.IsMulticast() || seen[m] {
			continue
		}
		seen[m] = true
		k := socketKind{addr.Is4(), layers[addr]}
		layers[addr]++
		limit := groupsPerSocket
		if k.ipv4 {
			limit = max(maxIPv4, 1)
		}
		n, ok := open[k]
		if !ok || len(sockets[n]) >= limit {
			n = len(sockets)
			sockets = append(sockets, nil)
			open[k] = n
		}
		sockets[n] = append(sockets[n], m)
	}
	return sockets
}

func (s *ring) shared() bool { return len(s.groups) > 1 }

// drain takes packets until the ring is empty, or calls times as many as recvmmsg
// takes from a socket.
func (s *ring) drain(l *loop, calls int) (n int, more bool, err error) {
	filled := s.ring.Filled()
	l.filled = max(l.filled, filled)
	for n < calls*receivePerCall {
		if !s.ring.Next(&s.packet) {
			if s.left && s.await(l) {
				continue
			}
			if n > 0 {
				l.stats.Calls++
				s.failures = 0
				return n, false, nil
			}
			return 0, false, s.fault(l)
		}
		if s.packet.Lossy {
			if _, err := s.account(l); err != nil {
				l.stats.Errors++
			}
		}
		n++
		if s.packet.Segment != 0 {
			s.split(l, &s.packet)
		} else {
			s.take(l, &s.packet)
		}
		if l.counted {
			return n, false, nil
		}
	}
	l.stats.Calls++
	l.floor = min(l.floor, s.packet.Time) // what is left behind came later
	return n, true, nil
}

// fault looks why there is nothing. The kernel tells once that the interface has
// gone down; packets come again when it is up.
func (s *ring) fault(l *loop) error {
	err := s.ring.Err()
	if err == nil {
		return nil
	}
	l.stats.Errors++
	s.failures++
	l.failing = max(l.failing, s.failures)
	if s.failures >= maxFailures {
		return fmt.Errorf("receiving on %s: %w", s.config.Interface.Name, err)
	}
	return nil
}

// split takes the datagrams of a packet that the kernel has joined, each for itself.
func (s *ring) split(l *loop, p *sock.Packet) {
	j, ok := headers(p.Frame)
	if !ok {
		s.take(l, p)
		return
	}
	l.stats.Joined++
	one := *p
	size := len(p.Frame) - j.payload
	for n, a := 0, 0; a < size && !l.counted; n++ {
		b := min(a+p.Segment, size)
		s.frame = j.datagram(s.frame[:0], p.Frame, n, a, b)
		one.Frame, one.Length = s.frame, uint32(len(s.frame))
		s.take(l, &one)
		a = b
	}
}

// take puts a packet into the current batch, or counts it as foreign. It allocates
// nothing, and waits only where every batch is with the writer.
func (s *ring) take(l *loop, p *sock.Packet) {
	d := format.Datagram{Time: p.Time, Interface: s.sub, Frame: p.Frame, FrameLength: p.Length}
	if l.hardware && !p.Hardware {
		d.Flags = format.FlagSoftwareStamp
	}
	b := l.batch
	if !b.Append(&d) {
		l.handOver()
		b = l.batch
		b.Append(&d) // an empty batch holds the longest frame
	}
	// Decoded where it stays: its payload is a part of its frame.
	c := &b.Datagrams[len(b.Datagrams)-1]
	if !format.DecodePlain(c) {
		c.Flags |= format.FlagNotUDP
		if s.decoder != nil {
			s.decoder.Decode(format.LinkTypeEthernet, c)
		}
	}
	if len(s.groups) > 0 {
		sub, ok := s.find(c)
		if !ok {
			b.Buf = b.Buf[:len(b.Buf)-len(c.Frame)]
			b.Datagrams = b.Datagrams[:len(b.Datagrams)-1]
			l.stats.Foreign++
			return
		}
		c.Interface = sub
	}
	if c.Drops = s.lost - s.placed; c.Drops != 0 {
		s.placed = s.lost
		if s.shared() {
			s.booked += c.Drops
			l.subs[c.Interface].Dropped += c.Drops
		}
	}
	switch {
	case c.Flags&format.FlagNotUDP != 0:
		l.stats.NotUDP++
	case c.Flags&format.FlagTruncated != 0:
		l.stats.Dropped.Truncated++
	}
	l.tally(c)
}

// find returns the subscription that a packet is for: of those for its group and
// port the one for its source, else that for any source.
func (s *ring) find(d *format.Datagram) (sub uint16, ok bool) {
	dst, src := d.Dst, d.Src.Addr()
	if d.Flags&format.FlagNotUDP != 0 {
		if src, dst, ok = fragment(d.Frame); !ok {
			return 0, false
		}
	}
	if g := &s.groups[s.recent]; g.dst == dst && (g.source == src || g.alone && !g.source.IsValid()) {
		return g.sub, true
	}
	lo, hi := 0, len(s.groups)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if s.groups[mid].dst.Compare(dst) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	// A fragment, which has no port, is of the first that has its group.
	for i := lo; i < len(s.groups); i++ {
		g := &s.groups[i]
		if g.dst.Addr() != dst.Addr() || g.dst.Port() != dst.Port() && dst.Port() != 0 {
			break
		}
		if g.source == src {
			s.recent = i
			return g.sub, true
		}
		if !g.source.IsValid() && !ok {
			s.recent = i
			sub, ok = g.sub, true
		}
	}
	return sub, ok
}

// fragment reads the addresses of an IP packet behind at most two VLAN tags; the
// port of dst is 0.
func fragment(f []byte) (src netip.Addr, dst netip.AddrPort, ok bool) {
	at := etherType(f)
	if len(f) < at+2+20 {
		return src, dst, false
	}
	ip := f[at+2:]
	switch kind := binary.BigEndian.Uint16(f[at:]); {
	case kind == 0x0800:
		return netip.AddrFrom4([4]byte(ip[12:])), netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:])), 0), true
	case kind == 0x86DD && len(ip) >= 40:
		return netip.AddrFrom16([16]byte(ip[8:])), netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[24:])), 0), true
	}
	return src, dst, false
}

// account asks for the ring's drop counter.
func (s *ring) account(l *loop) (grown uint64, err error) {
	lost, err := s.ring.Lost()
	grown = lost - s.lost
	s.lost = lost
	l.stats.Dropped.Kernel += grown
	if !s.shared() {
		l.subs[s.sub].Dropped += grown
	}
	return grown, err
}

// await returns true when the kernel has handed over what it still had in a block
// that is not full.
func (s *ring) await(l *loop) bool {
	for range 10 {
		if _, err := s.account(l); err != nil || s.ring.Waiting() == 0 {
			return false
		}
		sock.Sleep(sock.RingPatience)
		if s.ring.Filled() > 0 {
			return true
		}
	}
	return false
}

// readDrops reads the counter when the ring is empty: what was lost is then behind
// everything that was taken. Otherwise the first packet behind the loss tells.
func (s *ring) readDrops(l *loop) (uint64, error) {
	if s.ring.Filled() > 0 {
		return 0, nil
	}
	return s.account(l)
}

func (s *ring) bookRest(l *loop) {
	if s.shared() {
		l.subs[s.groups[s.recent].sub].Dropped += s.lost - s.booked
		s.booked = s.lost
	}
}

// rejoin binds the ring to an interface that was made again.
func (s *ring) rejoin(l *loop, _ int, dev *net.Interface) error {
	if dev.Index != s.config.Interface.Index {
		if err := s.ring.Rebind(dev); err != nil {
			return err
		}
		s.config.Interface = dev
	}
	var errs []error
	for _, c := range s.joins {
		errs = append(errs, l.rejoinConn(c, dev))
	}
	return errors.Join(errs...)
}

// leave ends the memberships and closes the filter. The block that the kernel is
// filling is handed over when its time has come.
func (s *ring) leave() error {
	var errs []error
	for _, c := range s.joins {
		errs = append(errs, c.LeaveAll())
	}
	s.left = true
	return errors.Join(append(errs, s.ring.SetFilter([]sock.Instruction{{Op: 0x06}}))...) // return 0
}

func (s *ring) calls(*loop) int { return s.ring.Buffer() / (64 * receivePerCall) }

func (s *ring) granted() int { return s.ring.Buffer() }

// holds: a full frame takes its length and some 80 bytes of a block, and the end of each
// block is left over.
func (s *ring) holds() int { return s.ring.Buffer() / 1700 }

func (s *ring) close() error {
	var errs []error
	for _, c := range s.joins {
		errs = append(errs, c.Close())
	}
	if s.ring != nil {
		errs = append(errs, s.ring.Close())
	}
	return errors.Join(errs...)
}
