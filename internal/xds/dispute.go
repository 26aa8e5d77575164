package xds

import (
	"slices"
	"strings"
	"time"
)

// An Envoy that refuses a listener refuses it for every service that is on it, and there may be ten thousand. Where it is in a
// service's book the refusal is booked there. It never asks for the routes behind a listener that it does not have, so in nearly
// all books it is not: it stands outside, is written down once for all services, and joins what is said of each of them.

// dispute is who refuses a listener as it is.
type dispute struct {
	version   string
	by        map[*stream]*protest
	order     []*stream            // the same, as they came
	audiences map[string]*audience // the same, by what the nodes may see
	books     map[*Force]struct{}  // that have such refusals; of nodes that are gone, too
	tries     uint64               // so many NACKs
	tried     map[string]uint64    // services of which somebody asked for another try: after which NACK
	first     []NodeStatus         // who is told of where nobody of them is in the book, and all may have the service; nil: to be made
}

// protest is a stream's refusal of a listener.
type protest struct {
	refusal
	try  uint64    // which NACK it was
	last time.Time // and when
}

// audience counts streams whose nodes may see the same.
type audience struct {
	one      Node // of them
	all      int
	clusters map[string]int // by node.cluster
}

// toldOutside is how many of those who stand outside are told of by name in each service's status: somebody may open thousands of streams.
const toldOutside = 16

func newDispute(version string) *dispute {
	return &dispute{version: version, by: map[*stream]*protest{}, audiences: map[string]*audience{}, books: map[*Force]struct{}{}, tried: map[string]uint64{}}
}

// comes takes in a refusal, and reports whether it says more than was known.
func (d *dispute) comes(s *stream, why string, at time.Time) (news bool) {
	d.tries++
	p := d.by[s]
	if p == nil {
		p = &protest{refusal: refusal{version: d.version, since: at}}
		d.by[s], d.order = p, append(d.order, s)
		d.count(s, 1)
	}
	news = p.try == 0 || p.why != why || len(d.tried) > 0
	p.why, p.try, p.last, d.first = why, d.tries, at, nil
	return news
}

// goes ends a refusal, and reports whether there was one.
func (d *dispute) goes(s *stream) bool {
	if d.by[s] == nil {
		return false
	}
	delete(d.by, s)
	d.order, d.first = slices.DeleteFunc(d.order, func(o *stream) bool { return o == s }), nil
	d.count(s, -1)
	return true
}

func (d *dispute) count(s *stream, n int) {
	sees := strings.Join(s.services, "\x00")
	c := d.audiences[sees]
	if c == nil {
		c = &audience{one: s.Node, clusters: map[string]int{}}
		d.audiences[sees] = c
	}
	c.all += n
	if c.clusters[s.Cluster] += n; c.clusters[s.Cluster] == 0 {
		delete(c.clusters, s.Cluster)
	}
	if c.all == 0 {
		delete(d.audiences, sees)
	}
}

// outside is how many may have a service and are not in its book.
func (d *dispute) outside(f *Force) (n int) {
	for _, c := range d.audiences {
		switch {
		case !c.one.sees(f.service):
		case len(f.want.Nodes) == 0:
			n += c.all
		default:
			for i, cluster := range f.want.Nodes {
				if !slices.Contains(f.want.Nodes[:i], cluster) {
					n += c.clusters[cluster]
				}
			}
		}
	}
	return n - d.inside(f)
}

// inside is how many are in a service's book.
func (d *dispute) inside(f *Force) (n int) {
	if len(d.by) < len(f.members) {
		for s := range d.by {
			if f.find(s) != nil {
				n++
			}
		}
		return n
	}
	for _, m := range f.members {
		if d.by[m.who] != nil && !m.isGone() {
			n++
		}
	}
	return n
}

// keepsOut reports whether a stream refuses the listener, may have a service, and is not in its book.
func (d *dispute) keepsOut(s *stream, f *Force) bool {
	return d.by[s] != nil && s.sees(f.service) && f.admits(s.Node) && f.find(s) == nil
}

// nodeStatus is what is told of who stands outside. Where a person asked for another try, it has not refused that yet.
func (d *dispute) nodeStatus(r Ref, s *stream, service string) NodeStatus {
	p := d.by[s]
	n := NodeStatus{Node: s.ID, Cluster: s.Cluster, Build: s.Build, Peer: s.Peer, Standing: Joining, Since: s.since, Heard: p.last.Truncate(tenth)}
	if p.try > d.tried[service] {
		n.Since, n.Type, n.Resource, n.Why = p.since, shortType(r.Type), r.Name, p.why
	}
	return n
}

// refusing is how many of those who stand outside have refused the listener since somebody asked for another try.
func (d *dispute) refusing(f *Force) (n int) {
	since := d.tried[f.service]
	if since == 0 {
		return d.outside(f)
	}
	for s, p := range d.by {
		if p.try > since && d.keepsOut(s, f) {
			n++
		}
	}
	return n
}

// joins adds who stands outside to a service's status: all by number, and the first of them by name.
func (d *dispute) joins(r Ref, st *Status, f *Force) {
	n := d.outside(f)
	if n == 0 {
		return
	}
	st.Counts.Joining, st.Subscribers = st.Counts.Joining+n, st.Subscribers+n
	refusing := n
	if d.tried[f.service] > 0 {
		refusing = d.refusing(f)
	}
	nodes := d.named(r, f, refusing)
	st.Unlisted = refusing - len(nodes)
	switch {
	case len(nodes) == 0:
	case len(st.Nodes) == 0:
		st.Nodes = nodes
	default:
		st.Nodes = slices.Concat(st.Nodes, nodes)
		slices.SortFunc(st.Nodes, NodeStatus.compare)
	}
}

// named are the first of n who stand outside and refuse the listener. Nearly all services of a listener have the same list.
func (d *dispute) named(r Ref, f *Force, n int) (nodes []NodeStatus) {
	same := n == len(d.by) && d.tried[f.service] == 0
	if same && d.first != nil {
		return d.first
	}
	for _, s := range d.order {
		if len(nodes) == min(n, toldOutside) {
			break
		}
		if d.by[s].try > d.tried[f.service] && d.keepsOut(s, f) {
			nodes = append(nodes, d.nodeStatus(r, s, f.service))
		}
	}
	nodes = slices.Clip(nodes)
	if slices.SortFunc(nodes, NodeStatus.compare); same {
		d.first = nodes
	}
	return nodes
}
