package recorder

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"castdeck/format"
	"castdeck/internal/sock"
)

// The kernel keeps a membership while its interface is down and joins again when it
// comes up, but not when only the carrier comes back (IPv4), nor on an interface
// that was deleted and made again, whatever its name: that one has another index.
// So the recorder watches (rtnetlink(7)), notes what happens in the recording and
// joins again.
//
// A goroutine of Run reads the messages and leaves them in an inbox; the receive loop,
// whose the sockets are, takes them out when the inbox wakes it.

// news is what the kernel told of one interface.
type news struct {
	wall, mono int64 // when it was read
	kind       newsKind
	index      int
	name       string       // of newsLink
	up         bool         // of newsLink: set up
	carrier    bool         // of newsLink: up and able to carry packets
	addr       netip.Prefix // of newsAddress, newsNoAddress
}

type newsKind uint8

const (
	newsLink      newsKind = iota // what the interface is now
	newsGone                      // it is deleted, or in another namespace
	newsAddress                   // it has the address
	newsNoAddress                 // it has it no more
	newsLost                      // messages were lost: look for yourself
)

// inbox holds news for the receive loop.
type inbox struct {
	there  atomic.Bool // something is in the list
	closed atomic.Bool // the socket is being closed
	mu     sync.Mutex
	list   []news
}

// maxNews bounds the inbox. An overflow is told as newsLost.
const maxNews = 4096

func (b *inbox) put(n news) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.list) >= maxNews {
		b.list = append(b.list[:0], news{wall: n.wall, mono: n.mono, kind: newsLost})
	} else {
		b.list = append(b.list, n)
	}
	b.there.Store(true)
}

func (b *inbox) take() []news {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.list
	b.list = nil
	b.there.Store(false)
	return list
}

// subscribe asks the kernel for messages about interfaces and addresses from now on.
func subscribe() (*nl.NetlinkSocket, error) {
	return nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
}

// watch puts what the kernel tells into the inbox, and calls wake, until stop.
func (b *inbox) watch(s *nl.NetlinkSocket, wake func()) {
	for failures := 0; failures < 100; {
		messages, from, err := s.Receive()
		now, mono := time.Now().UnixNano(), sock.Now()
		switch {
		case b.closed.Load():
			return
		case err != nil: // ENOBUFS: more than the socket holds
			failures++
			b.put(news{wall: now, mono: mono, kind: newsLost})
			wake()
			continue
		case from.Pid != 0: // not the kernel
			continue
		}
		failures = 0
		for _, m := range messages {
			if n, ok := parseNews(m.Header.Type, m.Data); ok {
				n.wall, n.mono = now, mono
				b.put(n)
			}
		}
		wake()
	}
}

// stop ends watch.
func (b *inbox) stop(s *nl.NetlinkSocket) {
	b.closed.Store(true)
	s.Close()
}

// attributes reads the attributes of a message. The library steps over the padding of
// the last one without looking whether it is there.
func attributes(data []byte) ([]syscall.NetlinkRouteAttr, error) {
	if n := len(data) % 4; n > 0 {
		data = append(slices.Clone(data), make([]byte, 4-n)...)
	}
	return nl.ParseRouteAttr(data)
}

// parseNews reads one message; false where it is of no interest.
func parseNews(kind uint16, data []byte) (n news, ok bool) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(data) < unix.SizeofIfInfomsg {
			return n, false
		}
		info := nl.DeserializeIfInfomsg(data)
		if info.Family != unix.AF_UNSPEC {
			return n, false // a port of a bridge
		}
		n = news{kind: newsLink, index: int(info.Index), up: info.Flags&unix.IFF_UP != 0, carrier: info.Flags&unix.IFF_RUNNING != 0}
		n.carrier = n.carrier && n.up
		if kind == unix.RTM_DELLINK {
			n.kind = newsGone
		}
		attrs, err := attributes(data[unix.SizeofIfInfomsg:])
		if err != nil {
			return n, false
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_IFNAME {
				n.name = unix.ByteSliceToString(a.Value)
			}
		}
		return n, true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(data) < unix.SizeofIfAddrmsg {
			return n, false
		}
		info := nl.DeserializeIfAddrmsg(data)
		n = news{kind: newsAddress, index: int(info.Index)}
		if kind == unix.RTM_DELADDR {
			n.kind = newsNoAddress
		}
		attrs, err := attributes(data[unix.SizeofIfAddrmsg:])
		if err != nil {
			return n, false
		}
		for _, a := range attrs {
			// On a point-to-point link IFA_ADDRESS is the other end's.
			if own := a.Attr.Type == unix.IFA_LOCAL; own || a.Attr.Type == unix.IFA_ADDRESS && !n.addr.IsValid() {
				if addr, ok := netip.AddrFromSlice(a.Value); ok {
					n.addr = netip.PrefixFrom(addr, int(info.Prefixlen))
				}
			}
		}
		return n, n.addr.IsValid()
	}
	return n, false
}

