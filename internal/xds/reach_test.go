package xds

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/protobuf/proto"

	"github.com/canaryd/canaryd/internal/policy"
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
	end func()

	mu   sync.Mutex
	last listed
}

// listed is what a stream was told.
type listed struct {
	times int
	has   []string
	bulk  int // bytes
	at    time.Time
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
	s.last = listed{s.last.times + 1, r.Clusters, s.last.bulk + b.Len(), time.Now()}
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
	st.end = sync.OnceFunc(func() {
		l.close(s) // and whatever it is told meanwhile
		cancel()
		<-done
	})
	t.Cleanup(st.end)
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
			time.Sleep(time.Millisecond) // after a list comes a rest
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

// An Envoy whose ADS stream is away for a moment goes on with what it was told, and is asked for nothing else when it is back.
func TestAnEnvoyWithoutItsStreamKeepsWhatItWasTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, loads := NewHub(quietLog()), NewLoads(time.Second, func(Report) {})
		services := many(500)
		loads.Ask(lookedAt(services...))
		n := Node{ID: "edge"}
		s, lrs := askedBy(t, h, n, TypeRoute, services[:300]...), loads.tells(t, h, n)
		time.Sleep(time.Second)
		if now := lrs.now(); now.times != 1 || len(now.has) != 600 {
			t.Fatalf("told %d times, %d clusters", now.times, len(now.has))
		}
		go s.close() // with pauses: it has many names
		for range 20 {
			loads.again()
			time.Sleep(pause / 4)
		}
		loads.Ask(lookedAt(services[1:]...))
		time.Sleep(2 * outlivingEvery)
		if now := lrs.now(); now.times != 1 {
			t.Errorf("without its stream it was told %d clusters", len(now.has))
		}
		askedBy(t, h, n, TypeListener, "*")
		loads.again()
		if now := lrs.now(); now.times != 1 {
			t.Errorf("before it asks for anything it was told %d clusters", len(now.has))
		}
		askedBy(t, h, n, TypeRoute, services[:2]...)
		if now := lrs.now(); now.times != 2 || len(now.has) != 598 {
			t.Errorf("told %d times, %d clusters", now.times, len(now.has))
		}
		time.Sleep(outlivingEvery)
		if now := lrs.now(); !slices.Equal(now.has, clustersOf(services[1])) {
			t.Errorf("and a while later %v", now.has)
		}
	})
}

// again has all streams told what they are to report.
func (l *Loads) again() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.streams {
		s.again()
	}
}

func many(n int) (services []string) {
	for i := range n {
		services = append(services, fmt.Sprint("s-", i))
	}
	return services
}

// Who was told everything because nobody knew its node is told what that has as soon as it says so.
func TestAStrangerThatSaysWhatItHasIsAskedForNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, loads := NewHub(quietLog()), NewLoads(time.Second, func(Report) {})
		loads.Ask(lookedAt("pay", "shop"))
		lrs := loads.tells(t, h, Node{ID: "edge"})
		time.Sleep(unknownFor + time.Second)
		if has := lrs.now().has; !slices.Equal(has, clustersOf("pay", "shop")) {
			t.Fatalf("told %v", has)
		}
		askedBy(t, h, Node{ID: "edge"}, TypeRoute, "shop")
		if has := lrs.now().has; !slices.Equal(has, clustersOf("shop")) {
			t.Errorf("told %v", has)
		}
	})
}

// A client of the state of the world that does not call itself gRPC is asked for what is looked at, when it has its ADS stream.
func TestAnotherClientHearsOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, loads := NewHub(quietLog()), NewLoads(time.Second, func(Report) {})
		loads.Ask(lookedAt("pay"))
		lrs := loads.tells(t, h, Node{ID: "armeria"})
		end := speaksAs(h, Node{ID: "armeria", Client: true})
		for _, services := range [][]string{{"pay"}, {"pay", "shop"}, {"shop"}} {
			loads.Ask(lookedAt(services...))
			time.Sleep(time.Millisecond)
			if has := lrs.now().has; !slices.Equal(has, clustersOf(services...)) {
				t.Errorf("told %v", has)
			}
		}
		end()
		if len(h.speakers)+len(h.peers) != 0 {
			t.Error("it has not left")
		}
	})
}

