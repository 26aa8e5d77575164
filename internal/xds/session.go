package xds

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
)

// session is one Envoy's delta ADS stream: its nonces, and reading and writing. What the Envoy has is in the
// inventory, what goes out next is decided by the gate, and who has what is booked in the services' Force.
// Guarded by the hub's mutex, but for pen and failed.
type session struct {
	*stream
	hub    *Hub
	place  place
	inv    *Inventory
	nonce  uint64
	sent   map[string]response // by nonce, unanswered
	taking bool                // a request is being taken in: nothing goes out before that is done
	asked  int                 // names that count for its peer: those that it asks for, and what it brought along under a wildcard
	own    own                 // what of that is looked at
	again  *time.Timer         // pokes it when something that was refused is to be sent again; nil: nothing is

	pen    atomic.Int32          // absent, resting, writing or poked
	failed atomic.Pointer[error] // to send; nothing is sent any more

	// Of whoever has the pen.
	out  grpc.ServerStream // since beginWriting
	more bool              // to look at, as next found it
}

// What becomes of the pen.
const (
	absent  int32 = iota // there is nothing to write to yet
	resting              // nobody has it
	writing              // a goroutine has
	poked                // and looks once more, or will
)

type response struct {
	typ     string
	parcels []parcel
}

// open books a new stream.
func (h *Hub) open(n Node) *session {
	h.enter()
	defer h.exit()
	s := &session{stream: h.connect(n), hub: h, inv: newInventory(&h.lists), sent: map[string]response{}}
	h.sessions[s.id] = s
	s.place = h.places.take(s)
	h.nodes.comes(s.stream)
	h.speaks(s.stream, s)
	return s
}

// close books its end.
func (s *session) close() {
	h := s.hub
	defer s.line.alone(s.asked)()
	h.enter()
	defer h.exit()
	defer s.line.asks(-s.asked) // as it is now
	delete(h.sessions, s.id)
	s.taking = true // nothing goes out any more
	s.laterAgain(0, false)
	for typ, k := range s.inv.kinds {
		delete(h.wild[typ], s)
		for name := range breathing(h, k.names()) {
			h.unsubscribe(s, Ref{typ, name})
		}
	}
	h.places.leave(s.place)
	h.disconnect(s.stream)
}

// served are the types that there are. Others are not answered: nothing of them is remembered either.
func served(typ string) bool { return slices.Contains(sendOrder(), typ) }

// receive takes one request in; an error ends the stream.
func (s *session) receive(req *discovery.DeltaDiscoveryRequest) error {
	typ := req.GetTypeUrl()
	if !served(typ) {
		s.hub.refuseType(s.Node, typ)
		return nil
	}
	if err := s.hub.tooLong(s.Node, req.GetResourceNamesSubscribe(), req.GetInitialResourceVersions()); err != nil {
		return err
	}
	more := len(req.GetResourceNamesSubscribe()) + len(req.GetInitialResourceVersions())
	if err := s.hub.mayAsk(s.Node, more); err != nil {
		return err
	}
	defer s.line.alone(more)()
	s.hub.enter()
	defer s.hub.exit()
	was := s.asked
	defer func() { s.line.asks(s.asked - was - more) }()
	if err := s.tooMany(typ, req.GetResourceNamesSubscribe(), req.GetInitialResourceVersions()); err != nil {
		return err
	}
	s.taking = true
	defer func() { s.taking = false }()
	wild := s.wild()
	s.answer(typ, req)
	_, first := s.inv.kind(typ)
	brought := req.GetInitialResourceVersions()
	if first {
		s.begin(typ, brought)
	}
	s.subscribe(typ, first, req.GetResourceNamesSubscribe(), brought)
	s.unsubscribe(typ, req.GetResourceNamesUnsubscribe())
	if first && len(brought) > 0 {
		s.keepWanted(typ)
		s.remember(typ)
	}
	if (typ == TypeCluster || typ == TypeRoute) && (first || len(req.GetResourceNamesSubscribe()) > 0) && !wild {
		s.hub.reaches(s.identity())
	}
	s.poke()
	return nil
}

// answer takes an ACK or a NACK in. xds_protocol.rst: "The nonce may be used to correlate an ack/nack with a
// server response, but should not be used to reject stale requests": the rest of the request counts anyhow.
func (s *session) answer(typ string, req *discovery.DeltaDiscoveryRequest) {
	r, ok := s.sent[req.GetResponseNonce()]
	if !ok || r.typ != typ {
		return
	}
	delete(s.sent, req.GetResponseNonce())
	d := req.GetErrorDetail()
	if d == nil {
		at := s.hub.now()
		for _, p := range s.inv.accept(typ, r.parcels) {
			s.hub.accepted(s, p, at)
		}
		return
	}
	why := s.hub.refusal(s.Node, d.GetMessage())
	s.hub.nacks[shortType(typ)]++
	s.hub.log.WithFields(logrus.Fields{"node": s.ID, "type": shortType(typ), "resources": len(r.parcels)}).Warn("Envoy refused an update: " + why)
	if p := s.inv.refuse(typ, r.parcels, s.hub.cat, s.hub.now()); p != nil {
		s.hub.refused(s, *p, why)
	}
}

