package rollout

import (
	"strings"
	"testing"
	"time"
)

// A version whose containers are stopped cannot be promoted once the policy says no longer how to start
// them: everything would go to nowhere. Where nothing is probed, nobody else would notice.
func TestWhatRunsNowhereIsNotPromoted(t *testing.T) {
	text := "route: {probe: \"off\"}\n" + seedV1
	r := newRun(t, text+"docker: {image: r/x, port: 80, stop_idle_after: 1h}\n")
	r.step(Announced{At: r.at, Version: "v2", Image: "r/x:v2", By: "ci"})
	r.step(Launched{At: r.at, Version: "v2", Attempt: 1, Endpoints: []string{"172.17.0.2:80"}, Image: true})
	r.step(Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"})
	r.at = r.at.Add(2 * time.Hour)
	r.step(Tick{At: r.at})
	r.policy(text)
	_, _, err := Step(r.s, Commanded{At: r.at, Verb: "promote", Version: "v2", Reachable: true, Knowing: true, By: "ann"})
	if err == nil || !strings.Contains(err.Error(), "runs nowhere") {
		t.Errorf("v2 at %v: %v", r.s.Version("v2").Endpoints, err)
	}
}

// A command without a version means the only canary; else it is refused, with what could be said.
func TestWhatACommandWithoutAVersionMeans(t *testing.T) {
	said := func(r *run, verb string) string {
		name, err := r.s.Only(verb)
		if err != nil {
			return err.Error()
		}
		return name
	}
	r := promoted(t, "after_promotion: {watch: 10m}\n")
	for verb, want := range map[string]string{
		"abort":   "service shop has no canary: name the version: `canaryd abort shop v2` sends everything to v1; `canaryd promote shop v1` sends everything to v1 (warm, at 10.0.0.1:80)",
		"promote": "service shop has no canary: name the version: `canaryd promote shop v1` sends everything to v1 (warm, at 10.0.0.1:80)",
		"pause":   "service shop has no canary to pause: `canaryd status shop` lists its versions",
	} {
		if got := said(r, verb); got != want {
			t.Errorf("%s without a canary: %s", verb, got)
		}
	}
	r.announce("v3", "10.0.0.3:80")
	for _, verb := range []string{"abort", "promote", "pause", "resume"} {
		if got := said(r, verb); got != "v3" {
			t.Errorf("%s with one canary: %s", verb, got)
		}
	}
	r.announce("v4", "10.0.0.4:80")
	r.step(Commanded{At: r.at, Verb: "pause", Version: "v3", By: "ann"})
	for verb, want := range map[string]string{
		"abort":   "service shop has several canaries: name the version: `canaryd abort shop v3` sends its 50% to v2; `canaryd abort shop v4` ends it (queued); `canaryd abort shop v2` sends everything to v1",
		"promote": "service shop has several canaries: name the version: `canaryd promote shop v3` sends everything to it (paused, 50% now); `canaryd promote shop v4` sends everything to it (queued, 0% now)",
		"pause":   "service shop has no canary to pause: `canaryd status shop` lists its versions",
		"resume":  "service shop has several canaries: name the version: `canaryd resume shop v3` lets it go on from 50%",
	} {
		if got := said(r, verb); got != want {
			t.Errorf("%s with two canaries: %s", verb, got)
		}
	}
}
