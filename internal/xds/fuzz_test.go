package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// FuzzStream plays stories on the hub and modelled Envoys, without a network: tables are published, Envoys
// subscribe, accept, refuse, fall silent, lose their connection, come back with and without versions, and
// canaryd starts anew on what it had stored. What must hold:
//
//   - no route goes out that names a cluster which the Envoy did not accept;
//   - no route goes out that names what was cut, and one without it is the first thing to go out;
//   - no endpoints of another attempt of a version go to an Envoy that may send requests there by a route made for an
//     earlier one, until the version is stable; and no route goes out for an attempt whose endpoints are not there;
//   - in the end an Envoy that refuses nothing has the present table and no other clusters, and one that accepts
//     stable has a route, without what was cut;
//   - a cut that was not stored when canaryd died stays out from when an Envoy that accepted it presents it;
//   - nothing is sent twice unchanged, but to a re-subscription, after a refusal of several, as the minimal route
//     after a refused cut, and where a backoff has passed;
//   - what is sent again by itself is so when its time has come;
//   - a listener that leaves is found so;
//   - a route that is urgent is found so, whatever has happened since it was not, and however many wait for their turn;
//   - no tick leaves a book out in which it would change something, and the figures are what the book says;
//   - whoever refuses the listener as it is, and nobody else, is told of as who does: in the book where it has asked for the route, else as
//     who stands outside;
//   - what the book says a node has is what it has; and of a service that was removed is waited for every Envoy that
//     was connected since and can still send requests to it.
func FuzzStream(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		story := make([]byte, 20+r.IntN(300))
		for i := range story {
			story[i] = byte(r.Uint32())
		}
		f.Add(story)
	}
	built := map[draft]*edition{}
	f.Fuzz(func(t *testing.T, story []byte) {
		for _, most := range []int{perResponse, 2, 1} {
			newPlay(t, built, story, most).run()
		}
		p := newPlay(t, built, story, perResponse)
		p.crowds = true
		p.run()
	})
}

func (p *play) run() {
	for len(p.story) > 0 {
		p.crowd(p.crowds && len(p.story)/20%2 == 0)
		p.step()
		p.check()
	}
	p.crowd(false)
	p.finale()
}

// play is one story.
type play struct {
	t         *testing.T
	story     []byte
	whole     []byte
	loud      bool // what happens is written down: only for a story that fails
	told      []string
	built     map[draft]*edition
	hub       *Hub
	at        time.Time
	table     int                                 // published; -1: none
	attempts  draft                               // present ones, and the table
	contents  map[string]map[rollout.Attempt]bool // version of endpoints: of which attempts they were
	judged    map[rollout.Attempt]bool            // has been stable
	cut       map[string]bool                     // published as cut since, and not stored
	recalled  map[string]bool                     // presented as cut, and not decided yet
	envoys    []*modelled
	published uint64
	removed   time.Time
	most      int  // resources in one response
	crowds    bool // now and then as many responses with routes are in flight as may be
	crowded   map[*session]bool
}

// modelled is an Envoy process, and the stream that it has.
type modelled struct {
	p       *play
	id      string
	build   uint32
	s       *session
	zombies []*session
	queue   []arrival // received, not looked at
	refuses map[string]bool

	have  map[Ref]*Resource // accepted
	sub   map[Ref]bool      // by name, on this stream
	asked map[string]bool   // types, on this stream

	last    map[Ref]string    // version that was sent last on this stream
	nacked  map[Ref]time.Time // until when what was refused alone is not to be sent again
	nackedV map[Ref]string
	barred  string       // version of the listener that it refused on this stream, and has not accepted since
	tame    bool         // it asks for no wildcard of clusters any more
	dropped map[Ref]bool // that it had by that

	secret bool // it accepted something that canaryd was not told of
	route  *Resource
	latest *Resource // the route that was sent last on this stream
}

type arrival struct {
	reply reply
	nonce string
}

func newPlay(t *testing.T, built map[draft]*edition, story []byte, most int) *play {
	p := &play{t: t, most: most, story: story, whole: story, built: built, at: time.Unix(1e9, 0), table: -1, attempts: draft{v1: 1, v2: 1, v3: 1}, crowded: map[*session]bool{}, contents: map[string]map[rollout.Attempt]bool{}, judged: map[rollout.Attempt]bool{}}
	p.start()
	for i := range 2 {
		p.envoys = append(p.envoys, &modelled{p: p, id: fmt.Sprint("edge-", i), build: 40, refuses: map[string]bool{}, have: map[Ref]*Resource{}, dropped: map[Ref]bool{}})
	}
	return p
}

// start is a new canaryd.
func (p *play) start() {
	p.hub = NewHub(quietLog())
	p.hub.now, p.hub.Key, p.hub.most = func() time.Time { return p.at }, testKey, p.most
	p.cut, p.recalled = map[string]bool{}, map[string]bool{}
}

func (p *play) next(n int) int {
	if len(p.story) == 0 {
		return 0
	}
	b := p.story[0]
	p.story = p.story[1:]
	return int(b) % n
}

func (p *play) tell(format string, args ...any) {
	p.told = append(p.told, fmt.Sprintf(format, args...))
}

func (p *play) fail(format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, args...), strings.Join(p.told, "\n"))
}

const tables = 2 * 3 * 3 * 2 * 2 * 2

