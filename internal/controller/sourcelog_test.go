package controller

import (
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/rollout"
)

// The log says once that the source does not answer, and once that it does again; services at rest ask for nothing.
func TestTheSourceIsAwayAndBack(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	c := &Controller{Options: Options{Log: log}, busy: map[string]*unit{"shop": {}, "pay": {}}}
	away := func(service string) metrics.Evidence {
		return metrics.Evidence{Service: service, Missing: &rollout.Missing{Code: analysis.SourceUnreachable, Reason: "connection refused"}}
	}
	here := func(service string) metrics.Evidence {
		return metrics.Evidence{Service: service, Missing: &rollout.Missing{Code: analysis.NoTraffic}}
	}
	now := time.Now()
	for _, step := range []struct {
		after time.Duration
		evs   []metrics.Evidence
		says  string
	}{
		{0, []metrics.Evidence{here("shop"), here("pay")}, ""},
		{time.Hour, []metrics.Evidence{away("resting")}, ""},
		{time.Hour, []metrics.Evidence{away("shop"), here("pay")}, ""}, // it answers somebody
		{time.Second, []metrics.Evidence{away("shop"), away("pay")}, ""},
		{sourceLate - 1, []metrics.Evidence{away("shop")}, ""},
		{1, []metrics.Evidence{away("shop")}, "does not answer"},
		{time.Hour, []metrics.Evidence{away("shop")}, ""},
		{time.Hour, nil, ""},
		{time.Second, []metrics.Evidence{here("shop")}, "answers again"},
		{time.Second, []metrics.Evidence{{Service: "shop"}}, ""},
		{time.Second, []metrics.Evidence{away("shop")}, ""}, // for a moment
		{time.Second, []metrics.Evidence{here("shop")}, ""},
	} {
		now = now.Add(step.after)
		c.tellSource(now, step.evs)
		said := ""
		for _, e := range hook.AllEntries() {
			said += e.Message
		}
		if hook.Reset(); (said == "") != (step.says == "") || !strings.Contains(said, step.says) {
			t.Errorf("%v: %q, want %q", step.evs, said, step.says)
		}
	}
}
