package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"castdeck/internal/sock"
)

// console is where a recording talks to people: messages, and on a terminal what goes
// on, redrawn in its place. It never makes anybody wait, see talker, and is safe for
// concurrent use. Each Write is a whole message, of one or more lines.
//
// A full view has a screen of its own (the terminal's alternate one); messages meanwhile
// stand in it, and are printed when it is left.
type console struct {
	out   *talker
	file  *os.File // a terminal, or nil
	full  bool     // a full view is wanted, and the terminal can
	dumb  bool     // the terminal knows no escape sequences
	color bool
	ascii bool

	mu      sync.Mutex
	inFull  bool
	line    int      // columns that the line has
	kept    []string // messages since the full view began
	omitted int      // older ones
	over    bool
}

// Messages that are kept while the full view is on the screen, and their length.
const (
	maxKept        = 500
	maxKeptMessage = 2000
)

// newConsole makes a console of --view's value: auto, full, line or off. shared says
// that data go to the same terminal.
func newConsole(w io.Writer, view string, shared bool) *console {
	c := &console{out: newTalker(w, func(n int) []byte {
		return fmt.Appendf(nil, "castdeck: %s left out, because nobody read\n", plural(n, "message"))
	})}
	if view == "off" || shared || !isTerminal(w) {
		return c
	}
	c.file = w.(*os.File)
	c.dumb = os.Getenv("TERM") == "dumb" || os.Getenv("TERM") == ""
	c.full = view != "line" && !c.dumb
	c.color = !c.dumb && os.Getenv("NO_COLOR") == ""
	locale := os.Getenv("LANG")
	for _, name := range []string{"LC_CTYPE", "LC_ALL"} { // setlocale(3)
		if v := os.Getenv(name); v != "" {
			locale = v
		}
	}
	locale = strings.ToLower(locale)
	c.ascii = !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8")
	return c
}

// terminal says that people look at it.
func (c *console) terminal() bool { return c.file != nil }

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.inFull {
		_, err := c.out.Write(append(c.clearLine(), p...))
		return len(p), err
	}
	for text := range strings.Lines(string(p)) {
		if len(c.kept) == maxKept {
			c.kept = append(c.kept[:0], c.kept[1:]...)
			c.omitted++
		}
		c.kept = append(c.kept, oneLine(text[:min(len(text), maxKeptMessage)]))
	}
	return len(p), nil
}

// clearLine takes the line away.
func (c *console) clearLine() []byte {
	if c.line == 0 {
		return nil
	}
	n := c.line
	c.line = 0
	if c.dumb {
		return []byte("\r" + strings.Repeat(" ", n) + "\r")
	}
	return []byte("\r\x1b[K")
}

// The smallest terminal that gets a full view.
const (
	minFullColumns = 60
	minFullRows    = 10
)

// What switches the alternate screen on and off (xterm's control sequences), without
// automatic wrapping, so that no line can take two.
const (
	enterFull = "\x1b[?1049h\x1b[?7l\x1b[H\x1b[J"
	leaveFull = "\x1b[?7h\x1b[?1049l"
)

// draw shows the newest state: a full view where one is wanted and there is room,
// otherwise a line. It does nothing while the terminal has not taken the last one, or
// while this process is in the background.
func (c *console) draw(v *liveView) {
	if c.file == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || !c.out.idle() {
		return
	}
	if !sock.Foreground(c.file.Fd()) {
		c.toLine()
		return
	}
	width, height, err := term.GetSize(int(c.file.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 1
	}
	if !c.full || width < minFullColumns || height < minFullRows {
		c.toLine()
		text := cutTo(v.line(), width-1) // the last column would wrap
		out := append(c.clearLine(), text...)
		c.line = len([]rune(text))
		_, _ = c.out.Write(out)
		return
	}
	var b strings.Builder
	if !c.inFull {
		b.Write(c.clearLine())
		b.WriteString(enterFull)
		c.inFull = true
	}
	b.WriteString("\x1b[H")
	for i, line := range v.render(width, height, c.kept, style{c.color, c.ascii}) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line)
		b.WriteString("\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, _ = io.WriteString(c.out, b.String())
}

// toLine leaves the full view.
func (c *console) toLine() {
	if !c.inFull {
		return
	}
	c.inFull = false
	var b strings.Builder
	b.WriteString(leaveFull)
	if c.omitted > 0 {
		fmt.Fprintf(&b, "castdeck: %s before these\n", plural(c.omitted, "older message"))
	}
	for _, m := range c.kept {
		b.WriteString(m + "\n")
	}
	c.kept, c.omitted = nil, 0
	_, _ = io.WriteString(c.out, b.String())
}

// leave ends the drawing; messages go on.
func (c *console) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.toLine()
	if clear := c.clearLine(); clear != nil {
		_, _ = c.out.Write(clear)
	}
}

// takeAll is talker.takeAll.
func (c *console) takeAll() { c.out.takeAll() }

func (c *console) close(patience time.Duration) error {
	c.leave()
	return c.out.close(patience)
}

// cutTo shortens a text to so many characters.
func cutTo(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	if n <= 0 {
		return ""
	}
	return string(r[:n-1]) + "~"
}
