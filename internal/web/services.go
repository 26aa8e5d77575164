package web

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// mostServices are in one answer, unless a limit is named.
const mostServices = 500

// Services is the answer to GET /services.
type Services struct {
	Services []Service `json:"services"`
	Next     string    `json:"next,omitempty"` // send it as `after` for what follows
}

// selection is which services a caller wants to see.
type selection struct {
	limit        int
	after, match string
	live         bool // only those of which anything is to be seen
}

// selectionOf reads a query about services.
func selectionOf(r *http.Request) (selection, error) {
	limit, err := limitOf(r, mostServices)
	if err != nil {
		return selection{}, err
	}
	q := r.URL.Query()
	s := selection{limit: limit, after: q.Get("after"), match: q.Get("match")}
	if _, err := path.Match(s.match, ""); err != nil {
		return s, problem(http.StatusUnprocessableEntity, "match: "+s.match+" is not a valid glob: a [ without ], or a \\ at the end")
	}
	s.live, err = boolOf(q, "live")
	return s, err
}

// boolOf is a parameter that is true, false or absent.
func boolOf(q url.Values, name string) (bool, error) {
	switch v := q.Get(name); v {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, problem(http.StatusUnprocessableEntity, name+"="+v+": write true or false")
	}
}

// named reports whether a service's name is one of those wanted.
func (s *selection) named(state *rollout.State) bool {
	name := state.Policy.Service
	if strings.ContainsAny(s.match, `*?[\`) {
		return policy.Matches(s.match, name)
	}
	return strings.Contains(name, s.match)
}

func (a *api) services(w http.ResponseWriter, r *http.Request) {
	s, err := selectionOf(r)
	if err != nil {
		a.fail(w, err)
		return
	}
	who := callerOf(r)
	wanted := func(st *rollout.State) bool { return s.named(st) && who.May(access.View, st.Policy.Service) }
	out := Services{Services: []Service{}}
	for c, err := range a.Controller.Services(r.Context(), s.after, wanted) {
		if err != nil {
			a.fail(w, err)
			return
		}
		v := viewService(c)
		if s.live && !v.live() {
			continue
		}
		if len(out.Services) == s.limit {
			out.Next = out.Services[s.limit-1].Service
			break
		}
		out.Services = append(out.Services, v)
	}
	a.answer(w, http.StatusOK, out)
}

// live reports whether a service has more than a version that serves, and ones that have ended.
func (s *Service) live() bool {
	return len(s.Warnings) > 0 || slices.ContainsFunc(s.Versions, func(v Version) bool {
		return v.Phase.Waiting() || v.Phase.Reserve()
	})
}
