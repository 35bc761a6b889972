package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"castdeck/bench"
	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/netnstest"
	"castdeck/replayer"
)

var crashes = flag.Int("crashes", 200, "how often TestKilled kills a recorder")

// victim is a recorder in a process of its own, and what is sent to it.
type victim struct {
	cmd    *exec.Cmd
	path   string
	feed   bench.FeedOptions
	talk   bytes.Buffer
	sender *replayer.Replayer
	stop   context.CancelFunc
	sent   chan error
}

var crashGroup = netip.MustParseAddrPort("239.6.6.6:6000")

// startVictim starts castdeck record and, once it has joined, a sender that goes on
// until the recorder has gone or the feed ends. Everything from the first datagram on
// reaches the recorder's socket.
func startVictim(t *testing.T, path string, feed bench.FeedOptions, pacing replayer.Pacing, args ...string) *victim {
	t.Helper()
	feed.Groups = []netip.AddrPort{crashGroup}
	v := &victim{path: path, feed: feed, sent: make(chan error, 1)}
	v.cmd = exec.Command("castdeck", append([]string{"record", crashGroup.String(), "-i", "lo", "-o", path}, args...)...)
	v.cmd.Stderr = &v.talk
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := waitJoined(crashGroup.Addr()); err != nil {
		v.cmd.Process.Kill()
		v.cmd.Wait()
		t.Fatalf("%v: %s", err, v.talk.Bytes())
	}
	var err error
	v.sender, err = replayer.New(replayer.Options{Interface: "lo", Loopback: true, Pacing: pacing})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	v.stop = stop
	go func() {
		_, err := v.sender.Run(ctx, bench.NewFeed(feed))
		v.sent <- err
	}()
	return v
}

// until waits, for at most 30 s, until the recorder's work meets a condition.
func (v *victim) until(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !met(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(deadline) {
			v.end(t, syscall.SIGKILL)
			t.Fatalf("not within 30 s: %s: %s", what, v.talk.Bytes())
		}
	}
}

// grown says whether the file has that many bytes.
func (v *victim) grown(bytes int64) bool {
	st, err := os.Stat(v.path)
	return err == nil && st.Size() >= bytes
}

// end sends a signal, waits for the process and then stops the sender. It returns the
// exit code, -1 where the signal ended the process, and how long that took.
func (v *victim) end(t *testing.T, s os.Signal) (code int, took time.Duration) {
	t.Helper()
	start := time.Now()
	if err := v.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	killed := time.AfterFunc(30*time.Second, func() { v.cmd.Process.Kill() })
	err := v.cmd.Wait()
	took = time.Since(start)
	if !killed.Stop() {
		t.Errorf("castdeck did not end within 30 s of %v", s)
	}
	v.stop()
	if err := <-v.sent; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("sending: %v", err)
	}
	v.sender.Close()
	code, _ = exitCode(err)
	return code, took
}

// left is what a recorder leaves behind.
type left struct {
	recorded uint64 // datagrams
	lost     uint64 // that the kernel dropped, and the file says so
	damage   []*format.CorruptError
	sealed   bool
	size     int64
}

