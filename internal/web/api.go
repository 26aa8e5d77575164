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
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/paths"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

//go:embed openapi.json
var openapi []byte

const (
	maxBody    = 1 << 20
	mostListed = 100_000 // in one answer
	bodyWithin = 10 * time.Second
)

// readBody reads what a client has to say; bodiesInTime has given it so long.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return nil, problem(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d bytes, which is the most that is read", long.Limit))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, problem(http.StatusRequestTimeout, fmt.Sprintf("the body did not come within %s", bodyWithin))
	case err != nil:
		return nil, problem(http.StatusBadRequest, "the body cannot be read: "+err.Error())
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // a test's recorder has none; after an error the connection ends with it
	return raw, nil
}

// Options are what the HTTP side works with.
type Options struct {
	Log        logrus.FieldLogger
	Controller *controller.Controller
	Registry   *prometheus.Registry
	HookToken  func() string // what a registry's notifications carry now; nil or empty: they are refused

	Classes func(ctx context.Context, p *policy.Policy, stable string) (paths.Proposal, error) // which ones a service could have; nil: nothing is known

	Access *access.Keeper                             // nil: anybody may do everything
	Reload func(ctx context.Context, by string) error // nil: of the policies alone

	Listener net.Addr // where it listens: on loopback only its own names are answered to
	Listen   string   // the same as it was configured, perhaps by name
	Hosts    []string // further names, such as that of a proxy in front; elsewhere than on loopback no others, if there are any
}

type api struct {
	Options
	listeners places        // clients of the events
	readers   chan struct{} // a place for each plot that is made from the journal
	senders   chan struct{} // and for each client that is sent the journal itself
	replays   places        // those clients
	scrapers  places        // clients of the metrics
	refused   *rate.Limiter // of lines in the log
}

// NewHandler serves everything.
func NewHandler(o Options) http.Handler {
	a := &api{Options: o, readers: make(chan struct{}, maxReaders), senders: make(chan struct{}, maxSenders), refused: rate.NewLimiter(1, 10)}
	a.listeners = places{most: maxListeners, mostOfOne: mostOfOne, what: "are connected to /events"}
	a.replays = places{most: maxReplays, mostOfOne: replaysOfOne, what: "are sent a journal"}
	a.scrapers = places{most: maxScrapers, mostOfOne: scrapersOfOne, what: "are sent the metrics"}
	if a.Access == nil {
		a.Access = access.NewKeeper(access.Config{}, nil)
	}
	if a.Reload == nil {
		a.Reload = a.Controller.Reload
	}
	mux := http.NewServeMux()
	for _, c := range a.calls() {
		mux.HandleFunc(c.pattern, a.kept(c))
	}
	return bodiesInTime(a.guard(a.unmatched(mux)))
}

// bodiesInTime: also a body that no call reads would be waited for, before the answer is sent.
func bodiesInTime(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWithin)) // a test's recorder has none
		}
		next.ServeHTTP(w, r)
	})
}

func (a *api) document(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openapi) // a client that hangs up is no error of ours
}

// ready: the stored state is loaded and published; both happen before the listener opens, so what
// remains to be seen is that the loop answers.
func (a *api) ready(w http.ResponseWriter, r *http.Request) {
	if err := a.Controller.Ready(r.Context()); err != nil {
		a.fail(w, err)
		return
	}
	fmt.Fprintln(w, "canaryd is ready.")
}

