package xds

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/protobuf/proto"
)

// askedBy has an Envoy's stream ask for something.
func askedBy(t *testing.T, h *Hub, n Node, typ string, names ...string) *session {
	t.Helper()
	s := h.open(n)
	asks(t, s, more(typ, names...))
	return s
}

func more(typ string, names ...string) *discovery.DeltaDiscoveryRequest {
	return &discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: names}
}

func less(typ string, names ...string) *discovery.DeltaDiscoveryRequest {
	return &discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesUnsubscribe: names}
}

// telling is a stream of reports which is told what to report.
type telling struct {
	loadstats.LoadReportingService_StreamLoadStatsServer
	ctx context.Context

	mu   sync.Mutex
	last listed
}

// listed is what a stream was told.
type listed struct {
	times int
	has   []string
	bulk  int // bytes
}

// now is that so far.
func (s *telling) now() listed {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *telling) Context() context.Context { return s.ctx }

func (s *telling) SendMsg(m any) error {
	b, err := codec{}.Marshal(m)
	if err != nil {
		return err
	}
	r := &loadstats.LoadStatsResponse{}
	if err := proto.Unmarshal(b.Materialize(), r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = listed{s.last.times + 1, r.Clusters, s.last.bulk + b.Len()}
	return nil
}

// tells begins a stream of reports.
func (l *Loads) tells(t *testing.T, h *Hub, n Node) *telling {
	ctx, cancel := context.WithCancel(t.Context())
	st, s := &telling{ctx: ctx}, newReporter(h, l, n)
	l.open(s)
	done := make(chan struct{})
	go func() {
		l.ask(st, s)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		l.close(s)
	})
	return st
}

func lookedAt(services ...string) (all []Asked) {
	for _, name := range services {
		all = append(all, Asked{Cluster: name + "/v1"}, Asked{Cluster: name + "/v2"})
	}
	return all
}

func clustersOf(services ...string) (names []string) {
	for _, a := range lookedAt(services...) {
		names = append(names, a.Cluster)
	}
	slices.Sort(names)
	return names
}

// An Envoy is asked for the clusters that it has, by whichever way it asks for them, and is told anew when what is looked at of
// these changes, or when it asks for more.
func TestAnEnvoyReportsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, loads := NewHub(quietLog()), NewLoads(time.Second, func(Report) {})
		var services []string
		for i := range 100 {
			services = append(services, fmt.Sprint("s-", i))
			publish(t, h, onListener(services[i]))
		}
		loads.Ask(lookedAt(services...))
		node := func(id string) Node { return Node{ID: id, Cluster: "edge"} }
		byRoute, byName := askedBy(t, h, node("routes"), TypeRoute, "s-1", "s-10"), askedBy(t, h, node("names"), TypeCluster, "s-2/v1", "s-3/v1")
		askedBy(t, h, node("all"), TypeCluster, "*")
		routes, names, all := loads.tells(t, h, node("routes")), loads.tells(t, h, node("names")), loads.tells(t, h, node("all"))
		told := func(what string, st *telling, times int, services ...string) {
			t.Helper()
			if now := st.now(); now.times != times || !slices.Equal(now.has, clustersOf(services...)) {
				t.Fatalf("%s: told %d times, want %d; %v, want those of %v", what, now.times, times, now.has, services)
			}
		}
		told("by its routes", routes, 1, "s-1", "s-10")
		told("by the names of clusters", names, 1, "s-2", "s-3")
		told("with all clusters", all, 1, services...)
		loads.Ask(lookedAt(services[3:]...))
		time.Sleep(time.Second)
		told("what is looked at of one of its routes is no more", routes, 2, "s-10")
		told("what is looked at of one of its clusters is no more", names, 2, "s-3")
		told("with all clusters, after a change", all, 2, services[3:]...)
		loads.Ask(lookedAt(services[2:]...))
		time.Sleep(time.Second)
		told("after a change of others", routes, 2, "s-10")
		told("after it is looked at again", names, 3, "s-2", "s-3")
		byName.close()
		askedBy(t, h, node("names"), TypeCluster, "s-3/v1")
		told("after it has come again, and asked for one cluster", names, 3, "s-2", "s-3")
		asks(t, byRoute, more(TypeRoute, "s-4"))
		told("after it has asked for more", routes, 3, "s-10", "s-4")
		asks(t, byRoute, more(TypeCluster, "s-5/v2", "nobody's"))
		told("after it has asked for a cluster", routes, 4, "s-10", "s-4", "s-5")
		asks(t, byRoute, less(TypeRoute, "s-4", "s-10"))
		told("after it has left a route", routes, 4, "s-10", "s-4", "s-5")
		time.Sleep(outlivingEvery)
		told("and a while later", routes, 5, "s-5")
		asks(t, byRoute, more(TypeCluster, "*"))
		told("after it has asked for all clusters", routes, 6, services[2:]...)
	})
}

