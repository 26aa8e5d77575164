package xds

import (
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	retryMinimal   = time.Second // a refused minimal route is sent again after that, then after twice as long …
	retryMinimalAt = 30 * time.Second
	retryRefused   = time.Minute // and other types
	retryRefusedAt = time.Hour
)

// Inventory is what one stream asked for, was sent, accepted and refused. It is data: what goes out next is
// decided in gate.go.
type Inventory struct {
	lists  *lists // of what rests, of all streams
	kinds  map[string]*kind
	parked lean[string, map[Ref]struct{}] // by service: what waits until something else of the service happens
	cuts   retries                        // routes that are sent again when their time has come
	failed retries                        // and whatever else
}

// kind is one type.
type kind struct {
	wildcard bool
	answered bool // an Envoy waits for the first answer to a wildcard, even an empty one
	heard    bool // and it has taken that in
	items    lean[string, *item]
	lists    *lists
	shared   bool                   // still is others' as well: it is copied before it is changed
	still    []*item                // by name, in order: what is not among the items because nothing happens to it (see still.go)
	dirty    lean[string, struct{}] // to be looked at
	fresh    []string               // and these, of a wildcard: all streams have the same list, which is never changed
	had      lean[string, struct{}] // those of them of which the Envoy has something: what is urgent is among them. What turned out not to be is left out until it is stirred
	leads    bool                   // leaves before routes do
	outgoing lean[string, struct{}] // of such a type: what the Envoy has and may have to leave (see outgoing.go)
	alone    lean[string, struct{}] // to be sent one per response, to find what is refused
	inflight int                    // responses
}

// item is one resource.
type item struct {
	subscribed bool // by name
	presented  bool // the Envoy brought it along when it came back
	answered   bool // something was said of it
	again      bool // something must be said of it, even if nothing is new
	sent       *Resource
	turn       int // how often something was sent
	acked      *Resource
	flying     []*Resource // sent and not answered yet, the oldest first; nil: its removal
	perhaps    *Resource   // came with others, one of which was refused: Envoy has it unless it is the bad one
	left       *Resource   // a route whose removal it took in: Envoy goes on by it
	refused    []string    // versions of the present content, in its forms
	retry      time.Time   // when it is sent again all the same; zero: never
	backoff    time.Duration
}

// parcel is a resource on its way, or its removal.
type parcel struct {
	ref  Ref
	res  *Resource // nil: removed
	item *item
	turn int // of what was sent of it
}

func newInventory(l *lists) *Inventory {
	return &Inventory{lists: l, kinds: map[string]*kind{}}
}

// kind is what the stream has of a type; first reports that it never asked for it before.
func (inv *Inventory) kind(typ string) (k *kind, first bool) {
	k = inv.kinds[typ]
	if k != nil {
		return k, false
	}
	k = &kind{lists: inv.lists, leads: goesFirst(typ)}
	inv.kinds[typ] = k
	return k, true
}

// item finds what the stream has of a resource, to be read; nil: nothing.
func (inv *Inventory) item(r Ref) *item {
	if k := inv.kinds[r.Type]; k != nil {
		return k.item(r.Name)
	}
	return nil
}

// mark has a resource looked at.
func (k *kind) mark(name string) {
	k.dirty.put(name, struct{}{})
	if k.item(name).served() {
		k.had.put(name, struct{}{})
		k.mayLeave(name)
	}
}

func (k *kind) looked(name string) {
	k.dirty.drop(name)
	k.had.drop(name)
}

// looks is how much is to be looked at; what is there twice counts twice.
func (k *kind) looks() int { return len(k.dirty.m) + len(k.fresh) }

// ahead goes through what is to be looked at. What is there twice is looked at once. Of a wildcard no more than one response is sent
// until the stream has answered something: so much is what somebody costs who never reads.
func (k *kind) ahead() iter.Seq[string] {
	return func(yield func(string) bool) {
		for len(k.fresh) > 0 && (k.heard || k.inflight == 0) {
			name := k.fresh[0]
			if k.fresh = k.fresh[1:]; len(k.fresh) == 0 {
				k.fresh = nil
			}
			if _, too := k.dirty.m[name]; !too && !yield(name) {
				return
			}
		}
		maps.Keys(k.dirty.m)(yield)
	}
}

// marked reports whether there is anything to be looked at.
func (inv *Inventory) marked() bool {
	for _, k := range inv.kinds {
		if k.looks() > 0 || k.wildcard && !k.answered {
			return true
		}
	}
	return false
}

// wants reports whether the stream asked for a resource.
func (k *kind) wants(name string) bool {
	if k.wildcard {
		return true
	}
	it := k.item(name)
	return it != nil && it.subscribed
}

