package docker

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// untold are those that differ from what they were, or are gone, though nobody told and canaryd changed nothing of them.
func (s *survey) untold(was map[string]*container.Summary) (untold []*container.Summary) {
	differs := func(c *container.Summary, other map[string]*container.Summary) bool {
		_, told := s.changed[c.ID]
		return !told && (other[c.ID] == nil || !alike(c, other[c.ID]))
	}
	for _, c := range s.all {
		if differs(c, was) {
			untold = append(untold, c)
		}
	}
	for id, c := range was {
		if s.all[id] == nil && differs(c, s.all) {
			untold = append(untold, c)
		}
	}
	return untold
}

// wakeUp has the versions looked at that containers are of.
func (f *Fleet) wakeUp(cs []*container.Summary) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range cs {
		f.stirAll(c.Labels[LabelService], c.Labels[LabelVersion])
	}
}

// alike reports whether a container serves, or does not, as it did, and where. The rest of it never changes, or always does, as
// for how long it has been running.
func alike(a, b *container.Summary) bool {
	return a.State == b.State && healthOf(a) == healthOf(b) && slices.Equal(a.Names, b.Names) &&
		slices.Equal(portsOf(a), portsOf(b)) && maps.Equal(addressesOf(a), addressesOf(b))
}

// healthOf is what the health check says, of which a daemon before API 1.52 tells in words only: "Up 5 minutes (healthy)".
func healthOf(c *container.Summary) container.HealthStatus {
	if c.Health != nil {
		return c.Health.Status
	}
	_, words, _ := strings.Cut(c.Status, "(")
	words, _, _ = strings.Cut(words, ")")
	return container.HealthStatus(words)
}

// portsOf are the ports, which a daemon tells in any order.
func portsOf(c *container.Summary) []container.PortSummary {
	return slices.SortedFunc(slices.Values(c.Ports), func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.PublicPort, b.PublicPort), cmp.Compare(a.Type, b.Type), a.IP.Compare(b.IP))
	})
}

func addressesOf(c *container.Summary) map[string][2]netip.Addr {
	var networks map[string]*network.EndpointSettings
	if c.NetworkSettings != nil {
		networks = c.NetworkSettings.Networks
	}
	at := make(map[string][2]netip.Addr, len(networks))
	for name, n := range networks {
		if n != nil {
			at[name] = [2]netip.Addr{n.IPAddress, n.GlobalIPv6Address}
		}
	}
	return at
}
