package docker

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/sirupsen/logrus"
)

// LabelPort names the port of a container that others started; without it the one port that its image
// exposes is taken.
const LabelPort = "canaryd.port"

// LabelNetwork names the network at whose address such a container is reached, where it is in several.
const LabelNetwork = "canaryd.network"

const (
	lookEvery = 2 * time.Second // at most; while the daemon tells what happens, only when something does
	looksMost = 3               // at a container that is not in service, before that is told: one that is just being stopped is gone by then
)

// Labelled is a version that runs in containers which others started and labelled.
type Labelled struct {
	Service, Version string
	Endpoints        []string // of those that run and are not unhealthy, sorted
	Image            string   // the id of the image of the one that was made first; those of another image are left out
}

// Look calls found with all labelled versions, at first, also when there are none, and whenever that
// changes, until ctx ends. A daemon that does not answer changes nothing.
func (f *Fleet) Look(ctx context.Context, found func([]Labelled)) error {
	l := look{found: found, strays: map[string]int{}}
	for {
		again := f.look(ctx, &l)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
		if again || !f.isTold() {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.looks:
		}
	}
}

// look is what earlier looks found.
type look struct {
	found        func([]Labelled)
	last         []Labelled
	looked, away bool
	strays       map[string]int // how often containers were seen that are not in service, by id
}

// look looks once, and reports whether to look again though nothing happens.
func (f *Fleet) look(ctx context.Context, l *look) (again bool) {
	if err := f.current(ctx); err != nil {
		if !l.away && ctx.Err() == nil {
			l.away = true
			f.log.WithError(err).Warn("the Docker daemon does not answer: what was found by labels stays as it is")
		}
		return true
	}
	l.away = false
	if now := labelled(f.survey.others()); !l.looked || !slices.EqualFunc(l.last, now, same) {
		l.looked, l.last = true, now
		l.found(now)
	}
	return f.tellStrays(l.strays)
}

// lookNow has those of others looked for: something happened.
func (f *Fleet) lookNow() {
	select {
	case f.looks <- struct{}{}:
	default:
	}
}

func (f *Fleet) isTold() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.told
}

func same(a, b Labelled) bool {
	return a.Service == b.Service && a.Version == b.Version && a.Image == b.Image && slices.Equal(a.Endpoints, b.Endpoints)
}

// tellStrays tells once of each container that canaryd once started, that runs and that is no longer in service,
// because its data is gone or a person started it again. It may serve somebody: it is left alone. Those that were seen too
// seldom yet are to be looked at again.
func (f *Fleet) tellStrays(seen map[string]int) (again bool) {
	for version, cs := range f.survey.versions() {
		if f.isWanted(version) {
			continue
		}
		for _, c := range cs {
			if !runs(c) || seen[c.ID] == looksMost {
				continue
			}
			if seen[c.ID]++; seen[c.ID] < looksMost {
				again = true
				continue
			}
			f.log.WithFields(logrus.Fields{"container": c.ID[:min(12, len(c.ID))], "service": version[0], "version": version[1]}).
				Warn("a container with canaryd's labels runs, and is not in service: it is left alone; if nobody needs it, `docker rm -f` it")
		}
	}
	return again
}

// isWanted reports whether anything is wanted of a version.
func (f *Fleet) isWanted(version [2]string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.wants[version[0]], func(w Want) bool { return w.Version == version[1] })
}

// runs reports whether a container has processes, as Docker tells of it without being asked for all.
func runs(c *container.Summary) bool {
	return c.State == container.StateRunning || c.State == container.StatePaused || c.State == container.StateRestarting
}

func labelled(running []container.Summary) []Labelled {
	byVersion := map[[2]string]*Labelled{}
	running = slices.SortedFunc(slices.Values(running), func(a, b container.Summary) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
	})
	for _, c := range running {
		if c.Labels[LabelManaged] == "true" || c.Labels[LabelVersion] == "" || c.State != container.StateRunning {
			continue
		}
		if c.Health != nil && (c.Health.Status == container.Starting || c.Health.Status == container.Unhealthy) {
			continue
		}
		if e, ok := labelledEndpoint(c); ok {
			key := [2]string{c.Labels[LabelService], c.Labels[LabelVersion]}
			if byVersion[key] == nil {
				byVersion[key] = &Labelled{Service: key[0], Version: key[1], Image: c.ImageID}
			}
			if l := byVersion[key]; l.Image == c.ImageID {
				l.Endpoints = append(l.Endpoints, e)
			}
		}
	}
	var out []Labelled
	for _, l := range byVersion {
		slices.Sort(l.Endpoints)
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b Labelled) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Version, b.Version))
	})
	return out
}

// labelledEndpoint is the container's own address and its port.
func labelledEndpoint(c container.Summary) (string, bool) {
	port, err := strconv.ParseUint(c.Labels[LabelPort], 10, 16)
	if err != nil {
		var ports []uint16
		for _, p := range c.Ports {
			ports = append(ports, p.PrivatePort)
		}
		slices.Sort(ports)
		if ports = slices.Compact(ports); len(ports) != 1 {
			return "", false
		}
		port = uint64(ports[0])
	}
	if c.HostConfig.NetworkMode == "host" {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)).String(), true
	}
	if c.NetworkSettings == nil {
		return "", false
	}
	addr, ok := addressIn(c.NetworkSettings.Networks, c.Labels[LabelNetwork])
	return netip.AddrPortFrom(addr, uint16(port)).String(), ok
}