// device is a network interface that groups are joined on. It belongs to the receive
// loop.
type device struct {
	name        string
	index       int // the last one known
	gone        bool
	up, carrier bool
	addrs       []netip.Prefix
	subs        []int // the subscriptions on it
	inlets      []int // those that receive by it
	// rejoin says that the groups are to be joined again, because that has failed.
	rejoin bool
}

// learn notes what a device is, before anything is watched.
func (d *device) learn(dev *net.Interface) {
	d.index, d.gone = dev.Index, false
	d.up = dev.Flags&net.FlagUp != 0
	d.carrier = d.up && dev.Flags&net.FlagRunning != 0
	d.addrs = nil
	addrs, _ := dev.Addrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			d.addrs = append(d.addrs, p)
		}
	}
}

// place notes that a subscription is received on dev, which may be nil, by the inlet of
// that key.
func (l *loop) place(dev *net.Interface, sub, key int) {
	if dev == nil {
		return
	}
	i := slices.IndexFunc(l.devices, func(d *device) bool { return d.index == dev.Index })
	if i < 0 {
		i = len(l.devices)
		d := &device{name: dev.Name}
		d.learn(dev)
		l.devices = append(l.devices, d)
	}
	d := l.devices[i]
	d.subs = append(d.subs, sub)
	if n := len(d.inlets); n == 0 || d.inlets[n-1] != key {
		d.inlets = append(d.inlets, key)
	}
}

// readNews takes what the inbox holds.
func (l *loop) readNews() {
	for _, n := range l.inbox.take() {
		if n.kind == newsLost {
			l.lookAtDevices(n)
			continue
		}
		for _, d := range l.devices {
			switch {
			case n.index == d.index && !d.gone:
				l.change(d, n)
			case d.gone && n.kind == newsLink && n.name == d.name:
				l.back(d, n)
			}
		}
	}
}

// lookAtDevices finds out what messages that were lost would have told.
func (l *loop) lookAtDevices(lost news) {
	for _, d := range l.devices {
		dev, err := net.InterfaceByName(d.name)
		n := lost
		if err != nil || dev.Index != d.index {
			if !d.gone {
				n.kind = newsGone
				l.change(d, n)
			}
			if err != nil {
				continue
			}
		}
		now := device{}
		now.learn(dev)
		n.kind, n.index, n.name, n.up, n.carrier = newsLink, dev.Index, dev.Name, now.up, now.carrier
		if d.gone {
			l.back(d, n)
		} else {
			l.change(d, n)
		}
		for _, a := range now.addrs {
			n.kind, n.addr = newsAddress, a
			l.change(d, n)
		}
		for _, a := range slices.Clone(d.addrs) {
			if !slices.Contains(now.addrs, a) {
				n.kind, n.addr = newsNoAddress, a
				l.change(d, n)
			}
		}
	}
}

// change notes news of a device that is there.
func (l *loop) change(d *device, n news) {
	switch n.kind {
	case newsGone:
		l.noteOf(d, n, format.EventInterfaceGone, "the interface was deleted; the groups are joined again when there is one of its name")
		d.gone, d.up, d.carrier, d.rejoin = true, false, false, false
		d.addrs = nil
	case newsLink:
		was, wasUp := d.carrier, d.up
		d.up, d.carrier = n.up, n.carrier
		switch {
		case was && !n.carrier && !n.up:
			l.noteOf(d, n, format.EventLinkDown, "the interface was set down")
		case was && !n.carrier:
			l.noteOf(d, n, format.EventLinkDown, "no carrier")
		case !was && n.carrier:
			l.noteOf(d, n, format.EventLinkUp, "the link is up")
			if wasUp {
				l.joinAgain(d, n, "the carrier is back") // else the kernel has done so
			}
		}
	case newsAddress:
		if slices.Contains(d.addrs, n.addr) {
			return // IPv6 tells of every prolonging
		}
		first := !slices.ContainsFunc(d.addrs, func(p netip.Prefix) bool { return p.Addr().Is4() })
		d.addrs = append(d.addrs, n.addr)
		l.noteOf(d, n, format.EventAddress, "address "+n.addr.String()+" added")
		// Reports that were sent without an address are not taken by every switch. Leaving
		// and joining while datagrams come would cost some, and shows that it need not be.
		if first && n.addr.Addr().Is4() && !l.heard(d) {
			l.joinAgain(d, n, "the interface has an address")
		}
	case newsNoAddress:
		if i := slices.Index(d.addrs, n.addr); i >= 0 {
			d.addrs = slices.Delete(d.addrs, i, i+1)
			l.noteOf(d, n, format.EventAddress, "address "+n.addr.String()+" removed")
		}
	}
}