// draft is a table that may be published, and the attempts in it.
type draft struct{ table, v1, v2, v3 int }

func (d *draft) number(version string) *int {
	return map[string]*int{"v1": &d.v1, "v2": &d.v2, "v3": &d.v3}[version]
}

func (p *play) attempt(version string) rollout.Attempt {
	return nth(version, *p.attempts.number(version))
}

// edition builds the nth table: which version is stable, what v2 and v3 are, v1 pinned or not, classes or none, other endpoints.
func (p *play) edition(n int) *edition {
	p.attempts.table = n
	e := p.built[p.attempts]
	if e == nil {
		t := nthTable(n)
		for i := range t.Clusters {
			c := &t.Clusters[i]
			c.Attempt, c.OnTrial = p.attempt(c.Version), c.Version != "v1" && c.Version != t.Stable
			c.Endpoints[0] = fmt.Sprintf("127.0.%d.1:%s", c.Attempt.Number%3, c.Endpoints[0]) // some attempts have the same
		}
		var err error
		if e, err = build(t, nil, nil, p.hub.log); err != nil {
			p.t.Fatal(err)
		}
		p.built[p.attempts] = e
	}
	fresh := *e
	forms := *e.forms
	forms.parts = map[string]*Resource{}
	forms.table.Generation = p.published
	fresh.forms = &forms
	return &fresh
}

func nthTable(n int) rollout.Table {
	pol := policy.Default()
	pol.Service, pol.Route.Listener = "shop", "0.0.0.0:10000"
	pol.Sessions = &policy.Sessions{Cookie: "c"}
	t := rollout.Table{Service: "shop", Policy: &pol, Stable: "v1"}
	add := func(version string, kind, port int) {
		switch kind {
		case 0: // cut
			t.Cut = append(t.Cut, version)
		case 1: // known, without weight
			t.Clusters = append(t.Clusters, rollout.Cluster{Version: version, Endpoints: []string{fmt.Sprint(port)}})
		case 2:
			t.Clusters = append(t.Clusters, rollout.Cluster{Version: version, Endpoints: []string{fmt.Sprint(port)}, Pinned: true})
			t.Slots = append(t.Slots, rollout.Run{Version: version, Count: 1000})
		}
	}
	promoted, n := n%2 == 1, n/2
	v2, n := n%3, n/3
	v3, n := n%3, n/3
	pinned, n := n%2 == 1, n/2
	classed, n := n%2 == 1, n/2
	if classed {
		pol.Route.Classes = threeClasses()
	}
	if promoted {
		t.Stable = "v2"
		v2 = 2
		if pinned {
			add("v1", 1, 1)
		} else {
			add("v1", 0, 1)
		}
	} else {
		add("v1", 2, 1)
	}
	add("v2", v2, 2+10*n)
	add("v3", v3, 3)
	rest := policy.FullWeight
	for _, r := range t.Slots {
		rest -= r.Count
	}
	t.Slots = append(t.Slots, rollout.Run{Version: t.Stable, Count: rest})
	return t
}

func (p *play) step() {
	e := p.envoys[p.next(len(p.envoys))]
	switch p.next(20) {
	case 0, 1:
		if p.next(4) > 0 { // else it was decided before anybody knew
			p.begin()
		}
		for _, v := range []string{"v1", "v2", "v3"} {
			if p.next(4) == 0 {
				p.again(v)
			}
		}
		p.publish(p.next(tables))
	case 2, 3, 4:
		e.receive(1)
	case 5, 6, 7, 8:
		e.receive(100)
		e.work(100, true)
	case 9:
		e.work(1, true)
	case 10:
		e.hangUp(p.next(2) == 0)
	case 11, 12:
		e.connect(p.next(4) > 0)
	case 13:
		what := []string{"shop/v1", "shop/v2", "shop/v3", "route of v2", "route", "0.0.0.0:10000"}[p.next(6)]
		e.refuses[what] = !e.refuses[what]
		p.tell("%s refuses %s: %v", e.id, what, e.refuses[what])
	case 14:
		p.pass([]time.Duration{time.Second, 31 * time.Second, 61 * time.Second, 3 * time.Minute}[p.next(4)])
	case 15:
		if p.next(2) == 0 { // a cut goes out, and canaryd dies
			p.cutUnstored([]string{"v2", "v3"}[p.next(2)])
			e.receive(100)
			e.work(1+p.next(4), p.next(4) > 0)
		}
		p.restart()
		if p.next(2) == 0 {
			p.envoys[p.next(len(p.envoys))].connect(true)
		}
	case 16:
		e.subscribeAgain(p.next(3))
	case 17:
		e.receive(100)
		e.work(1+p.next(3), p.next(2) == 0)
		e.hangUp(true)
	case 18:
		switch p.next(3) {
		case 0:
			p.remove()
			switch p.next(3) {
			case 0:
				p.remove()
			case 1:
				if p.most == perResponse {
					return // as stories from before this was told
				}
				if e.tames(); p.next(2) == 0 {
					e.tames()
				}
			}
		}
	case 19:
		if p.next(2) == 0 {
			p.cutUnstored([]string{"v2", "v3"}[p.next(2)])
			return
		}
		e.build++
		p.tell("%s is replaced by a new build", e.id)
		e.hangUp(true)
		e.connect(false)
	}
}

