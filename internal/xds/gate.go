package xds

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	window      = 8   // responses in flight per type
	routeWindow = 64  // of routes; a cut does not count
	perResponse = 500 // resources in one response
)

// gate decides what goes out next on a stream. It does no I/O and knows no clock.
type gate struct {
	inv  *Inventory
	cat  *Catalog
	node *Node
	at   time.Time
	most int   // resources in one response
	pass *pass // nil outside of next: nothing is kept
}

// pass is what is found out once for a response, not once for each resource that is looked at: what the Envoy has changes only
// when the response is booked, which ends the pass.
type pass struct {
	leave bool // a listener or scope is still to be removed
	asked int  // how often that was looked for
	looks int  // and at how much
}

// move is what is to be done about one resource.
type move struct {
	send   *Resource
	remove bool
	urgent bool   // takes a version out of the route: before everything else, and past the window
	more   bool   // something of it is still to come
	wait   bool   // not yet: for something else of its service
	unfit  string // this node can never accept it
}

// reply is one response, and what this node can never accept.
type reply struct {
	typ     string
	parcels []parcel
	unfit   map[Ref]string
	silent  bool // nothing is sent
}

// sendOrder is the order of types in one flush: a cut first (see next), and what is new before what names
// it.
func sendOrder() []string {
	return []string{TypeRoute, TypeCluster, TypeEndpoint, TypeListener, TypeScope}
}

// next is the response that goes out next; ok is false when there is none. It is asked before each send, so
// that a cut overtakes whatever else is waiting: a window that is full, a cluster that is not warm, and every
// other type.
func (g gate) next() (r reply, ok bool) {
	if g.pass == nil {
		g.pass = &pass{}
	}
	if r, ok = g.gather(TypeRoute, true); ok {
		return r, true
	}
	for _, typ := range sendOrder() {
		limit := window
		if typ == TypeRoute {
			limit = routeWindow
		}
		if k := g.inv.kinds[typ]; k == nil || k.inflight >= limit {
			continue
		}
		if r, ok = g.gather(typ, false); ok {
			return r, true
		}
	}
	return r, false
}

// gather fills a response of one type.
func (g gate) gather(typ string, urgent bool) (r reply, ok bool) {
	k := g.inv.kinds[typ]
	if k == nil {
		return r, false
	}
	r = reply{typ: typ, unfit: map[Ref]string{}}
	marked := k.ahead()
	if urgent {
		marked = maps.Keys(k.had.m) // of what somebody only asks for nothing is urgent, however many names that are
	}
	for name := range marked {
		_, alone := k.alone.m[name]
		if alone && len(r.parcels) > 0 {
			continue
		}
		m := g.decide(Ref{typ, name})
		if urgent && !m.urgent {
			k.had.drop(name) // until something of its service happens (see stir): its turn may be long in coming
			continue
		}
		g.take(&r, k, name, m)
		if len(r.parcels) >= g.most || alone && len(r.parcels) > 0 {
			break
		}
	}
	if len(r.parcels) > 0 || !urgent && k.wildcard && !k.answered {
		g.inv.sends(typ, r.parcels)
		return r, true
	}
	r.silent = true
	return r, len(r.unfit) > 0
}

// take carries a decision out.
func (g gate) take(r *reply, k *kind, name string, m move) {
	ref := Ref{r.typ, name}
	k.looked(name)
	g.stays(k, ref)
	if m.wait || m.more {
		g.inv.park(ref)
	}
	switch {
	case m.unfit != "":
		it := k.has(name)
		it.refused = append(it.refused, g.cat.resources[ref].Version)
		r.unfit[ref] = m.unfit
	case m.send != nil:
		r.parcels = append(r.parcels, parcel{ref: ref, res: m.send, item: k.has(name)})
		g.warmsAnew(ref)
	case m.remove:
		r.parcels = append(r.parcels, parcel{ref: ref, item: k.has(name)})
	case !m.wait:
		k.alone.drop(name)
		k.rest([]parcel{{ref: ref}})
	}
}

// warmsAnew sends the endpoints again with a cluster that changes. xds_protocol.rst: "Warming of Cluster is
// completed only when a new ClusterLoadAssignment response is supplied by management server even though
// there is no change in endpoints."
func (g gate) warmsAnew(r Ref) {
	eds := Ref{TypeEndpoint, r.Name}
	if it := g.inv.item(r); r.Type != TypeCluster || it == nil || it.acked == nil {
		return
	}
	if g.inv.item(eds) != nil && g.cat.visible(eds, g.node) != nil {
		k, _ := g.inv.kind(TypeEndpoint)
		k.has(r.Name).again = true
		k.mark(r.Name)
	}
}

