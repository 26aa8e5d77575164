package docker

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/sirupsen/logrus"
)

// LabelPort names the port of a container that others started; without it the one port that its image
// exposes is taken.
const LabelPort = "canaryd.port"

// LabelNetwork names the network at whose address such a container is reached, where it is in several.
const LabelNetwork = "canaryd.network"

const lookEvery = 2 * time.Second

// Labelled is a version that runs in containers which others started and labelled.
type Labelled struct {
	Service, Version string
	Endpoints        []string // of those that run and are not unhealthy, sorted
	Image            string   // the id of the image of the one that was made first; those of another image are left out
}

// Look calls found with all labelled versions, at first, also when there are none, and whenever that
// changes, until ctx ends. A daemon that does not answer changes nothing.
func (f *Fleet) Look(ctx context.Context, found func([]Labelled)) error {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	var last []Labelled
	strays := map[string]int{}
	looked, away := false, false
	for {
		running, err := f.running(ctx)
		switch {
		case err != nil && !away && ctx.Err() == nil:
			away = true
			f.log.WithError(err).Warn("the Docker daemon does not answer: what was found by labels stays as it is")
		case err == nil:
			away = false
			f.tellStrays(running, strays)
			if now := labelled(running); !looked || !slices.EqualFunc(last, now, same) {
				looked, last = true, now
				found(now)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func same(a, b Labelled) bool {
	return a.Service == b.Service && a.Version == b.Version && a.Image == b.Image && slices.Equal(a.Endpoints, b.Endpoints)
}

// running are the containers that run and name a service.
func (f *Fleet) running(ctx context.Context) ([]container.Summary, error) {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	r, err := f.cli.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("label", LabelService)})
	return r.Items, err
}

// tellStrays tells once of each container that canaryd once started and that is no longer in service,
// because its data is gone or a person started it again. It may serve somebody: it is left alone.
func (f *Fleet) tellStrays(running []container.Summary, seen map[string]int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := map[[2]string]bool{}
	for _, wants := range f.wants {
		for _, w := range wants {
			known[[2]string{w.Service, w.Version}] = true
		}
	}
	for _, c := range running {
		if c.Labels[LabelManaged] != "true" || known[[2]string{c.Labels[LabelService], c.Labels[LabelVersion]}] {
			continue
		}
		if seen[c.ID]++; seen[c.ID] == 3 { // one that is just being stopped is gone by then
			f.log.WithFields(logrus.Fields{"container": c.ID[:min(12, len(c.ID))], "service": c.Labels[LabelService], "version": c.Labels[LabelVersion]}).
				Warn("a container with canaryd's labels runs, and is not in service: it is left alone; if nobody needs it, `docker rm -f` it")
		}
	}
}

func labelled(running []container.Summary) []Labelled {
	byVersion := map[[2]string]*Labelled{}
	running = slices.SortedStableFunc(slices.Values(running), func(a, b container.Summary) int { return cmp.Compare(a.Created, b.Created) })
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