// begin takes in what an Envoy says of a type for the first time on this stream: what it has, or that it is a
// new process. discovery.proto: initial_resource_versions "will not be populated in the very first stream of a
// session, since the client will not yet have any resources".
func (s *session) begin(typ string, brought map[string]string) {
	if typ == TypeCluster && len(brought) == 0 && !s.Diagnostic {
		s.hub.restarted(s.ID)
	}
	if typ == TypeCluster {
		s.hub.returns(s, brought)
	}
	if mayWildcard(typ) {
		s.asked += len(brought)
	}
	for name := range breathing(s.hub, maps.Keys(brought)) {
		r, version := Ref{typ, name}, brought[name]
		if typ == TypeRoute {
			version = s.hub.recall(name, version)
		}
		version = strings.Clone(version[:min(len(version), maxForeign)]) // of one that is not canaryd's as much is remembered
		res := s.hub.cat.known(r, version, &s.Node)
		if res.unknown && typ == TypeRoute {
			if part := s.gate().recognise(name, version); part != nil {
				res = part
			}
		}
		s.inv.present(r, res)
	}
	s.inv.stirAll()
}

func (s *session) subscribe(typ string, first bool, names []string, brought map[string]string) {
	wild := first && len(names) == 0 || slices.Contains(names, "*")
	if k := s.inv.kinds[typ]; wild && mayWildcard(typ) && !k.wildcard { // whoever has one already has been told everything, or will be
		all := s.hub.cat.all(typ)
		if !first {
			s.line.owes(len(all) * partBytes)
		}
		s.inv.wild(typ, all)
		s.hub.subscribeAll(s, typ)
	}
	for name := range breathing(s.hub, slices.Values(names)) {
		if name == "*" {
			continue
		}
		_, presented := brought[name]
		s.inv.subscribe(Ref{typ, name}, presented)
		s.hub.subscribe(s, Ref{typ, name})
		s.own.asks++
	}
}

func (s *session) unsubscribe(typ string, names []string) {
	for name := range breathing(s.hub, slices.Values(names)) {
		s.own.asks++
		if name == "*" {
			k, _ := s.inv.kind(typ)
			s.line.owes(k.size() * partBytes) // three bytes have the stream forget everything
			k.tame()
			delete(s.hub.wild[typ], s)
			s.keepWanted(typ) // names that were asked for stay
			continue
		}
		s.inv.unsubscribe(Ref{typ, name})
		s.hub.unsubscribe(s, Ref{typ, name})
		if typ == TypeRoute {
			s.hub.dropped(s, name)
		}
	}
}

func (s *session) keepWanted(typ string) {
	k, _ := s.inv.kind(typ)
	for name := range breathing(s.hub, k.names()) {
		s.inv.keep(Ref{typ, name})
	}
}

// remember takes over what the same process refused on an earlier stream.
func (s *session) remember(typ string) {
	k, _ := s.inv.kind(typ)
	for name := range breathing(s.hub, slices.Values(slices.AppendSeq(slices.Clone(k.fresh), maps.Keys(k.dirty.m)))) {
		r := Ref{typ, name}
		if res := s.hub.cat.visible(r, &s.Node); res != nil {
			if v := s.hub.remembers(s.Node, res); v != "" {
				s.inv.remember(r, v, s.hub.now())
			}
		}
	}
}

// next is the response that goes out next, and its nonce.
func (s *session) next() (r reply, nonce string, ok bool) {
	s.hub.enter()
	defer s.hub.exit()
	if s.more = false; s.taking {
		return r, "", false // it is poked afterwards
	}
	s.inv.wake(s.hub.now())
	defer func() {
		at, ok := s.inv.due()
		s.laterAgain(at.Sub(s.hub.now()), ok)
	}()
	for {
		if r, ok = s.gate().next(); !ok {
			return r, "", false
		}
		s.hub.sent(s, r)
		if r.silent {
			continue
		}
		s.more = s.inv.marked()
		s.nonce++
		nonce = strconv.FormatUint(s.nonce, 10)
		s.sent[nonce] = response{r.typ, r.parcels}
		return r, nonce, true
	}
}

func (s *session) gate() gate {
	return gate{inv: s.inv, cat: s.hub.cat, node: &s.Node, at: s.hub.now(), most: s.hub.most}
}

// laterAgain pokes it after some time, once, or not at all.
func (s *session) laterAgain(after time.Duration, ever bool) {
	if s.again != nil {
		s.again.Stop()
		s.again = nil
	}
	if ever {
		s.again = time.AfterFunc(after, s.poke)
	}
}

// poke has what is to be sent looked for, by a goroutine that ends with that: at rest, as nearly all streams are nearly always,
// a stream has one that reads, and the memory of one.
func (s *session) poke() {
	if s.pen.Swap(poked) == resting {
		go s.write()
	}
}

// beginWriting sends from now on, whenever it is poked.
func (s *session) beginWriting(out grpc.ServerStream) {
	s.out = out
	if !s.pen.CompareAndSwap(absent, resting) { // it was
		go s.write()
	}
}

// write sends until there is nothing left, or it fails.
func (s *session) write() {
	for {
		s.pen.Store(writing)
		if err := s.flush(); err != nil {
			s.failed.Store(&err) // with the pen in hand
			return
		}
		if s.pen.CompareAndSwap(writing, resting) {
			return
		}
	}
}

func (s *session) flush() error {
	for {
		r, nonce, ok := s.next()
		if !ok {
			s.line.arrived() // there is no answer to that
			return nil
		}
		if err := s.out.SendMsg(encode(r, nonce)); err != nil || !s.more {
			return err
		}
	}
}
