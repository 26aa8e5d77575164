package xds

import (
	"cmp"
	"reflect"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Status says how far a service's table is in force. It is a value: those of several replicas, each with
// Envoys of its own, can be merged.
type Status struct {
	Service    string
	Generation uint64
	Counts     Counts
	Crowds     []rollout.Crowd   // who serves what
	Nodes      []NodeStatus      // those that do not have the table, or refuse something; in order
	Unlisted   int               // and so many more, none of which has a route of the service: they refuse its listener
	Lossy      []Lossy           // connected ones whose load reports lack attempts; in order
	Recalled   []rollout.Attempt // Envoys remember that these were cut; in order
	Restarted  []string          // nodes that came back as new processes since the last status: what they refused before says nothing

	// The rest follows from what is above.

	InForce     bool // somebody has it, nobody is behind, and nobody refuses who is still waited for
	Otherwise   bool // that would be so but for Refusals
	Subscribers int  // connected nodes
	Lagging     []string
	Refusals    []Refusal // that are waited for
}

// Counts are nodes by standing.
type Counts struct{ Joining, Applied, Behind, Lagging, Refused, Gone int }

// NodeStatus is a node that does not have the present table, or refuses something.
type NodeStatus struct {
	Node, Cluster, Build, Peer string
	Standing                   Standing
	Since                      time.Time     // of the standing
	Heard                      time.Time     // its last ACK or NACK, to a tenth of a second
	Version                    string        // of the route that it accepted; none: it has none
	Weights                    []rollout.Run // of that route; none: unknown
	Type, Resource, Why        string        // what it refuses first of all
}

// Refusal is a NACK of something present.
type Refusal struct{ Node, Message string }

// Status is the present one.
func (f *Force) Status(service string) Status {
	s := Status{Service: service, Generation: f.want.Generation}
	for _, m := range f.members {
		if m.isDoubted() {
			continue
		}
		standing := f.standing(m)
		s.Counts.add(standing)
		if standing != Gone {
			s.addLossy(m.who.Node)
		}
		if f.shows(m) {
			s.Nodes = append(s.Nodes, f.nodeStatus(m))
		}
	}
	return s.derive()
}

func (f *Force) nodeStatus(m *member) NodeStatus {
	n := NodeStatus{Node: m.who.ID, Cluster: m.who.Cluster, Build: m.who.Build, Peer: m.who.Peer, Standing: f.standing(m),
		Since: m.since(), Heard: f.about(f.lastHeard(m)), Version: f.has(m).Version, Weights: f.has(m).Slots}
	if m.unrest == nil {
		return n
	}
	if !m.behind.IsZero() {
		n.Since = m.behind
	}
	first := refusal{}
	for ref, r := range m.refusals {
		if first.since.IsZero() || cmp.Or(r.since.Compare(first.since), cmp.Compare(ref.Type, n.Type), cmp.Compare(ref.Name, n.Resource)) < 0 {
			first, n.Type, n.Resource = r, ref.Type, ref.Name
		}
	}
	if !first.since.IsZero() {
		n.Type, n.Why = shortType(n.Type), first.why
		if n.Standing == Refused || n.Standing == Joining {
			n.Since = first.since
		}
	}
	return n
}

// message is the refusal in one line: a route is the service's own, everything else is named.
func (n NodeStatus) message() string {
	if n.Type == shortType(TypeRoute) {
		return n.Why
	}
	return n.Type + " " + n.Resource + ": " + n.Why
}

// Away are the nodes that are gone.
func (s Status) Away() (nodes []string) {
	for _, n := range s.Nodes {
		if n.Standing == Gone {
			nodes = append(nodes, n.Node)
		}
	}
	return nodes
}

// Merge joins what two replicas say of one service. Nodes of the one that has an older table do not have
// the newer one. A node that one replica has lost and the other one lists is not gone; that it is applied
// elsewhere no list says, so whoever knows all connections has to Forget it.
func (s Status) Merge(o Status) Status {
	if s.Generation < o.Generation {
		s, o = o, s
	}
	s.Service = cmp.Or(s.Service, o.Service)
	if o.Generation < s.Generation {
		o.Counts.Behind, o.Counts.Applied = o.Counts.Behind+o.Counts.Applied, 0
	}
	s.Counts.plus(o.Counts)
	s.Unlisted += o.Unlisted
	s.Nodes, s.Lossy, s.Recalled = slices.Concat(s.Nodes, o.Nodes), slices.Concat(s.Lossy, o.Lossy), slices.Concat(s.Recalled, o.Recalled)
	s.Restarted = slices.Compact(slices.Sorted(slices.Values(slices.Concat(s.Restarted, o.Restarted))))
	slices.SortFunc(s.Nodes, NodeStatus.compare)
	live := map[string]bool{}
	for _, n := range s.Nodes {
		live[n.Node] = live[n.Node] || n.Standing != Gone
	}
	s.Nodes = slices.DeleteFunc(s.Nodes, func(n NodeStatus) bool {
		elsewhere := n.Standing == Gone && live[n.Node]
		if elsewhere {
			s.Counts.Gone--
		}
		return elsewhere
	})
	return s.derive()
}

func (n NodeStatus) compare(o NodeStatus) int {
	return cmp.Or(cmp.Compare(n.Node, o.Node), cmp.Compare(n.Peer, o.Peer), cmp.Compare(n.Standing, o.Standing), n.Since.Compare(o.Since),
		n.Heard.Compare(o.Heard), cmp.Compare(n.Cluster, o.Cluster), cmp.Compare(n.Build, o.Build), cmp.Compare(n.Version, o.Version),
		cmp.Compare(n.Type, o.Type), cmp.Compare(n.Resource, o.Resource), cmp.Compare(n.Why, o.Why),
		slices.CompareFunc(n.Weights, o.Weights, func(a, b rollout.Run) int {
			return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(a.Count, b.Count))
		}))
}

