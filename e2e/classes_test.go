package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

// tallied counts what endpoints were asked for, and answered.
type tallied struct {
	mu     sync.Mutex
	counts map[analysis.Answered]float64
}

func (c *tallied) add(a analysis.Answered, n float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[analysis.Answered]float64{}
	}
	c.counts[a] += n
}

func (c *tallied) all() map[analysis.Answered]float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}

// obliging answers with the status that it is asked for, and counts by the class that the client expects. It says of its load
// what nobody may hear.
func obliging(t *testing.T, counts *tallied) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code := r.Header.Get("x-want")
		if r.Header.Get("x-canary") == "" && code != "" { // testers are counted by nobody
			counts.add(analysis.Answered{Endpoint: address, Class: r.Header.Get("x-class"), Code: code}, 1)
		}
		w.Header().Set("endpoint-load-metrics", "TEXT named_metrics.own.200=7,cpu_utilization=0.5")
		w.Header().Set("x-endpoint", address)
		if n, err := strconv.Atoi(code); err == nil {
			w.WriteHeader(n)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return address
}

// reporting serves a table of the test's own to a real Envoy, and sums what that reports of users.
type reporting struct {
	*scene
	hub     *xds.Hub
	answers tallied
	mu      sync.Mutex
	timed   float64
	issued  float64
	sum     float64
}

func newReporting(t *testing.T, envoy string, tab rollout.Table) *reporting {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	r := &reporting{hub: xds.NewHub(log)}
	if err := r.hub.PublishTable(tab); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	loads := xds.NewLoads(200*time.Millisecond, r.take)
	var asked []xds.Asked
	for _, c := range tab.Clusters {
		asked = append(asked, xds.Asked{Cluster: xds.ClusterID{Service: tab.Service, Version: c.Version}.String(), Judged: true, Endpoints: len(c.Endpoints)})
	}
	loads.Ask(asked)
	srv := xds.NewServer(r.hub, loads, nil)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	r.scene = &scene{t: t, Stage: &rig.Stage{Dir: t.TempDir(), Envoy: part(t, envoy), XDS: l.Addr().String()}}
	if envoy == "envoy-oldest" {
		r.EnvoyVersion = "1.36"
	}
	t.Cleanup(r.Close)
	if _, r.admin, err = r.StartEnvoy(t.Context(), "edge-1", "edge", nil); err != nil {
		t.Fatal(err)
	}
	if st, ok := settled(r.hub, tab.Service, tab.Generation, 20*time.Second); !ok || !st.InForce {
		t.Fatalf("%+v", st)
	}
	r.front = tab.Policy.Route.Listener
	r.until(20*time.Second, "the first report", func() bool { return len(loads.Nodes()) == 1 })
	return r
}

func (r *reporting) take(report xds.Report) {
	for name, load := range report.Clusters {
		if id, _ := xds.ParseCluster(name); id.Role != xds.Users {
			continue
		}
		for _, a := range load.Answers {
			n := a.N
			a.N = 0
			r.answers.add(a, n)
		}
		r.mu.Lock()
		for _, t := range load.Took {
			r.timed += t.N
		}
		r.issued += load.Issued
		r.sum += load.Counts.Requests
		r.mu.Unlock()
	}
}

func (r *reporting) sums() (requests, issued, timed float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sum, r.issued, r.timed
}

// classedTable has three classes beside the rest, and whatever a service may have.
func classedTable(front string, v1, v2 []string) rollout.Table {
	tab := tableOf("shop", front, "*", 1, 2000, v1[0], v2[0])
	tab.Clusters[0].Endpoints, tab.Clusters[1].Endpoints = v1, v2
	for i := range tab.Clusters {
		tab.Clusters[i].Pinned, tab.Clusters[i].Pin = true, "pin-"+tab.Clusters[i].Version
	}
	p := tab.Policy
	p.Route.Classes = []policy.Class{{Name: "checkout", Method: "POST", Path: "/checkout"}, {Name: "item", Template: "/items/*"}, {Name: "api_v", Regex: "/v[0-9]+/.*"}}
	p.Route.Testers = &policy.Testers{Header: "x-canary"}
	p.Sessions = &policy.Sessions{Cookie: "sid", TTL: policy.Duration(time.Minute)}
	return tab
}

