package xds

import (
	"slices"
	"strings"
	"time"
)

// What is looked at is reported by the nodes that have it: an Envoy with ten services is not asked for ten thousand, nor told
// each time when what is looked at of the others changes.

// reach is which of the clusters that are looked at a node is asked to report.
type reach struct {
	known bool      // an ADS stream of the node has said what it asks for
	all   bool      // that is every cluster which it may see
	group group     // who may see the same
	own   []*common // where it is not all: what each of its ADS streams asks for
	old   []string  // clusters that it should have no more
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
func (h *Hub) reach(n Node, looked *looked) reach {
	r, narrow, work := h.reachOf(n)
	for _, s := range narrow {
		list, names := s.asksFor(looked)
		if r.own = append(r.own, list); len(narrow) > 1 {
			names += len(list.list.clusters) // these are merged
		}
		work += names
	}
	if work > 0 {
		h.spends(n.identity(), work)
	}
	return r
}

// reachOf finds the ADS streams of a node, those that ask for clusters by name where none asks for all, and how many books were looked
// at for it.
func (h *Hub) reachOf(n Node) (r reach, narrow []*session, books int) {
	h.enter()
	defer h.exit()
	r = reach{group: h.groupOf(n), old: h.outliving(n)}
	for _, sp := range h.speakersOf(n) {
		switch s, delta := sp.(*session); {
		case !delta: // go-control-plane keeps what it asks for
			r.known, r.all = true, true
		case s.named():
			r.known, r.all = true, r.all || s.wild()
			narrow, books = append(narrow, s), books+len(s.books)
		}
	}
	if r.all {
		narrow = nil
	}
	return r, narrow, books
}

// own is which of the clusters that are looked at an ADS stream asks for: all streams of reports of its node ask it, and one looks.
// Guarded by the hub's mutex.
type own struct {
	asks  uint64 // names that it has begun or ceased to ask for
	list  *common
	of    basis
	looks chan struct{} // somebody does, until it is closed; nil: nobody does
}

// basis is what such a list was made of, each by how often it had changed.
type basis struct{ looked, asks, sights uint64 }

// named reports whether a stream has asked for clusters, or for routes, which name them.
func (s *session) named() bool {
	return s.inv.kinds[TypeCluster] != nil || s.inv.kinds[TypeRoute] != nil
}

// wild reports whether it asks for all clusters.
func (s *session) wild() bool {
	k := s.inv.kinds[TypeCluster]
	return k != nil && k.wildcard
}

// asksFor is the list of a stream, and how many names were looked at for it.
func (s *session) asksFor(n *looked) (list *common, names int) {
	h := s.hub
	h.enter()
	defer h.exit()
	for looks := s.own.looks; looks != nil; looks = s.own.looks {
		h.exit()
		<-looks
		h.enter()
	}
	now := basis{n.turn, s.own.asks, h.sights}
	if s.own.list != nil && s.own.of == now {
		return s.own.list, 0
	}
	looks := make(chan struct{})
	s.own.looks = looks
	at, names := s.finds(n)
	h.exit() // a list is long, and made without the mutex
	list = n.shared(at)
	h.enter()
	s.own.list, s.own.of, s.own.looks = list, now, nil
	close(looks)
	return list, names
}

// finds are the places in the list of what is looked at where the services begin whose clusters or routes a stream asks for by name: it
// looks at its names, or at those, whichever are fewer.
func (s *session) finds(n *looked) (at []int, names int) {
	among := n.refs(slices.Values(n.services))
	if s.size() < len(n.services)+len(n.names) {
		among = s.refs
	}
	for r := range breathing(s.hub, among) {
		names++
		if it := s.inv.item(r); it == nil || !it.subscribed {
			continue
		}
		if i, is := n.place(r); is && s.hub.mayHave(s.Node, serviceOf(r)) {
			at = append(at, i)
		}
	}
	return at, names
}

// size is how many clusters and routes a stream may have asked for.
func (s *session) size() (n int) {
	for _, typ := range []string{TypeCluster, TypeRoute} {
		if k := s.inv.kinds[typ]; k != nil {
			n += k.size()
		}
	}
	return n
}

// refs are these.
func (s *session) refs(yield func(Ref) bool) {
	for _, typ := range []string{TypeCluster, TypeRoute} {
		k := s.inv.kinds[typ]
		if k == nil {
			continue
		}
		for name := range k.names() {
			if !yield(Ref{typ, name}) {
				return
			}
		}
	}
}

// reporters are the streams of reports of one identity.
type reporters struct {
	streams map[*reporter]struct{}
	work    int  // names that were looked at for them since they rested last
	rest    bool // they do, and
	due     bool // their node has asked for something meanwhile
}

func (rs *reporters) again() {
	for r := range rs.streams {
		r.again()
	}
}

// vouch takes in whether an ADS stream vouches for them.
func (rs *reporters) vouch(is bool) {
	for r := range rs.streams {
		r.vouch(is)
	}
}

// reports books a stream of reports under the identity of its node.
func (h *Hub) reports(r *reporter) {
	h.enter()
	defer h.exit()
	who := r.node.identity()
	if h.reporters[who] == nil {
		h.reporters[who] = &reporters{streams: map[*reporter]struct{}{}}
	}
	h.reporters[who].streams[r] = struct{}{}
	r.vouch(len(h.speakers[who]) > 0)
}

// silenced ends that.
func (h *Hub) silenced(r *reporter) {
	h.enter()
	defer h.exit()
	who := r.node.identity()
	if rs := h.reporters[who]; rs != nil {
		if delete(rs.streams, r); len(rs.streams) == 0 {
			delete(h.reporters, who)
		}
	}
}

// reaches has it looked at what a node is to report: one of its ADS streams has asked for something.
func (h *Hub) reaches(who Identity) {
	switch rs := h.reporters[who]; {
	case rs == nil:
	case rs.rest:
		rs.due = true
	default:
		rs.again()
	}
}

const (
	lookedMost = 2000                  // names, of which each takes
	lookTakes  = 500 * time.Nanosecond // or so, and then comes a rest,
	lookRest   = 9                     // so many times as long as these took,

	lookRestMost = 10 * time.Second // and not longer, whatever is looked at meanwhile because of others
)

// spends books how many names were looked at for what a node is to report. After very many, what it asks for next is looked at later,
// in a tenth of the time: else one that asks for a name at a time, with as many as it may and many streams of reports, keeps a processor
// busy. Of what is looked at all others hear at once all the same.
func (h *Hub) spends(who Identity, names int) {
	h.enter()
	defer h.exit()
	if rs := h.reporters[who]; rs != nil {
		rs.work += names
		h.tires(rs)
	}
}

func (h *Hub) tires(rs *reporters) {
	if rs.rest || rs.work < lookedMost {
		return
	}
	pause := min(time.Duration(rs.work)*lookTakes*lookRest, lookRestMost)
	rs.rest, rs.work = true, 0
	time.AfterFunc(pause, func() {
		h.enter()
		defer h.exit()
		rs.rest = false
		if h.tires(rs); rs.due && !rs.rest {
			rs.due = false
			rs.again()
		}
	})
}

// concerns has it looked at what those nodes are to report whose ADS streams ask for any of some clusters and routes by name. Ten
// thousand may ask for one.
func (h *Hub) concerns(refs []Ref) {
	b := &breaks{mu: &h.mu}
	b.mu.Lock()
	defer b.mu.Unlock()
	for r := range withBreaks(b, len(refs), slices.Values(refs)) {
		for at := range withBreaks(b, len(h.subs[r]), slices.Values(h.subs[r])) {
			s := h.places.taken[at] // nobody or somebody else, if it has left meanwhile
			if s == nil {
				continue
			}
			if rs := h.reporters[s.identity()]; rs != nil {
				rs.again()
			}
		}
	}
}

// resight does that for all nodes, where what some may see has changed since it was done last.
func (h *Hub) resight() {
	if h.sighted == h.sights {
		return
	}
	h.sighted = h.sights
	for _, rs := range h.reporters {
		rs.again()
	}
}
