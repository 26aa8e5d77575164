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
func (f *Force) attach(s *stream, at time.Time) *member {
	if m := f.find(s); m != nil {
		return f.stir(m)
	}
	m := f.seat(s.ID)
	if m != nil && (m.isGone() || m.who.id < s.id) {
		if f.charge(f.stir(m), at); !m.gone {
			f.doubt(*m)
		}
	} else { // a new node, or a stream that is older than the one which speaks
		m = f.add(&member{who: s, unrest: &unrest{accepted: &Content{}, doubted: m != nil, charged: at}})
	}
	if m.who.Build != s.Build { // another build may accept what this one refused
		clear(m.refusals)
	}
	if m.who != s {
		m.heard = f.lastHeard(m) // on the stream before
	}
	m.who, m.gone, m.asked = s, false, false
	s.odd = s.odd || m.doubted || m.silent
	s.books = append(s.books, f)
	return m
}

// seat finds whom a new stream of a node continues: one that is gone, else the newest.
func (f *Force) seat(id string) *member {
	all := f.of(id)
	if i := slices.IndexFunc(all, (*member).isGone); i >= 0 {
		return all[i]
	}
	return newest(all)
}

func newest(of []*member) (newest *member) {
	for _, m := range of {
		if !m.isDoubted() && !m.isGone() && (newest == nil || m.who.id > newest.who.id) {
			newest = m
		}
	}
	return newest
}

// doubt keeps the older stream in the book, uncounted.
func (f *Force) doubt(old member) {
	own := *old.unrest
	old.who.odd = true
	own.doubted, own.refusals, own.held = true, maps.Clone(own.refusals), maps.Clone(own.held)
	old.unrest = &own
	f.add(&old)
}

// believe counts an older stream after all, once it has shown that it lives.
func (f *Force) believe(m *member, at time.Time) {
	if !m.doubted {
		return
	}
	rival := newest(f.of(m.who.ID))
	if rival != nil && f.about(m.heard).Sub(rival.since()) < lastWords && at.Sub(rival.since()) < halfOpen {
		return
	}
	m.doubted = false
	if rival != nil {
		f.notes = append(f.notes, Note{m.who.ID, fmt.Sprintf("two Envoys have the node.id %s, at %s and %s: give each its own; they are booked apart",
			m.who.ID, m.who.Peer, rival.who.Peer)})
	}
	f.settle(m, at)
}