// mayWildcard are the types whose first request may ask for everything. xds_protocol.rst: "For Listener and
// Cluster resource types, there is also a "wildcard" subscription"; Envoy asks for scopes in the same way.
func mayWildcard(typ string) bool {
	return typ == TypeListener || typ == TypeCluster || typ == TypeScope
}

// present takes in what an Envoy brought along.
func (inv *Inventory) present(r Ref, res *Resource) {
	k, _ := inv.kind(r.Type)
	it := k.has(r.Name)
	it.sent, it.acked, it.presented, it.answered = res, res, true, true
	k.mark(r.Name)
}

// wild begins a wildcard subscription to what there is.
func (inv *Inventory) wild(typ string, all []string) {
	k, _ := inv.kind(typ)
	k.wildcard, k.fresh = true, all
}

// tame ends it. What was new under it, and is looked at by nobody yet, is nothing that the stream asked for.
func (k *kind) tame() {
	k.wildcard, k.fresh = false, nil
	for name := range k.dirty.m {
		if k.item(name) == nil {
			k.looked(name)
		}
	}
}

// subscribe adds a name. discovery.proto: "The server must respond with all resources listed in
// resource_names_subscribe, even if it believes the client has the most recent version of them. The reason:
// the client may have dropped them, but then regained interest before it had a chance to send the
// unsubscribe message." With initial_resource_versions it says itself what it has.
func (inv *Inventory) subscribe(r Ref, presented bool) {
	k, _ := inv.kind(r.Type)
	it := k.has(r.Name)
	it.again = it.again || !presented && (it.subscribed || it.sent != nil || it.acked != nil)
	it.subscribed = true
	k.mark(r.Name)
}

// unsubscribe drops a name. Under a wildcard xds_protocol.rst says that "the client cannot unsubscribe from
// those resources individually": it is told what there is of the name, and goes on hearing of it.
func (inv *Inventory) unsubscribe(r Ref) {
	k, _ := inv.kind(r.Type)
	if k.wildcard {
		if k.item(r.Name) == nil {
			return // it was told nothing of it yet, and will be
		}
		it := k.has(r.Name)
		it.again, it.subscribed = it.again || it.subscribed, false
		k.mark(r.Name)
		return
	}
	inv.forget(r)
}

// keep forgets what nobody asked for.
func (inv *Inventory) keep(r Ref) {
	if k, _ := inv.kind(r.Type); !k.wants(r.Name) {
		inv.forget(r)
	}
}

// forget drops what the stream has of a resource. What is on its way may still be taken in if the name is asked
// for again before it arrives.
func (inv *Inventory) forget(r Ref) {
	k, _ := inv.kind(r.Type)
	if it := k.item(r.Name); it != nil && len(it.flying) > 0 {
		*it = item{flying: it.flying, turn: it.turn}
		k.mayLeave(r.Name) // nobody is told any more when it is to be removed
	} else {
		k.drop(r.Name)
	}
	k.looked(r.Name)
	k.alone.drop(r.Name)
	inv.retries(r.Type).drop(r)
	inv.stir(serviceOf(r))
}

// renew marks what has other content now, or that somebody asks for another try of: nothing of it was
// refused yet.
func (inv *Inventory) renew(r Ref) {
	k, _ := inv.kind(r.Type)
	if it := k.items.m[r.Name]; it != nil {
		it.refused, it.retry, it.backoff = nil, time.Time{}, 0
		inv.retries(r.Type).drop(r)
	}
	k.mark(r.Name)
	inv.stir(serviceOf(r))
}

// park puts a resource aside until something of its service happens.
func (inv *Inventory) park(r Ref) {
	k, _ := inv.kind(r.Type)
	k.looked(r.Name)
	service := serviceOf(r)
	if inv.parked.m[service] == nil {
		inv.parked.put(service, map[Ref]struct{}{})
	}
	inv.parked.m[service][r] = struct{}{}
}

// stir looks again at what is parked of a service, and at whether its route has become urgent while it waits for its turn. It reports
// whether there is something.
func (inv *Inventory) stir(service string) (waits bool) {
	for r := range inv.parked.m[service] {
		waits = true
		if k, _ := inv.kind(r.Type); k.wants(r.Name) {
			k.mark(r.Name)
		}
	}
	inv.parked.drop(service)
	if k := inv.kinds[TypeRoute]; k != nil {
		if _, dirty := k.dirty.m[service]; dirty {
			k.mark(service)
			waits = true
		}
	}
	return waits
}

// released looks again at what is parked of services that are held no longer, and at listeners and scopes where none is: any of
// them might have been a held service's. It reports whether there is something.
func (inv *Inventory) released(services []string, all bool) (waits bool) {
	if k := inv.kinds[TypeRoute]; len(inv.parked.m) == 0 && (k == nil || len(k.dirty.m) == 0) {
		return false // as nearly all have it
	}
	if all {
		services = append(slices.Clip(services), "")
	}
	for _, service := range services {
		waits = inv.stir(service) || waits
	}
	return waits
}

