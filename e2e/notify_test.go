package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// A cut is told to a webhook as JSON and as text, while another receiver hangs and holds up nothing.
func TestACutIsTold(t *testing.T) {
	t.Parallel()
	records, texts := make(chan rollout.Record, 10), make(chan string, 10)
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/json", func(_ http.ResponseWriter, r *http.Request) {
		var rec rollout.Record
		if err := json.NewDecoder(r.Body).Decode(&rec); err != nil {
			t.Error(err)
		}
		records <- rec
	})
	mux.HandleFunc("/slack", func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		texts <- string(b)
	})
	mux.HandleFunc("/hangs", func(http.ResponseWriter, *http.Request) { <-release })
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(release) })
	s := newScene(t, setting{ramp: "ramp: {steps: [20%, 100%], hold: 1h}\n", extra: "notify: [{url: \"" + srv.URL + "/hangs\", events: [announced, started, rolled_back]}, {url: \"" +
		srv.URL + "/json\", events: [rolled_back]}, {url: \"" + srv.URL + "/slack\", format: slack}]\n"})
	s.load(300)
	v2 := s.version("v2")
	v2.Fail(1)
	s.run(10, s.deploy(v2, "--wait", "--timeout", "5m")...)
	select {
	case r := <-records:
		if r.Kind != rollout.KindRolledBack || r.Version != "v2" || r.Verdict == nil || r.Before["v2"] != 2000 || r.After["v2"] != 0 {
			t.Errorf("%+v", r)
		}
	case <-time.After(10 * time.Second):
		t.Error("no JSON came")
	}
	select {
	case text := <-texts:
		if !strings.Contains(text, "shop v2: rolled back (20% ") {
			t.Error(text)
		}
	case <-time.After(10 * time.Second):
		t.Error("no text came")
	}
	served := v2.Count()
	within(t, "the cut while a receiver hangs", served.Last.Sub(served.Onset), 4*time.Second)
}
