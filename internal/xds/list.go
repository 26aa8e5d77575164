package xds

import (
	"encoding/binary"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Asked is a cluster that is to be reported.
type Asked struct {
	Cluster   string
	Endpoints int
	Judged    bool // something is under judgement: what it reports may cut
}

// looked is what is looked at. It is never changed, but for the lists that are made of it when somebody needs them.
type looked struct {
	turn     uint64   // how often it had changed
	names    []string // of clusters, sorted
	services []string // that they are of, in their order
	asked    map[string]Asked

	mu     sync.Mutex
	sights uint64 // of the lists of groups
	groups map[group]*common
	own    map[string]*common // some of the others, by the places of the services that they have
}

// common is a list that many may have: of all who may see the same and ask for all of it, or of those who ask for the same.
type common struct {
	made sync.Once
	list list

	many     atomic.Bool // somebody has it whom it was not made for
	encoding sync.Once
	encoded  []byte // the clusters, as a response has them
}

// list is what a stream is asked for: which clusters, and how often. It knows not what else is looked at: streams keep theirs while
// that changes many times.
type list struct {
	clusters []string // sorted
	common   *common  // of which these are; nil: they are one stream's own
	bytes    int      // of a response
	known    bool     // its node asks for them
	judged   bool     // something of them is under judgement
	rows     int      // of a report
	every    time.Duration
}

func newLooked(clusters []Asked) *looked {
	n := &looked{asked: make(map[string]Asked, len(clusters)), groups: map[group]*common{}, own: map[string]*common{}}
	for _, a := range clusters {
		n.asked[a.Cluster] = a
	}
	n.names = slices.Sorted(maps.Keys(n.asked))
	for _, name := range n.names {
		if service := serviceOf(Ref{TypeCluster, name}); len(n.services) == 0 || n.services[len(n.services)-1] != service {
			n.services = append(n.services, service)
		}
	}
	return n
}

// news are the services of which one list has something else than another.
func (n *looked) news(old *looked) map[string]struct{} {
	news := map[string]struct{}{}
	differ := func(a, b *looked) {
		for name, is := range a.asked {
			if was, ok := b.asked[name]; !ok || was != is {
				news[serviceOf(Ref{TypeCluster, name})] = struct{}{}
			}
		}
	}
	differ(n, old)
	differ(old, n)
	return news
}

// list makes one of some clusters, sorted.
func (n *looked) list(clusters []string) list {
	out := list{clusters: clusters}
	out.weigh(clusters)
	n.judge(&out)
	return out
}

// judge takes in what is looked at of a list.
func (n *looked) judge(l *list) {
	l.rows, l.judged = 0, false
	for _, name := range l.clusters {
		l.rows += n.asked[name].Endpoints
		l.judged = l.judged || n.asked[name].Judged
	}
}

// weigh counts what some clusters take of a response.
func (l *list) weigh(clusters []string) {
	for _, name := range clusters {
		l.bytes += protowire.SizeTag(1) + protowire.SizeBytes(len(name))
	}
}

// make has it made by whoever needs it first; the others wait.
func (c *common) make(n *looked, clusters func() []string) *common {
	c.made.Do(func() {
		c.list = n.list(clusters())
		c.list.common = c
	})
	return c
}

// encode does so once. Of what only one has the bytes are not kept.
func (c *common) encode() []byte {
	if c == nil || !c.many.Load() {
		return nil
	}
	c.encoding.Do(func() {
		c.encoded = make([]byte, 0, c.list.bytes)
		for _, name := range c.list.clusters {
			c.encoded = protowire.AppendString(protowire.AppendTag(c.encoded, 1, protowire.BytesType), name)
		}
	})
	return c.encoded
}

// all is the list of a group of nodes that ask for all clusters.
func (n *looked) all(h *Hub, node Node, g group) list {
	n.mu.Lock()
	if n.sights != g.sights {
		n.sights = g.sights
		clear(n.groups)
	}
	c := n.groups[g]
	if c == nil {
		c = &common{}
		c.many.Store(true)
		n.groups[g] = c
	}
	n.mu.Unlock()
	return c.make(n, func() []string {
		if g.everything() {
			return n.names
		}
		return h.mayAll(node, n.names)
	}).list
}

// ownLists is how many of the lists of what is asked for by name are kept at a time to be found by those who ask for the same.
const ownLists = 100

// shared is the list of the services that begin at some places.
func (n *looked) shared(at []int) *common {
	slices.Sort(at) // "a-b/v1" comes before "a/v1"
	at = slices.Compact(at)
	key := make([]byte, 0, 2*len(at))
	for _, i := range at {
		key = binary.AppendUvarint(key, uint64(i))
	}
	return n.ofKey(string(key)).make(n, func() (own []string) {
		for _, i := range at {
			own = append(own, n.clustersAt(i)...)
		}
		return slices.Clone(own) // without room for more
	})
}

func (n *looked) ofKey(key string) *common {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.own[key]; c != nil {
		c.many.Store(true)
		return c
	}
	if len(n.own) >= ownLists {
		clear(n.own)
	}
	n.own[key] = &common{}
	return n.own[key]
}

// begin is where the clusters of a service begin.
func (n *looked) begin(service string) (at int, is bool) {
	prefix := service + "/"
	at, _ = slices.BinarySearch(n.names, prefix)
	return at, at < len(n.names) && strings.HasPrefix(n.names[at], prefix)
}

// clustersAt are the clusters of the service that begins at a place.
func (n *looked) clustersAt(at int) []string {
	prefix, end := serviceOf(Ref{TypeCluster, n.names[at]})+"/", at+1
	for end < len(n.names) && strings.HasPrefix(n.names[end], prefix) {
		end++
	}
	return n.names[at:end:end]
}

// place is where the clusters of a service begin whose route, or one of which, is asked for.
func (n *looked) place(r Ref) (at int, is bool) {
	if _, looked := n.asked[r.Name]; r.Type == TypeCluster && !looked {
		return 0, false
	}
	return n.begin(serviceOf(r))
}

// refs are what somebody may ask for who has something of some services.
func (n *looked) refs(services iter.Seq[string]) iter.Seq[Ref] {
	return func(yield func(Ref) bool) {
		for service := range services {
			if !yield(Ref{TypeRoute, service}) {
				return
			}
			at, looked := n.begin(service)
			if !looked {
				continue
			}
			for _, name := range n.clustersAt(at) {
				if !yield(Ref{TypeCluster, name}) {
					return
				}
			}
		}
	}
}

// reached is the list of a node. Of one that has not said yet what it has all is asked.
func (n *looked) reached(h *Hub, node Node, r reach) list {
	var out list
	if r.all || !r.known {
		out = n.all(h, node, r.group)
	} else {
		out = n.merged(r.own)
	}
	out.known = r.known
	return out.with(r.old)
}

// merged is what any of some lists has.
func (n *looked) merged(own []*common) list {
	out := own[0].list
	if !slices.ContainsFunc(own, func(c *common) bool { return c != own[0] }) {
		return out
	}
	var all []string
	for _, c := range own {
		all = append(all, c.list.clusters...)
	}
	slices.Sort(all)
	return n.list(slices.Clone(slices.Compact(all)))
}

// with is the list and some more clusters.
func (l list) with(clusters []string) list {
	if len(clusters) == 0 {
		return l
	}
	l.clusters = slices.Concat(l.clusters, clusters)
	slices.Sort(l.clusters)
	l.clusters, l.common, l.bytes = slices.Compact(l.clusters), nil, 0
	l.weigh(l.clusters)
	return l
}

// after is the list of a stream that was told another one: what is looked at stays on it for a while after the Envoy has ceased to
// ask for it. One that connects again asks for one thing after another, and what is counted while it is not listed is lost.
func (l list) after(told list, n *looked) list {
	if l.shares(told) {
		return l
	}
	return l.with(slices.DeleteFunc(slices.Clone(told.clusters), func(name string) bool {
		_, still := n.asked[name]
		return !still || l.has(name)
	}))
}

func (l list) has(cluster string) bool {
	_, has := slices.BinarySearch(l.clusters, cluster)
	return has
}

// shares reports whether two lists have the same memory.
func (l list) shares(o list) bool {
	return len(l.clusters) == len(o.clusters) && (len(l.clusters) == 0 || &l.clusters[0] == &o.clusters[0])
}

func (l list) same(o list) bool {
	return l.every == o.every && (l.shares(o) || slices.Equal(l.clusters, o.clusters))
}

// response is what a stream is sent. What many have was encoded once.
func (l list) response() any {
	encoded := l.common.encode()
	if encoded == nil {
		return &loadstats.LoadStatsResponse{Clusters: l.clusters, LoadReportingInterval: durationpb.New(l.every), ReportEndpointGranularity: true}
	}
	tail, err := proto.Marshal(&loadstats.LoadStatsResponse{LoadReportingInterval: durationpb.New(l.every), ReportEndpointGranularity: true})
	if err != nil {
		return err // codec says that this is no message
	}
	return &raw{parts: mem.BufferSlice{mem.SliceBuffer(encoded), mem.SliceBuffer(tail)}}
}