// speaksAs begins a stream of the state of the world.
func speaksAs(h *Hub, n Node) (end func()) {
	h.enter()
	defer h.exit()
	st := h.connect(n)
	h.nodes.comes(st)
	h.speaks(st, clientSpeaker{h, &client{stream: st}})
	return func() {
		h.enter()
		defer h.exit()
		h.disconnect(st)
	}
}

// An ADS stream may ask for very many names. They are looked at in portions, once for all streams of reports of its node, and no more of
// them than is looked at anyhow.
func TestManyNamesAreLookedAtOnceAndInPortions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, loads := NewHub(quietLog()), NewLoads(time.Second, func(Report) {})
		services, n := many(3000), Node{ID: "edge"}
		s := askedBy(t, h, n, TypeRoute, services...)
		loads.Ask(lookedAt(services[2500:]...))
		begun := time.Now()
		var all []*telling
		for range 20 {
			all = append(all, loads.tells(t, h, n))
		}
		time.Sleep(time.Second)
		for _, lrs := range all {
			now := lrs.now()
			if least := 1500 / atOnce * pause; now.times != 1 || len(now.has) != 1000 || now.at.Sub(begun) < least || now.at.Sub(begun) > 2*least {
				t.Errorf("told %d times, after %s, %d clusters", now.times, now.at.Sub(begun), len(now.has))
			}
		}
		of := func() reporters {
			synctest.Wait()
			h.enter()
			defer h.exit()
			return *h.reporters[n.identity()]
		}
		if work := of().work; work != 1500 {
			t.Errorf("%d names were looked at", work)
		}
		asks(t, s, more(TypeRoute, "nobody's"))
		time.Sleep(10 * time.Millisecond)
		asks(t, s, more(TypeRoute, "nobody's either"))
		if rs := of(); !rs.rest || !rs.due {
			t.Error("whoever asks for very many names is looked at each time")
		}
		time.Sleep(time.Second)
		if now := all[0].now(); now.times != 1 || s.own.of.asks != s.own.asks || of().due {
			t.Errorf("told %d times, %d of %d names looked at", now.times, s.own.of.asks, s.own.asks)
		}
	})
}

// Envoys with the same services have one list, and one encoding; none keeps more than is looked at.
func TestEnvoysWithTheSameServicesShareTheirList(t *testing.T) {
	h, loads := NewHub(quietLog()), NewLoads(time.Second, func(Report) {})
	loads.Ask(lookedAt("a", "a-b", "b", "c"))
	of := func(id string) list {
		l, _ := loads.of(newReporter(h, loads, Node{ID: id}), list{}, false)
		return l
	}
	askedBy(t, h, Node{ID: "1"}, TypeRoute, append(many(1000), "a", "a-b")...)
	askedBy(t, h, Node{ID: "2"}, TypeCluster, "a-b/v1", "a/v2", "c/v3")
	askedBy(t, h, Node{ID: "3"}, TypeRoute, "a")
	askedBy(t, h, Node{ID: "3"}, TypeRoute, "c")
	one := of("1")
	if one.common.encode() != nil {
		t.Error("the encoding of a list that only one has is kept")
	}
	if two := of("2"); !one.shares(two) || !one.shares(of("1")) || !slices.Equal(one.clusters, clustersOf("a", "a-b")) || cap(one.clusters) > 2*4 || len(two.common.encode()) != one.bytes {
		t.Errorf("%v and %v", one.clusters, two.clusters)
	}
	if three := of("3"); !slices.Equal(three.clusters, clustersOf("a", "c")) {
		t.Errorf("of two ADS streams: %v", three.clusters)
	}
	for i := range 2*ownLists + 1 {
		loads.looked.ofKey(fmt.Sprint(i))
	}
	if n := len(loads.looked.own); n > ownLists {
		t.Errorf("%d lists are kept", n)
	}
}

