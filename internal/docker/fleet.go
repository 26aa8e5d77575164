// Package docker runs versions as containers: it keeps what runs equal to what is wanted, by name, labels and id, so
// that a restart of canaryd or of the daemon neither orphans nor doubles anything. A container that it
// did not make, whatever its labels say, is never touched, and an image that it did not pull is never removed.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/probe"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
)

const (
	sweep    = time.Second      // how often what runs is compared with what is wanted
	retry    = 5 * time.Second  // after the daemon refused something, or a registry failed
	awayFor  = sweep / 4        // when the daemon is away: it may come back with containers at other addresses
	tries    = 3                // of a pull or a start, then the version has failed
	callMost = 30 * time.Second // of one call to the daemon; pulls have longer
)

// Want is one attempt of one version of a service, and what is to become of it.
type Want struct {
	Service string
	rollout.Container
	Spec  policy.Docker
	Probe *probe.Probe // how containers have to answer before they get requests; nil: not at all
}

// Event is what became of a Want.
type Event struct {
	Service string
	rollout.Launched
}

// Fleet keeps containers as they are wanted.
type Fleet struct {
	log    logrus.FieldLogger
	cli    *client.Client
	events chan Event
	bounds Bounds
	key    Key
	owned  *ownership
	survey survey
	files  files
	looks  chan struct{} // something happened to a container that nobody looks after

	mu    sync.Mutex
	told  bool              // the daemon tells what becomes of containers
	wants map[string][]Want // by service
	anew  map[string]bool   // services of which something else is wanted since workers were begun
	work  map[key]*worker
	wake  chan struct{}
}

type key struct {
	service, version string
	attempt          int
}

// worker looks after one attempt; its goroutine ends with the attempt.
type worker struct {
	poke     chan struct{}
	drop     context.CancelFunc // ends the pass that is under way: something else is wanted
	resting  bool
	stirred  bool // something happened to it since the pass under way began
	goal     rollout.Goal
	failures int
	told     Event
}

// Options say which daemon.
type Options struct {
	Log           logrus.FieldLogger
	Host          string // unix:///var/run/docker.sock or tcp://host:2376
	CA, Cert, Key string // files, for TCP with TLS; without them those that DOCKER_CERT_PATH names
	Bounds        Bounds
	Store         *store.Bolt // remembers what canaryd made
}

// New makes a fleet. It does not wait for the daemon.
func New(o Options) (*Fleet, error) {
	tls := client.WithTLSClientConfigFromEnv()
	if o.CA+o.Cert+o.Key != "" {
		tls = client.WithTLSClientConfig(o.CA, o.Cert, o.Key)
	}
	cli, err := client.New(tls, client.WithHost(o.Host), client.WithUserAgent("canaryd"))
	if err != nil {
		return nil, fmt.Errorf("docker.host %s: %w", o.Host, err)
	}
	owned, err := newOwnership(o.Log, o.Store)
	if err != nil {
		return nil, err
	}
	return &Fleet{log: o.Log, cli: cli, bounds: o.Bounds, key: o.Store.Key(), owned: owned, events: make(chan Event, 64), wants: map[string][]Want{}, anew: map[string]bool{}, work: map[key]*worker{}, wake: make(chan struct{}, 1), looks: make(chan struct{}, 1)}, nil
}

// Events tell what became of what is wanted.
func (f *Fleet) Events() <-chan Event { return f.events }

// Refuse says why an image may not run with what a policy says.
func (f *Fleet) Refuse(d *policy.Docker, image string) error { return f.bounds.Refuse(d, image) }

