package analysis

import (
	"fmt"
	"strconv"
	"strings"
)

// Protocol is a way in which datagrams are numbered.
type Protocol uint8

// The protocols. Each one's layout function cites the public source of the place of its
// numbers.
const (
	// Unknown numbering; as an option, to be recognised.
	Unknown Protocol = iota
	MoldUDP64
	SoupBin
	MDP3
	Pitch
	EOBI
	IEXTP
	XDP
	Memoir
	IMpact
	UMDF
	Deribit
	RTP
	MPEGTS
	PTP
	// Custom numbers stand where a Field says.
	Custom
	protocols
)

// number is what a datagram says of its numbering.
type number struct {
	// hi and lo tell the numberings of a stream apart: session, unit, SSRC, PID.
	hi, lo uint64
	// seq is the first of count numbers; with count 0 the one that is due.
	seq, count uint64
	// plain says that the datagram belongs to the protocol and has no number; with a
	// count, that it has the numbers that are due.
	plain bool
	// ended says that nothing follows in this numbering.
	ended bool
}

// layout is what is known of a protocol.
type layout struct {
	name string
	// bits of a number.
	bits uint8
	// decode reads the number of a datagram that is of this protocol, however much of it
	// was kept; false where it cannot be.
	decode func(p []byte) (number, bool)
	// evidence is how many bits of a datagram are as they must be, by which chance is
	// told from the protocol: 0 where it is not of it. All of the datagram is in p.
	evidence func(p []byte, dstPort uint16) int
	// continuity is the evidence in bits of a number that is the next one.
	continuity int
	// channel names a numbering of a stream.
	channel func(hi, lo uint64) string
}

var layouts = [protocols]layout{
	Unknown:   {name: "unknown"},
	MoldUDP64: {"moldudp64", 64, moldNumber, moldEvidence, 32, func(hi, lo uint64) string { return "session " + sessionText(hi, lo) }},
	SoupBin:   {"soupbin", 64, soupNumber, soupEvidence, 32, func(hi, lo uint64) string { return "session " + sessionText(hi, lo) }},
	MDP3:      {"mdp3", 32, mdp3Number, mdp3Evidence, 32, noChannel},
	Pitch:     {"pitch", 32, pitchNumber, pitchEvidence, 32, func(_, lo uint64) string { return fmt.Sprintf("unit %d", lo) }},
	EOBI: {"eobi", 32, eobiNumber, eobiEvidence, 32, func(hi, lo uint64) string {
		return fmt.Sprintf("market segment %d partition %d", int32(hi), lo)
	}},
	IEXTP: {"iex-tp", 64, iexNumber, iexEvidence, 32, func(hi, lo uint64) string { return fmt.Sprintf("channel %d session %d", hi, lo) }},
	XDP:   {"xdp", 32, xdpNumber, xdpEvidence, 32, noChannel},
	Memoir: {"memoir", 64, memoirNumber, memoirEvidence, 32, func(_, lo uint64) string {
		return fmt.Sprintf("session %#x", lo)
	}},
	IMpact:  {"impact", 32, impactNumber, impactEvidence, 32, func(_, lo uint64) string { return fmt.Sprintf("session %d", lo) }},
	UMDF:    {"umdf", 32, umdfNumber, umdfEvidence, 32, func(hi, lo uint64) string { return fmt.Sprintf("channel %d version %d", hi, lo) }},
	Deribit: {"deribit", 32, deribitNumber, deribitEvidence, 32, func(_, lo uint64) string { return fmt.Sprintf("channel %d", lo) }},
	RTP:     {"rtp", 16, rtpNumber, rtpEvidence, 24, func(_, lo uint64) string { return fmt.Sprintf("ssrc 0x%08x", lo) }},
	MPEGTS:  {"mpeg-ts", 4, nil, tsEvidence, 4, func(_, lo uint64) string { return fmt.Sprintf("pid 0x%04x", lo) }},
	PTP: {"ptp", 16, ptpNumber, ptpEvidence, 16, func(hi, lo uint64) string {
		return fmt.Sprintf("%s domain %d clock %016x port %d", ptpNames[lo>>24&0xF], lo>>16&0xFF, hi, lo&0xFFFF)
	}},
	Custom: {name: "seq", channel: noChannel},
}

func noChannel(_, _ uint64) string { return "" }

// String is the name that ParseProtocol reads.
func (p Protocol) String() string { return layouts[min(p, protocols-1)].name }

