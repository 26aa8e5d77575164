package docker

import (
	"context"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	relist   = time.Minute // how often all containers are asked for while the daemon tells what becomes of them
	restMost = time.Hour   // for which a version whose containers all serve is left alone meanwhile
)

// listen takes in what the daemon tells of containers, until ctx ends.
func (f *Fleet) listen(ctx context.Context) {
	for ctx.Err() == nil {
		f.hear(ctx)
		f.listening(false)
		select {
		case <-ctx.Done():
		case <-time.After(sweep):
		}
	}
}

// hear takes in what the daemon tells, until it does no longer.
func (f *Fleet) hear(ctx context.Context) {
	ctx, end := context.WithCancel(ctx)
	var verifying sync.WaitGroup
	defer verifying.Wait()
	defer end()
	r := f.cli.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("type", "container").Add("label", LabelService).
		Add("event", "create", "start", "die", "destroy", "health_status", "pause", "unpause", "rename")})
	verifying.Go(func() {
		defer end()
		f.verify(ctx)
	})
	for {
		select {
		case m := <-r.Messages:
			f.happened(m)
		case <-r.Err: // whoever asks the daemon for something says what is wrong with it
			return
		}
	}
}

// verify compares all containers with what was told, until that cannot be relied on. It begins a moment after the daemon said
// that it would tell: it says so before it does.
func (f *Fleet) verify(ctx context.Context) {
	for pause := sweep; ; pause = relist {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		f.listening(true)
		f.survey.anew()
		if f.current(ctx) != nil {
			return
		}
		if f.survey.isDeaf() {
			f.log.Warn("containers changed, and the Docker daemon told nothing: its events are asked for anew")
			return
		}
	}
}

// listening takes in that the daemon tells what happens, or does no longer. What happened in between nobody told.
func (f *Fleet) listening(now bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.told == now {
		return
	}
	f.survey.keep(now)
	f.told = now
	for k := range f.work {
		f.stir(k)
	}
	f.lookNow()
}

// happened has the version looked at of which a container is, and what nobody looks after.
func (f *Fleet) happened(m events.Message) {
	f.survey.tell(m.Actor.ID)
	l := m.Actor.Attributes
	f.mu.Lock()
	defer f.mu.Unlock()
	looked := f.stirAll(l[LabelService], l[LabelVersion]) && l[LabelManaged] == "true"
	if !looked && m.Action != events.ActionCreate { // it does not run yet
		f.lookNow()
	}
}

// stirAll stirs all attempts of a version, and reports whether there are any: a container of an earlier one may have to go.
func (f *Fleet) stirAll(service, version string) (are bool) {
	for _, want := range f.wants[service] {
		if want.Version == version {
			are = true
			f.stir(want.key())
		}
	}
	return are
}

// stir has a version looked at that rests. One that does not has its time: what failed is not tried again before it. And
// one that is just being looked at does not rest after that: what was asked before something happened does not show it.
func (f *Fleet) stir(k key) {
	w := f.work[k]
	if w == nil {
		return
	}
	if w.stirred = true; !w.resting {
		return
	}
	w.resting = false
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// rest is how long a version is left alone after a pass that found nothing new: all of it runs, and the daemon tells when that
// changes. Those that rest at the same time are not looked at at the same time.
func (f *Fleet) rest(want Want, w *worker, e Event) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	settled := want.Goal == rollout.Start && want.Launched && want.Alone && e.Note == "" && len(e.Endpoints) == want.Spec.Replicas
	if w.resting = f.told && settled && !w.stirred && reflect.DeepEqual(want, find(f.wants[want.Service], want.key())); w.resting {
		return restMost/2 + rand.N(restMost/2)
	}
	return sweep
}
