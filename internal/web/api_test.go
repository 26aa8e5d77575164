package web

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/xds"
)

// site is the API in front of a real daemon without Envoys.
type site struct {
	disk *disk
	hub  *xds.Hub
	*httptest.Server
	t        *testing.T
	dir      string
	registry *prometheus.Registry
	endpoint string // something that answers
	schemas  map[string]*jsonschema.Resolved
	stop     func() // the loop, and only that
}

func newSite(t *testing.T, policies ...string) *site {
	t.Helper()
	return newSiteWith(t, Options{}, policies...)
}

// newSiteWith serves on loopback, as the daemon does unless it is told otherwise.
func newSiteWith(t *testing.T, o Options, policies ...string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), registry: prometheus.NewRegistry()}
	for i, p := range policies {
		s.write(string(rune('a'+i))+".yml", p)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	db, err := store.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	hub := xds.NewHub(log)
	src := metrics.NewEnvoy(func() time.Duration { return time.Second }, func() []string { return nil })
	s.disk, s.hub = &disk{Bolt: db}, hub
	c, err := controller.New(controller.Options{Log: log, Store: s.disk, Hub: hub, Source: src, Policies: []string{filepath.Join(s.dir, "*.yml")}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = c.Run(ctx); close(done) }()
	s.registry.MustRegister(NewCollector(c, src))
	s.Server = httptest.NewUnstartedServer(nil)
	o.Log, o.Controller, o.Registry = log, c, s.registry
	if o.Listener == nil {
		o.Listener = s.Listener.Addr()
	}
	s.Config.Handler = asDocumented(t, NewHandler(o))
	s.Start()
	s.stop = func() { cancel(); <-done }
	t.Cleanup(func() { s.Close(); s.stop(); _ = db.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s.endpoint = l.Addr().String()
	s.readSchemas()
	return s
}

func (s *site) write(name, text string) {
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// readSchemas makes the document's component schemas usable on their own.
func (s *site) readSchemas() {
	var doc struct {
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(openapi, &doc); err != nil {
		s.t.Fatal(err)
	}
	defs, err := json.Marshal(doc.Components.Schemas)
	if err != nil {
		s.t.Fatal(err)
	}
	text := strings.ReplaceAll(string(defs), "#/components/schemas/", "#/$defs/")
	s.schemas = map[string]*jsonschema.Resolved{}
	for name := range doc.Components.Schemas {
		var schema jsonschema.Schema
		if err := json.Unmarshal([]byte(`{"$ref":"#/$defs/`+name+`","$defs":`+text+`}`), &schema); err != nil {
			s.t.Fatal(err)
		}
		r, err := schema.Resolve(nil)
		if err != nil {
			s.t.Fatalf("%s: %v", name, err)
		}
		s.schemas[name] = r
	}
}

// call checks the status and that the answer fits the schema of the document.
func (s *site) call(method, path, body string, want int, schema string) map[string]any {
	s.t.Helper()
	req, err := http.NewRequest(method, s.URL+path, bytes.NewBufferString(body))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != want {
		s.t.Fatalf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, want, raw)
	}
	var v map[string]any
	if schema == "" {
		return nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		s.t.Fatalf("%s %s: %v: %s", method, path, err, raw)
	}
	if err := s.schemas[schema].Validate(v); err != nil {
		s.t.Errorf("%s %s does not fit %s: %v\n%s", method, path, schema, err, raw)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") != (schema == "Problem") {
		s.t.Errorf("%s %s is %s", method, path, resp.Header.Get("Content-Type"))
	}
	return v
}

func TestTheAPIAnswersAsItsDocumentSays(t *testing.T) {
	s := newSite(t, "service: shop\nramp: {steps: [10%, 100%]}\n")
	v := "/api/v1/services/shop/versions/"
	where := `{"endpoints": ["` + s.endpoint + `"]}`
	if svc := s.call("GET", "/api/v1/services/shop", "", 200, "Service"); svc["stable"] != nil {
		t.Errorf("a service without versions has stable %v", svc["stable"])
	}
	first := s.call("PUT", v+"v1", where, 201, "Version")
	if first["phase"] != "stable" || first["weight"] != 1.0 || first["error_rate"] != nil || first["in_force"] != false {
		t.Errorf("the first version is %v", first)
	}
	s.call("PUT", v+"v1", where, 200, "Version")
	s.call("PUT", v+"v2", where, 201, "Version")
	s.call("GET", "/api/v1/services/shop", "", 200, "Service")
	deadline := time.Now().Add(time.Minute)
	for s.call("PUT", v+"v2", where, 200, "Version")["phase"] != "canary" && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if p := s.call("POST", v+"v2/pause", "", 200, "Version"); p["phase"] != "paused" || p["weight"] != 0.1 {
		t.Errorf("paused: %v", p)
	}
	s.call("POST", "/api/v1/services/shop/resume", "", 200, "Version")
	s.call("POST", v+"v2/abort", "", 200, "Version")
	again := s.call("PUT", v+"v2", where, 200, "Version")
	if again["phase"] != "aborted" {
		t.Errorf("announced again it is %v", again["phase"])
	}
	s.call("PUT", v+"v2?again=true", where, 201, "Version")
	s.call("POST", v+"v2/promote", "", 200, "Version")
	if known := s.call("PUT", v+"v2", "", 200, "Version"); known["attempt"] != 2.0 || known["phase"] != "stable" {
		t.Errorf("the stable version, announced again: %v", known)
	}
	s.call("POST", v+"v2/abort", "", 200, "Version") // v1 is warm
	s.call("PUT", v+"v3", where, 201, "Version")
	s.call("POST", v+"v3/promote", "", 200, "Version")
	if anew := s.call("PUT", v+"v1", "", 201, "Version"); anew["attempt"] != 2.0 || anew["phase"] != "warming" { // it was warm
		t.Errorf("the warm version, announced again: %v", anew)
	}
	for deadline := time.Now().Add(time.Minute); s.call("PUT", v+"v1", where, 200, "Version")["phase"] != "canary" && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // it is asked anew whether it answers
	}
	s.call("POST", v+"v1/abort", "", 200, "Version")
	s.call("PUT", v+"v1?again=perhaps", where, 422, "Problem")
	s.call("GET", "/api/v1/services/shop/history?limit=5", "", 200, "")
	h := s.history("shop")
	if len(h) < 8 {
		t.Errorf("%d records", len(h))
	}
	for _, e := range h {
		if err := s.schemas["Entry"].Validate(e); err != nil {
			t.Errorf("%v: %v", e, err)
		}
		if e["policy"] == "" || e["by"] == "" {
			t.Errorf("a record without policy or author: %v", e)
		}
	}
}

func (s *site) history(service string) []map[string]any {
	resp, err := http.Get(s.URL + "/api/v1/services/" + service + "/history")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc struct{ History []map[string]any }
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		s.t.Fatal(err)
	}
	return doc.History
}

func TestTroubleIsAProblemDocument(t *testing.T) {
	s := newSite(t, "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n")
	v := "/api/v1/services/shop/versions/"
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/api/v1/services/nosuch", "", 404, "there is no service nosuch"},
		{"GET", "/api/v1/services/nosuch/history", "", 404, "there is no service nosuch"},
		{"PUT", "/api/v1/services/nosuch/versions/v1", `{"endpoints":["127.0.0.1:1"]}`, 404, "there is no service nosuch"},
		{"POST", v + "v9/promote", "", 404, "no version v9"},
		{"POST", v + "v1/explode", "", 404, "no such call"},
		{"POST", v + "v1/promote", "", 409, "is stable already"},
		{"POST", v + "v1/abort", "", 409, "no trusted version answers"},
		{"POST", "/api/v1/services/shop/abort", "", 409, "has no canary to abort"},
		{"POST", v + "v1/promote?even_failed=1", "", 422, "write true or false"},
		{"PUT", v + "v2", "", 422, "no endpoints"},
		{"PUT", v + "v2", "{", 422, "the body is not"},
		{"PUT", v + "v2", `{"endpoints":["127.0.0.1:1"],"pasued":true}`, 422, `unknown field "pasued"`},
		{"PUT", v + "v2", "null", 422, "write one object"},
		{"PUT", v + "v2", `{"endpoints":["127.0.0.1:1"],"Paused":true}`, 422, `"Paused" is not a key here`},
		{"PUT", v + "v2", `{"endpoints":["127.0.0.1:1"],"endpoints":["127.0.0.1:2"]}`, 422, `"endpoints" is not a key here, or is there twice`},
		{"PUT", v + "v2", `{"endpoints":["127.0.0.1:1"]} {}`, 422, "write one object"},
		{"GET", "/api/v1/services?limit=1&limit=2", "", 422, `"limit" is given 2 times`},
		{"GET", "/api/v1/services?limit=100001", "", 422, "limit must be a number from 1 to 100000"},
		{"PUT", v + "v2", `{"endpoints":["nonsense"]}`, 422, "is not host:port"},
		{"PUT", v + "v2", `{"endpoints":["127.0.0.1:1","127.0.0.1:1"]}`, 422, "is listed twice"},
		{"PUT", v + "v2", `{"endpoints":["-no-such-host.invalid:1"]}`, 422, "cannot be resolved"},
		{"PUT", v + "v%202", `{"endpoints":["127.0.0.1:1"]}`, 422, "cannot be a version"},
		{"PUT", v + "v2", `{"image":"x"}`, 422, "canaryd has no Docker"},
		{"DELETE", "/api/v1/services/shop", "", 409, "still has a policy"},
		{"GET", "/api/v1/nothing", "", 404, "no such call"},
		{"POST", "/nothing", "", 404, "no such call: /nothing; /api/v1/openapi.json lists them"},
		{"POST", "/api/v1/services", "", 405, "POST is not possible for /api/v1/services: use GET, HEAD"},
		{"GET", v + "v1", "", 405, "use PUT"},
		{"GET", "/api/v1/hooks/registry", "", 405, "use POST"},
		{"DELETE", "/metrics", "", 405, "use GET, HEAD"},
		{"GET", "/-/reload", "", 405, "use POST, PUT"},
	} {
		p := s.call(c.method, c.path, c.body, c.status, "Problem")
		if d, _ := p["detail"].(string); !strings.Contains(d, c.says) {
			t.Errorf("%s %s says %q, want %q", c.method, c.path, d, c.says)
		}
	}
}

func TestAVanishedPolicyNeverRemovesTraffic(t *testing.T) {
	s := newSite(t, "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n", "service: pay\n")
	if err := os.Remove(filepath.Join(s.dir, "a.yml")); err != nil {
		t.Fatal(err)
	}
	s.call("POST", "/-/reload", "", 200, "")
	svc := s.call("GET", "/api/v1/services/shop", "", 200, "Service")
	if svc["orphaned"] != true || svc["stable"] != "v1" || !strings.Contains(svc["warnings"].([]any)[0].(string), "`canaryd remove shop`") {
		t.Errorf("%v", svc)
	}
	s.call("DELETE", "/api/v1/services/shop", "", 204, "")
	s.call("GET", "/api/v1/services/shop", "", 404, "Problem")
}

// Counters whose labels are known begin at 0, so that an alert sees the first of anything.
func TestCountersBeginAtZero(t *testing.T) {
	s := newSite(t, "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n")
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]int{}
	for _, f := range families {
		for _, m := range f.Metric {
			if m.GetCounter().GetValue() == 0 {
				series[f.GetName()]++
			}
		}
	}
	for name, want := range map[string]int{"canaryd_rollouts_total": 7, "canaryd_verdicts_total": 3, "canaryd_xds_nodes": 6, "canaryd_xds_nacks_total": 5, "canaryd_placebo_alarms_total": 1} {
		if series[name] < want {
			t.Errorf("%d series of %s are 0, want %d", series[name], name, want)
		}
	}
	v := "/api/v1/services/shop/versions/"
	s.call("PUT", v+"v2", `{"endpoints": ["`+s.endpoint+`"]}`, 201, "Version")
	s.call("POST", v+"v2/abort", "", 200, "Version")
	if n, err := testutil.GatherAndCount(s.registry, "canaryd_rollouts_total"); err != nil || n != 7 {
		t.Errorf("%d series, %v", n, err)
	}
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(aborted), "canaryd_rollouts_total"); err != nil {
		t.Error(err)
	}
}

const aborted = `# HELP canaryd_rollouts_total Attempts by what became of them, and what happened to them on the way.
# TYPE canaryd_rollouts_total counter
canaryd_rollouts_total{outcome="aborted",service="shop"} 1
canaryd_rollouts_total{outcome="alarm",service="shop"} 0
canaryd_rollouts_total{outcome="held",service="shop"} 0
canaryd_rollouts_total{outcome="promoted",service="shop"} 0
canaryd_rollouts_total{outcome="returned",service="shop"} 0
canaryd_rollouts_total{outcome="rolled_back",service="shop"} 0
canaryd_rollouts_total{outcome="superseded",service="shop"} 0
`

func TestMetricNamesAreInOrder(t *testing.T) {
	s := newSite(t, "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n")
	problems, err := testutil.GatherAndLint(s.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}
