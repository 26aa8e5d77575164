package docker

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sync/singleflight"
)

// survey is what the daemon says of all containers that canaryd started: it is asked once for all versions that are looked
// at within half a sweep.
type survey struct {
	changes atomic.Uint64 // made by canaryd: what was asked before one does not show it
	flights singleflight.Group

	mu    sync.Mutex
	at    time.Time // asked last
	after uint64    // changes
	items []container.Summary
}

// changed has the daemon asked anew: canaryd made, started, stopped or removed a container.
func (s *survey) changed() { s.changes.Add(1) }

// recent is what was asked a moment ago, unless canaryd has changed something since.
func (s *survey) recent(after uint64) ([]container.Summary, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.items, s.after == after && time.Since(s.at) < sweep/2
}

// keep keeps an answer, unless that to a later question was quicker.
func (s *survey) keep(at time.Time, after uint64, items []container.Summary) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(s.at) {
		s.at, s.after, s.items = at, after, items
	}
}

// containers are all that canaryd started. They are shared: nobody changes them.
func (f *Fleet) containers(ctx context.Context) ([]container.Summary, error) {
	s := &f.survey
	after := s.changes.Load()
	if items, ok := s.recent(after); ok {
		return items, nil
	}
	answer := s.flights.DoChan(strconv.FormatUint(after, 10), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), callMost) // it is nobody's own
		defer cancel()
		at := time.Now()
		r, err := f.cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", LabelManaged+"=true")})
		if err == nil {
			s.keep(at, after, r.Items)
		}
		return r.Items, err
	})
	select {
	case a := <-answer:
		items, _ := a.Val.([]container.Summary)
		return items, a.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
