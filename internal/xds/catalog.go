package xds

import (
	"maps"
	"slices"
	"strings"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Catalog is what there is to be had at present.
type Catalog struct {
	resources map[Ref]*Resource // routes: whole
	names     map[string]map[string]struct{}
	listed    map[string][]string // names, as a list that is never changed; nil: not made
	routes    map[string]*forms   // by service
	held      map[string]struct{} // services that are to stay as the Envoys have them
}

func newCatalog() *Catalog {
	return &Catalog{resources: map[Ref]*Resource{}, names: map[string]map[string]struct{}{}, listed: map[string][]string{}, routes: map[string]*forms{}, held: map[string]struct{}{}}
}

// visible is the resource as far as a node may have it.
func (c *Catalog) visible(r Ref, n *Node) *Resource {
	res := c.resources[r]
	if res == nil || !res.visible(n.Cluster) || !n.sees(res.services...) {
		return nil
	}
	return res
}

// put stores a resource, and returns the one that it replaces.
func (c *Catalog) put(r *Resource) (old *Resource) {
	ref := r.ref()
	old, c.resources[ref] = c.resources[ref], r
	if c.names[r.Type] == nil {
		c.names[r.Type] = map[string]struct{}{}
	}
	if c.names[r.Type][r.Name] = struct{}{}; old == nil {
		delete(c.listed, r.Type)
	}
	return old
}

func (c *Catalog) drop(r Ref) (old *Resource) {
	old = c.resources[r]
	delete(c.resources, r)
	delete(c.names[r.Type], r.Name)
	delete(c.listed, r.Type)
	return old
}

// all are the names of a type, in a list that is not changed any more.
func (c *Catalog) all(typ string) []string {
	if c.listed[typ] == nil {
		c.listed[typ] = slices.Collect(maps.Keys(c.names[typ]))
	}
	return c.listed[typ]
}

// holds reports whether a resource that is not there may belong to a service that is held. Which listeners
// and scopes are that service's is not known, so all of them stay.
func (c *Catalog) holds(r Ref) bool {
	if len(c.held) == 0 {
		return false
	}
	if service := serviceOf(r); service != "" {
		_, held := c.held[service]
		return held
	}
	return true
}

// known finds what a version is that an Envoy brought along. Of an unknown one nothing but its name can be
// told.
func (c *Catalog) known(r Ref, version string, n *Node) *Resource {
	res := c.resources[r]
	if res != nil && sameVersion(res.Version, version) {
		return res
	}
	if res != nil {
		if logged := res.loggedFor(n); logged != nil && sameVersion(logged.Version, version) {
			return logged
		}
	}
	if f := c.routes[r.Name]; f != nil && r.Type == TypeRoute {
		if res := f.find(version); res != nil {
			return res
		}
	}
	return &Resource{Type: r.Type, Name: r.Name, Version: version, unknown: true}
}

// serviceOf is the service that a route, cluster or endpoint set is of; none for listeners and scopes.
func serviceOf(r Ref) string {
	switch r.Type {
	case TypeRoute:
		return r.Name
	case TypeCluster, TypeEndpoint:
		id, _ := ParseCluster(r.Name)
		return id.Service
	}
	return ""
}

// forms are the ways in which one table goes out as a route: whole; in part, without what needs clusters
// that an Envoy does not have yet; bare, without classes, for a cut, which is in force sooner by it; minimal, for one that
// refuses a cut. Parts and minimal have no classes either.
type forms struct {
	table   rollout.Table
	key     Key
	whole   *Resource
	bare    *Resource            // nil: the whole one has no classes
	minimal *Resource            // stable only, no pins; nil: there is no stable version
	parts   map[string]*Resource // by the versions that they leave out
	older   map[string]*Resource // by version: what was one of them before, as far as somebody may still serve it
}

// succeed takes over what earlier tables were, as far as it is used.
func (f *forms) succeed(old *forms, used map[string]struct{}) {
	f.older = map[string]*Resource{}
	if old == nil {
		return
	}
	all := maps.Clone(old.older)
	for _, r := range append(slices.Collect(maps.Values(old.parts)), old.whole, old.bare, old.minimal) {
		if r != nil {
			all[r.Version] = r
		}
	}
	for version, r := range all {
		if _, ok := used[version]; ok {
			past := *r
			past.encoded, past.still = nil, [4]*item{}
			f.older[version] = &past
		}
	}
}

// retries reports whether a table has the content of the one before and is another try for those who refused that: it is of another
// generation, or cuts something else. They may still serve what it cuts.
func (f *forms) retries(old *forms) bool {
	return old != nil && sameVersion(old.whole.Version, f.whole.Version) &&
		(old.table.Generation != f.table.Generation || !slices.Equal(old.whole.cut, f.whole.cut))
}

// present reports whether a version is a form of the present table.
func (f *forms) present(version string) bool {
	is := func(r *Resource) bool { return r != nil && sameVersion(r.Version, version) }
	return is(f.whole) || is(f.bare) || is(f.minimal) || slices.ContainsFunc(slices.Collect(maps.Values(f.parts)), is)
}

func (f *forms) find(version string) *Resource {
	if r := f.older[version]; r != nil && !f.present(version) {
		return r
	}
	for _, r := range append(slices.Collect(maps.Values(f.parts)), f.minimal, f.bare, f.whole) {
		if r != nil && sameVersion(r.Version, version) {
			return r
		}
	}
	return nil
}

// part is the table without the versions that cannot be had: their share goes to the stable one.
func (f *forms) part(can func(version string) bool) *Resource {
	var without []string
	for _, c := range f.table.Clusters {
		if c.Version != f.table.Stable && !can(c.Version) {
			without = append(without, c.Version)
		}
	}
	if len(without) == 0 {
		return f.whole
	}
	key := strings.Join(without, " ")
	if r := f.parts[key]; r != nil {
		return r
	}
	r, err := routeBuilder{t: f.table.Without(without, ""), p: f.table.Policy, key: f.key, bare: true}.whole()
	if err != nil { // what the whole was built of encodes
		return f.minimal
	}
	r.Nodes = f.whole.Nodes
	f.parts[key] = r
	return r
}
