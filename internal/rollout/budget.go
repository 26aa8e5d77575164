package rollout

import (
	"fmt"
	"math"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// isWithinBudget: a total failure at the next step may cost so many requests before canaryd can react, as far as the
// evidence goes.
func (m *machine) isWithinBudget(v *Version, to int) shut {
	x, clump := v.Judge.Exposure, max(v.Judge.M, 1)
	perError := m.Rate.PerSecond() * float64(to) / policy.FullWeight * m.reaction()
	cost := x.Upper(&v.Config, clump) * perError
	if cost <= v.Config.Budget {
		return shut{}
	}
	why := ""
	if x.Upper(&v.Config, 1)*perError <= v.Config.Budget {
		why = m.inBursts(v)
	}
	return because(analysis.Budget, "waiting for more data: at %s up to %.0f requests could fail before a rollback (judge.budget: %g)%s%s", share(to), cost, v.Config.Budget, why, m.cleanFor(v, v.Config.Budget/perError))
}

// inBursts says what makes requests count for less, where that is much.
func (m *machine) inBursts(v *Version) string {
	clump := math.Ceil(v.Judge.M)
	switch {
	case v.Judge.M < 2:
		return ""
	case v.Config.Clump > 0:
		return fmt.Sprintf("; judge.clump says that errors arrive in bursts of up to %.0f, so each request counts for less", clump)
	case m.Dispersion.Errs < fewErrors:
		return fmt.Sprintf("; few errors of %s are known yet, so bursts of up to %.0f are assumed and each request counts for less (judge.clump)", m.Stable, clump)
	}
	return fmt.Sprintf("; errors of %s arrive in bursts of up to %.0f, so each request counts for less (judge.clump)", m.Stable, clump)
}

// fewErrors of stable tell little about how errors arrive: what is taken for granted weighs as much.
const fewErrors = 20

// cleanFor says how long it takes until clean requests have shown that no more than a share of them fails.
func (m *machine) cleanFor(v *Version, rate float64) string {
	own := m.Rate.PerSecond() * float64(m.Weight(v.Name)) / policy.FullWeight
	t := v.Judge.Exposure.Until(&v.Config, max(v.Judge.M, 1), own, rate)
	if math.IsInf(t, 1) || t <= 0 {
		return ""
	}
	return fmt.Sprintf("; about %s more if it stays clean", policy.Duration(max(time.Duration(t)*time.Second, time.Second)))
}
