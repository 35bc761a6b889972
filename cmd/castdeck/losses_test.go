package main

import (
	"bytes"
	"strings"
	"testing"

	"castdeck/internal/hoststat"
)

func TestCauses(t *testing.T) {
	for _, c := range []struct {
		why     string
		dropped uint64
		host    hoststat.Losses
		want    kernelDrops
	}{
		{"nothing", 0, hoststat.Losses{}, kernelDrops{}},
		{"the buffer", 100, hoststat.Losses{FullBuffers: 100}, kernelDrops{buffer: 100}},
		{"the buffer, which the host does not count each time", 859242, hoststat.Losses{FullBuffers: 789009}, kernelDrops{buffer: 859242}},
		{"checksums; the socket counts a part of them", 12772, hoststat.Losses{BadChecksums: 13021}, kernelDrops{checksum: 12772}},
		{"some had a full buffer for certain", 150, hoststat.Losses{FullBuffers: 100, BadChecksums: 50}, kernelDrops{buffer: 100, open: 50}},
		{"all may have had either", 40, hoststat.Losses{FullBuffers: 100, BadChecksums: 50}, kernelDrops{open: 40}},
		{"the kernel was out of memory, or not", 40, hoststat.Losses{NoMemory: 1, BadChecksums: 50}, kernelDrops{open: 40}},
	} {
		got := causes(c.dropped, &c.host)
		if got != c.want || got.buffer+got.checksum+got.open != c.dropped {
			t.Errorf("%s: %+v, want %+v", c.why, got, c.want)
		}
		if n := len(got.lines()); (n == 0) != (c.dropped == 0) {
			t.Errorf("%s: %d lines", c.why, n)
		}
	}
}

func TestHostLines(t *testing.T) {
	l := hoststat.Losses{BadChecksums: 1, Reassembly: 2, ReversePath: 3, Softnet: 4, NoSocket: 1000, FullBuffers: 1000,
		Interfaces: []hoststat.InterfaceLosses{{Name: "eth0", Errors: 5, Missed: 6, FIFO: 7, Dropped: 1000}}}
	got := strings.Join(hostLines(&l), "\n")
	for _, want := range []string{"1 datagram with a wrong", "2 datagrams in fragments", "3 packets refused by rp_filter", "4 packets dropped because a processor", "5 packets arrived damaged on eth0", "13 packets found no room in the hardware of eth0"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\n") + 1; n != 6 {
		t.Errorf("%d lines:\n%s", n, got)
	}
	if got := hostLines(&hoststat.Losses{NoSocket: 5}); got != nil {
		t.Errorf("nothing was lost: %q", got)
	}
}

func TestFitMemory(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "off") // fitMemory leaves the runtime alone then
	for _, c := range []struct {
		why          string
		queue, limit int64
		asked        bool
		want         int64
		says         string
	}{
		{"enough", 256 << 20, 8 << 30, false, 256 << 20, ""},
		{"a small group", 256 << 20, 256 << 20, false, 64 << 20, "the queue between receiving and writing has 67 MB"},
		{"a tiny group", 256 << 20, 1 << 20, false, 4 << 20, "the queue between"},
		{"asked for", 256 << 20, 256 << 20, true, 256 << 20, "the kernel may kill this program; 67 MB would do"},
		{"asked for, and fits", 16 << 20, 256 << 20, true, 16 << 20, ""},
	} {
		var said bytes.Buffer
		f := &recordFlags{queue: sizeValue{bytes: c.queue, min: 4 << 20}, stderr: &said}
		f.fitMemory(c.limit, c.asked)
		if f.queue.bytes != c.want || !strings.Contains(said.String(), c.says) || (said.Len() == 0) != (c.says == "") {
			t.Errorf("%s: a queue of %d bytes, %q", c.why, f.queue.bytes, said.String())
		}
	}
}
