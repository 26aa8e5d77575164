// Package web is canaryd's HTTP side: the API, health, metrics.
package web

import (
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
	Envoys   int       `json:"envoys"` // that subscribe to the route
	Lagging  []string  `json:"lagging,omitempty"`
	Rate     float64   `json:"requests_per_second"`
	Warning  string    `json:"warning,omitempty"`
}

// Services is the list of them.
type Services struct {
	Services []Service `json:"services"`
}

// Version is what the API says about a version. Weights and rates are fractions of 1.
type Version struct {
	Version   string            `json:"version"`
	Phase     rollout.Phase     `json:"phase"`
	Weight    float64           `json:"weight"`
	InForce   bool              `json:"in_force"`
	Share     float64           `json:"request_share"` // of the last seconds' requests; with sessions it lags behind the weight, the share of new sessions
	Requests  float64           `json:"requests"`
	Errors    float64           `json:"errors"`
	ErrorRate *float64          `json:"error_rate"`
	Endpoints []string          `json:"endpoints"`
	Image     string            `json:"image,omitempty"`
	Launching string            `json:"launching,omitempty"` // what is being done to run the image
	Attempt   int               `json:"attempt"`
	Verdict   *analysis.Verdict `json:"verdict"`
}

func viewService(c controller.Service) Service {
	s := &c.State
	v := Service{Service: s.Policy.Service, Versions: []Version{}, Orphaned: s.Orphaned, Policy: s.PolicyHash,
		Envoys: s.Subscribers, Lagging: s.Lagging, Rate: s.Rate.PerSecond()}
	if s.Stable != "" {
		v.Stable = &s.Stable
	}
	for i := range s.Versions {
		v.Versions = append(v.Versions, viewVersion(s, &s.Versions[i]))
	}
	switch {
	case c.StoreError != nil:
		v.Warning = "the history is not being written: " + c.StoreError.Error()
	case s.Nack() != nil:
		v.Warning = "Envoy " + s.Nack().Node + " refused the table: " + s.Nack().Message
	case c.Conflict != "":
		v.Warning = c.Conflict
	case s.Policy.Route.MaxStreamDuration == 0 && len(s.Canaries()) > 0:
		v.Warning = "no route.max_stream_duration: requests in flight at a cut run to their end"
	}
	return v
}

func viewVersion(s *rollout.State, v *rollout.Version) Version {
	out := Version{
		Version: v.Name, Phase: v.Phase, Weight: float64(s.Weight(v.Name)) / policy.FullWeight, InForce: s.InForceAt(v.Name), Share: s.RequestShare(v.Name),
		Requests: v.Counts.Requests, Errors: v.Counts.Errors, Endpoints: v.Endpoints, Image: v.Image, Launching: v.Launching, Attempt: v.Attempt,
	}
	if v.Counts.Requests > 0 {
		r := v.Counts.Rate()
		out.ErrorRate = &r
	}
	if v.Verdict.Code != "" {
		verdict := v.Verdict
		out.Verdict = &verdict
	}
	return out
}

// Find returns the version of a name, or nil.
func (s *Service) Find(version string) *Version {
	for i := range s.Versions {
		if s.Versions[i].Version == version {
			return &s.Versions[i]
		}
	}
	return nil
}
