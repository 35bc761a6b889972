package replayer

// timeline turns due times (ns after the first datagram) into moments of the
// pacer's clock: a straight line through one point. Whatever changes it on the way,
// a pause, another speed, a seek, moves that point to the present; nothing is ever
// summed up, so nothing drifts. It reads no clock.
type timeline struct {
	// The datagram that is due at origin leaves at anchor.
	anchor, origin int64
	// factor divides the distance from origin; 1 is exact.
	factor float64
}

// at is the moment at which a datagram is due.
func (t *timeline) at(due int64) int64 {
	d := due - t.origin // both are 0 to maxOffset
	if t.factor != 1 {
		d = clampOffset(float64(d) / t.factor)
	}
	return t.anchor + d
}

// rebase lets the datagram that is due at due leave at now.
func (t *timeline) rebase(now, due int64) { t.anchor, t.origin = now, due }

// setFactor changes the speed from now on.
func (t *timeline) setFactor(now int64, factor float64) {
	t.rebase(now, t.origin+clampOffset(float64(now-t.anchor)*t.factor))
	t.factor = factor
}
