package web

import (
	"fmt"
	"net/http"
)

// unmatched answers what no call takes with a problem document; the mux itself would write plain text.
func (a *api) unmatched(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r) // not h: only the mux fills in the path's values
			return
		}
		seen := statusOnly{header: http.Header{}}
		h.ServeHTTP(&seen, r)
		switch seen.status {
		case http.StatusNotFound:
			a.fail(w, problem(http.StatusNotFound, fmt.Sprintf("no such call: %.200s; /api/v1/openapi.json lists them", r.URL.Path)))
		case http.StatusMethodNotAllowed:
			allow := seen.header.Get("Allow")
			w.Header().Set("Allow", allow)
			a.fail(w, problem(http.StatusMethodNotAllowed, fmt.Sprintf("%.20s is not possible for %.200s: use %s; /api/v1/openapi.json lists the calls", r.Method, r.URL.Path, allow)))
		default: // it redirects to the clean path
			h.ServeHTTP(w, r)
		}
	})
}

// statusOnly keeps what an answer begins with.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(b []byte) (int, error) { return len(b), nil }