// A change of what is looked at wakes those whom it concerns.
func TestAChangeConcernsThoseWhoAskForIt(t *testing.T) {
	h, loads := NewHub(quietLog()), NewLoads(time.Second, func(Report) {})
	services := many(3000)
	loads.Ask(append(lookedAt(services...), Asked{Cluster: "s-1/v9"}))
	all := map[string]*reporter{}
	for id, asks := range map[string]Ref{
		"route": {TypeRoute, "s-1"}, "cluster": {TypeCluster, "s-1/v1"}, "gone": {TypeCluster, "s-1/v9"}, "come": {TypeCluster, "s-1/v7"},
		"all": {TypeCluster, "*"}, "other route": {TypeRoute, "s-10"}, "other cluster": {TypeCluster, "s-10/v1"},
	} {
		askedBy(t, h, Node{ID: id}, asks.Type, asks.Name)
		all[id] = newReporter(h, loads, Node{ID: id})
		loads.open(all[id])
	}
	all["stranger"] = newReporter(h, loads, Node{ID: "stranger"})
	loads.open(all["stranger"])
	for _, s := range all {
		<-s.wake
		loads.of(s, list{}, false)
	}
	loads.Ask(append(lookedAt(services...), Asked{Cluster: "s-1/v7"}))
	for id, s := range all {
		want := 1
		if strings.HasPrefix(id, "other") || id == "stranger" {
			want = 0
		}
		if len(s.wake) != want {
			t.Errorf("%s: woken %d times", id, len(s.wake))
		}
	}
}

// A stream that ends while its list is made leaves nothing behind.
func TestAStreamOfReportsThatEndedIsNotNoted(t *testing.T) {
	h, loads := NewHub(quietLog()), NewLoads(0, func(Report) {})
	askedBy(t, h, Node{ID: "edge"}, TypeCluster, "*")
	loads.Ask([]Asked{{Cluster: "pay/v1", Judged: true}})
	s := newReporter(h, loads, Node{ID: "edge"})
	loads.open(s)
	loads.close(s)
	if l, known := loads.of(s, list{}, false); !known || len(l.clusters) != 1 {
		t.Errorf("%v %v", l, known)
	}
	if s.all || s.judging || loads.Often() != atRest || len(loads.streams)+len(loads.paces)+len(h.reporters) != 0 {
		t.Errorf("%+v", s)
	}
}

// Whatever many Envoys are told leaves the network to others, but what has come under judgement is asked for within a second.
func TestALongListHoldsNoJudgementUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, loads := NewHub(quietLog()), NewLoads(0, func(Report) {})
		askedBy(t, h, Node{ID: "edge"}, TypeCluster, "*")
		var looked []Asked
		for i := range 2000 {
			looked = append(looked, Asked{Cluster: fmt.Sprint(strings.Repeat("long-", 100), i, "/v1")})
		}
		loads.Ask(looked)
		var all []*telling
		for range 100 {
			all = append(all, loads.tells(t, h, Node{ID: "edge"}))
		}
		time.Sleep(time.Minute)
		loads.Ask(append(looked, Asked{Cluster: "zz/v2"})) // somebody's new version
		time.Sleep(100 * time.Millisecond)
		loads.Ask(append(looked, Asked{Cluster: "zz/v2"}, Asked{Cluster: "shop/v2", Judged: true})) // a release begins
		time.Sleep(listsMost)
		for _, lrs := range all {
			if now := lrs.now(); !slices.Contains(now.has, "shop/v2") {
				t.Fatalf("after %s an Envoy has a list of %d bytes, and not what has come under judgement", listsMost, now.bulk/now.times)
			}
		}
		time.Sleep(time.Minute)
		for _, lrs := range all {
			if now := lrs.now(); now.times > 5 {
				t.Fatalf("each interval was another list: %d", now.times)
			}
		}
	})
}

