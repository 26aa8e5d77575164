// Package docker runs versions as containers: it keeps what runs equal to what is wanted, by labels, so
// that a restart of canaryd or of the daemon neither orphans nor doubles anything. A container that it
// did not start is never touched.
package docker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
)

// The labels of every container that canaryd starts.
const (
	LabelManaged = "canaryd.managed"
	LabelService = "canaryd.service"
	LabelVersion = "canaryd.version"
	LabelAttempt = "canaryd.attempt"
)

const (
	sweep     = time.Second      // how often what runs is compared with what is wanted
	retry     = 5 * time.Second  // after the daemon or a registry failed
	tries     = 3                // of a pull or a start, then the version has failed
	steady    = time.Second      // a container that runs for so long did not end at once
	crashes   = 3                // ends of a container before it is ready
	stopGrace = 10               // seconds for a container to end by itself
	callMost  = 30 * time.Second // of one call to the daemon; pulls have longer
	pullMost  = 15 * time.Minute
	logLines  = "20"
)

// Want is one attempt of one version that is to run, or that is to be stopped.
type Want struct {
	Service, Version string
	Attempt          int
	Image            string
	Spec             policy.Docker
	Run              bool
}

// Event is what became of a Want.
type Event struct {
	Service, Version string
	Attempt          int
	Endpoints        []string // all of its containers run and are healthy as far as Docker knows
	Note             string   // what is being done
	Failed           bool     // it will never run: Note says why
	Stopped          bool     // nothing of it runs any more
	Logs             string   // its last lines, with Failed and Stopped
}

// Fleet keeps containers as they are wanted.
type Fleet struct {
	log    logrus.FieldLogger
	cli    *client.Client
	events chan Event

	mu    sync.Mutex
	wants map[key]Want
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
	failures int
	told     Event
}

// New connects to a daemon: unix:///var/run/docker.sock, or tcp://host:2376 with the certificates that
// DOCKER_CERT_PATH names.
func New(log logrus.FieldLogger, host string) (*Fleet, error) {
	cli, err := client.New(client.WithTLSClientConfigFromEnv(), client.WithHost(host), client.WithUserAgent("canaryd"))
	if err != nil {
		return nil, fmt.Errorf("docker.host %s: %w", host, err)
	}
	return &Fleet{log: log, cli: cli, events: make(chan Event, 64), wants: map[key]Want{}, work: map[key]*worker{}, wake: make(chan struct{}, 1)}, nil
}

// Events tell what became of what is wanted.
func (f *Fleet) Events() <-chan Event { return f.events }

// Want replaces all that is wanted. It does not wait for the daemon.
func (f *Fleet) Want(wants []Want) {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.wants)
	for _, w := range wants {
		f.wants[key{w.Service, w.Version, w.Attempt}] = w
	}
	for _, w := range f.work {
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

// Run works until ctx ends. Containers go on running then.
func (f *Fleet) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		f.mu.Lock()
		for k := range f.wants {
			if f.work[k] == nil {
				w := &worker{poke: make(chan struct{}, 1)}
				f.work[k] = w
				wg.Go(func() { f.lookAfter(ctx, k, w) })
			}
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
	}
}

// lookAfter works on one attempt until nobody wants anything of it.
func (f *Fleet) lookAfter(ctx context.Context, k key, w *worker) {
	defer func() {
		f.mu.Lock()
		delete(f.work, k)
		f.mu.Unlock()
	}()
	for {
		f.mu.Lock()
		want, ok := f.wants[k]
		f.mu.Unlock()
		if !ok {
			return
		}
		pause := sweep
		e, err := f.pass(ctx, want, w)
		if err != nil {
			pause = retry
			e = w.blame(want, err)
		}
		f.tell(ctx, w, e)
		if e.Stopped || e.Failed {
			pause = time.Minute // until it is no longer wanted
		}
		select {
		case <-ctx.Done():
			return
		case <-w.poke:
		case <-time.After(pause):
		}
	}
}

// blame turns an error into a note, or after some tries into a failure where it lies with the version.
func (w *worker) blame(want Want, err error) Event {
	e := Event{Service: want.Service, Version: want.Version, Attempt: want.Attempt, Note: err.Error()}
	var mine *versionError
	if want.Run && len(w.told.Endpoints) == 0 && errors.As(err, &mine) {
		w.failures++
		e.Failed = w.failures >= tries
	}
	return e
}

// versionError lies with the version: its image, or what it says of itself.
type versionError struct{ error }

