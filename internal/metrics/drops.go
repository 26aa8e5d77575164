package metrics

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	dropsShown = time.Minute
	dropsKept  = time.Hour // after the last one, of what is not looked at any more
)

// Dropped are the requests of a version that Envoys' circuit breakers dropped. They never reached it, so they
// are in no evidence.
type Dropped struct {
	Version string
	Lately  float64 // in the last minute
	Total   float64
}

// drops keeps them by service and version.
type drops struct {
	mu       sync.Mutex
	services map[string]map[string]*dropped
}

type dropped struct {
	total float64
	times []drop // within dropsShown, one a second at most
}

type drop struct {
	at time.Time
	n  float64
}

// Dropped implements Source.
func (d *drops) Dropped(service string) []Dropped { return d.at(service, time.Now()) }

func (d *drops) at(service string, now time.Time) []Dropped {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Dropped
	for version, n := range d.services[service] {
		one := Dropped{Version: version, Total: n.total}
		for _, t := range n.times {
			if now.Sub(t.at) < dropsShown {
				one.Lately += t.n
			}
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b Dropped) int { return cmp.Compare(a.Version, b.Version) })
	return out
}

func (d *drops) add(service, version string, n float64, now time.Time) {
	if n <= 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.services == nil {
		d.services = map[string]map[string]*dropped{}
	}
	if d.services[service] == nil {
		d.services[service] = map[string]*dropped{}
	}
	one := d.services[service][version]
	if one == nil {
		one = &dropped{}
		d.services[service][version] = one
	}
	one.total += n
	if last := len(one.times) - 1; last >= 0 && now.Sub(one.times[last].at) < time.Second {
		one.times[last].n += n
		return
	}
	one.times = slices.DeleteFunc(one.times, func(t drop) bool { return now.Sub(t.at) >= dropsShown })
	one.times = append(one.times, drop{now, n})
}

// keep forgets versions that nothing is asked about any more.
func (d *drops) keep(targets []Target, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.services) == 0 {
		return
	}
	asked := map[string][]string{}
	for _, t := range targets {
		asked[t.Service] = t.Versions
	}
	for service, versions := range d.services {
		maps.DeleteFunc(versions, func(version string, n *dropped) bool {
			return !slices.Contains(asked[service], version) && now.Sub(n.times[len(n.times)-1].at) >= dropsKept
		})
		if len(versions) == 0 {
			delete(d.services, service)
		}
	}
}
