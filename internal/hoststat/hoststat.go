// Package hoststat reads what a host loses of network traffic outside of our own
// sockets, and how much memory this process may take.
//
// A datagram that never reaches a socket is in none of the socket's counters. The
// kernel counts it elsewhere, for the whole host or network namespace: together with
// the traffic of other programs, so that a count here is a hint where to look, not a
// number of our datagrams.
package hoststat

import (
	"bufio"
	"bytes"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// Losses are counts of a span of time. Where the system does not tell they are 0.
type Losses struct {
	// BadChecksums are UDP datagrams with a wrong checksum (InCsumErrors). The drop
	// counter of a socket that they were for counts them too, most of them.
	BadChecksums uint64
	// FullBuffers and NoMemory are UDP datagrams that a socket had no room for
	// (RcvbufErrors, MemErrors), of ours and of other programs; one for each socket.
	FullBuffers, NoMemory uint64
	// NoSocket are UDP datagrams, unicast and multicast, that no socket wanted
	// (NoPorts, IgnoredMulti).
	NoSocket uint64
	// Reassembly are datagrams in fragments that could not be put together
	// (ReasmFails), mostly because a fragment was lost.
	Reassembly uint64
	// ReversePath are IPv4 packets that rp_filter took for forged
	// (IPReversePathFilter).
	ReversePath uint64
	// Softnet are packets that a processor's backlog had no room for
	// (net.core.netdev_max_backlog), of all network namespaces.
	Softnet uint64
	// Interfaces are those that the Meter was made for, in its order.
	Interfaces []InterfaceLosses
}

// InterfaceLosses are counts of a network interface (rtnl_link_stats64 in
// linux/if_link.h).
type InterfaceLosses struct {
	Name string
	// Errors are packets that arrived damaged. Missed and FIFO are those that the
	// hardware had no room for.
	Errors, Missed, FIFO uint64
	// Dropped are packets that the kernel gave up, mostly because nothing on this host
	// speaks their protocol: no sign of a loss by itself.
	Dropped uint64
}

// Lost sums up what certainly did not get to the sockets that it was for: all but
// NoSocket and Dropped, and but FullBuffers and NoMemory, which for our own sockets is
// counted exactly elsewhere.
func (l *Losses) Lost() uint64 {
	sum := l.BadChecksums + l.Reassembly + l.ReversePath + l.Softnet
	for _, i := range l.Interfaces {
		sum += i.Errors + i.Missed + i.FIFO
	}
	return sum
}

// linkCounters are an interface's counters now; ok is false where there is none.
type linkCounters func(name string) (c InterfaceLosses, ok bool)

// Meter tells how the host's counters have grown. It is not safe for concurrent use.
type Meter struct {
	root  fs.FS
	links linkCounters
	last  Losses
	have  []bool // interfaces of last that were there
	sum   Losses
}

// NewMeter starts to count now. The interfaces need not exist all the time; one that
// is made anew counts from 0.
func NewMeter(interfaces []string) *Meter { return newMeter(os.DirFS("/"), links, interfaces) }

func newMeter(root fs.FS, links linkCounters, interfaces []string) *Meter {
	m := &Meter{root: root, links: links}
	for _, name := range interfaces {
		m.sum.Interfaces = append(m.sum.Interfaces, InterfaceLosses{Name: name})
	}
	m.last, m.have = m.read()
	return m
}

// Read returns the losses since the Meter was made. Read it now and then where it is
// used for long: a counter that wraps twice between two calls is told wrong.
func (m *Meter) Read() Losses {
	now, have := m.read()
	s, l := &m.sum, &m.last
	for _, c := range []struct {
		sum       *uint64
		now, last uint64
	}{
		{&s.BadChecksums, now.BadChecksums, l.BadChecksums},
		{&s.FullBuffers, now.FullBuffers, l.FullBuffers},
		{&s.NoMemory, now.NoMemory, l.NoMemory},
		{&s.NoSocket, now.NoSocket, l.NoSocket},
		{&s.Reassembly, now.Reassembly, l.Reassembly},
		{&s.ReversePath, now.ReversePath, l.ReversePath},
		{&s.Softnet, now.Softnet, l.Softnet},
	} {
		*c.sum += grown(c.now, c.last)
	}
	for i := range s.Interfaces {
		if !have[i] {
			continue // what it had counted last is lost with it
		}
		was := InterfaceLosses{}
		if m.have[i] {
			was = l.Interfaces[i]
		}
		is := &now.Interfaces[i]
		if is.Errors < was.Errors || is.Missed < was.Missed || is.FIFO < was.FIFO || is.Dropped < was.Dropped {
			was = InterfaceLosses{} // made anew
		}
		t := &s.Interfaces[i]
		t.Errors += is.Errors - was.Errors
		t.Missed += is.Missed - was.Missed
		t.FIFO += is.FIFO - was.FIFO
		t.Dropped += is.Dropped - was.Dropped
	}
	m.last, m.have = now, have
	out := m.sum
	out.Interfaces = append([]InterfaceLosses(nil), m.sum.Interfaces...)
	return out
}

// grown is the difference of two readings of a counter that has 32 bits on some
// systems. One that shrinks otherwise is a sum of which a part is gone, such as that of
// a processor that was switched off: then nothing is known.
func grown(now, last uint64) uint64 {
	switch {
	case now >= last:
		return now - last
	case last < 1<<32 && last-now > 1<<31:
		return now + 1<<32 - last
	}
	return 0
}

func (m *Meter) read() (l Losses, have []bool) {
	c := counters{}
	for _, name := range []string{"snmp", "snmp6", "netstat"} {
		if b, err := fs.ReadFile(m.root, "proc/self/net/"+name); err == nil {
			c.parse(b)
		}
	}
	l = Losses{
		BadChecksums: c["Udp.InCsumErrors"] + c["Udp6InCsumErrors"],
		FullBuffers:  c["Udp.RcvbufErrors"] + c["Udp6RcvbufErrors"],
		NoMemory:     c["Udp.MemErrors"] + c["Udp6MemErrors"],
		NoSocket:     c["Udp.NoPorts"] + c["Udp6NoPorts"] + c["Udp.IgnoredMulti"] + c["Udp6IgnoredMulti"],
		Reassembly:   c["Ip.ReasmFails"] + c["Ip6ReasmFails"],
		ReversePath:  c["TcpExt.IPReversePathFilter"],
	}
	if b, err := fs.ReadFile(m.root, "proc/net/softnet_stat"); err == nil {
		l.Softnet = parseSoftnet(b)
	}
	for _, i := range m.sum.Interfaces {
		now, ok := m.links(i.Name)
		now.Name = i.Name
		l.Interfaces, have = append(l.Interfaces, now), append(have, ok)
	}
	return l, have
}

// counters by name.
type counters map[string]uint64

// parse reads the two forms in which the kernel prints counters (net/ipv4/proc.c,
// net/ipv6/proc.c): a line of names and one of values, both beginning with the same
// word ("Udp: InDatagrams ..."), whose counters are then called "Udp.InDatagrams"; or
// one of each a line ("Udp6InCsumErrors 3").
func (c counters) parse(b []byte) {
	var names []string
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f := strings.Fields(s.Text())
		switch {
		case len(f) == 0:
		case !strings.HasSuffix(f[0], ":"):
			if len(f) == 2 {
				c.set(f[0], f[1])
			}
		case names == nil || names[0] != f[0]:
			names = f
		default:
			for i := 1; i < min(len(names), len(f)); i++ {
				c.set(strings.TrimSuffix(f[0], ":")+"."+names[i], f[i])
			}
			names = nil
		}
	}
}