func (p *play) publish(n int) {
	p.published++
	was := ""
	if svc := p.hub.services["shop"]; svc != nil {
		was = svc.edition.forms.whole.Version
	}
	p.table = n
	ed := p.edition(n)
	p.tell("publish %d as %.4s, attempts %v: slots %v, clusters %v, cut %v", n, ed.forms.whole.Version, p.attempts, ed.forms.table.Slots, ed.forms.whole.clusters, ed.forms.table.Cut)
	p.install(ed, was)
}

// again begins another attempt of a version.
func (p *play) again(version string) {
	*p.attempts.number(version)++
	delete(p.cut, version)
	delete(p.recalled, version)
}

// note remembers which attempts are served where.
func (p *play) note() {
	stable := p.hub.cat.routes["shop"].table.Stable
	for r, res := range p.hub.cat.resources {
		if r.Type != TypeEndpoint {
			continue
		}
		if p.contents[res.Version] == nil {
			p.contents[res.Version] = map[rollout.Attempt]bool{}
		}
		a := res.attempts[0]
		p.contents[res.Version][a] = true
		p.judged[a] = p.judged[a] || a.Version == stable
	}
}

// install serves an edition, and holds that the Envoys hear of what it cuts.
func (p *play) install(ed *edition, was string) {
	before := maps.Clone(p.hub.cat.resources)
	var err error
	if svc := p.hub.services["shop"]; svc != nil && len(svc.recalled) > 0 {
		err = p.hub.PublishTable(ed.forms.table) // less what is remembered
		ed = svc.edition
	} else { // what is built already
		p.hub.mu.Lock()
		err = p.hub.reinstall(Prepared{edition: ed})
		p.hub.mu.Unlock()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.installed(ed, was, before)
}

func (p *play) installed(ed *edition, was string, before map[Ref]*Resource) {
	p.note()
	for _, e := range p.envoys {
		for r, v := range e.nackedV {
			if old, res := before[r], p.hub.cat.resources[r]; r.Type == TypeRoute || old == nil || res == nil || res.Version != old.Version {
				delete(e.nacked, r) // other content, or another try
				delete(e.nackedV, r)
				if r.Type == TypeRoute && e.last[r] == v {
					delete(e.last, r)
				}
			}
		}
		if was != ed.forms.whole.Version {
			e.cut(ed.forms)
		}
	}
}

// begin decides what was cut: it is over, and new attempts begin.
func (p *play) begin() {
	for _, v := range []string{"v2", "v3"} {
		if p.cut[v] || p.recalled[v] {
			p.again(v)
		}
	}
	p.cut, p.recalled = map[string]bool{}, map[string]bool{}
}

// cutUnstored publishes that a version is cut, and dies before it is stored, or not.
func (p *play) cutUnstored(version string) {
	if p.table < 0 {
		return
	}
	now := p.hub.services["shop"].edition
	t, changed := now.forms.table.Recall([]rollout.Attempt{p.attempt(version)})
	if !changed {
		return
	}
	p.tell("%s is cut, which is not stored", version)
	p.cut[version] = true
	ed, err := build(t, testKey, now, p.hub.log)
	if err != nil {
		p.t.Fatal(err)
	}
	p.install(ed, now.forms.whole.Version)
}

// recalls is an Envoy that presents a route: what it names and is under test is out before anything goes out.
func (e *modelled) recalls(req *discovery.DeltaDiscoveryRequest) {
	p := e.p
	svc := p.hub.services["shop"]
	if svc == nil {
		e.asks(req)
		return
	}
	_, cuts := testKey.open("shop", req.InitialResourceVersions["shop"])
	before, was := maps.Clone(p.hub.cat.resources), svc.edition
	for _, c := range p.edition(p.table).forms.table.Clusters {
		if c.OnTrial && slices.Contains(cuts, c.Attempt) {
			p.recalled[c.Version] = true
			p.tell("%s remembers that %s was cut", e.id, c.Version)
		}
	}
	e.asks(req)
	if svc.edition != was {
		p.installed(svc.edition, was.forms.whole.Version, before)
	}
}

// cut holds that what takes a version out goes out first.
func (e *modelled) cut(f *forms) {
	r := Ref{TypeRoute, "shop"}
	stable := ClusterID{"shop", f.table.Stable, Users}.String()
	if e.s == nil || !e.sub[r] || e.route == nil || e.secret || e.have[Ref{TypeCluster, stable}] == nil || e.have[Ref{TypeEndpoint, stable}] == nil {
		return
	}
	if eds := e.s.inv.item(Ref{TypeEndpoint, stable}); eds == nil || eds.acked == nil {
		return // it has them, and could not say so yet
	}
	if !slices.ContainsFunc(f.whole.cut, e.route.names) || e.last[Ref{TypeCluster, stable}] == "" {
		return // it serves nothing that was cut, or stable's cluster is about to leave it
	}
	if cds := e.s.inv.item(Ref{TypeCluster, stable}); cds != nil && slices.Contains(cds.flying, nil) {
		return // it is about to lose it, and to get it back
	}
	reply, nonce, ok := e.s.next()
	if ok {
		e.arrives(reply, nonce)
	}
	if ok && reply.typ == TypeRoute {
		return // without it, as arrives has held
	}
	if e.latest == nil || slices.ContainsFunc(f.whole.cut, e.latest.names) {
		e.p.fail("%s serves %v, and the cut of %v is not the first thing to go out: %s", e.id, e.route.clusters, f.whole.cut, shortType(reply.typ))
	}
}

func (p *play) remove() {
	p.tell("remove")
	for _, v := range []string{"v1", "v2", "v3"} { // numbers go on in the next life
		p.again(v)
	}
	if err := p.hub.Remove("shop"); err != nil {
		p.t.Fatal(err)
	}
	p.table, p.removed = -1, p.at
	for _, e := range p.envoys {
		e.barred, e.nacked, e.nackedV = "", map[Ref]time.Time{}, map[Ref]string{}
	}
}

func (p *play) pass(d time.Duration) {
	p.at = p.at.Add(d)
	p.tell("%s pass", d)
	left := map[*Force]bool{} // by the tick
	for _, svc := range p.hub.services {
		left[svc.force] = svc.force.round.place == 0 || svc.force.round.due.After(p.at)
	}
	p.hub.tick(p.at)
	for _, svc := range p.hub.services {
		if left[svc.force] && svc.force.Tick(p.at) {
			p.fail("a tick left the book out, and something changes: %v", svc.force.Status("shop").Nodes)
		}
	}
}

// restart is a canaryd that dies and publishes what it had stored.
func (p *play) restart() {
	p.tell("canaryd restarts")
	for _, e := range p.envoys {
		e.hangUp(true)
		e.zombies = nil
	}
	p.start()
	var crowds []rollout.Crowd // as they were stored
	for _, e := range p.envoys {
		if e.route != nil {
			crowds = append(crowds, rollout.Crowd{Nodes: []string{e.id}, Version: e.route.Version, Has: e.route.slots})
		}
	}
	if p.table >= 0 {
		p.publish(p.table)
		p.hub.Restore("shop", crowds)
	} else if !p.removed.IsZero() {
		p.hub.Remained("shop", crowds)
	}
	for _, e := range p.envoys {
		e.nacked, e.nackedV = map[Ref]time.Time{}, map[Ref]string{}
	}
}

func (e *modelled) node() *core.Node {
	return &core.Node{Id: e.id, Cluster: "edge", UserAgentName: fmt.Sprint("envoy", e.build)}
}

// connect begins a stream: as the same process, or as a new one that has nothing.
func (e *modelled) connect(same bool) {
	if e.s != nil {
		e.hangUp(false)
	}
	if !same {
		e.have, e.route, e.dropped = map[Ref]*Resource{}, nil, map[Ref]bool{}
	}
	if e.route == nil || e.secret { // the book remembers who serves something
		e.nacked, e.nackedV = nil, nil
	}
	e.p.tell("%s connects, same process %v", e.id, same)
	if r := (Ref{TypeRoute, "shop"}); e.p.table >= 0 && e.nackedV[r] != e.p.hub.cat.resources[r].Version {
		delete(e.nacked, r) // the minimal route is tried again
	}
	e.s = e.p.hub.open(nodeOf(e.node(), ""))
	e.queue, e.latest, e.sub, e.asked, e.last, e.secret = nil, nil, map[Ref]bool{}, map[string]bool{}, map[Ref]string{}, false
	e.tame, e.barred = false, ""
	if e.nacked == nil {
		e.nacked, e.nackedV = map[Ref]time.Time{}, map[Ref]string{}
	}
	for _, typ := range []string{TypeCluster, TypeEndpoint, TypeListener, TypeRoute} {
		e.present(typ)
	}
}

// present is the first request of a type on a stream.
func (e *modelled) present(typ string) {
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: typ, InitialResourceVersions: map[string]string{}}
	for r, res := range e.have {
		if r.Type == typ {
			req.InitialResourceVersions[r.Name] = told(e.p.t, res)
			e.last[r] = res.Version
		}
	}
	switch typ {
	case TypeEndpoint:
		for r := range e.have {
			if r.Type == TypeCluster {
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, r.Name)
			}
		}
	case TypeRoute:
		if e.have[Ref{TypeListener, "0.0.0.0:10000"}] != nil {
			req.ResourceNamesSubscribe = []string{"shop"}
		}
	}
	if typ == TypeRoute && len(req.ResourceNamesSubscribe) > 0 {
		e.recalls(req)
	} else if mayWildcard(typ) || len(req.ResourceNamesSubscribe) > 0 {
		e.asks(req)
	}
	for r := range e.nacked { // without versions what was refused may be sent again
		if r.Type == typ && len(req.InitialResourceVersions) == 0 {
			delete(e.nacked, r)
			delete(e.nackedV, r)
		}
	}
}

