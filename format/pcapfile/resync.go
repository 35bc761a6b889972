package pcapfile

// resyncer finds where reading can go on behind damage: at the next chain of records
// or blocks that are plausible one behind the other. What is plausible is the
// format's to say.
type resyncer struct {
	win *window
	// unit is what the stream consists of, for messages: "record" or "block".
	unit string
	// least is the shortest unit in bytes, span how much of the stream a chain is
	// judged by; both formats look at 2 spans at a time.
	least, span int
	// chained says whether a chain begins at b.
	chained func(b []byte) bool
}

// find is the first place behind the window's start at which a chain begins that is
// whole in the window; 0 where there is none.
func (r *resyncer) find() int {
	b := r.win.fill(2 * r.span)
	for i := 1; i+r.least <= len(b); i++ {
		if len(b)-i < r.span && r.win.err == nil {
			break // judge it when more is in the window
		}
		if r.chained(b[i:]) {
			return i
		}
	}
	return 0
}

// resync looks for the next chain, through the whole rest of the stream if need be,
// with bounded memory, and reports what it passed over.
func (r *resyncer) resync(why string) error {
	start := r.win.off
	for {
		if at := r.find(); at > 0 {
			r.win.consume(at)
			return r.win.corrupt(start, r.win.off-start, why+"; reading goes on behind it")
		}
		b := r.win.buffered()
		if r.win.err != nil {
			r.win.consume(len(b))
			return r.win.corrupt(start, r.win.off-start, why+"; no "+r.unit+" was found behind it")
		}
		r.win.consume(len(b) - r.span + 1)
	}
}

// skipTo passes over the first at bytes of the window, which find chose.
func (r *resyncer) skipTo(at int, why string) error {
	start := r.win.off
	r.win.consume(at)
	return r.win.corrupt(start, int64(at), why+"; reading goes on behind it")
}