// Want replaces all that is wanted of a service. It does not wait for the daemon.
func (f *Fleet) Want(service string, wants []Want) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.wants[service]
	if len(old)+len(wants) == 0 {
		return
	}
	f.anew[service] = true
	if f.wants[service] = wants; len(wants) == 0 {
		delete(f.wants, service)
	}
	for _, o := range slices.Concat(old, wants) {
		k := o.key()
		w := f.work[k]
		if was, is := find(old, k), find(wants, k); w == nil || was.Goal == is.Goal {
			if !reflect.DeepEqual(was, is) {
				f.stir(k)
			}
			continue // what failed is not tried again before its time
		}
		w.drop()
		select {
		case w.poke <- struct{}{}:
		default:
		}
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (want Want) key() key { return key{want.Service, want.Version, want.Attempt} }

// find is what is wanted of an attempt, or nothing.
func find(wants []Want, k key) Want {
	if i := slices.IndexFunc(wants, func(w Want) bool { return w.key() == k }); i >= 0 {
		return wants[i]
	}
	return Want{}
}

// Run works until ctx ends. Containers go on running then.
func (f *Fleet) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { f.listen(ctx) })
	for {
		for k, w := range f.begun() {
			wg.Go(func() { f.lookAfter(ctx, k, w) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
	}
}

// begun are new workers for what is wanted and has none yet. One ends only when nothing is wanted of it, so of services of which
// nothing else is wanted all have theirs.
func (f *Fleet) begun() map[key]*worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	begun := map[key]*worker{}
	for service := range f.anew {
		for _, want := range f.wants[service] {
			if k := want.key(); f.work[k] == nil {
				begun[k] = &worker{poke: make(chan struct{}, 1), drop: func() {}}
				f.work[k] = begun[k]
			}
		}
	}
	f.anew = map[string]bool{} // one that was large once would be walked at its size
	return begun
}

// wanted is what is wanted of an attempt at present, and for how long; a worker of which nothing is
// wanted is let go.
func (f *Fleet) wanted(ctx context.Context, k key, w *worker) (context.Context, Want, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := find(f.wants[k.service], k)
	wanted := want.Service != ""
	if !wanted {
		delete(f.work, k)
	}
	ctx, w.drop = context.WithCancel(ctx)
	w.resting, w.stirred = false, false
	return ctx, want, wanted
}

// lookAfter works on one attempt until nobody wants anything of it.
func (f *Fleet) lookAfter(ctx context.Context, k key, w *worker) {
	for {
		now, want, ok := f.wanted(ctx, k, w)
		if !ok {
			w.drop()
			return
		}
		w.begin(want)
		pause := sweep
		e, err := f.pass(now, want, w)
		dropped := now.Err() != nil && ctx.Err() == nil
		w.drop()
		if dropped {
			continue
		}
		if err != nil {
			pause = retry
			if isAway(err) {
				pause = awayFor
			}
			e = w.blame(want, err)
		}
		e.Note, e.Logs = want.hiding(ctx, &f.files, e.Note), want.hiding(ctx, &f.files, e.Logs)
		if news := f.tell(ctx, w, e); err == nil && !news {
			pause = f.rest(want, w, e)
		}
		if e.Done >= rollout.Stop || e.Failed {
			pause = time.Minute // until something else is wanted
		}
		select {
		case <-ctx.Done():
			return
		case <-w.poke:
		case <-time.After(pause):
		}
	}
}

// begin forgets what was told of another goal, or before the version was put to sleep.
func (w *worker) begin(want Want) {
	if w.goal != want.Goal || !want.Launched && len(w.told.Endpoints) > 0 {
		w.goal, w.failures, w.told = want.Goal, 0, Event{}
	}
}

// event begins one about a want.
func (want Want) event() Event {
	return Event{Service: want.Service, Launched: rollout.Launched{Version: want.Version, Attempt: want.Attempt}}
}

// blame turns an error into a note, or after some tries into a failure where it lies with the version.
func (w *worker) blame(want Want, err error) Event {
	e := want.event()
	e.Note = err.Error()
	var mine *versionError
	if want.Goal == rollout.Start && !want.Launched && errors.As(err, &mine) && !isAway(err) {
		w.failures++
		e.Failed = w.failures >= tries || final(mine.error)
	}
	return e
}

// isAway reports whether an error is that the daemon went away, in the middle of an answer perhaps: it says nothing of the version.
// What a registry does is told by the daemon in words.
func isAway(err error) bool {
	return client.IsErrConnectionFailed(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// errBounds is what is not allowed here.
type errBounds struct{ error }

// versionError lies with the version: its image, or what it says of itself.
type versionError struct{ error }

func (e *versionError) Unwrap() error { return e.error }

// final reports whether another try cannot help.
func final(err error) bool {
	return errors.As(err, &errBounds{}) || errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) || errdefs.IsConflict(err)
}

// tell sends an event that says something new, and reports whether it does.
func (f *Fleet) tell(ctx context.Context, w *worker, e Event) (news bool) {
	was := w.told
	if e.Note == was.Note && e.Failed == was.Failed && e.Done == was.Done && e.Image == was.Image && e.Pulled == was.Pulled && slices.Equal(e.Endpoints, was.Endpoints) {
		return false
	}
	w.told = e
	select {
	case f.events <- e:
	case <-ctx.Done():
	}
	return true
}
