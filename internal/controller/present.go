package controller

import (
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Present is a service as the loop has it at this moment, for who is asked in the loop whether it is wanted. Nothing of it may be
// kept: of a service that is not wanted nothing is copied, and its memory is used again.
type Present struct {
	State *rollout.State // of one that cannot be read only the name is known

	c    *Controller
	u    *unit // nil: it cannot be read
	seen Service
}

// Service is what a snapshot would say.
func (p *Present) Service() *Service {
	if p.u == nil {
		p.seen = p.c.unread(p.State.Policy.Service)
	} else {
		p.seen = p.c.see(p.u)
	}
	return &p.seen
}

func (p *Present) of(u *unit) *Present {
	p.u, p.State = u, &u.state
	return p
}

func (p *Present) unread(name string) *Present {
	p.u, p.State = nil, &rollout.State{Policy: policy.Policy{Service: name}}
	return p
}
