package xds

import (
	"maps"
	"slices"
	"strings"
)

// What is looked at is reported by the nodes that have it: an Envoy with ten services is not asked for ten thousand, nor told
// each time when what is looked at of the others changes.

// reach is which of the clusters that are looked at a node is asked to report.
type reach struct {
	known    bool     // an ADS stream of the node has said what it asks for
	all      bool     // that is every cluster which it may see
	group    group    // who may see the same
	services []string // where it is not all: whose clusters it asks for, or whose routes
	old      []string // clusters that it should have no more
}

// group is what decides what a node may see. What two nodes of one group may see is the same.
type group struct {
	patterns string // of what it may see
	cluster  string // its node.cluster, where a service has such in its route.nodes
	other    bool   // nodes of a node.cluster that no service has
	sights   uint64 // the services' route.nodes, by how often they changed
}

// groupOf is a node's. A node that does not say its node.cluster may be of any.
func (h *Hub) groupOf(n Node) group {
	g := group{patterns: strings.Join(n.services, "\x00"), sights: h.sights}
	switch {
	case n.Cluster == "" || len(h.grouped) == 0:
	case h.groups[n.Cluster] > 0:
		g.cluster = n.Cluster
	default:
		g.other = true
	}
	return g
}

// everything reports whether nodes of the group may see all services.
func (g group) everything() bool { return g.patterns == "" && g.cluster == "" && !g.other }

// regroup takes in which nodes may have a service; none: all.
func (h *Hub) regroup(service string, nodes []string) {
	if slices.Equal(nodes, h.grouped[service]) {
		return
	}
	h.sights++
	for _, n := range h.grouped[service] {
		if h.groups[n]--; h.groups[n] == 0 {
			delete(h.groups, n)
		}
	}
	if delete(h.grouped, service); len(nodes) > 0 {
		h.grouped[service] = nodes
	}
	for _, n := range nodes {
		h.groups[n]++
	}
}

// mayHave reports whether a node may have the clusters of a service, there being one or not.
func (h *Hub) mayHave(n Node, service string) bool {
	nodes := h.grouped[service]
	return n.sees(service) && (n.Cluster == "" || len(nodes) == 0 || slices.Contains(nodes, n.Cluster))
}

// mayAll are those of some clusters, sorted by name, that a node may have.
func (h *Hub) mayAll(n Node, clusters []string) (may []string) {
	last, has := "", false
	h.inPortions(clusters, func(cluster string) {
		if id, _ := ParseCluster(cluster); id.Service != last || last == "" {
			last, has = id.Service, h.mayHave(n, id.Service)
		}
		if has {
			may = append(may, cluster)
		}
	})
	return may
}

// reach asks the ADS streams of a node.
func (h *Hub) reach(n Node) reach {
	h.enter()
	defer h.exit()
	r := reach{group: h.groupOf(n), old: h.outliving(n)}
	asked := map[string]struct{}{}
	for id := range h.speakersOf(n) {
		s := h.sessions[id]
		if s == nil || !s.named() {
			continue
		}
		r.known = true
		if k := s.inv.kinds[TypeCluster]; k != nil && k.wildcard {
			r.all = true
			break
		}
		for service := range breathing(h, s.asksFor) {
			asked[service] = struct{}{}
		}
	}
	if r.all {
		return r
	}
	for _, service := range slices.Sorted(maps.Keys(asked)) {
		if h.mayHave(n, service) {
			r.services = append(r.services, service)
		}
	}
	return r
}

// named reports whether a stream has asked for clusters, or for routes, which name them.
func (s *session) named() bool {
	return s.inv.kinds[TypeCluster] != nil || s.inv.kinds[TypeRoute] != nil
}

// asksFor are the services whose clusters or routes a stream has asked for by name; some of them more than once.
func (s *session) asksFor(yield func(service string) bool) {
	for _, typ := range []string{TypeCluster, TypeRoute} {
		k := s.inv.kinds[typ]
		if k == nil {
			continue
		}
		for name := range k.names() {
			if !yield(serviceOf(Ref{typ, name})) {
				return
			}
		}
	}
}

// reports books a stream of reports under the identity of its node.
func (h *Hub) reports(r *reporter) {
	h.enter()
	defer h.exit()
	who := r.node.identity()
	if h.reporters[who] == nil {
		h.reporters[who] = map[*reporter]struct{}{}
	}
	h.reporters[who][r] = struct{}{}
	r.vouch(len(h.speakers[who]) > 0)
}

// silenced ends that.
func (h *Hub) silenced(r *reporter) {
	h.enter()
	defer h.exit()
	who := r.node.identity()
	if delete(h.reporters[who], r); len(h.reporters[who]) == 0 {
		delete(h.reporters, who)
	}
}

// reaches has it looked at what a node is to report: one of its ADS streams has asked for something.
func (h *Hub) reaches(n Node) {
	for r := range h.reporters[n.identity()] {
		r.again()
	}
}

// resight does that for all nodes, where what some may see has changed since it was done last.
func (h *Hub) resight() {
	if h.sighted == h.sights {
		return
	}
	h.sighted = h.sights
	for _, rs := range h.reporters {
		for r := range rs {
			r.again()
		}
	}
}
