package rollout

import (
	"slices"

	"github.com/canaryd/canaryd/internal/policy"
)

// Table is what the Envoys are to be told about one service.
type Table struct {
	Service    string
	Generation uint64
	Policy     *policy.Policy
	Slots      []Run // 10 000 in all; none: the service has no version
	Stable     string
	Clusters   []Cluster
	Cut        []string // versions that must get nothing, whatever happens
}

// Cluster is a version that Envoy has to know.
type Cluster struct {
	Version   string
	Endpoints []string
	Pinned    bool   // sessions on it are honoured
	Pin       string // value of their cookie
}

// Table builds the routing table of the present state.
func (s *State) Table() Table {
	t := Table{Service: s.Policy.Service, Generation: s.Generation, Policy: &s.Policy, Stable: s.Stable, Slots: s.runs()}
	for i := range s.Versions {
		v := &s.Versions[i]
		switch {
		case v.Phase == Failed || v.Phase == Aborted:
			t.Cut = append(t.Cut, v.Name)
		case len(v.Endpoints) == 0 || !v.Phase.Live() || v.Phase == Queued && v.FirstWeight.IsZero():
		default:
			pinned := s.Policy.Sessions != nil && (v.Phase != Warming) && v.Reachable
			t.Clusters = append(t.Clusters, Cluster{v.Name, v.Endpoints, pinned, v.Pin})
		}
	}
	if s.Nack != nil && s.Nack.Served != nil {
		t.Slots = t.repair(s.Nack.Served)
	}
	if v := s.Version(s.Stable); v == nil || len(v.Endpoints) == 0 {
		t.Slots, t.Stable = nil, "" // the first version's containers do not run yet
	}
	return t
}

// Without is the table with some versions cut, for the time in which a newer table is not stored yet.
func (t Table) Without(versions []string, stable string) Table {
	t.Cut = append(slices.Clone(t.Cut), versions...)
	if slices.Contains(versions, t.Stable) {
		t.Stable = stable
	}
	t.Clusters = slices.DeleteFunc(slices.Clone(t.Clusters), func(c Cluster) bool { return slices.Contains(versions, c.Version) })
	t.Slots = t.repair(t.Slots)
	return t
}

// repair gives the slots of versions that are gone to the stable one.
func (t Table) repair(rs []Run) []Run {
	rs = slices.Clone(rs)
	for i := range rs {
		if !slices.ContainsFunc(t.Clusters, func(c Cluster) bool { return c.Version == rs[i].Version }) {
			rs[i].Version = t.Stable
		}
	}
	return mergeRuns(rs)
}
