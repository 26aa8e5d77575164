package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/pprof"
	"net/url"
	"slices"
	"strings"

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
	takes   []string // parameters in the query of a call of the API
}

func (a *api) calls() []call {
	var commands []call
	for verb, role := range verbs {
		var takes []string
		if verb == "promote" {
			takes = []string{"even_failed"}
		}
		commands = append(commands, call{"POST /api/v1/services/{service}/versions/{version}/" + verb, role, one, a.command(verb), takes}, call{"POST /api/v1/services/{service}/" + verb, role, one, a.command(verb), takes})
	}
	return append(commands, []call{
		{"GET /-/healthy", access.None, everybody, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "canaryd is ok.") }, nil},
		{"GET /-/ready", access.None, everybody, a.ready, nil},
		{"POST /-/reload", access.Admin, all, a.reload, nil},
		{"PUT /-/reload", access.Admin, all, a.reload, nil},
		{"GET /metrics", access.View, all, a.scrape(), nil},
		{"GET /api/v1/openapi.json", access.View, some, a.document, nil},
		{"GET /api/v1/services", access.View, some, a.services, []string{"limit", "after", "match", "live"}},
		{"GET /api/v1/services/{service}", access.View, one, a.service, nil},
		{"DELETE /api/v1/services/{service}", access.Operate, one, a.remove, nil},
		{"PUT /api/v1/services/{service}/versions/{version}", access.Deploy, one, a.announce, []string{"again"}},
		{"GET /api/v1/services/{service}/classes", access.View, one, a.classes, nil},
		{"GET /api/v1/services/{service}/history", access.View, one, a.history, []string{"limit"}},
		{"GET /api/v1/services/{service}/versions/{version}/evidence", access.View, one, a.evidence, []string{"from", "to", "step"}},
		{"GET /api/v1/services/{service}/journal", access.Operate, one, a.journal, []string{"from", "to"}}, // it holds values of session cookies
		{"GET /api/v1/events", access.View, some, a.events, nil},
		{"GET /api/v1/envoys", access.View, some, a.envoys, []string{"service", "limit", "after"}},
		{"DELETE /api/v1/envoys/{node}", access.Operate, all, a.forgetEnvoy, nil},
		{"POST /api/v1/hooks/registry", access.None, everybody, a.pushed, nil}, // it has a token of its own
		{"/debug/pprof/", access.Admin, all, pprof.Index, nil},
		{"/debug/pprof/cmdline", access.Admin, all, pprof.Cmdline, nil},
		{"/debug/pprof/profile", access.Admin, all, pprof.Profile, nil},
		{"/debug/pprof/symbol", access.Admin, all, pprof.Symbol, nil},
		{"/debug/pprof/trace", access.Admin, all, pprof.Trace, nil},
	}...)
}

// kept has a call done for those who may.
func (a *api) kept(c call) http.HandlerFunc {
	if c.scope == everybody {
		return c.handle
	}
	return func(w http.ResponseWriter, r *http.Request) {
		who, err := a.Access.Identify(r)
		if err == nil {
			r = r.WithContext(context.WithValue(r.Context(), callerKey{}, who))
			err = c.allows(r)
		}
		if err != nil {
			a.refuse(w, r, err)
			return
		}
		if err := c.queried(r); err != nil {
			a.fail(w, err)
			return
		}
		c.handle(w, r)
	}
}

// queried says what is wrong with the query of a call of the API: a parameter that is misspelt, or stands there twice, would do
// nothing, and the call something else than was meant.
func (c *call) queried(r *http.Request) error {
	if !strings.Contains(c.pattern, " /api/v1/") {
		return nil
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return problem(http.StatusUnprocessableEntity, "the query cannot be read: "+err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(q)) {
		switch takes := strings.Join(c.takes, ", "); {
		case !slices.Contains(c.takes, name):
			return problem(http.StatusUnprocessableEntity, fmt.Sprintf("there is no parameter %.64q here: this call takes %s", name, cmp.Or(takes, "none")))
		case len(q[name]) > 1:
			return problem(http.StatusUnprocessableEntity, fmt.Sprintf("%.64q is given %d times: say it once", name, len(q[name])))
		}
	}
	return nil
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

const bearerRealm = `Bearer realm="canaryd"`

// refuse answers who is not known, or may not do what was asked, and writes it down: not more often than a log is read.
func (a *api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var unknown *access.UnknownError
	if errors.As(err, &unknown) {
		w.Header().Add("WWW-Authenticate", `Basic realm="canaryd", charset="UTF-8"`)
		w.Header().Add("WWW-Authenticate", bearerRealm)
		err = problem(http.StatusUnauthorized, unknown.Message)
	}
	p := problemOf(err)
	if a.refused.Allow() {
		a.Log.WithField("by", by(r)).WithField("call", fmt.Sprintf("%.20s %.200q", r.Method, r.URL.Path)).WithField("status", p.Status).Warn("refused: " + p.Detail)
	}
	a.fail(w, p)
}
