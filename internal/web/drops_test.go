package web

import (
	"slices"
	"testing"

	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/policy"
)

func TestDropsAreWarnedOf(t *testing.T) {
	c := controller.Service{Dropped: []metrics.Dropped{{Version: "v1", Total: 9}, {Version: "v2", Lately: 41, Total: 50}}}
	c.State.Policy.Route.MaxStreamDuration = 1
	for limits, want := range map[*policy.Limits]string{
		nil: "41 requests to v2 were dropped in the last minute by Envoy's circuit breakers (route.limits has their defaults): give the version more endpoints, or look why requests pile up; they do not count as its errors",
		{}:  "41 requests to v2 were dropped in the last minute by route.limits: raise them, or give the version more endpoints; they do not count as its errors",
	} {
		c.State.Policy.Route.Limits = limits
		if got := warnings(c); !slices.Equal(got, []string{want}) {
			t.Errorf("%q", got)
		}
	}
}
