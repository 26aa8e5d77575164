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
