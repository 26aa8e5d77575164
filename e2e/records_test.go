package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// recordsOf is the access log that docs/envoys.md shows, for a share of all requests in hundredths of a percent.
func recordsOf(sample int) string {
	return fmt.Sprintf(`          access_log:
          - name: canaryd
            filter: {runtime_filter: {runtime_key: canaryd.als.sample, percent_sampled: {numerator: %d, denominator: TEN_THOUSAND}, use_independent_randomness: true}}
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig
              common_config: {log_name: canaryd, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: canaryd}}, buffer_flush_interval: 0.2s}
`, sample)
}

// Records of the Envoys' own listeners are what classes are proposed from, and none of their queries is kept.
func TestClassesAreProposedFromAccessLogRecords(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"envoy-newest", "envoy-oldest"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			s, own := newScene(t, setting{envoy: envoy}), rig.FreeAddress()
			edit := func(bootstrap string) string {
				listener := strings.Replace(ownListener(own), "          http_filters:", recordsOf(10_000)+"          http_filters:", 1)
				return strings.Replace(bootstrap, "static_resources:\n", listener, 1)
			}
			if _, _, err := s.StartEnvoy(t.Context(), "edge-own", "edge", edit); err != nil {
				t.Fatal(err)
			}
			s.until(20*time.Second, "an answer through its own listener", func() bool { return rig.Answers("http://" + own + "/") })
			for i := range 40 {
				get(t, fmt.Sprintf("http://%s/items/%d?user=alice", own, i))
			}
			var out string
			s.until(20*time.Second, "the records", func() bool {
				code, text, _, err := s.Run(t.Context(), "classes", "shop")
				out = text
				return err == nil && code == 0 && strings.Contains(text, "template: '/items/*'}")
			})
			t.Logf("\n%s", out)
			if strings.Contains(out, "alice") || !strings.Contains(out, "method: GET") {
				t.Errorf("proposed:\n%s", out)
			}
		})
	}
}

// Prometheus tells how many requests fail, and records of canaryd's own listener how. What was asked for neither tells, which `classes` says.
func TestRecordsNameTheCauseWherePrometheusCounts(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{source: "prometheus", scrape: time.Second, ramp: "ramp: {steps: [50%, 100%], hold: 1h}\njudge: {clump: 1, budget: 100000}\n"})
	sick := &ailing{path: "/", how: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }}
	s.load(100)
	if _, _, said, err := s.Run(t.Context(), "classes", "shop"); err != nil || !strings.Contains(said, "judge.queries") {
		t.Errorf("%v: %s", err, said)
	}
	s.run(0, "deploy", "shop", "v2", "--endpoint", sick.listen(t))
	s.until(20*time.Second, "v2 to get requests", func() bool { return s.Version("shop", "v2").Requests > 100 })
	sick.fails.Store(true)
	v := s.phase("v2", 60*time.Second, rollout.Failed).Verdict
	t.Log(v.Reason)
	if len(v.Cause) != 1 || v.Cause[0].Kind != analysis.Closed || v.Cause[0].StableShare != 0 || !strings.Contains(v.Reason, "; it gives no answer (connection closed)") {
		t.Errorf("%s: %+v", v.Reason, v.Cause)
	}
}