// inspectLeft reads the file of a victim. Its datagrams are those of the feed, byte for
// byte, from the first one on without a gap but where the file says how many are lost.
func (v *victim) inspectLeft() (l left, err error) {
	r, err := segment.Open(v.path, segment.ReadOptions{})
	if err != nil {
		return l, err
	}
	defer r.Close()
	l.size, l.sealed = r.Size(), r.Sealed()
	feed := bench.NewFeed(v.feed)
	var want, b format.Batch
	from, n := uint64(0), uint64(0) // numbers of want's first datagram, and of the one that is due
	for {
		err := r.ReadBatch(&b)
		var damage *format.CorruptError
		switch {
		case errors.Is(err, io.EOF):
			if f := r.Footer(); f != nil {
				l.lost = max(l.lost, f.Dropped) // behind the last datagram too
			}
			return l, nil
		case errors.As(err, &damage):
			l.damage = append(l.damage, damage)
		case err != nil:
			return l, err
		}
		for i := range b.Datagrams {
			d := &b.Datagrams[i]
			n += d.Drops
			l.lost += d.Drops
			for n >= from+uint64(len(want.Datagrams)) {
				from += uint64(len(want.Datagrams))
				if err := feed.ReadBatch(&want); err != nil {
					return l, fmt.Errorf("datagram %d of a feed of %d", n, v.feed.Count)
				}
			}
			if w := &want.Datagrams[n-from]; !bytes.Equal(d.Payload, w.Payload) || d.Dst != w.Dst || d.Src.Port() != w.Src.Port() {
				got := int64(-1)
				if len(d.Payload) >= bench.FeedHeader {
					got = int64(binary.BigEndian.Uint64(d.Payload))
				}
				return l, fmt.Errorf("datagram %d was due (%d of them lost before): %d came, from %v to %v, %d bytes", n, l.lost, got, d.Src, d.Dst, len(d.Payload))
			}
			n++
			l.recorded++
		}
	}
}

// torn checks that a file ends in the way in which a recorder that was killed ends it:
// without a footer, in a whole chunk or in one part of one.
func (l *left) torn() error {
	switch {
	case l.sealed:
		return errors.New("sealed")
	case len(l.damage) > 1, len(l.damage) == 1 && l.damage[0].Offset+l.damage[0].Length != l.size:
		return fmt.Errorf("of %d bytes: damage %v", l.size, l.damage)
	}
	return nil
}

// refusesAgain checks that recording to the same path once more touches nothing.
func (v *victim) refusesAgain(t *testing.T) error {
	before, err := os.ReadFile(v.path)
	if err != nil {
		return err
	}
	var talk bytes.Buffer
	code := run(t.Context(), []string{"record", crashGroup.String(), "-i", "lo", "-o", v.path, "--count", "1", "--duration", "10s"}, nil, io.Discard, &talk)
	if code != exitFailed || !strings.Contains(talk.String(), "exists; choose another name, or overwrite it with --force") {
		return fmt.Errorf("recording to it again exits with %d: %s", code, talk.Bytes())
	}
	after, err := os.ReadFile(v.path)
	if err == nil && !bytes.Equal(before, after) {
		err = errors.New("recording to it again changed it")
	}
	return err
}

// repaired checks that verify tells what is wrong, and that repair makes a whole file
// of everything that is in it.
func (v *victim) repaired(t *testing.T, l left) error {
	var out, talk bytes.Buffer
	if code := run(t.Context(), []string{"verify", v.path}, nil, &out, &talk); code != exitLossy || !strings.Contains(out.String()+talk.String(), "not sealed") {
		return fmt.Errorf("verify exits with %d: %s%s", code, out.Bytes(), talk.Bytes())
	}
	fixed := *v
	fixed.path = v.path + ".repaired" + format.None.Extension()
	defer os.Remove(fixed.path)
	if code := run(t.Context(), []string{"repair", v.path, fixed.path}, nil, &out, &talk); code != exitOK && code != exitLossy {
		return fmt.Errorf("repair exits with %d: %s", code, talk.Bytes())
	}
	if code := run(t.Context(), []string{"verify", fixed.path}, nil, &out, &talk); code != exitOK {
		return fmt.Errorf("verify of the repaired file exits with %d: %s%s", code, out.Bytes(), talk.Bytes())
	}
	again, err := fixed.inspectLeft()
	if err == nil && (again.recorded != l.recorded || again.lost != l.lost) {
		err = fmt.Errorf("repaired: %d datagrams and %d lost, were %d and %d", again.recorded, again.lost, l.recorded, l.lost)
	}
	return err
}