func (a *api) reload(w http.ResponseWriter, r *http.Request) {
	if err := a.Reload(r.Context(), by(r)); err != nil {
		p := problemOf(err)
		if p.Status == http.StatusInternalServerError { // a file that is not there, or cannot be read, is no defect of ours
			p = problem(http.StatusUnprocessableEntity, err.Error())
		}
		a.fail(w, p)
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
	v := viewService(s)
	for i := range v.Versions {
		v.Versions[i].Classes = viewClasses(&s.State, v.Versions[i].Version)
	}
	a.answer(w, http.StatusOK, v)
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
		rollout.Announced{Version: name, Endpoints: body.Endpoints, Image: body.Image, Again: again, Paused: body.Paused, Tested: testedOnly(r), By: by(r)})
	if err != nil {
		var refusal *rollout.Refusal
		if errors.As(err, &refusal) && !refusal.Unknown && !refusal.Conflict && !refusal.Tested {
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
		return body, err
	}
	if len(raw) > 0 {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields() // a misspelt `paused` would go live
		err := d.Decode(&body)
		if err == nil && (d.More() || bytes.Equal(bytes.TrimSpace(raw), []byte("null"))) {
			err = errors.New("write one object")
		}
		if err == nil {
			err = eachKeyOnce(raw, "endpoints", "image", "paused")
		}
		if err != nil {
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

// eachKeyOnce: encoding/json takes "Paused" for "paused" and the last one of two, which others who read the body may not.
func eachKeyOnce(raw []byte, keys ...string) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		i := slices.Index(keys, fmt.Sprint(key))
		if i < 0 {
			return fmt.Errorf("%q is not a key here, or is there twice: keys are endpoints, image and paused, in small letters", key)
		}
		keys = slices.Delete(slices.Clone(keys), i, i+1)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
	}
	return nil
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
			return unresolved(e, err)
		}
	}
	return nil
}

// unresolved says why an endpoint is not taken: its name is wrong, or nobody knows that now.
func unresolved(endpoint string, err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) && !dns.IsNotFound {
		return later(fmt.Sprintf("endpoint %s: whether there is such a host is not known: %v. Nothing was announced: ask again in a moment", endpoint, err), "1")
	}
	return problem(http.StatusUnprocessableEntity, fmt.Sprintf("endpoint %s: the host name cannot be resolved: %v", endpoint, err))
}

// verbs are the commands, and which role each takes; abort and pause take more where a version is not under test.
var verbs = map[string]access.Role{"promote": access.Operate, "abort": access.Deploy, "pause": access.Deploy, "resume": access.Operate}

// testedOnly reports whether the caller may touch versions under test only.
func testedOnly(r *http.Request) bool {
	who := callerOf(r)
	return !who.May(access.Operate, r.PathValue("service"))
}

func (a *api) command(verb string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		knowing, err := boolOf(r.URL.Query(), "even_failed")
		if err == nil {
			err = noBody(w, r)
		}
		if err != nil {
			a.fail(w, err)
			return
		}
		s, version, err := a.Controller.Command(r.Context(), r.PathValue("service"), rollout.Commanded{Verb: verb, Version: r.PathValue("version"), Knowing: knowing, Tested: testedOnly(r), By: by(r)})
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
}

// noBody refuses what would be left unread: a version that is named there is not the one that is meant.
func noBody(w http.ResponseWriter, r *http.Request) error {
	raw, err := readBody(w, r)
	if err != nil {
		return err
	}
	if raw = bytes.TrimSpace(raw); len(raw) > 0 && string(raw) != "{}" {
		return problem(http.StatusUnprocessableEntity, "this call takes no body: the path names the service and the version")
	}
	return nil
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
	if err != nil || n < 1 || n > mostListed {
		return 0, problem(http.StatusUnprocessableEntity, fmt.Sprintf("limit must be a number from 1 to %d", mostListed))
	}
	return n, nil
}

// by says who calls: who was authenticated, else the peer's address. What a client says of itself stands in brackets.
func by(r *http.Request) string {
	who := callerOf(r).Name
	if who == "" {
		var err error
		if who, _, err = net.SplitHostPort(r.RemoteAddr); err != nil {
			who = r.RemoteAddr
		}
	}
	claimed := r.Header.Get("X-Canaryd-By")
	if u, _, ok := r.BasicAuth(); ok && claimed == "" && u != callerOf(r).Name {
		claimed = u
	}
	if claimed = plainName(claimed); claimed != "" {
		who += " (" + claimed + ")"
	}
	return who
}

// plainName leaves of a name that a client chose what cannot be taken for something else.
func plainName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '(' || r == ')' || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if rs := []rune(s); len(rs) > 64 {
		s = string(rs[:64])
	}
	return strings.TrimSpace(s)
}
