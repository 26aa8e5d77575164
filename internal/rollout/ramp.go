package rollout

import (
	"time"

	"github.com/canaryd/canaryd/internal/policy"
)

const (
	minStable    = 1000 // what a step must leave to stable, of 10 000
	othersAtMost = 1000 // what a canary that is not the lead may have
	rateWait     = 10 * time.Second
	rateWaitMax  = 30 * time.Second
	rateFresh    = 30 * time.Second // a rate whose evidence is older, and three batches old, is not that of now
)

// lead is the oldest canary not past its deadline; where all of them are, the oldest.
func (s *State) lead() *Version {
	var late *Version
	for _, v := range s.Canaries() {
		if !v.Late {
			return v
		}
		if late == nil {
			late = v
		}
	}
	return late
}

// cap is the highest weight that a canary may have beside the others.
func (m *machine) cap(v *Version) int {
	lead := m.lead()
	if lead == nil || lead == v || lead.Seq >= v.Seq && !v.Late {
		return policy.FullWeight - minStable
	}
	return m.besides()
}

// besides is the most that a canary may have beside the lead.
func (m *machine) besides() int { return max(othersAtMost, m.Policy.Ramp.First()) }

// room is what the canaries may still take from stable.
func (m *machine) room() int { return m.Weight(m.Stable) - minStable }

// rated reports whether stable's traffic of now is known.
func (m *machine) rated() bool { return m.Rate.Seconds >= rateWait.Seconds() && m.rateIsFresh() }

func (m *machine) rateIsFresh() bool { return m.at.Sub(m.SeenAt) <= max(rateFresh, 3*m.Batch) }

// startWeight is the highest rung whose total failure costs no more than the budget before canaryd
// can react (STATISTICS.md 2.7), or the first of the listed steps.
func (m *machine) startWeight() int {
	first := m.Policy.Ramp.First()
	rate := m.Rate.PerSecond()
	if !m.Policy.Ramp.Auto() || rate <= 0 || !m.rateIsFresh() {
		return first
	}
	limit := min(m.Policy.Judge.Budget/(rate*m.reaction()), 0.25)
	best := first
	for _, w := range m.Policy.Ramp.Weights() {
		if float64(w)/policy.FullWeight <= limit {
			best = w
		}
	}
	return best
}

// reaction is the time in seconds from a failure to the cut: two batches and a second.
func (m *machine) reaction() float64 { return 2*max(m.Batch.Seconds(), 0.1) + 1 }

func share(w int) string { return policy.Share(float64(w) / policy.FullWeight).String() }
