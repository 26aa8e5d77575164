package web

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/common/model"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/policy"
)

const (
	maxReaders   = 2  // of the journal at once, for plots
	maxSenders   = 3  // of it, for clients that are sent it: how long that takes is up to them
	maxReplays   = 64 // of those, with those who wait for it
	replaysOfOne = 2  // of a caller, where callers are asked who they are
	chunkWithin  = 30 * time.Second
	readersQueue = 10 * time.Second
)

// reads has a client wait for its turn to read the journal, in a place of those that are there for what it does.
func (a *api) reads(w http.ResponseWriter, r *http.Request, places chan struct{}, read func() error) {
	turn := time.NewTimer(readersQueue)
	defer turn.Stop()
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
		if err := read(); err != nil {
			a.fail(w, err)
		}
	case <-r.Context().Done():
	case <-turn.C:
		w.Header().Set("Retry-After", "10")
		a.fail(w, problem(http.StatusServiceUnavailable, fmt.Sprintf("%d clients read the journal, which is the most at once: try again", cap(places))))
	}
}

// evidence answers with what was counted of a version, in intervals. A client that does not read its answer takes nobody's turn.
func (a *api) evidence(w http.ResponseWriter, r *http.Request) {
	var plot *journal.Evidence
	a.reads(w, r, a.readers, func() (err error) {
		plot, err = a.plot(r)
		return err
	})
	if plot != nil {
		a.answer(w, http.StatusOK, plot)
	}
}

func (a *api) plot(r *http.Request) (*journal.Evidence, error) {
	p := &journal.Plot{Service: r.PathValue("service"), Version: r.PathValue("version")}
	var step time.Duration
	var err error
	if p.From, p.To, err = between(r); err != nil {
		return nil, err
	}
	if q := r.URL.Query(); q.Has("step") {
		text := q.Get("step")
		d, err := model.ParseDuration(text)
		if step = time.Duration(d); err != nil || step < time.Second {
			return nil, problem(http.StatusUnprocessableEntity, fmt.Sprintf("step=%q must be a duration of 1s and more, such as 30s or 5m", text))
		}
	}
	s, err := a.Controller.Service(r.Context(), p.Service)
	if err != nil {
		return nil, err
	}
	v := s.State.Version(p.Version)
	if p.From.IsZero() && v != nil {
		p.From = v.AnnouncedAt
		if !p.To.IsZero() && !p.From.Before(p.To) {
			p.From = time.Time{}
		}
	}
	if err := a.Controller.Evidence(r.Context(), p); err != nil {
		return nil, unprocessable(err, journal.ErrTooLong)
	}
	e, err := p.Buckets(step)
	if err != nil {
		return nil, problem(http.StatusUnprocessableEntity, err.Error())
	}
	if len(e.Buckets) == 0 && v == nil {
		return nil, problem(http.StatusNotFound, fmt.Sprintf("nothing is in the journal of a version %s of %s: it was never under test, or that is older than storage.retention", p.Version, p.Service))
	}
	return &e, nil
}

func unprocessable(err, which error) error {
	if errors.Is(err, which) {
		return problem(http.StatusUnprocessableEntity, err.Error())
	}
	return err
}

// between reads `from` and `to`; zero: not given.
func between(r *http.Request) (from, to time.Time, err error) {
	for name, at := range map[string]*time.Time{"from": &from, "to": &to} {
		q := r.URL.Query()
		if !q.Has(name) {
			continue
		}
		text := q.Get(name)
		if *at, err = time.Parse(time.RFC3339, text); err != nil || at.Year() < 1970 || at.Year() > 2200 {
			return from, to, problem(http.StatusUnprocessableEntity, fmt.Sprintf("%s=%q must be a time as RFC 3339 has it, such as 2026-11-28T12:00:00Z (a + is written as %%2B)", name, text))
		}
	}
	if !to.IsZero() && !from.Before(to) && !from.IsZero() {
		return from, to, problem(http.StatusUnprocessableEntity, "from must be before to")
	}
	return from, to, nil
}

// journal sends the journal of a service as it is stored, for a replay. It holds the values of session cookies.
func (a *api) journal(w http.ResponseWriter, r *http.Request) {
	leave, ok := a.seat(w, r, &a.replays, "10", "try again")
	if !ok {
		return
	}
	defer leave()
	a.reads(w, r, a.senders, func() error {
		from, to, err := between(r)
		if err != nil {
			return err
		}
		g := a.guest(r)
		begun := false
		rc := http.NewResponseController(w)
		send := func(parts [][]byte) error {
			if !g.may(access.Operate, r.PathValue("service")) {
				return problem(http.StatusForbidden, "the role was taken away, or what was shown has expired")
			}
			if !begun {
				begun = true
				w.Header().Set("Content-Type", "application/vnd.canaryd.journal")
				w.Header().Set("Cache-Control", "no-store")
			}
			_ = rc.SetWriteDeadline(time.Now().Add(chunkWithin)) // a test's recorder has none
			_, err := w.Write(journal.AppendFrame(nil, parts))
			return err
		}
		redact, err := redaction()
		if err != nil {
			return err
		}
		err = a.Controller.Journal(r.Context(), r.PathValue("service"), from, to, func(parts [][]byte) error {
			without, err := redact(parts)
			if err != nil {
				a.Log.WithError(err).Warn("a chunk of the journal was not sent: it cannot be read, so its secrets cannot be taken out")
				without = [][]byte{{}} // the client counts a chunk that cannot be read
			}
			return send(without)
		})
		if err == nil {
			err = send(nil)
		}
		if err != nil && begun { // the client sees that the end is missing
			a.Log.WithError(err).Debug("the journal was not sent to its end")
			return nil
		}
		return err
	})
}

// redaction takes the secrets of policies out of chunks that one client is sent. In their place stands a MAC with a key that is
// forgotten then: equal secrets stay equal, which a replay needs, and none can be guessed from it.
func redaction() (func(parts [][]byte) ([][]byte, error), error) {
	rd, err := journal.NewReader()
	if err != nil {
		return nil, err
	}
	key := make([]byte, sha256.Size)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return func(parts [][]byte) ([][]byte, error) {
		return rd.Redacted(parts, func(secret string) string {
			m := hmac.New(sha256.New, key)
			m.Write([]byte(secret))
			return policy.Hidden + hex.EncodeToString(m.Sum(nil)[:8])
		})
	}, nil
}
