package xds

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	// LaggingAfter is how long an Envoy may neither accept nor refuse a route before weights wait for it no
	// longer.
	LaggingAfter = 30 * time.Second
	// RefusingFor is how long in all an Envoy's refusals may hold up one rollout.
	RefusingFor = 10 * time.Minute
)

// Standing is what one node has of one service.
type Standing string

// The standings. Weights wait for who is behind, and for who refuses; nobody else holds them up.
const (
	Joining Standing = "joining" // connected, never accepted a route of this service
	Applied Standing = "applied" // accepted the present table
	Behind  Standing = "behind"  // serves an older one and has not answered yet
	Lagging Standing = "lagging" // behind for 30 s, or refusing for 10 min; until it accepts something present
	Refused Standing = "refused" // refused something present
	Gone    Standing = "gone"    // had accepted something, and its last connection ended
)

// Ref names a resource.
type Ref struct{ Type, Name string }

// Content is a table as a node can have it.
type Content struct {
	Version string // of the route; none: no route
	Slots   []rollout.Run
}

// Wanted is the present table.
type Wanted struct {
	Generation uint64
	Envoys     Content
	Clients    Content  // of gRPC clients without a proxy
	Nodes      []string // node clusters that may have the service; none: all
	Canaries   []string // versions beside the stable one
}

// Force is the book of one service: which node has which table, and which refuses what. It is kept by
// node, not by stream, so an Envoy that loses its connection is not forgotten. Moments come in; nothing
// here knows a clock, a mutex or a connection.
type Force struct {
	ForgetAfter time.Duration // until a node that is gone is forgotten

	want    Wanted
	nodes   map[string][]*member // by node.id; more than one where Envoys share it
	streams map[uint64]*member   // by the live streams
	notes   []Note
}

// member is one Envoy of the book.
type member struct {
	node     Node
	stream   uint64    // 0: gone
	since    time.Time // beginning of that stream, or the end of the last one
	doubted  bool      // the older stream of a node that came back (see seat.go): counts for nothing
	accepted Content   // what it serves
	served   time.Time // since when it serves these slots
	asked    bool      // for the route, on that stream
	sent     string    // version of the route last sent and not refused
	behind   time.Time // since when it is waited for; zero: it is not
	waited   time.Duration
	lagging  bool
	heard    time.Time // its last ACK or NACK
	used     time.Time // its last report of requests at what an older table may name; its first connection is as good
	silent   bool      // it lags, and neither was for so long that nothing waits for it any more
	refusals map[Ref]refusal
	held     map[string]time.Duration // canary: how long it was held up
	charged  time.Time                // until when that is counted
}

// refusal is by content: it ends when that is accepted, or when another content is wanted.
type refusal struct {
	version, why string
	since        time.Time
}

// Note is something that an operator should hear of, once.
type Note struct{ Node, Text string }

// NewForce makes an empty book.
func NewForce(forgetAfter time.Duration) *Force {
	return &Force{ForgetAfter: forgetAfter, nodes: map[string][]*member{}, streams: map[uint64]*member{}}
}

// Want replaces the table that everybody is to have.
func (f *Force) Want(w Wanted, at time.Time) {
	for m := range f.all() {
		f.charge(m, at)
	}
	f.want = w
	for m := range f.all() {
		if !f.admits(m.node) && !m.restored() {
			f.remove(m)
			continue
		}
		maps.DeleteFunc(m.held, func(v string, _ time.Duration) bool { return !slices.Contains(f.rollouts(), v) })
		if want := f.wanted(m); m.stream != 0 && m.accepted.is(want.Version) {
			m.accepted = want // a version that was brought along is known now; who is away may only have been sent it
		}
		f.settle(m, at)
	}
}

// Changed says that another content of a resource is wanted, or that somebody asks for another try: nobody
// has refused that yet.
func (f *Force) Changed(r Ref, at time.Time) {
	for m := range f.all() {
		if _, refused := m.refusals[r]; refused {
			f.charge(m, at)
			delete(m.refusals, r)
			f.settle(m, at)
		}
	}
}

// Join books a stream that asks for the route. has is what it brought along; none: it is a new process.
func (f *Force) Join(stream uint64, n Node, has Content, at time.Time) {
	if !f.admits(n) {
		return
	}
	m := f.attach(stream, n, at)
	if m.asked {
		return
	}
	m.asked = true
	if has.Version == "" {
		maps.DeleteFunc(m.refusals, func(_ Ref, r refusal) bool { return r.since.Before(m.since) })
		m.lagging, m.waited = false, 0
	}
	if !m.accepted.is(has.Version) {
		m.serves(has, at)
	}
	if m.lastSign().IsZero() { // later connections do not count: canaryd ends them itself
		m.used = at
	}
	m.sent = has.Version
	f.settle(m, at)
}

