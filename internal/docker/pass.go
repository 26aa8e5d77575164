package docker

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/canaryd/canaryd/internal/rollout"
)

// pass compares what runs with what is wanted, and does one thing about it.
func (f *Fleet) pass(ctx context.Context, want Want, w *worker) (Event, error) {
	e := want.event()
	if want.Goal == rollout.Leave {
		return w.told, nil
	}
	mine, older, err := f.list(ctx, want)
	if err != nil {
		return e, fmt.Errorf("the Docker daemon does not answer: %w", err)
	}
	if want.Goal == rollout.Start {
		return f.keepRunning(ctx, want, w, mine, older)
	}
	if e.Logs, err = f.stop(ctx, want, append(mine, older...), want.Goal >= rollout.Remove); err != nil {
		return e, err
	}
	if want.Goal >= rollout.Remove {
		f.owned.gone(ctx, older, want.stem())
	}
	if want.Goal == rollout.Prune && want.Pulled {
		err = f.removeImage(ctx, want.Image)
	}
	e.Done, e.Containers = want.Goal, len(mine)+len(older)
	return e, err
}

// keepRunning starts what does not run. Containers of earlier attempts go when these are ready.
func (f *Fleet) keepRunning(ctx context.Context, want Want, w *worker, mine, older []container.Summary) (Event, error) {
	started, err := f.start(ctx, want, mine, w)
	if err == nil && started {
		mine, older, err = f.list(ctx, want)
	}
	if err != nil {
		return want.event(), err
	}
	mine, surplus := want.split(mine)
	e, err := f.ready(ctx, want, w, mine)
	if err != nil || len(e.Endpoints) == 0 || !want.Alone || !slices.Equal(e.Endpoints, w.told.Endpoints) {
		return e, err // nothing is stopped while some are unknown
	}
	old := append(older, surplus...)
	if _, err = f.stop(ctx, want, old, true); err == nil {
		f.owned.gone(ctx, old, "")
	}
	return e, err
}

// name is that of the i-th container. The first dot separates service and version, as a service has none: names are unique.
func (want Want) name(i int) string { return want.stem() + strconv.Itoa(i) }

func (want Want) stem() string {
	return fmt.Sprintf("canaryd-%s.%s-%d-", want.Service, want.Version, want.Attempt)
}

// split parts the containers that are wanted from those that are not any more, when `replicas` has shrunk.
func (want Want) split(cs []container.Summary) (mine, surplus []container.Summary) {
	for _, c := range cs {
		if i, err := strconv.Atoi(strings.TrimPrefix(nameOf(c), want.stem())); err == nil && i >= want.Spec.Replicas {
			surplus = append(surplus, c)
		} else {
			mine = append(mine, c)
		}
	}
	return mine, surplus
}

// list finds the containers of an attempt, by name, and those of earlier attempts of its version.
func (f *Fleet) list(ctx context.Context, want Want) (mine, older []container.Summary, err error) {
	f.owned.retry()
	all, err := f.containers(ctx, want)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range all {
		attempt, err := strconv.Atoi(c.Labels[LabelAttempt])
		if err != nil || !f.owns(ctx, want, *c, attempt) {
			continue
		}
		switch {
		case attempt == want.Attempt:
			mine = append(mine, *c)
		case attempt < want.Attempt:
			older = append(older, *c)
		}
	}
	slices.SortFunc(mine, func(a, b container.Summary) int { return strings.Compare(nameOf(a), nameOf(b)) })
	return mine, older, nil
}

func nameOf(c container.Summary) string {
	if len(c.Names) == 0 {
		return c.ID
	}
	return strings.TrimPrefix(c.Names[0], "/")
}

// start makes the containers that are missing, pulling the image if it is not there, and starts those
// that somebody stopped or that were never started. Docker itself restarts those that ended.
func (f *Fleet) start(ctx context.Context, want Want, have []container.Summary, w *worker) (started bool, err error) {
	there := map[string]container.Summary{}
	for _, c := range have {
		if other := c.Labels[LabelImage]; other != want.Image {
			return started, &versionError{fmt.Errorf("container %s exists already and runs %s: remove it", nameOf(c), other)}
		}
		there[nameOf(c)] = c
	}
	for i := range want.Spec.Replicas {
		name := want.name(i)
		c, ok := there[name]
		if ok && c.State != container.StateCreated && c.State != container.StateExited {
			continue
		}
		if !ok {
			if err := f.image(ctx, want, w); err != nil {
				return started, err
			}
			if c.ID, err = f.create(ctx, want, name); err != nil {
				return started, err
			}
			w.failures = 0 // what failed before is done
		}
		if err := f.startOne(ctx, name, c.ID); err != nil {
			return started, err
		}
		started = true
	}
	return started, nil
}