// same reports whether two say the same. Of nodes there may be ten thousand, for which reflection takes longer than all else.
func (s Status) same(o Status) bool {
	equal := slices.EqualFunc(s.Nodes, o.Nodes, func(a, b NodeStatus) bool { return a.compare(b) == 0 })
	s.Nodes, o.Nodes = nil, nil
	return equal && reflect.DeepEqual(s, o)
}

// derive fills in what follows from counts and nodes.
func (s Status) derive() Status {
	c := s.Counts
	s.Otherwise = c.Applied > 0 && c.Behind == 0
	s.InForce = s.Otherwise && c.Refused == 0
	s.Subscribers = c.Joining + c.Applied + c.Behind + c.Lagging + c.Refused
	s.Lagging, s.Refusals = nil, nil
	slices.SortFunc(s.Nodes, NodeStatus.compare)
	slices.SortFunc(s.Lossy, Lossy.compare)
	slices.SortFunc(s.Recalled, rollout.Attempt.Compare)
	s.Recalled = slices.Compact(s.Recalled)
	for _, n := range s.Nodes {
		switch n.Standing {
		case Lagging:
			s.Lagging = append(s.Lagging, n.Node)
		case Refused:
			s.Refusals = append(s.Refusals, Refusal{n.Node, n.message()})
		}
	}
	return s
}

func (c *Counts) add(s Standing) {
	switch s {
	case Joining:
		c.Joining++
	case Applied:
		c.Applied++
	case Behind:
		c.Behind++
	case Lagging:
		c.Lagging++
	case Refused:
		c.Refused++
	case Gone:
		c.Gone++
	}
}

func (c *Counts) plus(o Counts) {
	c.Joining, c.Applied, c.Behind = c.Joining+o.Joining, c.Applied+o.Applied, c.Behind+o.Behind
	c.Lagging, c.Refused, c.Gone = c.Lagging+o.Lagging, c.Refused+o.Refused, c.Gone+o.Gone
}

// Envoy is a node with all that it has.
type Envoy struct {
	Node      string         `json:"node"`
	Cluster   string         `json:"cluster,omitempty"`
	Build     string         `json:"build,omitempty"`
	Peer      string         `json:"peer,omitempty"`
	Client    bool           `json:"grpc_client,omitempty"`
	Connected bool           `json:"connected"`
	Since     time.Time      `json:"since"`              // connected, or gone
	Standing  Standing       `json:"standing,omitempty"` // the worst; none: it takes no service
	Services  []EnvoyService `json:"services,omitempty"` // in order
}

// Key orders Envoys: two of them may share a name.
func (e Envoy) Key() string { return e.Node + " " + e.Peer }

// EnvoyService is what a node has of one service.
type EnvoyService struct {
	Service  string        `json:"service"`
	Standing Standing      `json:"standing"`
	Since    time.Time     `json:"since"`
	Version  string        `json:"version,omitempty"`
	Weights  []rollout.Run `json:"weights,omitempty"`
	Type     string        `json:"type,omitempty"`
	Resource string        `json:"resource,omitempty"`
	Why      string        `json:"why,omitempty"`
}

// severity orders standings, worst first.
func (s Standing) worse(o Standing) bool {
	return slices.Index(severity(), s) < slices.Index(severity(), o)
}

func severity() []Standing { return []Standing{Refused, Lagging, Gone, Behind, Joining, Applied} }

// add books what a service's book says of a node.
func (e *Envoy) add(service string, n NodeStatus) {
	e.Services = append(e.Services, EnvoyService{service, n.Standing, n.Since, n.Version, n.Weights, n.Type, n.Resource, n.Why})
	if e.Standing == "" || n.Standing.worse(e.Standing) {
		e.Standing = n.Standing
	}
}
