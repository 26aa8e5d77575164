package xds

import "slices"

// Reports count only where an ADS stream of the same identity vouches for them: it says which clusters the
// node has.

// speaker is an ADS stream. It is asked with the hub's mutex held.
type speaker interface {
	// has reports whether the node has accepted a cluster.
	has(cluster string) bool
}

// speaks books a stream under the identity of its node.
func (h *Hub) speaks(id uint64, n Node, s speaker) {
	if n.Diagnostic {
		return
	}
	who := n.identity()
	if h.speakers[who] == nil {
		h.speakers[who] = map[uint64]speaker{}
	}
	h.speakers[who][id] = s
}

// falls ends that.
func (h *Hub) falls(id uint64, n Node) {
	who := n.identity()
	delete(h.speakers[who], id)
	if len(h.speakers[who]) == 0 {
		delete(h.speakers, who)
	}
}

// knows reports whether a node has an ADS stream.
func (h *Hub) knows(n Node) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.speakers[n.identity()]) > 0
}

// vouch returns those of some clusters that a node has accepted; false: the node has no ADS stream.
func (h *Hub) vouch(n Node, clusters []string) (has map[string]bool, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	speakers := h.speakers[n.identity()]
	has = map[string]bool{}
	for _, cluster := range clusters {
		if id, ok := ParseCluster(cluster); !ok || !n.sees(id.Service) {
			continue
		}
		for _, s := range speakers {
			if s.has(cluster) {
				has[cluster] = true
				break
			}
		}
	}
	return has, len(speakers) > 0
}

// mayHave reports whether a node may have a cluster, there being one or not. A node that does not say its
// group may be of any.
func (h *Hub) mayHave(n Node, cluster string) bool {
	id, _ := ParseCluster(cluster)
	s := h.services[id.Service]
	return n.sees(id.Service) && (s == nil || n.Cluster == "" || len(s.edition.route.Nodes) == 0 || slices.Contains(s.edition.route.Nodes, n.Cluster))
}

// asked are those of the clusters that are to be reported which a node may have.
func (h *Hub) asked(n Node, clusters []string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(clusters), func(c string) bool { return !h.mayHave(n, c) })
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
	m := s.force.streams[c.cl.id]
	_, there := s.edition.versions[id.Version]
	return there && m != nil && m.accepted.Version != ""
}

// refusal is what an Envoy says when it refuses something, as far as that is kept.
func (h *Hub) refusal(n Node, why string) string {
	if most := h.Admission.Limits.RefusalBytes; len(why) > most {
		h.refusals.count(overRefusal, n, "of a refusal of %d bytes the first %d are kept", len(why), most)
		why = bounded(why, most)
	}
	return bounded(why, len(why))
}
