package xds

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Of two live streams with one node.id the newer one speaks for the node: most likely the older one is a
// half-open connection of an Envoy that came back. If it speaks all the same, or outlives the transport's
// keepalive, there are two Envoys, and each is booked.
const (
	lastWords = 5 * time.Second // what was sent before the connection broke may be read so much later
	halfOpen  = time.Minute     // keepalive ends a dead connection after 40 s
)

// attach makes a stream the one that speaks for its node.
func (f *Force) attach(stream uint64, n Node, at time.Time) *member {
	if m := f.streams[stream]; m != nil {
		return m
	}
	m := f.seat(n.ID)
	if m != nil && m.stream < stream {
		if m.stream != 0 {
			f.doubt(*m)
		}
	} else { // a new node, or a stream that is older than the one which speaks
		m = &member{refusals: map[Ref]refusal{}, held: map[string]time.Duration{}, doubted: m != nil}
		f.nodes[n.ID] = append(f.nodes[n.ID], m)
	}
	if m.node.Build != n.Build { // another build may accept what this one refused
		clear(m.refusals)
	}
	m.node, m.stream, m.since, m.charged, m.asked = n, stream, at, at, false
	f.streams[stream] = m
	return m
}

// seat finds whom a new stream of a node continues: one that is gone, else the newest.
func (f *Force) seat(id string) *member {
	if i := slices.IndexFunc(f.nodes[id], func(m *member) bool { return m.stream == 0 }); i >= 0 {
		return f.nodes[id][i]
	}
	return f.newest(id)
}

func (f *Force) newest(id string) *member {
	var newest *member
	for _, m := range f.nodes[id] {
		if !m.doubted && m.stream != 0 && (newest == nil || m.stream > newest.stream) {
			newest = m
		}
	}
	return newest
}

// doubt keeps the older stream in the book, uncounted.
func (f *Force) doubt(old member) {
	old.doubted = true
	old.refusals, old.held = maps.Clone(old.refusals), maps.Clone(old.held)
	f.nodes[old.node.ID] = append(f.nodes[old.node.ID], &old)
	f.streams[old.stream] = &old
}

// believe counts an older stream after all, once it has shown that it lives.
func (f *Force) believe(m *member, at time.Time) {
	if !m.doubted {
		return
	}
	rival := f.newest(m.node.ID)
	if rival != nil && m.heard.Sub(rival.since) < lastWords && at.Sub(rival.since) < halfOpen {
		return
	}
	m.doubted = false
	if rival != nil {
		f.notes = append(f.notes, Note{m.node.ID, fmt.Sprintf("two Envoys have the node.id %s, at %s and %s: give each its own; they are booked apart",
			m.node.ID, m.node.Peer, rival.node.Peer)})
	}
	f.settle(m, at)
}
