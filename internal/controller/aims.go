package controller

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/xds"
)

// aimsApart is how far apart the source of evidence is told of changes, so that many at once are told as one.
const aimsApart = 50 * time.Millisecond

// aim is what is looked at of one service. It is never changed.
type aim struct {
	metrics.Target
	clusters []xds.Asked // of its versions
}

func (a *aim) same(o *aim) bool { return a == o || a != nil && o != nil && reflect.DeepEqual(a, o) }

// aims tells the source of evidence, and the Envoys, which versions are being compared. The loop says what has changed;
// the lists, which name all, are made outside of it.
type aims struct {
	watch func([]metrics.Target)
	ask   func([]xds.Asked)
	wake  chan struct{}
	list  []*aim // as they were told last, by service

	mu  sync.Mutex
	due map[string]*aim // changed since; nil: it is looked at no more
}

func newAims(o *Options) *aims {
	a := &aims{watch: o.Source.Watch, ask: o.Ask, wake: make(chan struct{}, 1), due: map[string]*aim{}}
	if a.ask == nil {
		a.ask = func([]xds.Asked) {}
	}
	return a
}

// put takes in what is looked at of a service from now on; nil: nothing.
func (a *aims) put(service string, next *aim) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.due[service] = next
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *aims) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		}
		a.tell()
		select {
		case <-ctx.Done():
			return
		case <-time.After(aimsApart):
		}
	}
}

// tell brings the lists up to date.
func (a *aims) tell() {
	a.mu.Lock()
	due := a.due
	a.due = map[string]*aim{}
	a.mu.Unlock()
	a.list = slices.DeleteFunc(a.list, func(t *aim) bool { _, changed := due[t.Service]; return changed })
	for _, t := range due {
		if t != nil {
			a.list = append(a.list, t)
		}
	}
	slices.SortFunc(a.list, func(x, y *aim) int { return strings.Compare(x.Service, y.Service) })
	var targets []metrics.Target
	var clusters []xds.Asked
	for _, t := range a.list {
		targets, clusters = append(targets, t.Target), append(clusters, t.clusters...)
	}
	a.watch(targets)
	a.ask(clusters)
}
