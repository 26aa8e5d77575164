package web

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// What a version under test waits for is a metric, one that serves waits for nothing.
func TestVerdictsAreMetrics(t *testing.T) {
	s := newSite(t, stableShop)
	s.call("PUT", "/api/v1/services/shop/versions/v2", `{"endpoints": ["127.0.0.1:1"]}`, http.StatusCreated, "Version")
	const want = `canaryd_version_verdict{code="unreachable",service="shop",version="v2"} 1`
	var text string
	for deadline := time.Now().Add(time.Minute); !strings.Contains(text, want) && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(s.URL + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text = body(t, resp)
	}
	if !strings.Contains(text, want) || strings.Count(text, "canaryd_version_verdict{") != 1 {
		t.Errorf("want %s in\n%s", want, text)
	}
}