var classQuestions = []struct{ method, path, class, want string }{
	{"POST", "/checkout", "checkout", "200"}, {"POST", "/checkout?a=/items/1", "checkout", "503"}, {"GET", "/checkout", "rest", "200"}, {"GET", "/items/7", "item", "404"}, {"GET", "/items/7/x", "rest", "200"},
	{"GET", "/v1/a", "api_v", "201"}, {"GET", "/", "rest", "500"}, {"POST", "/items/9?x=y", "item", "200"},
}

// Real Envoys count answers by class, status and endpoint, whichever way a request takes, and nobody sees how.
func TestEnvoysCountByClass(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"envoy-newest", "envoy-oldest"} {
		for _, per := range []string{policy.PerRequest, policy.PerUser} {
			t.Run(envoy+" per "+per, func(t *testing.T) {
				t.Parallel()
				var counts tallied
				tab := classedTable(rig.FreeAddress(), []string{obliging(t, &counts), obliging(t, &counts)}, []string{obliging(t, &counts)})
				tab.Policy.Ramp.Per = per
				if per == policy.PerUser {
					tab.Policy.Route.UserKey = &policy.UserKey{Cookie: "uid"}
					tab.Policy.Judge.Slow = &policy.Slow{}
				}
				r := newReporting(t, envoy, tab)
				for i := range 600 {
					q := classQuestions[i%len(classQuestions)]
					req, err := http.NewRequestWithContext(t.Context(), q.method, "http://"+r.front+q.path, nil)
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("x-want", q.want)
					req.Header.Set("x-class", q.class)
					switch i / len(classQuestions) % 5 {
					case 1:
						req.Header.Set("cookie", "sid=pin-v2")
					case 2:
						req.Header.Set("x-canary", "v2")
					case 3:
						req.Header.Set("cookie", "uid="+strconv.Itoa(i))
					}
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					if strconv.Itoa(resp.StatusCode) != q.want || resp.Header.Get("endpoint-load-metrics") != "" {
						t.Fatalf("%s %s: %d, want %s; %v", q.method, q.path, resp.StatusCode, q.want, resp.Header)
					}
				}
				want := counts.all()
				asked := 0.0
				for _, n := range want {
					asked += n
				}
				r.until(10*time.Second, "all reports", func() bool { n, _, _ := r.sums(); return n >= asked })
				if got := r.answers.all(); !maps.Equal(got, want) {
					t.Errorf("reported %v\ncounted %v", got, want)
				}
				sum, issued, timed := r.sums()
				if sum != asked || issued != asked || timed != map[string]float64{policy.PerRequest: 0, policy.PerUser: asked}[per] {
					t.Errorf("%g requests asked for, %g reported, %g issued, %g timed", asked, sum, issued, timed)
				}
				t.Logf("%g answers in %d kinds", asked, len(want))
			})
		}
	}
}

