package hoststat

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

// host is a /proc of recorded texts (Linux 6.18) whose counters a test changes.
type host struct {
	fstest.MapFS
	t *testing.T
}

func newHost(t *testing.T) host {
	h := host{fstest.MapFS{}, t}
	for name, path := range map[string]string{
		"snmp": "proc/self/net/snmp", "snmp6": "proc/self/net/snmp6", "netstat": "proc/self/net/netstat", "softnet_stat": "proc/net/softnet_stat",
	} {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		h.MapFS[path] = &fstest.MapFile{Data: b}
	}
	return h
}

// set changes a counter: "Udp.InCsumErrors" stands in a line of values, "Ip6ReasmFails"
// in one of its own.
func (h host) set(file, name string, value uint64) {
	h.t.Helper()
	f := h.MapFS["proc/self/net/"+file]
	lines := strings.Split(string(f.Data), "\n")
	group, field, wide := strings.Cut(name, ".")
	done := false
	for i, line := range lines {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case !wide && words[0] == name:
			lines[i], done = fmt.Sprintf("%-32s\t%d", name, value), true
		case wide && words[0] == group+":" && !done:
			values := strings.Fields(lines[i+1])
			for k, w := range words {
				if w == field {
					values[k], done = fmt.Sprint(value), true
				}
			}
			lines[i+1] = strings.Join(values, " ")
		}
	}
	if !done {
		h.t.Fatalf("%s has no counter %s", file, name)
	}
	h.MapFS["proc/self/net/"+file] = &fstest.MapFile{Data: []byte(strings.Join(lines, "\n"))}
}

func TestMeter(t *testing.T) {
	h := newHost(t)
	link := InterfaceLosses{Errors: 5, Missed: 6, FIFO: 7, Dropped: 8}
	there := true
	m := newMeter(h, func(name string) (InterfaceLosses, bool) {
		if name == "eth1" {
			return InterfaceLosses{}, false
		}
		return link, there
	}, []string{"eth0", "eth1"})
	zero := Losses{Interfaces: []InterfaceLosses{{Name: "eth0"}, {Name: "eth1"}}}
	if got := m.Read(); !reflect.DeepEqual(got, zero) || got.Lost() != 0 {
		t.Errorf("nothing has happened: %+v", got)
	}
	h.set("snmp", "Udp.InCsumErrors", 10)
	h.set("snmp6", "Udp6InCsumErrors", 3)
	h.set("snmp", "Udp.RcvbufErrors", 20)
	h.set("snmp6", "Udp6RcvbufErrors", 1)
	h.set("snmp", "Udp.MemErrors", 4)
	h.set("snmp", "Udp.NoPorts", 30)
	h.set("snmp6", "Udp6IgnoredMulti", 2)
	h.set("snmp", "Ip.ReasmFails", 40)
	h.set("snmp6", "Ip6ReasmFails", 2)
	h.set("netstat", "TcpExt.IPReversePathFilter", 50)
	h.set("snmp", "UdpLite.InCsumErrors", 1000) // another protocol's
	h.MapFS["proc/net/softnet_stat"] = &fstest.MapFile{Data: []byte("0546e520 0000000a 00000004\n088b2cd4 00000010 00000004\n")}
	link = InterfaceLosses{Errors: 6, Missed: 8, FIFO: 10, Dropped: 12}
	want := Losses{BadChecksums: 13, FullBuffers: 21, NoMemory: 4, NoSocket: 32, Reassembly: 42, ReversePath: 50, Softnet: 26,
		Interfaces: []InterfaceLosses{{"eth0", 1, 2, 3, 4}, {Name: "eth1"}}}
	got := m.Read()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := got.Lost(); n != 13+42+50+26+1+2+3 {
		t.Errorf("%d lost", n)
	}
	// The interface goes, and one of its name comes, which counts from 0.
	there = false
	m.Read()
	there, link = true, InterfaceLosses{Errors: 7}
	if got := m.Read().Interfaces[0]; got != (InterfaceLosses{"eth0", 8, 2, 3, 4}) {
		t.Errorf("made again: %+v", got)
	}
	link = InterfaceLosses{Errors: 1} // and again, unnoticed
	if got := m.Read().Interfaces[0]; got != (InterfaceLosses{"eth0", 9, 2, 3, 4}) {
		t.Errorf("made again between two readings: %+v", got)
	}
	// What is returned is not changed later.
	if got.Interfaces[0].Errors != 1 {
		t.Errorf("an earlier result changed: %+v", got)
	}
}