func (e *modelled) asks(req *discovery.DeltaDiscoveryRequest) {
	e.asked[req.TypeUrl] = true
	e.p.tell("  %s asks for %s: subscribe %v, unsubscribe %v, nonce %s, refuses %v", e.id, shortType(req.TypeUrl), req.ResourceNamesSubscribe, req.ResourceNamesUnsubscribe, req.ResponseNonce, req.ErrorDetail != nil)
	for _, n := range req.ResourceNamesSubscribe {
		r := Ref{req.TypeUrl, n}
		if _, brought := req.InitialResourceVersions[n]; !brought {
			delete(e.last, r)
			delete(e.nacked, r)
		}
		e.sub[r] = true
	}
	for _, n := range req.ResourceNamesUnsubscribe {
		delete(e.sub, Ref{req.TypeUrl, n})
		delete(e.last, Ref{req.TypeUrl, n})
		delete(e.nacked, Ref{req.TypeUrl, n})
	}
	e.s.receive(req)
}

// subscribeAgain asks for what it is subscribed to: it may have dropped it.
func (e *modelled) subscribeAgain(what int) {
	if e.s == nil {
		return
	}
	typ := []string{TypeEndpoint, TypeRoute, TypeCluster}[what]
	for r := range e.have {
		if r.Type == typ && (typ == TypeCluster || e.sub[r]) {
			e.p.tell("%s subscribes to %s %s again", e.id, shortType(r.Type), r.Name)
			e.asks(&discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: []string{r.Name}})
			return
		}
	}
}

