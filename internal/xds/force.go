package xds

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
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
//
// Ten thousand Envoys may be in the books of a thousand services each. So one that is at rest costs a few words, and
// neither a tick nor a question about who is not at rest looks at it.
type Force struct {
	service     string
	ForgetAfter time.Duration // until a node that is gone is forgotten

	want            Wanted
	envoys, clients *Content  // of want
	members         []*member // by node.id; more than one where Envoys share it, in the order of their coming
	restless        lean[*member, struct{}]
	round           round // when time may change something
	notes           []Note
	begun           time.Time // its first moment
	parts           bool      // its service was removed
}

// stream is one ADS stream, as the books know it.
type stream struct {
	Node
	id      uint64 // they are numbered as they come
	since   time.Time
	books   []*Force         // that know it
	heard   time.Time        // its last ACK of a listener: that of one that ten thousand services have is not booked in each of their books
	odd     bool             // some book doubts it, or waits for it no longer: it has to hear of each ACK
	refuses map[Ref]struct{} // listeners as they are
	past    *stream          // what is kept of it in the books when it is over
}

// over is what is kept of a stream when it is over: not its connection.
func (s *stream) over() *stream {
	if s.past == nil {
		s.past = &stream{Node: s.Node, id: s.id, since: s.since, heard: s.heard}
		s.past.line = nil
	}
	return s.past
}

// member is one Envoy of the book.
type member struct {
	who     *stream // the last one, where it is gone
	served  moment  // since when it serves these slots
	heard   tenths  // its last ACK or NACK
	used    tenths  // its last report of requests at what an older table may name; its first connection is as good
	*unrest         // nil: it is at rest. It was sent and serves what is wanted, and nothing else is known of it
}

// has is what a member serves.
func (f *Force) has(m *member) *Content {
	if m.unrest == nil {
		return f.wanted(m)
	}
	return m.accepted
}

// moment is in the time of a book: what has passed since its first one, and a nanosecond. Zero: never.
type moment time.Duration

func (f *Force) moment(at time.Time) moment {
	if f.begun.IsZero() {
		f.begun = at
	}
	return moment(at.Sub(f.begun)) + 1
}

func (f *Force) time(m moment) time.Time {
	if m == 0 {
		return time.Time{}
	}
	return f.begun.Add(time.Duration(m - 1))
}

// tenths are as much in tenths of a second, for what is compared with minutes and hours.
type tenths uint32

const tenth = 100 * time.Millisecond

func (f *Force) tenths(at time.Time) tenths {
	return tenths(min(time.Duration(f.moment(at)-1)/tenth+1, math.MaxUint32))
}

func (f *Force) about(t tenths) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return f.time(moment(time.Duration(t-1)*tenth) + 1)
}

