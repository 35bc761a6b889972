package pcapfilter

import (
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"castdeck/format"
	"castdeck/format/pcapfile"
)

// expressions whose meaning is compared with tcpdump's.
var expressions = []string{
	"udp", "tcp", "ip", "ip6", "arp", "rarp", "icmp", "icmp6", "igmp", "sctp", "pim", "vrrp",
	"host 239.1.1.1", "src host 10.0.0.1", "dst host 239.1.1.1", "dst 10.0.0.1", "src 10.0.0.1",
	"ip host 10.0.0.1", "arp host 10.0.0.1", "host ff02::1", "ip6 host ff02::1", "dst host ff15::9",
	"net 10.0.0.0/8", "src net 192.168.0.0/16", "dst net 224.0.0.0/4", "net 0.0.0.0/0", "ip net 239.1.1.0/29", "net 128.0.0.0/1",
	"net ff00::/8", "dst net ff02::/16", "src net fe80::/10", "net 2001:db8:1::/48", "net ff02::1:0:0/97",
	"port 53", "src port 53", "dst port 5000", "udp port 53", "tcp port 80", "sctp port 2001", "udp dst port 5353",
	"portrange 5000-5010", "udp portrange 1000-2000", "dst portrange 0-65535", "portrange 5010-5010", "tcp src portrange 80-443",
	"proto 17", "ip proto 2", "ip6 proto 58", "ether proto 0x0800", "ether proto 0x88f7", "proto 0x6",
	"ether host 01:00:5e:01:01:01", "ether src 02:00:0a:00:00:01", "ether dst ff:ff:ff:ff:ff:ff",
	"multicast", "broadcast", "ether multicast", "ether broadcast", "ip multicast", "ip6 multicast",
	"less 100", "greater 100", "len > 100", "len <= 60", "len != 60", "len = 60", "len & 1 = 0",
	"vlan", "vlan 7", "vlan and udp", "udp or vlan 7 and udp", "vlan 7 and vlan 8", "vlan and vlan and udp port 5000", "not vlan", "vlan 0",
	"vlan and host 10.0.0.1", "vlan and ip and udp[4:2] > 8", "not (vlan and udp) and ip",
	"udp[4:2] > 100", "udp[8:4] = 0", "udp[8] & 0xc0 = 0x80", "ip[8] < 2", "ip[6:2] & 0x1fff != 0", "ip6[7] >= 255",
	"tcp[13] & 2 != 0", "ether[0] & 1 = 1", "ether[12:2] == 0x0800", "icmp[0] = 8", "igmp[0] = 0x16", "arp[6:2] = 1", "udp[0:2] <= 1024",
	"not udp", "!udp", "not host 10.0.0.1 and udp", "udp and not port 53", "udp && port 53 || igmp", "igmp || udp && port 53",
	"udp or igmp and ip", "(udp or igmp) and ip", "udp and (port 53 or port 5353)", "not (tcp or arp)", "not not udp",
	"udp and dst net 224.0.0.0/4 and not dst net 224.0.0.0/24",
	"(udp and dst host 239.1.1.1 and dst port 5000) or igmp or pim or (arp and src 10.0.0.1)",
}

// tcpdumpProgram is what tcpdump makes of an expression, for a file of Ethernet frames.
func tcpdumpProgram(t *testing.T, tcpdump, expression string) []bpf.Instruction {
	t.Helper()
	out, err := exec.Command(tcpdump, "-y", "EN10MB", "-ddd", expression).Output()
	if err != nil {
		t.Fatalf("tcpdump -ddd %q: %v", expression, err)
	}
	var raw []bpf.RawInstruction
	for i, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if i == 0 {
			continue // their number
		}
		var in bpf.RawInstruction
		if _, err := fmt.Sscan(line, &in.Op, &in.Jt, &in.Jf, &in.K); err != nil {
			t.Fatalf("tcpdump -ddd %q: %q: %v", expression, line, err)
		}
		raw = append(raw, in)
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatalf("tcpdump -ddd %q: unknown instruction", expression)
	}
	return program
}

