package segment

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Names makes the file names of a series of segments and knows them again.
//
//	feed.pcapng.zst                plain: this name; further segments feed-00002 and on
//	feed.pcapng.zst, numbered      feed-00001.pcapng.zst, feed-00002.pcapng.zst
//	feed-%Y%m%d-%H%M%S.pcapng.zst  the UTC time at which the segment begins; where
//	                               that name is taken, -00002 before the end
//
// The folder is taken as it stands.
type Names struct {
	path            string
	dir, stem, end  string
	numbered, timed bool
	known           *regexp.Regexp // of base names; 1 is the number
}

// verbs are the strftime(3) conversions that give the same name in every locale, as a
// layout of package time (but for %s) and the pattern of what they make.
var verbs = map[byte]struct{ layout, pattern string }{
	'Y': {"2006", `\d{4}`}, 'y': {"06", `\d\d`}, 'm': {"01", `\d\d`}, 'd': {"02", `\d\d`}, 'j': {"002", `\d{3}`},
	'H': {"15", `\d\d`}, 'M': {"04", `\d\d`}, 'S': {"05", `\d\d`},
	'F': {"2006-01-02", `\d{4}-\d\d-\d\d`}, 's': {"", `-?\d+`},
}

// nameEnds are the ends of names that a number or a time goes before.
var nameEnds = []string{".pcapng.zst", ".pcapng.gz", ".pcapng", ".pcap"}

// ParseNames reads the path that a user gave. numbered asks for a number in each name
// where the path holds no time. %% is a percent sign.
func ParseNames(path string, numbered bool) (*Names, error) {
	n := &Names{path: path}
	var base string
	n.dir, base = filepath.Split(path)
	if base == "" {
		return nil, fmt.Errorf("%q names no file", path)
	}
	if strings.Contains(n.dir, "%") {
		return nil, fmt.Errorf("%s: a %% in the folder: only the file's name can hold a time", path)
	}
	n.end = filepath.Ext(base)
	for _, e := range nameEnds {
		if strings.HasSuffix(base, e) {
			n.end = e
			break
		}
	}
	n.stem = strings.TrimSuffix(base, n.end)
	pattern, err := n.expand(func(literal string) string { return regexp.QuoteMeta(literal) },
		func(v byte) string { n.timed = true; return verbs[v].pattern })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	n.numbered = numbered && !n.timed
	number := `(?:-(\d{5,9}))?`
	if n.numbered {
		number = `-(\d{5,9})`
	}
	n.known = regexp.MustCompile("^" + pattern + number + regexp.QuoteMeta(n.end) + "$")
	return n, nil
}

// expand puts together what literal and verb make of the parts of the stem.
func (n *Names) expand(literal func(string) string, verb func(byte) string) (string, error) {
	var b strings.Builder
	rest := n.stem
	for {
		before, after, found := strings.Cut(rest, "%")
		b.WriteString(literal(before))
		switch {
		case !found:
			return b.String(), nil
		case after == "":
			return "", errors.New("a single % at the end; write %% for a percent sign")
		case after[0] == '%':
			b.WriteString(literal("%"))
		case verbs[after[0]].pattern == "":
			return "", fmt.Errorf("%%%c is no part of a time here (have %%Y %%y %%m %%d %%j %%H %%M %%S %%F %%s, and %%%% for a percent sign)", after[0])
		default:
			b.WriteString(verb(after[0]))
		}
		rest = after[1:]
	}
}

// Timed says that the names hold a time.
func (n *Names) Timed() bool { return n.timed }

// Numbered says that every name holds a number.
func (n *Names) Numbered() bool { return n.numbered }

// Path is the k-th name, from 1 on, of a segment that begins at t.
func (n *Names) Path(t time.Time, k int) string {
	t = t.UTC()
	stem, _ := n.expand(func(literal string) string { return literal }, func(v byte) string {
		if v == 's' {
			return strconv.FormatInt(t.Unix(), 10)
		}
		return t.Format(verbs[v].layout)
	})
	if k > 1 || n.numbered {
		stem += fmt.Sprintf("-%05d", k)
	}
	return n.dir + stem + n.end
}

// number says whether a file of this base name can be one of the series, and which
// number is in the name; 1 where there is none.
func (n *Names) number(base string) (int, bool) {
	m := n.known.FindStringSubmatch(base)
	switch {
	case m == nil:
		return 0, false
	case m[1] == "":
		return 1, true
	}
	k, err := strconv.Atoi(m[1])
	return k, err == nil && k > 0
}

// lockPath is the file that keeps a second recorder from the same names.
func (n *Names) lockPath() string { return n.dir + "." + n.stem + n.end + ".lock" }

func (n *Names) folder() string { return filepath.Clean(n.dir) }