// tell sends an event that says something new.
func (f *Fleet) tell(ctx context.Context, w *worker, e Event) {
	if e.Note == w.told.Note && e.Failed == w.told.Failed && e.Stopped == w.told.Stopped && slices.Equal(e.Endpoints, w.told.Endpoints) {
		return
	}
	w.told = e
	select {
	case f.events <- e:
	case <-ctx.Done():
	}
}

// pass compares what runs with what is wanted, and does one thing about it.
func (f *Fleet) pass(ctx context.Context, want Want, w *worker) (Event, error) {
	e := Event{Service: want.Service, Version: want.Version, Attempt: want.Attempt}
	mine, err := f.list(ctx, want)
	if err != nil {
		return e, fmt.Errorf("the Docker daemon does not answer: %w", err)
	}
	if !want.Run {
		e.Logs, err = f.remove(ctx, mine)
		e.Stopped = err == nil
		return e, err
	}
	if len(mine) < max(want.Spec.Replicas, 1) {
		if err := f.start(ctx, want, mine, w); err != nil {
			return e, err
		}
		mine, err = f.list(ctx, want)
	}
	if err != nil {
		return e, err
	}
	return f.ready(ctx, want, mine, e, len(w.told.Endpoints) > 0)
}

func (f *Fleet) list(ctx context.Context, want Want) ([]container.Summary, error) {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	filters := client.Filters{}.Add("label", LabelManaged+"=true", LabelService+"="+want.Service, LabelVersion+"="+want.Version, LabelAttempt+"="+strconv.Itoa(want.Attempt))
	r, err := f.cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return nil, err
	}
	var mine []container.Summary
	for _, c := range r.Items { // of several label filters some daemons take any one
		if l := c.Labels; l[LabelManaged] == "true" && l[LabelService] == want.Service && l[LabelVersion] == want.Version && l[LabelAttempt] == strconv.Itoa(want.Attempt) {
			mine = append(mine, c)
		}
	}
	slices.SortFunc(mine, func(a, b container.Summary) int { return strings.Compare(nameOf(a), nameOf(b)) })
	return mine, nil
}

func nameOf(c container.Summary) string {
	if len(c.Names) == 0 {
		return c.ID
	}
	return strings.TrimPrefix(c.Names[0], "/")
}

