package format

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestFramesThatDoNotPack: behind a frame that did not get smaller others like it are
// stored, all but every 16th; one that packs is packed whatever came before it.
func TestFramesThatDoNotPack(t *testing.T) {
	for _, c := range []Compression{Zstd, Gzip} {
		e, err := NewEncoder(c)
		if err != nil {
			t.Fatal(err)
		}
		d, err := NewDecoder(c)
		if err != nil {
			t.Fatal(err)
		}
		stored := func(raw []byte) bool {
			frame, err := e.AppendFrame(make([]byte, 7, 4*packFrom), raw) // behind something else
			if err != nil {
				t.Fatal(err)
			}
			frame = frame[7:]
			if back, err := d.Decode(nil, frame); err != nil || !bytes.Equal(back, raw) {
				t.Fatalf("%s: a frame comes back changed, or %v", c, err)
			}
			return bytes.Equal(frame, appendStored(nil, c, raw))
		}
		random := make([]byte, 2*packFrom)
		rand.NewChaCha8([32]byte{1}).Read(random)
		// Repeated over a distance, which no sample shows.
		twice := append(bytes.Clone(random[:packFrom]), random[:packFrom]...)
		text := bytes.Repeat([]byte("239.1.1.1:5000 "), 2*packFrom/15)

		// What became of 40 random frames: a packer that finds nothing may store too, so
		// only the encoder's own count tells.
		packed := 0
		for range 40 {
			if e.store == 0 {
				packed++
			}
			stored(random)
		}
		if packed != 3 {
			t.Errorf("%s: %d of 40 random frames were tried, want 3", c, packed)
		}
		if !stored(random) {
			t.Errorf("%s: a random frame behind others is not stored", c)
		}
		if stored(text) {
			t.Errorf("%s: text behind random frames is stored", c)
		}
		if stored(text) || e.store != 0 {
			t.Errorf("%s: text is stored", c)
		}
		stored(random)
		if e.store == 0 {
			t.Fatalf("%s: a random frame is no reason to store the next", c)
		}
		if stored(random[:packFrom-1]); e.store != packAgain-1 {
			t.Errorf("%s: a short frame counts", c)
		}
		whole := 0
		for range packAgain + 1 {
			if !stored(twice) {
				whole++
			}
		}
		if c == Zstd && whole < 2 { // gzip looks back 32 KiB only
			t.Errorf("%s: of frames that repeat themselves %d were packed", c, whole)
		}
	}
}