func TestNothingToRead(t *testing.T) {
	m := newMeter(fstest.MapFS{}, func(string) (InterfaceLosses, bool) { return InterfaceLosses{}, false }, nil)
	if got := m.Read(); !reflect.DeepEqual(got, Losses{}) {
		t.Errorf("%+v", got)
	}
}

func TestGrown(t *testing.T) {
	for _, c := range []struct {
		why       string
		last, now uint64
		want      uint64
	}{
		{"grows", 5, 7, 2},
		{"stands", 5, 5, 0},
		{"wraps at 2^32", 1<<32 - 2, 3, 5},
		{"64 bits", 1<<32 - 2, 1<<32 + 3, 5},
		{"a processor was switched off", 1000, 10, 0},
		{"64 bits, a processor was switched off", 1 << 40, 10, 0},
		{"the largest", 0, math.MaxUint64, math.MaxUint64},
	} {
		if got := grown(c.now, c.last); got != c.want {
			t.Errorf("%s: %d, want %d", c.why, got, c.want)
		}
	}
}

func TestParseDamaged(t *testing.T) {
	for why, text := range map[string]string{
		"cut short":    "Udp: InDatagrams NoPorts InCsumErrors\nUdp: 3\n",
		"no values":    "Udp: InDatagrams InCsumErrors\n",
		"no number":    "Udp: InCsumErrors\nUdp: x\nUdp6InCsumErrors -\n",
		"other values": "Udp: InCsumErrors\nTcp: 7\n",
		"blank":        "\n\n",
		"nothing":      "",
	} {
		c := counters{}
		c.parse([]byte(text))
		if n := c["Udp.InCsumErrors"] + c["Udp6InCsumErrors"]; n != 0 {
			t.Errorf("%s: %d", why, n)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	const v1, v2 = "sys/fs/cgroup/memory/", "sys/fs/cgroup/"
	for _, c := range []struct {
		why    string
		groups string
		files  map[string]string
		want   int64
	}{
		{"version 2", "0::/a/b\n", map[string]string{v2 + "a/b/memory.max": "268435456\n"}, 256 << 20},
		{"version 2, the limit stands above", "0::/a/b\n", map[string]string{v2 + "a/b/memory.max": "max\n", v2 + "a/memory.max": "1048576\n"}, 1 << 20},
		{"version 2, none", "0::/a\n", map[string]string{v2 + "a/memory.max": "max\n"}, 0},
		{"version 1", "9:name=systemd:/\n4:memory:/x\n", map[string]string{v1 + "x/memory.limit_in_bytes": "268435456\n", v1 + "memory.limit_in_bytes": "9223372036854771712\n"}, 256 << 20},
		{"version 1, none", "4:memory:/\n", map[string]string{v1 + "memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		{"in a container, where the path is the host's", "4:memory:/docker/123\n", map[string]string{v1 + "memory.limit_in_bytes": "4194304\n"}, 4 << 20},
		{"both versions mounted", "4:memory:/x\n0::/\n", map[string]string{v1 + "x/memory.limit_in_bytes": "4096\n"}, 4096},
		{"no control groups", "", nil, 0},
		{"damaged", "memory\n::\n0::../../..\n", map[string]string{v2 + "memory.max": "much"}, 0},
	} {
		root := fstest.MapFS{}
		if c.groups != "" {
			root["proc/self/cgroup"] = &fstest.MapFile{Data: []byte(c.groups)}
		}
		for name, text := range c.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		got, ok := memoryLimit(fs.FS(root))
		if ok != (c.want != 0) || ok && got != c.want {
			t.Errorf("%s: %d, %v; want %d", c.why, got, ok, c.want)
		}
	}
}