func machine(t testing.TB, program []bpf.Instruction) *bpf.VM {
	t.Helper()
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// compiled makes a machine of an expression.
func compiled(t testing.TB, expression string, tags Tags) *bpf.VM {
	t.Helper()
	e, err := Parse(expression)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Compile(e, tags)
	if err != nil {
		t.Fatal(err)
	}
	return machine(t, disassembled(t, raw))
}

func disassembled(t testing.TB, raw []bpf.RawInstruction) []bpf.Instruction {
	t.Helper()
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("an instruction of ours is none")
	}
	return program
}

func accepts(t testing.TB, vm *bpf.VM, packet []byte) bool {
	t.Helper()
	n, err := vm.Run(packet)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// packets are some of real captures and some that are made to be near the edges.
func packets(t *testing.T) [][]byte {
	list := made()
	r := rand.New(rand.NewPCG(1, 2))
	root := "../../../shared/captures"
	index, err := os.ReadFile(filepath.Join(root, "INDEX.tsv"))
	if err != nil {
		t.Logf("without real captures: %v", err)
	} else {
		list = append(list, captured(t, root, string(index))...)
	}
	for _, p := range list[:len(list):len(list)] {
		switch r.IntN(8) {
		case 0: // cut
			list = append(list, p[:r.IntN(len(p)+1)])
		case 1: // tagged
			list = append(list, tagged(p, uint16(r.IntN(9))))
		case 2: // twice
			list = append(list, tagged(tagged(p, 8), 7))
		case 3: // damaged
			q := append([]byte(nil), p...)
			for range 4 {
				if len(q) > 0 {
					q[r.IntN(min(len(q), 64))] = byte(r.Uint32())
				}
			}
			list = append(list, q)
		}
	}
	return list
}

func tagged(p []byte, id uint16) []byte {
	if len(p) < 12 {
		return p
	}
	q := append([]byte(nil), p[:12]...)
	q = binary.BigEndian.AppendUint16(append(q, 0x81, 0), id|0x6000)
	return append(q, p[12:]...)
}

// captured takes some packets of every Ethernet capture.
func captured(t *testing.T, root, index string) (list [][]byte) {
	rows := csv.NewReader(strings.NewReader(index))
	rows.Comma, rows.LazyQuotes = '\t', true
	all, err := rows.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range all {
		if row[2] != "EN10MB(1)" {
			continue
		}
		in, err := pcapfile.Open(filepath.Join(root, row[0]))
		if err != nil {
			continue
		}
		b := format.NewBatch(64, 1<<20)
		if in.ReadBatch(b) == nil {
			for i, d := range b.Datagrams {
				if i < 20 && len(d.Frame) > 0 {
					list = append(list, append([]byte(nil), d.Frame...))
				}
			}
		}
		in.Close()
	}
	if len(list) < 500 {
		t.Fatalf("%d packets in the captures of %s", len(list), root)
	}
	return list
}

// made are frames of every protocol, address and port that the expressions name.
func made() (list [][]byte) {
	addresses := []string{"10.0.0.1", "239.1.1.1", "239.1.1.8", "192.168.1.9", "224.0.0.5", "255.255.255.255", "ff02::1", "ff15::9", "fe80::1", "2001:db8:1::5", "ff02::1:7fff:1"}
	for _, from := range addresses {
		for _, to := range addresses {
			src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
			if src.Is4() != dst.Is4() {
				continue
			}
			for i, port := range []uint16{0, 53, 80, 443, 5000, 5010, 5011, 65535} {
				d := format.Datagram{Src: netip.AddrPortFrom(src, port), Dst: netip.AddrPortFrom(dst, []uint16{5000, 53, 1000, 2001}[i%4]), TTL: byte(port), Payload: make([]byte, i*13)}
				p, _ := format.AppendMadeFrame(nil, &d)
				list = append(list, p)
				q := append([]byte(nil), p...)
				protos := []byte{1, 2, 6, 17, 58, 103, 112, 132}
				if src.Is4() {
					q[23] = protos[i]
					q[20], q[21] = byte(i<<5), byte(i/3%2)
					if i%3 == 0 {
						q[14] = 0x46
					}
				} else {
					q[20] = append(protos[:7:7], 44)[i]
					q[54] = protos[i]
				}
				list = append(list, q)
			}
		}
	}
	for _, t := range []uint16{0x0806, 0x8035, 0x88A8, 0x9100, 0x88F7, 100} {
		p := make([]byte, 60)
		binary.BigEndian.PutUint16(p[12:], t)
		copy(p[14:], []byte{0, 1, 8, 0, 6, 4, 0, 1})
		copy(p[28:], []byte{10, 0, 0, 1})
		copy(p[38:], []byte{239, 1, 1, 1})
		list = append(list, p)
	}
	return append(list, nil, []byte{1})
}

func TestMeansWhatTcpdumpMeans(t *testing.T) {
	tcpdump, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Skipf("no tcpdump to compare with: %v", err)
	}
	list := packets(t)
	for _, expression := range expressions {
		theirs := machine(t, tcpdumpProgram(t, tcpdump, expression))
		ours := compiled(t, expression, TagsInFrame)
		yes, differ := 0, 0
		for _, p := range list {
			want, got := accepts(t, theirs, p), accepts(t, ours, p)
			if want {
				yes++
			}
			if want != got {
				if differ++; differ <= 3 {
					t.Errorf("%s: %t, tcpdump says %t: % x", expression, got, want, p[:min(len(p), 80)])
				}
			}
		}
		if yes == 0 || yes == len(list) && expression != "net 0.0.0.0/0" {
			t.Errorf("%s: accepts %d of %d packets: nothing was compared", expression, yes, len(list))
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ expression, want string }{
		{"", "filter: at the end: a condition is missing, such as udp or host 239.1.1.1"},
		{"udp and", "filter: at the end: a condition is missing, such as udp or host 239.1.1.1"},
		{"udp udp", `filter: "udp" at byte 5: want and, or, or the end of the expression`},
		{"port 53 or 80", `filter: "80" at byte 12: a value without its keyword; write host, net or port before each`},
		{"239.1.1.1", `filter: "239.1.1.1" at byte 1: a value without its keyword; write host, net or port before each`},
		{"host example.org", `filter: "example.org" at byte 6: want an IP address in numbers, such as 239.1.1.1`},
		{"port http", `filter: "http" at byte 6: want a port, a number up to 65535`},
		{"port 65536", `filter: "65536" at byte 6: want a port, a number up to 65535`},
		{"port 010", `filter: "010" at byte 6: want a port, a number up to 65535`},
		{"portrange 9-8", `filter: "9-8" at byte 11: want a range of ports, such as 5000-5003`},
		{"net 10.1", `filter: "10.1" at byte 5: want a network with its length, such as 239.1.0.0/16`},
		{"net 10.0.0.1/8", `filter: "10.0.0.1/8" at byte 5: has bits set behind its length; 10.0.0.0/8 would be the network`},
		{"ip host ff02::1", `filter: "ip" at byte 1: ip has no such address`},
		{"tcp host 10.0.0.1", `filter: "tcp" at byte 1: tcp has no such address`},
		{"igmp port 5", `filter: "igmp" at byte 1: igmp has no ports`},
		{"(udp", "filter: at the end: want ) here"},
		{"udp)", `filter: ")" at byte 4: no parenthesis is open`},
		{"udp[4:3] = 1", `filter: "4:3" at byte 5: want offset:size, a number and 1, 2 or 4, such as udp[4:2]`},
		{"udp[4:2]", "filter: at the end: want one of = != > >= < <=, and a number"},
		{"udp[4] = ip[2]", `filter: "ip" at byte 10: want a value, a number up to 4294967295`},
		{"src or dst port 5", `filter: "src" at byte 1: src or is not supported; write both conditions out`},
		{"ether proto 4", `filter: "4" at byte 13: an LLC or AppleTalk frame is not supported`},
		{"ether", "filter: at the end: want host, src, dst or proto behind ether"},
		{"ip broadcast", `filter: "ip" at byte 1: ip broadcast is not supported`},
		{"ether host 01-00-5e-01-01-01", `filter: "01-00-5e-01-01-01" at byte 12: want an Ethernet address, such as 01:00:5e:01:01:01`},
		{"host ::ffff:10.0.0.1", `filter: "::ffff:10.0.0.1" at byte 6: an IPv4 address in IPv6; write it as IPv4`},
		{"vlan 4096", `filter: "4096" at byte 6: want a VLAN number, a number up to 4095`},
		{strings.Repeat("(", 100) + "udp", `filter: "(" at byte 66: nested deeper than 64`},
	} {
		_, err := Parse(c.expression)
		var e *Error
		if !errors.As(err, &e) || err.Error() != c.want {
			t.Errorf("%q:\ngot  %v\nwant %s", c.expression, err, c.want)
		}
	}
	for _, w := range []string{"gateway", "mpls", "pppoes", "wlan", "inbound", "ifname", "fddi"} {
		if _, err := Parse("udp and " + w); err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("filter: %q at byte 9: not supported (have ", w)) {
			t.Errorf("%s: %v", w, err)
		}
	}
	long, err := Parse(strings.Repeat("port 53 or ", 600) + "udp")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compile(long, TagsInFrame); !errors.Is(err, errLong) {
		t.Errorf("a program that is too long: %v", err)
	}
}

