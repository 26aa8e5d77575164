// Package rollout is the state machine of one service: Step(state, event) -> (state, records). It is
// pure, and it is the only place where a weight is computed. The moment comes with the event; the
// shell stores the state and the records first, and then publishes State.Table.
package rollout

import (
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// Version is one release of the service.
type Version struct {
	Name        string    `json:"name"`
	Endpoints   []string  `json:"endpoints"`
	Origin      string    `json:"origin,omitempty"` // what found it and says where it runs; empty: announced
	Seq         int       `json:"seq"`              // order of announcement
	First       int       `json:"first,omitempty"`  // Seq of its first attempt, where this is another one
	Attempt     int       `json:"attempt"`
	AnnouncedAt time.Time `json:"announced_at"`
	Phase       Phase     `json:"phase"`
	Slots       []Segment `json:"slots,omitempty"` // stable holds what nobody else does
	Reachable   bool      `json:"reachable"`
	EndedAt     time.Time `json:"ended_at,omitzero"`

	Launch
	Climb
	Trial
	Sessions
	Tenure
	Seen

	Verdict analysis.Verdict `json:"verdict"`

	lookedUp lookedUp // of its endpoints
}

// Launch is what is known of the containers that canaryd starts for a version.
type Launch struct {
	Image      string    `json:"image,omitempty"`     // it runs in such containers; empty: it does not
	Digests    []string  `json:"digests,omitempty"`   // of the image's manifest; none: not known
	Sealed     bool      `json:"sealed,omitempty"`    // its containers carry a seal; not those that earlier releases of canaryd started
	Content    string    `json:"content,omitempty"`   // the image's id in containers that others started and labelled; empty: not known
	Launching  string    `json:"launching,omitempty"` // what is being done about that
	Renew      bool      `json:"renew,omitempty"`     // the image is to be pulled though it is there: the tag may mean another one now
	Pulled     bool      `json:"pulled,omitempty"`    // by canaryd, which may therefore remove the image
	ImageAt    time.Time `json:"image_at,omitzero"`   // the image is there
	LaunchedAt time.Time `json:"launched_at,omitzero"`
	Idle       bool      `json:"idle,omitempty"`   // they are stopped until it is wanted
	Done       Goal      `json:"done,omitempty"`   // what has become of them: Stop, Remove or Prune
	Wanted     string    `json:"wanted,omitempty"` // who wants it at 100 % as soon as it answers
}

// Climb is how far a version under test has come.
type Climb struct {
	TurnAt      time.Time     `json:"turn_at,omitzero"` // left the line
	WarmingFrom time.Time     `json:"warming_from,omitzero"`
	FirstWeight time.Time     `json:"first_weight,omitzero"` // first in force
	WeightSince time.Time     `json:"weight_since,omitzero"` // present weight in force; zero: not yet
	FromZero    bool          `json:"from_zero,omitempty"`   // the present weight was the step up from 0
	PausedAt    time.Time     `json:"paused_at,omitzero"`    // by a person, in whichever phase it is; zero: it is not
	PausedFor   time.Duration `json:"paused_for,omitempty"`
	Late        bool          `json:"late,omitempty"`    // past its deadline
	Held        bool          `json:"held,omitempty"`    // no evidence for too long, told
	Refused     string        `json:"refused,omitempty"` // why no Envoy takes more of it: it gets no more until that may have changed
	Leaving     bool          `json:"leaving,omitempty"` // it lost its weight on the way back into the line, and an Envoy may still give it requests
}

// Trial is the evidence for and against a version, by the settings that were in force when it was announced.
type Trial struct {
	Config     analysis.Config `json:"config"`
	Judge      *analysis.Judge `json:"judge,omitempty"`
	EvidenceAt time.Time       `json:"evidence_at,omitzero"` // last judgement
	Counts     analysis.Counts `json:"counts"`               // since its first weight
	Beside     analysis.Counts `json:"beside,omitzero"`      // stable's meanwhile, as long as it was under test
	Sorted     bool            `json:"sorted,omitempty"`     // Classes are fixed
	Classes    []Exercise      `json:"classes,omitempty"`    // that it is judged by, the rest last; none: all requests together
	Told       []policy.Class  `json:"told,omitempty"`       // the classes that requests were told apart by when it was announced
	Pacing
}

// Sessions are the users that a version keeps by a cookie.
type Sessions struct {
	Pin       string    `json:"pin"`                 // value of the cookie: opaque, another one for every attempt
	PinsUntil time.Time `json:"pins_until,omitzero"` // end of the last session on it. In line it is zero where none is honoured, and else the version answers
}

// Tenure is what becomes of a version after its promotion.
type Tenure struct {
	TookOver    time.Time `json:"took_over,omitzero"` // everything that no canary holds was first in force for it
	Trusted     bool      `json:"trusted,omitempty"`  // served 100 % and passed after_promotion.watch without an alarm, or was the first version
	Alarmed     bool      `json:"alarmed,omitempty"`
	Left        bool      `json:"left,omitempty"` // a person promoted another one in its place
	Until       time.Time `json:"until,omitzero"` // end of the watch, or of draining
	DrainedFrom time.Time `json:"drained_from,omitzero"`
}

// Seen is what was counted of a version a moment ago.
type Seen struct {
	Lately    float64          `json:"lately"`              // requests, forgotten with a time constant of ten seconds
	RequestAt time.Time        `json:"request_at,omitzero"` // of the last request seen
	Hung      float64          `json:"hung,omitempty"`      // requests that were open for longer than judge.hang, half-life ten minutes
	Instances []analysis.Slice `json:"instances,omitempty"` // counts by endpoint, forgotten with a time constant of ten minutes
	Envoys    []analysis.Slice `json:"envoys,omitempty"`    // and by Envoy

	Failures analysis.Failures `json:"failures,omitzero"` // what failed, of a version under test and, beside one, of stable
}

// Missing says why there is no evidence.
type Missing struct {
	Code   analysis.Code `json:"code"`
	Reason string        `json:"reason"`
}

// Watch is the time after a promotion.
type Watch struct {
	Until time.Time `json:"until"`
	Limit float64   `json:"limit,omitempty"` // error rate that raises the alarm; 0: unknown
}

// Placebos count slices of stable that were judged as if they were canaries.
type Placebos struct {
	Begun  int `json:"begun"`
	Alarms int `json:"alarms"` // of them reached E = 20; more than 1 in 20 means that the clump bound is too low
}

// State is all that is known about one service. It is a value: Step never changes its argument.
type State struct {
	Policy     policy.Policy `json:"policy"`
	PolicyHash string        `json:"policy_hash"`
	Orphaned   bool          `json:"orphaned,omitempty"`
	Earlier    int           `json:"earlier,omitempty"`   // attempts of an earlier life of the service have numbers up to this one
	Forgotten  []string      `json:"forgotten,omitempty"` // ended versions that are no longer in the list and that an origin may still name: it does not bring them back
	Versions   []*Version    `json:"versions,omitempty"`  // by announcement. States share those that have ended
	Stable     string        `json:"stable,omitempty"`
	Seq        int           `json:"seq"`
	says       string        // hash of what the policy says
	removing   bool          // a person has it removed: nothing is raised. It is never stored: what is stored then is that it is gone

	Serving `json:"serving"`

	Watch *Watch `json:"watch,omitempty"`

	Learnt
}

// Learnt is the evidence on a service, which every report changes. What is learnt of its versions is in Trial and Seen.
type Learnt struct {
	At         time.Time           `json:"at,omitzero"` // of the last step
	Dispersion analysis.Dispersion `json:"dispersion"`
	Usual      analysis.Usual      `json:"usual"`
	Book       Book                `json:"book,omitzero"`
	Pace       analysis.Pace       `json:"pace,omitzero"`
	Hang       Hang                `json:"hang,omitzero"`
	Rate       Rate                `json:"rate"`
	Placebos   Placebos            `json:"placebos"`
	Batch      time.Duration       `json:"batch"` // length of a batch of evidence
	Missing    *Missing            `json:"missing,omitempty"`
	SeenAt     time.Time           `json:"seen_at,omitzero"` // newest evidence
}

const (
	keepEnded = 20        // ended versions that stay in the list
	keepFor   = time.Hour // and all that ended within it
	mostEnded = 200       // but no more

	mostForgotten = 1000 // names
)

// Version finds a version by name; nil when unknown. The pointer is into the state.
func (s *State) Version(name string) *Version {
	for i := range s.Versions {
		if s.Versions[i].Name == name {
			return s.Versions[i]
		}
	}
	return nil
}

// Weight is the decided weight of a version in parts of 10 000.
func (s *State) Weight(name string) int {
	if name == s.Stable && name != "" {
		rest := policy.FullWeight
		for i := range s.Versions {
			rest -= size(s.Versions[i].Slots)
		}
		return rest
	}
	if v := s.Version(name); v != nil {
		return size(v.Slots)
	}
	return 0
}

// Weights are all decided weights above 0.
func (s *State) Weights() map[string]int {
	w := map[string]int{}
	for i := range s.Versions {
		if n := s.Weight(s.Versions[i].Name); n > 0 {
			w[s.Versions[i].Name] = n
		}
	}
	return w
}

// Busy reports whether time or evidence can change anything: quiet services cost nothing.
func (s *State) Busy() bool {
	for _, v := range s.Versions {
		if v.is(timed) || v.mayIdle() {
			return true
		}
	}
	return s.Watch != nil
}
