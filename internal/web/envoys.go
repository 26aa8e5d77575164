package web

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	mostEnvoys  = 500 // in one answer, unless a limit is named
	namedEnvoys = 10  // in a warning
)

// Envoys are counts of nodes by standing.
type Envoys struct {
	Joining int `json:"joining"`
	Applied int `json:"applied"`
	Behind  int `json:"behind"`
	Lagging int `json:"lagging"`
	Refused int `json:"refused"`
	Gone    int `json:"gone"`
}

// Nodes is the answer to GET /envoys.
type Nodes struct {
	Nodes []Node `json:"nodes"`
	Next  string `json:"next,omitempty"` // send it as `after` for what follows
}

// Node is one Envoy. What it has of each service is there where one service was asked for; else it is counted.
type Node struct {
	Node      string                      `json:"node"`
	Cluster   string                      `json:"cluster,omitempty"`
	Build     string                      `json:"build,omitempty"`
	Peer      string                      `json:"peer,omitempty"`
	Connected bool                        `json:"connected"`
	Since     time.Time                   `json:"since"`
	Standing  controller.Standing         `json:"standing,omitempty"` // the worst of its services'
	Services  map[string]NodeService      `json:"services,omitempty"`
	Counts    map[controller.Standing]int `json:"counts,omitempty"`
}

// NodeService is what a node has of a service. Weights are fractions of 1.
type NodeService struct {
	Standing controller.Standing `json:"standing"`
	Since    time.Time           `json:"since"`
	Type     string              `json:"type,omitempty"` // of what it refuses
	Resource string              `json:"resource,omitempty"`
	Why      string              `json:"why,omitempty"`
	Weights  map[string]float64  `json:"weights,omitempty"`
}

// envoys lists the nodes, all or those of one service.
func (a *api) envoys(w http.ResponseWriter, r *http.Request) {
	service := r.URL.Query().Get("service")
	limit, err := limitOf(r, mostEnvoys)
	if err != nil {
		a.fail(w, err)
		return
	}
	if service != "" {
		if err := mayInNamed(r, service); err != nil {
			a.refuse(w, r, err)
			return
		}
		if _, err := a.Controller.Service(r.Context(), service); err != nil {
			a.fail(w, err)
			return
		}
	}
	out := list{w: w, key: "nodes"}
	next, err := a.listEnvoys(r, limit, &out)
	a.ends(&out, next, err)
}

// listEnvoys sends so many nodes at most, and returns where those begin that follow.
func (a *api) listEnvoys(r *http.Request, limit int, out *list) (next string, err error) {
	q, g, last := r.URL.Query(), a.letIn(r), ""
	service := q.Get("service")
	for e := range a.Controller.EnvoysAfter(q.Get("after"), service) {
		if err := g.known(); err != nil {
			return "", err
		}
		if !seen(&e, g.now()) {
			continue
		}
		n, of := viewNode(e, service)
		if !of {
			continue
		}
		if out.n == limit {
			return last, nil
		}
		if err := out.add(n); err != nil {
			return "", err
		}
		last = e.Key()
	}
	return "", nil
}

// mayInNamed says why the caller may not see a service that the query names.
func mayInNamed(r *http.Request, service string) error {
	if who := callerOf(r); who.May(access.View, service) {
		return nil
	}
	return forbidden(r, fmt.Sprintf("to see the Envoys of %.64s takes the role %s there", service, access.View))
}

// seen leaves of a node what the caller may see; an Envoy without any of it is not the caller's to see.
func seen(e *controller.Envoy, who *access.Caller) bool {
	if who.MayAll(access.View) {
		return true
	}
	e.Services = slices.DeleteFunc(slices.Clone(e.Services), func(s controller.EnvoyService) bool { return !who.May(access.View, s.Service) })
	return len(e.Services) > 0
}

