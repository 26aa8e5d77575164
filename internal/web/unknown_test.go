package web

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/canaryd/canaryd/internal/access"
)

// A caller whose token is taken away (or expires, or whose issuer does not answer after a reload) while its list is sent would be
// answered 401 if it asked now: what it has is no whole list, and must not end as one.
func TestAListOfWhoIsNotKnownAnyMoreIsNoWhole(t *testing.T) {
	config, tokens := callers(t)
	keeper := access.NewKeeper(config, nil)
	s := newSiteWith(t, Options{Access: keeper}, quiet(1000))
	goOn := make(chan struct{})
	close(goOn)
	w := httptest.NewRecorder()
	taken := sync.OnceFunc(func() {
		without := config
		without.Tokens = nil
		keeper.Set(without)
	})
	p := s.list(t.Context(), halting{w, taken, goOn}, "/api/v1/services?limit=1000", tokens["viewall"])
	var got Services
	if err := json.Unmarshal(w.Body.Bytes(), &got); p != http.ErrAbortHandler && err == nil && got.Next == "" {
		t.Errorf("%d of 1000 services were sent as the whole list, status %d", len(got.Services), w.Code)
	}
}
