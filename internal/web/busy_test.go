package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
)

// Whoever asks a canaryd that stops, or whose loop has no time, is told to come again: nothing is wrong with what was asked.
func TestWhoeverIsNotComeToIsToldToComeAgain(t *testing.T) {
	s := newSite(t, stableShop)
	s.stop()
	for _, call := range []string{
		"GET /-/ready", "POST /-/reload", "GET /api/v1/services", "GET /api/v1/services/shop", "PUT /api/v1/services/shop/versions/v2", "DELETE /api/v1/services/shop",
		"POST /api/v1/services/shop/versions/v1/promote", "POST /api/v1/services/shop/abort", "GET /api/v1/services/shop/classes",
	} {
		method, path, _ := strings.Cut(call, " ")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		r := httptest.NewRequestWithContext(ctx, method, path, nil)
		r.Host = s.Listener.Addr().String()
		w := httptest.NewRecorder()
		s.Config.Handler.ServeHTTP(w, r)
		cancel()
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "ask again in a moment") {
			t.Errorf("%s: %d, Retry-After %q: %s", call, w.Code, w.Header().Get("Retry-After"), w.Body)
		}
	}
}

// A reload that is not come to is no mistake in a file, and a mistake in a file is not mended by asking again.
func TestAReloadSaysWhetherToAskAgain(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		again  bool
	}{
		{errors.Join(errors.New("canaryd is stopping or busy"), context.Canceled), http.StatusServiceUnavailable, true},
		{errors.Join(nil, fmt.Errorf("the policies are still being read for an earlier request: %w", context.DeadlineExceeded)), http.StatusServiceUnavailable, true},
		{errors.Join(errors.New("web.tokens_file: open tokens.yml: no such file or directory"), nil), http.StatusUnprocessableEntity, false},
		{policy.Findings{{File: "shop.yml", Line: 1, Column: 1, Message: "wrong"}}, http.StatusUnprocessableEntity, false},
	} {
		a := &api{Options: Options{Reload: func(context.Context, string) error { return c.err }}}
		w := httptest.NewRecorder()
		a.reload(w, httptest.NewRequest("POST", "/-/reload", nil))
		if w.Code != c.status || (w.Header().Get("Retry-After") != "") != c.again {
			t.Errorf("%v: %d, Retry-After %q", c.err, w.Code, w.Header().Get("Retry-After"))
		}
	}
}

// A name server that does not answer says nothing against a release; one that knows no such host does.
func TestANameThatNobodyResolvesNowIsNotWrong(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{&net.DNSError{Err: "no such host", Name: "shop", IsNotFound: true}, http.StatusUnprocessableEntity},
		{&net.DNSError{Err: "i/o timeout", Name: "shop", IsTimeout: true}, http.StatusServiceUnavailable},
		{&net.DNSError{Err: "server misbehaving", Name: "shop", IsTemporary: true}, http.StatusServiceUnavailable},
	} {
		w := httptest.NewRecorder()
		(&api{}).fail(w, unresolved("shop:80", c.err))
		if w.Code != c.status || (w.Header().Get("Retry-After") != "") != (w.Code == http.StatusServiceUnavailable) {
			t.Errorf("%v: %d, Retry-After %q", c.err, w.Code, w.Header().Get("Retry-After"))
		}
	}
}
