package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/controller"
)

const (
	maxListeners = 256
	heartbeat    = 15 * time.Second
	writeWithin  = 10 * time.Second // who has not taken an event by then is gone
)

// events sends the records as server-sent events, from now on or after the one that Last-Event-ID names.
func (a *api) events(w http.ResponseWriter, r *http.Request) {
	select {
	case a.listeners <- struct{}{}:
		defer func() { <-a.listeners }()
	default:
		w.Header().Set("Retry-After", "15")
		a.fail(w, problem(http.StatusServiceUnavailable, fmt.Sprintf("%d clients are connected to /events, the most there may be: close some, or read /api/v1/services/{service}/history", maxListeners)))
		return
	}
	entries, err := a.Controller.Listen(r.Context(), r.Header.Get("Last-Event-ID"))
	if err != nil {
		a.fail(w, err)
		return
	}
	a.follow(w, r, entries)
}

// follow sends entries until the client is gone, or has fallen so far behind that it has to ask anew.
func (a *api) follow(w http.ResponseWriter, r *http.Request, entries <-chan controller.Entry) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	who := callerOf(r)
	var frame []byte // at first nothing but the headers
	for {
		if err := send(w, frame); err != nil {
			a.Log.WithError(err).Debug("a client no longer reads events")
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-beat.C:
			frame = []byte(": still here\n\n")
		case e, ok := <-entries:
			if !ok {
				return
			}
			if !who.May(access.View, e.Service) {
				frame = nil
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
