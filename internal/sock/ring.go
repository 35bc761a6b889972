package sock

import "net"

// Instruction is one of a classic BPF program, linux/filter.h; bpf.RawInstruction of
// golang.org/x/net converts to it.
type Instruction struct {
	Op     uint16
	Jt, Jf uint8
	K      uint32
}

// RingConfig says what a Ring receives.
type RingConfig struct {
	// Interface must have Ethernet frames, or be lo.
	Interface *net.Interface
	// Filter decides in the kernel about each packet; it must not be empty.
	Filter []Instruction
	// Buffer is the size of the ring in bytes, divided into blocks; 0 is
	// DefaultBuffer, and the least is 256 KiB. See Ring.Buffer for what it became.
	Buffer int
	// Promiscuous asks the network card for packets to other hosts too.
	Promiscuous bool
	// Hardware asks for the network card's times, see HardwareClock.
	Hardware bool
}

// Packet is one received frame.
type Packet struct {
	// Frame begins with the Ethernet header; a VLAN tag that the kernel had taken
	// off is in its place again. It is in the memory of the Ring until the next Next.
	Frame []byte
	// Length is the frame's length on the wire in bytes, without its checksum; more
	// than len(Frame) where the filter cut it.
	Length uint32
	// Time is when the packet was received, in ns since the Unix epoch: by the
	// kernel's clock, or the card's where Hardware.
	Time int64
	// Hardware: the network card has stamped it.
	Hardware bool
	// Lossy: packets may have been lost before this one, see Ring.Lost.
	Lossy bool
	// Segment, where it is not 0, says that the kernel or the card has joined datagrams
	// of this many bytes of payload, the last one perhaps of fewer, to one packet (GSO,
	// GRO); its headers are those of one long datagram. A kernel before 6.2 drops such
	// packets, and counts them as lost.
	Segment int
}