// Sent books a route that is on its way.
func (f *Force) Sent(stream uint64, version string, at time.Time) {
	if m := f.streams[stream]; m != nil {
		m.sent = version
		f.settle(m, at)
	}
}

// Accept books that a route is in force on a stream's node; present says that it is a form of the present
// table.
func (f *Force) Accept(stream uint64, c Content, present bool, at time.Time) {
	m := f.heard(stream, at)
	if m == nil {
		return
	}
	f.charge(m, at)
	m.serves(c, at)
	m.behind, m.waited = time.Time{}, 0
	m.lagging = m.lagging && !present
	f.settle(m, at)
}

// Took books that a content was accepted which the stream's node may have refused before.
func (f *Force) Took(stream uint64, r Ref, version string, at time.Time) {
	m := f.heard(stream, at)
	if m == nil || len(m.refusals) == 0 {
		return
	}
	f.charge(m, at)
	if old, refused := m.refusals[r]; refused && sameVersion(old.version, version) {
		delete(m.refusals, r)
		m.lagging = false
	}
	f.settle(m, at)
}

// Refuse books a NACK of something present. Who refuses the listener never asks for the route, so the
// stream may be new to the book.
func (f *Force) Refuse(stream uint64, n Node, r Ref, version, why string, at time.Time) {
	if !f.admits(n) {
		return
	}
	f.attach(stream, n, at)
	m := f.heard(stream, at)
	f.charge(m, at)
	since := at
	if old, ok := m.refusals[r]; ok && sameVersion(old.version, version) {
		since = old.since
	}
	m.refusals[r] = refusal{version, why, since}
	if r.Type == TypeRoute {
		m.sent = m.accepted.Version
	}
	f.settle(m, at)
}

// Drop books that a stream wants the route no longer.
func (f *Force) Drop(stream uint64) {
	if m := f.streams[stream]; m != nil {
		f.remove(m)
	}
}

// Leave books the end of a stream: whoever had a route still serves it, and who was sent its first one may.
func (f *Force) Leave(stream uint64, at time.Time) {
	m := f.streams[stream]
	if m == nil {
		return
	}
	f.charge(m, at)
	m.accepted.Version = cmp.Or(m.accepted.Version, m.sent)
	if m.doubted || m.accepted.Version == "" {
		f.remove(m)
		return
	}
	if !m.behind.IsZero() {
		m.waited, m.behind = m.waited+at.Sub(m.behind), time.Time{}
	}
	delete(f.streams, stream)
	m.stream, m.since = 0, at
}

// Restarted books that a node's process is a new one: what it had before it was gone, nobody serves.
func (f *Force) Restarted(id string) {
	for _, m := range slices.Clone(f.nodes[id]) {
		if m.stream == 0 {
			f.remove(m)
		}
	}
}

// Forget ends all waiting for a node: one that is gone is forgotten, one that is connected and does not have
// the present table counts as new until it accepts something. It reports whether the node was known.
func (f *Force) Forget(id string) bool {
	known := len(f.nodes[id]) > 0
	f.Restarted(id)
	for _, m := range f.nodes[id] {
		if f.standing(m) == Applied {
			continue
		}
		m.accepted, m.lagging, m.behind, m.waited = Content{}, false, time.Time{}, 0
		m.refusals, m.held = map[Ref]refusal{}, map[string]time.Duration{}
	}
	return known
}

// Tick lets time pass: who has not answered for long is lagging, who is gone for long is forgotten. It
// reports whether a standing changed.
func (f *Force) Tick(at time.Time) (changed bool) {
	for m := range f.all() {
		f.charge(m, at)
		switch standing := f.standing(m); {
		case m.doubted:
			f.believe(m, at)
		case standing == Gone && at.Sub(m.since) >= f.ForgetAfter:
			f.remove(m)
		case standing == Behind && m.waited+at.Sub(m.behind) >= LaggingAfter:
			f.lag(m, "neither accepts nor refuses the route: weights wait for it no longer")
		case standing == Refused && f.exhausted(m):
			f.lag(m, "has held the rollout up for 10 min by what it refuses: weights wait for it no longer")
		case m.silent != f.overdue(m, at):
			m.silent = !m.silent
		default:
			continue
		}
		changed = true
	}
	return changed
}

// TakeNotes returns what operators should hear of since the last call.
func (f *Force) TakeNotes() []Note {
	notes := f.notes
	f.notes = nil
	return notes
}

// Served is what whoever has some streams serves. It is not ok where they differ, or where nothing is known.
func (f *Force) Served(streams []uint64) (served Served, ok bool) {
	for _, id := range streams {
		m := f.streams[id]
		if m == nil || m.doubted && len(streams) > 1 {
			continue
		}
		if ok && !slices.Equal(served.Slots, m.accepted.Slots) {
			return Served{}, false
		}
		served.Slots, ok = m.accepted.Slots, true
		if m.served.After(served.Since) {
			served.Since = m.served
		}
	}
	return served, ok && len(served.Slots) > 0
}

