//go:build !linux

package sock

import "time"

var clockBase = time.Now()

// Now returns ns of a monotonic clock that started with the process.
func Now() int64 { return int64(time.Since(clockBase)) }

// SleepHolding is SleepUntil.
func SleepHolding(deadline int64) { SleepUntil(deadline) }

// SleepUntil returns when Now is at or past deadline.
func SleepUntil(deadline int64) { Sleep(time.Duration(deadline - Now())) }

// Sleep is time.Sleep.
func Sleep(d time.Duration) { time.Sleep(d) }

// SetTimerSlack returns an error that wraps errors.ErrUnsupported.
func SetTimerSlack(ns int64) error { return unsupported("setting a thread's timer slack") }

// SetRealtime returns an error that wraps errors.ErrUnsupported.
func SetRealtime() (undo func(), err error) { return nil, unsupported("real-time priority") }

// LockMemory returns an error that wraps errors.ErrUnsupported.
func LockMemory() (undo func(), err error) { return nil, unsupported("locked memory") }
