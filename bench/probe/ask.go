package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"castdeck/internal/sock"
)

// ErrNoReceiver is that no receiver answered.
var ErrNoReceiver = errors.New("no receiver answered")

const (
	// askEvery is the time between two questions, and askTimes how many there are at
	// most where the answers get better; calm is after how many without news it is over.
	askEvery = 25 * time.Millisecond
	askTimes = 80
	calm     = 4
)

// Remote is what a receiver elsewhere says that arrived of a step.
type Remote struct {
	Counts
	Receiver netip.AddrPort
	// OneWay has Min, P50, P99 and Max only. Bursts has Count and Longest, and neither the
	// distance of reordering nor the largest jitter are told.
	OneWay Latency
}

// Call asks whether somebody receives the groups, which also lets the network learn the
// way, until a receiver has answered for all groups: ErrNoReceiver where none has by then.
func (s *Sender) Call(ctx context.Context, patience time.Duration) (receivers []netip.AddrPort, err error) {
	if s.replies == nil {
		return nil, errors.New("a sender without replies cannot call")
	}
	e := newReports(s.run, 0, len(s.to))
	deadline := time.Now().Add(patience)
	for ctx.Err() == nil {
		if err := s.askOnce(&Sent{Run: s.run, Streams: make([]uint64, len(s.to))}, false, e); err != nil {
			return nil, err
		}
		for who, all := range e.reports {
			if !slices.Contains(all, nil) {
				receivers = append(receivers, who)
			}
		}
		if len(receivers) > 0 {
			return receivers, nil
		}
		if time.Now().After(deadline) {
			if len(e.reports) > 0 {
				return nil, fmt.Errorf("%w for all of %d groups", ErrNoReceiver, len(s.to))
			}
			return nil, ErrNoReceiver
		}
	}
	return nil, ctx.Err()
}

// Announce sends the ends of step 0, which receivers in the same program take note of.
func (s *Sender) Announce() error {
	return s.ends(&Sent{Run: s.run, Streams: make([]uint64, len(s.to))}, false)
}

// End tells receivers that a step is over, last where it is the run's last one, and asks
// what arrived, until all has or the answers no longer change. Without replies it tells
// them three times and asks nobody. ErrNoReceiver where nobody answers.
func (s *Sender) End(ctx context.Context, sent Sent, last bool) ([]Remote, error) {
	if s.replies == nil {
		for i := range 3 {
			if i > 0 {
				sock.Sleep(askEvery)
			}
			if err := s.ends(&sent, last); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	e := newReports(s.run, sent.Number, len(s.to))
	same := 0
	for i := 0; i < askTimes && same < calm && !e.whole(&sent); i++ {
		before := e.changed
		if err := s.askOnce(&sent, last, e); err != nil {
			return nil, err
		}
		if e.changed != before {
			same = 0
		} else if len(e.reports) > 0 || ctx.Err() != nil || i > askTimes/2 {
			same++
		}
	}
	if len(e.reports) == 0 {
		return nil, ErrNoReceiver
	}
	return e.remotes(&sent), nil
}

// askOnce asks, and takes answers for askEvery.
func (s *Sender) askOnce(sent *Sent, last bool, e *echoes) error {
	if err := s.ends(sent, last); err != nil {
		return err
	}
	for until := sock.Now() + int64(askEvery); ; {
		left := until - sock.Now()
		if left <= 0 || e.whole(sent) {
			return nil
		}
		if _, err := s.replies.read(e, time.Duration(left)); err != nil {
			return err
		}
	}
}

// ends sends the end of a step to each group.
func (s *Sender) ends(sent *Sent, last bool) error {
	h := s.header()
	h.kind, h.step, h.flags = kindEnd, sent.Number, 0
	if last {
		h.flags = flagLast
	}
	e := end{rate: sent.Step.Rate, took: int64(sent.Took), refused: sent.Refused, size: uint32(sent.Size), streams: uint16(len(s.to))}
	slab := make([]byte, endSize*len(s.to))
	for i := range s.to {
		p := slab[i*endSize : (i+1)*endSize : (i+1)*endSize]
		h.stream, h.seq = uint16(i), sent.Streams[i]
		h.sent, h.clock = now(), sock.Now()
		h.put(p)
		e.put(p)
		s.out.Set(i, p, s.to[i])
	}
	for next := 0; next < len(s.to); {
		k, err := s.sender.Send(s.socket, s.out, next, len(s.to))
		next += k
		if err == nil {
			continue
		}
		switch err {
		case syscall.EAGAIN:
		case syscall.ENOBUFS, syscall.EPERM, syscall.ECONNREFUSED:
			next++ // as the data may be; it is said again
		default:
			return fmt.Errorf("sending to %s: %w", s.o.Groups[next], err)
		}
	}
	return nil
}

// whole says that a receiver has all of a step, and every one that answered has.
func (e *echoes) whole(sent *Sent) bool {
	for _, all := range e.reports {
		for i, r := range all {
			if r == nil || r.unique < sent.Streams[i] {
				return false
			}
		}
	}
	return len(e.reports) > 0
}

// remotes are the reports by receiver, in order of address.
func (e *echoes) remotes(sent *Sent) (all []Remote) {
	for who, reports := range e.reports {
		m := Remote{Receiver: who}
		jitters := 0
		for i, r := range reports {
			c := Counts{Sent: sent.Streams[i], Lost: sent.Streams[i]}
			if r != nil {
				c.Received, c.Unique, c.Duplicates, c.Reordered = r.received, r.unique, r.duplicates, r.reordered
				c.Bytes = r.unique * uint64(sent.Size)
				c.Lost, c.Drops = c.Sent-min(r.unique, c.Sent), r.drops
				c.Bursts = Bursts{Count: r.bursts, Longest: r.longest}
				m.Jitter += float64(r.jitter)
				jitters++
				if l := (Latency{Min: r.min, P50: r.p50, P99: r.p99, Max: r.max}); r.unique > 0 {
					m.OneWay = l // each report has that of the whole step
				}
			}
			m.add(&c)
		}
		m.Jitter /= float64(max(jitters, 1))
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Remote) int { return a.Receiver.Compare(b.Receiver) })
	return all
}