// What `check` takes of patterns Envoys take, and read as it says.
func TestEnvoysReadPatternsAsCheckDoes(t *testing.T) {
	t.Parallel()
	const text = `service: shop
route:
  classes:
  - {name: one, template: "/a/*"}
  - {name: inner, template: "/b/*/c"}
  - {name: many, template: "/d/**"}
  - {name: png, template: "/e/**.png"}
  - {name: jpg, template: "/f/*.jpg"}
  - {name: odd, template: "/g-h.i_j~k%20l/@m:n/*"}
  - {name: uuid, regex: "/u/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"}
  - {name: segments, regex: "/[^/]+/[^/]+/[^/]+/[^/]+/[^/]+/[^/]+/[^/]+/[^/]+"}
  - {name: words, regex: "/w/(?:cart|order|checkout|payment|invoice|refund|customer|basket)(?:/.*)?"}
  - {name: nocase, regex: "(?i)/abc/.*"}
  - {name: ten, template: "/*/*/*/*/*/*/*/*/*/*"}
  - {name: del, method: DELETE, prefix: /}
`
	docs, fs := policy.Parse("f", []byte(text))
	if len(fs.Errors()) > 0 {
		t.Fatal(fs)
	}
	for _, envoy := range []string{"envoy-newest", "envoy-oldest"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			var counts tallied
			address := obliging(t, &counts)
			tab := tableOf("shop", rig.FreeAddress(), "*", 1, 0, address)
			tab.Policy.Route.Classes = docs[0].Policy.Route.Classes
			r := newReporting(t, envoy, tab)
			want := map[analysis.Answered]float64{}
			for path, class := range map[string]string{"/a/1": "one", "/a/1?x=/": "one", "/a/": "rest", "/a": "rest", "/a/1/2": "rest", "/b/1/c": "inner", "/b//c": "rest", "/d/1": "many", "/d/1/2/3": "many", "/e/x/y.png": "png", "/e/y.png": "png", "/e/y.jpg": "rest",
				"/f/x.jpg": "jpg", "/f/x/y.jpg": "rest", "/g-h.i_j~k%20l/@m:n/7": "odd", "/u/01234567-89ab-cdef-0123-456789abcdef": "uuid", "/u/x": "rest", "/1/2/3/4/5/6/7/8": "segments", "/w/cart": "words", "/w/cart/7": "words", "/w/carts": "rest", "/ABC/d": "nocase",
				"/1/2/3/4/5/6/7/8/9/0": "ten", "DELETE /x": "del"} {
				method, rest, other := strings.Cut(path, " ")
				if !other {
					method, rest = "GET", path
				}
				req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.front+rest, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("x-want", "200")
				req.Header.Set("x-class", class)
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				want[analysis.Answered{Endpoint: address, Class: class, Code: "200"}]++
			}
			r.until(10*time.Second, "all reports", func() bool { n, _, _ := r.sums(); return n >= 24 })
			if got := r.answers.all(); !maps.Equal(got, want) {
				t.Errorf("Envoy says\n%v\nwant\n%v", got, want)
			}
		})
	}
}

// Of gRPC the class is the method, and the status stands in the trailers or, where a call fails at once, in the headers.
func TestEnvoysCountGRPCByClass(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"envoy-newest", "envoy-oldest"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			v1 := newGRPCVersion(t)
			tab := tableOf("shop", rig.FreeAddress(), "*", 1, 0, v1.address)
			tab.Policy.Route.Protocol = policy.ProtocolGRPC
			tab.Policy.Route.Classes = []policy.Class{{Name: "check", GRPC: "grpc.health.v1.Health/Check"}}
			tab.Policy.Judge.Slow = &policy.Slow{}
			r := newReporting(t, envoy, tab)
			conn, err := grpc.NewClient(r.front, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			client, want := grpc_health_v1.NewHealthClient(conn), map[analysis.Answered]float64{}
			for i := range 200 {
				status := []codes.Code{codes.OK, codes.NotFound, codes.Internal, codes.OK}[i%4]
				v1.status.Store(uint32(status))
				var header metadata.MD
				_, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}, grpc.Header(&header))
				if grpcstatus.Code(err) != status || len(header.Get("endpoint-load-metrics")) > 0 {
					t.Fatalf("%v, want %s; %v", err, status, header)
				}
				want[analysis.Answered{Endpoint: v1.address, Class: "check", Code: fmt.Sprint("grpc-", int(status))}]++
			}
			if _, err := client.List(t.Context(), &grpc_health_v1.HealthListRequest{}); grpcstatus.Code(err) != codes.Unimplemented {
				t.Fatal(err)
			}
			want[analysis.Answered{Endpoint: v1.address, Class: "rest", Code: "grpc-12"}]++
			r.until(10*time.Second, "all reports", func() bool { n, _, _ := r.sums(); return n >= 201 })
			if got := r.answers.all(); !maps.Equal(got, want) {
				t.Errorf("reported %v\nmade     %v", got, want)
			}
			if sum, issued, timed := r.sums(); sum != 201 || issued != 201 || timed != 201 {
				t.Errorf("%g calls reported, %g issued, %g timed, of 201", sum, issued, timed)
			}
		})
	}
}

// What Envoys count by class reaches the judgement, and the journal, and is taken again from there byte for byte.
func TestClassesReachTheJournal(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"envoy-newest", "envoy-oldest"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			classesReachTheJournal(t, envoy)
		})
	}
}

