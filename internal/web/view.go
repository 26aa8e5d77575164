// Package web is canaryd's HTTP side: the API, health, metrics.
package web

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Service is what the API says about a service.
type Service struct {
	Service  string    `json:"service"`
	Stable   *string   `json:"stable"`
	Versions []Version `json:"versions"`
	Orphaned bool      `json:"orphaned,omitempty"`
	Policy   string    `json:"policy_hash"`
	Envoys   Envoys    `json:"envoys"` // by what they have of the service
	Lagging  []string  `json:"lagging,omitempty"`
	Rate     float64   `json:"requests_per_second"`
	Warnings []string  `json:"warnings"`
}

// Version is what the API says about a version. Weights and rates are fractions of 1.
type Version struct {
	Version   string            `json:"version"`
	Phase     rollout.Phase     `json:"phase"`
	Weight    float64           `json:"weight"`
	InForce   bool              `json:"in_force"`
	Served    float64           `json:"served"`        // the highest share that an Envoy may be giving it, those that are away included
	Share     float64           `json:"request_share"` // of the last seconds' requests; with sessions it lags behind the weight, the share of new sessions
	Requests  float64           `json:"requests"`
	Errors    float64           `json:"errors"`
	ErrorRate *float64          `json:"error_rate"`
	Endpoints []string          `json:"endpoints"`
	Image     string            `json:"image,omitempty"`
	Digests   []string          `json:"digests,omitempty"`   // of the image's manifest, as registries know it
	Launching string            `json:"launching,omitempty"` // what is being done to run the image
	Attempt   int               `json:"attempt"`
	Step      int               `json:"step"`                // from 1; 0: below the first, or ended
	Steps     []float64         `json:"steps"`               // the configured ones
	StepSince *time.Time        `json:"step_since"`          // its weight is in force
	NextStep  *float64          `json:"next_step"`           // while it is under test; 1 is the promotion
	ToDecide  *float64          `json:"seconds_to_decide"`   // expected, until it can be promoted at this weight
	Held      *analysis.Code    `json:"held"`                // what it is held for until time, or a person, changes that
	TookOver  *time.Time        `json:"took_over,omitempty"` // this attempt was stable, with everything that no canary holds in force
	Trusted   bool              `json:"trusted"`             // it served everything, and was watched without an alarm: everything may go back to it by itself
	Verdict   *analysis.Verdict `json:"verdict"`
	Classes   []Class           `json:"classes,omitempty"` // what is known by class of requests, the worst first; in the answer about one service only
	Stored    *bool             `json:"stored,omitempty"`  // false: what was decided last of the service is not stored; a restart would forget it
}

func viewService(c controller.Service) Service {
	s := &c.State
	v := Service{Service: c.Name, Versions: []Version{}, Orphaned: s.Orphaned, Policy: s.PolicyHash,
		Envoys: Envoys(c.Fleet.Counts), Lagging: c.Fleet.Lagging, Rate: s.RequestsPerSecond()}
	if s.Stable != "" {
		v.Stable = &s.Stable
	}
	for i := range s.Versions {
		x := viewVersion(s, s.Versions[i])
		if !c.Stored {
			x.Stored = &c.Stored
		}
		v.Versions = append(v.Versions, x)
	}
	v.Warnings = warnings(c)
	return v
}