// What a node may have changes with the services' route.nodes: it is told without anything else happening.
func TestWhatANodeMayReportChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, loads := NewHub(quietLog()), NewLoads(time.Second, func(Report) {})
		publish(t, h, onListener("pay"))
		publish(t, h, onListener("shop"))
		loads.Ask(lookedAt("pay", "shop"))
		streams := map[string]*telling{}
		for _, id := range []string{"all", "routes"} {
			n := Node{ID: id, Cluster: "other"}
			if askedBy(t, h, n, TypeRoute, "pay", "shop"); id == "all" {
				askedBy(t, h, n, TypeCluster, "*")
			}
			streams[id] = loads.tells(t, h, n)
		}
		for _, nodes := range [][]string{{"edge"}, {"edge", "other"}, {"edge", "third"}, nil} {
			grouped := onListener("pay")
			grouped.Policy.Route.Nodes = nodes
			publish(t, h, grouped)
			synctest.Wait()
			h.tick(time.Now())
			time.Sleep(outlivingEvery)
			want := []string{"pay", "shop"}
			if len(nodes) > 0 && !slices.Contains(nodes, "other") {
				want = want[1:]
			}
			for id, st := range streams {
				if has := st.now().has; !slices.Equal(has, clustersOf(want...)) {
					t.Errorf("%s, with route.nodes %v: %v, want those of %v", id, nodes, has, want)
				}
			}
		}
		if len(h.groups)+len(h.grouped) != 0 {
			t.Errorf("%v and %v are left", h.groups, h.grouped)
		}
	})
}

// Before an Envoy has an ADS stream its reports do not count: it is told what to report when it has one, or after a while, so that
// somebody learns that they are refused. A gRPC client is told at once.
func TestAStreamOfReportsWaitsForItsEnvoy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, loads := NewHub(quietLog()), NewLoads(0, func(Report) {})
		publish(t, h, onListener("pay"))
		publish(t, h, onListener("shop"))
		all := lookedAt("pay", "shop")
		all[0].Judged = true
		loads.Ask(all)
		early, stranger := loads.tells(t, h, Node{ID: "edge-1"}), loads.tells(t, h, Node{ID: "stranger"})
		time.Sleep(unknownFor - time.Second)
		if early.now().times+stranger.now().times != 0 {
			t.Fatalf("told %v and %v", early.now(), stranger.now())
		}
		askedBy(t, h, Node{ID: "edge-1"}, TypeListener, "*")
		if early.now().times != 0 || !slices.Equal(loads.Nodes(), []string{"edge-1"}) {
			t.Errorf("told %v, and %v report", early.now(), loads.Nodes())
		}
		askedBy(t, h, Node{ID: "edge-1"}, TypeRoute, "shop")
		if has := early.now().has; !slices.Equal(has, clustersOf("shop")) {
			t.Errorf("told %v", has)
		}
		time.Sleep(2 * time.Second)
		if has := stranger.now().has; !slices.Equal(has, clustersOf("pay", "shop")) || loads.Often() != atRest {
			t.Errorf("a stranger is told %v, and what is judged reported every %s", has, loads.Often())
		}
		loads.Ask(lookedAt("pay"))
		if stranger.now().times != 1 {
			t.Error("a stranger hears of each change")
		}
	})
}

// What many Envoys are told of very many clusters leaves the network to others.
func TestLongListsLeaveTheNetworkToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, loads := NewHub(quietLog()), NewLoads(time.Second, func(Report) {})
		var services []string
		for i := range 2000 {
			services = append(services, fmt.Sprint("a-service-with-a-long-name-", i))
		}
		askedBy(t, h, Node{ID: "edge"}, TypeCluster, "*")
		var all []*telling
		loads.Ask(lookedAt(services[1:]...))
		for range 20 {
			all = append(all, loads.tells(t, h, Node{ID: "edge"}))
		}
		began := time.Now()
		for i := range 60 {
			loads.Ask(lookedAt(services[i%2:]...))
			time.Sleep(50 * time.Millisecond)
		}
		sum, most := 0, int(time.Since(began).Seconds()*listBytes)
		for _, st := range all {
			sum += st.now().bulk
		}
		if first := all[0].now(); sum > most+len(all)*first.bulk/first.times || sum < most/2 {
			t.Errorf("%d bytes in %s, and %d may be sent", sum, time.Since(began), most)
		}
	})
}

// Whatever Envoys ask for, leave and connect again for, whatever is looked at and whoever may have it: each is told at once of what it
// has begun to ask for, and in the end of nothing else.
func FuzzReportLists(f *testing.F) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		ops := make([]byte, 80)
		for i := range ops {
			ops[i] = byte(r.Uint32())
		}
		f.Add(ops)
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		synctest.Test(t, func(t *testing.T) { newListWorld(t).run(ops[:min(len(ops), 200)]) })
	})
}

