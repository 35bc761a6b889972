package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"castdeck/format"
	"castdeck/internal/hoststat"
	"castdeck/internal/sock"
	"castdeck/recorder"
)

// kernelDrops are the datagrams that the kernel dropped on our sockets, by cause.
// Their sum is exact. The sockets' counters do not tell causes; those of the host do,
// for all programs together, so that for some datagrams it can be open.
type kernelDrops struct {
	buffer   uint64 // certainly: the receive buffer was full
	checksum uint64 // certainly: the UDP checksum was wrong
	open     uint64 // one of these
}

// causes splits what our sockets dropped. No more of them can have had a wrong checksum
// than there were on the whole host; the rest met a full buffer. Where the host knows of
// no full buffer, it were the checksums. The other way round it is not said: the host's
// count of full buffers is too small (Linux 6.18: 789,009 of 859,242).
func causes(dropped uint64, host *hoststat.Losses) (k kernelDrops) {
	bad := min(dropped, host.BadChecksums)
	k.buffer = dropped - bad
	if k.buffer == 0 && host.FullBuffers+host.NoMemory == 0 {
		k.checksum = bad
	} else {
		k.open = bad
	}
	return k
}

// lines are what people are told, each with its number.
func (k kernelDrops) lines() (all []string) {
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{k.buffer, "dropped by the kernel because its receive buffer was full (see --buffer)"},
		{k.checksum, "dropped by the kernel because their UDP checksums are wrong"},
		{k.open, "dropped by the kernel because its receive buffer was full (see --buffer) or their UDP checksums are wrong"},
	} {
		if c.n > 0 {
			all = append(all, count(c.n)+" "+c.what)
		}
	}
	return all
}

// hostJSON has the fixed keys of what the host lost, in record --json.
type hostJSON struct {
	BadChecksums uint64              `json:"bad_checksums"`
	FullBuffers  uint64              `json:"full_buffers"`
	NoMemory     uint64              `json:"no_memory"`
	NoSocket     uint64              `json:"no_socket"`
	Reassembly   uint64              `json:"reassembly_failures"`
	ReversePath  uint64              `json:"rp_filter"`
	Softnet      uint64              `json:"softnet_dropped"`
	Interfaces   []interfaceLossJSON `json:"interfaces"`
}

type interfaceLossJSON struct {
	Name    string `json:"name"`
	Errors  uint64 `json:"errors"`
	Missed  uint64 `json:"missed"`
	FIFO    uint64 `json:"fifo"`
	Dropped uint64 `json:"dropped"`
}

func toHostJSON(l *hoststat.Losses) *hostJSON {
	j := &hostJSON{
		BadChecksums: l.BadChecksums, FullBuffers: l.FullBuffers, NoMemory: l.NoMemory, NoSocket: l.NoSocket,
		Reassembly: l.Reassembly, ReversePath: l.ReversePath, Softnet: l.Softnet, Interfaces: []interfaceLossJSON{},
	}
	for _, i := range l.Interfaces {
		j.Interfaces = append(j.Interfaces, interfaceLossJSON(i))
	}
	return j
}

// hostLines say what certainly was lost on this host, and where to look.
func hostLines(l *hoststat.Losses) (all []string) {
	add := func(n uint64, one, what string) {
		if n > 0 {
			all = append(all, plural(n, one)+" "+what)
		}
	}
	add(l.BadChecksums, "datagram", "with a wrong UDP checksum; the kernel does not deliver them (a capture of a sender's own host, or one with changed addresses, holds such)")
	add(l.Reassembly, "datagram", "in fragments that could not be put together: a fragment was lost (or see the sysctl net.ipv4.ipfrag_high_thresh)")
	add(l.ReversePath, "packet", "refused by rp_filter: the way to their source leads by another interface (add a route, or set the sysctls net.ipv4.conf.all.rp_filter and that of the interface to 2 or 0)")
	add(l.Softnet, "packet", "dropped because a processor's backlog was full (sysctl net.core.netdev_max_backlog)")
	for _, i := range l.Interfaces {
		add(i.Errors, "packet", "arrived damaged on "+i.Name)
		add(i.Missed+i.FIFO, "packet", fmt.Sprintf("found no room in the hardware of %s (larger rings: ethtool -G %s rx N)", i.Name, i.Name))
	}
	return all
}

// hostEvent puts all counters into the recording, also those that are 0.
func hostEvent(l *hoststat.Losses) format.Event {
	var b strings.Builder
	fmt.Fprintf(&b, "this host, all programs: bad UDP checksums %d, full receive buffers %d, no memory %d, no socket %d, reassembly failures %d, rp_filter %d, softnet drops %d",
		l.BadChecksums, l.FullBuffers, l.NoMemory, l.NoSocket, l.Reassembly, l.ReversePath, l.Softnet)
	for _, i := range l.Interfaces {
		fmt.Fprintf(&b, "; %s: errors %d, missed %d, fifo %d, dropped %d", i.Name, i.Errors, i.Missed, i.FIFO, i.Dropped)
	}
	return format.Event{Time: time.Now().UnixNano(), Monotonic: sock.Now(), Kind: format.EventHost, Interface: format.NoInterface, Text: b.String()}
}

// hostMeter is a hoststat.Meter for several goroutines.
type hostMeter struct {
	mu sync.Mutex
	m  *hoststat.Meter
}

func (h *hostMeter) read() hoststat.Losses {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.m.Read()
}

// meterOf counts what the host loses from now on, on the interfaces of the recording.
// It is made before anything is joined.
func meterOf(subs []recorder.Subscription) *hostMeter {
	var names []string
	for _, s := range subs {
		if s.Interface != "" && !slices.Contains(names, s.Interface) {
			names = append(names, s.Interface)
		}
	}
	return &hostMeter{m: hoststat.NewMeter(names)}
}

// fitMemory makes the queue fit where the memory of this program is limited: a queue
// that the kernel kills us for holds nothing. asked says that the size was named. The
// receive buffers are the kernel's; where they count, it refuses what goes beyond, and
// counts it.
func (f *recordFlags) fitMemory(limit int64, asked bool) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit - limit/4) // the rest is what the runtime does not count, and the page cache
	}
	fits := max(limit/4, f.queue.min)
	switch {
	case f.queue.bytes <= fits:
	case asked:
		fmt.Fprintf(f.stderr, "castdeck: a queue of %s where memory is limited to %s (control group): when the disk cannot keep up the kernel may kill this program; %s would do\n",
			formatSize(f.queue.bytes), size(limit), size(fits))
	default:
		f.queue.bytes = fits
		fmt.Fprintf(f.stderr, "castdeck: memory is limited to %s (control group): the queue between receiving and writing has %s, not 256MiB\n", size(limit), size(fits))
	}
}
