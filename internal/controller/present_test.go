package controller

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/canaryd/canaryd/internal/world"
)

// Who is asked in the loop whether a service is wanted sees all of it; only of what is wanted the memory is not used again.
func TestOnlyWhatIsWantedIsLent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all strings.Builder
		for _, name := range []string{"pay", "shop", "web"} {
			fmt.Fprintf(&all, "---\nservice: %s\nroute: {probe: \"off\", domains: [%s.example.com]}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n", name, name)
		}
		b := newBubble(t, all.String(), 0, world.Traffic{})
		b.inLoop(func() {
			for _, u := range b.daemon.units {
				u.lent = false
			}
			var asked int
			got, _, _ := b.daemon.some("", func(p *Present) bool {
				asked++
				s := p.Service()
				if s.Name != p.State.Policy.Service || s.State.Stable != "v1" {
					t.Errorf("asked about %s: %+v", p.State.Policy.Service, s)
				}
				return s.Name == "shop"
			})
			if asked != 3 || len(got) != 1 || got[0].Name != "shop" {
				t.Errorf("asked about %d: %+v", asked, got)
			}
			for name, u := range b.daemon.units {
				if u.lent != (name == "shop") {
					t.Errorf("%s is lent: %v", name, u.lent)
				}
			}
		})
	})
}
