package rollout

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// observed takes a tick of evidence in: first what everybody learns from it, then one decision per
// canary, cuts before anything else.
func (m *machine) observed(e Observed) {
	m.own(m.spare)
	m.Missing, m.stuck, m.lent = e.Missing, e.Stuck, e.Lent
	if e.Batch > 0 {
		m.Batch = e.Batch
	}
	m.covered = coveredBy(e.Cells)
	e.Cells = m.warmed(m.withHung(e.Cells))
	m.tally(e.Cells)
	past, present := m.beforeIts(e.Cells)
	m.learnClasses(past)
	m.learnPace(past)
	m.fixClasses()
	m.fixEdges()
	m.tallyClasses(e.Cells)
	counts := m.valid(e.Cells)
	flushed := map[string]bool{}
	for _, v := range m.with(judged) {
		m.noteFailing(v, e.Cells)
		for kind := range proxies {
			m.judgeAgainst(v, kind, e.Cells)
			if m.judge(v, kind, counts[kind], e.Cells) {
				flushed[v.Name], v.EvidenceAt, v.Held = true, m.at, false
			}
		}
		m.cutIfWorse(v)
	}
	stable := m.partsOfStable(e.Cells)
	m.watchPlacebos(stable.placebos)
	m.learnStable(e.Cells, stable.causes)
	m.learnClasses(present)
	m.learnPace(present)
	if m.Watch != nil {
		seen := m.countsOf(e.Cells, m.has)
		for kind := range proxies {
			m.watchStable(kind, seen[kind])
		}
	}
	for _, v := range m.Canaries() {
		m.decide(v, flushed[v.Name])
		m.noteSlower(v)
	}
	for _, v := range m.with(judged) {
		if !v.Verdict.At.Equal(m.at) { // nothing was found of it, and its judge has gone on
			m.bind(v)
		}
	}
}

// tally counts for people, and measures the traffic; every cell counts.
func (m *machine) tally(cells []Cell) {
	if len(cells) > 0 && !m.rateIsFresh() {
		m.Rate = Rate{}
	}
	longest, sum := 0.0, 0.0
	for _, c := range cells {
		longest = max(longest, c.To.Sub(c.From).Seconds())
		for name, n := range ByName(c.Counts) { // the sum of fractions depends on their order
			sum += n.Requests
			v := m.Version(name)
			if v == nil || v.FirstWeight.IsZero() && m.Weight(name) == 0 {
				continue
			}
			v.Counts = v.Counts.Add(n)
			if v.Phase.Waiting() {
				v.Beside = v.Beside.Add(c.Counts[m.Stable])
			}
			if n.Requests > 0 && c.To.After(v.RequestAt) {
				v.RequestAt = c.To
			}
		}
		if c.To.After(m.SeenAt) {
			m.SeenAt = c.To
		}
	}
	m.Rate.add(sum, longest)
	m.tallyLately(cells, longest)
}

// aboutNone is what is left of one request after seven seconds.
const aboutNone = 0.5

// tallyLately measures who gets how much of the requests at present, and which of a canary's endpoints, and which
// Envoys, its errors come from.
func (m *machine) tallyLately(cells []Cell, seconds float64) {
	kept := math.Exp(-seconds / rateMemory)
	for _, v := range m.with(live) {
		v.Lately *= kept
		v.forgetInstances(seconds)
		var instances []analysis.Slice
		several := v.is(counted) && len(v.Endpoints) > 1 || v.byName()
		for _, c := range cells {
			v.Lately += c.Counts[v.Name].Requests
			if several {
				instances = append(instances, c.Endpoints[v.Name]...)
			}
		}
		if len(instances) > 0 { // at once: of a thousand Envoys each may know a few of a thousand endpoints
			v.Instances = analysis.Join(v.Instances, instances)
		}
		if v.is(counted) {
			v.tallyEnvoys(cells)
		}
	}
	m.tallyFailures(cells, seconds)
}

// shownFor is how long what was counted last is shown as what is: services at rest are looked at every 30 s.
const shownFor = time.Minute

// reported tells whether somebody has counted requests lately.
func (s *State) reported() bool { return s.At.Sub(s.SeenAt) <= max(shownFor, 3*s.Batch) }

// RequestsPerSecond are those of the last ten seconds or so; 0 where nobody has reported for a while.
func (s *State) RequestsPerSecond() float64 {
	if !s.reported() {
		return 0
	}
	return s.Rate.PerSecond()
}

