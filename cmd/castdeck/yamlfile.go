package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// errAt is a mistake in a file of the user's: file:line: what is wrong.
func errAt(path string, line int, format string, args ...any) error {
	return usagef("%s:%d: %w", path, line, fmt.Errorf(format, args...))
}

// readSmall reads a file, or stdin for "-", of at most limit bytes.
func readSmall(path string, stdin io.Reader, limit int64) ([]byte, error) {
	r, name := stdin, "stdin"
	if path != "-" {
		name = path
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, usagef("%s is longer than %s, the limit for such a file", name, formatSize(limit))
	}
	return bytes.TrimPrefix(b, []byte("\xEF\xBB\xBF")), nil
}

// maxNesting bounds lists in lists: the YAML parser recurses, and takes time by the
// square of the depth.
const maxNesting = 16

// parseYAML returns the one document of a file, nil where it is empty. What it holds
// is plain values, lists and maps: see yamlValue.
func parseYAML(path string, b []byte) (ast.Node, error) {
	if line := tooDeep(b); line > 0 {
		return nil, errAt(path, line, "lists or maps are nested more than %d deep", maxNesting)
	}
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		var at yaml.Error
		if errors.As(err, &at) && at.GetToken() != nil {
			hint := ""
			if strings.Contains(at.GetToken().Value, "[") || strings.Contains(lineOf(b, at.GetToken().Position.Line), "- [") {
				hint = " (IPv6 in brackets needs quotes: \"[ff3e::1]:5000\")"
			}
			return nil, errAt(path, at.GetToken().Position.Line, "no valid YAML: %s%s", at.GetMessage(), hint)
		}
		return nil, errAt(path, 1, "no valid YAML: %w", err)
	}
	var body ast.Node
	for _, d := range f.Docs {
		switch {
		case d.Body == nil:
		case body != nil:
			return nil, errAt(path, lineAt(d.Body), "a second document begins; write one")
		default:
			body = d.Body
		}
	}
	return body, nil
}

// tooDeep is the line on which brackets that are open, or lists that begin on one
// line, are more than maxNesting; 0 for none. Quotes do not matter: there are no
// values with so many open brackets.
func tooDeep(b []byte) (line int) {
	open := 0
	for i, text := range bytes.Split(b, []byte("\n")) {
		begun := 0
		for rest := bytes.TrimLeft(text, " "); len(rest) > 1 && strings.IndexByte("-?", rest[0]) >= 0 && rest[1] == ' '; rest = bytes.TrimLeft(rest[1:], " ") {
			begun++
		}
		for _, c := range text {
			switch c {
			case '[', '{':
				open++
			case ']', '}':
				open = max(open-1, 0)
			}
			if open > maxNesting || begun > maxNesting {
				return i + 1
			}
		}
	}
	return 0
}

func lineOf(b []byte, line int) string {
	lines := bytes.Split(b, []byte("\n"))
	if line < 1 || line > len(lines) {
		return ""
	}
	return string(lines[line-1])
}

func lineAt(n ast.Node) int { return n.GetToken().Position.Line }

// yamlPair is a key of a map and its value.
type yamlPair struct {
	key   string
	line  int
	value ast.Node
}

// yamlMap returns the pairs of a map in their order; ok is false for what is none.
func yamlMap(path string, n ast.Node) (pairs []yamlPair, ok bool, err error) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		return nil, false, nil
	}
	for _, v := range m.Values {
		text, kind := yamlValue(v.Key)
		if kind == yamlOther {
			return nil, true, errAt(path, lineAt(v.Key), "%s is no plain name", oneLine(v.Key.String()))
		}
		pairs = append(pairs, yamlPair{text, lineAt(v.Key), v.Value})
	}
	return pairs, true, nil
}

type yamlKind uint8

const (
	yamlOther yamlKind = iota // a list, a map, nothing, an anchor or its like
	yamlText
	yamlNumber
	yamlBool
)

// yamlValue is the text of a plain value as it was written: 0x10 stays 0x10.
func yamlValue(n ast.Node) (string, yamlKind) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, yamlText
	case *ast.LiteralNode:
		return n.Value.Value, yamlText
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, yamlNumber
	case *ast.BoolNode:
		return n.GetToken().Value, yamlBool
	}
	return "", yamlOther
}

// describeYAML names what yamlValue has no text for.
func describeYAML(n ast.Node) string {
	switch n.(type) {
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode:
		return "a map"
	case *ast.NullNode:
		return "nothing"
	}
	return "a YAML anchor, alias or tag"
}

// nearest is the name that differs least from what was written, as ", did you mean
// NAME?"; "" where none is near.
func nearest(written string, names []string) string {
	best, least := "", max(2, len(written)/3)+1
	for _, name := range names {
		if d := editDistance(written, name); d < least {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}

// editDistance is the number of letters to insert, delete or replace.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