// While it is looked up what a stream asks for, which takes pauses, the stream accepts what it was sent: nothing is left out for that.
func TestWhatIsAcceptedMeanwhileIsReported(t *testing.T) {
	var services []string
	for i := range 400 {
		services = append(services, fmt.Sprintf("s-%03d", i))
	}
	mine := services[:300]
	world := func(t *testing.T) (*Hub, *Loads, Node) {
		h := NewHub(quietLog())
		for _, name := range services {
			publish(t, h, onListener(name))
		}
		return h, NewLoads(time.Second, func(Report) {}), Node{ID: "edge", Cluster: "edge"}
	}
	synctest.Test(t, func(t *testing.T) { // its first routes
		h, loads, node := world(t)
		loads.Ask(lookedAt(services...))
		st := loads.tells(t, h, node)
		s := askedBy(t, h, node, TypeRoute, mine...)
		synctest.Wait() // it is being looked up
		accepts(t, s)
		time.Sleep(time.Second)
		if has := st.now().has; !slices.Equal(has, clustersOf(mine...)) {
			t.Errorf("%d clusters are reported of %d services", len(has), len(mine))
		}
	})
	synctest.Test(t, func(t *testing.T) { // the route of a release, while the release is put on the list
		h, loads, node := world(t)
		s := askedBy(t, h, node, TypeRoute, mine...)
		accepts(t, s)
		st := loads.tells(t, h, node)
		all := lookedAt(services...)
		release := slices.IndexFunc(all, func(a Asked) bool { return a.Cluster == "s-150/v2" })
		loads.Ask(slices.Delete(slices.Clone(all), release, release+1))
		time.Sleep(time.Second)
		next := onListener("s-150")
		next.Generation++
		next.Policy.Route.Timeout += policy.Duration(time.Second)
		publish(t, h, next)
		r, nonce, _ := s.next()
		go loads.Ask(all)
		synctest.Wait() // it is being looked up
		asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: r.typ, ResponseNonce: nonce})
		time.Sleep(time.Second)
		if has := st.now().has; !slices.Equal(has, clustersOf(mine...)) {
			t.Errorf("%d clusters are reported of %d services, v2 of the release: %v", len(has), len(mine), slices.Contains(has, "s-150/v2"))
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
	looked   map[string]bool     // clusters
	nodes    map[string][]string // service: its route.nodes
	envoys   []*listEnvoy
}

// listEnvoy is a node with up to two ADS streams.
type listEnvoy struct {
	node    Node
	streams [2]listStream
	lrs     *telling
	away    int // how often it had been told something when its streams went away; -1: they have not
}

type listStream struct {
	ads   *session
	sotw  func() // ends it; nil: it is not of the state of the world
	asked map[Ref]bool
}

func newListWorld(t *testing.T) *listWorld {
	w := &listWorld{t: t, h: NewHub(quietLog()), services: []string{"a", "a-b", "b", "pay"}, looked: map[string]bool{}, nodes: map[string][]string{}}
	w.loads = NewLoads(time.Second, func(Report) {})
	for _, n := range []Node{{ID: "1", Cluster: "edge"}, {ID: "2", Cluster: "other"}, {ID: "3", services: []string{"a*"}}} {
		w.envoys = append(w.envoys, &listEnvoy{node: n, away: -1, lrs: w.loads.tells(t, w.h, n), streams: [2]listStream{{asked: map[Ref]bool{}}, {asked: map[Ref]bool{}}}})
	}
	return w
}

func (w *listWorld) run(ops []byte) {
	for i := 0; i+1 < len(ops); i += 2 {
		e, arg := w.envoys[int(ops[i])%len(w.envoys)], ops[i+1]
		if w.step(e, &e.streams[arg/64%2], ops[i]/3, arg); arg%3 == 0 {
			continue // several things at once
		}
		synctest.Wait()
		time.Sleep(time.Second + time.Duration(arg%4)*30*time.Second)
		w.quiet(false)
	}
	w.quiet(false)
	time.Sleep(2 * outlivingEvery)
	w.quiet(true)
	w.leaveAll()
}

// quiet looks at what all were told.
func (w *listWorld) quiet(late bool) {
	w.h.tick(time.Now())
	synctest.Wait()
	time.Sleep(time.Second)
	for _, e := range w.envoys {
		w.compare(e, late)
	}
}

// leaveAll leaves nothing behind.
func (w *listWorld) leaveAll() {
	for _, e := range w.envoys {
		w.disconnect(&e.streams[0])
		w.disconnect(&e.streams[1])
		e.lrs.end()
	}
	if n := len(w.loads.streams) + len(w.loads.paces) + len(w.loads.hosts) + len(w.h.reporters) + len(w.h.speakers) + len(w.h.subs); n != 0 {
		w.t.Fatalf("%d things are left", n)
	}
}

func (w *listWorld) step(e *listEnvoy, s *listStream, op, arg byte) {
	service := w.services[int(arg/4)%len(w.services)]
	switch op % 11 {
	case 0, 8:
		w.looksAt(service, op%11 == 0)
	case 1:
		w.nodes[service] = [][]string{nil, {"edge"}, {"edge", "other"}}[int(arg/16)%3]
		table := onListener(service)
		table.Policy.Route.Nodes = w.nodes[service]
		publish(w.t, w.h, table)
	case 2:
		w.disconnect(s)
	case 3, 4:
		w.asks(e, s, Ref{TypeRoute, service})
	case 5:
		w.asks(e, s, Ref{TypeCluster, service + "/v1"})
	case 6:
		w.asks(e, s, Ref{TypeCluster, "*"})
	case 7:
		w.leaves(s, []Ref{{TypeRoute, service}, {TypeCluster, service + "/v1"}, {TypeCluster, "*"}}[int(arg/16)%3])
	case 9:
		e.lrs.end()
		e.lrs, e.away = w.loads.tells(w.t, w.h, e.node), -1
	case 10:
		w.disconnect(s)
		s.sotw, e.away = speaksAs(w.h, e.node), -1
	}
}

// looksAt begins or ceases to look at a version of a service, or at two.
func (w *listWorld) looksAt(service string, both bool) {
	w.looked[service+"/v1"] = !w.looked[service+"/v1"]
	if both {
		w.looked[service+"/v2"] = w.looked[service+"/v1"]
	}
	var all []Asked
	for cluster, is := range w.looked {
		if is {
			all = append(all, Asked{Cluster: cluster})
		}
	}
	w.loads.Ask(all)
}

func (w *listWorld) disconnect(s *listStream) {
	if s.ads != nil {
		s.ads.close()
	}
	if s.sotw != nil {
		s.sotw()
	}
	*s = listStream{asked: s.asked}
	clear(s.asked)
}

func (w *listWorld) asks(e *listEnvoy, s *listStream, r Ref) {
	if s.sotw != nil {
		w.disconnect(s)
	}
	if s.ads == nil {
		s.ads = w.h.open(e.node)
	}
	asks(w.t, s.ads, more(r.Type, r.Name))
	s.asked[r], e.away = true, -1
}

func (w *listWorld) leaves(s *listStream, r Ref) {
	if s.ads == nil || s.ads.inv.kinds[r.Type] == nil {
		return
	}
	asks(w.t, s.ads, less(r.Type, r.Name))
	delete(s.asked, r)
}

// wants is what an Envoy is to report; false: nobody knows.
func (w *listWorld) wants(e *listEnvoy) (want map[string]bool, known bool) {
	want = map[string]bool{}
	for _, s := range e.streams {
		known = known || s.sotw != nil || s.ads != nil && s.ads.named()
		for _, name := range w.services {
			all, nodes := s.sotw != nil || s.asked[Ref{TypeCluster, "*"}], w.nodes[name]
			asks := all || s.asked[Ref{TypeRoute, name}] || s.asked[Ref{TypeCluster, name + "/v1"}] && w.looked[name+"/v1"]
			if !asks || !e.node.sees(name) || e.node.Cluster != "" && len(nodes) > 0 && !slices.Contains(nodes, e.node.Cluster) {
				continue
			}
			for _, cluster := range clustersOf(name) {
				want[cluster] = want[cluster] || w.looked[cluster]
			}
		}
	}
	maps.DeleteFunc(want, func(_ string, looked bool) bool { return !looked })
	return want, known
}

// compare looks at what an Envoy was told last.
func (w *listWorld) compare(e *listEnvoy, late bool) {
	want, known := w.wants(e)
	now := e.lrs.now()
	if !known { // nothing that it reports counts
		if e.away > 0 && now.times != e.away {
			w.t.Fatalf("Envoy %s has no ADS stream, and is told %v", e.node.ID, now.has)
		}
		e.away = now.times
		return
	}
	e.away = -1
	for name := range want {
		if !slices.Contains(now.has, name) {
			w.t.Fatalf("Envoy %s is not asked for %s, but for %v; it has %v and %v", e.node.ID, name, now.has, e.streams[0].asked, e.streams[1].asked)
		}
	}
	if late && len(now.has) != len(want) {
		w.t.Fatalf("Envoy %s is asked for %v, and has %v", e.node.ID, now.has, want)
	}
}
