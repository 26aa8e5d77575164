package analysis

// placeboLevel is the evidence at which a placebo counts as an alarm: under the assumptions at most
// 1 in 20 placebos ever reaches it (Ville).
const placeboLevel = 20.0

// Placebo judges one slice of the stable version against the others, as if it were a canary. It decides
// nothing. How often it reaches E = 20 is the one honest check in production of the clump bound
// and of the assumption that requests are alike. (STATISTICS.md 7, 13)
type Placebo struct {
	Slice string  `json:"slice,omitempty"`
	Since float64 `json:"since,omitempty"` // seconds of the first batch
	Capital
}

// Observe takes in stable's counts by slice. The slice is picked when there first are two or more, by
// pick modulo their number. It reports whether the placebo began, and whether it has just become an alarm.
func (p *Placebo) Observe(cfg *Config, slices []Slice, pick uint64, m, now float64) (began, alarm bool) {
	if p.Slice == "" {
		if len(slices) < 2 {
			return false, false
		}
		p.Slice, p.Since, p.Capital = slices[pick%uint64(len(slices))].Name, now, NewCapital(DefaultRestarts().Start)
		began = true
	}
	var b Batch
	for _, s := range slices {
		if s.Name == p.Slice {
			b.Canary = b.Canary.Add(s.Counts)
		} else {
			b.Stable = b.Stable.Add(s.Counts)
		}
	}
	before := p.MaxE
	p.Relative(cfg, b, m, now-p.Since, false)
	return began, before < placeboLevel && p.MaxE >= placeboLevel
}
