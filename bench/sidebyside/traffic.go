package sidebyside

import (
	"encoding/binary"
	"io"
	"net/netip"

	"castdeck/bench"
	"castdeck/format"
)

// traffic is a feed that costs its sender little: a few thousand datagrams made
// beforehand, sent again and again with new sequence numbers and times.
type traffic struct {
	made  format.Batch
	left  int
	n     uint64
	next  int   // of made
	round int64 // ns that the times of this round are moved by
	span  int64 // of a round
}

// trafficBatch is how many datagrams a batch gets.
const trafficBatch = 512

// newTraffic makes count datagrams of size bytes to groups, in bursts of 32 on
// average, each to one group, at rate a second.
func newTraffic(groups []netip.AddrPort, size int, rate float64, count int) (*traffic, error) {
	const made = 16384
	src := bench.NewFeed(bench.FeedOptions{
		Groups: groups, Count: made, Rate: rate, Burst: 63, Together: true, MinSize: max(size, bench.FeedHeader), Seed: 1,
	})
	t := &traffic{left: count, span: int64(made / rate * 1e9)}
	t.made.Buf = make([]byte, 0, made*max(size, bench.FeedHeader))
	t.made.Datagrams = make([]format.Datagram, 0, made)
	var b format.Batch
	for {
		if err := src.ReadBatch(&b); err == io.EOF {
			return t, nil
		} else if err != nil {
			return nil, err
		}
		for i := range b.Datagrams {
			t.made.Append(&b.Datagrams[i])
		}
	}
}

// ReadBatch makes the next batch.
func (t *traffic) ReadBatch(b *format.Batch) error {
	b.Reset()
	if t.left == 0 {
		return io.EOF
	}
	if cap(b.Datagrams) < trafficBatch {
		*b = *format.NewBatch(trafficBatch, trafficBatch*2048)
	}
	for len(b.Datagrams) < trafficBatch && t.left > 0 {
		d := t.made.Datagrams[t.next]
		d.Time += t.round
		if !b.Append(&d) {
			break
		}
		binary.BigEndian.PutUint64(b.Datagrams[len(b.Datagrams)-1].Payload, t.n)
		t.n++
		t.left--
		if t.next++; t.next == len(t.made.Datagrams) {
			t.next = 0
			t.round += t.span
		}
	}
	return nil
}

// groupsOf are n groups that differ in their Ethernet addresses too.
func groupsOf(n int) []netip.AddrPort {
	groups := make([]netip.AddrPort, n)
	a := netip.AddrFrom4([4]byte{239, 77, 1, 1})
	for i := range groups {
		groups[i] = netip.AddrPortFrom(a, port)
		a = a.Next()
	}
	return groups
}

const port = 5077
