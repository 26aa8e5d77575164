package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Problem is an error as RFC 9457 has it.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`

	again string // Retry-After; empty: none
}

func (p *Problem) Error() string { return p.Detail }

func problem(status int, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

// later says that it may be otherwise when somebody asks again.
func later(detail, again string) *Problem {
	p := problem(http.StatusServiceUnavailable, detail)
	p.again = again
	return p
}

// problemOf gives an error its status: 404 unknown, 409 wrong phase, 422 wrong input, 503 not stored or not come to, 500 otherwise.
func problemOf(err error) *Problem {
	var p *Problem
	var away *access.AwayError
	var unknown *controller.UnknownError
	var refusal *rollout.Refusal
	var unstored *controller.NotStoredError
	var cursor *controller.CursorError
	var findings policy.Findings
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &unstored):
		return problem(http.StatusServiceUnavailable, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded): // the loop has stopped or is busy, or files are still being read
		return later(err.Error()+"\nTry: ask again in a moment", "1")
	case errors.As(err, &away):
		return later(away.Message, "10")
	case errors.As(err, &cursor), errors.As(err, &findings):
		return problem(http.StatusUnprocessableEntity, err.Error())
	case errors.As(err, &unknown):
		return problem(http.StatusNotFound, unknown.Message)
	case errors.As(err, &refusal) && refusal.Unknown:
		return problem(http.StatusNotFound, refusal.Message)
	case errors.As(err, &refusal) && refusal.Tested:
		return problem(http.StatusForbidden, refusal.Message)
	case errors.As(err, &refusal):
		return problem(http.StatusConflict, refusal.Message)
	}
	return problem(http.StatusInternalServerError, err.Error())
}

func (a *api) fail(w http.ResponseWriter, err error) {
	p := problemOf(err)
	if err := p.answer(w); err != nil {
		a.Log.WithError(err).Debug("a client did not read its answer")
	}
}

func (p *Problem) answer(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/problem+json")
	if p.again != "" {
		w.Header().Set("Retry-After", p.again)
	}
	w.WriteHeader(p.Status)
	return json.NewEncoder(w).Encode(p)
}

// Refuse answers with a problem document what does not come as far as the API.
func Refuse(w http.ResponseWriter, status int, detail string) {
	_ = problem(status, detail).answer(w) // a client that hangs up is no error of ours
}

func (a *api) answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	a.encode(w, v)
}

func (a *api) encode(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		a.Log.WithError(err).Debug("a client did not read its answer")
	}
}
