package docker

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/canaryd/canaryd/internal/policy"
)

// The labels of every container that canaryd starts.
const (
	LabelManaged = "canaryd.managed"
	LabelService = "canaryd.service"
	LabelVersion = "canaryd.version"
	LabelAttempt = "canaryd.attempt"
	LabelImage   = "canaryd.image"
)

const (
	steady    = time.Second // a container that runs for so long did not end at once
	crashes   = 3           // ends of a container before it is ready
	stopGrace = 10          // seconds for a container to end by itself
	logLines  = "20"
)

// create makes a container, and gives its id.
func (f *Fleet) create(ctx context.Context, want Want, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	if err := f.bounds.Refuse(&want.Spec, want.Image); err != nil {
		return "", &versionError{errBounds{err}}
	}
	env, err := want.environment(ctx, &f.files)
	if err != nil {
		return "", &versionError{fmt.Errorf("container %s cannot be made: %w", name, err)}
	}
	f.owned.making(ctx, name)
	made, err := f.cli.ContainerCreate(ctx, client.ContainerCreateOptions{Name: name, Config: f.configOf(want, env, name), HostConfig: hostConfigOf(want.Spec)})
	if err != nil {
		f.survey.anew() // it may have been made all the same
	}
	switch {
	case errdefs.IsConflict(err):
		return "", &versionError{fmt.Errorf("a container named %s exists already and is not canaryd's: remove or rename it (%w)", name, err)}
	case errdefs.IsNotFound(err) && f.gone(ctx, want.Image): // another try pulls it again
		return "", &versionError{fmt.Errorf("container %s cannot be made: image %s was there a moment ago, and somebody removed it", name, want.Image)}
	case err != nil:
		return "", &versionError{fmt.Errorf("container %s cannot be made: %w", name, err)}
	}
	f.survey.change(made.ID)
	f.owned.made(ctx, name, made.ID)
	return made.ID, nil
}

func (f *Fleet) startOne(ctx context.Context, name, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	defer f.survey.change(id)
	if _, err := f.cli.ContainerStart(ctx, name, client.ContainerStartOptions{}); err != nil {
		return &versionError{fmt.Errorf("container %s does not start: %w", name, err)}
	}
	return nil
}

func (f *Fleet) configOf(want Want, env []string, name string) *container.Config {
	labels := maps.Clone(want.Spec.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[LabelManaged], labels[LabelService], labels[LabelVersion] = "true", want.Service, want.Version
	labels[LabelAttempt], labels[LabelImage], labels[LabelSeal] = strconv.Itoa(want.Attempt), want.Image, f.key.seal(name)
	c := &container.Config{Image: want.Image, User: want.Spec.User, Cmd: want.Spec.Command, Env: env, Labels: labels, Healthcheck: healthcheckOf(want.Spec.Healthcheck)}
	if want.Spec.Publish != "" {
		c.ExposedPorts = network.PortSet{portOf(want.Spec): {}}
	}
	return c
}

func healthcheckOf(h *policy.Healthcheck) *container.HealthConfig {
	if h == nil {
		return nil
	}
	return &container.HealthConfig{Test: h.Test, Interval: h.Interval.Std(), Timeout: h.Timeout.Std(), StartPeriod: h.StartPeriod.Std(), Retries: h.Retries}
}

func hostConfigOf(d policy.Docker) *container.HostConfig {
	h := &container.HostConfig{
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyUnlessStopped},
		NetworkMode:   container.NetworkMode(cmp.Or(d.Network, "bridge")),
	}
	h.Binds = d.Volumes
	if !d.NewPrivileges {
		h.SecurityOpt = []string{"no-new-privileges:true"}
	}
	h.CapDrop, h.CapAdd, h.ReadonlyRootfs = []string{"ALL"}, d.Capabilities, d.ReadOnly
	h.Memory, h.NanoCPUs = int64(d.Memory), int64(d.CPUs*1e9)
	if host, err := netip.ParseAddr(d.Publish); err == nil {
		h.PortBindings = network.PortMap{portOf(d): {{HostIP: host}}}
	}
	return h
}

