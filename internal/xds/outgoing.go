package xds

// Routes leave an Envoy after the listeners and scopes that lead to them. Whether one of those is still to be removed is asked for
// each removal of a route, also of one that never was, and an Envoy may have ten thousand scopes. So of these types is known what
// may be leaving: that is looked at, and nothing else.

// goesFirst reports whether resources of a type leave before routes do.
func goesFirst(typ string) bool { return typ == TypeListener || typ == TypeScope }

// mayLeave has something that the Envoy has looked at where it matters whether it is leaving.
func (k *kind) mayLeave(name string) {
	if k.leads {
		k.outgoing.put(name, struct{}{})
	}
}

// leaving is listenersLeave, asked once a pass: hundreds of routes may leave at once, where thousands of scopes do.
func (g gate) leaving() bool {
	if g.pass == nil {
		return g.listenersLeave()
	}
	if g.pass.asked == 0 {
		g.pass.asked++
		g.pass.leave = g.listenersLeave()
	}
	return g.pass.leave
}

// listenersLeave reports whether a listener or scope of this Envoy is still to be removed.
func (g gate) listenersLeave() bool {
	for _, typ := range []string{TypeListener, TypeScope} {
		k := g.inv.kinds[typ]
		if k == nil {
			continue
		}
		for name := range k.outgoing.m {
			if g.pass != nil {
				g.pass.looks++
			}
			if g.leaves(Ref{typ, name}) {
				return true
			}
			g.stays(k, Ref{typ, name})
		}
	}
	return false
}

// leaves reports whether this Envoy has something, or is about to, that is to be removed.
func (g gate) leaves(r Ref) bool {
	it := g.inv.item(r)
	return it != nil && it.serves(func(*Resource) bool { return true }) && g.cat.visible(r, g.node) == nil && !g.cat.holds(r)
}

// stays looks no more at what the Envoy does not have, or may have and is told of: it is marked when it is to be removed.
func (g gate) stays(k *kind, r Ref) {
	if _, outgoing := k.outgoing.m[r.Name]; outgoing && (!k.item(r.Name).served() || k.wants(r.Name) && g.cat.visible(r, g.node) != nil) {
		k.outgoing.drop(r.Name)
	}
}