// stirAll does that for all services, where it has turned out what the Envoy has: once or twice a type.
func (inv *Inventory) stirAll() {
	inv.unpark()
	if k := inv.kinds[TypeRoute]; k != nil {
		for name := range k.dirty.m {
			k.mark(name)
		}
	}
}

// unpark looks again at whatever is parked.
func (inv *Inventory) unpark() {
	for _, service := range slices.Collect(maps.Keys(inv.parked.m)) {
		inv.stir(service)
	}
}

// due is when something that was refused is sent again; false: nothing is.
func (inv *Inventory) due() (at time.Time, ok bool) {
	at, ok = inv.cuts.first()
	if other, too := inv.failed.first(); too && (!ok || other.Before(at)) {
		at, ok = other, true
	}
	return at, ok
}

// wake marks what is to be sent again by now, as much as fits into a response: the rest is due as the next one is looked for. A
// route does not wait for others.
func (inv *Inventory) wake(at time.Time) {
	for _, all := range []*retries{&inv.cuts, &inv.failed} {
		for range perResponse {
			r, ok := all.take(at)
			if !ok {
				break
			}
			if k, _ := inv.kind(r.Type); k.wants(r.Name) {
				k.mark(r.Name)
			}
		}
	}
}

// retries are those of a type.
func (inv *Inventory) retries(typ string) *retries {
	if typ == TypeRoute {
		return &inv.cuts
	}
	return &inv.failed
}

// sends books a response that goes out.
func (inv *Inventory) sends(typ string, parcels []parcel) {
	k, _ := inv.kind(typ)
	k.answered = true
	k.inflight++
	for i, p := range parcels {
		p.item.sent, p.item.answered, p.item.again = p.res, true, false
		p.item.presented = p.item.presented && p.res != nil // what it brought along is being taken from it
		p.item.turn++
		parcels[i].turn = p.item.turn
		k.alone.drop(p.ref.Name)
		p.item.flying = append(p.item.flying, p.res)
	}
}

// accept books an ACK, and returns what is accepted by it: not what was unsubscribed meanwhile.
func (inv *Inventory) accept(typ string, parcels []parcel) (accepted []parcel) {
	k := inv.landed(typ)
	for _, p := range parcels {
		it := p.item
		if inv.answered(p); inv.stray(k, p) {
			continue
		}
		accepted = append(accepted, p)
		if p.res == nil {
			inv.gone(k, p)
		} else {
			it.acked, it.perhaps, it.left, it.presented, it.retry, it.backoff = p.res, nil, nil, false, time.Time{}, 0
			inv.retries(p.ref.Type).drop(p.ref)
			if it.sent == nil && !slices.Contains(it.flying, nil) { // it was forgotten, and is wanted again: it may be gone, or another one by now
				it.sent = p.res
				k.mark(p.ref.Name)
			}
			it.refused = slices.DeleteFunc(it.refused, func(v string) bool { return sameVersion(v, p.res.Version) })
		}
	}
	k.rest(accepted)
	return accepted
}

// answered books that a resource on its way was answered.
func (inv *Inventory) answered(p parcel) {
	inv.happened(p.ref) // while it still counts as served
	if i := slices.Index(p.item.flying, p.res); i >= 0 {
		p.item.flying = slices.Delete(p.item.flying, i, i+1)
	}
}

// serves reports whether the Envoy has a content, or is about to have one, of which is holds.
func (it *item) serves(is func(*Resource) bool) bool {
	return it.acked != nil && is(it.acked) || it.perhaps != nil && is(it.perhaps) || slices.ContainsFunc(it.flying, func(r *Resource) bool { return r != nil && is(r) })
}

// served reports whether the Envoy has anything of a resource, or is about to: else nothing of it is urgent,
// however many names somebody asks for.
func (it *item) served() bool {
	return it != nil && (it.acked != nil || it.perhaps != nil || len(it.flying) > 0)
}

// landed books that a response was answered.
func (inv *Inventory) landed(typ string) *kind {
	k, _ := inv.kind(typ)
	k.inflight--
	if !k.heard {
		k.heard = true
		inv.stirAll()
	}
	return k
}

// stray reports whether something was unsubscribed before it was answered.
func (inv *Inventory) stray(k *kind, p parcel) bool {
	if k.items.m[p.ref.Name] == p.item && k.wants(p.ref.Name) {
		return false
	}
	if k.items.m[p.ref.Name] == p.item && len(p.item.flying) == 0 {
		k.drop(p.ref.Name)
		inv.retries(p.ref.Type).hurry(p.ref)
	}
	return true
}

