package world

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Script leads a service through the very state machine, in a time of its own and without chance: what is asked for and
// what goes wrong is told, what the one Envoy counts follows from rates.
type Script struct {
	State   rollout.State
	Records []rollout.Record
	Rate    float64            // requests/s of the service
	Errors  map[string]float64 // of each version, as a fraction; others have none
	Silent  bool               // no evidence comes
	Refuses string             // why the Envoy takes no other table; empty: it takes all
	Ended   func() error       // why the story ends early; nil: it goes on

	at, begin time.Time // begin: of the story
	down      map[string]bool
	owed      map[string]analysis.Counts // parts of requests and errors that are not counted yet
}

// scriptBatch is how often evidence comes.
const scriptBatch = time.Second

// NewScript begins with the versions of the policy, or with a stable one of that name, and some time in which it was alone.
func NewScript(p policy.Policy, past time.Duration, rate float64, errors map[string]float64) (*Script, error) {
	s := &Script{Rate: rate, Errors: maps.Clone(errors), at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), down: map[string]bool{}, owed: map[string]analysis.Counts{}, Ended: func() error { return nil }}
	if len(p.Versions) == 0 {
		p.Versions = []policy.Seed{{Version: "stable", Endpoints: []string{"10.0.0.1:80"}, Stable: true}}
	}
	if err := s.tell(rollout.PolicyChanged{At: s.at, Policy: p, By: "test"}); err != nil {
		return nil, err
	}
	for range int(past / pastBatch) {
		s.serve(pastBatch)
	}
	s.begin, s.Records = s.at, nil
	return s, nil
}

// At is how long the story has gone on for.
func (s *Script) At() time.Duration { return s.at.Sub(s.begin) }

// Until lets time go by until so long after the beginning, or until somebody has enough of it.
func (s *Script) Until(at time.Duration) {
	for s.At() < at && s.Ended() == nil {
		s.serve(min(scriptBatch, at-s.At()))
	}
}

// Announce says that a version exists; again: though it was cut before.
func (s *Script) Announce(version string, again bool) error {
	e := rollout.Announced{At: s.at, Version: version, Again: again, By: "ci"}
	if s.State.Policy.Docker != nil {
		e.Image = s.State.Policy.Docker.Reference(version)
	} else {
		e.Endpoints = []string{fmt.Sprintf("10.0.%d.%d:80", len(s.State.Versions)/250+1, len(s.State.Versions)%250+1)}
	}
	return s.tell(e)
}

// Command is a person's word.
func (s *Script) Command(verb, version string, knowing bool) error {
	return s.tell(rollout.Commanded{At: s.at, Verb: verb, Version: version, Reachable: !s.down[version], Knowing: knowing, By: "ann"})
}

// Answer says whether a version's endpoints answer.
func (s *Script) Answer(version string, up bool) error {
	s.down[version] = !up
	return s.tell(rollout.Probed{At: s.at, Version: version, Up: up})
}

// Accepts has the Envoy take everything again.
func (s *Script) Accepts() error {
	s.Refuses = ""
	return s.tell(rollout.Tick{At: s.at})
}

// tell takes an event in, and what the Envoy, the prober and Docker have to say to it.
func (s *Script) tell(e rollout.Event) error {
	if err := s.take(e); err != nil {
		return err
	}
	for range 100 { // each answer leads to few others
		more := s.answer()
		if more == nil {
			return nil
		}
		if err := s.take(more); err != nil {
			return err
		}
	}
	return nil
}

// answer is what is said next; nil: all is said.
func (s *Script) answer() rollout.Event {
	if !s.State.InForce && s.Refuses == "" {
		s.at = s.at.Add(time.Millisecond)
		return rollout.Applied{At: s.at, Generation: s.State.Generation, InForce: true, Subscribers: 1}
	}
	if !s.State.InForce && s.State.Nack() == nil {
		return rollout.Rejected{At: s.at, Generation: s.State.Generation, Node: "envoy", Message: s.Refuses}
	}
	for i, v := range s.State.Versions {
		switch {
		case (len(v.Endpoints) == 0 || v.Idle) && s.starts(v.Name):
			return rollout.Launched{At: s.at, Version: v.Name, Attempt: v.Attempt, Image: true, Endpoints: []string{fmt.Sprintf("10.1.0.%d:80", i+1)}}
		case v.Probed() && v.Reachable == s.down[v.Name]:
			return rollout.Probed{At: s.at, Version: v.Name, Up: !s.down[v.Name]}
		}
	}
	return nil
}

// starts reports whether containers of a version are wanted.
func (s *Script) starts(version string) bool {
	return slices.ContainsFunc(s.State.Containers(), func(c rollout.Container) bool { return c.Version == version && c.Goal == rollout.Start })
}

func (s *Script) take(e rollout.Event) error {
	next, records, err := rollout.Step(s.State, e)
	if err != nil {
		return err
	}
	s.State, s.Records = next, append(s.Records, records...)
	return nil
}

// serve lets some time go by, and tells what was counted in it.
func (s *Script) serve(d time.Duration) {
	from := s.at
	s.at = s.at.Add(d)
	e := rollout.Observed{At: s.at, Batch: scriptBatch}
	if s.Silent {
		e.Missing = &rollout.Missing{Code: analysis.SourceUnreachable, Reason: "no evidence comes"}
	} else {
		e.Cells = []rollout.Cell{{Slice: "envoy", From: from, To: s.at, Counts: s.counted(d)}}
	}
	for _, e := range []rollout.Event{rollout.Tick{At: s.at}, e} {
		_ = s.tell(e) // time and evidence are never refused
	}
}

// counted are the requests and errors of an interval, whole ones: what is left is counted later.
func (s *Script) counted(d time.Duration) map[string]analysis.Counts {
	counts := map[string]analysis.Counts{}
	for _, r := range s.served() {
		o := s.owed[r.Version]
		requests := o.Requests + s.Rate*d.Seconds()*float64(r.Count)/policy.FullWeight
		n := math.Floor(requests + 1e-9)
		errors := o.Errors + n*s.Errors[r.Version]
		x := math.Min(n, math.Floor(errors+1e-9))
		s.owed[r.Version] = analysis.Counts{Requests: requests - n, Errors: errors - x}
		counts[r.Version] = analysis.Counts{Requests: n, Errors: x}
	}
	return counts
}

// served is what the Envoy gives to whom.
func (s *Script) served() []rollout.Run {
	sums := map[string]int{}
	for _, r := range s.State.Accepted {
		sums[r.Version] += r.Count
	}
	var all []rollout.Run
	for _, v := range slices.Sorted(maps.Keys(sums)) {
		all = append(all, rollout.Run{Version: v, Count: sums[v]})
	}
	return all
}
