package xds

import (
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Reports count only where an ADS stream of the same identity vouches for them: it says which clusters the
// node has.

// speaker is an ADS stream. It is asked with the hub's mutex held.
type speaker interface {
	// has reports whether the node has accepted a cluster.
	has(cluster string) bool
}

// speaks books a stream under the identity of its node.
func (h *Hub) speaks(st *stream, s speaker) {
	if st.Diagnostic {
		return
	}
	who := st.identity()
	if h.speakers[who] == nil {
		h.speakers[who] = map[uint64]speaker{}
	}
	h.speakers[who][st.id] = s
	if rs := h.reporters[who]; rs != nil {
		rs.vouch(true)
		rs.again() // a gRPC client need not ask for anything
	}
}

// falls ends that.
func (h *Hub) falls(st *stream) {
	who := st.identity()
	delete(h.speakers[who], st.id)
	if len(h.speakers[who]) > 0 {
		return
	}
	delete(h.speakers, who)
	if rs := h.reporters[who]; rs != nil {
		rs.vouch(false)
	}
}

// voucher is what the ADS streams of whoever reports say of it.
type voucher struct {
	has    map[string]bool   // whether it has accepted the clusters that were asked for
	served map[string]Served // by service, where that is known
}

// Served is what an Envoy serves of a service, and since when: what it counted before is about something else.
type Served struct {
	Slots []rollout.Run
	Since time.Time
}

// vouch looks at some clusters, sorted by name and each there once; false: the node has no ADS stream, or has lost the last one meanwhile.
// An Envoy may report twenty thousand, which takes 15 ms. So the mutex is let go of in between, but hardly ever among the clusters of one
// service: what they counted is compared.
func (h *Hub) vouch(n Node, clusters []string) (voucher, bool) {
	return h.vouchWith(&breaks{mu: door{h}}, n, clusters)
}

func (h *Hub) vouchWith(b *breaks, n Node, clusters []string) (v voucher, known bool) {
	v = voucher{make(map[string]bool, len(clusters)), map[string]Served{}}
	for _, name := range clusters {
		v.has[name] = false
	}
	groups := n.byService(clusters)
	b.mu.Lock()
	defer b.mu.Unlock()
	w := h.witnessesOf(n)
	if len(w.speakers) == 0 {
		return v, false
	}
	for _, g := range groups {
		for part := range slices.Chunk(g.clusters, w.portion()) {
			if b.looks((len(part)+1)*len(w.speakers)) && !w.again(h, n) {
				return v, false
			}
			for _, name := range part {
				v.has[name] = w.have(name)
			}
		}
		w.serve(h, g.service, v.served) // last: were it to change among its clusters, it is so since later than they were counted
	}
	return v, true
}

// ofService are clusters of one service.
type ofService struct {
	service  string
	clusters []string
}

// byService puts clusters together that are sorted by name. Those of services that a node may not see are left out.
func (n Node) byService(clusters []string) (groups []ofService) {
	for from, to := 0, 0; from < len(clusters); from = to {
		id, ok := ParseCluster(clusters[from])
		for to = from + 1; ok && to < len(clusters) && strings.HasPrefix(clusters[to], clusters[from][:len(id.Service)+1]); {
			to++
		}
		if ok && n.sees(id.Service) {
			groups = append(groups, ofService{id.Service, clusters[from:to]})
		}
	}
	return groups
}

// witnesses are the ADS streams that are asked, until the mutex is let go of.
type witnesses struct {
	speakers map[uint64]speaker
	streams  []*stream
}

func (h *Hub) witnessesOf(n Node) (w witnesses) {
	w.speakers = h.speakersOf(n)
	for id := range w.speakers {
		w.streams = append(w.streams, h.peers[id])
	}
	return w
}

// again finds out who they are now; false: nobody is left.
func (w *witnesses) again(h *Hub, n Node) bool {
	*w = h.witnessesOf(n)
	return len(w.speakers) > 0
}

// portion is of how many clusters all of them are asked at a time.
func (w *witnesses) portion() int { return max(1, toldAtOnce/len(w.speakers)) }

// have reports whether one of them has accepted a cluster.
func (w *witnesses) have(cluster string) bool {
	for _, s := range w.speakers {
		if s.has(cluster) {
			return true
		}
	}
	return false
}

// serve notes what they serve of a service, where that is known.
func (w *witnesses) serve(h *Hub, service string, in map[string]Served) {
	if svc := h.services[service]; svc != nil {
		if served, ok := svc.force.Served(w.streams); ok {
			in[service] = served
		}
	}
}

// speakersOf are the ADS streams of the Envoy that a stream of reports comes from. Envoy has one connection for both,
// which tells two with one node.id apart; behind a proxy that is not so, and all of the identity are asked.
func (h *Hub) speakersOf(n Node) map[uint64]speaker {
	all, own := h.speakers[n.identity()], map[uint64]speaker{}
	for id, s := range all {
		if h.peers[id].line == n.line {
			own[id] = s
		}
	}
	if len(own) > 0 {
		return own
	}
	return all
}

// has implements speaker. A cluster that came from elsewhere than from here is had by whose route names it.
func (s *session) has(cluster string) bool {
	if s.inv.kinds[TypeCluster] != nil {
		it := s.inv.item(Ref{TypeCluster, cluster})
		return it != nil && (it.acked != nil || it.perhaps != nil)
	}
	id, _ := ParseCluster(cluster)
	it := s.inv.item(Ref{TypeRoute, id.Service})
	return it != nil && (it.acked != nil && it.acked.names(id) || it.perhaps != nil && it.perhaps.names(id))
}

// clientSpeaker is a gRPC client without a proxy. go-control-plane keeps its clusters; its route names them.
type clientSpeaker struct {
	hub *Hub
	cl  *client
}

func (c clientSpeaker) has(cluster string) bool {
	id, _ := ParseCluster(cluster)
	s := c.hub.services[id.Service]
	if s == nil {
		return false
	}
	m := s.force.find(c.cl.stream)
	_, there := s.edition.versions[id.Version]
	return there && m != nil && s.force.has(m).Version != ""
}

// refusal is what an Envoy says when it refuses something, as far as that is kept.
func (h *Hub) refusal(n Node, why string) string {
	if most := h.Admission.Limits.RefusalBytes; len(why) > most {
		h.refusals.count(overRefusal, n, "a refusal of %d bytes is cut to %d", len(why), most)
		why = bounded(why, most)
	}
	return bounded(why, len(why))
}
