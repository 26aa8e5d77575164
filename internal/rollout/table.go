package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"

	"github.com/canaryd/canaryd/internal/policy"
)

// Table is what the Envoys are to be told about one service.
type Table struct {
	Service    string
	Generation uint64
	Policy     *policy.Policy
	Slots      []Run // 10 000 in all, of versions among Clusters; none: the service has no version
	Stable     string
	Clusters   []Cluster
	Cut        []string  // versions that must get nothing, whatever happens
	Unstored   []Attempt // cut for good, and nothing that is stored says so: the Envoys are asked to remember it
}

// Cluster is a version that Envoy has to know.
type Cluster struct {
	Version   string
	Endpoints []string
	Pinned    bool   // sessions on it are honoured
	Pin       string // value of their cookie
	Attempt   Attempt
	OnTrial   bool // that it was cut may be recalled
}

// Table is the routing table that the Envoys are to have: what is decided or, while an Envoy refuses
// that, the fall-back. It is a value: whoever serves it reads its policy while the state goes on.
func (s *State) Table() Table {
	t := s.decided()
	p := *t.Policy
	t.Policy = &p
	if len(s.Refused) > 0 && s.refuses(t.content(s.says)) {
		t = s.fallBack(t)
	}
	return t
}

// decided is the table of what is decided.
func (s *State) decided() Table {
	t := Table{Service: s.Policy.Service, Generation: s.Generation, Policy: s.served(), Stable: s.Stable, Slots: s.runs()}
	for _, v := range s.Versions {
		switch {
		case v.is(cut):
			t.Cut = append(t.Cut, v.Name)
		case len(v.Endpoints) > 0 && v.is(routable):
			honoured := s.Policy.Sessions != nil && v.is(pinned) && v.Reachable
			t.Clusters = append(t.Clusters, Cluster{v.Name, v.Endpoints, honoured, v.Pin, v.Identity(), v.onTrial()})
		}
	}
	if v := s.Version(s.Stable); v == nil || len(v.Endpoints) == 0 {
		t.Slots, t.Stable = nil, "" // the first version's containers do not run yet
	}
	return t
}

// looksLike reports whether the decided table of another state is certainly the same: it compares what
// decided reads. Most steps change nothing that an Envoy can see.
func (s *State) looksLike(o *State) bool {
	return s.says == o.says && s.Stable == o.Stable && slices.EqualFunc(s.Versions, o.Versions, func(a, b *Version) bool {
		return a == b || a.Name == b.Name && a.Phase == b.Phase && a.Pin == b.Pin && a.Reachable == b.Reachable && a.PinsUntil.IsZero() == b.PinsUntil.IsZero() &&
			same(a.Endpoints, b.Endpoints) && same(a.Slots, b.Slots)
	})
}

// Knows reports whether a version is a cluster of the table.
func (t *Table) Knows(version string) bool {
	return slices.ContainsFunc(t.Clusters, func(c Cluster) bool { return c.Version == version })
}

// content is a hash of all that an Envoy can see of the table; says is what the policy says.
func (t *Table) content(says string) string {
	b := append(strconv.AppendQuote([]byte(says), t.Stable), t.ofMeasures()...)
	for _, r := range t.Slots {
		b = strconv.AppendInt(strconv.AppendQuote(b, r.Version), int64(r.Count), 10)
	}
	for _, c := range t.Clusters {
		b = strconv.AppendBool(strconv.AppendQuote(strconv.AppendQuote(b, c.Version), c.Pin), c.Pinned)
		for _, e := range c.Endpoints {
			b = strconv.AppendQuote(b, e)
		}
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12])
}

// Without is the table with some versions cut, for the time in which a newer table is not stored yet.
// Where the stable version is among them, heir, which was decided to be stable since, gets everything;
// where the Envoys do not know that one, the service has no version that may be served.
func (t Table) Without(versions []string, heir string) Table {
	cut := func(v string) bool { return slices.Contains(versions, v) }
	t.Cut = append(slices.Clone(t.Cut), versions...)
	t.Clusters = slices.DeleteFunc(slices.Clone(t.Clusters), func(c Cluster) bool { return cut(c.Version) })
	if cut(t.Stable) {
		t.Stable = heir
		if cut(heir) || !t.Knows(heir) {
			t.Stable, t.Slots = "", nil
		}
	}
	t.Slots = t.repair(t.Slots)
	return t
}

// repair gives the slots of versions that are gone to the stable one.
func (t Table) repair(rs []Run) []Run {
	rs = slices.Clone(rs)
	for i := range rs {
		if !t.Knows(rs[i].Version) {
			rs[i].Version = t.Stable
		}
	}
	return mergeRuns(rs)
}
