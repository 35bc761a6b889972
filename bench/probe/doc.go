// Package probe measures a network path with numbered datagrams: what is lost, doubled
// or reordered, how long datagrams take one way and back, how much that varies, and the
// highest rate at which nothing is lost.
//
//	Sender -> group -> network -> Receiver
//	Sender <- reply <- network <- Receiver     (echoes, and reports of what arrived)
//
// Every datagram says by itself what it is (see the header), so that sender and receiver
// need no channel beside the path that is measured, and one receiver serves several
// senders. What does not begin with the header is counted as foreign and measured by
// nobody.
//
// A run consists of steps: so many datagrams of one size at one rate. A stream is what a
// run sends to one group. Numbers begin with 0 in each stream and step.
//
// # Time
//
// One-way latency is the receiver's kernel's stamp of a datagram minus the sender's wall
// clock right before the system call that sent it. Between two hosts it is as good as
// their clocks agree; its differences (jitter, the time above the minimum) are good on
// any two hosts whose clocks run at one speed. Round trips are taken by the sender's
// clock alone.
//
// # Memory
//
// Nothing in a header makes the receiver allocate beyond fixed bounds: 8 runs, of 1024
// streams each, of 4 KiB each.
package probe
