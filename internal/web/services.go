package web

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	mostServices = 500 // in one answer, unless a limit is named
	longestMatch = 256 // bytes: a name has 63, and the loop compares the names of all services with it
)

// Services is the answer to GET /services.
type Services struct {
	Services []Service `json:"services"`
	Next     string    `json:"next,omitempty"` // send it as `after` for what follows
}

// selection is which services a caller wants to see.
type selection struct {
	limit        int
	after, match string
	glob         bool // match is one
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
	if len(s.match) > longestMatch {
		return s, problem(http.StatusUnprocessableEntity, fmt.Sprintf("match has %d bytes, and %d are the most: the name of a service has 63; write what the names that you want have in common, or ask several times", len(s.match), longestMatch))
	}
	s.glob = strings.ContainsAny(s.match, `*?[\`)
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

// wants reports whether a service is one of those. The loop waits for it meanwhile, and asks it about all services: what costs most
// comes last.
func (s *selection) wants(p *controller.Present, who *access.Caller) bool {
	name := p.State.Policy.Service
	return s.named(name) && who.May(access.View, name) && (!s.live || live(p.Service()))
}

// named reports whether a service's name is one of those wanted.
func (s *selection) named(name string) bool {
	if s.glob {
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
	out := list{w: w, key: "services"}
	next, err := a.listServices(r, &s, &out)
	a.ends(&out, next, err)
}

// listServices sends those that are selected, and returns the last of them where more follow. A client that reads slowly is sent
// what it may see when that is looked at.
func (a *api) listServices(r *http.Request, s *selection, out *list) (next string, err error) {
	who, g, last := callerOf(r), a.letIn(r), ""
	for c, err := range a.Controller.Services(r.Context(), s.after, func(p *controller.Present) bool { return s.wants(p, &who) }) {
		switch err := cmp.Or(err, g.known()); {
		case err != nil:
			return "", err
		case !g.may(access.View, c.Name):
			continue
		case out.n == s.limit:
			return last, nil
		}
		if err := out.add(viewService(c)); err != nil {
			return "", err
		}
		last = c.Name
	}
	return "", nil
}

// live reports whether a service has more than a version that serves, and ones that have ended. It makes no text: the loop asks.
func live(c *controller.Service) bool {
	return slices.ContainsFunc(c.State.Versions, func(v *rollout.Version) bool { return v.Phase.Waiting() || v.Phase.Reserve() }) || warned(c)
}

// warned reports whether there are warnings of a service with nothing under test.
func warned(c *controller.Service) bool {
	return cmp.Or(c.Unreadable, c.Defect, c.Storing, c.Publishing, c.Policies) != nil || c.State.Orphaned || c.Conflict != "" ||
		len(c.Doubts)+len(c.Fleet.Lossy) > 0 || slices.ContainsFunc(c.Dropped, lately) || fleetWarned(c)
}
