package web

import (
	"net/http"
	"net/http/httptest"
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

// Clients that do not read the metrics take so many places at most: the next is told to come again, and is answered once one has gone.
func TestUnreadMetricsAreFew(t *testing.T) {
	s := newSite(t, stableShop)
	scrape := func(w http.ResponseWriter) {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Host = s.Listener.Addr().String()
		s.Config.Handler.ServeHTTP(w, r)
	}
	release, ended, halted := make(chan struct{}), make(chan struct{}), make(chan struct{}, 100*maxScrapers)
	for range maxScrapers {
		go func() {
			scrape(halting{httptest.NewRecorder(), func() { halted <- struct{}{} }, release})
			ended <- struct{}{}
		}()
	}
	for range maxScrapers {
		<-halted
	}
	w := httptest.NewRecorder()
	if scrape(w); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "8 clients are sent the metrics") {
		t.Errorf("%d, Retry-After %q: %.200s", w.Code, w.Header().Get("Retry-After"), w.Body)
	}
	close(release)
	for range maxScrapers {
		<-ended
	}
	w = httptest.NewRecorder()
	if scrape(w); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "canaryd_leader 1") {
		t.Errorf("then %d: %.200s", w.Code, w.Body)
	}
}