// unrest is what there is to be known of a member that is not at rest.
type unrest struct {
	accepted *Content // what it serves
	gone     bool
	left     time.Time // when it went
	forgot   bool      // by an operator: until it accepts something, nothing that it was sent counts
	doubted  bool      // the older stream of a node that came back (see seat.go): counts for nothing
	asked    bool      // for the route, on its stream
	sent     string    // version of the route last sent and not refused
	behind   time.Time // since when it is waited for; zero: it is not
	waited   time.Duration
	lagging  bool
	silent   bool // it lags, and neither was heard of for so long that nothing waits for it any more
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
func NewForce(service string, forgetAfter time.Duration) *Force {
	return &Force{service: service, ForgetAfter: forgetAfter, envoys: &Content{}, clients: &Content{}}
}

// Want replaces the table that everybody is to have.
func (f *Force) Want(w Wanted, at time.Time) {
	for m := range f.restless.m {
		f.charge(m, at)
	}
	envoys, clients := f.share(w.Envoys), f.share(w.Clients)
	if f.envoys != envoys || f.clients != clients || !slices.Equal(f.want.Nodes, w.Nodes) {
		for _, m := range f.members {
			f.stir(m)
		}
	}
	f.want, f.envoys, f.clients = w, envoys, clients
	f.wake()
	var out []*member
	for m := range maps.Clone(f.restless.m) {
		if !f.admits(m.who.Node) && !m.restored() {
			out = append(out, m)
			continue
		}
		maps.DeleteFunc(m.held, func(v string, _ time.Duration) bool { return !slices.Contains(f.rollouts(), v) })
		if want := f.wanted(m); !m.gone && m.accepted.is(want.Version) {
			m.accepted = want // a version that was brought along is known now; who is away may only have been sent it
		}
		f.settle(m, at)
	}
	f.remove(out...)
}

// Changed says that another content of a resource is wanted, or that somebody asks for another try: nobody
// has refused that yet. It reports whether somebody had.
func (f *Force) Changed(r Ref, at time.Time) (news bool) {
	return f.ends(r, func(*member, refusal) bool { return true }, at)
}

// ends ends some refusals of a resource, and reports whether there were any.
func (f *Force) ends(r Ref, which func(*member, refusal) bool, at time.Time) (news bool) {
	for m := range f.restless.m {
		if old, refused := m.refusals[r]; refused && which(m, old) {
			f.charge(m, at)
			delete(m.refusals, r)
			f.settle(m, at)
			f.wake()
			news = true
		}
	}
	return news
}

// Join books a stream that asks for the route. has is what it brought along; none: it is a new process.
func (f *Force) Join(s *stream, has Content, at time.Time) {
	if !f.admits(s.Node) {
		return
	}
	m := f.attach(s, at)
	f.charge(m, at)
	if m.asked {
		f.rest(m)
		return
	}
	m.asked = true
	if has.Version == "" {
		maps.DeleteFunc(m.refusals, func(_ Ref, r refusal) bool { return r.since.Before(s.since) })
		m.lagging, m.waited = false, 0
	}
	if !m.accepted.is(has.Version) {
		f.serves(m, has, at)
	}
	if m.used == 0 && m.heard == 0 { // later connections do not count: canaryd ends them itself
		m.used = f.tenths(at)
	}
	m.sent = has.Version
	f.settle(m, at)
}

// Sent books a route that is on its way.
func (f *Force) Sent(s *stream, version string, at time.Time) {
	if m := f.find(s); m != nil {
		f.stir(m).sent = version
		f.settle(m, at)
	}
}

// Accept books that a route is in force on a stream's node; present says that it is a form of the present
// table.
func (f *Force) Accept(s *stream, c Content, present bool, at time.Time) {
	m := f.heard(s, at)
	if m == nil {
		return
	}
	f.charge(m, at)
	f.serves(m, c, at)
	if m.sent == "" { // it was sent before the stream asked for it again
		m.sent = c.Version
	}
	m.behind, m.waited = time.Time{}, 0
	m.lagging = m.lagging && !present
	f.settle(m, at)
}

// Took books that a content was accepted which the stream's node may have refused before. It reports whether that
// changed more than when it was heard of last.
func (f *Force) Took(s *stream, r Ref, version string, at time.Time) (news bool) {
	m := f.find(s)
	if m == nil {
		return false
	}
	if m.unrest == nil {
		m.heard = f.tenths(at)
		return false
	}
	doubted, standing := m.doubted, f.standing(m)
	if f.heard(s, at); len(m.refusals) == 0 {
		f.rest(m)
		return m.isDoubted() != doubted || f.standing(m) != standing
	}
	f.charge(m, at)
	old, ended := m.refusals[r]
	if ended = ended && sameVersion(old.version, version); ended {
		delete(m.refusals, r)
		m.lagging = false
	}
	f.settle(m, at)
	return ended || m.isDoubted() != doubted || f.standing(m) != standing
}

// Refuse books a NACK of something present. Who refuses the listener never asks for the route, so the
// stream may be new to the book.
func (f *Force) Refuse(s *stream, r Ref, version, why string, at time.Time) {
	if !f.admits(s.Node) {
		return
	}
	f.attach(s, at)
	m := f.heard(s, at)
	f.charge(m, at)
	since := at
	if old, ok := m.refusals[r]; ok && sameVersion(old.version, version) {
		since = old.since
	}
	if m.refusals == nil {
		m.refusals = map[Ref]refusal{}
	}
	m.refusals[r] = refusal{version, why, since}
	if r.Type == TypeRoute {
		m.sent = m.accepted.Version
	}
	f.settle(m, at)
}

// Used books that a node reports requests at what an older table may name.
func (f *Force) Used(s *stream, at time.Time) {
	if m := f.find(s); m != nil {
		m.used = f.tenths(at)
		if m.unrest != nil {
			f.wake()
		}
	}
}

// Drop books that a stream wants the route no longer.
func (f *Force) Drop(s *stream) {
	if m := f.find(s); m != nil {
		f.remove(m)
	}
}

// Leave books the end of a stream: whoever had a route still serves it, and who was sent its first one may.
func (f *Force) Leave(s *stream, at time.Time) {
	m := f.find(s)
	if m == nil {
		return
	}
	f.stir(m)
	f.charge(m, at)
	m.mayServe()
	if m.doubted || m.accepted.Version == "" {
		f.remove(m)
		return
	}
	if !m.behind.IsZero() {
		m.waited, m.behind = m.waited+at.Sub(m.behind), time.Time{}
	}
	m.gone, m.left, m.who = true, at, s.over()
}

// mayServe takes who was sent its first route to serve it.
func (m *member) mayServe() {
	if m.accepted.Version == "" && m.sent != "" && !m.forgot {
		m.accepted = &Content{m.sent, m.accepted.Slots}
	}
}

// Restarted books that a node's process is a new one: what it had before it was gone, nobody serves.
func (f *Force) Restarted(id string) {
	var out []*member
	for _, m := range f.of(id) {
		if m.isGone() {
			out = append(out, m)
		}
	}
	f.remove(out...)
}

// Forget ends all waiting for a node: one that is gone is forgotten, one that is connected and does not have
// the present table counts as new until it accepts something. It reports whether the node was known.
func (f *Force) Forget(id string) bool {
	known := len(f.of(id)) > 0
	f.wake()
	f.Restarted(id)
	for _, m := range f.of(id) {
		if f.standing(m) == Applied {
			continue
		}
		m.accepted, m.forgot, m.lagging, m.behind, m.waited = &Content{}, true, false, time.Time{}, 0
		m.refusals, m.held = nil, nil
	}
	return known
}

// waitsFor reports whether a node is not known to have the present table.
func (f *Force) waitsFor(id string) bool {
	return slices.ContainsFunc(f.of(id), func(m *member) bool { return f.standing(m) != Applied })
}

// Tick lets time pass: who has not answered for long is lagging, who is gone for long is forgotten. It
// reports whether a standing changed.
func (f *Force) Tick(at time.Time) (changed bool) {
	var out []*member
	for m := range f.restless.m {
		f.charge(m, at)
		switch standing := f.standing(m); {
		case m.doubted:
			f.believe(m, at)
		case standing == Gone && at.Sub(m.left) >= f.ForgetAfter:
			out = append(out, m)
		case standing == Behind && m.waited+at.Sub(m.behind) >= LaggingAfter:
			f.lag(m, "neither accepts nor refuses the route: the rollout no longer waits for it")
		case standing == Refused && f.exhausted(m):
			f.lag(m, "has held up the rollout for 10 min by refusing: the rollout no longer waits for it")
		case m.silent != f.overdue(m, at):
			m.silent = !m.silent
			m.who.odd = true
		default:
			continue
		}
		changed = true
	}
	f.remove(out...)
	return changed
}

// TakeNotes returns what operators should hear of since the last call.
func (f *Force) TakeNotes() []Note {
	notes := f.notes
	f.notes = nil
	return notes
}

// Served is what whoever has some streams serves. It is not ok where they differ, or where nothing is known.
func (f *Force) Served(streams []*stream) (served Served, ok bool) {
	for _, s := range streams {
		m := f.find(s)
		if m == nil || m.isDoubted() && len(streams) > 1 {
			continue
		}
		if ok && !slices.Equal(served.Slots, f.has(m).Slots) {
			return Served{}, false
		}
		served.Slots, ok = f.has(m).Slots, true
		if since := f.time(m.served); since.After(served.Since) {
			served.Since = since
		}
	}
	return served, ok && len(served.Slots) > 0
}

// used are the versions of routes that somebody serves, or is about to.
func (f *Force) used() map[string]struct{} {
	out := map[string]struct{}{}
	for _, m := range f.members {
		out[f.has(m).Version] = struct{}{}
		if m.unrest != nil {
			out[m.sent] = struct{}{}
		}
	}
	return out
}

// remembers reports whether a node refused a content on an earlier connection of the same process.
func (f *Force) remembers(n Node, r Ref, version string) bool {
	return slices.ContainsFunc(f.of(n.ID), func(m *member) bool {
		return m.refuses(r, version) && m.who.Build == n.Build
	})
}

// refusing are the streams that refuse something, by what it is.
func (f *Force) refusing() map[Ref][]uint64 {
	out := map[Ref][]uint64{}
	for m := range f.restless.m {
		for r := range m.refusals {
			if !m.gone {
				out[r] = append(out[r], m.who.id)
			}
		}
	}
	return out
}

// unapplied reports whether a member is connected and does not have the table, or refuses something.
func (f *Force) unapplied(m *member) bool {
	return !m.isDoubted() && f.shows(m) && !m.isGone()
}

// shows reports whether a member is worth a line of the status.
func (f *Force) shows(m *member) bool {
	standing := f.standing(m)
	return standing != Applied && standing != Joining || m.unrest != nil && len(m.refusals) > 0
}

func (f *Force) standing(m *member) Standing {
	switch {
	case m.unrest == nil:
		return Applied
	case m.gone:
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

func (f *Force) wanted(m *member) *Content {
	if m.who.Client {
		return f.clients
	}
	return f.envoys
}

// settle begins or ends to wait for a member.
func (f *Force) settle(m *member, at time.Time) {
	switch {
	case m.gone:
	case len(m.refusals) > 0 || m.accepted.Version == "":
		m.behind, m.waited = time.Time{}, 0
	case f.settled(m):
		m.behind, m.waited, m.lagging = time.Time{}, 0, false
		f.rest(m)
	case m.behind.IsZero():
		m.behind = at
	}
}

// rest lets a member rest where there is nothing more to be known of it.
func (f *Force) rest(m *member) {
	if m.asked && !m.gone && !m.doubted && !m.lagging && !m.silent && m.behind.IsZero() && len(m.refusals)+len(m.held) == 0 && m.accepted == f.wanted(m) && f.settled(m) {
		m.unrest = nil
		f.restless.drop(m)
	}
}

// stir ends the rest of a member: something is about to happen to it.
func (f *Force) stir(m *member) *member {
	if m.unrest == nil {
		m.unrest = &unrest{accepted: f.wanted(m), asked: true, sent: f.wanted(m).Version}
		f.restless.put(m, struct{}{})
	}
	f.wake()
	return m
}

func (f *Force) lag(m *member, why string) {
	m.lagging, m.behind, m.waited = true, time.Time{}, 0
	f.notes = append(f.notes, Note{m.who.ID, "Envoy " + m.who.ID + " " + why})
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
		if m.held == nil {
			m.held = map[string]time.Duration{}
		}
		for _, v := range f.rollouts() {
			m.held[v] += at.Sub(m.charged)
		}
	}
	m.charged = at
}

func (f *Force) exhausted(m *member) bool { return f.heldLeast(m) >= RefusingFor }

// heldLeast is how long a member has held up the rollout that it held up least.
func (f *Force) heldLeast(m *member) time.Duration {
	least := RefusingFor
	for _, v := range f.rollouts() {
		least = min(least, m.held[v])
	}
	return least
}

func (f *Force) admits(n Node) bool {
	return !n.Diagnostic && (len(f.want.Nodes) == 0 || slices.Contains(f.want.Nodes, n.Cluster))
}

// lost reports whether a node is gone from the book.
func (f *Force) lost(id string) bool { return slices.ContainsFunc(f.of(id), (*member).isGone) }

// refuses reports whether a member has refused a content.
func (m *member) refuses(r Ref, version string) bool {
	if m.unrest == nil {
		return false
	}
	old, ok := m.refusals[r]
	return ok && sameVersion(old.version, version)
}

// heard notes that a stream speaks.
func (f *Force) heard(s *stream, at time.Time) *member {
	m := f.find(s)
	if m == nil {
		return nil
	}
	m.heard = f.tenths(at)
	f.believe(f.stir(m), at)
	return f.stir(m)
}

// isGone reports whether a member has no stream.
func (m *member) isGone() bool { return m.unrest != nil && m.gone }

// isDoubted reports whether it counts for nothing.
func (m *member) isDoubted() bool { return m.unrest != nil && m.doubted }

// since is the beginning of its stream, or the end of the last one.
func (m *member) since() time.Time {
	if m.isGone() {
		return m.left
	}
	return m.who.since
}

// of are the members with a node.id.
func (f *Force) of(id string) []*member {
	_, of := f.at(id)
	return of
}

// at is where they begin.
func (f *Force) at(id string) (first int, of []*member) {
	first, _ = slices.BinarySearchFunc(f.members, id, func(m *member, id string) int { return strings.Compare(m.who.ID, id) })
	end := first
	for end < len(f.members) && f.members[end].who.ID == id {
		end++
	}
	return first, f.members[first:end:end]
}

// find is the member that speaks on a stream; nil: nobody does.
func (f *Force) find(s *stream) *member {
	for _, m := range f.of(s.ID) {
		if m.who == s && !m.isGone() {
			return m
		}
	}
	return nil
}

// add books another member, behind those with the same node.id.
func (f *Force) add(m *member) *member {
	after, _ := slices.BinarySearchFunc(f.members, m.who.ID, func(o *member, id string) int { return cmp.Or(strings.Compare(o.who.ID, id), -1) })
	f.members = insert(f.members, after, m)
	f.restless.put(m, struct{}{})
	f.wake()
	return m
}

// remove takes members out of the book, all in one pass: ten thousand may be forgotten in one tick.
func (f *Force) remove(ms ...*member) {
	if len(ms) == 0 {
		return
	}
	out := map[*member]struct{}{}
	for _, m := range ms {
		out[m] = struct{}{}
		f.restless.drop(m)
		f.unknown(m)
	}
	first, end := f.span(ms)
	kept := slices.DeleteFunc(f.members[first:end], func(m *member) bool {
		_, is := out[m]
		return is
	})
	f.members = slices.Delete(f.members, first+len(kept), end)
}

// span is where some members are in the book.
func (f *Force) span(ms []*member) (first, end int) {
	if len(ms) > 1 {
		return 0, len(f.members)
	}
	first, of := f.at(ms[0].who.ID)
	return first, first + len(of)
}

// unknown has the stream of a member not know the book any more.
func (f *Force) unknown(m *member) {
	if i := slices.Index(m.who.books, f); i >= 0 && !m.isGone() {
		m.who.books = slices.Delete(m.who.books, i, i+1)
	}
}

// serves notes another content. Only other slots begin a new time: a changed timeout counts no request
// differently.
func (f *Force) serves(m *member, c Content, at time.Time) {
	if c.Slots == nil || !slices.Equal(c.Slots, m.accepted.Slots) {
		m.served = f.moment(at)
	}
	m.accepted, m.forgot = f.share(c), false
}

// share finds a content among those that many have.
func (f *Force) share(c Content) *Content {
	for _, known := range []*Content{f.envoys, f.clients} {
		if known.Version == c.Version && (known.Slots == nil) == (c.Slots == nil) && slices.Equal(known.Slots, c.Slots) {
			return known
		}
	}
	return &c
}

func (c *Content) is(version string) bool {
	return c.Version != "" && sameVersion(c.Version, version)
}

// sameVersion compares contents.
func sameVersion(a, b string) bool { return a == b }