// tames ends the wildcard of clusters, or begins it again. What it had by that and not by name it drops.
func (e *modelled) tames() {
	if e.s == nil {
		return
	}
	if e.tame = !e.tame; !e.tame {
		e.asks(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesSubscribe: []string{"*"}})
		return
	}
	e.asks(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesUnsubscribe: []string{"*"}})
	unwanted := func(r Ref) bool { return r.Type == TypeCluster && !e.sub[r] }
	maps.DeleteFunc(e.last, func(r Ref, _ string) bool { return unwanted(r) })
	maps.DeleteFunc(e.nacked, func(r Ref, _ time.Time) bool { return unwanted(r) })
	for r := range e.have {
		if unwanted(r) {
			delete(e.have, r)
			e.dropped[r] = true
			e.leaves(r, true)
		}
	}
}

// wants reports whether it has asked for something.
func (e *modelled) wants(r Ref) bool {
	return e.sub[r] || mayWildcard(r.Type) && !(e.tame && r.Type == TypeCluster)
}

// hangUp ends the stream; unless canaryd notices, the old one stays half-open.
func (e *modelled) hangUp(noticed bool) {
	if e.s == nil {
		return
	}
	e.p.tell("%s hangs up, noticed %v", e.id, noticed)
	if noticed {
		e.s.close()
	} else {
		e.zombies = append(e.zombies, e.s)
	}
	e.s, e.queue = nil, nil
}

// receive takes up to n responses off the wire.
func (e *modelled) receive(n int) {
	for ; e.s != nil && n > 0; n-- {
		r, nonce, ok := e.s.next()
		if !ok {
			return
		}
		e.arrives(r, nonce)
	}
}

// arrives holds a response against what may go out.
func (e *modelled) arrives(r reply, nonce string) {
	p := e.p
	for _, x := range r.parcels {
		version := ""
		if x.res != nil {
			version = x.res.Version
		}
		p.tell("  %s is sent %s %s %.4s", e.id, shortType(r.typ), x.ref.Name, version)
		if !e.wants(x.ref) {
			p.fail("%s is sent %s %s, which it did not ask for", e.id, shortType(r.typ), x.ref.Name)
		}
		if last, sent := e.last[x.ref]; sent && last == version {
			p.fail("%s is sent %s %s twice unchanged", e.id, shortType(r.typ), x.ref.Name)
		}
		if until, refused := e.nacked[x.ref]; refused && e.nackedV[x.ref] == version && p.at.Before(until) {
			p.fail("%s is sent %s %s again, which it refused", e.id, shortType(r.typ), x.ref.Name)
		}
		e.last[x.ref] = version
		if r.typ == TypeCluster {
			delete(e.last, Ref{TypeEndpoint, x.ref.Name})
			delete(e.nacked, Ref{TypeEndpoint, x.ref.Name})
		}
		if r.typ == TypeEndpoint && x.res != nil {
			e.early(x.res)
		}
		if r.typ == TypeRoute && x.res != nil {
			e.latest = x.res
			for _, c := range p.edition(p.table).forms.table.Clusters {
				if v := c.Version; c.OnTrial && p.recalled[v] && x.res.names(ClusterID{"shop", v, Users}) {
					p.fail("%s is sent a route with %s, which an Envoy remembers as cut", e.id, v)
				}
			}
			for _, c := range x.res.clusters {
				if f := p.hub.cat.routes["shop"]; !slices.Contains(f.whole.clusters, c) && c != (ClusterID{"shop", f.table.Stable, Users}) {
					p.fail("%s is sent a route that names %s, which the table does not", e.id, c)
				}
			}
		}
	}
	e.queue = append(e.queue, arrival{r, nonce})
}

// early holds that endpoints of one attempt do not get what a route gives another one.
func (e *modelled) early(eds *Resource) {
	c, _ := ParseCluster(eds.Name)
	routes := []*Resource{e.route}
	for _, a := range e.queue {
		for _, x := range a.reply.parcels {
			if a.reply.typ == TypeRoute {
				routes = append(routes, x.res)
			}
		}
	}
	for _, r := range routes {
		if r != nil && r.names(c) && !e.p.contents[eds.Version][r.attempt(c.Version)] && !e.p.judged[eds.attempts[0]] {
			e.p.fail("%s is sent the endpoints of %v, and gives %v requests there", e.id, eds.attempts, r.attempt(c.Version))
		}
	}
}

