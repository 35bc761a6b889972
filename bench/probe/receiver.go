package probe

import (
	"net/netip"
	"time"

	"castdeck/internal/sock"
)

// ReceiveOptions say what a Receiver receives and answers.
type ReceiveOptions struct {
	// Interface to join on: its name, index or one of its addresses. Required.
	Interface string
	// Groups to join, 1 to 1024, a socket each.
	Groups []netip.AddrPort
	// Buffer is the receive buffer in bytes to ask the kernel for, per socket; 0 is
	// 64 MiB. See Receiver.Buffer.
	Buffer int
	// Echo sends data back that asks for it; reports are sent in any case.
	Echo bool
	// Return is a group that replies go to. Where it is not valid they go to the sender's
	// address and the port that it names, if that address is in a network of the
	// interface, or among Allow (patterns as mcast.NewMatcher reads them).
	Return netip.AddrPort
	Allow  []string
	// TTL of replies, 1 to 255; 0 is 1.
	TTL int
	// Silent answers nothing at all.
	Silent bool
	// Every is the time between two intervals; 0 is a second.
	Every time.Duration
	// OnStep and OnInterval are told of what arrived. The receiving goroutine calls them:
	// they must not wait. Optional.
	OnStep     func(Arrived)
	OnInterval func(Interval)
	// Once ends Run when the last step of a run is over.
	Once bool
}

// Received are the counts of a Receiver, all runs together.
type Received struct {
	// Datagrams that arrived on the sockets, with what was Ignored.
	Datagrams uint64
	Ignored   Ignored
	// Echoes and Reports that were sent; Unanswered are those asked for that were not,
	// because their sender is none that may be answered, or sending failed.
	Echoes, Reports, Unanswered uint64
	// Drops are what the sockets lost.
	Drops uint64
	// Runs whose last step was received to its end.
	Runs int
}

// replyTo is where the replies to a run go.
type replyTo struct {
	port    uint16 // that it was made for
	decided bool
	to      *sock.Sockaddr // nil: nowhere
	v6      bool
}
