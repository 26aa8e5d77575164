package analysis

import "math"

// Usual is stable's error rate outside incidents, and its traffic, with a half-life of 24 hours.
type Usual struct {
	Counts
	At      float64 `json:"at"`
	Seconds float64 `json:"seconds,omitzero"` // of which these are the counts
}

// usualGap is the longest time in seconds between two counts that is not a gap: of a gap nothing is known.
const usualGap = 120.0

// Add takes in stable's counts at a moment in seconds.
func (u *Usual) Add(now float64, c Counts) {
	if u.At > 0 && now > u.At {
		keep := math.Exp2(-(now - u.At) / halfLife)
		u.Requests, u.Errors, u.Seconds = u.Requests*keep, u.Errors*keep, u.Seconds*keep
		if now-u.At <= usualGap {
			u.Seconds += now - u.At
		}
	}
	u.At = max(u.At, now)
	u.Counts = u.Counts.Add(c)
}

// leastUsual is how many seconds of stable's traffic have to be known before it is said to be usual.
const leastUsual = 600.0

// PerSecond is stable's usual traffic in requests per second; 0: not known yet.
func (u *Usual) PerSecond() float64 {
	if u.Seconds < leastUsual {
		return 0
	}
	return u.Requests / u.Seconds
}

// Shift moves the clock, where the clock that it was read from was set.
func (u *Usual) Shift(by float64) {
	if u.At != 0 {
		u.At += by
	}
}
