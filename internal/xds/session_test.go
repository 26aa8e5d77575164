package xds

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// writers is how many goroutines write to a delta stream.
func writers() int {
	b := make([]byte, 1<<20)
	return strings.Count(string(b[:runtime.Stack(b, true)]), "xds.(*session).write(")
}

func TestAStreamAtRestHasNoWriter(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 1}))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	for g := uint64(2); g < 200; g++ { // also while the writer of the change before ends
		if g%50 == 0 {
			for deadline := time.Now().Add(10 * time.Second); writers() > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("somebody writes to a stream on which there is nothing to send")
				}
			}
		}
		publish(t, h, table(g, map[string]int{"v2": int(g)}))
		e.ack(e.expect(TypeRoute))
		inForce(t, h, g)
	}
}
