// Package recorder receives multicast groups and hands what arrives, in batches,
// to a writer.
//
//	socket -> receive loop -> batches of a bounded pool -> writing goroutine -> format.BatchWriter
//
// It knows nothing of files. Its first duty is the ledger of loss: every datagram
// that the kernel accepted for one of our sockets is either handed to the writer
// or counted, and the counts go into the recording.
//
// # Who loses what
//
// The receive loop copies datagrams from the kernel into batches and never waits
// for a disk. While the writer is slow, batches queue up, to Options.Queue bytes;
// when the queue is full the loop waits for a batch, the kernel's receive buffer
// takes up what arrives, and only when that is full too is a datagram lost: the
// kernel counts it, exactly. So there is one place of loss under load, and
//
//	sent to our groups = Stats.Datagrams + Stats.Dropped.Kernel
//
// holds to the datagram. Recorder.Pressure tells the writer how close that is.
//
// # Two sources
//
// Datagrams come by UDP sockets (recvmmsg; no privilege needed) or, with
// Options.Packet, as whole frames by packet sockets (TPACKET_V3 rings, one for each
// interface). Both fill the same batches, ledgers and statistics. A datagram that
// arrived in fragments is whole on a UDP socket and so many packets on a packet
// socket; one with a wrong UDP checksum is a loss of the one and recorded by the other.
//
// # Time
//
// A datagram's time is the kernel's, taken as it entered the machine, so that the
// loop may sleep between bursts without blurring anything. Where the kernel gives
// none the datagram carries format.FlagUserStamp.
package recorder

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"castdeck/format"
	"castdeck/internal/mcast"
	"castdeck/internal/sock"
)

// Subscription is one group to record, or a UDP port of this machine. It has the
// fields of mcast.Group, so that one converts to the other.
type Subscription struct {
	// Group is a multicast address and a UDP port. An address that is not multicast is
	// not joined: it is one of the machine's own, a broadcast address of one of its
	// networks, or 0.0.0.0 or :: for all of these.
	Group netip.AddrPort
	// Source limits a multicast group to one sender; the zero Addr is any source.
	Source netip.Addr
	// Interface is the name, index or own IP address of a network interface; where
	// it is empty the kernel's routes decide, and what is not a group may come by any.
	Interface string
	// Name is what people call the group; it stands in the interface's description.
	Name string
}

// MaxSubscriptions is the limit of format.Datagram's interface index.
const MaxSubscriptions = 1 << 16

// Options of a Recorder. The zero value is what most recordings want.
type Options struct {
	// Buffer is the receive buffer in bytes to ask the kernel for, per socket; 0 is
	// 64 MiB. It is kernel memory as getsockopt reports it, twice what SO_RCVBUF is
	// set to, and a datagram takes some 640 bytes more of it than its payload. Without
	// CAP_NET_ADMIN the kernel cuts it to twice net.core.rmem_max, in silence:
	// compare with Stats.BufferBytes. With Packet it is the size of the ring of each
	// interface, which is granted whole; less than 256 KiB counts as that.
	Buffer int
	// Queue is the memory in bytes between receiving and writing; 0 is 256 MiB, and
	// less than 2 MiB counts as 2 MiB. It is taken as it is needed.
	Queue int64
	// Count ends the recording after exactly so many datagrams; 0 is no limit.
	Count uint64
	// FlushInterval is the longest time that a datagram stays in a writer that is a
	// format.Flusher; 0 is 1 s.
	FlushInterval time.Duration
	// Calm is told true where the whole program has used little of a processor for half a
	// second, and false as soon as it uses more or a buffer fills, before anything of it is
	// lost. Where it then lets the runtime do with one processor (runtime.GOMAXPROCS), each
	// waking of the receive loop costs half. The receiving goroutine calls it; nil is nobody.
	Calm func(bool)
	// GiveWay lowers the priority of the thread that calls the writer, for one that
	// compresses: its nice value is 2 above that of the rest. The queue holds more than
	// receive buffers do.
	GiveWay bool
	// StatsInterval is the time between two readings of the kernel's drop counters
	// and, where something changed, two records of totals to the writer; 0 is 1 s.
	StatsInterval time.Duration
	// Silence is how long nothing comes for a subscription until the recording notes
	// it, once, as an event; it is looked at every StatsInterval. 0 is never.
	Silence time.Duration
	// Packet, where it is not nil, makes the recorder receive whole frames by packet
	// sockets; otherwise it receives datagrams by UDP sockets.
	Packet *PacketOptions
	// Hardware takes the network cards' times for the kernel's. All interfaces must
	// be able to, and have one clock; see Recorder.Clock. A datagram that the card gave
	// no time has format.FlagSoftwareStamp or FlagUserStamp.
	Hardware bool
}

// PacketOptions of a Recorder that receives by packet sockets. It needs CAP_NET_RAW.
type PacketOptions struct {
	// Interfaces, by name, index or own IP address, to receive on without
	// subscriptions; then Filter must say what, and an Interface of the recording is
	// one of these. With subscriptions it must be empty.
	Interfaces []string
	// Filter is an expression in the language of package pcapfilter that every packet
	// has to meet, besides being for a subscription; empty is none.
	Filter string
	// Promiscuous makes the interfaces receive what is not addressed to this host.
	Promiscuous bool
	// Decoder finds the datagram in frames that are not plain, such as those with a
	// VLAN tag or IP options. Without one they are format.FlagNotUDP.
	Decoder format.FrameDecoder
}

