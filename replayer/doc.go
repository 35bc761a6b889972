// Package replayer sends recorded datagrams again: at the recorded times, at a
// scaled or a constant rate, or as fast as the interface takes them.
//
// It knows batches (format.BatchReader), not files:
//
//	source -> reading goroutine -> ring of prepared batches -> one sending thread -> sockets
//
// The reading goroutine does everything that takes thought: which datagrams are
// sent, where to, whether a guard allows it, when each is due. The sending thread
// waits for the due time and makes one system call for all that is due. It
// allocates nothing for a datagram and takes no lock.
//
// What holds for every replay:
//
//   - Due times are absolute: the time recorded since the first datagram, divided
//     by the speed, from one anchor. Nothing is summed up, so nothing drifts.
//   - A datagram is never early and never dropped for being late. Behind schedule,
//     the sender goes on in the recorded order as fast as it can until it has
//     caught up, and the report says how late each datagram was.
//   - Every datagram of the source is accounted for: sent, skipped by cause, or
//     failed by errno.
//   - Nothing goes to a destination that can disturb a network unless it was
//     allowed by name; see GuardError.
//   - Nothing is sent that was not recorded whole: no packet that is not UDP, no
//     truncated one, no byte beyond the recorded payload.
package replayer