func classesReachTheJournal(t *testing.T, envoy string) {
	s := newScene(t, setting{envoy: envoy, route: "classes: [{name: checkout, path: /checkout}, {name: item, template: /items/*}]", ramp: "ramp: {steps: [50%, 100%], hold: 2s}\njudge: {clump: 1, budget: 100000}\n"})
	for _, path := range []string{"checkout", "items/7", ""} {
		l := &rig.Load{URL: "http://" + s.front + "/" + path, Rate: 100}
		l.Start(context.WithoutCancel(t.Context()))
		t.Cleanup(func() { l.Stop() })
	}
	v2 := s.version("v2")
	s.run(0, s.deploy(v2)...)
	s.until(20*time.Second, "v2 in force", func() bool { return s.Version("shop", "v2").InForce && v2.Count().Requests > 100 })
	v2.Fail(0.5)
	s.phase("v2", 40*time.Second, rollout.Failed)
	answers, counts := map[string]analysis.Counts{}, analysis.Counts{}
	s.until(10*time.Second, "the journal", func() bool {
		clear(answers)
		counts = analysis.Counts{}
		for _, c := range s.cells() {
			counts = counts.Add(c.Counts["v2"])
			for _, a := range c.Answers["v2"] {
				answers[a.Class+" "+a.Code] = answers[a.Class+" "+a.Code].Add(a.Counts)
			}
		}
		return counts.Errors > 0
	})
	sum := analysis.Counts{}
	for kind, n := range answers {
		sum = sum.Add(n)
		if failed := strings.HasSuffix(kind, "500"); failed != (n.Errors > 0) {
			t.Errorf("%s: %+v", kind, n)
		}
	}
	for _, class := range []string{"checkout", "item", "rest"} {
		if answers[class+" 200"].Requests < 10 || answers[class+" 500"].Errors < 1 {
			t.Errorf("of class %s: %v", class, answers)
		}
	}
	if sum.Requests > counts.Requests || sum.Requests < 0.9*counts.Requests || sum.Errors > counts.Errors || sum.Errors < 0.9*counts.Errors {
		t.Errorf("%+v by class, %+v in all", sum, counts)
	}
	t.Logf("%+v by class, %+v in all: %v", sum, counts, answers)
	if out := s.run(0, "replay", "shop"); !strings.Contains(out, "v2") {
		t.Error(out)
	}
}

// cells are all that the journal has of what was counted.
func (s *scene) cells() (cells []rollout.Cell) {
	s.t.Helper()
	resp, err := http.Get("http://" + s.Web + "/api/v1/services/shop/journal")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	rd, err := journal.NewReader()
	if err != nil {
		s.t.Fatal(err)
	}
	in := bufio.NewReader(resp.Body)
	for {
		parts, err := journal.ReadFrame(in)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(parts) == 0 {
			return cells
		}
		c, err := rd.Read(parts)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range c.Events {
			if o, ok := e.(rollout.Observed); ok {
				cells = append(cells, o.Cells...)
			}
		}
	}
}

// A weight change with 20 classes of all kinds, three versions, pins and testers, beside one without classes.
func TestFigureWeightInForceWith20Classes(t *testing.T) {
	v1, err := rig.NewService("v1", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v1.Close)
	for _, classes := range []int{0, policy.ClassesMost} {
		front := rig.FreeAddress()
		table := func(generation uint64, v2 int) rollout.Table {
			tab := classedTable(front, []string{v1.Address}, []string{v1.Address})
			tab.Generation, tab.Slots = generation, []rollout.Run{{Version: "v1", Count: 10000 - v2}, {Version: "v2", Count: v2}}
			tab.Clusters = append(tab.Clusters, rollout.Cluster{Version: "v3", Endpoints: []string{v1.Address}, Pinned: true, Pin: "pin-v3"})
			tab.Policy.Route.Classes = nil
			for i := range classes {
				name := fmt.Sprint("class-", i)
				tab.Policy.Route.Classes = append(tab.Policy.Route.Classes, []policy.Class{{Name: name, Method: "POST", Path: "/" + name}, {Name: name, Prefix: "/" + name + "/"}, {Name: name, Template: "/" + name + "/*/x"}, {Name: name, Regex: "/v[0-9]+/" + name + "/[^/]+"}}[i%4])
			}
			return tab
		}
		hub, _ := hubWithEnvoy(t, table(1, 100))
		if st, ok := settled(hub, "shop", 1, 40*time.Second); !ok || !st.InForce {
			t.Fatalf("never in force: %+v", st)
		}
		var took []time.Duration
		for i := range 200 {
			begin := time.Now()
			if err := hub.PublishTable(table(uint64(i+2), 101+i)); err != nil {
				t.Fatal(err)
			}
			if st, ok := settled(hub, "shop", uint64(i+2), 5*time.Second); !ok || !st.InForce {
				t.Fatalf("%+v", st)
			}
			took = append(took, time.Since(begin))
			time.Sleep(5 * time.Millisecond)
		}
		slices.Sort(took)
		gone, all := cuts(t, hub, 300, table)
		t.Logf("FIGURE weight to in force, three versions, pins and testers, %d classes and the rest, %d changes: p50 %.2f ms, p99 %.2f ms, max %.2f ms; a cut: p50 %.2f ms until the version is out of the route, %.2f ms until the classes are back in it", classes, len(took),
			ms(took[len(took)/2]), ms(took[len(took)*99/100]), ms(took[len(took)-1]), ms(gone), ms(all))
		if classes > 0 {
			within(t, "the median change", took[len(took)/2], 12*time.Millisecond)
			within(t, "the median cut", gone, 3*time.Millisecond)
		}
	}
}

