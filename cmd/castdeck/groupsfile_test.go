package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"castdeck/internal/mcast"
)

// groupTexts are groups with their names, as "GROUP" or "GROUP=NAME".
func groupTexts(groups []mcast.Group) string {
	var all []string
	for _, g := range groups {
		s := g.String()
		if g.Name != "" {
			s += "=" + g.Name
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func TestGroupsFile(t *testing.T) {
	const one = "239.1.1.1:5000"
	for _, c := range []struct{ name, file, want string }{
		{"lines", "239.1.1.1:5000\n[ff3e::1]:5000%eth0\n", "239.1.1.1:5000 [ff3e::1]:5000%eth0"},
		{"comments, blanks, several a line, no end", "# feeds\n\n  239.1.1.1:5000   # A\n\t#239.9.9.9:1\n239.1.1.2:5000 239.1.1.3:5000%a#b", "239.1.1.1:5000 239.1.1.2:5000 239.1.1.3:5000%a#b"},
		{"Windows", "\xEF\xBB\xBF239.1.1.1:5000\r\n239.1.1.2:5000\r\n", "239.1.1.1:5000 239.1.1.2:5000"},
		{"ranges, sources, URLs", "10.0.0.1,10.0.0.2@232.1.1.1:5000\n239.1.1.1:5000-5001\nudp://0.0.0.0:5000\n[::]:5",
			"10.0.0.1@232.1.1.1:5000 10.0.0.2@232.1.1.1:5000 239.1.1.1:5000 239.1.1.1:5001 0.0.0.0:5000 [::]:5"},
		{"a YAML list", "# feeds\n- 239.1.1.1:5000\n- \"[ff3e::1]:5000\" # quoted\n", "239.1.1.1:5000 [ff3e::1]:5000"},
		{"entries", "- {group: 239.1.1.1, port: 5000, source: 10.0.0.1, interface: eth0, name: A line}\n- group: 239.1.1.2:5000\n",
			"10.0.0.1@239.1.1.1:5000%eth0=A line 239.1.1.2:5000"},
		{"entries of several", "- group: 239.1.1.1-239.1.1.2\n  port: 5000-5001\n  sources: [10.0.0.1, 10.0.0.2]\n- {group: ff3e::1, port: 5, sources: ['2001:db8::1']}\n",
			"10.0.0.1@239.1.1.1:5000 10.0.0.2@239.1.1.1:5000 10.0.0.1@239.1.1.1:5001 10.0.0.2@239.1.1.1:5001 " +
				"10.0.0.1@239.1.1.2:5000 10.0.0.2@239.1.1.2:5000 10.0.0.1@239.1.1.2:5001 10.0.0.2@239.1.1.2:5001 2001:db8::1@[ff3e::1]:5"},
		{"a map of names", "A: 239.1.1.1:5000\nB line:\n  - 239.1.1.2:5000\n  - {group: 239.1.1.3, port: 5000, name: own}\n",
			"239.1.1.1:5000=A 239.1.1.2:5000=B line 239.1.1.3:5000=own"},
		{"a list with a title", "---\ngroups:\n- 239.1.1.1:5000\n", one},
		{"one entry", "group: 239.1.1.1\nport: 5000\ninterface: 2\n", "239.1.1.1:5000%2"},
		{"JSON", `[{"group": "239.1.1.1", "port": 5000}, "239.1.1.2:5000"]`, "239.1.1.1:5000 239.1.1.2:5000"},
		{"IPv6 is no YAML list", "[ff3e::1]:5000\n", "[ff3e::1]:5000"},
	} {
		groups, err := readGroups("-", strings.NewReader(c.file))
		if got := groupTexts(groups); err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, got, err, c.want)
		}
	}
}

func TestGroupsFileRefuses(t *testing.T) {
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	for _, c := range []struct{ name, file, want string }{
		{"empty", "", "stdin names no group; write a GROUP a line"},
		{"only comments", "# 239.1.1.1:5000\n", "names no group"},
		{"an empty list", "- []\n", "names no group"},
		{"a bad line", "239.1.1.1:5000\n\n239.1.1.2\n", `stdin:3: group "239.1.1.2": has no port (want 239.1.1.2:5000)`},
		{"a bad word", "239.1.1.1:5000 and 239.1.1.2:5000\n", `stdin:1: group "and"`},
		{"a host name", "feeda:5000\n", `stdin:1: group "feeda:5000": "feeda" is not an IP address`},
		{"too many", "239.0.0.0-239.0.255.255:5000\n\n239.1.1.1:5000\n", "stdin:3: a recording has at most 65,536 groups"},
		{"too many in YAML", "- 239.0.0.0-239.0.255.255:5000\n- 239.1.1.1:5000\n", "stdin:2: a recording has at most 65,536 groups"},
		{"a bad group", "- 239.1.1.1:5000\n- 239.1.1.2\n", `stdin:2: group "239.1.1.2": has no port`},
		{"a bad port", "- 239.1.1.1:5000\n- group: 239.1.1.2\n  port: 99999\n", `stdin:2: group "239.1.1.2:99999": port "99999" is not a number`},
		{"two ports", "- {group: '239.1.1.1:5000', port: 5000}\n", `stdin:1: group "239.1.1.1:5000:5000"`},
		{"an unknown key", "- group: 239.1.1.2:5000\n  prot: 5000\n", `stdin:2: no key "prot" in a group, did you mean port? (have group, port, `},
		{"a key twice", "- group: 239.1.1.2:5000\n  group: 239.1.1.3:5000\n", "stdin:2: no valid YAML: mapping key"},
		{"no value", "- group: 239.1.1.2\n  port:\n", "stdin:2: port: nothing is no value for it"},
		{"an empty value", "- {group: 239.1.1.2:5000, name: ''}\n", `stdin:1: name: "" is no value for it`},
		{"a list", "- group: [239.1.1.2:5000]\n", "stdin:1: group: a list is no value for it"},
		{"two sources", "- {group: '10.0.0.1@239.1.1.2:5000', source: 10.0.0.2}\n", "stdin:1: group \"10.0.0.1@239.1.1.2:5000\" has a source"},
		{"source and sources", "- {group: '239.1.1.2:5000', source: 10.0.0.2, sources: [10.0.0.3]}\n", "stdin:1: gives source and sources"},
		{"no sources", "- {group: '239.1.1.2:5000', sources: []}\n", "stdin:1: sources: an empty list"},
		{"a number as source", "- group: 239.1.1.2:5000\n  sources:\n  - 10\n", "stdin:3: sources: wants addresses"},
		{"two interfaces", "- {group: '239.1.1.2:5000%a', interface: b}\n", `stdin:1: names two interfaces, "a" and "b"`},
		{"a long name", "- {group: '239.1.1.2:5000', name: " + strings.Repeat("x", 65) + "}\n", "at most 64 bytes"},
		{"a number as group", "A: 239.1.1.1:5000\nport: 5000\n", "stdin:2: port: 5000 is no group"},
		{"IPv6 without quotes", "- 239.1.1.1:5000\n- [ff3e::1]:5000\n", `IPv6 in brackets needs quotes: "[ff3e::1]:5000"`},
		{"an alias", "- &a 239.1.1.1:5000\n- *a\n", "stdin:1: a YAML anchor, alias or tag where a group was expected"},
		{"two documents", "- 239.1.1.1:5000\n---\n- 239.1.1.2:5000\n", "stdin:3: a second document"},
		{"too deep", deep, "stdin:1: lists or maps are nested more than 16 deep"},
		{"too deep in dashes", "- 239.1.1.1:5000\n" + strings.Repeat("- ", 30) + "x\n", "stdin:2: lists or maps are nested more than 16 deep"},
		{"too deep by lines", nested(40), "lists or maps are nested more than 16 deep"},
		{"too long", strings.Repeat("# x\n", 3<<20), "stdin is longer than 8MiB"},
		{"too long for YAML", "- 239.1.1.1:5000\n" + strings.Repeat("# x\n", 1<<19), "longer than 1MiB, the limit for YAML; write a GROUP a line"},
	} {
		groups, err := readGroups("-", strings.NewReader(c.file))
		if err == nil {
			t.Errorf("%s: %s, want an error with %q", c.name, groupTexts(groups), c.want)
			continue
		}
		var exit *exitError
		if msg := err.Error(); !strings.Contains(msg, c.want) || !errors.As(err, &exit) || exit.code != exitUsage {
			t.Errorf("%s: %v\nwant %q", c.name, err, c.want)
		}
	}
}

// nested is a list in a list in a list.
func nested(depth int) string {
	var b strings.Builder
	for i := range depth {
		fmt.Fprintf(&b, "%s-\n", strings.Repeat(" ", i))
	}
	return b.String() + strings.Repeat(" ", depth) + "- 239.1.1.1:5000\n"
}

func FuzzGroupsFile(f *testing.F) {
	for _, s := range []string{
		"239.1.1.1:5000\n# c\n", "- 239.1.1.1:5000\n- {group: 239.1.1.1, port: 5000, sources: [10.0.0.1], interface: a, name: b}\n", "A: 239.1.1.1:5\n",
		"[{\"group\": \"239.1.1.1:5\"}]", "- &a b\n- *a\n", "? a\n: b\n", "- |\n  239.1.1.1:5\n", "<<: {a: b}\n", "- !!str 1\n", nested(5),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		groups, err := readGroups("-", strings.NewReader(s))
		if (err == nil) != (len(groups) > 0) {
			t.Fatalf("%q: %d groups, %v", s, len(groups), err)
		}
		for _, g := range groups {
			if len(g.Name) > mcast.MaxName || g.Group.Port() == 0 {
				t.Fatalf("%q: %+v", s, g)
			}
		}
	})
}
