// Package bench makes traffic and measures what becomes of it. It joins recorder,
// replayer and files where a measurement needs the whole path.
package bench

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/netip"
	"time"

	"castdeck/format"
)

// FeedOptions describe a synthetic feed. Fields without a default must be set.
type FeedOptions struct {
	// Groups take turns; each has a sequence of its own.
	Groups []netip.AddrPort
	// SourcePort of the datagrams, default 40000.
	SourcePort uint16
	// Count of datagrams in all.
	Count int
	// Rate in datagrams per second on average, default 10,000.
	Rate float64
	// Burst is the largest number of datagrams that are due at one time; sizes from
	// 1 to Burst occur. Default 1: evenly spaced.
	Burst int
	// Together sends the datagrams of a burst to one group: the groups take turns by
	// bursts.
	Together bool
	// MinSize and MaxSize of the payload in bytes, defaults 64 and MinSize; at least
	// FeedHeader.
	MinSize, MaxSize int
	// Start is the time of the first datagram, ns since the Unix epoch.
	Start int64
	// Seed makes feeds differ; the same options make the same feed.
	Seed uint64
}

// FeedHeader is what every payload of a feed begins with, big-endian: the number of
// the datagram in the feed and in its group, 8 bytes each.
const FeedHeader = 16

// Feed is a format.BatchReader of made-up market data: length-prefixed messages
// with slowly moving identifiers and prices, which pack about as well as real ones.
type Feed struct {
	o      FeedOptions
	rnd    *rand.Rand
	n      int
	left   int // of the current burst
	bursts int
	due    int64
	per    float64 // ns between datagrams on average
	seq    []uint64
	order  uint64
	prices [64]uint32
}

// NewFeed makes a feed.
func NewFeed(o FeedOptions) *Feed {
	if o.SourcePort == 0 {
		o.SourcePort = 40000
	}
	if o.Rate <= 0 {
		o.Rate = 10_000
	}
	o.Burst = max(o.Burst, 1)
	o.MinSize = min(max(o.MinSize, FeedHeader, 64*boolInt(o.MinSize == 0)), format.MaxPayloadIPv4)
	o.MaxSize = min(max(o.MaxSize, o.MinSize), format.MaxPayloadIPv4)
	f := &Feed{o: o, rnd: rand.New(rand.NewPCG(o.Seed, 0)), per: 1e9 / o.Rate, seq: make([]uint64, len(o.Groups)), order: 88_123_456_789}
	for i := range f.prices {
		f.prices[i] = uint32(100_000 + i*7919)
	}
	return f
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// ReadBatch makes up to 512 more datagrams.
func (f *Feed) ReadBatch(b *format.Batch) error {
	const most = 512
	b.Reset()
	if f.n >= f.o.Count || len(f.o.Groups) == 0 {
		return io.EOF
	}
	if cap(b.Datagrams) < most {
		b.Datagrams = make([]format.Datagram, 0, most)
	}
	if need := most * f.o.MaxSize; cap(b.Buf) < need {
		b.Buf = make([]byte, 0, need)
	}
	for len(b.Datagrams) < most && f.n < f.o.Count {
		due := f.next()
		g := f.n % len(f.o.Groups)
		if f.o.Together {
			g = f.bursts % len(f.o.Groups)
		}
		size := f.o.MinSize
		if f.o.MaxSize > size {
			size += f.rnd.IntN(f.o.MaxSize - size + 1)
		}
		at := len(b.Buf)
		b.Buf = b.Buf[:at+size]
		p := b.Buf[at : at+size : at+size]
		binary.BigEndian.PutUint64(p, uint64(f.n))
		binary.BigEndian.PutUint64(p[8:], f.seq[g])
		f.messages(p[FeedHeader:])
		b.Datagrams = append(b.Datagrams, format.Datagram{
			Time: f.o.Start + due,
			Src:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), f.o.SourcePort),
			Dst:  f.o.Groups[g], TTL: 1, Length: uint32(size), Payload: p,
		})
		f.seq[g]++
		f.n++
	}
	return nil
}

// next is the time of the next datagram since the first: bursts of random size, at
// distances that keep the average rate.
func (f *Feed) next() int64 {
	if f.left == 0 {
		f.bursts++
		f.left = 1 + f.rnd.IntN(f.o.Burst)
		f.due = int64(float64(f.n) * f.per)
	}
	f.left--
	return f.due
}

// messages fills p with order messages of 36 bytes.
func (f *Feed) messages(p []byte) {
	var m [36]byte
	for len(p) > 0 {
		r := f.rnd.Uint32()
		sym := r >> 10 & 63
		f.order += uint64(r >> 20 & 31)
		f.prices[sym] += r&7 - 3
		m[0], m[1], m[2] = 0, byte(len(m)-2), "AEDU"[r>>24&3]
		binary.BigEndian.PutUint16(m[3:], uint16(sym*131))
		binary.BigEndian.PutUint64(m[5:], uint64(f.n)*uint64(f.per))
		binary.BigEndian.PutUint64(m[13:], f.order)
		binary.BigEndian.PutUint32(m[21:], r>>12&15*100)
		binary.BigEndian.PutUint32(m[25:], f.prices[sym]*100)
		copy(m[29:], "BUYCAST")
		p = p[copy(p, m[:]):]
	}
}

// Duration that the feed takes at its rate.
func (f *Feed) Duration() time.Duration { return time.Duration(float64(f.o.Count) * f.per) }
