package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"castdeck/format"
	"castdeck/internal/netnstest"
)

// ioctl_fs(2): nothing is written to the file system any more, and is again.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// frozenDisk is a recorder whose files are on a file system of their own, which the test
// can freeze.
type frozenDisk struct {
	*child
	root   *os.File // of the file system
	frozen bool
}

// onDisk starts castdeck record with an ext4 file system at dir, on a loop device, in a
// mount namespace of its own; what is there is copied to out at the end.
func onDisk(t *testing.T, group, dir, out string, args ...string) *frozenDisk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	script := `set -e; d=$1 o=$2 i=$3; shift 3
mount --make-rprivate /; truncate -s 256M "$i"; mkfs.ext4 -q "$i"; mount -o loop "$i" "$d"; touch "$d/there"
[ $# -gt 0 ] || exit 0
set +e; castdeck "$@"; c=$?; cp -a "$d"/feed* "$o/"; umount "$d"; exit $c`
	run := func(args ...string) *exec.Cmd {
		return exec.Command("unshare", append([]string{"-m", "sh", "-c", script, "sh", dir, out, image}, args...)...)
	}
	if b, err := run().CombinedOutput(); err != nil {
		t.Skipf("no file system on a loop device here: %v: %s", err, b)
	}
	p := startProcess(t, group, run(append([]string{"record", group, "-i", "lo", "--json", "--interval", "1h"}, args...)...))
	d := &frozenDisk{child: p}
	var err error
	if d.root, err = os.Open(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "root", dir)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.thaw(); d.root.Close() })
	return d
}

func (d *frozenDisk) freeze() {
	d.t.Helper()
	if err := unix.IoctlSetInt(int(d.root.Fd()), fiFreeze, 0); err != nil {
		d.t.Skipf("no freezing here: %v", err)
	}
	d.frozen = true
}

func (d *frozenDisk) thaw() {
	if d.frozen {
		_ = unix.IoctlSetInt(int(d.root.Fd()), fiThaw, 0)
		d.frozen = false
	}
}

// finish thaws the disk, ends the recorder and returns what it says.
func (d *frozenDisk) finish() (code int, sum recordJSON) {
	d.t.Helper()
	d.thaw()
	d.root.Close() // or the file system stays
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(d.cmd.Process.Pid), "-x", "castdeck").Output()
	if err != nil {
		d.t.Skipf("pgrep: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		d.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		d.t.Fatal(err)
	}
	return d.wait()
}

// TestDiskFrozen: while a disk takes nothing, what comes stands in the queue, and nothing
// is lost; it is told on the screen and in the file.
func TestDiskFrozen(t *testing.T) {
	netnstest.Require(t)
	const group = "239.88.9.2:5000"
	dir, out := t.TempDir(), t.TempDir()
	p := onDisk(t, group, dir, out, "-o", filepath.Join(dir, "feed.pcapng"), "--flush-interval", "10ms", "--buffer", "4MiB")
	s := newSender(t, group)
	// A busy machine may be late with the write that is to be slow.
	eventually(t, "the disk is slow", func() bool {
		p.freeze()
		s.send(2000, 1000)
		time.Sleep(700 * time.Millisecond)
		p.thaw()
		s.send(100, 1000)
		return len(p.events(format.EventDiskSlow)) > 0
	})
	code, sum := p.finish()
	if code != exitOK || sum.Datagrams != s.next || sum.Dropped.Kernel+sum.Dropped.Writer != 0 {
		t.Fatalf("exit code %d, %d sent, %+v: %s", code, s.next, sum, p.err.String())
	}
	if !strings.Contains(p.err.String(), "feed.pcapng: the disk took ") {
		t.Errorf("not told: %s", p.err.String())
	}
	numbers, _ := readNumbers(t, out)
	checkRun(t, numbers, 0, s.next)
	in, err := openInput(out)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	noted := false
	if err := in.each(func(b *format.Batch) error {
		for i := range b.Events {
			noted = noted || b.Events[i].Kind == format.EventDiskSlow
		}
		return nil
	}, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	if !noted {
		t.Error("the file does not say that the disk was slow")
	}
}

// TestDiskFrozenLong: what no longer fits into the queue is lost, and counted.
func TestDiskFrozenLong(t *testing.T) {
	netnstest.Require(t)
	const group = "239.88.9.3:5000"
	dir, out := t.TempDir(), t.TempDir()
	p := onDisk(t, group, dir, out, "-o", filepath.Join(dir, "feed.pcapng"), "--flush-interval", "10ms", "--buffer", "256KiB", "--queue", "4MiB")
	s := newSender(t, group)
	s.send(1000, 1000)
	p.freeze()
	s.send(10_000, 1400)
	p.thaw()
	s.send(1000, 1000)
	code, sum := p.finish()
	lost := sum.Dropped.Kernel + sum.Dropped.Writer
	if code != exitLossy || lost == 0 || sum.Datagrams+lost != s.next {
		t.Fatalf("exit code %d, %d sent, %+v: %s", code, s.next, sum, p.err.String())
	}
	numbers, _ := readNumbers(t, out)
	if uint64(len(numbers)) != sum.Datagrams {
		t.Errorf("%d can be read, %d were recorded", len(numbers), sum.Datagrams)
	}
}