// RequestShare is a version's part of the requests of the last ten seconds or so. With sessions it
// lags behind the weight, which is the part of new sessions. It is 0 of one that gets nothing, however much it got a
// moment ago, and where nobody has reported for a while.
func (s *State) RequestShare(name string) float64 {
	if v := s.Version(name); v == nil || !s.reported() || v.Lately < aboutNone || s.getsNothing(v) {
		return 0
	}
	sum, own := 0.0, 0.0
	for i := range s.Versions {
		if !s.Versions[i].Phase.Live() {
			continue
		}
		sum += s.Versions[i].Lately
		if s.Versions[i].Name == name {
			own = s.Versions[i].Lately
		}
	}
	if sum <= 0 {
		return 0
	}
	return own / sum
}

// getsNothing reports a version that no Envoy sends anybody to, by what is in force.
func (s *State) getsNothing(v *Version) bool {
	honoured := s.Policy.Sessions != nil && v.is(pinned)
	return s.Weight(v.Name) == 0 && s.InForceAt(v.Name) && !honoured
}

// full reports whether a cell lies wholly within the time in which the present table was in force, and its
// proxy had it. Where the source knows of no proxy what it serves, that is taken for granted.
func (m *machine) full(c Cell) bool {
	if !m.since(c) || c.Unknown {
		return false
	}
	return c.Has == nil || slices.Equal(c.Has, m.Accepted) && !c.From.Before(c.HasSince)
}

// since reports whether a cell lies within the time in which the present table was in force, and its proxy does not lag.
func (m *machine) since(c Cell) bool {
	return !m.Since.IsZero() && !c.From.Before(m.Since) && !slices.Contains(m.Lagging, c.Slice)
}

// has reports whether a cell's proxy had the present table all the time, whatever the others have, or may have had it: for
// going back that is enough.
func (m *machine) has(c Cell) bool {
	return m.full(c) || c.Unknown && m.since(c) || c.Has != nil && slices.Equal(c.Has, m.Given) && !c.From.Before(c.HasSince)
}

// valid sums the cells that count for everything: a step up and a promotion rest on them.
func (m *machine) valid(cells []Cell) [proxies]map[string]analysis.Counts {
	return m.countsOf(cells, m.full)
}

// countsOf sums some cells by the kind of their proxies. What it returns is not written to: it may be a cell's own.
func (m *machine) countsOf(cells []Cell, which func(Cell) bool) (counts [proxies]map[string]analysis.Counts) {
	var summed [proxies]bool
	for _, c := range cells {
		sum := &counts[c.Proxy]
		switch {
		case !which(c):
			continue
		case *sum == nil && c.Counts != nil:
			*sum = c.Counts
			continue
		case *sum == nil:
			*sum = map[string]analysis.Counts{}
		case !summed[c.Proxy]:
			*sum = maps.Clone(*sum)
		}
		summed[c.Proxy] = true
		for name, n := range c.Counts {
			(*sum)[name] = (*sum)[name].Add(n)
		}
	}
	return counts
}

// against reports whether a cell that does not count for everything may at least speak against a canary:
//   - its proxy serves a table that names the canary, whatever the others have (one that lags, or is ahead);
//   - the canary's start from weight 0: all its requests in a straddling cell came after the start; stable's
//     part is longer, which is harmless for a rate, and one batch cannot cut;
//   - a weight that is long on its way, because an Envoy or the disk is slow;
//   - its proxy may have the present table, though nobody knows, and there was no earlier attempt.
func (m *machine) against(v *Version, c Cell) bool {
	onItsWay := v.WeightSince.IsZero()
	switch {
	case v.Attempt > 1 && !c.HasSince.IsZero() && c.HasSince.Before(v.AnnouncedAt):
		return false // what it serves under that name is an earlier attempt
	case !onItsWay && m.full(c):
		return false
	case slotsOf(c.Has, v.Name) > 0 && !c.From.Before(c.HasSince):
		return true
	case onItsWay:
		return !c.From.Before(m.GivenAt)
	case c.Unknown && v.Attempt <= 1 && m.since(c):
		return true
	}
	return v.FromZero && c.From.Before(v.WeightSince) && c.To.After(v.WeightSince)
}