// ParseProtocol reads a name of ProtocolNames; "auto" is Unknown.
func ParseProtocol(s string) (Protocol, error) {
	if s == "auto" {
		return Unknown, nil
	}
	for p := MoldUDP64; p < Custom; p++ {
		if layouts[p].name == s {
			return p, nil
		}
	}
	return Unknown, fmt.Errorf("%q is no protocol known here; choose from auto, %s", s, strings.Join(ProtocolNames(), ", "))
}

// ProtocolNames of the protocols that can be asked for.
func ProtocolNames() (names []string) {
	for p := MoldUDP64; p < Custom; p++ {
		names = append(names, layouts[p].name)
	}
	return names
}

// Field is where the numbers of any other protocol stand: Width bytes at Offset of the
// payload, unsigned, each Step more than the one before.
type Field struct {
	Offset    int // bytes, below 65,527
	Width     int // bytes, 1 to 8
	BigEndian bool
	Step      uint64 // 0 is 1
}

// ParseField reads OFFSET:WIDTH:le|be[:STEP], in decimal.
func ParseField(s string) (f Field, err error) {
	const example = "write OFFSET:WIDTH:le or be, and :STEP where it is not 1, such as 12:8:be"
	parts := strings.Split(s, ":")
	if len(parts) != 3 && len(parts) != 4 {
		return f, fmt.Errorf("%q: %s", s, example)
	}
	offset, err1 := strconv.ParseUint(parts[0], 10, 16)
	width, err2 := strconv.ParseUint(parts[1], 10, 8)
	if err1 != nil || err2 != nil {
		return f, fmt.Errorf("%q: offset and width are bytes; %s", s, example)
	}
	if width < 1 || width > 8 || offset+width > 65527 {
		return f, fmt.Errorf("%q: a width is 1 to 8 bytes, and a payload 65,527 at most; %s", s, example)
	}
	if parts[2] != "le" && parts[2] != "be" {
		return f, fmt.Errorf("%q: %q is no byte order; %s", s, parts[2], example)
	}
	f = Field{Offset: int(offset), Width: int(width), BigEndian: parts[2] == "be", Step: 1}
	if len(parts) == 4 {
		if f.Step, err = strconv.ParseUint(parts[3], 10, 64); err != nil || f.Step < 1 || f.Step > 1<<(8*width-1)-1 {
			return f, fmt.Errorf("%q: a step is 1 to %d for this width; %s", s, uint64(1)<<(8*width-1)-1, example)
		}
	}
	return f, nil
}

// String is what ParseField reads.
func (f Field) String() string {
	order := "le"
	if f.BigEndian {
		order = "be"
	}
	s := fmt.Sprintf("%d:%d:%s", f.Offset, f.Width, order)
	if f.Step > 1 {
		s += fmt.Sprintf(":%d", f.Step)
	}
	return s
}

func (f *Field) number(p []byte) (number, bool) {
	if len(p) < f.Offset+f.Width {
		return number{}, false
	}
	var v uint64
	b := p[f.Offset : f.Offset+f.Width]
	if f.BigEndian {
		for _, x := range b {
			v = v<<8 | uint64(x)
		}
	} else {
		for i := len(b) - 1; i >= 0; i-- {
			v = v<<8 | uint64(b[i])
		}
	}
	return number{seq: v, count: 1}, true
}

// Numbers says how datagrams are numbered, for joining those with the same number. The
// zero value is not at all.
type Numbers struct {
	Protocol Protocol // not MPEGTS, whose numbers are too few
	Field    Field    // where Protocol is Custom
}

// key is a hash of a datagram's numbers and of the numbering that they are of; 0 where it
// has none, such as a heartbeat.
func (n *Numbers) key(p []byte) uint64 {
	if n.Protocol == Unknown || n.Protocol == MPEGTS {
		return 0
	}
	m, ok := n.Protocol.decode(p, &n.Field)
	if !ok || m.plain || m.count == 0 {
		return 0
	}
	const mix = 0x9E3779B97F4A7C15
	h := (((m.hi*mix^m.lo)*mix^m.count)*mix ^ m.seq) * mix
	return (h ^ h>>32) | 1
}

// decode reads the number of a datagram of a protocol other than Unknown and MPEGTS.
func (p Protocol) decode(payload []byte, f *Field) (number, bool) {
	if p == Custom {
		return f.number(payload)
	}
	return layouts[p].decode(payload)
}
