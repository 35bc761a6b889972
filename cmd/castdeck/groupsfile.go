package main

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"castdeck/internal/mcast"
	"castdeck/recorder"
)

// Groups in a file: as many as a recording has, in lines of some 60 bytes.
const (
	maxGroupsText = 8 << 20
	maxGroupsYAML = 1 << 20 // the parser takes its time
)

// readGroups reads the groups of a file, or of stdin for "-". It is YAML or plain
// lines, as its first line tells.
func readGroups(path string, stdin io.Reader) ([]mcast.Group, error) {
	b, err := readSmall(path, stdin, maxGroupsText)
	if err != nil {
		return nil, err
	}
	if path == "-" {
		path = "stdin"
	}
	r := groupsReader{path: path}
	if looksYAML(b) {
		if len(b) > maxGroupsYAML {
			return nil, usagef("%s is longer than %s, the limit for YAML; write a GROUP a line", path, formatSize(maxGroupsYAML))
		}
		body, err := parseYAML(path, b)
		if err == nil && body != nil {
			err = r.node(body, "", maxNesting)
		}
		if err != nil {
			return nil, err
		}
	} else if err := r.lines(b); err != nil {
		return nil, err
	}
	if len(r.groups) == 0 {
		return nil, usagef("%s names no group; write a GROUP a line, such as 239.1.1.1:5000", path)
	}
	return r.groups, nil
}

// yamlStart is how no GROUP begins: a list, a map in one of its forms, a document.
var yamlStart = regexp.MustCompile(`^(-([ \t]|$)|---|%YAML|["'{]|\[\s*(["'{\[]|$)|[A-Za-z_][\w .-]*:([ \t]|$))`)

// looksYAML goes by the first line that is no comment.
func looksYAML(b []byte) bool {
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return yamlStart.Match(line)
		}
	}
	return false
}

type groupsReader struct {
	path   string
	groups []mcast.Group
}

// lines reads GROUPs, one or more a line; a # at the beginning or after a space
// starts a comment.
func (r *groupsReader) lines(b []byte) error {
	n := 0
	for line := range bytes.Lines(b) {
		n++
		for _, word := range strings.Fields(string(line)) {
			if word[0] == '#' {
				break
			}
			groups, err := mcast.Parse(word)
			if err == nil {
				err = r.add(groups)
			}
			if err != nil {
				return errAt(r.path, n, "%w", err)
			}
		}
	}
	return nil
}

func (r *groupsReader) add(groups []mcast.Group) error {
	if len(r.groups)+len(groups) > recorder.MaxSubscriptions {
		return errors.New("a recording has at most 65,536 groups, and these are more")
	}
	r.groups = append(r.groups, groups...)
	return nil
}

// node reads a GROUP, a list, a map with the key group, or a map of names.
func (r *groupsReader) node(n ast.Node, name string, depth int) error {
	if depth == 0 {
		return errAt(r.path, lineAt(n), "lists or maps are nested more than %d deep", maxNesting)
	}
	if list, ok := n.(*ast.SequenceNode); ok {
		for _, v := range list.Values {
			if err := r.node(v, name, depth-1); err != nil {
				return err
			}
		}
		return nil
	}
	pairs, isMap, err := yamlMap(r.path, n)
	if err != nil {
		return err
	}
	if isMap {
		for _, p := range pairs {
			if p.key == "group" {
				return r.entry(n, pairs, name)
			}
		}
		for _, p := range pairs {
			if _, scalar := yamlValue(p.value); scalar == yamlNumber || scalar == yamlBool {
				return errAt(r.path, p.line, "%s: %s is no group (want 239.1.1.1:5000, or a map with the key group)", p.key, oneLine(p.value.String()))
			}
			under := p.key
			if under == "groups" { // a list's title, and nobody's name
				under = name
			}
			if err := r.node(p.value, under, depth-1); err != nil {
				return err
			}
		}
		return nil
	}
	text, kind := yamlValue(n)
	if kind == yamlOther {
		return errAt(r.path, lineAt(n), "%s where a group was expected (want 239.1.1.1:5000, or a map with the key group)", describeYAML(n))
	}
	return r.text(n, text, name, nil)
}

// text reads a GROUP and gives it a name; with changes where they are not nil.
func (r *groupsReader) text(n ast.Node, text, name string, change func(*mcast.Group) error) error {
	groups, err := mcast.Parse(text)
	if err == nil {
		err = checkName(name)
	}
	for i := range groups {
		groups[i].Name = name
		if err == nil && change != nil {
			err = change(&groups[i])
		}
	}
	if err == nil {
		err = r.add(groups)
	}
	if err != nil {
		return errAt(r.path, lineAt(n), "%w", err)
	}
	return nil
}

func checkName(s string) error {
	if len(s) > mcast.MaxName || oneLine(s) != s {
		return usagef("name %q: at most %d bytes on one line", s[:min(len(s), mcast.MaxName)], mcast.MaxName)
	}
	return nil
}

var entryKeys = []string{"group", "port", "source", "sources", "interface", "name"}

// entry reads {group, port, source, interface, name}.
func (r *groupsReader) entry(n ast.Node, pairs []yamlPair, name string) error {
	var group, port, iface string
	var sources []string
	for _, p := range pairs {
		text, kind := yamlValue(p.value)
		list, isList := p.value.(*ast.SequenceNode)
		several := isList && (p.key == "source" || p.key == "sources")
		if kind == yamlBool || kind == yamlOther && !several || text == "" && !several {
			what := describeYAML(p.value)
			if kind != yamlOther {
				what = "\"" + oneLine(text) + "\""
			}
			return errAt(r.path, p.line, "%s: %s is no value for it", oneLine(p.key), what)
		}
		switch p.key {
		case "group":
			group = text
		case "port":
			port = text
		case "interface":
			iface = text
		case "name":
			name = text
		case "source", "sources":
			if sources != nil {
				return errAt(r.path, p.line, "gives source and sources; write one of them")
			}
			if !several {
				sources = []string{text}
				break
			}
			for _, v := range list.Values {
				s, kind := yamlValue(v)
				if kind != yamlText {
					return errAt(r.path, lineAt(v), "%s: wants addresses", p.key)
				}
				sources = append(sources, s)
			}
			if len(sources) == 0 {
				return errAt(r.path, p.line, "%s: an empty list; leave it out for any source", p.key)
			}
		default:
			return errAt(r.path, p.line, "no key %q in a group%s (have %s)", oneLine(p.key), nearest(p.key, entryKeys), strings.Join(entryKeys, ", "))
		}
	}
	if port != "" {
		if strings.Count(group, ":") > 1 && !strings.ContainsAny(group, "[/") {
			group = "[" + group + "]"
		}
		group += ":" + port
	}
	if sources != nil {
		if strings.ContainsAny(group, "@/") {
			return errAt(r.path, lineAt(n), "group %q has a source or is a URL; give the source in one place", oneLine(group))
		}
		group = strings.Join(sources, ",") + "@" + group
	}
	return r.text(n, group, name, func(g *mcast.Group) error {
		if iface != "" && g.Interface != "" && g.Interface != iface {
			return usagef("names two interfaces, %q and %q", g.Interface, iface)
		}
		if iface != "" {
			g.Interface = iface
		}
		return nil
	})
}
