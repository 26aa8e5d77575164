package analysis

import "math"

// Usual is stable's error rate outside incidents, with a half-life of 24 hours.
type Usual struct {
	Counts
	At float64 `json:"at"`
}

// Add takes in stable's counts at a moment in seconds.
func (u *Usual) Add(now float64, c Counts) {
	if u.At > 0 && now > u.At {
		keep := math.Exp2(-(now - u.At) / halfLife)
		u.Requests, u.Errors = u.Requests*keep, u.Errors*keep
	}
	u.At = max(u.At, now)
	u.Counts = u.Counts.Add(c)
}

// Shift moves the clock, where the clock that it was read from was set.
func (u *Usual) Shift(by float64) {
	if u.At != 0 {
		u.At += by
	}
}