// work looks at up to n responses, and answers them unless the connection is about to break.
func (e *modelled) work(n int, answers bool) {
	for ; e.s != nil && n > 0 && len(e.queue) > 0; n-- {
		a := e.queue[0]
		e.queue = e.queue[1:]
		ack := &discovery.DeltaDiscoveryRequest{TypeUrl: a.reply.typ, ResponseNonce: a.nonce}
		var bad []parcel
		for _, x := range a.reply.parcels {
			if e.takes(x) {
				e.apply(x, answers)
			} else {
				bad = append(bad, x)
			}
		}
		if !answers {
			e.secret = true
			continue
		}
		e.nacks(a.reply, bad, ack)
		for _, x := range a.reply.parcels {
			if x.ref.Type == TypeListener && x.res != nil && len(bad) == 0 && x.res.Version == e.barred {
				e.barred = ""
			}
		}
		e.asks(ack)
	}
}

// nacks writes the refusal down.
func (e *modelled) nacks(r reply, bad []parcel, ack *discovery.DeltaDiscoveryRequest) {
	for _, x := range r.parcels {
		if len(bad) == 0 {
			break
		}
		ack.ErrorDetail = &rpcstatus.Status{Message: "no"}
		e.p.tell("  %s refuses %s %s", e.id, shortType(x.ref.Type), x.ref.Name)
		if x.res == nil || e.last[x.ref] != x.res.Version || e.awaits(x.ref) {
			continue
		}
		delete(e.last, x.ref)
		if len(r.parcels) > 1 {
			continue // each is sent again on its own
		}
		e.nackedV[x.ref], e.nacked[x.ref] = x.res.Version, e.p.at.Add(time.Minute)
		if l := e.p.hub.cat.resources[x.ref]; x.ref.Type == TypeListener && l != nil && l.Version == x.res.Version {
			e.barred = x.res.Version
		}
		if f := e.p.hub.cat.routes["shop"]; x.ref.Type == TypeRoute {
			e.nacked[x.ref] = e.p.at.Add(1000 * time.Hour)
			if f != nil && f.minimal != nil && x.res.Version == f.minimal.Version {
				e.nacked[x.ref] = e.p.at.Add(time.Second)
			}
		}
	}
}

// awaits reports whether something newer of a resource has arrived.
func (e *modelled) awaits(r Ref) bool {
	return slices.ContainsFunc(e.queue, func(a arrival) bool {
		return slices.ContainsFunc(a.reply.parcels, func(x parcel) bool { return x.ref == r })
	})
}

// takes reports whether the Envoy accepts something. validate_clusters makes it refuse unknown ones: that must
// never be needed.
func (e *modelled) takes(x parcel) bool {
	if x.res == nil {
		return true
	}
	if x.ref.Type == TypeRoute {
		for _, c := range x.res.clusters {
			if r := (Ref{TypeCluster, c.String()}); e.have[r] == nil && !e.dropped[r] {
				e.p.fail("%s is sent a route that names %s, which it does not have", e.id, c)
			}
			if eds := e.have[Ref{TypeEndpoint, c.String()}]; eds != nil && !e.p.contents[eds.Version][x.res.attempt(c.Version)] && !e.p.judged[x.res.attempt(c.Version)] {
				e.p.fail("%s is sent a route for %v, and has the endpoints of %v", e.id, x.res.attempt(c.Version), eds.attempts)
			}
		}
		return !(e.refuses["route"] || e.refuses["route of v2"] && slices.Contains(x.res.clusters, ClusterID{"shop", "v2", Users}))
	}
	return !e.refuses[x.ref.Name]
}

func (e *modelled) apply(x parcel, answers bool) {
	if x.res == nil {
		if x.ref.Type == TypeRoute || x.ref.Type == TypeEndpoint {
			return // Envoy keeps them
		}
		if x.ref.Type == TypeCluster && e.route != nil && slices.ContainsFunc(e.route.clusters, func(c ClusterID) bool { return c.String() == x.ref.Name }) && e.p.table >= 0 && !e.dropped[x.ref] {
			e.p.fail("%s loses %s, to which it routes", e.id, x.ref.Name)
		}
		delete(e.have, x.ref)
		e.leaves(x.ref, answers)
		return
	}
	switch {
	case !e.wants(x.ref), x.ref.Type == TypeRoute && e.have[Ref{TypeListener, "0.0.0.0:10000"}] == nil, x.ref.Type == TypeEndpoint && e.have[Ref{TypeCluster, x.ref.Name}] == nil:
		return // it has unsubscribed meanwhile
	}
	e.have[x.ref] = x.res
	delete(e.dropped, x.ref)
	switch x.ref.Type {
	case TypeRoute:
		e.route = x.res
	case TypeCluster:
		if r := (Ref{TypeEndpoint, x.ref.Name}); !e.sub[r] && answers {
			e.asks(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeEndpoint, ResourceNamesSubscribe: []string{r.Name}})
		}
	case TypeListener:
		if r := (Ref{TypeRoute, "shop"}); !e.sub[r] && answers {
			e.asks(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{r.Name}})
		}
	}
}

// leaves unsubscribes from what only a removed resource needed.
func (e *modelled) leaves(r Ref, answers bool) {
	needed := map[string]Ref{TypeCluster: {TypeEndpoint, r.Name}, TypeListener: {TypeRoute, "shop"}}[r.Type]
	delete(e.have, needed)
	if r.Type == TypeListener {
		e.route = nil
	}
	if answers && e.sub[needed] {
		e.asks(&discovery.DeltaDiscoveryRequest{TypeUrl: needed.Type, ResourceNamesUnsubscribe: []string{needed.Name}})
	}
}

