package rollout

import (
	"fmt"

	"github.com/canaryd/canaryd/internal/analysis"
)

func (m *machine) commanded(e Commanded) error {
	v := m.Version(e.Version)
	if v == nil {
		return unknown(m.State, e.Version)
	}
	if e.Tested && !v.onTrial() {
		return &Refusal{Tested: true, Message: fmt.Sprintf("version %s is %s, and not under test: %s of it takes the role operate", v.Name, v.standing(), e.Verb)}
	}
	switch e.Verb {
	case "promote":
		return m.promoteByHand(v, e)
	case "abort":
		return m.abort(v, e)
	case "pause":
		return m.pause(v, e)
	case "resume":
		return m.resume(v, e)
	}
	return refuse("no command %q: promote, abort, pause or resume", e.Verb)
}

func (m *machine) wrongPhase(v *Version, verb, possible string) error {
	return refuse("version %s is %s: %s is possible for %s versions", v.Name, v.Phase, verb, possible)
}

func (m *machine) promoteByHand(v *Version, e Commanded) error {
	if v.Name == m.Stable {
		return refuse("version %s is stable already", v.Name)
	}
	if v.is(cut) && !e.Knowing {
		return refuse("version %s is %s: %s; promote it all the same with --even-failed", v.Name, v.Phase, v.Verdict.Reason)
	}
	if o := m.sameInStatistics(v.Name); o != nil && !v.Phase.Live() {
		return refuse("version %s and version %s have the same name in Envoy's statistics (dots become underscores): end %s first", v.Name, o.Name, o.Name)
	}
	if v.Image != "" && m.Policy.Docker != nil && (len(v.Endpoints) == 0 || !v.Phase.Live() && !v.mayIdle()) { // not there, or on its way out
		m.revive(v, e.By)
		return nil
	}
	if len(v.Endpoints) == 0 {
		return refuse("version %s runs nowhere, and the policy of %s has no `docker:` to start %s with: announce where it runs", v.Name, m.Policy.Service, v.Image)
	}
	if !e.Reachable {
		return refuse("version %s: none of its endpoints answers: start it, or announce where it runs", v.Name)
	}
	m.verdict(v, analysis.Pass, analysis.ByHand, "promoted by hand")
	m.promote(v, e.By, "promoted by hand")
	return nil
}

func (m *machine) abort(v *Version, e Commanded) error {
	switch {
	case v.Phase.Waiting():
		m.aborts(v, e.By, "aborted by hand")
		return nil
	case v.Name == m.Stable:
		return m.abortStable(v, e.By)
	case v.is(reserve): // an Envoy may still send users to it: always where a promotion is not stored
		m.aborts(v, e.By, "aborted by hand: its sessions end, and nothing goes back to it")
		return nil
	}
	return m.wrongPhase(v, "abort", "queued, warming, canary, paused, stable, warm or draining")
}

// abortStable sends everything to the newest trusted version that answers; else to the newest that can be started,
// when that answers.
func (m *machine) abortStable(v *Version, by string) error {
	if back := m.wayBack(); back != nil {
		m.ends(v, fate{Aborted, analysis.Fail, analysis.Aborted, KindAborted, by, back}, "stable aborted by hand: everything goes back to %s", back.Name)
		return nil
	}
	if back := m.revivable(); back != nil {
		m.revive(m.Version(back.Name), by)
		return nil
	}
	return refuse("version %s is stable, and no trusted version answers to take its place%s", v.Name, m.couldBe(v))
}

func (m *machine) pause(v *Version, e Commanded) error {
	if v.paused() {
		return nil
	}
	if !v.is(counted) {
		return m.wrongPhase(v, "pause", "warming or canary")
	}
	v.PausedAt = m.at
	m.freeze(v)
	m.record(v, KindPaused, e.By, "%s", v.Verdict.Reason)
	return nil
}

func (m *machine) resume(v *Version, e Commanded) error {
	if m.Nack() != nil {
		m.forgive()
	} else if !v.paused() && v.Refused == "" {
		return m.wrongPhase(v, "resume", "paused")
	}
	if v.Refused = ""; v.paused() {
		m.unpause(v)
	}
	if v.is(open) {
		m.verdict(v, analysis.Wait, analysis.ByHand, "resumed by hand")
	}
	m.record(v, KindResumed, e.By, "resumed by hand")
	return nil
}

// unpause ends a pause. The clocks, which begin with the first weight, stood still since then at most;
// evidence may have come meanwhile. One that waits for its turn, or for an answer, goes on with that.
func (m *machine) unpause(v *Version) {
	if from := latest(v.PausedAt, v.FirstWeight); !v.FirstWeight.IsZero() {
		v.PausedFor += m.at.Sub(from)
		if v.EvidenceAt = v.lastEvidence(); v.EvidenceAt.Before(from) {
			v.EvidenceAt = v.EvidenceAt.Add(m.at.Sub(from))
		} else {
			v.EvidenceAt = m.at
		}
	}
	v.PausedAt = at0
	switch {
	case v.is(inLine):
	case m.Weight(v.Name) > 0:
		v.Phase = Canary
	default:
		v.Phase, v.WarmingFrom = Warming, m.at
	}
}

// paused reports whether a person froze the version's weight. It is so in every phase until a person ends it: one that
// does not answer meanwhile, or lost its place, takes nothing when its turn comes again.
func (v *Version) paused() bool { return v.is(open) && !v.PausedAt.IsZero() }

// freeze keeps a paused version where it is.
func (m *machine) freeze(v *Version) {
	v.Phase = Paused
	m.verdict(v, analysis.Wait, analysis.Paused, "%s", m.frozen(v))
}

// frozen says of a paused version what helps.
func (m *machine) frozen(v *Version) string {
	return fmt.Sprintf("paused by hand at %s; it is still rolled back if it proves worse; `canaryd resume %s %s` continues", share(m.Weight(v.Name)), m.Policy.Service, v.Name)
}