// listWorld is a few Envoys, what they ask for, and what they should be told.
type listWorld struct {
	t        *testing.T
	h        *Hub
	loads    *Loads
	services []string
	looked   map[string]bool
	nodes    map[string][]string // service: its route.nodes
	envoys   []*listEnvoy
}

type listEnvoy struct {
	node  Node
	ads   *session
	lrs   *telling
	asked map[Ref]bool
}

func newListWorld(t *testing.T) *listWorld {
	w := &listWorld{t: t, h: NewHub(quietLog()), services: []string{"a", "a-b", "b", "pay"}, looked: map[string]bool{}, nodes: map[string][]string{}}
	w.loads = NewLoads(time.Second, func(Report) {})
	for _, n := range []Node{{ID: "1", Cluster: "edge"}, {ID: "2", Cluster: "other"}, {ID: "3", services: []string{"a*"}}} {
		e := &listEnvoy{node: n, asked: map[Ref]bool{}}
		e.lrs = w.loads.tells(t, w.h, n)
		w.envoys = append(w.envoys, e)
	}
	return w
}

func (w *listWorld) run(ops []byte) {
	for i := 0; i+1 < len(ops); i += 2 {
		w.step(w.envoys[int(ops[i])%len(w.envoys)], ops[i]/3, ops[i+1])
		synctest.Wait()
		time.Sleep(time.Second + time.Duration(ops[i+1]%4)*30*time.Second)
		w.tick()
		for _, e := range w.envoys {
			w.compare(e, false)
		}
	}
	time.Sleep(2 * outlivingEvery)
	for _, e := range w.envoys {
		w.compare(e, true)
	}
	w.leaveAll()
}

func (w *listWorld) tick() {
	w.h.tick(time.Now())
	synctest.Wait()
}

func (w *listWorld) leaveAll() {
	for _, e := range w.envoys {
		w.disconnect(e)
	}
}

func (w *listWorld) step(e *listEnvoy, op, arg byte) {
	service := w.services[int(arg/4)%len(w.services)]
	switch op % 8 {
	case 0:
		w.looked[service] = !w.looked[service]
		var names []string
		for _, name := range w.services {
			if w.looked[name] {
				names = append(names, name)
			}
		}
		w.loads.Ask(lookedAt(names...))
	case 1:
		w.nodes[service] = [][]string{nil, {"edge"}, {"edge", "other"}}[int(arg/16)%3]
		table := onListener(service)
		table.Policy.Route.Nodes = w.nodes[service]
		publish(w.t, w.h, table)
	case 2:
		w.disconnect(e)
	case 3, 4:
		w.asks(e, Ref{TypeRoute, service})
	case 5:
		w.asks(e, Ref{TypeCluster, service + "/v1"})
	case 6:
		w.asks(e, Ref{TypeCluster, "*"})
	case 7:
		w.leaves(e, []Ref{{TypeRoute, service}, {TypeCluster, service + "/v1"}, {TypeCluster, "*"}}[int(arg/16)%3])
	}
}

func (w *listWorld) disconnect(e *listEnvoy) {
	if e.ads != nil {
		e.ads.close()
		e.ads = nil
		clear(e.asked)
	}
}

func (w *listWorld) asks(e *listEnvoy, r Ref) {
	if e.ads == nil {
		e.ads = w.h.open(e.node)
	}
	asks(w.t, e.ads, more(r.Type, r.Name))
	e.asked[r] = true
}

func (w *listWorld) leaves(e *listEnvoy, r Ref) {
	if e.ads == nil || e.ads.inv.kinds[r.Type] == nil {
		return
	}
	asks(w.t, e.ads, less(r.Type, r.Name))
	delete(e.asked, r)
}

// compare looks at what an Envoy was told last.
func (w *listWorld) compare(e *listEnvoy, late bool) {
	if len(e.asked) == 0 {
		return // nothing that it reports counts
	}
	want := map[string]bool{}
	for _, name := range w.services {
		asks, nodes := e.asked[Ref{TypeCluster, "*"}] || e.asked[Ref{TypeRoute, name}] || e.asked[Ref{TypeCluster, name + "/v1"}], w.nodes[name]
		if w.looked[name] && asks && e.node.sees(name) && (e.node.Cluster == "" || len(nodes) == 0 || slices.Contains(nodes, e.node.Cluster)) {
			want[name+"/v1"], want[name+"/v2"] = true, true
		}
	}
	has := e.lrs.now().has
	for name := range want {
		if !slices.Contains(has, name) {
			w.t.Fatalf("Envoy %s is not asked for %s, but for %v; it has %v", e.node.ID, name, has, slices.Collect(maps.Keys(e.asked)))
		}
	}
	if late && len(has) != len(want) {
		w.t.Fatalf("Envoy %s is asked for %v, and has %v", e.node.ID, has, want)
	}
}