func portOf(d policy.Docker) network.Port {
	p, _ := network.PortFrom(uint16(d.Port), network.TCP) // the policy has checked it
	return p
}

// ready gives the endpoints when all containers run, none is unhealthy and all answer; of a version that
// has been ready before, those that do.
func (f *Fleet) ready(ctx context.Context, want Want, w *worker, mine []container.Summary) (Event, error) {
	e := want.event()
	e.Image = true
	for _, c := range mine {
		in, err := f.inspect(ctx, c)
		if err != nil {
			return e, err
		}
		endpoint, note, never, err := want.endpoint(ctx, in, w.told.Endpoints)
		if err != nil {
			return e, &versionError{err}
		}
		note = want.hidingOf(in, note)
		if never {
			e.Failed, e.Logs = true, f.tail(ctx, want, in, c.ID)
			e.Note = fmt.Sprintf("container %s %s%s", nameOf(c), note, said(e.Logs))
			return e, nil
		}
		if note != "" {
			e.Note = fmt.Sprintf("container %s %s", nameOf(c), note)
			continue
		}
		e.Endpoints = append(e.Endpoints, endpoint)
	}
	if len(e.Endpoints) < len(mine) && !want.Launched {
		e.Endpoints = nil
	}
	return e, nil
}

// endpoint is where a container takes requests, or a note why it does not yet, or never will. One that
// was reported before is not asked again: its traffic shows how it does.
func (want Want) endpoint(ctx context.Context, in container.InspectResponse, told []string) (endpoint, note string, never bool, err error) {
	if note := broken(in); note != "" && !want.Launched {
		return "", note, true, nil
	}
	if note := notYet(in, want.Launched); note != "" {
		return "", note, false, nil
	}
	if endpoint, err = endpointOf(in, want.Spec); err != nil {
		return "", "", false, err
	}
	if want.Probe == nil || slices.Contains(told, endpoint) || want.Probe.Answers(ctx, endpoint) {
		return endpoint, "", false, nil
	}
	if up, ok := upFor(in.State); ok && !want.Launched && up > want.Spec.StartWithin.Std() {
		note = fmt.Sprintf("runs, but nothing has answered at %s%s for %s (docker.start_within): does it listen on port %d of all addresses?", endpoint, want.Probe.Path, want.Spec.StartWithin, want.Spec.Port)
		return "", note, true, nil
	}
	return "", fmt.Sprintf("runs, and does not answer at %s%s yet", endpoint, want.Probe.Path), false, nil
}

// broken says why a container will never be ready; empty: it may be.
func broken(in container.InspectResponse) string {
	switch st := in.State; {
	case in.RestartCount >= crashes:
		return fmt.Sprintf("ended %d times, with exit code %d, before it was ready", in.RestartCount, st.ExitCode)
	case st.Health != nil && st.Health.Status == container.Unhealthy:
		return fmt.Sprintf("is unhealthy by its health check%s", lastProbe(st.Health))
	}
	return ""
}

func lastProbe(h *container.Health) string {
	if len(h.Log) == 0 {
		return ""
	}
	last := h.Log[len(h.Log)-1]
	return fmt.Sprintf(" (exit code %d: %s)", last.ExitCode, strings.TrimSpace(last.Output))
}

// notYet says why a container gets no requests at present; empty: it may.
func notYet(in container.InspectResponse, launched bool) string {
	st := in.State
	if !st.Running {
		return "is " + string(st.Status)
	}
	if st.Health != nil && (st.Health.Status == container.Starting || st.Health.Status == container.Unhealthy) {
		return "is running, its health check says " + string(st.Health.Status)
	}
	if up, ok := upFor(st); !launched && (!ok || up < steady) {
		return "has just started"
	}
	return ""
}

