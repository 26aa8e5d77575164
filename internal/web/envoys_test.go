package web

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
	"github.com/canaryd/canaryd/internal/xds"
)

// connect runs some Envoys on the site; each is stopped by its own function.
func (s *site) connect(n int, traffic world.Traffic) (leave []func()) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	srv := xds.NewServer(s.hub, xds.NewLoads(time.Second, func(xds.Report) {}), nil)
	go func() { _ = srv.Serve(l) }()
	s.t.Cleanup(srv.Stop)
	for i := range n {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			s.t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		e := world.NewEnvoy(fmt.Sprintf("edge-%d", i), uint64(i), traffic)
		go func() { e.Run(ctx, conn); close(done) }()
		stop := func() { cancel(); <-done; _ = conn.Close() }
		leave = append(leave, stop)
		s.t.Cleanup(stop)
	}
	return leave
}

func (s *site) until(what string, f func() bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	s.t.Fatalf("never: %s", what)
}

// Who has what is told by node: counted in the list of services, named in that of the Envoys; one that loses
// its connection is not forgotten until a person says so.
func TestEnvoysAreTold(t *testing.T) {
	s := newSite(t, "service: shop\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n")
	leave := s.connect(3, world.Traffic{Service: "shop", PerSecond: 1, ErrorRate: func(string, time.Time) float64 { return 0 }})
	count := func(standing string) float64 {
		counts, _ := s.call("GET", "/api/v1/services/shop", "", 200, "Service")["envoys"].(map[string]any)
		n, _ := counts[standing].(float64)
		return n
	}
	s.until("three Envoys have the table", func() bool { return count("applied") == 3 })
	leave[1]()
	s.until("one is gone", func() bool { return count("applied") == 2 && count("gone") == 1 })
	doc := s.call("GET", "/api/v1/envoys?service=shop", "", 200, "Nodes")
	if text := fmt.Sprint(doc); strings.Count(text, "standing:applied") < 2 || !strings.Contains(text, "standing:gone") || !strings.Contains(text, "weights:map[v1:1]") {
		t.Errorf("%s", text)
	}
	page := s.call("GET", "/api/v1/envoys?limit=2", "", 200, "Nodes")
	rest := s.call("GET", "/api/v1/envoys?limit=2&after="+strings.ReplaceAll(page["next"].(string), " ", "%20"), "", 200, "Nodes")
	if a, b := page["nodes"].([]any), rest["nodes"].([]any); len(a) != 2 || len(b) != 1 {
		t.Errorf("%d and %d", len(a), len(b))
	}
	s.call("DELETE", "/api/v1/envoys/edge-1", "", 204, "")
	s.until("it is forgotten", func() bool { return count("gone") == 0 })
	s.until("the history says who had it forgotten", func() bool {
		return slices.ContainsFunc(s.history("shop"), func(e map[string]any) bool {
			return e["event"] == "forgotten" && e["by"] == "127.0.0.1" && strings.Contains(fmt.Sprint(e["reason"]), "Envoy edge-1 is forgotten")
		})
	})
	s.call("DELETE", "/api/v1/envoys/edge-1", "", 404, "Problem")
	s.call("GET", "/api/v1/envoys?service=nosuch", "", 404, "Problem")
	s.call("GET", "/api/v1/envoys?limit=0", "", 422, "Problem")
}

func TestLossyEnvoysAreWarnedOf(t *testing.T) {
	var c controller.Service
	for range namedEnvoys + 2 {
		c.Fleet.Lossy = append(c.Fleet.Lossy, xds.Lossy{Node: "edge-1", Build: "envoy 1.37.0"})
	}
	ws := warnings(c)
	if len(ws) != namedEnvoys+1 || !strings.HasPrefix(ws[0], "Envoy edge-1 (envoy 1.37.0) loses load reports") || !strings.HasPrefix(ws[namedEnvoys], "and 2 more") {
		t.Errorf("%q", ws)
	}
}

// Of those that refuse a listener and have no route the first are named, and all are counted.
func TestEnvoysThatRefuseAListenerAreCounted(t *testing.T) {
	var c controller.Service
	for range 16 {
		c.Fleet.Nodes = append(c.Fleet.Nodes, xds.NodeStatus{Node: "edge-1", Type: "listener", Resource: "0.0.0.0:80", Why: "in use"})
	}
	c.Fleet.Unlisted = 100
	if ws := warnings(c); len(ws) != namedEnvoys+1 || ws[0] != "Envoy edge-1 refuses the listener 0.0.0.0:80: in use" || !strings.HasPrefix(ws[namedEnvoys], "and 106 more") {
		t.Errorf("%q", ws)
	}
}

// What a node has is not known where its last answer was lost and canaryd was started since: then all versions are named that
// it may have.
func TestWhoMayHaveAnythingIsWarnedOf(t *testing.T) {
	began := time.Unix(1e9, 0)
	c := controller.Service{State: rollout.State{Versions: []*rollout.Version{
		{Name: "v1", Phase: rollout.Stable, Launch: rollout.Launch{LaunchedAt: began}, Climb: rollout.Climb{FirstWeight: began}},
		{Name: "v2", Phase: rollout.Failed, Launch: rollout.Launch{LaunchedAt: began}, Climb: rollout.Climb{FirstWeight: began}},
		{Name: "v3", Phase: rollout.Failed, Climb: rollout.Climb{FirstWeight: began}},   // stopped
		{Name: "v4", Phase: rollout.Warming, Launch: rollout.Launch{LaunchedAt: began}}, // never served
	}, Stable: "v1"}}
	c.Fleet.Nodes = []xds.NodeStatus{{Node: "edge-3", Standing: xds.Gone, Version: "x"}, {Node: "edge-4", Standing: xds.Joining}}
	if got := fmt.Sprint(fleetWarnings(c)); got != "[Envoy edge-3 (gone) may still send users to v2]" {
		t.Error(got)
	}
}
