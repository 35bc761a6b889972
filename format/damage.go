package format

import (
	"errors"
	"fmt"
	"time"
)

// MaxDamage bounds the list of damaged places that a DamageLog keeps.
const MaxDamage = 1000

// Damage is a CorruptError at its place among the packets.
type Damage struct {
	*CorruptError
	// Since is the time of the last packet before the damage, Until that of the first
	// one behind it, in the order of the file and in ns since the Unix epoch: what is
	// lost came between them, in a file that is in the order of time. nil where there
	// is no such packet.
	Since, Until *int64
}

// String says in one line what is wrong, and how many datagrams are lost and when.
func (d *Damage) String() string {
	s := d.Place()
	switch {
	case d.Counted && d.Datagrams == 0:
		return s + "; no datagram is lost"
	case d.Counted:
		s += "; lost: " + plural(d.Datagrams, "datagram")
	case d.Datagrams > 0:
		s += "; lost: at least " + plural(d.Datagrams, "datagram")
	default:
		s += "; how many datagrams are lost is not known"
	}
	switch {
	case d.Since != nil && d.Until != nil:
		s += fmt.Sprintf(", between %s and %s", Stamp(*d.Since), Stamp(*d.Until))
	case d.Since != nil:
		s += ", after " + Stamp(*d.Since)
	case d.Until != nil:
		s += ", before " + Stamp(*d.Until)
	}
	return s
}

func plural(n uint64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// Stamp writes a time, ns since the Unix epoch, for people: RFC 3339 in UTC.
func Stamp(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

// DamageLog gathers what reading a capture finds wrong. Saw and Note are told in the
// order of reading. The zero value is ready; it is not safe for concurrent use.
type DamageLog struct {
	// Damage in the order of reading, at most the first MaxDamage of DamagedPlaces.
	Damage        []Damage
	DamagedPlaces int
	// DamagedChunks is how many chunks of recordings are lost, as far as their numbers
	// tell, plus one for each other place.
	DamagedChunks int
	// LostBytes is the sum of the damaged lengths.
	LostBytes int64

	last *int64 // time of the packet read last
	open int    // places from here on wait for Until
}

// Saw takes note of a batch that was read.
func (l *DamageLog) Saw(b *Batch) {
	timed := func(i int) bool { return b.Datagrams[i].Flags&FlagNoTime == 0 }
	for i := len(b.Datagrams) - 1; i >= 0; i-- {
		if timed(i) {
			if l.last == nil {
				l.last = new(int64)
			}
			*l.last = b.Datagrams[i].Time
			break
		}
	}
	for i := 0; l.open < len(l.Damage) && i < len(b.Datagrams); i++ {
		if timed(i) {
			until := b.Datagrams[i].Time
			for ; l.open < len(l.Damage); l.open++ {
				l.Damage[l.open].Until = &until
			}
		}
	}
}

// Note takes note of damage: a CorruptError, or another error after which reading goes
// on.
func (l *DamageLog) Note(err error) {
	var c *CorruptError
	if !errors.As(err, &c) {
		c = &CorruptError{Reason: err.Error()}
	}
	d := Damage{CorruptError: c}
	if l.last != nil {
		since := *l.last
		d.Since = &since
	}
	l.DamagedPlaces++
	if c.Chunks < 0 {
		l.DamagedChunks += c.Chunks
	} else {
		l.DamagedChunks += max(1, c.Chunks)
	}
	l.LostBytes += c.Length
	if len(l.Damage) < MaxDamage {
		l.Damage = append(l.Damage, d)
	}
}

// Append takes over what another log, of another file, holds.
func (l *DamageLog) Append(o *DamageLog) {
	n := min(len(o.Damage), MaxDamage-len(l.Damage))
	l.Damage = append(l.Damage, o.Damage[:n]...)
	l.open = len(l.Damage)
	l.DamagedPlaces += o.DamagedPlaces
	l.DamagedChunks += o.DamagedChunks
	l.LostBytes += o.LostBytes
}

// Problems are the places, a line each, and a line for those beyond the list.
func (l *DamageLog) Problems() (lines []string) {
	for i := range l.Damage {
		lines = append(lines, l.Damage[i].String())
	}
	if more := l.DamagedPlaces - len(l.Damage); more > 0 {
		lines = append(lines, fmt.Sprintf("%d more damaged places", more))
	}
	return lines
}
