package controller

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/xds"
)

const (
	aimsApart = 50 * time.Millisecond // how far apart the source of evidence is told of changes, so that many at once are told as one
	aimsRest  = 9                     // and for so many times as long as telling took: the lists name all services
	aimsMost  = time.Second           // but no longer: until it is told, nothing is counted of a release that has begun
)

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
		begun := time.Now()
		a.tell()
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(max(aimsApart, aimsRest*time.Since(begun)), aimsMost)):
		}
	}
}

// tell brings the lists up to date.
func (a *aims) tell() {
	a.mu.Lock()
	due := a.due
	a.due = map[string]*aim{}
	a.mu.Unlock()
	a.list = merged(a.list, due)
	n := 0
	for _, t := range a.list {
		n += len(t.clusters)
	}
	targets, clusters := make([]metrics.Target, 0, len(a.list)), make([]xds.Asked, 0, n)
	for _, t := range a.list {
		targets, clusters = append(targets, t.Target), append(clusters, t.clusters...)
	}
	a.watch(targets)
	a.ask(clusters)
}

// merged is a list by service with what is due in place of what there was.
func merged(list []*aim, due map[string]*aim) []*aim {
	next := make([]*aim, 0, len(list)+len(due))
	for _, service := range slices.Sorted(maps.Keys(due)) {
		at, there := slices.BinarySearchFunc(list, service, func(t *aim, service string) int { return strings.Compare(t.Service, service) })
		next = append(next, list[:at]...)
		if list = list[at:]; there {
			list = list[1:]
		}
		if t := due[service]; t != nil {
			next = append(next, t)
		}
	}
	return append(next, list...)
}
