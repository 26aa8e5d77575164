package web

import (
	"fmt"

	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/metrics"
)

// dropWarnings name the versions whose users were turned away by Envoy's circuit breakers.
func dropWarnings(c controller.Service) []string {
	by, try := "Envoy's circuit breakers (route.limits has their defaults)", "give the version more endpoints, or look why requests pile up"
	if c.State.Policy.Route.Limits != nil {
		by, try = "route.limits", "raise them, or give the version more endpoints"
	}
	var ws []string
	for _, d := range c.Dropped {
		if lately(d) {
			ws = append(ws, fmt.Sprintf("%.0f requests to %s were dropped in the last minute by %s: %s; they do not count as its errors", d.Lately, d.Version, by, try))
		}
	}
	return ws
}

func lately(d metrics.Dropped) bool { return d.Lately > 0 }