// start pulls the image if it is not there, and starts the containers that are missing.
func (f *Fleet) start(ctx context.Context, want Want, have []container.Summary, w *worker) error {
	if err := f.image(ctx, want, w); err != nil {
		return err
	}
	names := map[string]bool{}
	for _, c := range have {
		names[nameOf(c)] = true
	}
	for i := range max(want.Spec.Replicas, 1) {
		name := fmt.Sprintf("canaryd-%s-%s-%d-%d", want.Service, want.Version, want.Attempt, i)
		if names[name] {
			continue
		}
		if err := f.create(ctx, want, name); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) image(ctx context.Context, want Want, w *worker) error {
	short, cancel := context.WithTimeout(ctx, callMost)
	_, err := f.cli.ImageInspect(short, want.Image)
	cancel()
	if err == nil || !errdefs.IsNotFound(err) {
		return err
	}
	f.tell(ctx, w, Event{Service: want.Service, Version: want.Version, Attempt: want.Attempt, Note: "pulling " + want.Image})
	long, cancel := context.WithTimeout(ctx, pullMost)
	defer cancel()
	r, err := f.cli.ImagePull(long, want.Image, client.ImagePullOptions{})
	if err == nil {
		err = r.Wait(long)
	}
	if err != nil {
		return &versionError{fmt.Errorf("image %s cannot be pulled: %w", want.Image, err)}
	}
	return nil
}

func (f *Fleet) create(ctx context.Context, want Want, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	_, err := f.cli.ContainerCreate(ctx, client.ContainerCreateOptions{Name: name, Config: configOf(want), HostConfig: hostConfigOf(want)})
	switch {
	case errdefs.IsConflict(err):
		return &versionError{fmt.Errorf("a container named %s exists already and is not canaryd's: remove or rename it", name)}
	case err != nil:
		return &versionError{fmt.Errorf("container %s cannot be made: %w", name, err)}
	}
	if _, err := f.cli.ContainerStart(ctx, name, client.ContainerStartOptions{}); err != nil {
		return &versionError{fmt.Errorf("container %s does not start: %w", name, err)}
	}
	return nil
}

func configOf(want Want) *container.Config {
	labels := map[string]string{}
	for k, v := range want.Spec.Labels {
		labels[k] = v
	}
	labels[LabelManaged], labels[LabelService], labels[LabelVersion], labels[LabelAttempt] = "true", want.Service, want.Version, strconv.Itoa(want.Attempt)
	var env []string
	for k, v := range want.Spec.Env {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	return &container.Config{Image: want.Image, Env: env, Labels: labels}
}

func hostConfigOf(want Want) *container.HostConfig {
	h := &container.HostConfig{
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyUnlessStopped},
		NetworkMode:   container.NetworkMode(cmp.Or(want.Spec.Network, "bridge")),
	}
	h.Memory, h.NanoCPUs = int64(want.Spec.Memory), int64(want.Spec.CPUs*1e9)
	return h
}

// ready gives the endpoints when all containers run and none is unhealthy.
func (f *Fleet) ready(ctx context.Context, want Want, mine []container.Summary, e Event, was bool) (Event, error) {
	for _, c := range mine {
		in, err := f.inspect(ctx, c.ID)
		if err != nil {
			return e, err
		}
		st := in.State
		if !was && (in.RestartCount >= crashes || st.Status == container.StateExited && st.ExitCode != 0) {
			e.Logs = f.tail(ctx, c.ID)
			e.Failed, e.Note = true, fmt.Sprintf("container %s ended with exit code %d before it was ready%s", nameOf(c), st.ExitCode, said(e.Logs))
			return e, nil
		}
		if st.Health != nil && st.Health.Status == container.Unhealthy && !was {
			e.Logs = f.tail(ctx, c.ID)
			e.Failed, e.Note = true, fmt.Sprintf("container %s is unhealthy by its own health check%s", nameOf(c), said(e.Logs))
			return e, nil
		}
		if age, ok := upFor(st); !was && st.Running && (!ok || age < steady) {
			e.Note = fmt.Sprintf("container %s has just started", nameOf(c))
			continue
		}
		if !st.Running || st.Health != nil && st.Health.Status == container.Starting {
			e.Note = fmt.Sprintf("container %s is %s", nameOf(c), cmp.Or(healthOf(st), string(st.Status)))
			continue
		}
		addr, err := addressOf(in)
		if err != nil {
			return e, &versionError{err}
		}
		e.Endpoints = append(e.Endpoints, netip.AddrPortFrom(addr, uint16(want.Spec.Port)).String())
	}
	if len(e.Endpoints) < len(mine) && !was || len(e.Endpoints) == 0 {
		e.Endpoints = nil
	}
	return e, nil
}

// upFor is how long a container has been running.
func upFor(st *container.State) (time.Duration, bool) {
	at, err := time.Parse(time.RFC3339Nano, st.StartedAt)
	return time.Since(at), err == nil
}

func healthOf(st *container.State) string {
	if st.Running && st.Health != nil {
		return "running, its health check is " + string(st.Health.Status)
	}
	return ""
}

func said(logs string) string {
	if logs == "" {
		return ""
	}
	lines := strings.Split(logs, "\n")
	return ": " + lines[len(lines)-1]
}

func addressOf(in container.InspectResponse) (netip.Addr, error) {
	if in.HostConfig != nil && in.HostConfig.NetworkMode.IsHost() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	if in.NetworkSettings != nil {
		for _, n := range in.NetworkSettings.Networks {
			if n != nil && n.IPAddress.IsValid() {
				return n.IPAddress, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("container %s has no address: does its network give it one?", in.Name)
}

func (f *Fleet) inspect(ctx context.Context, id string) (container.InspectResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	r, err := f.cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	return r.Container, err
}

// tail is the end of a container's output.
func (f *Fleet) tail(ctx context.Context, id string) string {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	r, err := f.cli.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: logLines})
	if err != nil {
		return ""
	}
	defer r.Close()
	var out bytes.Buffer
	_, _ = stdcopy.StdCopy(&out, &out, io.LimitReader(r, 64<<10)) // what came before an error is what there is
	return strings.ToValidUTF8(strings.TrimSpace(out.String()), "?")
}

// remove stops and removes containers, and returns their last lines.
func (f *Fleet) remove(ctx context.Context, mine []container.Summary) (string, error) {
	var logs []string
	for _, c := range mine {
		if l := f.tail(ctx, c.ID); l != "" {
			logs = append(logs, l)
		}
		grace := stopGrace
		short, cancel := context.WithTimeout(ctx, callMost+stopGrace*time.Second)
		_, err := f.cli.ContainerStop(short, c.ID, client.ContainerStopOptions{Timeout: &grace})
		if err == nil || errdefs.IsNotFound(err) {
			_, err = f.cli.ContainerRemove(short, c.ID, client.ContainerRemoveOptions{RemoveVolumes: true, Force: true})
		}
		cancel()
		if err != nil && !errdefs.IsNotFound(err) {
			return "", fmt.Errorf("container %s cannot be stopped: %w", nameOf(c), err)
		}
	}
	return strings.Join(logs, "\n"), nil
}