// judgeAgainst uses the cells that the full judgement may not.
func (m *machine) judgeAgainst(v *Version, kind Proxy, cells []Cell) {
	var b analysis.Batch
	for _, c := range cells {
		if c.Proxy == kind && m.against(v, c) {
			b.Canary, b.Stable = b.Canary.Add(c.Counts[v.Name]), b.Stable.Add(c.Counts[m.Stable])
		}
	}
	if b.Canary.Requests >= 1 && b.Stable.Requests >= 1 {
		v.EvidenceAt, v.Held = m.at, false
	}
	if b == (analysis.Batch{}) && !v.byClass() && !v.bySpeed() {
		return // as nearly always: there is nothing that the judge would look at
	}
	base := m.baseline(v, kind)
	against := func(c Cell) bool { return m.against(v, c) }
	var classes batches
	if v.byClass() {
		base.Classes = classes[:len(v.Classes)]
		m.classify(v, &base, cells, against)
	}
	if v.bySpeed() {
		m.pace(v, &base, cells, against)
	}
	v.Judge.Against(&v.Config, b, base, v.seconds(m.at))
}

// baseline is what a judgement has to know beyond the batch. Who reports more slowly than the others makes it long.
func (m *machine) baseline(v *Version, kind Proxy) analysis.Baseline {
	b := analysis.Baseline{M: m.clumpBound(v), Usual: m.Usual.Rate(), Kind: int(kind)}
	if c := m.covered[kind]; c.longest > 0 {
		b.Batch, b.Begun, b.Ended = c.longest.Seconds(), m.at.Sub(c.from).Seconds(), m.at.Sub(c.to).Seconds()
	}
	return b
}

// cover is when the cells of one kind of proxies begin, when the last one of all ends, and how long the longest is.
type cover struct {
	from, to time.Time
	longest  time.Duration
}

func coveredBy(cells []Cell) (covered [proxies]cover) {
	var to time.Time
	for _, c := range cells {
		of := &covered[c.Proxy]
		if of.longest == 0 || c.From.Before(of.from) {
			of.from = c.From
		}
		to, of.longest = latest(to, c.To), max(of.longest, c.To.Sub(c.From))
	}
	for kind := range covered {
		covered[kind].to = to
	}
	return covered
}

// noteFailing remembers which of a canary's endpoints fail more than stable does: a hiccup has only one.
func (m *machine) noteFailing(v *Version, cells []Cell) {
	var all []analysis.Slice
	longest, errors := 0.0, 0.0
	for _, c := range cells {
		all, errors = append(all, c.Endpoints[v.Name]...), errors+c.Counts[v.Name].Errors
		longest = max(longest, c.To.Sub(c.From).Seconds())
	}
	v.Judge.Together = m.Dispersion.Together()
	if errors <= 0 {
		return
	}
	now := v.seconds(m.at)
	usual := max(m.Usual.Rate(), v.Judge.Recent.Sum(now).Stable.Rate())
	v.Judge.Fails(&v.Config, now, longest, analysis.Join(nil, all), usual, max(m.clumpBound(v), 1))
}

// learnStable remembers how stable's errors usually come.
func (m *machine) learnStable(cells []Cell, causes []analysis.Slice) {
	if len(cells) == 0 || m.Stable == "" {
		return
	}
	now := float64(m.at.UnixMilli()) / 1000
	var sum analysis.Counts
	for _, c := range cells {
		sum = sum.Add(c.Counts[m.Stable])
	}
	m.Dispersion.Add(now, causes, m.Usual.Rate())
	incident := slices.ContainsFunc(m.Canaries(), func(v *Version) bool { return v.Judge.Incident(v.seconds(m.at)) })
	if !incident {
		m.Usual.Add(now, sum)
	}
}

// watchPlacebos judges a slice of stable beside every canary, for canaryd's own metrics only.
func (m *machine) watchPlacebos(slices []analysis.Slice) {
	for _, v := range m.Canaries() {
		if v.Judge == nil || v.FirstWeight.IsZero() {
			continue
		}
		began, alarm := v.Judge.Placebo.Observe(&v.Config, slices, v.pick(), m.clumpBound(v), v.seconds(m.at))
		if began {
			m.Placebos.Begun++
		}
		if alarm {
			m.Placebos.Alarms++
		}
	}
}

// pick chooses a placebo: another one for every attempt.
func (v *Version) pick() uint64 {
	pick := fnv.New64a()
	_, _ = pick.Write(strconv.AppendInt(append([]byte(v.Name), '/'), int64(v.Attempt), 10)) // a hash never fails
	return pick.Sum64()
}

