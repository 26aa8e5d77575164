package web

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	maxScrapers   = 8               // at once: each is sent all series, which are in memory as a whole until it has read them
	scrapersOfOne = maxScrapers / 2 // of a caller, where callers are asked who they are
)

// scrape answers with canaryd's own metrics.
func (a *api) scrape() http.HandlerFunc {
	metrics := promhttp.HandlerFor(a.Registry, promhttp.HandlerOpts{Registry: a.Registry})
	return func(w http.ResponseWriter, r *http.Request) {
		leave, ok := a.seat(w, r, &a.scrapers, "10", "read what was asked for, and try again")
		if !ok {
			return
		}
		defer leave()
		metrics.ServeHTTP(w, r)
	}
}
