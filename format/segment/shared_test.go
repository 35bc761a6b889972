package segment

import (
	"path/filepath"
	"testing"

	"castdeck/format"
)

// TestShared: writers that share lose nothing, gather less the more they are, and have
// one table of streams together.
func TestShared(t *testing.T) {
	for _, c := range compressions {
		shared := NewShared()
		shared.room = 4 // the feed has three
		dir := t.TempDir()
		ds := feed(70, 4000)
		var ws [300]*Writer
		for i := range ws {
			o := options(c)
			o.ChunkSize, o.Shared = 64<<10, shared
			w, err := Create(filepath.Join(dir, string(rune('a'+i))), o)
			if err != nil {
				t.Fatal(err)
			}
			ws[i] = w
		}
		if got := shared.Limit(64 << 10); got != mostGathered/len(ws) {
			t.Errorf("%d bytes are gathered", got)
		}
		for len(ds) > 0 {
			for _, w := range ws[:2] {
				if err := w.WriteBatch(&format.Batch{Datagrams: ds[:40]}); err != nil {
					t.Fatal(err)
				}
				if cap(w.raw) > 2*mostGathered/len(ws)+slack {
					t.Fatalf("%d bytes of buffer", cap(w.raw))
				}
			}
			ds = ds[40:]
		}
		for _, w := range ws {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		streams, cut := 0, 0
		for _, w := range ws[:2] {
			r := open(t, w.Path())
			got, damage := readAll(t, r)
			compare(t, got, feed(70, 4000))
			s, problems, err := r.Verify()
			if err != nil || len(problems)+len(damage) > 0 {
				t.Errorf("%s: %v %v %v", c, problems, damage, err)
			}
			x, err := r.Index()
			if err != nil {
				t.Fatal(err)
			}
			streams += len(x.Streams)
			if x.StreamsCut {
				cut++
			}
			if s.Tally.StreamsCut {
				t.Error("the reader's own table is cut")
			}
		}
		if cut != 1 || streams != 4 {
			t.Errorf("%s: %d streams, %d tables that are cut", c, streams, cut)
		}
		if shared.room != 4 || shared.open != 0 {
			t.Errorf("%s: room for %d streams, %d writers after the end", c, shared.room, shared.open)
		}
	}
}