// cuts takes v2 out of the route and puts it back some times. It returns the medians until the Envoy has the route without it,
// and until it has all of the table.
func cuts(t *testing.T, hub *xds.Hub, generation uint64, table func(uint64, int) rollout.Table) (gone, all time.Duration) {
	t.Helper()
	var out, whole []time.Duration
	for range 30 {
		cut := table(generation, 500)
		cut = cut.Without([]string{"v2"}, "")
		time.Sleep(5 * time.Millisecond) // the Envoy tidies up after the change before, which is no part of a cut
		begin := time.Now()
		if err := hub.PublishTable(cut); err != nil {
			t.Fatal(err)
		}
		for routesTo(hub, "v2") {
			if time.Since(begin) > time.Minute {
				t.Fatal("the Envoy does not take the cut")
			}
			time.Sleep(100 * time.Microsecond)
		}
		out = append(out, time.Since(begin))
		if st, ok := settled(hub, "shop", generation, 5*time.Second); !ok || !st.InForce {
			t.Fatalf("%+v", st)
		}
		whole = append(whole, time.Since(begin))
		if err := hub.PublishTable(table(generation+1, 500)); err != nil {
			t.Fatal(err)
		}
		if st, ok := settled(hub, "shop", generation+1, 20*time.Second); !ok || !st.InForce {
			t.Fatalf("%+v", st)
		}
		generation += 2
	}
	slices.Sort(out)
	slices.Sort(whole)
	return out[len(out)/2], whole[len(whole)/2]
}

func routesTo(hub *xds.Hub, version string) bool {
	for e := range hub.EnvoysAfter("", "") {
		for _, s := range e.Services {
			if slices.ContainsFunc(s.Weights, func(r rollout.Run) bool { return r.Version == version }) {
				return true
			}
		}
	}
	return false
}

// Switching classes on, to other ones, and off again changes the clusters under load. Nobody notices.
func TestSwitchingClassesCostsNoRequest(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"envoy-newest", "envoy-oldest"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, setting{envoy: envoy})
			load := s.load(200)
			plain := policyText(s.front, s.versions["v1"].Address, "")
			for _, classes := range []string{"[{name: a, path: /a}]", "[{name: a, path: /a}, {name: b, template: /b/*}]", ""} {
				text := plain
				if classes != "" {
					text = strings.Replace(text, "route: {", "route: {classes: "+classes+", ", 1)
				}
				if err := s.WritePolicy("shop.yml", text); err != nil {
					t.Fatal(err)
				}
				if code, body := post(t, "http://"+s.Web+"/-/reload"); code != http.StatusOK {
					t.Fatal(body)
				}
				want := strings.Contains(classes, "b")
				s.until(20*time.Second, "the Envoy to have them", func() bool {
					_, dump := get(t, "http://"+s.admin+"/config_dump?include_eds")
					return strings.Contains(dump, "endpoint-load-metrics") == (classes != "") && strings.Contains(dump, `"/b/*"`) == want
				})
				time.Sleep(500 * time.Millisecond)
			}
			if sent := load.Stop(); sent.Failed > 0 || sent.Requests < 100 {
				t.Error(sent)
			}
		})
	}
}
