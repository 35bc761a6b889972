package main

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"castdeck/bench"
	"castdeck/format"
	"castdeck/format/pcapfile"
)

// contender is one program of a comparison: castdeck the first, the others to beat.
type contender struct {
	name string
	args []string
}

// BenchmarkProcess compares castdeck with the packet tools that do the same work, as
// whole processes on one capture: classic pcap, datagrams of 200 bytes to 8 groups. The
// capture is as large as CASTDECK_BENCH_SIZE says (default 8MB, so that running every
// benchmark once stays quick; docs/PERFORMANCE.md is measured with 1GB) and stands in
// TMPDIR, as the outputs do. Everything is in the page cache. The programs take turns
// within each iteration, and what is reported are medians: s is the time of each, cpu-s
// what it used of processors, user and system, M/cpu-s how many million datagrams of the
// capture castdeck does in a second of a processor, and x-fastest how long castdeck takes
// compared with the fastest of the others, below 1 where it is faster.
func BenchmarkProcess(b *testing.B) {
	dir := b.TempDir()
	castdeck := filepath.Join(dir, "castdeck")
	if out, err := exec.Command("go", "build", "-o", castdeck, ".").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	x, bytes, datagrams := benchCapture(b, dir)
	out := func(name string) string { return filepath.Join(dir, name) }
	convert := func(to string) contender {
		return contender{castdeck, []string{"convert", "--force", x, out("castdeck" + to)}}
	}
	// tcpdump started by root writes as another user, who may not write here.
	tcpdump := []string{"-r", x, "-w", out("tcpdump.pcap")}
	if os.Geteuid() == 0 {
		tcpdump = append(tcpdump, "-Z", "root")
	}
	// Without options capinfos computes three hashes of the file; these are the answers
	// without them.
	capinfos := contender{"capinfos", []string{"-t", "-E", "-c", "-s", "-d", "-u", "-a", "-e", "-y", "-i", "-z", "-x", "-o", x}}
	tshark := contender{"tshark", []string{"-q", "-z", "io,stat,1", "-r", x}}
	type job struct {
		name       string
		contenders []contender
	}
	jobs := []job{
		{"convert/pcap", []contender{convert(".pcap"), {"tcpdump", tcpdump},
			{"editcap", []string{"-F", "nsecpcap", x, out("editcap.pcap")}},
			{"mergecap", []string{"-F", "nsecpcap", "-w", out("mergecap.pcap"), x}}}},
		{"convert/pcapng", []contender{convert(".pcapng"),
			{"editcap", []string{"-F", "pcapng", x, out("editcap.pcapng")}},
			{"mergecap", []string{"-F", "pcapng", "-w", out("mergecap.pcapng"), x}}}},
		{"convert/pcapng.zst", []contender{convert(".pcapng.zst"),
			{"zstd", []string{"-q", "-f", "-1", "-o", out("zstd.pcap.zst"), x}}}},
		{"info", []contender{{castdeck, []string{"info", x}}, capinfos}},
		// The benchmark's feed numbers all groups together: each sees every eighth number.
		{"gaps", []contender{{castdeck, []string{"gaps", "--seq", "0:8:be:8", x}}, tshark, capinfos}},
		{"stats", []contender{{castdeck, []string{"stats", x}}, tshark, capinfos}},
		// castdeck reads two captures here, the others one.
		{"compare", []contender{{castdeck, []string{"compare", x, x}}, tshark, capinfos}},
		// mergecap keeps both copies.
		{"merge-lines", []contender{{castdeck, []string{"merge-lines", "--force", x, x, "-o", out("merged.pcap")}},
			{"mergecap", []string{"-F", "nsecpcap", "-w", out("mergecap.pcap"), x, x}}}},
	}
	// The same of castdeck's own recordings; the others read the pcap, which is their best.
	for _, to := range []string{".pcapng", ".pcapng.zst"} {
		own := out("recording" + to)
		if out, err := exec.Command(castdeck, "convert", x, own).CombinedOutput(); err != nil {
			b.Fatalf("convert: %v\n%s", err, out)
		}
		jobs = append(jobs,
			job{"gaps" + to, []contender{{castdeck, []string{"gaps", "--seq", "0:8:be:8", own}}, tshark, capinfos}},
			job{"stats" + to, []contender{{castdeck, []string{"stats", own}}, tshark, capinfos}},
			job{"compare" + to, []contender{{castdeck, []string{"compare", own, own}}, tshark, capinfos}})
	}
	for _, j := range jobs {
		b.Run(j.name, func(b *testing.B) { compareProcesses(b, bytes, datagrams, j.contenders) })
	}
}

// benchCapture makes the capture and returns its name, size and datagrams.
func benchCapture(b *testing.B, dir string) (path string, size int64, datagrams int) {
	want := int64(8 << 20)
	if s := os.Getenv("CASTDECK_BENCH_SIZE"); s != "" {
		var err error
		if want, err = parseSize(s); err != nil {
			b.Fatalf("CASTDECK_BENCH_SIZE: %v", err)
		}
	}
	const payload = 200
	o := bench.FeedOptions{Count: int(want / (16 + 42 + payload)), Rate: 100_000, Burst: 16, MinSize: payload, Start: 1_700_000_000_000_000_000}
	for i := range 8 {
		o.Groups = append(o.Groups, netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, 1, byte(i)}), uint16(5000+i)))
	}
	path = filepath.Join(dir, "x.pcap")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w, err := pcapfile.NewWriter(f, nil)
	if err != nil {
		b.Fatal(err)
	}
	var batch format.Batch
	for feed := bench.NewFeed(o); feed.ReadBatch(&batch) == nil; {
		if err := w.WriteBatch(&batch); err != nil {
			b.Fatal(err)
		}
	}
	st, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	// What is still to be written to the disk must not burden whoever runs first.
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return path, st.Size(), o.Count
}

// compareProcesses runs the contenders in turns and reports their medians.
func compareProcesses(b *testing.B, bytes int64, datagrams int, all []contender) {
	var there []contender
	for _, c := range all {
		if _, err := exec.LookPath(c.name); err != nil {
			b.Logf("%s is not installed", c.name)
			continue
		}
		there = append(there, c)
	}
	wall, cpu := make([][]float64, len(there)), make([][]float64, len(there))
	b.SetBytes(bytes)
	for range b.N {
		for i, c := range there {
			cmd := exec.Command(c.name, c.args...)
			start := time.Now()
			out, err := cmd.CombinedOutput()
			wall[i] = append(wall[i], time.Since(start).Seconds())
			if err != nil {
				b.Fatalf("%s: %v\n%s", cmd, err, out)
			}
			cpu[i] = append(cpu[i], (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
		}
	}
	fastest := 0.0
	for i, c := range there {
		name := filepath.Base(c.name)
		b.ReportMetric(median(wall[i]), name+"-s")
		b.ReportMetric(median(cpu[i]), name+"-cpu-s")
		if i > 0 && (fastest == 0 || median(wall[i]) < fastest) {
			fastest = median(wall[i])
		}
	}
	b.ReportMetric(float64(datagrams)/1e6/median(cpu[0]), "M/cpu-s")
	if fastest > 0 {
		b.ReportMetric(median(wall[0])/fastest, "x-fastest")
	}
	b.ReportMetric(0, "ns/op") // of all of them together: means nothing
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}
