package web

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

//go:embed openapi.json
var openapi []byte

const (
	maxBody    = 1 << 20
	bodyWithin = 10 * time.Second
)

// readBody gives a client so long to send what it has to say.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyWithin)) // a test's recorder has none
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil { // else the connection ends with it
		_ = rc.SetReadDeadline(time.Time{})
	}
	return raw, err
}

// Options are what the HTTP side works with.
type Options struct {
	Log        logrus.FieldLogger
	Controller *controller.Controller
	Registry   *prometheus.Registry
	HookToken  string // what a registry's notifications carry; empty: they are refused

	Listener net.Addr // where it listens: on loopback only its own names are answered to
	Listen   string   // the same as it was configured, perhaps by name
	Hosts    []string // further names, such as that of a proxy in front; elsewhere than on loopback no others, if there are any
}

type api struct {
	Options
	listeners chan struct{} // a place for each client of the events
	readers   chan struct{} // and of the journal
}

// NewHandler serves everything.
func NewHandler(o Options) http.Handler {
	a := &api{Options: o, listeners: make(chan struct{}, maxListeners), readers: make(chan struct{}, maxReaders)}
	mux := http.NewServeMux()
	ok := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "canaryd is ok.") }
	mux.HandleFunc("GET /-/healthy", ok)
	mux.HandleFunc("GET /-/ready", a.ready)
	mux.HandleFunc("POST /-/reload", a.reload)
	mux.HandleFunc("PUT /-/reload", a.reload)
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{Registry: o.Registry}))
	mux.HandleFunc("GET /api/v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openapi) // a client that hangs up is no error of ours
	})
	mux.HandleFunc("GET /api/v1/services", a.services)
	mux.HandleFunc("GET /api/v1/services/{service}", a.service)
	mux.HandleFunc("DELETE /api/v1/services/{service}", a.remove)
	mux.HandleFunc("PUT /api/v1/services/{service}/versions/{version}", a.announce)
	mux.HandleFunc("POST /api/v1/services/{service}/versions/{version}/{verb}", a.command)
	mux.HandleFunc("POST /api/v1/services/{service}/{verb}", a.command)
	mux.HandleFunc("GET /api/v1/services/{service}/history", a.history)
	mux.HandleFunc("GET /api/v1/services/{service}/versions/{version}/evidence", a.evidence)
	mux.HandleFunc("GET /api/v1/services/{service}/journal", a.journal)
	mux.HandleFunc("GET /api/v1/events", a.events)
	mux.HandleFunc("GET /api/v1/envoys", a.envoys)
	mux.HandleFunc("DELETE /api/v1/envoys/{node}", a.forgetEnvoy)
	mux.HandleFunc("POST /api/v1/hooks/registry", a.pushed)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return a.guard(a.unmatched(mux))
}

// ready: the stored state is loaded and published; both happen before the listener opens, so what
// remains to be seen is that the loop answers.
func (a *api) ready(w http.ResponseWriter, r *http.Request) {
	if _, err := a.Controller.Services(r.Context()); err != nil {
		a.fail(w, problem(http.StatusServiceUnavailable, err.Error()))
		return
	}
	fmt.Fprintln(w, "canaryd is ready.")
}

func (a *api) reload(w http.ResponseWriter, r *http.Request) {
	if err := a.Controller.Reload(r.Context(), by(r)); err != nil {
		a.fail(w, err)
		return
	}
	fmt.Fprintln(w, "reloaded")
}

func (a *api) service(w http.ResponseWriter, r *http.Request) {
	s, err := a.Controller.Service(r.Context(), r.PathValue("service"))
	if err != nil {
		a.fail(w, err)
		return
	}
	a.answer(w, http.StatusOK, viewService(s))
}

