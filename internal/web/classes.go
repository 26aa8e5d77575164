package web

import (
	"net/http"

	"github.com/canaryd/canaryd/internal/paths"
)

// classes answers with the classes that a service could have, by what its stable version serves.
func (a *api) classes(w http.ResponseWriter, r *http.Request) {
	s, err := a.Controller.Service(r.Context(), r.PathValue("service"))
	if err != nil {
		a.fail(w, err)
		return
	}
	p := paths.Proposal{Classes: []paths.Proposed{}}
	if a.Classes != nil {
		if p, err = a.Classes(r.Context(), &s.State.Policy, s.State.Stable); err != nil {
			a.fail(w, problem(http.StatusServiceUnavailable, err.Error()))
			return
		}
	}
	p.Service = s.State.Policy.Service
	a.answer(w, http.StatusOK, p)
}