// upFor is how long a container has been running.
func upFor(st *container.State) (time.Duration, bool) {
	at, err := time.Parse(time.RFC3339Nano, st.StartedAt)
	return time.Since(at), err == nil
}

func said(logs string) string {
	if logs == "" {
		return ""
	}
	lines := strings.Split(logs, "\n")
	return ": " + lines[len(lines)-1]
}

// endpointOf is where a container is reached: at the host's address where its port is published, else at
// its own in the policy's network, or in the first by name.
func endpointOf(in container.InspectResponse, d policy.Docker) (string, error) {
	if in.HostConfig != nil && in.HostConfig.NetworkMode.IsHost() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(d.Port)).String(), nil
	}
	if in.NetworkSettings == nil {
		return "", fmt.Errorf("container %s has no network", in.Name)
	}
	if d.Publish != "" {
		for _, b := range in.NetworkSettings.Ports[portOf(d)] {
			if b.HostPort != "" {
				return net.JoinHostPort(d.Publish, b.HostPort), nil
			}
		}
		return "", fmt.Errorf("port %d of container %s is not published at %s", d.Port, in.Name, d.Publish)
	}
	addr, ok := addressIn(in.NetworkSettings.Networks, d.Network)
	if !ok {
		return "", fmt.Errorf("container %s has no address: does its network give it one?", in.Name)
	}
	return netip.AddrPortFrom(addr, uint16(d.Port)).String(), nil
}

// addressIn is the address in the network of a name, or in the first by name that has one.
func addressIn(networks map[string]*network.EndpointSettings, name string) (netip.Addr, bool) {
	names := slices.Sorted(maps.Keys(networks))
	if networks[name] != nil {
		names = []string{name}
	}
	for _, n := range names {
		for _, a := range []netip.Addr{networks[n].IPAddress, networks[n].GlobalIPv6Address} {
			if a.IsValid() {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// inspect asks for all of a container. Where that differs from what the survey has of it, nobody told, or not yet.
func (f *Fleet) inspect(ctx context.Context, c container.Summary) (container.InspectResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	r, err := f.cli.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
	if in := r.Container; errdefs.IsNotFound(err) || in.State != nil && in.State.Status != c.State {
		f.survey.change(c.ID)
	}
	return r.Container, err
}

// tail is the end of a container's output, without the values that it was started with.
func (f *Fleet) tail(ctx context.Context, want Want, in container.InspectResponse, id string) string {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	r, err := f.cli.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: logLines})
	if err != nil {
		return ""
	}
	defer r.Close()
	var out bytes.Buffer
	_, _ = stdcopy.StdCopy(&out, &out, io.LimitReader(r, 64<<10)) // what came before an error is what there is
	return want.hidingOf(in, strings.ToValidUTF8(strings.TrimSpace(out.String()), "?"))
}

// stop stops containers, all at once, removes them if they are to go, and returns their last lines.
func (f *Fleet) stop(ctx context.Context, want Want, cs []container.Summary, remove bool) (string, error) {
	if len(cs) == 0 {
		return "", nil // of what did not change the daemon is not asked anew
	}
	var g errgroup.Group
	logs := make([]string, len(cs))
	for i, c := range cs {
		defer f.survey.change(c.ID)
		in, _ := f.inspect(ctx, c) // of one that is gone there is no output either
		logs[i] = f.tail(ctx, want, in, c.ID)
		g.Go(func() error {
			grace := stopGrace
			ctx, cancel := context.WithTimeout(ctx, callMost+stopGrace*time.Second)
			defer cancel()
			_, err := f.cli.ContainerStop(ctx, c.ID, client.ContainerStopOptions{Timeout: &grace})
			if remove && (err == nil || errdefs.IsNotFound(err)) {
				_, err = f.cli.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{RemoveVolumes: true, Force: true})
			}
			if err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("container %s cannot be stopped: %w", nameOf(c), err)
			}
			return nil
		})
	}
	err := g.Wait()
	return strings.Join(slices.DeleteFunc(logs, func(l string) bool { return l == "" }), "\n"), err
}
