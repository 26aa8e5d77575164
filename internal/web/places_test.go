package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/access"
)

// HEAD of the events is answered, and takes no listener's place.
func TestHeadOfTheEventsTakesNoPlace(t *testing.T) {
	s := newSite(t, "service: shop\n")
	for range maxListeners + 10 {
		r := httptest.NewRequest("HEAD", "/api/v1/events", nil)
		r.Host = s.Listener.Addr().String()
		w := httptest.NewRecorder()
		s.Config.Handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
	}
}

// A caller who does not read the journals that it asked for leaves others a place, and plots are made all the same.
func TestJournalsLeaveRoomForOthers(t *testing.T) {
	config, tokens := callers(t)
	s := newSiteWith(t, Options{Access: access.NewKeeper(config, nil)}, "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n")
	get := func(w http.ResponseWriter, caller, what string) {
		r := httptest.NewRequest("GET", "/api/v1/services/shop/"+what, nil)
		r.Host = s.Listener.Addr().String()
		r.Header.Set("Authorization", "Bearer "+tokens[caller])
		s.Config.Handler.ServeHTTP(w, r)
	}
	release, ended := make(chan struct{}), make(chan struct{})
	hold := func(caller string) {
		go func() { get(stuck{httptest.NewRecorder(), release}, caller, "journal"); ended <- struct{}{} }()
	}
	for range replaysOfOne {
		hold("operate")
	}
	time.Sleep(500 * time.Millisecond)
	third := httptest.NewRecorder()
	if get(third, "operate", "journal"); third.Code != http.StatusServiceUnavailable || !strings.Contains(third.Body.String(), "2 clients of operate are sent a journal") {
		t.Errorf("%d %s", third.Code, third.Body)
	}
	other := httptest.NewRecorder()
	if get(other, "admin", "journal"); other.Code != http.StatusOK {
		t.Errorf("%d %s", other.Code, other.Body)
	}
	hold("operateall")
	time.Sleep(500 * time.Millisecond)
	plot := httptest.NewRecorder()
	if get(plot, "view", "versions/v1/evidence"); plot.Code != http.StatusOK {
		t.Errorf("%d %s", plot.Code, plot.Body)
	}
	close(release)
	for range maxSenders {
		<-ended
	}
}