// loads are the ways in which victims record: chunks of a few datagrams by the interval,
// and full ones as fast as they come, for which a kill can tear a write.
var loads = []struct {
	ext    string
	feed   bench.FeedOptions
	pacing replayer.Pacing
	first  int64 // bytes of file with a whole chunk in them, most likely
	args   []string
}{
	{".pcapng.zst", bench.FeedOptions{Count: 100_000, Rate: 20_000, Burst: 20, MinSize: 64, MaxSize: 300}, replayer.Pacing{}, 2000, []string{"--flush-interval", "1ms"}},
	{".pcapng", bench.FeedOptions{Count: 100_000, Rate: 20_000, Burst: 20, MinSize: 64, MaxSize: 300}, replayer.Pacing{}, 2000, []string{"--flush-interval", "2ms"}},
	{".pcapng", bench.FeedOptions{Count: 40_000, MinSize: 1400}, replayer.Pacing{Max: true}, 600_000, []string{"--flush-interval", "1h"}},
	{".pcapng.gz", bench.FeedOptions{Count: 40_000, MinSize: 100, MaxSize: 1400}, replayer.Pacing{Max: true}, 150_000, []string{"--flush-interval", "3ms"}},
}

// TestKilled kills a recorder under load, at random moments, many times: what it had
// written is there, without a gap and nothing wrong in it; the next recorder does not
// touch it.
func TestKilled(t *testing.T) {
	netnstest.Require(t)
	n := *crashes
	if testing.Short() {
		n = min(n, 20)
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	dir := t.TempDir()
	var recorded, lost, unwritten uint64
	vacuous, torn := 0, 0
	var behind []float64 // ms of the feed that a paced recorder had not written
	start := time.Now()
	for cycle, retries := 0, 0; cycle < n; {
		load := loads[cycle%len(loads)]
		load.feed.Seed = rnd.Uint64()
		path := filepath.Join(dir, fmt.Sprint("killed", cycle, "-", retries, load.ext))
		v := startVictim(t, path, load.feed, load.pacing, load.args...)
		v.until(t, "the first chunk is written", func() bool { return v.grown(load.first) })
		// Not a wait for anything: the moment of the kill.
		time.Sleep(time.Duration(rnd.Int64N(int64(10 * time.Millisecond))))
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sent := v.sender.Stats().Datagrams
		if code, _ := v.end(t, syscall.SIGKILL); code != -1 {
			t.Fatalf("cycle %d: castdeck ended by itself with %d: %s", cycle, code, v.talk.Bytes())
		}
		l, err := v.inspectLeft()
		if err == nil {
			err = l.torn()
		}
		if err == nil && l.size < st.Size() {
			err = fmt.Errorf("%d bytes, had %d before the kill", l.size, st.Size())
		}
		if err == nil {
			err = v.refusesAgain(t)
		}
		if err == nil && cycle%8 == 0 {
			err = v.repaired(t, l)
		}
		if err != nil {
			t.Fatalf("cycle %d, %v: %v", cycle, v.cmd.Args[1:], err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if l.recorded == 0 {
			if vacuous++; retries == 5 {
				t.Fatalf("cycle %d: nothing was recorded, for the %dth time: %+v: %s", cycle, retries+1, l, v.talk.Bytes())
			}
			retries++
			continue
		}
		recorded, lost, torn = recorded+l.recorded, lost+l.lost, torn+len(l.damage)
		if not := max(sent, l.recorded+l.lost) - l.recorded - l.lost; !load.pacing.Max {
			unwritten += not
			behind = append(behind, float64(not)/load.feed.Rate*1000)
		}
		cycle, retries = cycle+1, 0
	}
	slices.Sort(behind)
	t.Logf("%d kills in %.1f s: %d datagrams recorded, %d lost in the kernel and told, 0 wrong; %d files with part of a chunk at their end; %d vacuous cycles repeated; "+
		"flushed every 1 or 2 ms, %.1f ms of the feed were not written yet in the median, %.1f ms at most",
		n, time.Since(start).Seconds(), recorded, lost, torn, vacuous, behind[len(behind)/2], behind[len(behind)-1])
}

// TestKilledWhenFlushed: what a flush interval has passed for is in the file, without
// any end of the recording.
func TestKilledWhenFlushed(t *testing.T) {
	netnstest.Require(t)
	for i, load := range loads {
		load.feed.Count, load.feed.Seed = 3000, uint64(i)
		path := filepath.Join(t.TempDir(), "flushed"+load.ext)
		v := startVictim(t, path, load.feed, load.pacing, "--flush-interval", "5ms")
		v.until(t, "all that was sent is in the file", func() bool {
			l, err := v.inspectLeft()
			return err == nil && l.recorded+l.lost == 3000
		})
		if code, _ := v.end(t, syscall.SIGKILL); code != -1 {
			t.Fatalf("castdeck ended by itself with %d: %s", code, v.talk.Bytes())
		}
		l, err := v.inspectLeft()
		if err == nil {
			err = l.torn()
		}
		if err != nil || l.recorded+l.lost != 3000 || len(l.damage) > 0 {
			t.Errorf("%s: %+v, %v", load.ext, l, err)
		}
		// The negative control of all tests here: against another feed nothing is right.
		v.feed.Seed++
		if _, err := v.inspectLeft(); err == nil {
			t.Errorf("%s: wrong datagrams are not noticed", load.ext)
		}
	}
}

// TestKilledAtStart kills a recorder that is just beginning: what it leaves, if anything,
// is no file that could be taken for something else, and no lock.
func TestKilledAtStart(t *testing.T) {
	netnstest.Require(t)
	n := 30
	if testing.Short() {
		n = 5
	}
	nothing, part, whole := 0, 0, 0
	for i := range n {
		v := &victim{path: filepath.Join(t.TempDir(), "start.pcapng.zst")}
		v.cmd = exec.Command("castdeck", "record", crashGroup.String(), "-i", "lo", "-o", v.path)
		if err := v.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Every other one as soon as there is a file, the rest at any time before.
		deadline := time.Now().Add(30 * time.Second)
		if i%2 == 1 {
			deadline = time.Now().Add(time.Duration(rand.Int64N(int64(50 * time.Millisecond))))
		}
		for time.Now().Before(deadline) {
			if _, err := os.Stat(v.path); err == nil {
				break
			}
		}
		v.cmd.Process.Kill()
		v.cmd.Wait()
		st, err := os.Stat(v.path)
		if errors.Is(err, os.ErrNotExist) {
			nothing++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		l, err := v.inspectLeft()
		switch {
		case err == nil && l.recorded == 0 && l.torn() == nil:
			whole++
		case errors.Is(err, format.ErrFormat) && st.Size() < 2000:
			part++
		default:
			t.Fatalf("a file of %d bytes: %+v, %v", st.Size(), l, err)
		}
		if err := v.refusesAgain(t); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d killed before there was a file, %d before its first frame was written, %d after", nothing, part, whole)
	if part+whole == 0 {
		t.Error("this test shows nothing")
	}
}

// TestRepairKilled kills repairs at random moments: the input is as it was, what there
// is of the output is right, and the next repair gives what an undisturbed one gives.
func TestRepairKilled(t *testing.T) {
	n := max(*crashes/8, 1)
	if testing.Short() {
		n = min(n, 5)
	}
	dir := t.TempDir()
	v := &victim{feed: bench.FeedOptions{Groups: []netip.AddrPort{crashGroup}, Count: 30_000, MinSize: 64, MaxSize: 300, Seed: 1}}
	in := filepath.Join(dir, "in.pcapng")
	w, err := segment.Create(in, segment.Options{Compression: format.None, ChunkSize: 64 << 10,
		Info: format.SegmentInfo{Made: true}, Interfaces: []format.Interface{{Name: "lo", LinkType: format.LinkTypeEthernet}}})
	if err != nil {
		t.Fatal(err)
	}
	feed := bench.NewFeed(v.feed)
	for b := (format.Batch{}); feed.ReadBatch(&b) == nil; {
		if err := w.WriteBatch(&b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	damaged, err := os.ReadFile(in)
	if err != nil {
		t.Fatal(err)
	}
	damaged = damaged[:len(damaged)*9/10] // within a chunk, most likely: exit code 3 or 0
	if err := os.WriteFile(in, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	repair := func(out string, args ...string) []byte {
		t.Helper()
		var talk bytes.Buffer
		if code := run(t.Context(), append([]string{"repair", in, out}, args...), nil, io.Discard, &talk); code != exitLossy {
			t.Fatalf("repair exits with %d: %s", code, talk.Bytes())
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	process := func(out string) *exec.Cmd { return exec.Command("castdeck", "repair", in, out) }
	want := repair(filepath.Join(dir, "whole.pcapng.zst"))
	start := time.Now()
	if err := process(filepath.Join(dir, "again.pcapng.zst")).Run(); err == nil {
		t.Fatal("repair says that nothing was lost")
	}
	took := time.Since(start)
	v.path = filepath.Join(dir, "out.pcapng.zst")
	before, within, after := 0, 0, 0
	for range n {
		cmd := process(v.path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(took)))) // the moment of the kill
		cmd.Process.Kill()
		cmd.Wait()
		if b, err := os.ReadFile(in); err != nil || !bytes.Equal(b, damaged) {
			t.Fatalf("the input was changed: %v", err)
		}
		st, err := os.Stat(v.path)
		if err == nil {
			var l left
			l, err = v.inspectLeft()
			switch {
			case errors.Is(err, format.ErrFormat) && st.Size() < 2000:
				before++ // a part of the first frame
			case err == nil && l.sealed:
				after++
			case err == nil && l.torn() == nil:
				within++
			default:
				t.Fatalf("a file of %d bytes: %+v, %v", st.Size(), l, err)
			}
		} else if before++; !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if got := repair(v.path, "--force"); !bytes.Equal(got, want) {
			t.Fatalf("repaired again: %d bytes, else %d, or others", len(got), len(want))
		}
		if err := os.Remove(v.path); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d repairs killed: %d before anything was written, %d within, %d at the end; all repaired again to the same bytes", n, before, within, after)
	if n >= 20 && before+within == 0 {
		t.Error("this test shows nothing")
	}
}

// TestSignals: a signal under load ends the recording; everything that had reached the
// socket before it is in the file, which is sealed.
func TestSignals(t *testing.T) {
	netnstest.Require(t)
	var slowest time.Duration
	var recorded uint64
	for i, load := range loads {
		for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
			path := filepath.Join(t.TempDir(), "signal"+load.ext)
			load.feed.Seed = uint64(i)
			v := startVictim(t, path, load.feed, load.pacing, load.args...)
			v.until(t, "1,000 datagrams are sent", func() bool { return v.sender.Stats().Datagrams > 1000 })
			sent := v.sender.Stats().Datagrams
			code, took := v.end(t, s)
			slowest = max(slowest, took)
			l, err := v.inspectLeft()
			if err != nil {
				t.Fatalf("%v, %v: %v", v.cmd.Args[1:], s, err)
			}
			recorded += l.recorded
			if want := map[bool]int{true: exitOK, false: exitLossy}[l.lost == 0]; code != want || !l.sealed || len(l.damage) > 0 || l.recorded+l.lost < sent {
				t.Errorf("%v, %v: exit code %d, sent %d before it, %+v: %s", v.cmd.Args[1:], s, code, sent, l, v.talk.Bytes())
			}
			var out, talk bytes.Buffer
			if code := run(t.Context(), []string{"verify", path}, nil, &out, &talk); code != exitOK {
				t.Errorf("verify exits with %d: %s%s", code, out.Bytes(), talk.Bytes())
			}
		}
	}
	t.Logf("%d signals under load: %d datagrams recorded, all that were sent before; the slowest end took %v", 3*len(loads), recorded, slowest.Round(time.Millisecond))
}
