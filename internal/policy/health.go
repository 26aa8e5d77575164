package policy

import "strings"

// Statuses with which an endpoint says at `route.health_path` that it is well, for the Envoys' checks
// and for canaryd's own: from HealthyFrom up to, and without, HealthyBelow.
const (
	HealthyFrom  = 200
	HealthyBelow = 300
)

// HealthHost is the Host (gRPC: the authority) of a health check: the first domain that is a plain name,
// else the service's name. Envoy's default is the cluster's name, whose slash many servers refuse.
func (p *Policy) HealthHost() string {
	for _, d := range p.Route.Domains {
		if !strings.Contains(d, "*") {
			return d
		}
	}
	return p.Service
}
