package world

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

func lags(t *testing.T, judge string) Lags {
	t.Helper()
	docs, fs := policy.Parse("test", []byte("service: shop\nramp: {steps: [50%, 100%], hold: 1h}\njudge: "+judge+"\n"))
	if len(fs.Errors()) > 0 {
		t.Fatal(fs)
	}
	return Lags{Policy: docs[0].Policy, PerSecond: 100, Errors: 0.001, Stable: 0.01, Canary: 0.01, Instances: Instances{Stable: 4, Canary: 3}, Past: time.Hour, Horizon: 10 * time.Minute, Batch: time.Second}
}

// What slow answers and requests that never end come to, of the same dice each time.
func TestLags(t *testing.T) {
	swift := lags(t, "{slow: {edges: [200ms], warm_up: 10s}}")
	slower := swift
	slower.Canary = 0.3
	hangs := lags(t, "{hang: 5s}")
	hangs.Hangs, hangs.Timeout = 2*time.Minute, 15*time.Second
	for name, c := range map[string]struct {
		lags  Lags
		phase rollout.Phase
		right func(Lag) bool
	}{
		"as swift": {swift, rollout.Canary, func(f Lag) bool { return f.Held == 0 && f.Cut == 0 && f.Hung == 0 }},
		"slower": {slower, rollout.Canary, func(f Lag) bool {
			return f.Held > 10*time.Second && f.Cut == 0 && len(f.Spells) > 0 && f.Held+f.Spells[0] <= 10*time.Minute
		}},
		"hangs": {hangs, rollout.Failed, func(f Lag) bool { // each of its 50 requests/s is open until the cut
			return f.Cut > 5*time.Second && f.Cut < 15*time.Second && f.Hung > 40*(f.Cut-time.Second).Seconds() && f.Hung < 60*(f.Cut+time.Second).Seconds()
		}},
	} {
		f := c.lags.Run(rand.New(rand.NewPCG(1, 2)))
		if f.Phase != c.phase || !c.right(f) {
			t.Errorf("%s: %+v", name, f)
		}
		if again := c.lags.Run(rand.New(rand.NewPCG(1, 2))); !reflect.DeepEqual(again, f) {
			t.Errorf("%s: %+v, and with the same dice %+v", name, f, again)
		}
	}
}
