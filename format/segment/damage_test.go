package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"castdeck/format"
)

// specimen is a segment file that is going to be damaged, and what is in it.
type specimen struct {
	file   []byte
	index  *format.Index
	ds     []format.Datagram
	first  []int   // number of the first datagram of each chunk, and len(ds)
	start  int64   // of chunk 0
	frames []int64 // ends of all frames
}

// newSpecimen writes a segment of n datagrams in small chunks, one of which describes
// one more interface; without seal it ends behind the last chunk.
func newSpecimen(t testing.TB, c format.Compression, id format.UUID, number uint32, n int, seal bool) *specimen {
	t.Helper()
	m := &memFS{files: map[string]*memFile{}}
	o := options(c)
	o.FS, o.ChunkSize, o.Info.Recording, o.Info.Number = m, 4<<10, id, number
	w, err := Create("x", o)
	if err != nil {
		t.Fatal(err)
	}
	s := &specimen{ds: feed(uint64(number)+100, n)}
	for i := range s.ds {
		// No two at one time, and no two segments: a datagram is known by its time.
		s.ds[i].Time += int64(number)*1e9 + int64(i)
	}
	if err := w.WriteBatch(&format.Batch{Datagrams: s.ds[:n/2]}); err != nil {
		t.Fatal(err)
	}
	late, err := w.AddInterface(format.Interface{Name: "late0", LinkType: format.LinkTypeEthernet})
	if err != nil {
		t.Fatal(err)
	}
	s.ds[n-1].Interface = late
	if err := w.WriteBatch(&format.Batch{Datagrams: s.ds[n/2:]}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s.file = m.files["x"].data
	r := openBytes(t, s.file)
	if s.index, err = r.Index(); err != nil || r.IndexError() != nil {
		t.Fatal(err, r.IndexError())
	}
	if !seal {
		s.file = s.file[:r.Footer().IndexOffset]
	}
	s.start = s.index.Chunks[0].Offset
	for at := int64(0); at < int64(len(s.file)); {
		frame, err := r.frameAt(at)
		if err != nil {
			t.Fatal(err)
		}
		at += int64(len(frame))
		s.frames = append(s.frames, at)
	}
	k := 0
	for _, x := range s.index.Chunks {
		s.first = append(s.first, k)
		k += int(x.Packets)
	}
	if s.first = append(s.first, k); k != n {
		t.Fatalf("%d datagrams in chunks, %d written", k, n)
	}
	return s
}

// chunk is the frame of chunk i.
func (s *specimen) chunk(i int) []byte {
	return s.file[s.index.Chunks[i].Offset:][:s.index.Chunks[i].Size]
}

// judge watches what is read from a damaged copy of a specimen.
type judge struct {
	s       *specimen
	seen    []bool // chunks that were read
	at      int    // datagram that is due; -1 between chunks
	damage  []*format.CorruptError
	told    bool // that not all is well, by other means than damage
	open    bool // the file is not sealed: what is behind its end is not known
	batches int
}

func newJudge(s *specimen) *judge { return &judge{s: s, seen: make([]bool, len(s.first)-1), at: -1} }

// read reads r to its end.
func (j *judge) read(r format.BatchReader) error {
	var b format.Batch
	for {
		err := r.ReadBatch(&b)
		var damage *format.CorruptError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &damage):
			j.damage = append(j.damage, damage)
		case err != nil:
			return err
		}
		if j.batches++; j.batches > 100+len(j.s.file) {
			return errors.New("reading does not end")
		}
		for i := range b.Datagrams {
			if err := j.take(&b.Datagrams[i]); err != nil {
				return err
			}
		}
	}
}