// keepsStill looks at what rests: it is in order, nowhere twice, and as it was made.
func (p *play) keepsStill() {
	for _, s := range p.hub.sessions {
		for typ, k := range s.inv.kinds {
			for i, it := range k.still {
				name := it.acked.Name
				switch is := *it; {
				case k.items.m[name] != nil || i > 0 && k.still[i-1].acked.Name >= name:
					p.fail("%s has %s %s twice, or out of order", s.ID, shortType(typ), name)
				case !it.rests() || it.turn != 0 || it != it.acked.resting(is.subscribed, is.presented):
					p.fail("%s has %s %s, which does not rest: %+v", s.ID, shortType(typ), name, is)
				}
			}
		}
	}
	for _, svc := range p.hub.services {
		p.known(svc.force)
		for _, m := range svc.force.members {
			if _, restless := svc.force.restless.m[m]; restless != (m.unrest != nil) {
				p.fail("%s is taken to rest: %v, and serves %s", m.who.ID, !restless, svc.force.has(m).Version)
			}
		}
	}
}

// known holds that of each node of a book is known that it is in it.
func (p *play) known(f *Force) {
	for _, m := range f.members {
		if !slices.Contains(p.hub.nodes.books(m.who.ID), f) {
			p.fail("%s is in a book, and nobody knows", m.who.ID)
		}
	}
}

// triesAgain holds that what is sent again by itself is so when it was said, and nothing else is.
func (p *play) triesAgain() {
	for _, s := range p.hub.sessions {
		for typ, k := range s.inv.kinds {
			all := s.inv.retries(typ).by.m
			for name, it := range k.items.m {
				if e := all[Ref{typ, name}]; (e != nil || it.retry.After(p.at)) && (e == nil || !e.at.Equal(it.retry)) {
					p.fail("%s is to be sent %s %s again at %s, and is at %+v", s.ID, shortType(typ), name, it.retry, e)
				}
			}
			for r, e := range all {
				if r.Type == typ && k.items.m[r.Name] == nil && e.at.After(p.at) {
					p.fail("%s is to be sent %s %s again at %s, and nothing is known of it", s.ID, shortType(typ), r.Name, e.at)
				}
			}
		}
	}
}

// crowd has every stream's window for routes full of what it never answers, or no longer.
func (p *play) crowd(full bool) {
	for _, s := range p.hub.sessions {
		k := s.inv.kinds[TypeRoute]
		if k == nil || p.crowded[s] == full {
			continue
		}
		if p.crowded[s] = full; full {
			k.inflight += routeWindow
		} else {
			k.inflight -= routeWindow
		}
	}
}

// findsUrgent holds that every route which is urgent is among those that are looked at as such.
func (p *play) findsUrgent() {
	r := Ref{TypeRoute, "shop"}
	for _, s := range p.hub.sessions {
		k := s.inv.kinds[TypeRoute]
		if k == nil || k.item("shop") == nil {
			continue
		}
		if _, retries := s.inv.cuts.by.m[r]; retries && !p.at.Before(k.item("shop").retry) {
			continue // it is looked at before anything goes out
		}
		_, found := k.had.m["shop"]
		if was := *k.item("shop"); !found && s.gate().decide(r).urgent {
			p.fail("%s has a route that is urgent, and is not found: %+v", s.ID, was)
		} else if it := k.items.m["shop"]; it != nil {
			*it = was // less what it has learned by that
		}
	}
}

// bars holds what is told of a refused listener against the Envoys that refuse it.
func (p *play) bars() {
	r := Ref{TypeListener, "0.0.0.0:10000"}
	l, d, svc := p.hub.cat.resources[r], p.hub.disputed[r], p.hub.services["shop"]
	for _, e := range p.envoys {
		if e.s == nil {
			continue
		}
		refuses := l != nil && e.barred == l.Version
		if booked := d != nil && d.by[e.s.stream] != nil; booked != refuses {
			p.fail("%s refuses the listener: %v, and that is written down: %v", e.id, refuses, booked)
		}
		if svc == nil || !refuses {
			continue
		}
		m := svc.force.find(e.s.stream)
		if m != nil && !m.refuses(r, l.Version) || m == nil && d.outside(svc.force) == 0 {
			p.fail("%s refuses the listener, and is in the book: %v, which does not say so", e.id, m != nil)
		}
		told := func(n NodeStatus) bool { return n.Node == e.id && n.Type == "listener" }
		if st := p.hub.statusOf(svc.force); !slices.ContainsFunc(st.Nodes, told) && (m == nil || len(m.refusals) == 1) {
			p.fail("%s refuses the listener, and nobody is told: %+v", e.id, st)
		}
	}
	if svc != nil {
		if got, want := p.hub.statusOf(svc.force).Counts, countsPlainly(p.hub, "shop"); got != want {
			p.fail("%+v are told of, not %+v", got, want)
		}
	}
}

