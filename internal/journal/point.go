package journal

import (
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Point is how far a service has come at a moment: what plots are made of. It says what the events of the journal lead to,
// so that nobody has to take them all again to draw a day.
type Point struct {
	At       time.Time
	Stable   string
	Versions []Stand
}

// Stand is that of one version.
type Stand struct {
	Version   string
	Attempt   int
	Phase     rollout.Phase
	Weight    int             // parts of 10 000
	Counts    analysis.Counts // since its first weight
	Evidence  float64         // against it; 0: it is not judged, and so are the others
	Threshold float64
	Promotion float64 // evidence for it
	PromoteAt float64
	Paces     []Pace  // at each edge by which it is judged; none: it is not
	Classes   []Class // that it is judged by; none: all requests together
}

// PointOf is that of a state.
func PointOf(s *rollout.State) Point {
	p := Point{At: s.At, Stable: s.Stable}
	for _, v := range s.Versions {
		if !v.Reported() && s.Weight(v.Name) == 0 && !v.EndedAt.Equal(s.At) {
			continue
		}
		st := Stand{Version: v.Name, Attempt: v.Attempt, Phase: v.Phase, Weight: s.Weight(v.Name), Counts: v.Counts}
		if len(v.Classes) > 0 {
			st.Classes = classesOf(v)
		}
		switch n := v.Verdict.Numbers; {
		case v.Judge != nil:
			st.Evidence, st.Promotion, st.Threshold, st.PromoteAt = v.Judge.E(&v.Config), v.Judge.Promotion.E, 1/v.Config.Alpha, 1/v.Config.Beta
			st.Paces = pacesOf(v.Judge)
		case v.EndedAt.Equal(s.At): // by that verdict
			st.Evidence, st.Promotion, st.Threshold, st.PromoteAt = n.Evidence, n.Promotion, n.Threshold, n.PromoteAt
		}
		p.Versions = append(p.Versions, st)
	}
	return p
}

func (o *out) point(p Point) {
	o.kind(aPoint)
	o.moment(p.At)
	o.text(p.Stable)
	o.uint(uint64(len(p.Versions)))
	for _, v := range p.Versions {
		o.text(v.Version)
		o.uint(uint64(v.Attempt))
		o.text(string(v.Phase))
		o.uint(uint64(v.Weight))
		o.counts(v.Counts)
		for _, x := range []float64{v.Evidence, v.Threshold, v.Promotion, v.PromoteAt} {
			o.single(x)
		}
	}
	o.paces(p.Versions)
	o.classes(p.Versions)
}

func (i *in) point() Point {
	p := Point{At: i.moment(), Stable: i.text()}
	n := i.length()
	for range n {
		v := Stand{Version: i.text(), Attempt: int(i.uint()), Phase: rollout.Phase(i.text()), Weight: int(i.uint()), Counts: i.counts(),
			Evidence: i.single(), Threshold: i.single(), Promotion: i.single(), PromoteAt: i.single()}
		if v.Weight < 0 || v.Weight > policy.FullWeight || v.Counts.Sound() != nil {
			i.fail()
		}
		if i.err != nil {
			return Point{}
		}
		p.Versions = append(p.Versions, v)
	}
	return p
}
