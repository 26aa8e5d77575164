package xds

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
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
	names []string // of clusters, sorted
	asked map[string]Asked

	mu     sync.Mutex
	sights uint64 // of the lists
	lists  map[group]*common
}

// common is the list of all who may see the same, and ask for all of it: it may be long.
type common struct {
	once sync.Once
	list list
}

// list is what a stream is asked for: which clusters, and how often.
type list struct {
	of       *looked
	clusters []string // sorted
	encoded  []byte   // these, as a response has them, where many streams have the same
	judged   bool     // something of them is under judgement
	rows     int      // of a report
	every    time.Duration
}

func newLooked(clusters []Asked) *looked {
	n := &looked{asked: make(map[string]Asked, len(clusters)), lists: map[group]*common{}}
	for _, a := range clusters {
		n.asked[a.Cluster] = a
	}
	n.names = slices.Sorted(maps.Keys(n.asked))
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
	out := list{of: n, clusters: clusters}
	for _, name := range clusters {
		out.rows += n.asked[name].Endpoints
		out.judged = out.judged || n.asked[name].Judged
	}
	return out
}

// common is the list of a group of nodes. Whoever needs it first makes it, and the others wait.
func (n *looked) common(h *Hub, node Node, g group) list {
	n.mu.Lock()
	if n.sights != g.sights {
		n.sights = g.sights
		clear(n.lists)
	}
	c := n.lists[g]
	if c == nil {
		c = &common{}
		n.lists[g] = c
	}
	n.mu.Unlock()
	c.once.Do(func() {
		names := n.names
		if !g.everything() {
			names = h.mayAll(node, names)
		}
		c.list = n.list(names)
		for _, name := range names {
			c.list.encoded = protowire.AppendString(protowire.AppendTag(c.list.encoded, 1, protowire.BytesType), name)
		}
	})
	return c.list
}

// clustersOf are the clusters of a service.
func (n *looked) clustersOf(service string) iter.Seq[string] {
	return func(yield func(string) bool) {
		prefix := service + "/"
		i, _ := slices.BinarySearch(n.names, prefix)
		for ; i < len(n.names) && strings.HasPrefix(n.names[i], prefix) && yield(n.names[i]); i++ {
		}
	}
}

// reached is the list of a node. Of one that has not said yet what it has all is asked.
func (n *looked) reached(h *Hub, node Node, r reach) list {
	var out list
	if r.all || !r.known {
		out = n.common(h, node, r.group)
	} else {
		var own []string
		for _, service := range r.services {
			own = slices.AppendSeq(own, n.clustersOf(service))
		}
		slices.Sort(own) // "a-b/v1" comes before "a/v1"
		out = n.list(own)
	}
	return out.with(r.old)
}

// with is the list and some more clusters.
func (l list) with(clusters []string) list {
	if len(clusters) == 0 {
		return l
	}
	l.clusters = slices.Concat(l.clusters, clusters)
	slices.Sort(l.clusters)
	l.clusters, l.encoded = slices.Compact(l.clusters), nil
	return l
}

// after is the list of a stream that was told another one: what is looked at stays on it for a while after the Envoy has ceased to
// ask for it. One that connects again asks for one thing after another, and what is counted while it is not listed is lost.
func (l list) after(told list) list {
	if l.encoded != nil || l.of == nil {
		return l
	}
	return l.with(slices.DeleteFunc(slices.Clone(told.clusters), func(name string) bool {
		_, still := l.of.asked[name]
		return !still || l.has(name)
	}))
}

func (l list) has(cluster string) bool {
	_, has := slices.BinarySearch(l.clusters, cluster)
	return has
}

func (l list) same(o list) bool {
	return l.every == o.every && (l.encoded != nil && len(l.encoded) == len(o.encoded) && &l.encoded[0] == &o.encoded[0] || slices.Equal(l.clusters, o.clusters))
}

// response is what a stream is sent. Of very many clusters all streams have one list: who asks for it need not read it.
func (l list) response() any {
	if l.encoded == nil {
		return &loadstats.LoadStatsResponse{Clusters: l.clusters, LoadReportingInterval: durationpb.New(l.every), ReportEndpointGranularity: true}
	}
	tail, err := proto.Marshal(&loadstats.LoadStatsResponse{LoadReportingInterval: durationpb.New(l.every), ReportEndpointGranularity: true})
	if err != nil {
		return err // codec says that this is no message
	}
	return &raw{parts: mem.BufferSlice{mem.SliceBuffer(l.encoded), mem.SliceBuffer(tail)}}
}
