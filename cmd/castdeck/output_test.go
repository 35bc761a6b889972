package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"castdeck/analysis"
	"castdeck/format"
	"castdeck/format/segment"
	"castdeck/internal/netnstest"
)

// failingFS is the system's files, whose n-th operation fails.
type failingFS struct {
	segment.FS
	fail   int // 1 is the first operation
	err    error
	ops    int
	failed string // the operation that failed
	again  bool   // a sync came after one that had failed
	dirs   int    // syncs of the folder
}

func (f *failingFS) op(name string) error {
	if f.ops++; f.ops == f.fail {
		f.failed = name
		return &os.PathError{Op: name, Path: "x", Err: f.err}
	}
	return nil
}

func (f *failingFS) Create(path string, overwrite bool) (segment.File, error) {
	if err := f.op("open"); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(path, overwrite)
	return &failingFile{file, f}, err
}

func (f *failingFS) SyncDir(dir string) error {
	f.dirs++
	return f.FS.SyncDir(dir)
}

type failingFile struct {
	segment.File
	fs *failingFS
}

func (f *failingFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.op("write"); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, err
	}
	return f.File.WriteAt(p, off)
}

func (f *failingFile) Sync() error {
	f.fs.again = f.fs.again || f.fs.failed == "fdatasync"
	if err := f.fs.op("fdatasync"); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *failingFile) Close() error {
	return errors.Join(f.File.Close(), f.fs.op("close"))
}

// TestOutputFaults lets the n-th operation fail, for every n until a run succeeds, for
// every kind of file: the error names file and cause, nothing is synced again, and what
// the output counts as written can be read.
func TestOutputFaults(t *testing.T) {
	var batches []*format.Batch
	const each = 300
	for i := range 4 {
		b := &format.Batch{}
		for j := range each {
			b.Datagrams = append(b.Datagrams, format.Datagram{
				Time: 1e18 + int64(i*each+j), Src: someSrc, Dst: someDst, Length: 300, Payload: make([]byte, 300), TTL: 1,
			})
		}
		batches = append(batches, b)
	}
	for _, name := range []string{"a.pcap", "a.csv", "a.ndjson.gz", "a.pcapng.zst", "a.pcapng", "a.parquet"} {
		kind, text := dataKind(name)
		if !text {
			var err error
			if kind, err = kindOf(name, ""); err != nil {
				t.Fatal(err)
			}
		}
		for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EIO} {
			for n := 1; ; n++ {
				f := &failingFS{FS: segment.OS, fail: n, err: cause}
				path := filepath.Join(t.TempDir(), name)
				if kind.parquet {
					kind.tables = newTables(analysis.GapOptions{})
					kind.tables.most = 100 << 10 // several row groups
				}
				written, err := writeFaulty(path, kind, f, batches)
				if f.failed == "" {
					if err != nil || written != 4*each || f.dirs != 1 {
						t.Fatalf("%s: no fault, yet %d datagrams, %d syncs of the folder, %v", name, written, f.dirs, err)
					}
					break
				}
				what := fmt.Sprintf("%s: operation %d (%s), %v", name, n, f.failed, cause)
				if err == nil || !errors.Is(err, cause) {
					t.Errorf("%s: %v does not name the cause", what, err)
					continue
				}
				if f.again {
					t.Errorf("%s: fdatasync was tried again", what)
				}
				if _, serr := os.Stat(path); errors.Is(serr, os.ErrNotExist) && written == 0 {
					continue // it never came to be
				}
				if kind.parquet {
					if _, serr := os.Stat(path); !errors.Is(serr, os.ErrNotExist) || !strings.HasPrefix(err.Error(), path+": ") || !strings.Contains(err.Error(), "a.parquet was removed") {
						t.Errorf("%s: %v; the file: %v", what, err, serr)
					}
					continue
				}
				if !strings.HasPrefix(err.Error(), path+": ") || !strings.Contains(err.Error(), fmt.Sprintf("a.%s is unfinished, with %s in it: remove it", strings.TrimPrefix(name, "a."), plural(written, "datagram"))) {
					t.Errorf("%s: %v", what, err)
				}
				if got := countIn(t, path, text); got != written {
					t.Errorf("%s: %d datagrams can be read, %d are said to be there", what, got, written)
				}
			}
		}
	}
}

func writeFaulty(path string, kind outputKind, f *failingFS, batches []*format.Batch) (written uint64, err error) {
	out, err := createOutput(path, kind, segment.Options{FS: f, ChunkSize: 32 << 10, Interfaces: []format.Interface{{LinkType: 1}}})
	if err != nil {
		return 0, err
	}
	for _, b := range batches {
		if err = out.WriteBatch(b); err != nil {
			break
		}
	}
	err = endOf(err, out.unfinished(out.Close()))
	written, _ = out.written()
	return written, err
}

// countIn counts the datagrams of a capture, or the lines of a text but for its header.
func countIn(t *testing.T, path string, text bool) uint64 {
	t.Helper()
	if !text {
		got, _ := readPackets(t, path)
		return uint64(len(got))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		return 0
	}
	if strings.HasSuffix(path, ".gz") {
		b = unpacked(t, b)
	}
	n := uint64(strings.Count(string(b), "\n"))
	if strings.Contains(path, ".csv") {
		n = max(n, 1) - 1
	}
	return n
}