// seconds is the judge's clock: since the version first got traffic.
func (v *Version) seconds(at time.Time) float64 {
	if v.FirstWeight.IsZero() {
		return 0
	}
	return at.Sub(v.FirstWeight).Seconds()
}

func (m *machine) judge(v *Version, kind Proxy, counts map[string]analysis.Counts, cells []Cell) bool {
	if v.WeightSince.IsZero() || v.Judge == nil || counts == nil {
		return false
	}
	base := m.baseline(v, kind)
	var classes batches
	if v.byClass() {
		base.Classes = classes[:len(v.Classes)]
		m.classify(v, &base, cells, m.full)
	}
	if v.bySpeed() {
		m.pace(v, &base, cells, m.full)
	}
	if stable := m.Weight(m.Stable); stable > 0 && m.sharesRequests() && !m.lent && m.at.Sub(v.WeightSince) >= 30*time.Second {
		base.Share = float64(m.Weight(v.Name)) / float64(stable)
	}
	return v.Judge.Observe(&v.Config, analysis.Batch{Canary: counts[v.Name], Stable: counts[m.Stable]}, base, v.seconds(m.at))
}

// sharesRequests reports whether a weight is a share of requests: with sessions, or users who keep their version, one
// of a few may send most of them.
func (m *machine) sharesRequests() bool {
	return m.Policy.Sessions == nil && m.Policy.Ramp.Per != policy.PerUser
}

// cutIfWorse depends on nothing but the evidence.
func (m *machine) cutIfWorse(v *Version) {
	cut, ceiling := v.Judge.Worse(&v.Config)
	if !cut {
		return
	}
	recent := v.Judge.Recent.Sum(v.seconds(m.at))
	c, b := recent.Canary, recent.Stable
	if ceiling {
		m.fail(v, analysis.CeilingPassed, "error rate %s is above max_error_rate %s (%.0f of the last %.0f requests failed)%s",
			percent(c.Rate()), policy.Share(v.Config.Ceiling), c.Errors, c.Requests, m.saysHung(v)+m.blame(v))
		return
	}
	if v.Judge.BlamesSlow(&v.Config) {
		m.fail(v, analysis.Slower, "slower than stable: %s: evidence %.3g reached %.0f (judge.slow.then: rollback)", v.slowness(), v.Judge.E(&v.Config), 1/v.Config.Alpha)
		return
	}
	if i := v.Judge.Blame(&v.Config); i >= 0 && i < len(v.Classes) {
		k := v.Classes[i]
		m.fail(v, analysis.Worse, "class %s: %.0f of %.0f failed; stable: %.0f of %.0f: evidence %.3g reached %.0f%s",
			k.Name, k.Canary.Errors, k.Canary.Requests, k.Stable.Errors, k.Stable.Requests, v.Judge.E(&v.Config), 1/v.Config.Alpha, m.saysHung(v)+m.blame(v))
		return
	}
	m.fail(v, analysis.Worse, "error rate %s (%.0f of the last %.0f) against stable's %s (%.0f of %.0f): evidence %.3g reached %.0f%s",
		percent(c.Rate()), c.Errors, c.Requests, percent(b.Rate()), b.Errors, b.Requests, v.Judge.E(&v.Config), 1/v.Config.Alpha, m.saysHung(v)+m.blame(v))
}

func percent(r float64) string { return policy.Share(float64(int(r*1e6+0.5)) / 1e6).String() }

// decide writes the verdict on one canary and, on fresh evidence, moves it. The order is that of
// STATISTICS.md 2.8; the cut came before.
func (m *machine) decide(v *Version, fresh bool) {
	switch {
	case !v.is(ramped):
	case v.paused() && m.Weight(v.Name) == 0:
		m.verdict(v, analysis.Wait, analysis.Paused, "%s", m.frozen(v))
	case m.deadline(v), m.noEvidence(v), m.starved(v), !m.passes(v, m.Policy.Ramp.Next(m.Weight(v.Name)), m.always()):
	case fresh && v.Judge.Fresh > 0:
		m.advance(v)
	case m.quiet(v, m.at):
		m.verdict(v, analysis.Wait, analysis.NoTraffic, "no requests to judge since %s", v.lastEvidence().UTC().Format(time.TimeOnly))
	}
}

