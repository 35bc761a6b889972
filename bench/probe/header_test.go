package probe

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
)

func sample() header {
	return header{
		kind: kindData, flags: flagEcho, run: 0x0102030405060708, step: 9, stream: 10, reply: 50000, seq: 1 << 40,
		sent: 1_700_000_000_123_456_789, clock: 42, received: -1, returned: 7,
	}
}

// TestHeaderLayout: the table in header.go, byte by byte.
func TestHeaderLayout(t *testing.T) {
	b := make([]byte, HeaderSize)
	h := sample()
	h.put(b)
	want := []byte{
		'C', 'D', 'P', 'B', 1, 1, 1, 0,
		1, 2, 3, 4, 5, 6, 7, 8,
		0, 0, 0, 9, 0, 10, 0xC3, 0x50,
		0, 0, 1, 0, 0, 0, 0, 0,
		0x17, 0x97, 0x9c, 0xfe, 0x3d, 0x85, 0xcd, 0x15,
		0, 0, 0, 0, 0, 0, 0, 42,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0, 0, 0, 0, 0, 0, 0, 7,
	}
	if !bytes.Equal(b, want) {
		t.Errorf("\n% x, want\n% x", b, want)
	}
	var back header
	if err := back.get(b); err != nil || back != h {
		t.Errorf("%+v, %v", back, err)
	}
	sendBack(b, 5, 6)
	h.kind, h.received, h.returned = kindEcho, 5, 6
	if err := back.get(b); err != nil || back != h {
		t.Errorf("an echo: %+v, %v", back, err)
	}
	for i, change := range map[int]byte{0: 'X', 4: 2, 5: 0} {
		c := bytes.Clone(b)
		if c[i] = change; back.get(c) == nil {
			t.Errorf("byte %d %d was taken", i, change)
		}
	}
	if back.get(b[:HeaderSize-1]) == nil {
		t.Error("a short one was taken")
	}
}

// FuzzHeader: whatever arrives, the desk measures it or counts it as ignored, its memory
// stays within bounds, and every form reads back what it wrote.
func FuzzHeader(f *testing.F) {
	b := make([]byte, endSize)
	h := sample()
	h.flags |= flagLast
	h.put(b)
	f.Add(b)
	h.kind = kindEnd
	h.put(b)
	(&end{rate: 1000, took: 1, refused: 2, size: 64, streams: 11}).put(b)
	f.Add(b)
	h.step = 0
	h.put(b)
	f.Add(b)
	f.Add([]byte("CDPB"))
	d := newDesk()
	d.onStep = func(a Arrived) {
		if a.Unique+a.Lost != a.Sent {
			f.Errorf("%d arrived + %d lost != %d", a.Unique, a.Lost, a.Sent)
		}
	}
	src := netip.MustParseAddrPort("10.0.0.1:1000")
	now := int64(0)
	f.Fuzz(func(t *testing.T, b []byte) {
		now += int64(time.Second)
		before := d.ignored.Total()
		var h header
		ru, st, a := d.take(b, &h, src, now, now)
		if ru == nil != (d.ignored.Total() > before) || a != noAnswer && ru == nil || st != nil && ru == nil {
			t.Errorf("run %v, stream %v, answer %v, ignored %+v", ru, st, a, d.ignored)
		}
		if st != nil {
			_ = ru.arrived()
		}
		d.tick(now, now, int64(time.Second))
		if len(d.runs) > maxRuns {
			t.Errorf("%d runs", len(d.runs))
		}
		for _, ru := range d.runs {
			if ru.step != nil && len(ru.step.streams) > maxStreams {
				t.Errorf("%d streams", len(ru.step.streams))
			}
		}
		var e, e2 end
		if len(b) >= endSize && e.get(b) == nil {
			c := bytes.Clone(b)
			e.put(c)
			if e2.get(c); e.refused != e2.refused || e.size != e2.size || e.streams != e2.streams || e.took != e2.took {
				t.Errorf("%+v, then %+v", e, e2)
			}
		}
		var r, r2 report
		if r.get(b) == nil {
			c := make([]byte, reportSize)
			if r.put(c); r2.get(c) != nil || r != r2 {
				t.Errorf("%+v, then %+v", r, r2)
			}
		}
	})
}
