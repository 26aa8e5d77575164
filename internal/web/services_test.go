package web

import (
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

// names of the services of an answer, and what follows them.
func (s *site) names(query string) string {
	s.t.Helper()
	v := s.call("GET", "/api/v1/services"+query, "", 200, "Services")
	var names []string
	for _, svc := range v["services"].([]any) {
		names = append(names, svc.(map[string]any)["service"].(string))
	}
	if next, more := v["next"].(string); more {
		names = append(names, "next="+next)
	}
	return strings.Join(names, " ")
}

func TestServicesArePagedAndSelected(t *testing.T) {
	var policies []string
	for _, name := range []string{"api", "pay", "pay-eu", "shop"} {
		policies = append(policies, fmt.Sprintf("service: %s\nroute: {probe: \"off\", domains: [%s.example.com]}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n", name, name))
	}
	s := newSite(t, policies...)
	s.call("PUT", "/api/v1/services/shop/versions/v2", `{"endpoints":["127.0.0.1:2"]}`, 201, "Version")
	for query, want := range map[string]string{
		"":                        "api pay pay-eu shop",
		"?limit=2":                "api pay next=pay",
		"?limit=2&after=pay":      "pay-eu shop",
		"?match=pay":              "pay pay-eu",
		"?match=p*":               "pay pay-eu",
		"?match=pay-??&limit=1":   "pay-eu",
		"?live=true":              "shop",
		"?live=true&match=pay":    "",
		"?live=false&after=pay-e": "pay-eu shop",
	} {
		if got := s.names(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	for _, query := range []string{"?limit=0", "?limit=x", "?live=maybe", "?match=[a"} {
		s.call("GET", "/api/v1/services"+query, "", 422, "Problem")
	}
}

func TestManyServicesComeInPages(t *testing.T) {
	var all strings.Builder
	for i := range 501 {
		fmt.Fprintf(&all, "---\nservice: s%03d\nroute: {domains: [s%03d.example.com]}\n", i, i)
	}
	s := newSite(t, all.String())
	if got := s.names(""); !strings.HasPrefix(got, "s000 ") || !strings.HasSuffix(got, " s499 next=s499") {
		t.Errorf("%.20s … %s", got, got[len(got)-20:])
	}
	if got := s.names("?after=s499"); got != "s500" {
		t.Errorf("then %s", got)
	}
	if got := s.names("?limit=501"); strings.Contains(got, "next") {
		t.Error("all of them, and more follow")
	}
}

// A glob that the loop would compare with all names for seconds is refused before it is asked, in few words.
func TestAMatchIsNoLongerThanWhatCouldFit(t *testing.T) {
	s := newSite(t, stableShop)
	longest := "*" + strings.Repeat("[a-z]", (longestMatch-1)/len("[a-z]"))
	if got := s.names("?match=" + url.QueryEscape(longest)); got != "" {
		t.Errorf("%s fits 51 letters", got)
	}
	for _, match := range []string{longest + "x", "*[" + strings.Repeat("a-z", 15_000) + "]*", strings.Repeat("[", longestMatch+1)} {
		v := s.call("GET", "/api/v1/services?match="+url.QueryEscape(match), "", 422, "Problem")
		if says := v["detail"].(string); !strings.Contains(says, fmt.Sprintf("match has %d bytes", len(match))) || len(says) > 300 {
			t.Errorf("%.400s", says)
		}
	}
}

// What is warned of is live, and the other way round, where nothing is under test.
func TestWhatIsWarnedOfIsLive(t *testing.T) {
	began, err := time.Unix(1e9, 0), errors.New("something")
	ended := &rollout.Version{Name: "v2", Phase: rollout.Failed, Launch: rollout.Launch{LaunchedAt: began}, Climb: rollout.Climb{FirstWeight: began}}
	node := func(n xds.NodeStatus) func(*controller.Service) {
		return func(c *controller.Service) {
			c.State.Versions = append(c.State.Versions, ended)
			c.Fleet.Nodes = []xds.NodeStatus{{Node: "edge-1", Version: "x", Weights: []rollout.Run{{Version: "v1", Count: 10000}}}, n}
		}
	}
	for name, test := range map[string]struct {
		change func(*controller.Service)
		want   bool
	}{
		"at rest":              {func(*controller.Service) {}, false},
		"one has ended":        {func(c *controller.Service) { c.State.Versions = append(c.State.Versions, ended) }, false},
		"unreadable":           {func(c *controller.Service) { c.Unreadable = err }, true},
		"a defect":             {func(c *controller.Service) { c.Defect = err }, true},
		"not stored":           {func(c *controller.Service) { c.Storing = err }, true},
		"not published":        {func(c *controller.Service) { c.Publishing = err }, true},
		"not reloaded":         {func(c *controller.Service) { c.Policies = err }, true},
		"orphaned":             {func(c *controller.Service) { c.State.Orphaned = true }, true},
		"a contradiction":      {func(c *controller.Service) { c.Conflict = "v1 runs at two places" }, true},
		"a doubt":              {func(c *controller.Service) { c.Doubts = []string{"the source is slow"} }, true},
		"lost reports":         {func(c *controller.Service) { c.Fleet.Lossy = []xds.Lossy{{Node: "edge-1"}} }, true},
		"dropped long ago":     {func(c *controller.Service) { c.Dropped = []metrics.Dropped{{Version: "v1", Total: 9}} }, false},
		"dropped":              {func(c *controller.Service) { c.Dropped = []metrics.Dropped{{Version: "v1", Lately: 1, Total: 9}} }, true},
		"refused before":       {func(c *controller.Service) { c.State.Refused = []rollout.Nack{{Node: "edge-1", Message: "no"}} }, true},
		"refused":              {node(xds.NodeStatus{Node: "edge-2", Why: "no"}), true},
		"behind, and it is v1": {node(xds.NodeStatus{Node: "edge-2", Version: "y", Weights: []rollout.Run{{Version: "v1", Count: 10000}}}), false},
		"behind with v2":       {node(xds.NodeStatus{Node: "edge-2", Version: "y", Weights: []rollout.Run{{Version: "v2", Count: 100}}}), true},
		"behind with anything": {node(xds.NodeStatus{Node: "edge-2", Version: "y"}), true},
		"joining":              {node(xds.NodeStatus{Node: "edge-2"}), false},
		"a reserve":            {func(c *controller.Service) { c.State.Versions[0].Phase = rollout.Warm }, true},
	} {
		c := controller.Service{State: rollout.State{Stable: "v1", Versions: []*rollout.Version{{Name: "v1", Phase: rollout.Stable}}}}
		test.change(&c)
		if got := live(&c); got != test.want {
			t.Errorf("%s: live is %v, want %v", name, got, test.want)
		}
		if ws := warnings(c); len(ws) > 0 != warned(&c) {
			t.Errorf("%s: %q", name, ws)
		}
	}
}

// Who asks for what is live among many services at rest has none of these copied.
func TestWhatIsAtRestIsNotCopied(t *testing.T) {
	const n = 300
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "---\nservice: s%03d\nroute: {probe: \"off\", domains: [s%03d.example.com]}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n", i, i)
	}
	s := newSite(t, all.String())
	copied := func(query string) uint64 {
		var before, after runtime.MemStats
		_ = s.names(query)
		runtime.ReadMemStats(&before)
		if got := s.names(query); got != "" {
			t.Errorf("%s: %s", query, got)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if live, none := copied("?live=true"), copied("?match=none"); live > none+n*500 {
		t.Errorf("%d bytes, and %d where no name matches", live, none)
	}
}
