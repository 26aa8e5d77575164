package registry

import (
	"cmp"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

// The labels that say what a target is.
const (
	labelService = "service"
	labelVersion = "version"
)

// Version is where a version of a service runs.
type Version struct {
	Service, Version string
	Endpoints        []string // sorted, at least one
	Content          string   // the id of the image that runs there, where the origin knows it
}

// Set is all that an origin names at present.
type Set struct {
	Origin   string
	Versions []Version // by service and version
}

// setOf gathers addresses by service and version; targets without both labels are somebody else's.
func setOf(origin string, groups map[string]*targetgroup.Group) Set {
	type key struct{ service, version string }
	endpoints := map[key][]string{}
	for _, g := range groups {
		for _, t := range g.Targets {
			labels := g.Labels.Merge(t)
			k := key{string(labels[labelService]), string(labels[labelVersion])}
			if address := string(labels[model.AddressLabel]); k.service != "" && k.version != "" && address != "" {
				endpoints[k] = append(endpoints[k], address)
			}
		}
	}
	set := Set{Origin: origin}
	for k, es := range endpoints {
		slices.Sort(es)
		set.Versions = append(set.Versions, Version{Service: k.service, Version: k.version, Endpoints: slices.Compact(es)})
	}
	slices.SortFunc(set.Versions, func(a, b Version) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Version, b.Version))
	})
	return set
}

func (s Set) equal(o Set) bool {
	return slices.EqualFunc(s.Versions, o.Versions, func(a, b Version) bool {
		return a.Service == b.Service && a.Version == b.Version && slices.Equal(a.Endpoints, b.Endpoints)
	})
}
