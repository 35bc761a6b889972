package recorder

import (
	"math/rand/v2"
	"testing"

	"castdeck/format"
)

// orderTest is an orderer whose deliveries are gathered.
type orderTest struct {
	orderer
	got      []format.Datagram
	stats    int
	released []*format.Batch
}

func newOrderTest(limit int) *orderTest {
	o := &orderTest{}
	o.limit = limit
	o.deliver = func(b *format.Batch) {
		o.got = append(o.got, b.Datagrams...)
		o.stats += len(b.Stats)
	}
	o.release = func(b *format.Batch) { o.released = append(o.released, b) }
	return o
}

// batchAt makes a batch of datagrams with these times; Length tells them apart.
func batchAt(id *uint32, times ...int64) *format.Batch {
	b := &format.Batch{}
	for _, t := range times {
		*id++
		b.Datagrams = append(b.Datagrams, format.Datagram{Time: t, Length: *id})
	}
	return b
}

func (o *orderTest) times() (out []int64) {
	for _, d := range o.got {
		out = append(out, d.Time)
	}
	return out
}

func TestOrderHoldsBack(t *testing.T) {
	var id uint32
	o := newOrderTest(8)
	// Socket A was read until 12, then B until 15: what came on A after 12 is in the
	// next batch.
	o.add(parcel{batch: batchAt(&id, 10, 12, 11, 14, 15), until: 12})
	if got := o.times(); len(got) != 2 || got[0] != 10 || got[1] != 11 {
		t.Fatalf("delivered %v before the others could be known", got)
	}
	if len(o.released) != 0 {
		t.Fatal("a batch was released while datagrams in it wait")
	}
	o.add(parcel{batch: batchAt(&id, 13, 16, 18), until: 17})
	want := []int64{10, 11, 12, 13, 14, 15, 16}
	if got := o.times(); len(got) != len(want) {
		t.Fatalf("delivered %v", got)
	}
	for i, w := range want {
		if o.got[i].Time != w {
			t.Fatalf("delivered %v, want %v", o.times(), want)
		}
	}
	if len(o.released) != 1 {
		t.Errorf("%d batches released, one is done", len(o.released))
	}
	o.flush()
	if len(o.got) != 8 || len(o.released) != 2 || o.waiting() {
		t.Errorf("%d delivered, %d released", len(o.got), len(o.released))
	}
}

func TestOrderIsStable(t *testing.T) {
	var id uint32
	o := newOrderTest(8)
	o.add(parcel{batch: batchAt(&id, 5, 5, 5, 4, 5, 4), until: 100})
	for i, want := range []uint32{4, 6, 1, 2, 3, 5} {
		if o.got[i].Length != want {
			t.Fatalf("place %d holds datagram %d, want %d", i, o.got[i].Length, want)
		}
	}
}

func TestOrderIsBounded(t *testing.T) {
	var id uint32
	o := newOrderTest(2)
	for i := range 10 {
		o.add(parcel{batch: batchAt(&id, int64(100+i)), until: 0})
		if len(o.held) > 2 {
			t.Fatalf("%d batches held, limit 2", len(o.held))
		}
	}
	o.flush()
	if len(o.got) != 10 || len(o.released) != 10 {
		t.Errorf("%d delivered, %d released, want 10", len(o.got), len(o.released))
	}
}

// TestOrderAcrossClockStep: when the clock is set back, what came before stays
// before.
func TestOrderAcrossClockStep(t *testing.T) {
	var id uint32
	o := newOrderTest(8)
	o.add(parcel{batch: batchAt(&id, 1000, 1001), until: 1000})
	o.add(parcel{batch: batchAt(&id, 1002, 500, 501), until: 501, asIs: true})
	o.add(parcel{batch: batchAt(&id, 502), until: 600})
	want := []int64{1000, 1001, 1002, 500, 501, 502}
	for i, got := range o.times() {
		if got != want[i] {
			t.Fatalf("delivered %v, want %v", o.times(), want)
		}
	}
}

func TestOrderStats(t *testing.T) {
	o := newOrderTest(8)
	b := &format.Batch{Stats: []format.InterfaceStats{{Received: 1}}}
	o.add(parcel{batch: b, until: 0})
	if o.stats != 1 || len(o.released) != 1 {
		t.Errorf("%d totals delivered, %d batches released", o.stats, len(o.released))
	}
}

// TestOrderRandom: whatever the arrival, everything comes out once, in order, where
// the parcels' promises hold.
func TestOrderRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		o := newOrderTest(1000)
		var id uint32
		sockets := 1 + r.IntN(6)
		next := make([]int64, sockets)
		n := 0
		for pass := int64(1); pass < 30; pass++ {
			var times []int64
			for s := range sockets {
				// Read at pass*100 + s*10, so with stamps up to then.
				for limit := pass*100 + int64(s)*10; ; {
					next[s] += int64(r.IntN(40))
					if next[s] > limit {
						next[s] = limit
						break
					}
					times = append(times, next[s])
				}
			}
			n += len(times)
			o.add(parcel{batch: batchAt(&id, times...), until: pass * 100})
		}
		o.flush()
		if len(o.got) != n {
			t.Fatalf("%d of %d delivered", len(o.got), n)
		}
		for i := 1; i < n; i++ {
			if o.got[i].Time < o.got[i-1].Time {
				t.Fatalf("%d behind %d", o.got[i].Time, o.got[i-1].Time)
			}
		}
	}
}

func TestOrderDoesNotAllocate(t *testing.T) {
	o := &orderer{limit: 8, deliver: func(*format.Batch) {}, release: func(*format.Batch) {}}
	b := orderBatch(0)
	run := func() { o.add(parcel{batch: b, until: 900}) }
	for range 20 {
		run()
	}
	if n := testing.AllocsPerRun(100, run); n > 0 {
		t.Errorf("%.1f allocations per batch", n)
	}
}

// orderBatch has 1024 datagrams as four sockets read in eight passes leave them.
func orderBatch(at int64) *format.Batch {
	b := &format.Batch{}
	for i := range int64(1024) {
		pass, s, k := i/128, i/32%4, i%32
		b.Datagrams = append(b.Datagrams, format.Datagram{Time: at + pass*128 + k*4 + s})
	}
	return b
}

func BenchmarkOrder(b *testing.B) {
	o := &orderer{limit: 8, deliver: func(*format.Batch) {}, release: func(*format.Batch) {}}
	batch := orderBatch(0)
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(batch.Datagrams) {
		o.add(parcel{batch: batch, until: 1 << 40})
	}
}