// viewNode says what a node has of one service, or of how many it has what; of is false where it has nothing
// of that service.
func viewNode(e controller.Envoy, service string) (n Node, of bool) {
	n = Node{Node: e.Node, Cluster: e.Cluster, Build: e.Build, Peer: e.Peer, Connected: e.Connected, Since: e.Since, Standing: e.Standing}
	if service == "" {
		for _, s := range e.Services {
			if n.Counts == nil {
				n.Counts = map[controller.Standing]int{}
			}
			n.Counts[s.Standing]++
		}
		return n, true
	}
	i := slices.IndexFunc(e.Services, func(s controller.EnvoyService) bool { return s.Service == service })
	if i < 0 {
		return n, false
	}
	s := e.Services[i]
	n.Services = map[string]NodeService{service: {s.Standing, s.Since, s.Type, s.Resource, s.Why, shares(s.Weights)}}
	return n, true
}

func shares(rs []rollout.Run) map[string]float64 {
	if len(rs) == 0 {
		return nil
	}
	out := map[string]float64{}
	for _, r := range rs {
		out[r.Version] += float64(r.Count) / policy.FullWeight
	}
	return out
}

func (a *api) forgetEnvoy(w http.ResponseWriter, r *http.Request) {
	if err := a.Controller.ForgetEnvoy(r.Context(), r.PathValue("node"), by(r)); err != nil {
		a.fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// fleetWarnings name the Envoys that refuse something, and those that may still send users to a version
// that is to get nothing.
func fleetWarnings(c controller.Service) []string {
	var refuse, behind []string
	for _, n := range c.Fleet.Nodes {
		if n.Why != "" {
			refuse = append(refuse, fmt.Sprintf("Envoy %s refuses the %s %s: %s", n.Node, n.Type, n.Resource, n.Why))
		}
		if vs := leftovers(&c, &n); len(vs) > 0 {
			behind = append(behind, fmt.Sprintf("%s (%s) may still send users to %s", n.Node, n.Standing, strings.Join(vs, ", ")))
		}
	}
	if n := c.State.Nack(); len(refuse) == 0 && n != nil { // from before a restart, or of an Envoy that is away
		refuse = append(refuse, fmt.Sprintf("Envoy %s refused its new configuration: %s", n.Node, n.Message))
	}
	if len(behind) > 0 {
		refuse = append(refuse, "Envoy "+strings.Join(atMost(behind, 0), "; "))
	}
	return atMost(refuse, c.Fleet.Unlisted)
}

// fleetWarned reports whether there are such.
func fleetWarned(c *controller.Service) bool {
	for i := range c.Fleet.Nodes {
		if n := &c.Fleet.Nodes[i]; n.Why != "" || len(leftovers(c, n)) > 0 {
			return true
		}
	}
	return c.State.Nack() != nil
}

// lossyWarnings name the Envoys whose load reports lack something.
func lossyWarnings(c controller.Service) []string {
	var ws []string
	for _, l := range c.Fleet.Lossy {
		ws = append(ws, l.Warning())
	}
	return atMost(ws, 0)
}

// atMost names the first of some Envoys, of whom there are more than in the list.
func atMost(list []string, more int) []string {
	named := list[:min(len(list), namedEnvoys)]
	if more += len(list) - len(named); more == 0 {
		return list
	}
	return append(slices.Clone(named), fmt.Sprintf("and %d more: `canaryd envoys SERVICE` lists them", more))
}

// leftovers are the versions that a node gives a share and that are decided to get nothing. Of a node whose last
// answer was lost nobody knows after a restart what it has: it may be any version whose containers still run.
func leftovers(c *controller.Service, n *controller.NodeStatus) []string {
	var out []string
	for _, r := range n.Weights {
		if c.State.Weight(r.Version) == 0 && !slices.Contains(out, r.Version) {
			out = append(out, r.Version)
		}
	}
	if n.Version == "" || len(n.Weights) > 0 {
		return out
	}
	for _, v := range c.State.Versions {
		if !v.LaunchedAt.IsZero() && !v.FirstWeight.IsZero() && c.State.Weight(v.Name) == 0 {
			out = append(out, v.Name)
		}
	}
	return out
}
