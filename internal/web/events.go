package web

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/controller"
)

const (
	maxListeners = 256
	mostOfOne    = maxListeners / 4 // of a caller, or of all without credentials, where callers are asked who they are
	heartbeat    = 15 * time.Second
	writeWithin  = 10 * time.Second // who has not taken an event by then is gone
)

// events sends the records as server-sent events, from now on or after the one that Last-Event-ID names.
func (a *api) events(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead { // hears nothing, and takes no place
		eventHeaders(w)
		return
	}
	leave, ok := a.seat(w, r, &a.listeners, "15", "close some, or read /api/v1/services/{service}/history")
	if !ok {
		return
	}
	defer leave()
	entries, err := a.Controller.Listen(r.Context(), r.Header.Get("Last-Event-ID"))
	if err != nil {
		a.fail(w, err)
		return
	}
	a.follow(w, r, entries)
}

// places are for clients whose answers last, counted so that one caller leaves room for others.
type places struct {
	most, mostOfOne int
	what            string // they do

	mu  sync.Mutex
	all int
	of  map[string]int
}

// enter says why there is no place for one more.
func (l *places) enter(name string, guarded bool) (leave func(), full string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.all >= l.most:
		return nil, fmt.Sprintf("%d clients %s, the most there may be", l.most, l.what)
	case guarded && l.of[name] >= l.mostOfOne:
		return nil, fmt.Sprintf("%d clients of %s %s, the most that one caller may have", l.mostOfOne, cmp.Or(name, "callers without credentials"), l.what)
	case l.of == nil:
		l.of = map[string]int{}
	}
	l.all++
	l.of[name]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all--
		if l.of[name]--; l.of[name] == 0 {
			delete(l.of, name)
		}
	}, ""
}

// seat gives a caller one of some places, or answers that there is none, when it may ask again and what it can do.
func (a *api) seat(w http.ResponseWriter, r *http.Request, of *places, retry, instead string) (leave func(), ok bool) {
	leave, full := of.enter(callerOf(r).Name, a.Access.Guards())
	if full != "" {
		w.Header().Set("Retry-After", retry)
		a.fail(w, problem(http.StatusServiceUnavailable, full+": "+instead))
		return nil, false
	}
	return leave, true
}

func eventHeaders(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
}

// follow sends entries until the client is gone, has fallen so far behind that it has to ask anew, or until what it showed
// when it came has expired.
func (a *api) follow(w http.ResponseWriter, r *http.Request, entries <-chan controller.Entry) {
	eventHeaders(w)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	g := a.guest(r)
	expired, stop := after(g.who.Until)
	defer stop()
	var frame []byte // at first nothing but the headers
	for g.who.MaySome(access.View) {
		if err := send(w, frame); err != nil {
			a.Log.WithError(err).Debug("a client no longer reads events")
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-expired: // it comes back with what is valid, and hears what it missed
			return
		case <-g.changed: // a token that was taken away hears nothing more
			g.ask()
			frame = nil
		case <-beat.C:
			frame = []byte(": still here\n\n")
		case e, ok := <-entries:
			if !ok {
				return
			}
			if frame = nil; !g.may(access.View, e.Service) { // of an entry and a change either may be seen first
				continue
			}
			var err error
			if frame, err = eventFrame(e); err != nil {
				a.Log.WithError(err).Error("an event cannot be encoded")
				return
			}
		}
	}
}

// after says when a moment has come; the zero one never does.
func after(at time.Time) (<-chan time.Time, func() bool) {
	if at.IsZero() {
		return nil, func() bool { return false }
	}
	t := time.NewTimer(time.Until(at))
	return t.C, t.Stop
}

// eventFrame is the one place that knows how an entry looks as an event.
func eventFrame(e controller.Entry) ([]byte, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "id: %s\nevent: %s\ndata: %s\n\n", e.Cursor, e.Kind, data), nil
}

// send writes and flushes within writeWithin. The deadline is taken back afterwards: on HTTP/2 one that
// passes between two events would end the stream.
func send(w http.ResponseWriter, frame []byte) error {
	rc := http.NewResponseController(w)
	if err := rc.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return err
	}
	if _, err := w.Write(frame); err != nil {
		return err
	}
	if err := rc.Flush(); err != nil {
		return err
	}
	return rc.SetWriteDeadline(time.Time{})
}
