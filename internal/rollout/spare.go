package rollout

import "github.com/canaryd/canaryd/internal/analysis"

// Spare is memory for what steps make anew, taken from states that are no more. With thousands of releases each round of reports
// makes some tens of megabytes otherwise, and all processors collect them. The zero Spare has none; a nil one never has.
type Spare struct {
	versions []*Version
	judges   []*analysis.Judge
	failures []analysis.Failures
	windows  analysis.Windows // of the state that was returned last
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

func (p *Spare) seen() (f analysis.Failures) {
	if p != nil {
		f, _ = last(&p.failures)
	}
	return f
}

// open is taken at once.
func (p *Spare) open() (w analysis.Windows) {
	if p != nil {
		w, p.windows = p.windows, w
	}
	return w
}

func taken[T any](from *[]*T) *T {
	if x, some := last(from); some {
		return x
	}
	return new(T)
}

// last takes the last one out.
func last[T any](from *[]T) (x T, some bool) {
	n := len(*from)
	if n == 0 {
		return x, false
	}
	x, *from = (*from)[n-1], (*from)[:n-1]
	return x, true
}

// Return takes the live versions of a state that a step took evidence into, their judges and what fails of them, as far as the state
// after it does not have them, and the windows of stable's errors. Nobody else may have these: what is returned is blank at once, so
// that a reader who has it all the same is seen. Versions that have ended are shared by all states since, and so are lists of theirs,
// by one that begins anew too, but for what ends with them: judges and failures.
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
		seen := v.Failures
		seen.Blank()
		*v = Version{}
		p.versions, p.failures = append(p.versions, v), append(p.failures, seen)
	}
	p.windows = before.Dispersion.Windows()
	for _, w := range p.windows {
		clear(w)
	}
}
