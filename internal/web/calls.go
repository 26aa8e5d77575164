package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/canaryd/canaryd/internal/access"
)

// scope is what a call reaches: that much the caller's role has to cover.
type scope int

const (
	everybody scope = iota // nobody is asked who they are
	one                    // the service that the path names
	some                   // what the caller may see: the call leaves out the rest itself
	all                    // all services
)

// call is one thing that canaryd does over HTTP, and who may have it done. There is no other way in than this table.
type call struct {
	pattern string
	role    access.Role
	scope   scope
	handle  http.HandlerFunc
}

func (a *api) calls() []call {
	var commands []call
	for verb, role := range verbs {
		commands = append(commands, call{"POST /api/v1/services/{service}/versions/{version}/" + verb, role, one, a.command(verb)}, call{"POST /api/v1/services/{service}/" + verb, role, one, a.command(verb)})
	}
	return append(commands, []call{
		{"GET /-/healthy", access.None, everybody, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "canaryd is ok.") }},
		{"GET /-/ready", access.None, everybody, a.ready},
		{"POST /-/reload", access.Admin, all, a.reload},
		{"PUT /-/reload", access.Admin, all, a.reload},
		{"GET /metrics", access.View, all, promhttp.HandlerFor(a.Registry, promhttp.HandlerOpts{Registry: a.Registry}).ServeHTTP},
		{"GET /api/v1/openapi.json", access.View, some, a.document},
		{"GET /api/v1/services", access.View, some, a.services},
		{"GET /api/v1/services/{service}", access.View, one, a.service},
		{"DELETE /api/v1/services/{service}", access.Operate, one, a.remove},
		{"PUT /api/v1/services/{service}/versions/{version}", access.Deploy, one, a.announce},
		{"GET /api/v1/services/{service}/classes", access.View, one, a.classes},
		{"GET /api/v1/services/{service}/history", access.View, one, a.history},
		{"GET /api/v1/services/{service}/versions/{version}/evidence", access.View, one, a.evidence},
		{"GET /api/v1/services/{service}/journal", access.Operate, one, a.journal}, // it holds values of session cookies
		{"GET /api/v1/events", access.View, some, a.events},
		{"GET /api/v1/envoys", access.View, some, a.envoys},
		{"DELETE /api/v1/envoys/{node}", access.Operate, all, a.forgetEnvoy},
		{"POST /api/v1/hooks/registry", access.None, everybody, a.pushed}, // it has a token of its own
		{"/debug/pprof/", access.Admin, all, pprof.Index},
		{"/debug/pprof/cmdline", access.Admin, all, pprof.Cmdline},
		{"/debug/pprof/profile", access.Admin, all, pprof.Profile},
		{"/debug/pprof/symbol", access.Admin, all, pprof.Symbol},
		{"/debug/pprof/trace", access.Admin, all, pprof.Trace},
	}...)
}

// kept has a call done for those who may.
func (a *api) kept(c call) http.HandlerFunc {
	if c.scope == everybody {
		return c.handle
	}
	return func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.URL.Query() {
			if len(values) > 1 {
				a.fail(w, problem(http.StatusUnprocessableEntity, fmt.Sprintf("%.64q is given %d times: say it once", name, len(values))))
				return
			}
		}
		who, err := a.Access.Identify(r)
		if err == nil {
			r = r.WithContext(context.WithValue(r.Context(), callerKey{}, who))
			err = c.allows(r)
		}
		if err != nil {
			a.refuse(w, r, err)
			return
		}
		c.handle(w, r)
	}
}

// allows says why the caller may not have a call done.
func (c *call) allows(r *http.Request) error {
	who := callerOf(r)
	switch {
	case c.scope == one:
		if service := r.PathValue("service"); !who.May(c.role, service) {
			return forbidden(r, fmt.Sprintf("%s %.200s takes the role %s in %.64s", r.Method, r.URL.Path, c.role, service))
		}
	case c.scope == some && !who.MaySome(c.role), c.scope == all && !who.MayAll(c.role):
		in := "any service"
		if c.scope == all {
			in = "all services"
		}
		return forbidden(r, fmt.Sprintf("%s %.200s takes the role %s in %s", r.Method, r.URL.Path, c.role, in))
	}
	return nil
}

func forbidden(r *http.Request, takes string) error {
	who := callerOf(r)
	name := who.Name
	if name == "" {
		name = "a caller without credentials"
	}
	return problem(http.StatusForbidden, fmt.Sprintf("%s has %s; %s (web.access in canaryd.yml)", name, who.Has(), takes))
}

type callerKey struct{}

// callerOf is who a request is from.
func callerOf(r *http.Request) access.Caller {
	who, _ := r.Context().Value(callerKey{}).(access.Caller)
	return who
}

// refuse answers who is not known, or may not do what was asked, and writes it down: not more often than a log is read.
func (a *api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var unknown *access.UnknownError
	if errors.As(err, &unknown) {
		w.Header().Add("WWW-Authenticate", `Basic realm="canaryd", charset="UTF-8"`)
		w.Header().Add("WWW-Authenticate", `Bearer realm="canaryd"`)
		err = problem(http.StatusUnauthorized, unknown.Message)
	}
	p := problemOf(err)
	if a.refused.Allow() {
		a.Log.WithField("by", by(r)).WithField("call", fmt.Sprintf("%.20s %.200q", r.Method, r.URL.Path)).WithField("status", p.Status).Warn("refused: " + p.Detail)
	}
	a.fail(w, p)
}
