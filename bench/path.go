package bench

import (
	"context"
	"errors"
	"time"

	"castdeck/format"
	"castdeck/recorder"
	"castdeck/replayer"
)

// PathOptions of a run of the whole path: what is sent, and what is recorded at
// the same time, in one process.
type PathOptions struct {
	Send   replayer.Options
	Groups []recorder.Subscription
	Record recorder.Options
	// Settle is how long to go on receiving after the last datagram was sent: 0
	// where the send call itself delivers (lo, veth).
	Settle time.Duration
}

// PathResult is what went in and what came out.
type PathResult struct {
	Sent     replayer.Report
	Recorded recorder.Stats
	Took     time.Duration
}

// Path sends what src yields and records it meanwhile. open makes the writer from
// the recording's interfaces, once the groups are joined; closing it is open's
// caller's.
func Path(ctx context.Context, src format.BatchReader, o PathOptions, open func([]format.Interface) (format.BatchWriter, error)) (res PathResult, err error) {
	rec, err := recorder.Listen(o.Groups, o.Record)
	if err != nil {
		return res, err
	}
	defer rec.Close()
	rep, err := replayer.New(o.Send)
	if err != nil {
		return res, err
	}
	defer rep.Close()
	w, err := open(rec.Interfaces())
	if err != nil {
		return res, err
	}
	recording, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- rec.Run(recording, w) }()
	res.Sent, err = rep.Run(ctx, src)
	if o.Settle > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(o.Settle):
		}
	}
	// What waits in the receive buffers is collected by the end of the recording.
	stop()
	err = errors.Join(err, <-done)
	res.Took = time.Since(start)
	res.Recorded = rec.Stats()
	return res, err
}
