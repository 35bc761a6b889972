package recorder

// ledger follows the drop counter of one socket. The kernel tells the counter in
// two ways, both modulo 2^32: with a datagram, as it stood when that datagram was
// queued (SO_RXQ_OVFL), and on request, as it stands now (SO_MEMINFO). The first
// says where in the recording the loss was, the second knows of losses after the
// last datagram too. The counter starts at 0 with the socket: what is dropped
// between bind and the first reading is a loss of this recording.
type ledger struct {
	placed uint32 // of these the datagram that came next is known
	known  uint32 // latest value from either source
	total  uint64
}

// observe takes note of a counter reading and returns by how much the total grew.
// Readings may come out of order: a value behind the latest says nothing new. A
// distance of 2^31 and more counts as backwards, which at a reading a second would
// take two thousand million lost datagrams.
func (l *ledger) observe(counter uint32) uint64 {
	d := int32(counter - l.known)
	if d <= 0 {
		return 0
	}
	l.known = counter
	l.total += uint64(d)
	return uint64(d)
}

// rebase goes over to the counter of another socket, which begins at 0. What is lost and
// not placed yet stays in the total, and is told by the next datagram that carries a
// counter.
func (l *ledger) rebase() {
	l.placed -= l.known
	l.known = 0
}

// place returns how many were lost between the datagram placed last and the one
// that carries this counter.
func (l *ledger) place(counter uint32) uint64 {
	d := int32(counter - l.placed)
	if d <= 0 {
		return 0
	}
	l.placed = counter
	return uint64(d)
}
