// Package format says what a captured datagram is: in memory (Datagram and
// Batch) and as bytes (pcapng blocks, the chunk, the index, the footer and the
// compression frames around them). docs/FORMAT.md holds the same byte tables in
// prose.
//
// The package is a leaf: it opens no files and no sockets. format/segment keeps
// the bytes on disk, format/pcapfile reads what other tools wrote.
package format

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Flags say what is special about one datagram.
type Flags uint16

const (
	// FlagTruncated marks a datagram of which fewer bytes were kept than were on
	// the wire: len(Payload) < Length (or len(Frame) < FrameLength where the
	// packet is not UDP). Such a datagram is never sent on as if it were whole.
	FlagTruncated Flags = 1 << iota
	// FlagUserStamp marks a Time that was read in user space because the kernel
	// gave none: later than the arrival by an unknown amount.
	FlagUserStamp
	// FlagReassembled marks a datagram put together from IP fragments; it has no
	// single captured Frame.
	FlagReassembled
	// FlagNotUDP marks a packet without a whole UDP header (IGMP, ARP, PIM, a
	// lone fragment, a malformed packet). Src, Dst and Payload are then zero and
	// Frame holds the packet.
	FlagNotUDP
	// FlagNoTime marks a packet whose capture has no time for it (a pcapng Simple
	// Packet Block). Time is then that of the packet before it, or 0.
	FlagNoTime
	// FlagSoftwareStamp marks a Time of the kernel's clock in a recording whose times
	// are the network card's, because the card gave none for this datagram.
	FlagSoftwareStamp

	flagsEnd
)

// KnownFlags are the flags this version defines; others are ignored on reading.
const KnownFlags = flagsEnd - 1

var flagNames = [...]string{"truncated", "user-stamp", "reassembled", "not-udp", "no-time", "software-stamp"}

// String lists the flag names, joined by "+"; "" where none is set.
func (f Flags) String() string {
	var names []string
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if rest := f &^ KnownFlags; rest != 0 {
		names = append(names, fmt.Sprintf("%#x", uint16(rest)))
	}
	return strings.Join(names, "+")
}

// Datagram is one captured UDP datagram, or one captured packet that is not UDP
// (FlagNotUDP). Its byte slices belong to the Batch it stands in.
type Datagram struct {
	// Time of arrival in ns since the Unix epoch, UTC.
	Time int64
	// Src and Dst are the addresses of the IP and UDP headers; IPv4 addresses are
	// plain IPv4, never mapped into IPv6, and carry no zone. Invalid where the
	// packet is not UDP.
	Src, Dst netip.AddrPort
	// Drops counts datagrams of the same Interface that were lost between the
	// previous datagram of that interface and this one (pcapng epb_dropcount).
	Drops uint64
	// Length is the UDP payload's length on the wire, 0 to 65,527 bytes; at least
	// len(Payload), more only with FlagTruncated. 0 where the packet is not UDP.
	Length uint32
	// FrameLength is the length on the wire of the packet in Frame; 0 where Frame
	// is nil.
	FrameLength uint32
	// Interface indexes the recording's interfaces.
	Interface uint16
	Flags     Flags
	// Input tells apart what a Merge was told to tell apart (MergeSource.Input); 0
	// otherwise. It is in no file.
	Input uint16
	// TTL is the IPv4 time to live or the IPv6 hop limit as it arrived; 0 where
	// it is not known.
	TTL uint8
	// Payload is the UDP payload. Empty for the legal datagram of 0 bytes.
	Payload []byte
	// Frame is the captured packet from its link-layer header on, where there was
	// one (packet source, foreign captures); nil for socket captures. Payload may
	// point into it.
	Frame []byte
}

// InterfaceStats are an interface's running totals since the recording began
// (pcapng Interface Statistics Block).
type InterfaceStats struct {
	// Time at which the totals were read, ns since the Unix epoch.
	Time int64
	// Received counts datagrams delivered to the recorder.
	Received uint64
	// Dropped counts datagrams lost for any cause between the interface and the
	// file; KernelDropped is the part of it that the kernel counted on our socket
	// or ring.
	Dropped, KernelDropped uint64
	Interface              uint16
}

// Interface describes where datagrams came from: one subscription of a
// recording, or one interface of a foreign capture.
type Interface struct {
	// Name is the network interface (if_name), such as "eth0"; may be empty.
	Name string
	// Description is free text (if_description); for a subscription it is
	// "group:port on interface", and " (name)" where the group has a name.
	Description string
	// LinkType is the LINKTYPE_ value of the frames (1 is Ethernet).
	LinkType uint16
	// SnapLen is the capture limit in bytes per packet; 0 is no limit.
	SnapLen uint32
}

// LinkTypeEthernet is LINKTYPE_ETHERNET, the link type of every file castdeck
// makes from a socket.
const LinkTypeEthernet = 1