func (c counters) set(name, value string) {
	if n, err := strconv.ParseUint(value, 10, 64); err == nil {
		c[name] = n
	}
}

// parseSoftnet sums up the second column, packets dropped, of all processors
// (softnet_seq_show in net/core/net-procfs.c), in hexadecimal.
func parseSoftnet(b []byte) (sum uint64) {
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 {
			n, _ := strconv.ParseUint(f[1], 16, 64)
			sum += n
		}
	}
	return sum
}

// MemoryLimit is how many bytes of memory this process and those in its control group
// may take together (cgroups(7), versions 1 and 2); false where there is no limit, or
// none that is known.
func MemoryLimit() (bytes int64, ok bool) { return memoryLimit(os.DirFS("/")) }

func memoryLimit(root fs.FS) (int64, bool) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	least := int64(math.MaxInt64)
	for line := range strings.Lines(string(groups)) {
		// ID:controllers:path; version 2 has the one line "0::path".
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) < 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		switch {
		case f[1] == "memory":
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case f[1] != "" || f[0] != "0":
			continue
		}
		// The limit of each group above counts too. In a container the path may be that
		// of the host; what is mounted then is the group itself.
		for dir := path.Clean("/" + f[2]); ; dir = path.Dir(dir) {
			if b, err := fs.ReadFile(root, path.Join(mount, dir, file)); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
					least = min(least, n)
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	// Version 1 writes no limit as the largest number of whole pages.
	return least, least < math.MaxInt64>>4
}
