package e2e

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

// tallied counts what endpoints were asked for, and answered.
type tallied struct {
	mu     sync.Mutex
	counts map[xds.Answered]float64
}

func (c *tallied) add(a xds.Answered, n float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[xds.Answered]float64{}
	}
	c.counts[a] += n
}

func (c *tallied) all() map[xds.Answered]float64 {
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
			counts.add(xds.Answered{Endpoint: address, Class: r.Header.Get("x-class"), Code: code}, 1)
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
		for a, n := range load.Answers {
			r.answers.add(a, n)
		}
		r.mu.Lock()
		for _, n := range load.Took {
			r.timed += n
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
				t.Logf("%g answers in %d kinds; %s", asked, len(want), strings.TrimSpace(fmt.Sprint(want)))
			})
		}
	}
}
