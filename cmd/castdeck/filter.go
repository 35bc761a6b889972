package main

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"castdeck/format"
	"castdeck/internal/mcast"
)

// payloadFilter selects datagrams by bytes of their payload: those from offset on,
// of which only the bits in mask count; a nil mask is all of them.
type payloadFilter struct {
	offset      int
	value, mask []byte
}

// parsePayloadFilter reads OFFSET:HEX or OFFSET:HEX/MASKHEX; the offset is decimal or
// hexadecimal with 0x, in bytes of the payload from 0.
func parsePayloadFilter(s string) (p payloadFilter, err error) {
	const example = "such as 12:4e414d45 or 0:80/c0"
	at, rest, ok := strings.Cut(s, ":")
	if !ok {
		return p, fmt.Errorf("%q has no colon; write OFFSET:HEX or OFFSET:HEX/MASKHEX, %s", s, example)
	}
	offset, err := strconv.ParseUint(at, 0, 32)
	if err != nil || strings.Contains(at, "_") {
		return p, fmt.Errorf("%q: offset %q is no number of bytes, %s", s, at, example)
	}
	value, mask, masked := strings.Cut(rest, "/")
	if p.value, err = parseHex(value); err != nil {
		return p, fmt.Errorf("%q: %w, %s", s, err, example)
	}
	if offset > format.MaxPayload || int(offset)+len(p.value) > format.MaxPayload {
		return p, fmt.Errorf("%q: no payload is longer than %d bytes", s, format.MaxPayload)
	}
	p.offset = int(offset)
	if !masked {
		return p, nil
	}
	if p.mask, err = parseHex(mask); err != nil {
		return p, fmt.Errorf("%q: mask: %w, %s", s, err, example)
	}
	if len(p.mask) != len(p.value) {
		return p, fmt.Errorf("%q: the value has %s and the mask %d; they must agree", s, plural(len(p.value), "byte"), len(p.mask))
	}
	for i, m := range p.mask {
		if p.value[i]&^m != 0 {
			return p, fmt.Errorf("%q: byte %d of the value has bits that the mask leaves out: nothing could match", s, i)
		}
	}
	return p, nil
}

func parseHex(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("%q is not hexadecimal, two digits a byte", s)
	}
	return b, nil
}

// match says whether the payload has these bytes; one that is too short, or was not
// captured that far, has not.
func (p *payloadFilter) match(payload []byte) bool {
	if len(payload) < p.offset+len(p.value) {
		return false
	}
	b := payload[p.offset:][:len(p.value)]
	if p.mask == nil {
		return string(b) == string(p.value)
	}
	for i, m := range p.mask {
		if b[i]&m != p.value[i] {
			return false
		}
	}
	return true
}

// selection is which datagrams are converted. The filters select, then the numbers
// count what is left.
type selection struct {
	only, not   *mcast.Matcher
	payload     []payloadFilter
	skip, count uint64 // datagrams; count 0 is no limit
	cuts        bool   // datagrams are left out by their place
	// udpOnly leaves out packets that are not UDP.
	udpOnly bool

	notUDP  uint64 // packets left out because of it
	kept    uint64
	dropped losses // by interface: drop counts of datagrams that the filters took
}

// apply removes what is not selected from b. It reports true once nothing that
// follows can be selected.
func (s *selection) apply(b *format.Batch) (done bool) {
	if s.all() {
		return false
	}
	n := 0
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if !s.passes(d) {
			s.dropped.add(d.Interface, d.Drops)
			continue
		}
		if s.skip > 0 {
			if d.Flags&format.FlagNotUDP == 0 {
				if s.skip--; s.skip == 0 {
					clear(s.dropped) // lost before the cut
				}
			}
			continue
		}
		d.Drops += s.dropped.take(d.Interface)
		if n != i {
			b.Datagrams[n] = *d
		}
		n++
		if d.Flags&format.FlagNotUDP == 0 {
			if s.kept++; s.kept == s.count {
				done = true
				break
			}
		}
	}
	b.Datagrams = b.Datagrams[:n]
	if s.skip > 0 || done {
		b.Stats = b.Stats[:0] // of before or behind the cut
	}
	if s.skip > 0 {
		b.Events = b.Events[:0]
	}
	return done
}

// all says that nothing is left out. What is kept is then not counted.
func (s *selection) all() bool {
	return s.only == nil && s.not == nil && len(s.payload) == 0 && !s.cuts && !s.udpOnly
}

func (s *selection) passes(d *format.Datagram) bool {
	if d.Flags&format.FlagNotUDP != 0 {
		if s.udpOnly {
			s.notUDP++
		}
		return !s.udpOnly
	}
	if !s.only.Match(d.Src, d.Dst) || s.not != nil && s.not.Match(d.Src, d.Dst) {
		return false
	}
	for i := range s.payload {
		if !s.payload[i].match(d.Payload) {
			return false
		}
	}
	return true
}

