package metrics

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// constant answers everything with one body.
type constant string

func (c constant) RoundTrip(*http.Request) (*http.Response, error) {
	return answer(200, string(c)), nil
}

// BenchmarkRoundOf1000Rollouts reads the counters of a thousand canaries on two Envoys.
func BenchmarkRoundOf1000Rollouts(b *testing.B) {
	var targets []Target
	var body strings.Builder
	now := time.Now().Unix()
	for i := range 1000 {
		service := fmt.Sprintf("svc%d", i)
		targets = append(targets, Target{Service: service, Stable: "v1", Versions: []string{"v1", "v2"}})
		for _, version := range []string{"v1", "v2"} {
			for _, instance := range []string{"10.0.0.1:9901", "10.0.0.2:9901"} {
				for _, metric := range []string{completed, retried, byClass, retriedBy} {
					class := ""
					if metric == byClass || metric == retriedBy {
						class = `"envoy_response_code_class":"5",`
					}
					fmt.Fprintf(&body, `,{"metric":{"__name__":%q,%s"envoy_cluster_name":"%s/%s","instance":%q,"job":"envoy","namespace":"edge"},"values":[[%d,"%d"],[%d,"%d"],[%d,"%d"]]}`,
						metric, class, service, version, instance, now-10, i, now-5, i+5, now, i+10)
				}
			}
		}
	}
	answer := constant(`{"status":"success","data":{"resultType":"matrix","result":[` + body.String()[1:] + `]}}`)
	p, err := NewPrometheus("http://prometheus", answer, time.Second, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Round(b.Context(), targets)
	}
}