func (a *api) remove(w http.ResponseWriter, r *http.Request) {
	if err := a.Controller.Delete(r.Context(), r.PathValue("service"), by(r)); err != nil {
		a.fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// Announcement is the body of a PUT.
type Announcement struct {
	Endpoints []string `json:"endpoints,omitempty"`
	Image     string   `json:"image,omitempty"`
	Paused    bool     `json:"paused,omitempty"` // weight 0 until it is resumed: for a look by testers
}

func (a *api) announce(w http.ResponseWriter, r *http.Request) {
	body, err := a.announcement(w, r)
	if err != nil {
		a.fail(w, err)
		return
	}
	name := r.PathValue("version")
	again, err := boolOf(r.URL.Query(), "again")
	if err != nil {
		a.fail(w, err)
		return
	}
	s, known, err := a.Controller.Announce(r.Context(), r.PathValue("service"),
		rollout.Announced{Version: name, Endpoints: body.Endpoints, Image: body.Image, Again: again, Paused: body.Paused, By: by(r)})
	if err != nil {
		var refusal *rollout.Refusal
		if errors.As(err, &refusal) && !refusal.Unknown && !refusal.Conflict {
			err = problem(http.StatusUnprocessableEntity, refusal.Message)
		}
		a.fail(w, err)
		return
	}
	status := http.StatusCreated
	if known {
		status = http.StatusOK
	}
	a.answer(w, status, viewVersion(&s.State, s.State.Version(name)))
}

func (a *api) announcement(w http.ResponseWriter, r *http.Request) (Announcement, error) {
	var body Announcement
	raw, err := readBody(w, r)
	if err != nil {
		return body, problem(http.StatusBadRequest, "the body cannot be read: "+err.Error())
	}
	if len(raw) > 0 {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields() // a misspelt `paused` would go live
		if err := d.Decode(&body); err != nil {
			return body, problem(http.StatusUnprocessableEntity, `the body is not {"endpoints": ["host:port"]}: `+err.Error())
		}
	}
	if body.Image != "" && len(body.Endpoints) > 0 {
		return body, problem(http.StatusUnprocessableEntity, "announce either endpoints or an image: an image's endpoints are found by themselves")
	}
	if err := policy.VersionName(r.PathValue("version")); err != nil {
		return body, problem(http.StatusUnprocessableEntity, err.Error())
	}
	return body, resolvable(r.Context(), body.Endpoints)
}

// resolvable refuses host names that nobody can resolve here and now.
func resolvable(ctx context.Context, endpoints []string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, e := range endpoints {
		host, _, err := net.SplitHostPort(e)
		if err != nil || net.ParseIP(host) != nil {
			continue // malformed ones are refused with the others
		}
		if _, err := net.DefaultResolver.LookupHost(ctx, host); err != nil {
			return problem(http.StatusUnprocessableEntity, fmt.Sprintf("endpoint %s: the host name cannot be resolved: %v", e, err))
		}
	}
	return nil
}

func (a *api) command(w http.ResponseWriter, r *http.Request) {
	verb := r.PathValue("verb")
	switch verb {
	case "promote", "abort", "pause", "resume":
	default:
		a.fail(w, problem(http.StatusNotFound, fmt.Sprintf("no command %q: promote, abort, pause or resume", verb)))
		return
	}
	knowing, err := boolOf(r.URL.Query(), "even_failed")
	if err != nil {
		a.fail(w, err)
		return
	}
	s, version, err := a.Controller.Command(r.Context(), r.PathValue("service"), rollout.Commanded{Verb: verb, Version: r.PathValue("version"), Knowing: knowing, By: by(r)})
	if err != nil {
		a.fail(w, err)
		return
	}
	answer, status := viewVersion(&s.State, s.State.Version(version)), http.StatusOK
	if !s.Stored {
		answer.Stored, status = &s.Stored, http.StatusAccepted
	}
	a.answer(w, status, answer)
}

func (a *api) history(w http.ResponseWriter, r *http.Request) {
	limit, err := limitOf(r, 1000)
	if err != nil {
		a.fail(w, err)
		return
	}
	entries, err := a.Controller.History(r.Context(), r.PathValue("service"), limit)
	if err != nil {
		a.fail(w, err)
		return
	}
	a.answer(w, http.StatusOK, map[string]any{"history": entries})
}

// limitOf is how many entries an answer may have: what the caller says, or usual.
func limitOf(r *http.Request, usual int) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, problem(http.StatusUnprocessableEntity, "limit must be a number above 0")
	}
	return n, nil
}

// by says who calls: the user of basic auth, what the client says of itself, or its address.
func by(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if u, _, ok := r.BasicAuth(); ok && u != "" {
		return u + " from " + host
	}
	if who := r.Header.Get("X-Canaryd-By"); who != "" {
		return who + " from " + host
	}
	return host
}