// fullDisk runs a shell script in a mount namespace of its own, in which "small" is a
// folder of 128 KiB and "ro" one that cannot be written to.
func fullDisk(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"small", "ro"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := "mount --make-rprivate / && mount -t tmpfs -o size=1m none small && mount -t tmpfs -o ro none ro"
	try := exec.Command("unshare", "-m", "sh", "-c", mount)
	try.Dir = dir
	if out, err := try.CombinedOutput(); err != nil {
		t.Skipf("no mounts here: %v: %s", err, out)
	}
	cmd := exec.Command("unshare", "-m", "sh", "-c", mount+"\n"+script)
	cmd.Dir = dir
	return cmd
}

// feedFile makes a capture of another tool with n datagrams of 300 bytes.
func feedFile(t *testing.T, path string, n int) {
	t.Helper()
	var all []format.Datagram
	for i := range n {
		payload := make([]byte, 300)
		for j := range payload {
			payload[j] = byte(i * (j + 7) >> 3)
		}
		all = append(all, framed(t, format.Datagram{Time: 1e18 + int64(i)*1e6, Src: someSrc, Dst: someDst, Length: 300, Payload: payload, TTL: 1}, 1))
	}
	writeCapture(t, path, []format.Interface{{LinkType: 1}}, all...)
}

// TestFullDisk: on a disk that is full convert and repair name file, bytes and cause and
// exit with 1; the file that is left can be read, and holds what they say it does. A
// folder that cannot be written to is named too.
func TestFullDisk(t *testing.T) {
	in := filepath.Join(t.TempDir(), "in.pcapng")
	feedFile(t, in, 8000)
	out, err := fullDisk(t, `
		for cmd in convert repair; do for name in a.pcapng a.pcap a.pcapng.gz a.csv; do
			[ $cmd-$name = repair-a.csv ] && continue
			castdeck $cmd `+in+` small/$name 2>said; echo "$cmd $name exit $?"
			cat said
			[ $name = a.csv ] && wc -l <small/$name || castdeck info --json small/$name
			rm small/$name
			castdeck $cmd `+in+` ro/$name 2>said; echo "read-only exit $?"
			cat said
		done; done`).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text := string(out)
	for _, cmd := range []string{"convert", "repair"} {
		for _, name := range []string{"a.pcapng", "a.pcap", "a.pcapng.gz", "a.csv"} {
			if cmd+name == "repaira.csv" {
				continue
			}
			var ok bool
			if _, text, ok = strings.Cut(text, cmd+" "+name+" exit "); !ok {
				t.Fatalf("no %s %s in %s", cmd, name, out)
			}
			block, _, _ := strings.Cut(text, "repair ")
			said := regexp.MustCompile(`^1\ncastdeck: small/` + name + `: writing \d+ bytes at byte \d+: no space left on device; what was written before is readable; small/` + name + ` is unfinished, with ([\d,]+) datagrams in it: remove it, or write it anew with --force\n`).FindStringSubmatch(block)
			if said == nil {
				t.Errorf("%s %s: %s", cmd, name, block)
				continue
			}
			n, _ := strconv.Atoi(strings.ReplaceAll(said[1], ",", ""))
			want := fmt.Sprintf(`"datagrams":%d,`, n)
			if name == "a.csv" {
				want = fmt.Sprintf("\n%d\n", n+1)
			}
			if n == 0 || !strings.Contains(block, want) {
				t.Errorf("%s %s: %d datagrams are said to be in the file: %s", cmd, name, n, block)
			}
			if !regexp.MustCompile(`read-only exit 1\ncastdeck: .*ro/` + name + `.*: read-only file system\n`).MatchString(block) {
				t.Errorf("%s %s: %s", cmd, name, block)
			}
		}
	}
}

// TestRecordFullDisk: a recording ends with the disk, and what the file holds is what the
// summary says.
func TestRecordFullDisk(t *testing.T) {
	netnstest.Require(t)
	in := filepath.Join(t.TempDir(), "in.pcapng")
	feedFile(t, in, 8000)
	for i, name := range []string{"a.pcapng", "a.pcap"} {
		group := netip.AddrFrom4([4]byte{239, 1, 7, byte(1 + i)})
		cmd := fullDisk(t, `
			castdeck record `+group.String()+`:5000 -i lo -o small/`+name+` --json --interval 1h --flush-interval 5ms >summary 2>said
			echo "exit $?"; cat said summary; castdeck info --json small/`+name)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		err := waitJoined(group)
		if err == nil {
			if code, _, talk := command(t, "replay", in, "-i", "lo", "--loopback", "--speed", "20", "--map", someDst.Addr().String()+"="+group.String()); code != exitOK {
				t.Errorf("replay: exit code %d: %s", code, talk)
			}
		} else {
			cmd.Process.Kill()
		}
		cmd.Wait() // info of a file that is not sealed exits with 3
		got := regexp.MustCompile(`(?s)^exit 1\n.*castdeck: \w+ the recording: small/` + name + `: writing \d+ bytes at byte \d+: no space left on device; what was written before is readable.*"event":"summary","datagrams":(\d+),.*"writer":[1-9].*"path":"small/` + name + `",.*"datagrams":(\d+),`).FindStringSubmatch(out.String())
		if err != nil || got == nil || got[1] == "0" || got[1] != got[2] {
			t.Errorf("%s: %v: %q: %s", name, err, got, out.String())
		}
	}
}
