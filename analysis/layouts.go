package analysis

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

var (
	be = binary.BigEndian
	le = binary.LittleEndian
)

// chain walks count blocks from offset at on, each led by its length, and says whether
// they end exactly where p does. With count < 0 there are as many as fit, at least one.
func chain(p []byte, at, count int, length func(p []byte) int) bool {
	n := 0
	for ; at < len(p) && n != count; n++ {
		l := length(p[at:])
		if l <= 0 || l > len(p)-at {
			return false
		}
		at += l
	}
	return at == len(p) && n > 0 && (count < 0 || n == count)
}

func u16le(p []byte) int {
	if len(p) < 2 {
		return 0
	}
	return int(le.Uint16(p))
}

func u16be(p []byte) int {
	if len(p) < 2 {
		return 0
	}
	return int(be.Uint16(p))
}

func printable(p []byte) bool {
	for _, c := range p {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// sessionText is a session of 10 characters: 8 in hi and 2 in lo.
func sessionText(hi, lo uint64) string {
	b := be.AppendUint16(be.AppendUint64(nil, hi), uint16(lo))
	if s := strings.TrimSpace(string(b)); s != "" && printable(b) {
		return s
	}
	return fmt.Sprintf("%#x", b)
}

// moldNumber: "MoldUDP64 Protocol Specification" V1.00, Nasdaq, Downstream Packet
// (https://www.nasdaqtrader.com/content/technicalsupport/specifications/dataproducts/moldudp64.pdf).
//
//	0  10  session, ASCII
//	10  8  sequence number of the first message, big endian
//	18  2  message count; 0 heartbeat, 0xFFFF end of session: both give the number due
//	20     messages, each led by its length in 2 bytes
func moldNumber(p []byte) (n number, ok bool) {
	if len(p) < 20 {
		return n, false
	}
	n = number{hi: be.Uint64(p), lo: uint64(be.Uint16(p[8:])), seq: be.Uint64(p[10:]), count: uint64(be.Uint16(p[18:]))}
	if n.count == 0xFFFF {
		n.count, n.ended = 0, true
	}
	return n, true
}

func moldEvidence(p []byte, _ uint16) int {
	n, ok := moldNumber(p)
	if !ok || !printable(p[:10]) {
		return 0
	}
	if n.count == 0 && len(p) == 20 || n.count > 0 && chain(p, 20, int(n.count), func(p []byte) int {
		if len(p) < 2 {
			return 0
		}
		return 2 + u16be(p)
	}) {
		return 14 + 16
	}
	return 0
}

// soupNumber: packets of SoupBinTCP, "SoupBinTCP" 3.00, Nasdaq, sections 2.2
// (https://www.nasdaqtrader.com/content/technicalsupport/specifications/dataproducts/soupbintcp.pdf),
// one or more to a datagram. Only Login Accepted holds a number, in 20 characters of
// ASCII behind the session: that of the next Sequenced Data. So a datagram is heartbeat
// ('H'), end of session ('Z') or data without a number of its own; gaps show where Login
// Accepted comes again.
//
//	0  2  packet length behind this field, big endian
//	2  1  packet type: A S U H Z +
//	3 10  of A: session, 13 20 sequence number, ASCII, padded on the left with spaces
func soupNumber(p []byte) (n number, ok bool) {
	n.plain = true
	for at := 0; at+3 <= len(p); {
		length := int(be.Uint16(p[at:]))
		if length < 1 || length > len(p)-at-2 {
			break
		}
		body := p[at+3 : at+2+length]
		switch p[at+2] {
		case 'A':
			if len(body) != 30 {
				return number{}, false
			}
			seq, good := asciiNumber(body[10:])
			if !good {
				return number{}, false
			}
			n = number{hi: be.Uint64(body), lo: uint64(be.Uint16(body[8:])), seq: seq}
		case 'S':
			n.count++
		case 'Z':
			n.ended = true
		case 'H', 'U', '+', 'J', 'R', 'L', 'O':
		default:
			return number{}, false
		}
		ok = true
		at += 2 + length
	}
	return n, ok
}

// asciiNumber reads digits behind spaces.
func asciiNumber(p []byte) (v uint64, ok bool) {
	for _, c := range bytes.TrimLeft(p, " ") {
		if c < '0' || c > '9' || v > (math.MaxUint64-9)/10 {
			return 0, false
		}
		v, ok = v*10+uint64(c-'0'), true
	}
	return v, ok
}

func soupEvidence(p []byte, _ uint16) int {
	if _, ok := soupNumber(p); !ok || !chain(p, 0, -1, func(p []byte) int {
		if len(p) < 3 || u16be(p) < 1 {
			return 0
		}
		return 2 + u16be(p)
	}) {
		return 0
	}
	return 16 + 4
}

// plausible says that a time is one of the years 2000 to 2100, in ns since 1970.
func plausible(ns uint64) bool { return ns > 946_684_800e9 && ns < 4_102_444_800e9 }

// mdp3Number: CME MDP 3.0, Binary Packet Header
// (https://cmegroupclientsite.atlassian.net/wiki/spaces/EPICSANDBOX/pages/457638617/MDP+3.0+-+Message+Technical+Specification).
// The channels of snapshots begin anew with each loop.
//
//	0  4  MsgSeqNum, little endian, by datagram
//	4  8  SendingTime, ns since 1970
//	12    messages, each led by its size in 2 bytes, which counts itself, and an SBE header:
//	      block length, template, schema (1), version
func mdp3Number(p []byte) (n number, ok bool) {
	if len(p) < 12 {
		return n, false
	}
	return number{seq: uint64(le.Uint32(p)), count: 1}, true
}

func mdp3Evidence(p []byte, _ uint16) int {
	if len(p) < 12+10 || !plausible(le.Uint64(p[4:])) || le.Uint16(p[12+6:]) != 1 || le.Uint16(p[12+8:]) > 100 {
		return 0
	}
	if !chain(p, 12, -1, func(p []byte) int {
		if l := u16le(p); l >= 10 {
			return l
		}
		return 0
	}) {
		return 0
	}
	return 4 + 16 + 9 + 16
}

// pitchNumber: "US Equities/Options Multicast Depth of Book (PITCH) Specification" 2.41,
// Cboe, sections 1.4 and 2.3, Sequenced Unit Header
// (https://cdn.cboe.com/resources/membership/Cboe_US_Equities_Multicast_PITCH_Specification.pdf).
// Cboe's futures and options exchanges have the same header.
//
//	0  2  length of the datagram, little endian
//	2  1  message count; 0 heartbeat, which gives the number due
//	3  1  unit
//	4  4  sequence number of the first message; 0 where the messages have none
//	8     messages, each led by its length in 1 byte, which counts itself
func pitchNumber(p []byte) (n number, ok bool) {
	if len(p) < 8 || le.Uint16(p) < 8 {
		return n, false
	}
	seq := uint64(le.Uint32(p[4:]))
	return number{lo: uint64(p[3]), seq: seq, count: uint64(p[2]), plain: seq == 0}, true
}

func pitchEvidence(p []byte, _ uint16) int {
	if len(p) < 8 || int(le.Uint16(p)) != len(p) {
		return 0
	}
	if p[2] == 0 {
		if len(p) != 8 {
			return 0
		}
		return 16 + 8
	}
	if !chain(p, 8, int(p[2]), func(p []byte) int {
		if p[0] < 2 {
			return 0
		}
		return int(p[0])
	}) {
		return 0
	}
	return 16 + 12
}

// eobiNumber: "T7 Enhanced Order Book Interface Manual", Deutsche Boerse, Packet Header
// (https://www.eurex.com/ex-en/support/initiatives/, system documentation of each release).
// ApplSeqNum counts the datagrams of a product.
//
//	0  2  BodyLen, little endian, of this header
//	2  2  TemplateID, 13002 to 13005 by release
//	4  4  MsgSeqNum, not used: 0xFFFFFFFF
//	8  4  ApplSeqNum
//	12 4  MarketSegmentID
//	16 1  PartitionID
//	18 1  ApplSeqResetIndicator
//	BodyLen messages, each led by its BodyLen in 2 bytes
func eobiNumber(p []byte) (n number, ok bool) {
	if len(p) < 24 {
		return n, false
	}
	return number{hi: uint64(le.Uint32(p[12:])), lo: uint64(p[16]), seq: uint64(le.Uint32(p[8:])), count: 1}, true
}

func eobiEvidence(p []byte, _ uint16) int {
	if len(p) < 24 {
		return 0
	}
	if t := le.Uint16(p[2:]); t < 13002 || t > 13005 || le.Uint32(p[4:]) != 0xFFFFFFFF {
		return 0
	}
	if !chain(p, 0, -1, u16le) {
		return 0
	}
	return 14 + 32 + 16
}

// iexNumber: "IEX Transport Protocol (IEX-TP) Specification" 1.25, Outbound Segment Header
// (https://www.iexexchange.io/resources/trading/documents, IEX Transport Specification).
//
//	0  1  version, 1
//	1  1  reserved
//	2  2  message protocol, little endian: 0x8001 and on
//	4  4  channel
//	8  4  session
//	12 2  payload length
//	14 2  message count; 0 heartbeat, which gives the number due
//	16 8  stream offset
//	24 8  first message's sequence number
//	32 8  send time, ns since 1970
//	40    messages, each led by its length in 2 bytes
func iexNumber(p []byte) (n number, ok bool) {
	if len(p) < 40 || p[0] != 1 {
		return n, false
	}
	return number{hi: uint64(le.Uint32(p[4:])), lo: uint64(le.Uint32(p[8:])), seq: le.Uint64(p[24:]), count: uint64(le.Uint16(p[14:]))}, true
}

func iexEvidence(p []byte, _ uint16) int {
	n, ok := iexNumber(p)
	if !ok || p[1] != 0 || le.Uint16(p[2:])&0xFF00 != 0x8000 || int(le.Uint16(p[12:])) != len(p)-40 || !plausible(le.Uint64(p[32:])) {
		return 0
	}
	if n.count > 0 && !chain(p, 40, int(n.count), func(p []byte) int {
		if len(p) < 2 {
			return 0
		}
		return 2 + u16le(p)
	}) {
		return 0
	}
	return 16 + 8 + 16 + 4
}

// xdpNumber: "XDP Common Client Specification" and "NYSE Pillar Stream Protocol", NYSE,
// Packet Header (https://www.nyse.com/publicdocs/nyse/data/XDP_Common_Client_Specification.pdf).
//
//	0  2  packet size, little endian
//	2  1  delivery flag; 1 heartbeat, which gives the number due
//	3  1  message count
//	4  4  sequence number of the first message
//	8  4  send time, s since 1970
//	12 4  ns of it
//	16    messages, each led by its size in 2 bytes, which counts itself
//
// Delivery flags of retransmission and refresh (10, 13, 15, 17 to 20 but 12, which resets)
// are numbered beside the live ones.
func xdpNumber(p []byte) (n number, ok bool) {
	if len(p) < 16 || le.Uint16(p) < 16 {
		return n, false
	}
	n = number{seq: uint64(le.Uint32(p[4:])), count: uint64(p[3])}
	switch p[2] {
	case 1:
		n.count = 0
	case 11, 12, 21: // original, reset, gap notice
	default:
		n.plain, n.count = true, 0
	}
	return n, true
}

func xdpEvidence(p []byte, _ uint16) int {
	if len(p) < 16 || int(le.Uint16(p)) != len(p) || p[2] == 0 || p[2] > 21 || !plausible(uint64(le.Uint32(p[8:]))*1e9) || le.Uint32(p[12:]) >= 1e9 {
		return 0
	}
	if p[3] == 0 && len(p) != 16 || p[3] > 0 && !chain(p, 16, int(p[3]), func(p []byte) int {
		if l := u16le(p); l >= 4 {
			return l
		}
		return 0
	}) {
		return 0
	}
	return 16 + 3 + 2 + 2 + 12
}

// memoirNumber: MEMX-UDP, the Common Header below the MEMOIR feeds, as
// https://github.com/Open-Markets-Initiative/wireshark-lua, Memx, has it.
//
//	0  1  message type: 0 heartbeat, 1 session shutdown, 2 sequenced
//	1  1  header length, 18
//	2  8  session, big endian
//	10 8  sequence number: of the first message, or the one due
//	18 2  of sequenced: message count
//	20    messages, each led by its length in 2 bytes
func memoirNumber(p []byte) (n number, ok bool) {
	if len(p) < 18 || p[1] != 18 || p[0] > 2 {
		return n, false
	}
	n = number{lo: be.Uint64(p[2:]), seq: be.Uint64(p[10:]), ended: p[0] == 1}
	if p[0] == 2 {
		if len(p) < 20 {
			return n, false
		}
		n.count = uint64(be.Uint16(p[18:]))
	}
	return n, true
}

func memoirEvidence(p []byte, _ uint16) int {
	n, ok := memoirNumber(p)
	if !ok || p[0] != 2 && len(p) != 18 {
		return 0
	}
	if p[0] == 2 && !chain(p, 20, int(n.count), func(p []byte) int {
		if len(p) < 2 {
			return 0
		}
		return 2 + u16be(p)
	}) {
		return 0
	}
	return 8 + 6 + 16
}

// impactNumber: "iMpact Multicast Feed Message Specification", ICE, Packet Header
// (https://www.ice.com/publicdocs/technology/iMpact_Multicast_Feed_Message_Specification.pdf).
//
//	0  2  session, big endian
//	2  4  sequence number of the first message
//	6  2  message count
//	8  8  sent time, ms since 1970
//	16    messages: type in 1 byte, body length in 2, body
func impactNumber(p []byte) (n number, ok bool) {
	if len(p) < 16 {
		return n, false
	}
	return number{lo: uint64(be.Uint16(p)), seq: uint64(be.Uint32(p[2:])), count: uint64(be.Uint16(p[6:]))}, true
}

func impactEvidence(p []byte, _ uint16) int {
	n, ok := impactNumber(p)
	if ms := uint64(0); ok {
		if ms = be.Uint64(p[8:]); ms > 1<<42 || !plausible(ms*1e6) {
			return 0
		}
	}
	if !ok || n.count == 0 || !chain(p, 16, int(n.count), func(p []byte) int {
		if len(p) < 3 {
			return 0
		}
		return 3 + u16be(p[1:])
	}) {
		return 0
	}
	return 22 + 16
}

// umdfNumber: "UMDF Binary Market Data Specification", B3, Packet Header, with the Simple
// Open Framing Header of FIX before each SBE message
// (https://www.b3.com.br/en_us/solutions/platforms/puma-trading-system/for-developers-and-vendors/binary-umdf/).
//
//	0  1  channel
//	2  2  sequence version, little endian: numbers begin anew with each
//	4  4  sequence number, by datagram
//	8  8  sending time, ns since 1970
//	16    messages: length in 2 bytes, which counts all, encoding 0xEB50, message
func umdfNumber(p []byte) (n number, ok bool) {
	if len(p) < 16 {
		return n, false
	}
	return number{hi: uint64(p[0]), lo: uint64(le.Uint16(p[2:])), seq: uint64(le.Uint32(p[4:])), count: 1}, true
}

func umdfEvidence(p []byte, _ uint16) int {
	if len(p) < 20 || !plausible(le.Uint64(p[8:])) || !chain(p, 16, -1, func(p []byte) int {
		if len(p) < 4 || le.Uint16(p[2:]) != 0xEB50 {
			return 0
		}
		return u16le(p)
	}) {
		return 0
	}
	return 4 + 16 + 16
}

// deribitNumber: "Multicast Developer Guide", Deribit, Multicast packet encoding
// (https://support.deribit.com/hc/en-us/articles/29392445838877).
//
//	0  2  length behind this header, little endian
//	2  2  channel
//	4  4  sequence number, by datagram
//	8     SBE message: block length, template, schema (1), version, groups, data
func deribitNumber(p []byte) (n number, ok bool) {
	if len(p) < 8 {
		return n, false
	}
	return number{lo: uint64(le.Uint16(p[2:])), seq: uint64(le.Uint32(p[4:])), count: 1}, true
}

func deribitEvidence(p []byte, _ uint16) int {
	if len(p) < 20 || int(le.Uint16(p)) != len(p)-8 || le.Uint16(p[12:]) != 1 || le.Uint16(p[14:]) > 100 {
		return 0
	}
	return 16 + 16 + 9
}

// rtpNumber: RFC 3550, section 5.1; by synchronisation source. RTCP, whose types lie at
// 64 to 95 of the same bits (RFC 5761, section 4), has no numbers.
//
//	0  1  version 2, padding, extension, CSRC count
//	1  1  marker, payload type
//	2  2  sequence number, big endian
//	4  4  timestamp
//	8  4  SSRC
func rtpNumber(p []byte) (n number, ok bool) {
	if len(p) < 12 || p[0]>>6 != 2 {
		return n, false
	}
	if t := p[1] & 0x7F; t >= 64 && t <= 95 {
		return number{plain: true}, true
	}
	return number{lo: uint64(be.Uint32(p[8:])), seq: uint64(be.Uint16(p[2:])), count: 1}, true
}

func rtpEvidence(p []byte, _ uint16) int {
	n, ok := rtpNumber(p)
	if !ok || n.plain {
		return 0
	}
	at := 12 + 4*int(p[0]&0xF)
	if p[0]&0x10 != 0 {
		if at+4 > len(p) {
			return 0
		}
		at += 4 + 4*int(be.Uint16(p[at+2:]))
	}
	if p[0]&0x20 != 0 {
		at += int(p[len(p)-1])
	}
	if at > len(p) {
		return 0
	}
	return 2
}

// tsEvidence: ISO/IEC 13818-1 (ITU-T H.222.0), section 2.4.3.2: packets of 188 bytes, each
// led by 0x47.
func tsEvidence(p []byte, _ uint16) int {
	if len(p) == 0 || len(p)%tsPacket != 0 {
		return 0
	}
	bits := 7
	for at := 0; at < len(p); at += tsPacket {
		if p[at] != tsSync {
			return 0
		}
		bits += 8
	}
	return bits
}

// ptpNumber: IEEE 1588-2008, section 13.3.1, by message type, domain and port (7.3.7).
// Answers bear the numbers of the requests, so they have none of their own.
//
//	0  1  message type in the lower 4 bits
//	1  1  version 2 in the lower 4 bits
//	2  2  message length, big endian
//	4  1  domain
//	20 10 source port: clock, port number
//	30 2  sequence number
//	46 1  of management: action
func ptpNumber(p []byte) (n number, ok bool) {
	if len(p) < 34 || p[1]&0xF != 2 {
		return n, false
	}
	n = number{hi: be.Uint64(p[20:]), lo: uint64(p[0]&0xF)<<24 | uint64(p[4])<<16 | uint64(be.Uint16(p[28:])), seq: uint64(be.Uint16(p[30:])), count: 1}
	switch p[0] & 0xF {
	case 0x0, 0x1, 0x2, 0x8, 0xB, 0xC: // Sync, Delay_Req, Pdelay_Req, Follow_Up, Announce, Signaling
	case 0x3, 0x9, 0xA: // Pdelay_Resp, Delay_Resp, Pdelay_Resp_Follow_Up
		n = number{plain: true}
	case 0xD: // Management: GET, SET and COMMAND ask
		if len(p) < 47 || p[46]&0xF != 0 && p[46]&0xF != 1 && p[46]&0xF != 3 {
			n = number{plain: true}
		}
	default:
		return number{}, false
	}
	return n, true
}

var ptpNames = [16]string{0x0: "Sync", 0x1: "Delay_Req", 0x2: "Pdelay_Req", 0x8: "Follow_Up", 0xB: "Announce", 0xC: "Signaling", 0xD: "Management"}

func ptpEvidence(p []byte, dstPort uint16) int {
	if _, ok := ptpNumber(p); !ok || dstPort != 319 && dstPort != 320 || int(be.Uint16(p[2:])) > len(p) || int(be.Uint16(p[2:])) < 44 {
		return 0
	}
	return 16 + 4 + 8
}