// heard says that something has come by a device within the last two seconds or so.
func (l *loop) heard(d *device) bool {
	return slices.ContainsFunc(d.subs, func(i int) bool {
		s := &l.subs[i]
		return s.came() != s.seen || s.seen > 0 && l.now-s.at < 2e9
	})
}

// back joins again on a device that was made again.
func (l *loop) back(d *device, n news) {
	old := d.index
	d.gone, d.index, d.up, d.carrier = false, n.index, n.up, n.carrier
	l.noteOf(d, n, format.EventInterfaceBack, fmt.Sprintf("there is an interface of this name again (index %d, before %d)", n.index, old))
	l.joinAgain(d, n, "the interface is new")
}

// joinAgain joins all groups of a device again, and says that it did. What fails is tried again by retryJoins.
func (l *loop) joinAgain(d *device, n news, why string) {
	dev := &net.Interface{Index: d.index, Name: d.name}
	// A socket that is opened again is bound beside the old one and our others.
	first := l.share(true)
	for _, key := range d.inlets {
		if err := l.inlets[key].rejoin(l, key, dev); err != nil && first == nil {
			first = err
		}
	}
	if err := l.share(false); err != nil && first == nil {
		first = err
	}
	switch tried := d.rejoin; {
	case first == nil:
		d.rejoin = false
		l.noteOf(d, n, format.EventRejoined, "the groups were joined again: "+why)
	case !tried:
		d.rejoin = true
		l.noteOf(d, n, format.EventJoinFailed, fmt.Sprintf("the groups could not be joined again, trying on: %v", first))
	}
}

// share lets our own sockets be bound to ports that one of them has for itself, or
// ends that. It returns the first error and goes on.
func (l *loop) share(shared bool) error {
	var first error
	for _, in := range l.inlets {
		if s, ok := in.(*socket); ok && s.stays {
			if err := s.conn.SetShared(shared); err != nil && first == nil {
				first = err
			}
		}
	}
	return first
}

// retryJoins tries once more what has failed.
func (l *loop) retryJoins() {
	for _, d := range l.devices {
		if d.rejoin && !d.gone {
			l.joinAgain(d, news{wall: l.realtime(), mono: l.now}, "at last")
		}
	}
}

func (l *loop) noteOf(d *device, n news, kind, text string) {
	l.note(format.Event{Time: n.wall, Monotonic: n.mono, Kind: kind, Interface: int32(d.subs[0]), Text: d.name + ": " + text})
}

// rejoin keeps the socket where the kernel allows it. Else it takes what is queued
// there and opens another one.
func (s *socket) rejoin(l *loop, key int, dev *net.Interface) error {
	err := l.rejoinConn(s.conn, dev)
	if errors.Is(err, syscall.EPERM) {
		err = s.reopen(l, key, dev)
	}
	if err == nil && s.device != 0 {
		s.device = uint32(dev.Index)
	}
	return err
}

func (s *socket) reopen(l *loop, key int, dev *net.Interface) error {
	config := s.config
	config.Memberships = slices.Clone(config.Memberships)
	for i := range config.Memberships {
		if m := &config.Memberships[i]; m.Interface != nil && m.Interface.Name == dev.Name {
			m.Interface = dev
		}
	}
	config.Shared = true // until joinAgain is done
	conn, err := sock.Listen(config)
	if err != nil {
		return err
	}
	for more, passes := true, s.calls(l)+2; more && passes > 0 && !l.counted; passes-- {
		if _, more, err = s.drain(l, passCalls); err != nil {
			break // the socket is given up
		}
	}
	if _, err := s.readDrops(l); err != nil {
		l.stats.Errors++
	}
	if err := l.poller.Add(conn, key); err != nil {
		conn.Close()
		return err
	}
	s.conn.Close() // which takes it from the poller
	s.conn, s.config, s.buffer = conn, config, conn.Buffer()
	s.ledger.rebase()
	return nil
}
