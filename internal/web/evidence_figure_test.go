package web

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
)

// A day of one release, over HTTP.
func TestFigureEvidenceOfADay(t *testing.T) {
	s := newSite(t, "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n")
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const chunk = 11 * time.Minute // at ten reports a second from two Envoys
	for at := begin; at.Before(begin.Add(24 * time.Hour)); at = at.Add(chunk) {
		packed, err := journal.Pack([][]byte{aChunk(t, begin, at, chunk)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.disk.Bolt.Save([]store.Write{{Service: "shop", Parts: []store.Part{{Begin: uint64(at.UnixNano()), Data: packed}}}}); err != nil {
			t.Fatal(err)
		}
	}
	var took []time.Duration
	size := 0
	for range 11 {
		asked := time.Now()
		resp, err := http.Get(s.URL + "/api/v1/services/shop/versions/v2/evidence?step=1m")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		took, size = append(took, time.Since(asked)), len(raw)
		var e journal.Evidence
		if err != nil || json.Unmarshal(raw, &e) != nil || len(e.Buckets) < 1400 {
			t.Fatalf("%d buckets, %v", len(e.Buckets), err)
		}
		sum := 0.0
		for _, b := range e.Buckets {
			sum += b.Requests
		}
		if want := 50.0 * 24 * 3600; sum < 0.99*want || sum > 1.01*want {
			t.Fatalf("%.0f requests, of %.0f", sum, want)
		}
	}
	slices.Sort(took)
	t.Logf("FIGURE a day of evidence of one release in minutes: p50 %.1f ms, worst %.1f ms, %d KiB", took[5].Seconds()*1000, took[10].Seconds()*1000, size/1024)
	if took[5] > time.Second {
		t.Error("that takes too long")
	}
}

// aChunk has a point every five seconds, and events between them.
func aChunk(t *testing.T, begin, at time.Time, d time.Duration) []byte {
	t.Helper()
	w := journal.Begin(uint64(at.UnixNano()), journal.Header{Service: "shop", At: at, Why: journal.Continued}, rollout.State{})
	for end := at.Add(d); at.Before(end); at = at.Add(5 * time.Second) {
		for n := range 50 {
			to := at.Add(time.Duration(n) * 100 * time.Millisecond)
			w.Took(rollout.Observed{At: to, Cells: []rollout.Cell{{Slice: "edge", From: to.Add(-100 * time.Millisecond), To: to, Counts: map[string]analysis.Counts{"v1": {Requests: 95, Errors: 1}, "v2": {Requests: 5}}}}}, nil)
		}
		n := at.Sub(begin).Seconds()
		w.Point(journal.Point{At: at, Stable: "v1", Versions: []journal.Stand{
			{Version: "v1", Phase: rollout.Stable, Weight: 9500, Counts: analysis.Counts{Requests: 950 * n, Errors: n}},
			{Version: "v2", Attempt: 1, Phase: rollout.Canary, Weight: 500, Counts: analysis.Counts{Requests: 50 * n}, Evidence: 1 + n/1e6, Threshold: 1000, Promotion: 0.7 + n/1e5, PromoteAt: 100}}})
	}
	raw, err := w.Cut(journal.Point{At: at}, true).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