// take checks one datagram: it is one of the specimen's, whole chunks of them come in
// order, and none comes twice.
func (j *judge) take(d *format.Datagram) error {
	if j.at < 0 {
		n := sort.Search(len(j.s.ds), func(i int) bool { return j.s.ds[i].Time >= d.Time })
		k := sort.SearchInts(j.s.first, n+1) - 1
		switch {
		case k >= len(j.seen) || j.s.first[k] != n:
			return fmt.Errorf("datagram %d, which begins no chunk, or one that was never written: %+v", n, *d)
		case j.seen[k]:
			return fmt.Errorf("chunk %d comes twice", k)
		}
		j.seen[k], j.at = true, n
	}
	if want := &j.s.ds[j.at]; !same(d, want) {
		return fmt.Errorf("datagram %d:\nread  %+v\nwrote %+v", j.at, *d, *want)
	}
	if j.at++; slices.Contains(j.s.first, j.at) {
		j.at = -1
	}
	return nil
}

// sentence says what is wrong with what was read when only the chunks for which may
// is true may be lost, and how many datagrams are.
func (j *judge) sentence(may func(chunk int) bool) (lost int, err error) {
	if j.at >= 0 {
		return 0, fmt.Errorf("a chunk ends before datagram %d", j.at)
	}
	for k, seen := range j.seen {
		if seen {
			continue
		}
		lost += j.s.first[k+1] - j.s.first[k]
		if !may(k) {
			return lost, fmt.Errorf("chunk %d is whole, and was not read", k)
		}
	}
	last := len(j.seen)
	for last > 0 && !j.seen[last-1] {
		last--
	}
	if lost > 0 && len(j.damage) == 0 && !j.told && !(j.open && !slices.Contains(j.seen[:last], false)) {
		return lost, fmt.Errorf("%d datagrams are lost, and nobody says so", lost)
	}
	return lost, nil
}

func none(int) bool { return false }

// openDamaged opens b as the command does: what has no first frame is salvaged.
func openDamaged(b []byte) (*Reader, error) {
	r, err := NewReader(bytes.NewReader(b), int64(len(b)), "x", ReadOptions{})
	if err != nil {
		return NewSalvage(bytes.NewReader(b), int64(len(b)), "x", ReadOptions{})
	}
	return r, nil
}

// try reads a damaged copy of s, of which only the chunks that may names may be lost.
// whole says that the reader found nothing wrong at all.
func (s *specimen) try(b []byte, sealed bool, may func(chunk int) bool) (lost int, whole bool, err error) {
	r, err := openDamaged(b)
	if err != nil {
		return 0, false, err
	}
	j := newJudge(s)
	j.told = r.Salvaged() || r.IndexError() != nil || r.Sealed() != sealed
	j.open = !r.Sealed()
	if err := j.read(r); err != nil {
		return 0, false, err
	}
	lost, err = j.sentence(may)
	return lost, !j.told && len(j.damage) == 0, err
}

// tryVerify checks that Verify tells of a damaged copy what reading it gave.
func (s *specimen) tryVerify(b []byte, lost int, whole, sealed bool) error {
	r, err := openDamaged(b)
	if err != nil {
		return err
	}
	scan, problems, err := r.Verify()
	switch {
	case err != nil:
		return err
	case scan.Tally.Datagrams != uint64(len(s.ds)-lost):
		return fmt.Errorf("verify reads %d datagrams of %d, %d are lost", scan.Tally.Datagrams, len(s.ds), lost)
	case (len(problems) == 0) != (whole && sealed):
		return fmt.Errorf("verify lists %q", problems)
	case r.index != nil && scan.Lost.Datagrams != uint64(lost):
		return fmt.Errorf("verify says %d datagrams are lost, and %d are", scan.Lost.Datagrams, lost)
	}
	return nil
}

