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
	found byVersion
}

// byVersion are the containers that name a service and a version, in the daemon's order. A worker walks those of its own
// version: ten thousand that walk all of ten thousand containers keep half a core busy while nothing happens.
type byVersion map[[2]string][]*container.Summary

func versionsOf(items []container.Summary) byVersion {
	found := make(byVersion, len(items))
	for i := range items {
		if l := items[i].Labels; l[LabelManaged] == "true" {
			k := [2]string{l[LabelService], l[LabelVersion]}
			found[k] = append(found[k], &items[i])
		}
	}
	return found
}

// changed has the daemon asked anew: canaryd made, started, stopped or removed a container.
func (s *survey) changed() { s.changes.Add(1) }

// recent is what was asked a moment ago, unless canaryd has changed something since.
func (s *survey) recent(after uint64) (byVersion, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found, s.after == after && time.Since(s.at) < sweep/2
}

// keep keeps an answer, unless that to a later question was quicker.
func (s *survey) keep(at time.Time, after uint64, found byVersion) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(s.at) {
		s.at, s.after, s.found = at, after, found
	}
}

// containers are those that canaryd started of a version. They are shared: nobody changes them.
func (f *Fleet) containers(ctx context.Context, want Want) ([]*container.Summary, error) {
	all, err := f.surveyed(ctx)
	return all[[2]string{want.Service, want.Version}], err
}

// surveyed are all that canaryd started.
func (f *Fleet) surveyed(ctx context.Context) (byVersion, error) {
	s := &f.survey
	after := s.changes.Load()
	if found, ok := s.recent(after); ok {
		return found, nil
	}
	answer := s.flights.DoChan(strconv.FormatUint(after, 10), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), callMost) // it is nobody's own
		defer cancel()
		at := time.Now()
		r, err := f.cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", LabelManaged+"=true")})
		if err != nil {
			return nil, err
		}
		found := versionsOf(r.Items)
		s.keep(at, after, found)
		return found, nil
	})
	select {
	case a := <-answer:
		found, _ := a.Val.(byVersion)
		return found, a.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
