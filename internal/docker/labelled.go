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
}

// Look calls found with every labelled version whenever that changes, until ctx ends. A daemon that does
// not answer changes nothing.
func (f *Fleet) Look(ctx context.Context, found func([]Labelled)) error {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	var last []Labelled
	away := false
	for {
		now, err := f.labelled(ctx)
		switch {
		case err != nil && !away && ctx.Err() == nil:
			away = true
			f.log.WithError(err).Warn("the Docker daemon does not answer: what was found by labels stays as it is")
		case err == nil:
			away = false
			if !slices.EqualFunc(last, now, same) {
				last = now
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
	return a.Service == b.Service && a.Version == b.Version && slices.Equal(a.Endpoints, b.Endpoints)
}

func (f *Fleet) labelled(ctx context.Context) ([]Labelled, error) {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	r, err := f.cli.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("label", LabelService)})
	if err != nil {
		return nil, err
	}
	byVersion := map[[2]string][]string{}
	for _, c := range r.Items {
		if c.Labels[LabelManaged] == "true" || c.Labels[LabelVersion] == "" || c.State != container.StateRunning {
			continue
		}
		if c.Health != nil && (c.Health.Status == container.Starting || c.Health.Status == container.Unhealthy) {
			continue
		}
		if e, ok := labelledEndpoint(c); ok {
			key := [2]string{c.Labels[LabelService], c.Labels[LabelVersion]}
			byVersion[key] = append(byVersion[key], e)
		}
	}
	var out []Labelled
	for key, es := range byVersion {
		slices.Sort(es)
		out = append(out, Labelled{key[0], key[1], es})
	}
	slices.SortFunc(out, func(a, b Labelled) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Version, b.Version))
	})
	return out, nil
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