// decide is the whole rule for one resource.
func (g gate) decide(r Ref) move {
	it := g.inv.item(r)
	if it == nil {
		it = &item{}
	}
	res := g.cat.visible(r, g.node)
	switch {
	case res == nil && g.cat.holds(r):
		return move{wait: true}
	case res == nil:
		return g.removal(r, it)
	case r.Type == TypeRoute:
		return g.route(r.Name, it, res)
	}
	res = res.fitting(it, g.node)
	switch {
	case it.has(res, g.at):
		return move{}
	case g.early(r, res):
		return move{wait: true}
	}
	return move{send: res}
}

// has reports whether there is nothing to say about a resource: it was sent last, or it was refused.
func (it *item) has(r *Resource, at time.Time) bool {
	return !it.again && (it.sent != nil && !it.uncertain() && sameVersion(it.sent.Version, r.Version) || it.hasRefused(r.Version, at))
}

// early reports whether a cluster, or its endpoints, must wait for a route: this Envoy may send requests there that were
// meant for an earlier attempt of the version, and nobody has decided that the new one gets them. The route without the
// version goes first. What replaces the endpoints of one attempt does not wait, and neither does the stable version's.
func (g gate) early(r Ref, res *Resource) bool {
	c, ok := ParseCluster(r.Name)
	if !ok || g.cat.routes[c.Service] == nil || g.cat.routes[c.Service].table.Stable == c.Version {
		return false
	}
	if cds := g.inv.item(Ref{TypeCluster, r.Name}); cds != nil && cds.presented && !g.routesTold() {
		return !g.mine(c)
	}
	other := func(had *Resource) bool { return had.meansOther(c, res.attempt(c.Version)) }
	it := g.inv.item(Ref{TypeRoute, c.Service})
	return it != nil && (it.serves(other) || it.left != nil && other(it.left))
}

// mine reports whether what this Envoy has of a cluster, or is about to have, is the present attempt of its version. Of
// what nobody knows that is assumed where there was no other attempt.
func (g gate) mine(c ClusterID) bool {
	r := Ref{TypeCluster, c.String()}
	now := g.cat.resources[r]
	if now == nil {
		return true
	}
	attempt := now.attempt(c.Version)
	if it := g.inv.item(Ref{TypeRoute, c.Service}); it != nil && it.acked != nil && !it.acked.unknown && it.acked.names(c) && it.acked.attempt(c.Version) == attempt {
		return true
	}
	if !now.byDNS {
		r.Type = TypeEndpoint
	}
	it := g.inv.item(r)
	if it == nil || it.acked == nil {
		return attempt.Number <= 1
	}
	return !it.serves(func(had *Resource) bool {
		other := had.attempt(c.Version) != attempt
		if had.unknown {
			other = attempt.Number > 1
		}
		return other && !sameVersion(had.Version, g.cat.resources[r].Version)
	})
}

// route decides which form of the table goes out. The whole one waits until this Envoy has every cluster that
// it names; what must not wait is that a version is taken out of the route, and that an Envoy has any route.
func (g gate) route(service string, it *item, whole *Resource) move {
	f := g.cat.routes[service]
	if why := g.tooOld(whole); why != "" {
		if it.hasRefused(whole.Version, g.at) {
			return move{}
		}
		return move{unfit: why}
	}
	want := whole
	switch {
	case it.wantsMinimal(f):
		want = f.minimal
	case f.bare != nil && it.takesAway(whole, f.table.Stable):
		want = f.bare // the classes follow when it is in force
	}
	if it.has(want, g.at) {
		return move{wait: want != whole} // the whole one may follow
	}
	urgent := it.takesAway(want, f.table.Stable)
	if g.all(want.clusters, g.warm) {
		return move{send: want, urgent: urgent, more: want != whole}
	}
	part := g.part(f, it, urgent)
	if part == whole && want == f.bare {
		part = want
	}
	it.learn(f) // it may have that part from before
	if part == nil || it.has(part, g.at) {
		return move{wait: true}
	}
	return move{send: part, urgent: urgent, more: true}
}

// part is what an Envoy may have of a table before all its clusters are warm: where a version is taken out,
// the table without the versions that it does not have; on a stream without a route what needs stable's
// clusters only.
func (g gate) part(f *forms, it *item, urgent bool) *Resource {
	stable := f.table.Stable
	can, has := func(string) bool { return false }, g.warm
	switch {
	case urgent || it.again:
		has = g.brought
		can = func(v string) bool { return g.all(f.clustersOf(v), has) }
	case it.sent != nil || it.acked != nil:
		return nil
	}
	switch {
	case f.minimal == nil || !has(ClusterID{f.table.Service, stable, Users}):
		return nil
	case !g.all(f.clustersOf(stable), has):
		return f.minimal
	}
	return f.part(can)
}

// recognise finds what an unknown version of a route may be: a part that an earlier process built for the
// clusters that this Envoy had.
func (g gate) recognise(service, version string) *Resource {
	f := g.cat.routes[service]
	if f == nil || f.minimal == nil {
		return nil
	}
	brought := func(v string) bool { return g.all(f.clustersOf(v), g.brought) }
	for _, r := range []*Resource{f.part(func(string) bool { return false }), f.part(brought)} {
		if sameVersion(r.Version, version) {
			return r
		}
	}
	return nil
}

