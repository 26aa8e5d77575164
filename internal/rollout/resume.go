package rollout

import "time"

// Resume prepares a stored state after a restart: nothing is in force until an Envoy says so, and the
// time in which nobody looked is no silence of the canary's.
func Resume(s State, at time.Time) State {
	s = s.clone()
	s.InForce, s.Subscribers, s.Lagging = false, 0, nil
	s.Missing = nil
	for _, v := range s.Canaries() {
		if v.PausedAt.IsZero() && !v.FirstWeight.IsZero() {
			v.EvidenceAt = at
		}
	}
	return s
}
