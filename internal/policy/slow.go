package policy

import (
	"fmt"
	"time"

	yaml "go.yaml.in/yaml/v4"
)

// Slow says which answers are slow, and what becomes of a version that has more of them than stable.
type Slow struct {
	Edges    Edges    `yaml:"edges" json:"edges,omitempty"`
	Then     string   `yaml:"then" json:"then"`
	Tolerate Bound    `yaml:"tolerate" json:"tolerate"`
	WarmUp   Duration `yaml:"warm_up" json:"warm_up,omitempty"`
}

// UsualSlow is what `slow: {}` says.
func UsualSlow() Slow {
	return Slow{Then: ThenHold, Tolerate: Bound{Ratio: 1.25, Margin: 0.005}, WarmUp: Duration(time.Minute)}
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

// UnmarshalYAML reads what is said of slow answers over its defaults.
func (s *Slow) UnmarshalYAML(n *yaml.Node) error {
	type keys Slow
	*s = UsualSlow()
	return decode(n, (*keys)(s))
}

// Swift is what a version has to be proven to be below before its promotion: share of slow answers <= Ratio x stable's + Margin.
type Swift struct {
	Ratio  float64 `yaml:"ratio" json:"ratio"`
	Margin Share   `yaml:"margin" json:"margin"`
}

// UnmarshalYAML reads a bound over its defaults.
func (s *Swift) UnmarshalYAML(n *yaml.Node) error {
	type keys Swift
	*s = Swift{Ratio: 1.5, Margin: 0.01}
	return decode(n, (*keys)(s))
}

// EdgesMost is how many edges answers may be told apart by.
const EdgesMost = 4

// Edges are durations; answers that take longer are slow. None: stable's own last day says.
type Edges []Duration

// UnmarshalYAML reads `auto` or a list of durations.
func (e *Edges) UnmarshalYAML(n *yaml.Node) (err error) {
	*e, err = autoOr[Duration](n, "edges", "durations, as in [250ms, 1s]")
	return err
}

// MarshalYAML writes the edges as they are read.
func (e Edges) MarshalYAML() (any, error) { return orAuto(e), nil }

// Hang is for how long a request may be open before it counts as failed; 0: for ever.
type Hang Duration

// UnmarshalYAML reads `off` or a duration.
func (h *Hang) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Value == "off" {
		*h = 0
		return nil
	}
	var d Duration
	if err := d.UnmarshalYAML(n); err != nil {
		return fmt.Errorf("%q is neither off nor a duration: write off, or a time as in 5s", n.Value)
	}
	if d == 0 {
		return fmt.Errorf("%q: a request that has just begun hangs not yet: write off, or a time as in 5s", n.Value)
	}
	*h = Hang(d)
	return nil
}

// MarshalYAML writes it as it is read.
func (h Hang) MarshalYAML() (any, error) { return h.String(), nil }

func (h Hang) String() string {
	if h == 0 {
		return "off"
	}
	return Duration(h).String()
}

// slow checks what is said of slow answers, and of requests that stay open.
func (c *check) slow(j *Judge) {
	if h := Duration(j.Hang).Std(); h != 0 && (h < time.Second || h > 5*time.Minute) {
		c.fail("judge.hang", "hang is %s: write 1s to 5m, or off", Duration(j.Hang))
	}
	timeout := c.d.Policy.Route.Timeout
	if h := Duration(j.Hang); timeout > 0 && h >= timeout && j.Hang != Default().Judge.Hang {
		c.warn("judge.hang", "route.timeout ends requests after %s: none is ever open for %s, so this counts nothing", timeout, h)
	}
	w := j.PromoteWithin.Slow
	if w != nil && j.Slow == nil {
		c.fail("judge.promote_within.slow", "promote_within.slow needs judge.slow: write `slow: {}` there")
	}
	s := j.Slow
	if s == nil {
		return
	}
	c.oneOf("judge.slow.then", s.Then, ThenHold, ThenRollback)
	if t := s.Tolerate; !(t.Ratio >= 1 && t.Ratio <= 100) {
		c.fail("judge.slow.tolerate.ratio", "ratio must be 1 to 100")
	} else if w != nil && !(w.Ratio >= t.Ratio && w.Ratio <= 100) {
		c.fail("judge.promote_within.slow.ratio", "promote_within.slow.ratio must be at least slow.tolerate.ratio (%g) and at most 100", t.Ratio)
	}
	if w != nil && (w.Margin <= 0 || w.Margin < s.Tolerate.Margin) {
		c.fail("judge.promote_within.slow.margin", "promote_within.slow.margin must be above 0%% and at least slow.tolerate.margin (%s)", s.Tolerate.Margin)
	}
	if s.WarmUp > Duration(time.Hour) {
		c.fail("judge.slow.warm_up", "warm_up is %s: write 0s to 1h", s.WarmUp)
	}
	if len(s.Edges) > EdgesMost {
		c.fail("judge.slow.edges", "%d edges: write %d at most; each further one makes all of them slower to tell", len(s.Edges), EdgesMost)
	}
	for i, e := range s.Edges {
		at := fmt.Sprintf("judge.slow.edges[%d]", i)
		switch {
		case e < Duration(time.Millisecond) || e > Duration(time.Hour):
			c.fail(at, "%s: an edge is 1ms to 1h", e)
		case i > 0 && e <= s.Edges[i-1]:
			c.fail(at, "edges must rise: %s does not follow %s", e, s.Edges[i-1])
		case timeout > 0 && e >= timeout:
			c.warn(at, "route.timeout ends requests after %s: no answer takes longer than %s, and the edge only makes the others slower to tell", timeout, e)
		}
	}
}