// warnings are what a person should know about a service that is in no verdict, the worst first.
func warnings(c controller.Service) []string {
	ws := []string{}
	if !live(&c) { // what is warned of is to be seen among the live ones
		return ws
	}
	say := func(err error, before, after string) {
		if err != nil {
			ws = append(ws, before+firstLine(err)+after)
		}
	}
	s := &c.State
	say(c.Unreadable, "the stored state cannot be read: ", "; the Envoys keep what they have and nothing is judged: restore a copy of the database, or remove the service and begin anew")
	say(c.Defect, "", "")
	say(c.Storing, "the history is not being written: ", "")
	say(c.Publishing, "the new weights cannot be published, the Envoys keep those from before: ", "")
	say(c.Policies, "the policies were not reloaded: ", "")
	if s.Orphaned && c.Unreadable == nil {
		ws = append(ws, fmt.Sprintf("no policy file names the service any more, and it keeps its last policy: bring the file back, or `canaryd remove %s`", c.Name))
	}
	ws = append(ws, fleetWarnings(c)...)
	ws = append(ws, lossyWarnings(c)...)
	if c.Conflict != "" {
		ws = append(ws, c.Conflict)
	}
	ws = append(ws, dropWarnings(c)...)
	ws = append(ws, twinWarnings(s)...)
	ws = append(ws, c.Doubts...)
	if s.Policy.Route.MaxStreamDuration == 0 && len(s.Canaries()) > 0 {
		ws = append(ws, "route.max_stream_duration is not set: requests in flight at a rollback run to completion")
	}
	return ws
}

// twinWarnings name the versions under test that run where another version runs: they are judged by what that one does, and look
// as good as it is. It is a deploy job that passes on the old address.
func twinWarnings(s *rollout.State) (ws []string) {
	for i, v := range s.Versions {
		for j, o := range s.Versions {
			if !v.Phase.Waiting() || o == v || !o.Phase.Live() || o.Phase.Waiting() && j > i {
				continue
			}
			if at := slices.IndexFunc(v.Endpoints, func(e string) bool { return slices.Contains(o.Endpoints, e) }); at >= 0 {
				ws = append(ws, fmt.Sprintf("%s and %s both run at %s: one is judged by what the other does; announce where %s runs", v.Name, o.Name, v.Endpoints[at], v.Name))
			}
		}
	}
	return ws
}

// firstLine says how many more lines there are.
func firstLine(err error) string {
	first, rest, more := strings.Cut(err.Error(), "\n")
	if more {
		first += fmt.Sprintf(" (and %d more lines in the log)", 1+strings.Count(rest, "\n"))
	}
	return first
}

func viewVersion(s *rollout.State, v *rollout.Version) Version {
	out := Version{
		Version: v.Name, Phase: v.Phase, Weight: share(s.Weight(v.Name)), InForce: s.InForceAt(v.Name), Served: share(s.Served(v.Name)), Trusted: v.Trusted, Share: s.RequestShare(v.Name),
		Requests: v.Counts.Requests, Errors: v.Counts.Errors, Endpoints: v.Endpoints, Image: v.Image, Digests: v.Digests, Launching: v.Launching, Attempt: v.Attempt,
	}
	if v.Counts.Requests > 0 {
		r := v.Counts.Rate()
		out.ErrorRate = &r
	}
	if v.Verdict.Code != "" {
		verdict := v.Shown()
		out.Verdict = &verdict
	}
	if !v.TookOver.IsZero() {
		out.TookOver = &v.TookOver
	}
	out.climb(s, v)
	return out
}

// climb says how far up the steps a version is.
func (out *Version) climb(s *rollout.State, v *rollout.Version) {
	out.Step = s.StepAt(v)
	for _, w := range s.Policy.Ramp.Weights() {
		out.Steps = append(out.Steps, share(w))
	}
	if out.Step > 0 && !v.WeightSince.IsZero() {
		out.StepSince = &v.WeightSince
	}
	if next := s.NextStep(v); next > 0 {
		w := share(next)
		out.NextStep, out.ToDecide = &w, v.Verdict.SecondsToDecide
	}
	if held := s.HeldBy(v); held != "" {
		out.Held = &held
	}
}

func share(weight int) float64 { return float64(weight) / policy.FullWeight }

// IsStable reports whether a version of the service is the stable one.
func (s *Service) IsStable(v Version) bool { return s.Stable != nil && v.Version == *s.Stable }

// Find returns the version of a name, or nil.
func (s *Service) Find(version string) *Version {
	for i := range s.Versions {
		if s.Versions[i].Version == version {
			return &s.Versions[i]
		}
	}
	return nil
}