// Batch is a run of datagrams and the memory behind them. It owns every byte its
// datagrams point to: they stay valid until the batch is Reset or handed to the
// next ReadBatch. A Batch belongs to one goroutine at a time.
type Batch struct {
	Datagrams []Datagram
	// Stats are totals that became known with or after these datagrams; often
	// empty.
	Stats []InterfaceStats
	// Events that became known with or after these datagrams; mostly empty.
	Events []Event
	// Buf is the slab that the datagrams' slices point into. Whoever fills the
	// batch decides how; see Append.
	Buf []byte
}

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	b.Datagrams = b.Datagrams[:0]
	b.Stats = b.Stats[:0]
	clear(b.Events) // their texts are not the batch's memory
	b.Events = b.Events[:0]
	b.Buf = b.Buf[:0]
}

// Empty says that there is nothing in the batch: no datagram, no record, no event.
func (b *Batch) Empty() bool { return len(b.Datagrams)+len(b.Stats)+len(b.Events) == 0 }

// Size is the memory in bytes that the batch's contents occupy, for bounded
// queues.
func (b *Batch) Size() int { return len(b.Buf) + len(b.Datagrams)*datagramSize }

// datagramSize approximates unsafe.Sizeof(Datagram{}); a test holds it.
const datagramSize = 144

// Append adds a copy of d, whose slices then point into b.Buf. It reports false,
// and changes nothing, where the free capacity of Buf or of Datagrams does not
// hold it: Append never reallocates, because that would cut the earlier
// datagrams' slices off from Buf.
func (b *Batch) Append(d *Datagram) bool {
	if len(d.Payload)+len(d.Frame) > cap(b.Buf)-len(b.Buf) || len(b.Datagrams) == cap(b.Datagrams) {
		return false
	}
	n := len(b.Datagrams)
	b.Datagrams = b.Datagrams[:n+1]
	c := &b.Datagrams[n]
	*c = *d
	if d.Frame != nil {
		c.Frame = b.hold(d.Frame)
	}
	c.Payload = b.hold(d.Payload)
	return true
}

func (b *Batch) hold(p []byte) []byte {
	start := len(b.Buf)
	b.Buf = append(b.Buf, p...)
	return b.Buf[start:len(b.Buf):len(b.Buf)]
}

// NewBatch makes a batch with room for n datagrams and size bytes, for use with
// Append.
func NewBatch(n, size int) *Batch {
	return &Batch{Datagrams: make([]Datagram, 0, n), Buf: make([]byte, 0, size)}
}

// BatchReader is a source of datagrams. ReadBatch replaces the batch's contents:
// on success with at least one datagram, statistics record or event, otherwise with
// nothing and an error; io.EOF at the end of the source. It is not safe for
// concurrent use.
type BatchReader interface {
	ReadBatch(*Batch) error
}

// BatchWriter takes datagrams. WriteBatch writes all of the batch or returns an
// error; it keeps nothing of the batch after it returned. It is not safe for
// concurrent use.
type BatchWriter interface {
	WriteBatch(*Batch) error
}

// Flusher is a BatchWriter that gathers datagrams before it writes them. Flush
// writes what it holds.
type Flusher interface {
	Flush() error
}

// ErrVersion says that a file was written by a newer castdeck: it is not damaged.
var ErrVersion = errors.New("written in a newer version of the format than this castdeck reads")

// ErrFormat says that the input is not of the kind that was expected.
var ErrFormat = errors.New("not a capture file")

// CorruptError is damage at one place of a capture. Reading goes on behind it
// where that is possible.
type CorruptError struct {
	// Path of the file; may be empty where the layout code does not know it.
	Path string
	// Offset in the file of the first byte that is wrong, or of the frame or
	// block that holds it.
	Offset int64
	// Length in bytes of what cannot be used from Offset on; 0 where unknown.
	Length int64
	// Chunks is how many chunks of a recording are known to be lost here, from the
	// chunk numbered FirstChunk on; 0 where that is not known, -1 where one comes that
	// was told as lost before.
	Chunks     int
	FirstChunk uint32
	// Datagrams is how many are known to be lost here, and Counted says that they are
	// all. A packet of which it is not known whether it was UDP counts as one.
	Datagrams uint64
	Counted   bool
	// Reason is one line without a trailing full stop.
	Reason string
}

func (e *CorruptError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("damaged at byte %d: %s", e.Offset, e.Reason)
	}
	return fmt.Sprintf("%s: damaged at byte %d: %s", e.Path, e.Offset, e.Reason)
}

// Place is what is wrong in one line, without the path: for messages that name it
// already.
func (e *CorruptError) Place() string {
	switch {
	case e.Length > 0:
		return fmt.Sprintf("byte %d: %s; %s cannot be used", e.Offset, e.Reason, plural(uint64(e.Length), "byte"))
	case e.Offset > 0:
		return fmt.Sprintf("byte %d: %s", e.Offset, e.Reason)
	}
	return e.Reason // of the whole file
}