// used are the versions of routes that somebody serves, or is about to.
func (f *Force) used() map[string]struct{} {
	out := map[string]struct{}{}
	for m := range f.all() {
		out[m.accepted.Version], out[m.sent] = struct{}{}, struct{}{}
	}
	return out
}

// remembers reports whether a node refused a content on an earlier connection of the same process.
func (f *Force) remembers(n Node, r Ref, version string) bool {
	return slices.ContainsFunc(f.nodes[n.ID], func(m *member) bool {
		old, ok := m.refusals[r]
		return ok && m.node.Build == n.Build && sameVersion(old.version, version)
	})
}

// refusing are the streams that refuse something, by what it is.
func (f *Force) refusing() map[Ref][]uint64 {
	out := map[Ref][]uint64{}
	for m := range f.all() {
		for r := range m.refusals {
			if m.stream != 0 {
				out[r] = append(out[r], m.stream)
			}
		}
	}
	return out
}

func (f *Force) standing(m *member) Standing {
	switch {
	case m.stream == 0:
		return Gone
	case m.accepted.Version == "":
		return Joining
	case m.lagging:
		return Lagging
	case len(m.refusals) > 0:
		return Refused
	case f.settled(m):
		return Applied
	}
	return Behind
}

// settled reports whether a member serves what is wanted, and nothing else is on its way to it.
func (f *Force) settled(m *member) bool {
	want := f.wanted(m).Version
	return m.accepted.is(want) && sameVersion(m.sent, want)
}

func (f *Force) wanted(m *member) Content {
	if m.node.Client {
		return f.want.Clients
	}
	return f.want.Envoys
}

// settle begins or ends to wait for a member.
func (f *Force) settle(m *member, at time.Time) {
	switch {
	case m.stream == 0:
	case len(m.refusals) > 0 || m.accepted.Version == "":
		m.behind, m.waited = time.Time{}, 0
	case f.settled(m):
		m.behind, m.waited, m.lagging = time.Time{}, 0, false
	case m.behind.IsZero():
		m.behind = at
	}
}

func (f *Force) lag(m *member, why string) {
	m.lagging, m.behind, m.waited = true, time.Time{}, 0
	f.notes = append(f.notes, Note{m.node.ID, "Envoy " + m.node.ID + " " + why})
}

// rollouts are what a refusal may hold up: the canaries, or with none of them whatever is changed next.
func (f *Force) rollouts() []string {
	if len(f.want.Canaries) == 0 {
		return []string{""}
	}
	return f.want.Canaries
}

// charge counts the time since it was last called against the rollouts that a member's refusals held up.
func (f *Force) charge(m *member, at time.Time) {
	if f.standing(m) == Refused && !m.doubted {
		for _, v := range f.rollouts() {
			m.held[v] += at.Sub(m.charged)
		}
	}
	m.charged = at
}

func (f *Force) exhausted(m *member) bool {
	return !slices.ContainsFunc(f.rollouts(), func(v string) bool { return m.held[v] < RefusingFor })
}

func (f *Force) admits(n Node) bool {
	return !n.Diagnostic && (len(f.want.Nodes) == 0 || slices.Contains(f.want.Nodes, n.Cluster))
}

// heard notes that a stream speaks.
func (f *Force) heard(stream uint64, at time.Time) *member {
	m := f.streams[stream]
	if m != nil {
		m.heard = at
		f.believe(m, at)
	}
	return m
}

// all are the members, each of which may be removed meanwhile.
func (f *Force) all() iter.Seq[*member] {
	return func(yield func(*member) bool) {
		for _, ms := range f.nodes {
			for _, m := range slices.Clone(ms) {
				if !yield(m) {
					return
				}
			}
		}
	}
}

func (f *Force) remove(m *member) {
	delete(f.streams, m.stream)
	left := slices.DeleteFunc(f.nodes[m.node.ID], func(o *member) bool { return o == m })
	if f.nodes[m.node.ID] = left; len(left) == 0 {
		delete(f.nodes, m.node.ID)
	}
}

// serves notes another content. Only other slots begin a new time: a changed timeout counts no request
// differently.
func (m *member) serves(c Content, at time.Time) {
	if c.Slots == nil || !slices.Equal(c.Slots, m.accepted.Slots) {
		m.served = at
	}
	m.accepted = c
}

func (c Content) is(version string) bool {
	return c.Version != "" && sameVersion(c.Version, version)
}

// sameVersion compares contents.
func sameVersion(a, b string) bool { return a == b }