// shiftValue is the flag --shift: a duration to add, or the time of the first
// datagram.
type shiftValue struct {
	text string
	by   int64 // ns
	to   int64 // ns since the Unix epoch
	isTo bool
}

func (v *shiftValue) Set(s string) error {
	*v = shiftValue{text: s}
	if at, ok := strings.CutPrefix(s, "to="); ok {
		t, err := parseTime(at)
		switch {
		case err != nil:
			return err
		case t.relative || t.ns < 0:
			return fmt.Errorf("to=%s: write a time from 1970 on, such as to=2026-05-04T09:30:00Z", at)
		}
		v.to, v.isTo = t.ns, true
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no shift; write a duration such as +1h or -250ms, or to=TIME such as to=2026-05-04T09:30:00Z", s)
	}
	v.by = int64(d)
	return nil
}

func (v *shiftValue) String() string { return v.text }
func (*shiftValue) Type() string     { return "SHIFT" }

// stripValue is the flag --strip: payload bytes to keep, a plain number or a size.
type stripValue struct {
	bytes int
	set   bool
}

func (v *stripValue) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		if n, err = parseSize(s); err != nil {
			return fmt.Errorf("%q is no number of bytes; write a number such as 64, or a size such as 1KiB", s)
		}
	}
	if n < 0 || n > format.MaxPayload {
		return fmt.Errorf("%s is outside 0 to %d bytes", s, format.MaxPayload)
	}
	v.bytes, v.set = int(n), true
	return nil
}

func (v *stripValue) String() string {
	if !v.set {
		return ""
	}
	return strconv.Itoa(v.bytes)
}
func (*stripValue) Type() string { return "N" }

// reshape changes the datagrams that were selected.
type reshape struct {
	shift  shiftValue
	strip  stripValue
	header int // where the payload of the datagram before began in its frame
}

func (r *reshape) apply(b *format.Batch) error {
	if err := r.move(b); err != nil {
		return err
	}
	if r.strip.set {
		for i := range b.Datagrams {
			r.cut(&b.Datagrams[i])
		}
	}
	return nil
}

func (r *reshape) move(b *format.Batch) error {
	if r.shift.isTo {
		for i := range b.Datagrams {
			if hasTime(&b.Datagrams[i]) {
				r.shift.by, r.shift.isTo = r.shift.to-b.Datagrams[i].Time, false
				break
			}
		}
	}
	if r.shift.by == 0 {
		return nil
	}
	for i := range b.Datagrams {
		d := &b.Datagrams[i]
		if !hasTime(d) {
			continue
		}
		t := d.Time + r.shift.by
		if t < 0 || (t < d.Time) != (r.shift.by < 0) {
			return fmt.Errorf("--shift %s moves %s UTC out of the times that a capture can hold, 1970 to 2262", r.shift.text, stamp(d.Time))
		}
		d.Time = t
	}
	for i := range b.Stats {
		if t := b.Stats[i].Time + r.shift.by; t >= 0 && (t < b.Stats[i].Time) == (r.shift.by < 0) {
			b.Stats[i].Time = t
		}
	}
	for i := range b.Events {
		if t := b.Events[i].Time + r.shift.by; t >= 0 && (t < b.Events[i].Time) == (r.shift.by < 0) {
			b.Events[i].Time = t
		}
	}
	return nil
}

// hasTime is false for the packets of a capture without times.
func hasTime(d *format.Datagram) bool { return d.Time != 0 || d.Flags&format.FlagNoTime == 0 }

// cut shortens the payload; the length on the wire stays.
func (r *reshape) cut(d *format.Datagram) {
	n := r.strip.bytes
	if len(d.Payload) <= n {
		return
	}
	if d.Frame != nil {
		if r.header = payloadAt(d, r.header); r.header < 0 {
			d.Frame, d.FrameLength = nil, 0 // not in one piece: writers make the headers
		} else {
			d.Frame = d.Frame[:r.header+n]
		}
	}
	d.Payload = d.Payload[:n:n]
	d.Flags |= format.FlagTruncated
}

// payloadAt is where d's payload, which is not empty, begins in its frame; -1 where
// it is not there. Guess is looked at first.
func payloadAt(d *format.Datagram, guess int) int {
	if guess >= 0 && guess < len(d.Frame) && &d.Frame[guess] == &d.Payload[0] {
		return guess
	}
	for i := range d.Frame {
		if &d.Frame[i] == &d.Payload[0] {
			return i
		}
	}
	return -1
}
