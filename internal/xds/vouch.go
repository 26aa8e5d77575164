package xds

import (
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
	has    map[string]bool   // clusters that it has accepted
	served map[string]Served // by service, where that is known
}

// Served is what an Envoy serves of a service, and since when: what it counted before is about something else.
type Served struct {
	Slots []rollout.Run
	Since time.Time
}

// vouch looks at some clusters; false: the node has no ADS stream.
func (h *Hub) vouch(n Node, clusters []string) (voucher, bool) {
	h.enter()
	defer h.exit()
	speakers := h.speakersOf(n)
	var streams []*stream
	for id := range speakers {
		streams = append(streams, h.peers[id])
	}
	v := voucher{map[string]bool{}, map[string]Served{}}
	for _, cluster := range clusters {
		id, ok := ParseCluster(cluster)
		if !ok || !n.sees(id.Service) {
			continue
		}
		for _, s := range speakers {
			v.has[cluster] = v.has[cluster] || s.has(cluster)
		}
		svc := h.services[id.Service]
		if _, looked := v.served[id.Service]; looked || svc == nil {
			continue
		}
		if served, ok := svc.force.Served(streams); ok {
			v.served[id.Service] = served
		}
	}
	return v, len(speakers) > 0
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
