package rollout

import "github.com/canaryd/canaryd/internal/analysis"

// Spare is memory for what steps make anew, taken from states that are no more. With thousands of releases each round of reports
// makes some tens of megabytes otherwise, and all processors collect them. The zero Spare has none; a nil one never has.
type Spare struct {
	versions []*Version
	judges   []*analysis.Judge
}

func (p *Spare) version() *Version {
	if p == nil {
		return new(Version)
	}
	return taken(&p.versions)
}

func (p *Spare) judge() *analysis.Judge {
	if p == nil {
		return new(analysis.Judge)
	}
	return taken(&p.judges)
}

func taken[T any](from *[]*T) *T {
	n := len(*from)
	if n == 0 {
		return new(T)
	}
	x := (*from)[n-1]
	*from = (*from)[:n-1]
	return x
}

// Return takes the live versions of a state that a step took evidence into, and their judges, as far as the state after it does
// not have them. Nobody else may have these: what is returned is blank at once, so that a reader who has it all the same is seen.
// Versions that have ended are shared by all states since.
func (p *Spare) Return(before, after *State) {
	if len(before.Versions) != len(after.Versions) {
		return // nothing ends or begins by most
	}
	for i, v := range before.Versions {
		now := after.Versions[i]
		if v == now || v.Seq != now.Seq || !v.Phase.Live() {
			continue
		}
		if j := v.Judge; j != nil && j != now.Judge {
			*j = analysis.Judge{}
			p.judges = append(p.judges, j)
		}
		*v = Version{}
		p.versions = append(p.versions, v)
	}
}
