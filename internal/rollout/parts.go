package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// A state is stored in two parts, so that a checkpoint writes what has changed: what is decided, with all that is remembered
// of versions that have ended, and the evidence on live ones, which every report changes. A step that leaves what is decided
// as it was (KeepsDecisions) needs only its evidence stored; all others need both, in one transaction.

// learnt is the evidence of a state as it is stored.
type learnt struct {
	Learnt
	Trials []trial `json:"trials,omitempty"`
}

// trial is the evidence on a live version. Its fields are named as those of Version.
type trial struct {
	Seq        int             `json:"seq"`
	Judge      *analysis.Judge `json:"judge,omitempty"`
	EvidenceAt time.Time       `json:"evidence_at,omitzero"`
	Counts     analysis.Counts `json:"counts"`
	Beside     analysis.Counts `json:"beside,omitzero"`
	Classes    []Exercise      `json:"classes,omitempty"`
	Starts     analysis.Starts `json:"starts,omitzero"`
	Seen
	Verdict analysis.Verdict `json:"verdict"`
}

// learnt is the evidence of a state.
func (s *State) learnt() learnt {
	l := learnt{Learnt: s.Learnt}
	for _, v := range s.with(live) {
		l.Trials = append(l.Trials, trial{v.Seq, v.Judge, v.EvidenceAt, v.Counts, v.Beside, v.Classes, v.Starts, v.Seen, v.Shown()})
	}
	return l
}

// unlearnt is what is left of a state without that.
func (s State) unlearnt() State {
	s = s.fork()
	s.Learnt = Learnt{}
	for _, v := range s.with(live) {
		v.Judge, v.EvidenceAt, v.Counts, v.Beside, v.Classes = nil, time.Time{}, analysis.Counts{}, analysis.Counts{}, nil
		v.Starts, v.Seen, v.Verdict = analysis.Starts{}, Seen{}, analysis.Verdict{}
	}
	return s
}

// EncodeParts writes a state to be stored in two parts. Without decisions, these are as they were stored last.
func EncodeParts(s State, decisions bool) (decided, evidence []byte, err error) {
	if decisions {
		if decided, err = encode(partsFormat, s.unlearnt()); err != nil {
			return nil, nil, err
		}
	}
	if evidence, err = json.Marshal(s.learnt()); err != nil {
		return nil, nil, fmt.Errorf("the evidence of %s cannot be encoded: %w", s.Policy.Service, err)
	}
	return decided, evidence, nil
}

// DecodeParts reads a state that was stored in two parts, or as earlier releases stored it, in one: then there is no evidence beside it.
func DecodeParts(decided, evidence []byte) (s State, lost []string, err error) {
	return decode(decided, partsFormat, func(d *storedState) []string {
		if d.Format < partsFormat {
			return nil
		}
		return d.join(evidence)
	})
}

// join lays evidence over what is decided, and says what of it cannot be read.
func (d *storedState) join(evidence []byte) (lost []string) {
	var l struct{ Trials []json.RawMessage }
	r := &salvager{}
	if err := json.Unmarshal(evidence, &l); err != nil {
		r.lose("the evidence", err)
		return r.lost
	}
	for _, raw := range l.Trials {
		if err := d.joinTrial(raw); err != nil {
			r.lose("the evidence on a version", err)
		}
	}
	was := *d
	own(&d.Dispersion, &d.Usual, &d.Rate, &d.Book, &d.Pace, &d.Hang, &d.Placebos)
	if err := json.Unmarshal(evidence, d); err != nil {
		*d = was
		r.lose("the evidence on the service", err)
	}
	return r.lost
}

func (d *storedState) joinTrial(raw json.RawMessage) error {
	var of struct{ Seq int }
	if err := json.Unmarshal(raw, &of); err != nil {
		return err
	}
	for i := range d.Versions {
		v := d.Versions[i]
		if v.Seq != of.Seq {
			continue
		}
		own(&v.Judge, &v.Counts, &v.Lately, &v.Instances, &v.Envoys, &v.Failures, &v.Starts)
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		d.Versions[i] = v
		return nil
	}
	return fmt.Errorf("there is no version with number %d", of.Seq)
}

