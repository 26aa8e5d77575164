package policy

// Slow says which answers are slow, and what becomes of a version that has more of them than stable.
type Slow struct {
	Edges    []Duration `yaml:"edges" json:"edges,omitempty"` // answers that take longer are slow; none: stable's own last day says
	Then     string     `yaml:"then" json:"then"`
	Tolerate Bound      `yaml:"tolerate" json:"tolerate"`
	WarmUp   Duration   `yaml:"warm_up" json:"warm_up"`
}

// Seconds are the edges that are written.
func (s *Slow) Seconds() (edges []float64) {
	if s != nil {
		for _, e := range s.Edges {
			edges = append(edges, e.Std().Seconds())
		}
	}
	return edges
}