// gone books that a removal was taken in.
func (inv *Inventory) gone(k *kind, p parcel) {
	if p.ref.Type == TypeRoute && p.item.acked != nil {
		p.item.left = p.item.acked
	}
	p.item.acked, p.item.perhaps = nil, nil
	if !p.item.served() {
		k.outgoing.drop(p.ref.Name)
	}
	if p.item.sent == nil && !p.item.subscribed && len(p.item.flying) == 0 {
		k.drop(p.ref.Name)
		inv.retries(p.ref.Type).hurry(p.ref)
	}
}

// happened looks again at what may have waited for an answer about a resource.
func (inv *Inventory) happened(r Ref) {
	if service := serviceOf(r); service != "" {
		inv.stir(service)
	} else {
		inv.unpark() // routes wait for the removal of listeners and scopes; whether one is urgent does not depend on it
	}
}

// refuse books a NACK, and returns the one resource that is to blame. Of several each is sent again on its
// own, to find the culprit: Envoy applies those that are good, and names none in its refusal of routes.
func (inv *Inventory) refuse(typ string, parcels []parcel, cat *Catalog, at time.Time) (culprit *parcel) {
	k := inv.landed(typ)
	for i, p := range parcels {
		it := p.item
		if inv.answered(p); inv.stray(k, p) {
			continue
		}
		if len(parcels) > 1 {
			it.perhaps = p.res
		}
		switch {
		case p.res == nil: // Envoy refuses no removal: it refused what came with it
			inv.gone(k, p)
			continue
		case it.turn != p.turn: // something newer is on its way
			continue
		}
		it.sent = it.acked
		k.mark(p.ref.Name)
		if len(parcels) > 1 {
			k.alone.put(p.ref.Name, struct{}{})
			continue
		}
		if it.perhaps == p.res {
			it.perhaps = nil
		}
		it.refused = append(it.refused, p.res.Version)
		inv.again(p, cat, at)
		culprit = &parcels[i]
	}
	return culprit
}

// again decides when what was refused is sent again unchanged.
func (inv *Inventory) again(p parcel, cat *Catalog, at time.Time) {
	it := p.item
	least, most := retryRefused, retryRefusedAt
	switch p.ref.Type {
	case TypeScope:
		return
	case TypeRoute:
		f := cat.routes[p.ref.Name]
		if f == nil || f.minimal == nil || !it.servesCut(f) || !sameVersion(p.res.Version, f.minimal.Version) {
			return
		}
		least, most = retryMinimal, retryMinimalAt
	}
	it.backoff = min(max(2*it.backoff, least), most)
	it.retry = at.Add(it.backoff)
	inv.retries(p.ref.Type).put(p.ref, it.retry)
}

// remember takes over a refusal from an earlier connection of the same process.
func (inv *Inventory) remember(r Ref, version string, at time.Time) {
	k, _ := inv.kind(r.Type)
	it := k.has(r.Name)
	it.refused = append(it.refused, version)
	if r.Type != TypeRoute && r.Type != TypeScope {
		it.backoff, it.retry = retryRefused, at.Add(retryRefused)
		inv.retries(r.Type).put(r, it.retry)
	}
}

// wantsMinimal reports whether this Envoy has refused the table, and serves nobody, or somebody by a version
// that was cut.
func (it *item) wantsMinimal(f *forms) bool {
	return f.minimal != nil && len(it.refused) > 0 && (it.acked == nil || it.servesCut(f))
}

// servesCut reports whether this Envoy gives something to what was cut, or gave it to an attempt that is over.
func (it *item) servesCut(f *forms) bool {
	return slices.ContainsFunc([]*Resource{it.acked, it.perhaps}, func(r *Resource) bool {
		return r != nil && (slices.ContainsFunc(f.whole.cut, r.names) || slices.ContainsFunc(f.table.Clusters, func(c rollout.Cluster) bool {
			return c.Version != f.table.Stable && r.meansOther(ClusterID{f.table.Service, c.Version, Users}, c.Attempt)
		}))
	})
}

// learn recognises what an Envoy brought along once it is published.
func (it *item) learn(f *forms) {
	if it.acked == nil || !it.acked.unknown {
		return
	}
	if r := f.find(it.acked.Version); r != nil {
		if it.sent == it.acked {
			it.sent = r
		}
		it.acked = r
	}
}

// uncertain reports whether nobody knows what the Envoy has: it must be sent something of its own.
func (it *item) uncertain() bool { return it.perhaps != nil && len(it.flying) == 0 }

// hasRefused reports whether a version is not to be sent now.
func (it *item) hasRefused(version string, at time.Time) bool {
	if !slices.ContainsFunc(it.refused, func(v string) bool { return sameVersion(v, version) }) {
		return false
	}
	return it.retry.IsZero() || at.Before(it.retry)
}