const (
	defaultQueue    = 256 << 20
	minQueue        = 2 << 20
	defaultInterval = time.Second
)

func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Buffer < 0:
		return o, fmt.Errorf("receive buffer of %d bytes", o.Buffer)
	case o.Queue < 0:
		return o, fmt.Errorf("queue of %d bytes", o.Queue)
	case o.FlushInterval < 0:
		return o, fmt.Errorf("flush interval of %v", o.FlushInterval)
	case o.StatsInterval < 0:
		return o, fmt.Errorf("statistics interval of %v", o.StatsInterval)
	}
	if o.Silence < 0 {
		return o, fmt.Errorf("silence of %v", o.Silence)
	}
	if o.Buffer == 0 {
		o.Buffer = sock.DefaultBuffer
	}
	if o.Queue == 0 {
		o.Queue = defaultQueue
	}
	o.Queue = max(o.Queue, minQueue)
	if o.FlushInterval == 0 {
		o.FlushInterval = defaultInterval
	}
	if o.StatsInterval == 0 {
		o.StatsInterval = defaultInterval
	}
	return o, nil
}

// Dropped counts datagrams that did not get into the recording, or not whole.
type Dropped struct {
	// Kernel is what the kernel dropped on our sockets, mostly because the receive
	// buffer, or the ring, was full.
	Kernel uint64
	// Writer is what was received and not written because the writer had failed.
	Writer uint64
	// Truncated datagrams are in the recording, but not all of their payload.
	Truncated uint64
}

// SubscriptionStats are the counts of one subscription.
type SubscriptionStats struct {
	Datagrams, Bytes uint64
	// Dropped is the kernel's count. Where many subscriptions share a socket, a loss
	// is booked on the one whose datagram came next.
	Dropped uint64
	// Last is the time of the last datagram, in ns since the Unix epoch; 0 where
	// none has come.
	Last int64
}

// Stats are counts since Run began. All but QueueBytes and Dropped.Writer are of
// one moment, at most some 20 ms ago while datagrams arrive; exact when Run has
// returned.
type Stats struct {
	// Datagrams and Bytes (of payload) were received and recorded, less
	// Dropped.Writer.
	Datagrams, Bytes uint64
	Dropped          Dropped
	// Foreign counts datagrams that arrived on a socket shared by several groups
	// and were for none of them, such as unicast to the same port; on a packet socket
	// none comes unless there are so many groups that its filter does not hold them all.
	// They are not recorded; where the kernel dropped some it counted them in
	// Dropped.Kernel.
	Foreign uint64
	// QueueBytes wait for the writer.
	QueueBytes int64
	// BufferBytes is the receive buffer, or the ring, that the kernel granted; the least
	// one where sockets differ.
	BufferBytes int
	// Calls of recvmmsg that returned datagrams: Datagrams / Calls is the batch
	// fill. Wakeups are the times that the receiving thread woke from a sleep.
	Calls, Wakeups uint64
	// Errors of receiving, each tried again.
	Errors uint64
	// Sockets is how many the subscriptions were given.
	Sockets int
	// NotUDP are those of Datagrams that are packets without a whole UDP datagram, such
	// as fragments. Joined are packets of several datagrams, as the kernel or the card
	// joined them (GSO, GRO), that were taken apart; one that the kernel drops counts once.
	// Both are 0 without Options.Packet.
	NotUDP, Joined uint64
	// Subscriptions are in the order that Listen was given.
	Subscriptions []SubscriptionStats
}

// check refuses what cannot be subscribed to.
func check(subs []Subscription, o Options) error {
	if p := o.Packet; p != nil && len(p.Interfaces) > 0 {
		switch {
		case len(subs) > 0:
			return errors.New("groups name their interfaces; no others can be recorded beside them")
		case p.Filter == "":
			return errors.New("no group to record, and no filter that says what else")
		case len(p.Interfaces) > MaxSubscriptions:
			return fmt.Errorf("%d interfaces, a recording has at most %d", len(p.Interfaces), MaxSubscriptions)
		}
		return nil
	}
	if len(subs) == 0 {
		return errors.New("no group to record")
	}
	if len(subs) > MaxSubscriptions {
		return fmt.Errorf("%d subscriptions, a recording has at most %d", len(subs), MaxSubscriptions)
	}
	for _, s := range subs {
		switch {
		case !s.Group.Addr().IsValid() || s.Group.Addr().Is4In6():
			return fmt.Errorf("%v is no address to receive on", s.Group.Addr())
		case s.Source.IsValid() && !s.Group.Addr().IsMulticast():
			return fmt.Errorf("%v: %v is not a multicast address, and only groups are joined by source", s, s.Group.Addr())
		case s.Group.Port() == 0:
			return fmt.Errorf("%v: port 0 cannot be received on", s.Group.Addr())
		case s.Source.IsValid() && s.Source.Is4() != s.Group.Addr().Is4():
			return fmt.Errorf("%v: source and group are of different families", s)
		}
	}
	return nil
}

// describe is the pcapng description of a subscription on a network interface.
func describe(s Subscription, iface string) format.Interface {
	text := mcast.Group{Group: s.Group, Source: s.Source}.String()
	if iface != "" {
		text += " on " + iface
	}
	if s.Name != "" {
		text += " (" + s.Name + ")"
	}
	return format.Interface{Name: iface, Description: text, LinkType: format.LinkTypeEthernet}
}