// TestJudgeNotices is the negative control of all tests here: what they look for would
// be found. The last case is a reader without checksums, in effect: the datagram is
// altered in the file, and the checksum made to fit.
func TestJudgeNotices(t *testing.T) {
	s := newSpecimen(t, format.None, NewUUID(), 0, 100, true)
	altered := func(n int, f func(*format.Datagram)) []format.Datagram {
		ds := slices.Clone(s.ds)
		ds[n].Payload = bytes.Clone(ds[n].Payload)
		f(&ds[n])
		return ds
	}
	big := slices.IndexFunc(s.ds, func(d format.Datagram) bool { return len(d.Payload) > 100 })
	for name, ds := range map[string][]format.Datagram{
		"payload":     altered(big, func(d *format.Datagram) { d.Payload[7] ^= 1 }),
		"shorter":     altered(big, func(d *format.Datagram) { d.Payload = d.Payload[:9] }),
		"time":        altered(big, func(d *format.Datagram) { d.Time++ }),
		"source":      altered(big, func(d *format.Datagram) { d.Src = s.ds[big].Dst }),
		"flag":        altered(big, func(d *format.Datagram) { d.Flags ^= format.FlagNotUDP }),
		"twice":       slices.Concat(s.ds, s.ds[s.first[3]:s.first[4]]),
		"missing":     slices.Concat(s.ds[:s.first[2]], s.ds[s.first[3]:]),
		"half a lost": s.ds[:s.first[4]-1],
		"exchanged":   slices.Concat(s.ds[1:2], s.ds[:1], s.ds[2:]),
	} {
		j := newJudge(s)
		err := j.read(format.NewMerge(format.MergeSource{Reader: &given{ds: ds}, Interfaces: func() []format.Interface { return interfaces }}))
		if err == nil {
			_, err = j.sentence(none)
		}
		if err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
	file := slices.Clone(s.file)
	at := int(s.index.Chunks[3].Offset)
	chunk := file[at:][:s.index.Chunks[3].Size]
	h, err := format.ParseChunkHeader(chunk)
	if err != nil {
		t.Fatal(err)
	}
	for i := s.first[3]; i < s.first[4]; i++ {
		if p := s.ds[i].Payload; len(p) >= 64 {
			chunk[bytes.Index(chunk, p)+5] ^= 4
			break
		}
	}
	if _, _, err := s.try(file, true, func(k int) bool { return k == 3 }); err != nil {
		t.Errorf("altered, the checksum wrong: %v", err)
	}
	format.FinishChunk(chunk, &h)
	if _, _, err := s.try(file, true, func(k int) bool { return k == 3 }); err == nil {
		t.Error("altered, and the checksum made to fit: not noticed")
	}
}

// given yields datagrams as they are.
type given struct{ ds []format.Datagram }

func (g *given) ReadBatch(b *format.Batch) error {
	b.Reset()
	if len(g.ds) == 0 {
		return io.EOF
	}
	b.Datagrams, g.ds = append(b.Datagrams, g.ds[0]), g.ds[1:]
	return nil
}

// cutsAt returns what every cut of s at n bytes leaves: the number of whole chunks, and
// where the last whole frame ends.
func (s *specimen) cutsAt(n int64) (chunks int, boundary int64) {
	if i := sort.Search(len(s.frames), func(i int) bool { return s.frames[i] > n }); i > 0 {
		boundary = s.frames[i-1]
	}
	chunks = sort.Search(len(s.index.Chunks), func(i int) bool {
		return s.index.Chunks[i].Offset+int64(s.index.Chunks[i].Size) > n
	})
	return chunks, boundary
}

// cut reads s cut at n bytes, from the start or from the last whole chunk on.
func (s *specimen) cut(n int64, fromStart bool) error {
	b := s.file[:n]
	r, err := NewReader(bytes.NewReader(b), n, "x", ReadOptions{})
	if n < s.start {
		if !errors.Is(err, format.ErrFormat) {
			return fmt.Errorf("within the first frame: %v", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if r.Sealed() {
		return errors.New("counts as sealed")
	}
	chunks, boundary := s.cutsAt(n)
	j := newJudge(s)
	from := 0
	if !fromStart && chunks > 0 {
		// The index of the whole file, instead of the scan by which the reader of an
		// unsealed one makes it.
		r.adopt(s.index)
		if err := r.SeekTime(s.index.Chunks[chunks-1].First); err != nil {
			return err
		}
		from = chunks - 1
	}
	if err := j.read(r); err != nil {
		return err
	}
	if j.at >= 0 {
		return fmt.Errorf("half a chunk, up to datagram %d", j.at)
	}
	for k, seen := range j.seen {
		if seen != (k >= from && k < chunks) {
			return fmt.Errorf("chunk %d of %d whole ones: read %v", k, chunks, seen)
		}
	}
	switch {
	case boundary == n && len(j.damage) == 0:
	case boundary < n && len(j.damage) == 1 && j.damage[0].Offset == boundary && j.damage[0].Length == n-boundary:
	default:
		return fmt.Errorf("the last whole frame ends at %d, damage %v", boundary, j.damage)
	}
	return nil
}

// TestCutAtEveryByte cuts a recording of three segments, one of each compression, 1 MiB
// together, at every byte: exactly the chunks that are whole before the cut are read,
// byte for byte, and the rest is told as damage, with its place and length.
//
// Reading all that is before each cut would take hours, and tell nothing more: between
// two frames a reader's state is its offset and the number of the chunk that is due,
// which SeekTime sets, and what it returns from there on depends on what stands there.
// So most cuts are read from the last whole chunk on; those at the end of a frame and 2
// bytes around it, and others at random, are read from the start, and give the same.
func TestCutAtEveryByte(t *testing.T) {
	const shards = 8
	id := NewUUID()
	total := 0
	var whole []*specimen
	for i, c := range compressions {
		n := map[format.Compression]int{format.None: 1400, format.Zstd: 1500, format.Gzip: 500}[c] // inflating takes longest
		s := newSpecimen(t, c, id, uint32(i), n, true)
		total += len(s.file)
		whole = append(whole, s)
		t.Logf("%s: %d bytes, %d chunks", c, len(s.file), len(s.index.Chunks))
	}
	if total < 1<<20 {
		t.Fatalf("only %d bytes", total)
	}
	step := int64(1)
	if testing.Short() {
		step = 97
	}
	var cuts, full, verified, recordings atomic.Int64
	t.Run("cuts", func(t *testing.T) {
		for i, s := range whole {
			for shard := range int64(shards) {
				t.Run(fmt.Sprintf("%s/%d", compressions[i], shard), func(t *testing.T) {
					t.Parallel()
					seed := rand.Uint64()
					rnd := rand.New(rand.NewPCG(seed, 0))
					size := int64(len(s.file))
					edge := make(map[int64]bool)
					for _, end := range s.frames {
						for n := end - 2; n <= end+2; n++ {
							edge[n] = true
						}
					}
					for n := size * shard / shards; n < size*(shard+1)/shards; n++ {
						if n%step != 0 && !(edge[n] && n%7 == 0) {
							continue
						}
						cuts.Add(1)
						fromStart := edge[n] || rnd.IntN(1000) == 0
						if fromStart {
							full.Add(1)
						}
						if err := s.cut(n, fromStart); err != nil {
							t.Fatalf("cut at byte %d (seed %d): %v", n, seed, err)
						}
						if n < s.start || rnd.IntN(10_000) != 0 && !(fromStart && rnd.IntN(30) == 0) {
							continue
						}
						verified.Add(1)
						chunks, boundary := s.cutsAt(n)
						scan, problems, err := openBytes(t, s.file[:n]).Verify()
						open := func(p string) bool { return strings.HasPrefix(p, "not sealed: still being written, or cut off") }
						if err != nil || !slices.ContainsFunc(problems, open) ||
							scan.LostBytes != n-boundary || scan.Tally.Datagrams != uint64(s.first[chunks]) {
							t.Fatalf("cut at byte %d (seed %d): verify reads %d datagrams, %d bytes lost, %q, %v",
								n, seed, scan.Tally.Datagrams, scan.LostBytes, problems, err)
						}
						recordings.Add(1)
						if err := cutRecording(whole, i, n); err != nil {
							t.Fatalf("recording with segment %d cut at byte %d (seed %d): %v", i, n, seed, err)
						}
					}
				})
			}
		}
	})
	t.Logf("%d bytes in 3 segments: %d cuts, %d of them read from the start, %d verified, %d read as a recording; 0 wrong datagrams",
		total, cuts.Load(), full.Load(), verified.Load(), recordings.Load())
}

// cutRecording reads all segments as one recording, segment i of it cut at n bytes.
func cutRecording(whole []*specimen, i int, n int64) error {
	files := fstest.MapFS{}
	var want []format.Datagram
	var paths []string
	for k, s := range whole {
		b, ds := s.file, s.ds
		if k == i {
			chunks, _ := s.cutsAt(n)
			b, ds = b[:n], ds[:s.first[chunks]]
		}
		name := fmt.Sprint(k)
		files[name] = &fstest.MapFile{Data: b}
		paths, want = append(paths, name), append(want, ds...)
	}
	r, err := openRecording(paths, ReadOptions{}, func(path string) (file, error) {
		f, err := files.Open(path)
		if err != nil {
			return nil, err
		}
		return f.(file), nil
	})
	if err != nil {
		return err
	}
	defer r.Close()
	_, boundary := whole[i].cutsAt(n)
	var b format.Batch
	got := 0
	for damage := int64(0); ; {
		err := r.ReadBatch(&b)
		var c *format.CorruptError
		switch {
		case errors.Is(err, io.EOF):
			if got != len(want) || damage != n-boundary || r.Sealed() {
				return fmt.Errorf("%d datagrams of %d, %d bytes damaged of %d, sealed %v", got, len(want), damage, n-boundary, r.Sealed())
			}
			return nil
		case errors.As(err, &c):
			damage += c.Length
		case err != nil:
			return err
		}
		for k := range b.Datagrams {
			d := b.Datagrams[k]
			if got == len(want) {
				return fmt.Errorf("more than %d datagrams", got)
			}
			d.Interface = want[got].Interface // numbered anew where a description is lost
			if !same(&d, &want[got]) {
				return fmt.Errorf("datagram %d: %+v, want %+v", got, d, want[got])
			}
			got++
		}
	}
}

// TestBitFlips flips single bits, one at a time: every one of the first frame, and others
// at random anywhere in sealed and unsealed files, index and footer included. No wrong
// datagram comes out, at most the chunk that was hit is lost, which the reader then
// tells, and all others are read.
func TestBitFlips(t *testing.T) {
	flips, step, shards := 100_000, 1, 3
	if testing.Short() {
		flips, step = 2_000, 37
	}
	var done, invisible, lossy, lostDatagrams atomic.Int64
	flip := func(t *testing.T, s *specimen, file []byte, bit int, seal, verify bool) {
		at := bit / 8
		hit := sort.Search(len(s.index.Chunks), func(i int) bool {
			return s.index.Chunks[i].Offset+int64(s.index.Chunks[i].Size) > int64(at)
		})
		if int64(at) < s.start {
			hit = -1
		}
		file[at] ^= 1 << (bit % 8)
		lost, whole, err := s.try(file, seal, func(k int) bool { return k == hit })
		if err == nil && (verify || whole) {
			err = s.tryVerify(file, lost, whole, seal)
		}
		if err != nil {
			t.Fatalf("bit %d of byte %d (chunk %d): %v", bit%8, at, hit, err)
		}
		file[at] ^= 1 << (bit % 8)
		done.Add(1)
		lostDatagrams.Add(int64(lost))
		switch {
		case lost > 0:
			lossy.Add(1)
		case whole:
			invisible.Add(1)
		}
	}
	t.Run("flips", func(t *testing.T) {
		for _, c := range compressions {
			for _, seal := range []bool{true, false} {
				s := newSpecimen(t, c, NewUUID(), 0, 70, seal)
				if len(s.index.Chunks) < 6 {
					t.Fatalf("only %d chunks", len(s.index.Chunks))
				}
				name := fmt.Sprintf("%s/sealed=%v/", c, seal)
				t.Run(name+"first frame", func(t *testing.T) {
					t.Parallel()
					file := slices.Clone(s.file)
					for bit := 0; bit < 8*int(s.start); bit += step {
						flip(t, s, file, bit, seal, bit%40 == 0)
					}
				})
				for range shards {
					t.Run(name+"anywhere", func(t *testing.T) {
						t.Parallel()
						seed := rand.Uint64()
						rnd := rand.New(rand.NewPCG(seed, 0))
						defer func() {
							if t.Failed() {
								t.Logf("seed %d", seed)
							}
						}()
						file := slices.Clone(s.file)
						for n := range (flips + 6*shards - 1) / (6 * shards) {
							flip(t, s, file, rnd.IntN(8*len(file)), seal, n%50 == 0)
						}
					})
				}
			}
		}
	})
	t.Logf("%d bit flips: %d cost a chunk (%d datagrams together), %d are in bits that mean nothing and cost nothing; 0 wrong datagrams",
		done.Load(), lossy.Load(), lostDatagrams.Load(), invisible.Load())
	if lossy.Load() < done.Load()/2 || invisible.Load() == 0 {
		t.Error("this test shows nothing")
	}
}

// TestDamageForms damages files in the ways in which disks and people do: no wrong
// datagram comes out, none twice, and only chunks whose bytes are not there any more are
// lost.
func TestDamageForms(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 15
	}
	// A form returns the damaged copy, and which chunks it may cost.
	type form func(s *specimen, rnd *rand.Rand) (file []byte, may func(int) bool)
	sector := func(size int, fill func(b []byte, s *specimen, rnd *rand.Rand)) form {
		return func(s *specimen, rnd *rand.Rand) ([]byte, func(int) bool) {
			file := slices.Clone(s.file)
			at := rnd.IntN(len(file))
			if rnd.IntN(2) == 0 {
				at -= at % size
			}
			fill(file[at:min(at+size, len(file))], s, rnd)
			return file, func(k int) bool {
				return !bytes.Equal(s.chunk(k), file[s.index.Chunks[k].Offset:][:s.index.Chunks[k].Size])
			}
		}
	}
	zero := func(b []byte, _ *specimen, _ *rand.Rand) { clear(b) }
	garbage := func(b []byte, _ *specimen, rnd *rand.Rand) {
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
	}
	misplaced := func(b []byte, s *specimen, rnd *rand.Rand) { copy(b, s.file[rnd.IntN(len(s.file)):]) }
	// pieces puts a file together from chunks, in any order, with what is given before
	// chunk before; what follows the last chunk stays.
	pieces := func(s *specimen, order []int, before int, extra []byte) []byte {
		file := slices.Clone(s.file[:s.start])
		for i, k := range order {
			if i == before {
				file = append(file, extra...)
			}
			file = append(file, s.chunk(k)...)
		}
		last := s.index.Chunks[len(s.index.Chunks)-1]
		return append(file, s.file[last.Offset+int64(last.Size):]...)
	}
	all := func(s *specimen) []int {
		order := make([]int, len(s.index.Chunks))
		for i := range order {
			order[i] = i
		}
		return order
	}
	forms := map[string]form{
		"zeroed sector":         sector(512, zero),
		"zeroed page":           sector(4096, zero),
		"garbage in a sector":   sector(512, garbage),
		"garbage in a page":     sector(4096, garbage),
		"sector from elsewhere": sector(512, misplaced),
		"page from elsewhere":   sector(4096, misplaced),
		"bytes taken out": func(s *specimen, rnd *rand.Rand) ([]byte, func(int) bool) {
			at, n := rnd.IntN(len(s.file)), 1+rnd.IntN(6000)
			end := min(at+n, len(s.file))
			return slices.Delete(slices.Clone(s.file), at, end), func(k int) bool {
				x := s.index.Chunks[k]
				return int64(at) < x.Offset+int64(x.Size) && int64(end) > x.Offset
			}
		},
		"bytes put in": func(s *specimen, rnd *rand.Rand) ([]byte, func(int) bool) {
			at := rnd.IntN(len(s.file) + 1)
			extra := make([]byte, 1+rnd.IntN(6000))
			garbage(extra, s, rnd)
			return slices.Insert(slices.Clone(s.file), at, extra...), func(k int) bool {
				x := s.index.Chunks[k]
				return int64(at) > x.Offset && int64(at) < x.Offset+int64(x.Size)
			}
		},
		"garbage behind the end": func(s *specimen, rnd *rand.Rand) ([]byte, func(int) bool) {
			extra := make([]byte, 1+rnd.IntN(6000))
			garbage(extra, s, rnd)
			return append(slices.Clone(s.file), extra...), none
		},
		"chunk taken out": func(s *specimen, rnd *rand.Rand) ([]byte, func(int) bool) {
			gone := rnd.IntN(len(s.index.Chunks))
			return pieces(s, slices.Delete(all(s), gone, gone+1), -1, nil), func(k int) bool { return k == gone }
		},
		"chunk twice": func(s *specimen, rnd *rand.Rand) ([]byte, func(int) bool) {
			n := len(s.index.Chunks)
			return pieces(s, slices.Insert(all(s), rnd.IntN(n), rnd.IntN(n)), -1, nil), none
		},
		"chunks exchanged": func(s *specimen, rnd *rand.Rand) ([]byte, func(int) bool) {
			order := all(s)
			i, j := rnd.IntN(len(order)), rnd.IntN(len(order))
			order[i], order[j] = order[j], order[i]
			return pieces(s, order, -1, nil), none
		},
		"all chunks shuffled": func(s *specimen, rnd *rand.Rand) ([]byte, func(int) bool) {
			order := all(s)
			rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			return pieces(s, order, -1, nil), none
		},
	}
	var done, lossy, lostDatagrams atomic.Int64
	t.Cleanup(func() {
		t.Logf("%d damaged files: %d cost datagrams (%d together); 0 wrong datagrams", done.Load(), lossy.Load(), lostDatagrams.Load())
	})
	for _, c := range compressions {
		id := NewUUID()
		forms := maps.Clone(forms)
		// The same datagrams, recorded by somebody else, and as another segment.
		foreign := []*specimen{newSpecimen(t, c, NewUUID(), 0, 100, true), newSpecimen(t, c, id, 1, 100, true)}
		forms["chunk of another recording or segment"] = func(s *specimen, rnd *rand.Rand) ([]byte, func(int) bool) {
			f := foreign[rnd.IntN(len(foreign))]
			return pieces(s, all(s), rnd.IntN(len(s.index.Chunks)), f.chunk(rnd.IntN(len(f.index.Chunks)))), none
		}
		for _, seal := range []bool{true, false} {
			s := newSpecimen(t, c, id, 0, 100, seal)
			for name, f := range forms {
				t.Run(fmt.Sprintf("%s/sealed=%v/%s", c, seal, name), func(t *testing.T) {
					t.Parallel()
					seed := rand.Uint64()
					rnd := rand.New(rand.NewPCG(seed, 0))
					noticed := 0
					for range rounds {
						file, may := f(s, rnd)
						lost, whole, err := s.try(file, seal, may)
						if err == nil && rnd.IntN(5) == 0 {
							err = s.tryVerify(file, lost, whole, seal)
						}
						if err == nil && seal && whole && !bytes.Equal(file, s.file) {
							err = errors.New("nothing is said of it")
						}
						if err != nil {
							t.Fatalf("seed %d: %v", seed, err)
						}
						done.Add(1)
						if lost > 0 {
							lossy.Add(1)
							lostDatagrams.Add(int64(lost))
						}
						if !whole {
							noticed++
						}
					}
					if noticed == 0 {
						t.Error("this test shows nothing")
					}
				})
			}
		}
	}
}