// clustersOf are the clusters by way of which the table reaches a version.
func (f *forms) clustersOf(version string) []ClusterID {
	out := []ClusterID{{f.table.Service, version, Users}}
	if f.table.Policy.Route.Testers != nil {
		out = append(out, ClusterID{f.table.Service, version, Testers})
	}
	return out
}

// takesAway reports whether a route takes a cluster away that this Envoy sends requests to, or will when it
// has accepted what is on its way, or gives it to another attempt. Of a route that nobody knows that must be assumed.
func (it *item) takesAway(r *Resource, stable string) bool {
	return it.serves(func(had *Resource) bool {
		return had.unknown || slices.ContainsFunc(had.clusters, func(c ClusterID) bool {
			return !r.names(c) || c.Version != stable && r.attempt(c.Version) != had.attempt(c.Version)
		})
	})
}

func (g gate) all(clusters []ClusterID, has func(ClusterID) bool) bool {
	return !slices.ContainsFunc(clusters, func(c ClusterID) bool { return !has(c) })
}

// warm reports whether this Envoy has a cluster with the endpoints of its attempt, so that a route may name it without an
// error for a user.
func (g gate) warm(cluster ClusterID) bool { return g.had(cluster) && g.mine(cluster) }

// had reports whether this Envoy has a cluster with endpoints. In steady state Envoy holds back the ACK of a cluster until it is warm, during its start
// it does not: so the endpoints' ACK counts as well. What the accepted route names was warm then.
func (g gate) had(cluster ClusterID) bool {
	if g.inv.kinds[TypeCluster] == nil {
		return true // its clusters come from elsewhere
	}
	name := cluster.String()
	it := g.inv.item(Ref{TypeCluster, name})
	if it != nil && (it.sent == nil || slices.Contains(it.flying, nil)) {
		return false // it never came, or its removal is on its way, perhaps with its return behind it
	}
	if it := g.inv.item(Ref{TypeRoute, cluster.Service}); it != nil && it.acked != nil && !it.acked.unknown && it.acked.names(cluster) {
		return true
	}
	if it == nil || it.acked == nil {
		return false
	}
	if it.acked.byDNS {
		return true
	}
	if cur := g.cat.resources[Ref{TypeCluster, name}]; it.acked.unknown && cur != nil && cur.byDNS {
		return true
	}
	eds := g.inv.item(Ref{TypeEndpoint, name})
	return eds != nil && eds.acked != nil
}

// brought reports whether a cluster is warm, or one that the Envoy had before it came back. What must not wait takes the
// stable version as it is there.
func (g gate) brought(cluster ClusterID) bool {
	if !g.mine(cluster) && g.cat.routes[cluster.Service].table.Stable != cluster.Version {
		return false
	}
	it := g.inv.item(Ref{TypeCluster, cluster.String()})
	return g.had(cluster) || it != nil && it.presented && it.sent != nil
}

// removal decides how something leaves: listeners and scopes first, then routes, then clusters. Endpoints that an Envoy has are left alone:
// it ignores their removal, and unsubscribes when their cluster goes.
func (g gate) removal(r Ref, it *item) move {
	switch {
	case it.again:
	case r.Type == TypeEndpoint && it.acked != nil:
		return move{}
	case it.sent == nil && it.perhaps == nil && (it.acked != nil || it.answered || !it.subscribed):
		return move{} // it was told, or never asked
	case it.sent == nil && len(it.flying) > 0 && it.flying[len(it.flying)-1] == nil:
		return move{} // it is being told
	}
	switch {
	case r.Type == TypeRoute && g.leaving(), r.Type == TypeCluster && (g.routed(r.Name) || it.presented && !g.routesTold()):
		return move{wait: true}
	}
	return move{remove: true}
}

// routed reports whether this Envoy may still route to a cluster: it leaves only when a route without it was
// accepted.
func (g gate) routed(name string) bool {
	cluster, _ := ParseCluster(name)
	it := g.inv.item(Ref{TypeRoute, cluster.Service})
	return it != nil && it.serves(func(r *Resource) bool { return r.names(cluster) })
}

// routesTold reports whether an Envoy that came back has said which routes it has. It asks for all types before
// it answers anything.
func (g gate) routesTold() bool {
	return g.inv.kinds[TypeRoute] != nil || g.inv.kinds[TypeCluster].heard
}

// tooOld says why this Envoy cannot have the route.
func (g gate) tooOld(r *Resource) string {
	if v := g.node.Version; r.user && v[0] == 1 && v[1] < 36 {
		return fmt.Sprintf("this Envoy is %d.%d: `ramp.per: user` needs 1.36 (use_hash_policy)", v[0], v[1])
	}
	return ""
}