// TestLongJumps: jumps beyond 255 instructions.
func TestLongJumps(t *testing.T) {
	var b strings.Builder
	for i := range 120 {
		fmt.Fprintf(&b, "dst port %d or ", 1000+i)
	}
	vm := compiled(t, b.String()+"igmp", TagsInFrame)
	for _, p := range made() {
		d := format.Datagram{Frame: p, FrameLength: uint32(len(p))}
		want := len(p) > 23 && p[12] == 8 && p[13] == 0 && p[23] == 2 // igmp
		if format.DecodePlain(&d) {
			want = want || d.Dst.Port() >= 1000 && d.Dst.Port() < 1120
		} else if len(p) > 56 && (p[23] == 17 || p[23] == 6 || p[23] == 132 || p[12] == 0x86) {
			continue // options, fragments
		}
		if got := accepts(t, vm, p); got != want {
			t.Errorf("%t, want %t: % x", got, want, p[:min(len(p), 64)])
		}
	}
}

func TestCompileGroups(t *testing.T) {
	group := func(s string, source string) Group {
		g := Group{Dst: netip.MustParseAddrPort(s)}
		if source != "" {
			g.Source = netip.MustParseAddr(source)
		}
		return g
	}
	var many, scattered, wild []Group
	for i := range 2000 {
		many = append(many, Group{Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, byte(i >> 8), byte(i)}), 5000)})
		scattered = append(scattered, Group{Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, byte(i), byte(i >> 4), byte(i * 7)}), 5000)})
	}
	for i := range 6000 {
		wild = append(wild, Group{Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, byte(i >> 6), byte(i), byte(i * 11)}), uint16(i+1))})
	}
	few := []Group{group("239.1.1.1:5000", ""), group("239.1.1.1:5001", ""), group("232.1.1.1:5000", "10.0.0.1"), group("232.1.1.1:5000", "10.0.0.2"),
		group("232.1.1.2:7000", "10.0.0.3"), group("239.1.1.2:5000", ""), group("[ff15::9]:5000", ""), group("[ff35::9]:5000", "fd00::1"), group("[ff15::a]:65535", "")}
	for _, c := range []struct {
		name     string
		groups   []Group
		restrict string
		exact    bool
	}{
		{"few", few, "", true},
		{"restricted", few, "udp[4:2] > 10 and not src 10.0.0.2", true},
		{"one range", many, "", true},
		{"scattered", scattered, "", true},
		{"too many", wild, "", false},
	} {
		var restrict *Expr
		if c.restrict != "" {
			var err error
			if restrict, err = Parse(c.restrict); err != nil {
				t.Fatal(err)
			}
		}
		raw, exact, err := CompileGroups(c.groups, restrict)
		if err != nil || exact != c.exact {
			t.Errorf("%s: exact %t, %v", c.name, exact, err)
			continue
		}
		vm := machine(t, disassembled(t, raw))
		wanted := map[Group]bool{}
		for _, g := range c.groups {
			wanted[g] = true
		}
		r := rand.New(rand.NewPCG(3, 4))
		missed, foreign := 0, 0
		for i := range 6000 {
			g := c.groups[i%len(c.groups)]
			d := format.Datagram{Dst: g.Dst, Src: netip.AddrPortFrom(g.Source, 9), Payload: make([]byte, 4)}
			if !g.Source.IsValid() {
				d.Src = netip.AddrPortFrom(netip.MustParseAddr("10.9.9.9"), 9)
				if !g.Dst.Addr().Is4() {
					d.Src = netip.MustParseAddrPort("[fd00::9]:9")
				}
			}
			switch r.IntN(6) {
			case 0:
				d.Dst = netip.AddrPortFrom(d.Dst.Addr(), d.Dst.Port()+uint16(r.IntN(2)*2-1))
			case 1:
				d.Dst = netip.AddrPortFrom(d.Dst.Addr().Next(), d.Dst.Port())
			case 2:
				d.Dst = netip.AddrPortFrom(d.Dst.Addr().Prev(), d.Dst.Port())
			case 3:
				d.Src = netip.AddrPortFrom(d.Src.Addr().Next(), 9)
			}
			want := wanted[Group{Dst: d.Dst}] || wanted[Group{d.Dst, d.Src.Addr()}]
			if c.restrict != "" {
				want = want && d.Dst.Addr().Is4() && d.Src.Addr() != netip.MustParseAddr("10.0.0.2")
			}
			p, _ := format.AppendMadeFrame(nil, &d)
			switch got := accepts(t, vm, p); {
			case want && !got:
				missed++
			case got && !want:
				foreign++
			}
			if d.Dst.Addr().Is4() && c.restrict == "" && i%8 == 0 {
				p[20], p[21] = 0, 5 // a later fragment: its port is not there
				want = false
				for g := range wanted {
					want = want || g.Dst.Addr() == d.Dst.Addr() && (!g.Source.IsValid() || g.Source == d.Src.Addr())
				}
				if got := accepts(t, vm, p); want && !got || got && !want && c.exact {
					t.Fatalf("%s: fragment of %v to %v: %t", c.name, d.Src, d.Dst, got)
				}
			}
		}
		if missed > 0 || c.exact && foreign > 0 {
			t.Errorf("%s: %d missed, %d foreign", c.name, missed, foreign)
		}
	}
}

