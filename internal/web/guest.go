package web

import (
	"net/http"
	"time"

	"github.com/canaryd/canaryd/internal/access"
)

// guest is a caller whose answer lasts. Who it is is asked again when who may do what changes, and it goes when what it showed
// has expired.
type guest struct {
	keeper  *access.Keeper
	r       *http.Request
	changed <-chan struct{}
	who     access.Caller
	lost    error // why it is not known any more
}

// guest asks anew who was let in: since then, that may have changed.
func (a *api) guest(r *http.Request) *guest {
	g := &guest{keeper: a.Access, r: r}
	g.ask()
	return g
}

// letIn is the same of an answer that is over at once for most callers: who it is has been asked a moment ago.
func (a *api) letIn(r *http.Request) *guest {
	return &guest{keeper: a.Access, r: r, changed: a.Access.Changed(), who: callerOf(r)}
}

// ask leaves somebody who is not known, or not any more, without a role.
func (g *guest) ask() {
	g.changed = g.keeper.Changed()
	if g.who, g.lost = g.keeper.Identify(g.r); g.lost != nil {
		g.who = access.Caller{}
	}
}

// known says why it is not known any more who the guest is, if so: the same request would be refused now.
func (g *guest) known() error {
	g.now()
	if g.lost == nil && g.expired() {
		return problem(http.StatusUnauthorized, "what you showed has expired meanwhile: show it anew")
	}
	return g.lost
}

func (g *guest) expired() bool { return !g.who.Until.IsZero() && !time.Now().Before(g.who.Until) }

// may reports whether the guest still has a role in a service.
func (g *guest) may(role access.Role, service string) bool { return g.now().May(role, service) }

// now is who the guest is at this moment; nobody once what it showed has expired.
func (g *guest) now() *access.Caller {
	select {
	case <-g.changed:
		g.ask()
	default:
	}
	if g.expired() {
		return &access.Caller{}
	}
	return &g.who
}
