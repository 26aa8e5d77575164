package web

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// registryEvents is what a Docker registry posts (its `notifications` endpoint): one event for each
// blob and manifest; of these a push of a tagged manifest is a release.
type registryEvents struct {
	Events []struct {
		Action string `json:"action"`
		Target struct {
			Repository string `json:"repository"`
			Tag        string `json:"tag"`
			Digest     string `json:"digest"`
		} `json:"target"`
		Request struct {
			Host string `json:"host"`
		} `json:"request"`
	} `json:"events"`
}

// Pushed is the answer to a registry: what was made of its events.
type Pushed struct {
	Deployed []Deployed `json:"deployed"`
	Ignored  int        `json:"ignored"` // events that are no release of any service
}

// Deployed is one release that a push announced, or why it was not.
type Deployed struct {
	Service string `json:"service"`
	Version string `json:"version"`
	Image   string `json:"image"`
	Known   bool   `json:"known,omitempty"` // nothing was started: it is known, and the image is no other, as far as that is known
	Refused string `json:"refused,omitempty"`
}

// pushed deploys what a registry says was pushed, where a policy's docker.tags wants it. A registry
// repeats a notification until it gets 2xx, so a refusal is answered with 2xx as well.
func (a *api) pushed(w http.ResponseWriter, r *http.Request) {
	if err := a.mayHook(r); err != nil {
		w.Header().Set("WWW-Authenticate", bearerRealm)
		a.refuse(w, r, err)
		return
	}
	var body registryEvents
	raw, err := readBody(w, r)
	if err == nil {
		if err = json.Unmarshal(raw, &body); err != nil {
			err = problem(http.StatusUnprocessableEntity, "the body is not a registry notification: "+err.Error())
		}
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	tagged, err := a.tagged(r.Context())
	if err != nil {
		a.fail(w, err)
		return
	}
	out := Pushed{Deployed: []Deployed{}}
	for _, e := range body.Events {
		found := false
		for _, p := range tagged {
			if e.Action != "push" || !wants(p.Docker, e.Target.Repository, e.Target.Tag) {
				continue
			}
			found = true
			d, err := a.deployPushed(r, p, rollout.Announced{Version: e.Target.Tag, Image: e.Target.Tag, Digest: e.Target.Digest, Once: true, By: strings.TrimSpace("registry " + plainName(e.Request.Host))})
			if err != nil { // the registry asks again
				a.fail(w, err)
				return
			}
			out.Deployed = append(out.Deployed, d)
		}
		if !found {
			out.Ignored++
		}
	}
	a.answer(w, http.StatusOK, out)
}

// tagged are the policies of services that deploy what is pushed.
func (a *api) tagged(ctx context.Context) (ps []*policy.Policy, err error) {
	for s, err := range a.Controller.Services(ctx, "", func(p *controller.Present) bool {
		return p.State.Policy.Docker != nil && p.State.Policy.Docker.Tags != ""
	}) {
		if err != nil {
			return nil, err
		}
		ps = append(ps, &s.State.Policy)
	}
	return ps, nil
}

func (a *api) mayHook(r *http.Request) error {
	want := ""
	if a.HookToken != nil {
		want = a.HookToken()
	}
	if want == "" {
		return problem(http.StatusForbidden, "no token is set for hooks: write `docker: {hook_token: …}` in canaryd.yml, and have the registry send it as `Authorization: Bearer …`")
	}
	token, _ := access.Bearer(r)
	if subtle.ConstantTimeCompare([]byte(token), []byte(want)) != 1 {
		return problem(http.StatusUnauthorized, "the hook's token is missing or wrong: send `Authorization: Bearer …`")
	}
	return nil
}

// wants reports whether a pushed tag is a release of a service. The registry's own name may differ from
// the one that the policy knows it by, so only the repository is compared.
func wants(d *policy.Docker, repository, tag string) bool {
	if d == nil || d.Tags == "" || tag == "" || d.Repository() != repository {
		return false
	}
	re, err := regexp.Compile("^(?:" + d.Tags + ")$") // as Prometheus' are; `check` has seen that it is one
	return err == nil && re.MatchString(tag)
}

// deployPushed returns an error where the same notification may have another answer later.
func (a *api) deployPushed(r *http.Request, p *policy.Policy, e rollout.Announced) (d Deployed, err error) {
	d = Deployed{Service: p.Service, Version: e.Version, Image: p.Docker.Reference(e.Image)}
	_, d.Known, err = a.Controller.Announce(r.Context(), p.Service, e)
	var refusal *rollout.Refusal
	if errors.As(err, &refusal) {
		d.Known, d.Refused = false, refusal.Message
		return d, nil
	}
	if err != nil {
		return d, fmt.Errorf("service %s, tag %s: %w", d.Service, e.Version, err)
	}
	return d, nil
}
