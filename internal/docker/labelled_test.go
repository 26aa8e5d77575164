package docker

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What runs with labels is told at the first look, also when it is nothing; a daemon that does not
// answer tells nothing.
func TestTheFirstLookIsTold(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	looks := make(chan struct{}, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		w.Header().Set("Content-Type", "application/json")
		if !strings.HasSuffix(r.URL.Path, "/containers/json") {
			return
		}
		if looks <- struct{}{}; away.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode([]any{})
	}))
	t.Cleanup(srv.Close)
	f := fleetOf(t, srv)
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan []Labelled, 100)
	done := make(chan error, 1)
	go func() { done <- f.Look(ctx, func(ls []Labelled) { told <- ls }) }()
	<-looks
	away.Store(false)
	select {
	case ls := <-told:
		if len(ls) > 0 || len(looks) == 0 {
			t.Errorf("told %v after %d more looks", ls, len(looks))
		}
	case <-time.After(30 * lookEvery):
		t.Error("that nothing runs is not told")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
