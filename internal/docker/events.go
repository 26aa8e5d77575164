package docker

import (
	"context"
	"reflect"
	"strconv"
	"time"

	"github.com/moby/moby/client"

	"github.com/canaryd/canaryd/internal/rollout"
)

// restSweep is how often a version whose containers all serve is looked at while the daemon tells what becomes of them.
const restSweep = 15 * time.Second

// listen has versions looked at as soon as the daemon tells of their containers, until ctx ends.
func (f *Fleet) listen(ctx context.Context) {
	filters := client.Filters{}.Add("type", "container").Add("label", LabelManaged+"=true").
		Add("event", "start", "die", "destroy", "health_status", "pause", "unpause", "rename")
	for ctx.Err() == nil {
		r := f.cli.Events(ctx, client.EventsListOptions{Filters: filters})
		f.listening(true)
		for open := true; open; {
			select {
			case m := <-r.Messages:
				l := m.Actor.Attributes
				if attempt, err := strconv.Atoi(l[LabelAttempt]); err == nil {
					f.wakeUp(key{l[LabelService], l[LabelVersion], attempt})
				}
			case <-r.Err: // whoever asks the daemon for something says what is wrong with it
				open = false
			}
		}
		f.listening(false)
		select {
		case <-ctx.Done():
		case <-time.After(sweep):
		}
	}
}

// listening takes in that the daemon tells what happens, or does no longer. What happened in between nobody told.
func (f *Fleet) listening(now bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = now
	for k := range f.work {
		f.stir(k)
	}
}

func (f *Fleet) wakeUp(k key) {
	f.survey.changed()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stir(k)
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
// changes.
func (f *Fleet) rest(want Want, w *worker, e Event) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	settled := want.Goal == rollout.Start && want.Launched && want.Alone && e.Note == "" && len(e.Endpoints) == want.Spec.Replicas
	if w.resting = f.told && settled && !w.stirred && reflect.DeepEqual(want, find(f.wants[want.Service], want.key())); w.resting {
		return restSweep
	}
	return sweep
}