func (m *machine) whyNotInForce() string {
	switch {
	case m.Subscribers > 0:
	case m.Gone == 1:
		return fmt.Sprintf("the Envoy that had the service's route is gone, and no other asks for it (`canaryd envoys %s` names it)", m.Policy.Service)
	case m.Gone > 1:
		return fmt.Sprintf("all %d Envoys that had the service's route are gone, and no other asks for it (`canaryd envoys %s` names them)", m.Gone, m.Policy.Service)
	default:
		return "no Envoy asks for the service's route (`canaryd envoys` lists all that are known)"
	}
	if i := slices.IndexFunc(m.Borne, m.holdsNothingUp); i >= 0 {
		return fmt.Sprintf("Envoy %s refuses it, and no other accepts it: %s", m.Borne[i].Node, m.Borne[i].Message)
	}
	return "waiting for the Envoys to accept it"
}

func (v *Version) lastEvidence() time.Time { return latest(v.EvidenceAt, v.FirstWeight) }

// quiet reports that nothing was judged for three batches or a minute.
func (s *State) quiet(v *Version, at time.Time) bool {
	return at.Sub(latest(v.lastEvidence(), v.WeightSince)) >= max(3*s.Batch, time.Minute)
}

// misses reports a canary that is undecided at its deadline; one that was told so has none.
func (s *State) misses(v *Version, at time.Time) bool {
	return !v.Late && v.elapsed(at) >= s.Policy.Judge.Deadline.After.Std()
}

// deadline handles a canary undecided for too long; true when it was cut.
func (m *machine) deadline(v *Version) bool {
	d := m.Policy.Judge.Deadline
	if !m.misses(v, m.at) {
		return false
	}
	if d.Then == policy.ThenRollback {
		m.fail(v, analysis.DeadlinePassed, "no decision after %s (judge.deadline)", d.After)
		return true
	}
	v.Late = true
	if top := m.besides(); m.Weight(v.Name) > top {
		m.lower(v, top)
	}
	m.verdict(v, analysis.Wait, analysis.DeadlinePassed, "no decision after %s (judge.deadline): held; it is still judged, and can be promoted by hand", d.After)
	m.record(v, KindHeld, System, "%s", v.Verdict.Reason)
	return true
}

// starved handles a canary that completes nothing although it has a weight. While there is no evidence that is not
// known.
func (m *machine) starved(v *Version) bool {
	d := v.Judge.Starved(v.seconds(m.at))
	if d == 0 || m.Missing != nil {
		return false
	}
	if d < 60 || v.paused() {
		m.verdict(v, analysis.Wait, analysis.Starved, "it completes less than a tenth of the requests that its weight implies")
		return true
	}
	if m.Policy.Judge.NoEvidence.Then == policy.ThenRollback {
		m.fail(v, analysis.Starved, "for a minute it completed less than a tenth of the requests that its weight implies")
		return true
	}
	if first := m.Policy.Ramp.First(); m.Weight(v.Name) > first {
		m.lower(v, first)
		m.verdict(v, analysis.Wait, analysis.Starved, "for a minute it completed less than a tenth of the requests that its weight implies: back to the first step")
		m.record(v, KindSteppedBack, System, "%s", v.Verdict.Reason)
	}
	return true
}

// hearsNothing reports a canary that was not told yet that there is no evidence for too long.
func (s *State) hearsNothing(v *Version, at time.Time) bool {
	return !v.FirstWeight.IsZero() && !v.Held && !v.paused() && at.Sub(v.lastEvidence()) >= s.Policy.Judge.NoEvidence.For.Std()
}

// noEvidence handles a canary about which nothing is learnt; true when it was cut.
func (m *machine) noEvidence(v *Version) bool {
	n := m.Policy.Judge.NoEvidence
	if !m.hearsNothing(v, m.at) {
		return false
	}
	code, why := analysis.NoTraffic, "no requests to judge"
	if m.Missing != nil {
		code, why = m.Missing.Code, m.Missing.Reason
	}
	if n.Then == policy.ThenRollback {
		m.fail(v, code, "no evidence for %s (judge.no_evidence): %s", n.For, why)
		return true
	}
	v.Held = true
	m.verdict(v, analysis.Wait, code, "no evidence for %s (judge.no_evidence): %s", n.For, why)
	m.record(v, KindHeld, System, "%s", v.Verdict.Reason)
	return false
}
