package format

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Kinds of events that castdeck's recorder writes. A reader shows a kind that it does
// not know by its name.
const (
	// EventLinkDown and EventLinkUp: the interface was set down or lost its carrier,
	// or came back.
	EventLinkDown = "link-down"
	EventLinkUp   = "link-up"
	// EventInterfaceGone: the interface was deleted. EventInterfaceBack: one of its
	// name is there again.
	EventInterfaceGone = "interface-gone"
	EventInterfaceBack = "interface-back"
	// EventAddress: the addresses of the interface changed.
	EventAddress = "address-changed"
	// EventRejoined: the groups were joined again. EventJoinFailed: they could not be.
	EventRejoined   = "rejoined"
	EventJoinFailed = "join-failed"
	// EventUnwatched: the interfaces could not be watched, so that none of the above is
	// noticed.
	EventUnwatched = "not-watched"
	// EventClockStep: the system's clock was set. Time is the one after it.
	EventClockStep = "clock-step"
	// EventSilent: nothing came for a while. EventResumed: something came again.
	EventSilent  = "silent"
	EventResumed = "resumed"
	// EventHost: what the host and its interfaces lost meanwhile.
	EventHost = "host-counters"
	// EventPaused: the disk was full, and nothing was written from then on.
	// EventGoesOn: there was room again.
	EventPaused = "writing-paused"
	EventGoesOn = "writing-goes-on"
	// EventDiskSlow: the disk kept the recorder waiting; what came meanwhile stood in its
	// queue.
	EventDiskSlow = "disk-slow"
)

// NoInterface is the Event.Interface of an event that is of no interface.
const NoInterface = -1

// Limits of an event; longer ones are cut.
const (
	MaxEventText = 1 << 10 // bytes
	maxEventKind = 32      // bytes
)

// Event is something that happened while a recording was made, other than a
// datagram: a link that went down, a clock that was set. It holds no memory of a
// Batch.
type Event struct {
	// Time is the time of day, ns since the Unix epoch (CLOCK_REALTIME). Monotonic is
	// the same moment in ns by a clock that is never set (CLOCK_MONOTONIC); 0 where
	// there is none.
	Time, Monotonic int64
	// Kind is a short name, such as EventLinkDown.
	Kind string
	// Text for people, one line, at most MaxEventText bytes of UTF-8. What comes from
	// a file can hold anything: make it harmless before it is printed.
	Text string
	// Interface indexes the recording's interfaces; NoInterface for none.
	Interface int32
}

const (
	eventFixed   = headSize + 24
	optEventKind = 2
	optEventText = 3
	// MaxEventBlock is the most bytes that an event block takes.
	MaxEventBlock = BlockOverhead + eventFixed + 3*4 + maxEventKind + MaxEventText
)

// AppendEvent appends the event block. Recording and segment are those of the file,
// number counts its events from 0.
//
//	 0     40  head; part is the number of the event in the segment, from 0
//	40      8  time, ns since the Unix epoch
//	48      8  the same moment by CLOCK_MONOTONIC, ns; 0: not known
//	56      4  interface; 2^32-1: none
//	60      4  0
//	64      n  options as in every pcapng block: 2 kind, 3 text, UTF-8
func AppendEvent(dst []byte, recording UUID, segment, number uint32, e *Event) []byte {
	dst, start := beginBlock(dst, BlockEvent)
	dst = appendHead(dst, Head{Recording: recording, Segment: segment, Part: number})
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Time))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Monotonic))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(e.Interface))
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	dst = appendOption(dst, optEventKind, cutText(e.Kind, maxEventKind))
	dst = appendOption(dst, optEventText, cutText(e.Text, MaxEventText))
	return sealBlock(appendOptionEnd(dst), start)
}

// cutText is s without more than n bytes and without half a character.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// ParseEvent reads the body of an event block, and its number in the segment. The
// interface is that of the section, not checked against those described.
func ParseEvent(body []byte) (e Event, number uint32, err error) {
	h, err := parseSealed(body, eventFixed, "event")
	if err != nil {
		return e, 0, err
	}
	e.Time = int64(binary.LittleEndian.Uint64(body[40:]))
	e.Monotonic = int64(binary.LittleEndian.Uint64(body[48:]))
	e.Interface = int32(binary.LittleEndian.Uint32(body[56:]))
	if e.Interface != NoInterface && uint32(e.Interface) >= MaxInterfaces {
		return e, 0, fmt.Errorf("event of interface %d", uint32(e.Interface))
	}
	err = eachOption(body[eventFixed:], false, func(code uint16, v []byte) error {
		switch code {
		case optEventKind:
			e.Kind = cutText(cString(v), maxEventKind)
		case optEventText:
			e.Text = cutText(cString(v), MaxEventText)
		}
		return nil
	})
	return e, h.Part, err
}

// MaxEvents is how many events a Tally and the index of a segment keep, the last
// ones.
const MaxEvents = 1 << 10

// AppendLastEvents appends events to a list that is to hold the last MaxEvents, and
// drops those before them now and then: it holds less than twice as many behind what
// one call adds.
func AppendLastEvents(list []Event, e ...Event) []Event {
	list = append(list, e...)
	if len(list) >= 2*MaxEvents {
		list = list[:copy(list, list[len(list)-MaxEvents:])]
	}
	return list
}