// own copies what is not read yet: reading writes over it in place, and where that fails what was there before stays.
func own(unread ...*json.RawMessage) {
	for _, m := range unread {
		*m = slices.Clone(*m)
	}
}

// KeepsDecisions reports whether a step with an event, which made no record and gave the Envoys nothing new, left what is decided
// as it was: then nothing but the evidence is to be stored. It may say no where nothing has changed, as for all but the events that
// come all the time.
func KeepsDecisions(e Event, before, after *State) bool {
	switch e.(type) {
	case Observed, Sampled, Tick:
		return after.decidesAs(before)
	}
	return false
}

func (s *State) decidesAs(o *State) bool {
	return s.Stable == o.Stable && s.Orphaned == o.Orphaned && s.Seq == o.Seq && shared(s.Forgotten, o.Forgotten) &&
		(s.Watch == o.Watch || s.Watch != nil && o.Watch != nil && *s.Watch == *o.Watch) &&
		s.Serving.sameAs(&o.Serving) && slices.EqualFunc(s.Versions, o.Versions, func(v, w *Version) bool { return v == w || v.decidedAs(w) })
}

func (s *Serving) sameAs(o *Serving) bool {
	return s.Generation == o.Generation && s.Content == o.Content && shared(s.Given, o.Given) && s.GivenAt.Equal(o.GivenAt) &&
		s.InForce == o.InForce && shared(s.Accepted, o.Accepted) && s.Taken == o.Taken && s.Since.Equal(o.Since) && s.Base == o.Base &&
		s.Subscribers == o.Subscribers && shared(s.Lagging, o.Lagging) && shared(s.Refused, o.Refused) && shared(s.Borne, o.Borne) &&
		s.Gone == o.Gone && s.ResumedAt.Equal(o.ResumedAt) && s.Pinning == o.Pinning && shared(s.Crowds, o.Crowds)
}

func (v *Version) decidedAs(o *Version) bool {
	return v.Name == o.Name && v.Phase == o.Phase && v.Attempt == o.Attempt && v.EndedAt.Equal(o.EndedAt) && v.Reachable == o.Reachable &&
		shared(v.Endpoints, o.Endpoints) && shared(v.Slots, o.Slots) && v.Launch.sameAs(&o.Launch) && v.Climb == o.Climb &&
		v.Sessions == o.Sessions && v.Tenure == o.Tenure && v.Trial.settledAs(&o.Trial) && (v.Phase.Live() || v.rests(o))
}

func (l *Launch) sameAs(o *Launch) bool {
	return l.Image == o.Image && shared(l.Digests, o.Digests) && l.Sealed == o.Sealed && l.Content == o.Content && l.Launching == o.Launching &&
		l.Renew == o.Renew && l.Pulled == o.Pulled && l.ImageAt.Equal(o.ImageAt) && l.LaunchedAt.Equal(o.LaunchedAt) &&
		l.Idle == o.Idle && l.Done == o.Done && l.Wanted == o.Wanted
}

// settledAs reports whether the terms of a trial are the same, whatever its evidence.
func (t *Trial) settledAs(o *Trial) bool {
	return t.Config == o.Config && t.Sorted == o.Sorted && shared(t.Told, o.Told) && t.ToldSlow == o.ToldSlow && t.Paced == o.Paced &&
		t.SlowerSince.Equal(o.SlowerSince) && t.SlowerTold == o.SlowerTold
}

// rests reports whether the evidence on a version that has ended, which is stored with what is decided, is as it was.
func (v *Version) rests(o *Version) bool {
	return v.Judge == o.Judge && v.EvidenceAt.Equal(o.EvidenceAt) && v.Counts == o.Counts && v.Beside == o.Beside && shared(v.Classes, o.Classes) &&
		v.Lately == o.Lately && v.RequestAt.Equal(o.RequestAt) && v.Hung == o.Hung && shared(v.Instances, o.Instances) && shared(v.Envoys, o.Envoys) &&
		v.Verdict.At.Equal(o.Verdict.At) && v.Verdict.Code == o.Verdict.Code && v.Verdict.Reason == o.Verdict.Reason
}

// same reports whether two lists say the same. Mostly they are one.
func same[T comparable](a, b []T) bool { return shared(a, b) || slices.Equal(a, b) }

// shared reports whether two lists are one: steps share what they do not change.
func shared[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