// check holds the book against the Envoys.
func (p *play) check() {
	p.bars()
	p.keepsStill()
	p.triesAgain()
	for _, s := range p.hub.sessions {
		if typ, name, missing := overlooked(s); missing {
			p.fail("%s has %s %s, which leaves, and is not looked at", s.ID, shortType(typ), name)
		}
	}
	p.findsUrgent()
	unapplied, nodes := countPlainly(p.hub)
	if f := p.hub.Figures(); !reflect.DeepEqual(f.Unapplied, unapplied) || !reflect.DeepEqual(f.Nodes, nodes) {
		p.fail("the figures are %v and %v, and the book says %v and %v", f.Unapplied, f.Nodes, unapplied, nodes)
	}
	svc := p.hub.services["shop"]
	if svc == nil {
		p.parts()
		return
	}
	for _, e := range p.envoys {
		if e.s == nil || e.secret || !e.sub[Ref{TypeRoute, "shop"}] {
			continue
		}
		m := svc.force.find(e.s.stream)
		if m == nil || m.isDoubted() {
			p.fail("%s is not in the book", e.id)
		}
		has := ""
		if e.route != nil {
			has = e.route.Version
		}
		if booked := svc.force.has(m).Version; booked != has {
			p.fail("the book says that %s has %q, it has %q", e.id, booked, has)
		}
		if served, ok := svc.force.Served([]*stream{e.s.stream}); ok && !slices.Equal(served.Slots, e.route.slots) {
			p.fail("the book says that %s serves %v, it serves %v", e.id, served.Slots, e.route.slots)
		}
	}
}

// parts holds that nobody is forgotten who can still send requests to a service that was removed.
func (p *play) parts() {
	remain := p.hub.Remains("shop")
	remaining := p.hub.Remaining("shop")
	if remain != (len(remaining) > 0) {
		p.fail("somebody remains: %v; these do: %v", remain, remaining)
	}
	if part := p.hub.parting["shop"]; part != nil {
		p.known(part.force)
	}
	for _, e := range p.envoys {
		if e.s == nil || e.secret || e.route == nil || p.at.Sub(p.removed) >= time.Hour || slices.Contains(remaining, e.id) {
			continue
		}
		for _, c := range e.route.clusters {
			if e.have[Ref{TypeCluster, c.String()}] != nil {
				p.fail("%s still routes to %s of a service that was removed, and nobody waits for it", e.id, c)
			}
		}
	}
}

// finale lets everybody connect and answer for an hour.
func (p *play) finale() {
	p.tell("finale")
	for _, e := range p.envoys {
		for _, z := range e.zombies {
			z.close()
		}
		if e.s == nil || e.secret {
			e.hangUp(true)
			e.connect(true)
		}
		if e.tame {
			e.tames()
		}
	}
	for range 8 {
		for again := true; again; {
			again = false
			for _, e := range p.envoys {
				e.receive(100)
				again = again || len(e.queue) > 0
				e.work(100, true)
			}
		}
		p.check()
		p.pass(20 * time.Minute)
	}
	for _, e := range p.envoys {
		e.ends()
	}
}

func (e *modelled) ends() {
	p := e.p
	refuses := slices.ContainsFunc(slices.Collect(maps.Values(e.refuses)), func(b bool) bool { return b })
	if p.table < 0 {
		for r := range e.have {
			if !refuses && r.Type != TypeRoute {
				p.fail("%s still has %s %s of a service that is gone", e.id, shortType(r.Type), r.Name)
			}
		}
		return
	}
	f := p.hub.cat.routes["shop"]
	stable := ClusterID{"shop", f.table.Stable, Users}.String()
	minimal := !e.refuses["route"] && !(e.refuses["route of v2"] && f.table.Stable == "v2") && (e.route != nil || e.nackedV[f.whole.ref()] != f.minimal.Version)
	if e.have[Ref{TypeListener, "0.0.0.0:10000"}] != nil && e.have[Ref{TypeCluster, stable}] != nil && !e.refuses[stable] && minimal {
		if e.route == nil {
			p.fail("%s accepts stable and has no route", e.id)
		}
		if slices.ContainsFunc(f.whole.cut, e.route.names) {
			p.fail("%s accepts stable and routes to %v: cut is %v", e.id, e.route.clusters, f.whole.cut)
		}
	}
	if v := e.nackedV[f.whole.ref()]; refuses || v == f.whole.Version || v == f.minimal.Version {
		return // what was refused is not sent again
	}
	if e.route == nil || e.route.Version != f.whole.Version {
		p.fail("%s refuses nothing and does not have the table: %+v", e.id, e.route)
	}
	for _, typ := range []string{TypeCluster, TypeEndpoint} {
		for name := range p.hub.cat.names[typ] {
			r := Ref{typ, name}
			if has := e.have[r]; has == nil || has.Version != p.hub.cat.resources[r].Version {
				p.fail("%s refuses nothing and does not have %s %s", e.id, shortType(typ), name)
			}
		}
	}
	for r := range e.have {
		if p.hub.cat.resources[r] == nil {
			p.fail("%s still has %s %s", e.id, shortType(r.Type), r.Name)
		}
	}
	if n := p.hub.services["shop"].force.Status("shop"); !slices.ContainsFunc(p.envoys, func(o *modelled) bool { return len(o.refuses) > 0 }) && (!n.InForce || n.Counts.Applied != len(p.envoys)) {
		p.fail("nobody refuses anything, and the book says %+v", n)
	}
}
