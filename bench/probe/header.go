package probe

import (
	"encoding/binary"
	"errors"
	"math"
)

// A probe's payload, integers big-endian. What follows the header, up to the step's size,
// is filler.
//
//	 0  4  magic "CDPB"
//	 4  1  version, 1
//	 5  1  kind: 1 data, 2 echo, 3 end of a step, 4 report
//	 6  1  flags: 1 send it back; 2 this step is the run's last (end)
//	 7  1  0
//	 8  8  run: a random number of the sender's
//	16  4  step, from 1; step 0 has no data, its end asks whether somebody is there
//	20  2  stream: the number of the group among those that the run sends to
//	22  2  UDP port for replies; 0: none are wanted, or they go to a group
//	24  8  data, echo: the datagram's number in its stream and step, from 0
//	       end, report: how many datagrams the step sent to the stream
//	32  8  when it was sent: ns since the Unix epoch, the sender's wall clock
//	40  8  the same by a clock of the sender's own, ns
//	48  8  echo: when it was received, the receiver's kernel's stamp, ns since the epoch
//	56  8  echo: when it was sent back, the receiver's wall clock
//
// An echo is the data datagram with kind and the last two fields changed, and as long.
const (
	// HeaderSize is the smallest size of a probe's payload in bytes.
	HeaderSize = 64

	magic   = 0x43445042
	version = 1
)

type kind uint8

const (
	kindData kind = 1 + iota
	kindEcho
	kindEnd
	kindReport
)

const (
	flagEcho = 1 << iota
	flagLast
)

// header is the decoded form of what every probe begins with.
type header struct {
	kind               kind
	flags              uint8
	stream, reply      uint16
	step               uint32
	run, seq           uint64
	sent, clock        int64
	received, returned int64
}

// errForeign is that a payload is not a probe's, or is one of another version.
var errForeign = errors.New("not a probe")

// put writes the header into the first HeaderSize bytes of b, which has them.
func (h *header) put(b []byte) {
	_ = b[HeaderSize-1]
	binary.BigEndian.PutUint32(b, magic)
	b[4], b[5], b[6], b[7] = version, byte(h.kind), h.flags, 0
	binary.BigEndian.PutUint64(b[8:], h.run)
	binary.BigEndian.PutUint32(b[16:], h.step)
	binary.BigEndian.PutUint16(b[20:], h.stream)
	binary.BigEndian.PutUint16(b[22:], h.reply)
	binary.BigEndian.PutUint64(b[24:], h.seq)
	binary.BigEndian.PutUint64(b[32:], uint64(h.sent))
	binary.BigEndian.PutUint64(b[40:], uint64(h.clock))
	binary.BigEndian.PutUint64(b[48:], uint64(h.received))
	binary.BigEndian.PutUint64(b[56:], uint64(h.returned))
}

// get reads the header that b begins with, or returns errForeign. It takes no field for
// granted but those that make it a probe: times may be anything.
func (h *header) get(b []byte) error {
	if len(b) < HeaderSize || binary.BigEndian.Uint32(b) != magic || b[4] != version || b[5] < byte(kindData) || b[5] > byte(kindReport) {
		return errForeign
	}
	*h = header{
		kind: kind(b[5]), flags: b[6],
		run:  binary.BigEndian.Uint64(b[8:]),
		step: binary.BigEndian.Uint32(b[16:]), stream: binary.BigEndian.Uint16(b[20:]), reply: binary.BigEndian.Uint16(b[22:]),
		seq:  binary.BigEndian.Uint64(b[24:]),
		sent: int64(binary.BigEndian.Uint64(b[32:])), clock: int64(binary.BigEndian.Uint64(b[40:])),
		received: int64(binary.BigEndian.Uint64(b[48:])), returned: int64(binary.BigEndian.Uint64(b[56:])),
	}
	return nil
}

// putTimes writes the times of sending into a payload.
func putTimes(b []byte, sent, clock int64) {
	binary.BigEndian.PutUint64(b[32:], uint64(sent))
	binary.BigEndian.PutUint64(b[40:], uint64(clock))
}

// sendBack makes the data datagram b an echo.
func sendBack(b []byte, received, returned int64) {
	b[5] = byte(kindEcho)
	binary.BigEndian.PutUint64(b[48:], uint64(received))
	binary.BigEndian.PutUint64(b[56:], uint64(returned))
}

// end is what the end of a step says behind its header, which has the number of
// datagrams sent to the stream:
//
//	64  8  the rate asked for, thousandths of a datagram a second over all streams; 0: as
//	       fast as can be
//	72  8  how long the step took to send, ns
//	80  8  datagrams that the sender's kernel refused, in all streams; they have no number
//	88  4  payload bytes of each datagram
//	92  2  streams of the run
//	94  2  0
const endSize = 96

type end struct {
	rate    float64 // datagrams a second
	took    int64   // ns
	refused uint64
	size    uint32
	streams uint16
}

func (e *end) put(b []byte) {
	_ = b[endSize-1]
	binary.BigEndian.PutUint64(b[64:], uint64(e.rate*1e3))
	binary.BigEndian.PutUint64(b[72:], uint64(e.took))
	binary.BigEndian.PutUint64(b[80:], e.refused)
	binary.BigEndian.PutUint32(b[88:], e.size)
	binary.BigEndian.PutUint16(b[92:], e.streams)
	b[94], b[95] = 0, 0
}

func (e *end) get(b []byte) error {
	if len(b) < endSize {
		return errForeign
	}
	*e = end{
		rate: float64(binary.BigEndian.Uint64(b[64:])) / 1e3,
		took: int64(min(binary.BigEndian.Uint64(b[72:]), math.MaxInt64)), refused: binary.BigEndian.Uint64(b[80:]),
		size: binary.BigEndian.Uint32(b[88:]), streams: binary.BigEndian.Uint16(b[92:]),
	}
	return nil
}

// report is what a receiver answers to the end of a step, behind the header of that end
// with its kind changed:
//
//	 64  8  datagrams of the stream received, copies included
//	 72  8  of these not copies
//	 80  8  copies
//	 88  8  reordered
//	 96  8  drops of the receiver's socket in the step
//	104  8  losses in a row: how many such bursts
//	112  8  the longest of them
//	120  8  one-way latency of the step, all streams, ns (signed): least
//	128  8  p50
//	136  8  p99
//	144  8  largest
//	152  8  jitter of the stream, ns
const reportSize = 160

type report struct {
	received, unique, duplicates, reordered, drops, bursts, longest uint64
	min, p50, p99, max, jitter                                      int64
}

func (r *report) fields() [12]uint64 {
	return [12]uint64{
		r.received, r.unique, r.duplicates, r.reordered, r.drops, r.bursts, r.longest,
		uint64(r.min), uint64(r.p50), uint64(r.p99), uint64(r.max), uint64(r.jitter),
	}
}

func (r *report) put(b []byte) {
	for i, v := range r.fields() {
		binary.BigEndian.PutUint64(b[HeaderSize+8*i:], v)
	}
}

func (r *report) get(b []byte) error {
	if len(b) < reportSize {
		return errForeign
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[HeaderSize+8*i:]) }
	*r = report{
		received: at(0), unique: at(1), duplicates: at(2), reordered: at(3), drops: at(4), bursts: at(5), longest: at(6),
		min: int64(at(7)), p50: int64(at(8)), p99: int64(at(9)), max: int64(at(10)), jitter: int64(at(11)),
	}
	return nil
}