// TestOuterTagInMetadata: a program for the kernel asks it for the outer tag, and
// finds what is behind it where it would be without.
func TestOuterTagInMetadata(t *testing.T) {
	e, err := Parse("vlan 7 and vlan 8 and udp[4:2] > 8")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Compile(e, TagsInMetadata)
	if err != nil {
		t.Fatal(err)
	}
	program := disassembled(t, raw)
	if in, ok := program[0].(bpf.LoadExtension); !ok || in.Num != bpf.ExtVLANTagPresent {
		t.Errorf("begins with %v", program[0])
	}
	asksFor := map[string]bool{}
	for _, in := range program {
		asksFor[fmt.Sprint(in)] = true
	}
	for _, want := range []bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtVLANTag}, bpf.LoadAbsolute{Off: 12, Size: 2}, bpf.LoadAbsolute{Off: 14, Size: 2}, bpf.LoadAbsolute{Off: 16, Size: 2}} {
		if !asksFor[fmt.Sprint(want)] {
			t.Errorf("no %v in %v", want, program)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, e := range expressions {
		f.Add(e, []byte("packet"))
	}
	f.Fuzz(func(t *testing.T, expression string, packet []byte) {
		e, err := Parse(expression)
		if err != nil {
			var at *Error
			if !errors.As(err, &at) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q: %v", expression, err)
			}
			return
		}
		for _, tags := range []Tags{TagsInFrame, TagsInMetadata} {
			raw, err := Compile(e, tags)
			if errors.Is(err, errLong) {
				continue
			}
			if err != nil || len(raw) > MaxProgram {
				t.Fatalf("%q: %d instructions, %v", expression, len(raw), err)
			}
			if tags == TagsInFrame { // the machine has no metadata
				accepts(t, machine(t, disassembled(t, raw)), packet)
			}
		}
	})
}
