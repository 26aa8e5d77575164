package controller

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/world"
)

// A reload of so many services that their writes take longer than a disk may hang has not failed while these land, whether the
// services change or lose their policies; two seconds after the last that landed it has.
func TestAReloadOfManyTakesAsLongAsWritesLand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perWrite = 200 * time.Millisecond
		b := newBubble(t, bubblePolicy, 0, world.Traffic{Service: "shop", PerSecond: 10, ErrorRate: steady(nil)})
		b.disk.set(perWrite, nil)
		took := func(policies string) (time.Duration, error) {
			b.write(policies)
			begun := time.Now()
			err := b.daemon.Reload(t.Context(), "test")
			return time.Since(begun), err
		}
		for _, c := range []struct{ what, policies string }{
			{"came", bubblePolicy + many(1000, "")}, {"changed", bubblePolicy + many(1000, "ramp: {hold: 7s}\n")}, {"lost their policies", bubblePolicy},
		} {
			if d, err := took(c.policies); err != nil || d < writeHangs+perWrite {
				t.Errorf("1000 services that %s: %v after %s", c.what, err, d)
			}
		}
		time.AfterFunc(time.Second, func() { b.freeze() })
		d, err := took(bubblePolicy + many(1000, "ramp: {hold: 8s}\n"))
		if b.unstored(err); d < writeHangs+time.Second-perWrite || d > writeHangs+time.Second+perWrite {
			t.Errorf("on a disk that hangs after a second: after %s", d)
		}
	})
}

// many are the policies of that many services, each with something more.
func many(n int, more string) string {
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "---\nservice: s%04d\nroute: {domains: [s%04d.example.com]}\n%s", i, i, more)
	}
	return all.String()
}
