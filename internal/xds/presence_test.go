package xds

import (
	"fmt"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
)

// The log has who comes and who goes, not who merely connects again.
func TestWhoComesAndGoes(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	p := newPresence(log)
	now := time.Now()
	said := func(want ...string) {
		t.Helper()
		var got []string
		for _, e := range hook.AllEntries() {
			got = append(got, fmt.Sprint(e.Level, " ", e.Data["node"], " ", e.Message))
		}
		hook.Reset()
		ok := len(got) == len(want)
		for i := range min(len(got), len(want)) {
			ok = ok && strings.HasPrefix(got[i], want[i])
		}
		if !ok {
			t.Errorf("%q, want %q", got, want)
		}
	}
	edge, old := Node{ID: "edge-1", Build: "envoy 1.40.0", Version: [2]uint32{1, 40}}, Node{ID: "edge-2", Version: [2]uint32{1, 30}}
	p.comes(edge)
	p.comes(old)
	said("info edge-1 an Envoy connected", "warning edge-2 an Envoy connected that is older than 1.36")
	p.comes(edge) // the new connection before the old one ends
	p.leaves(edge, now)
	p.tick(now.Add(time.Hour))
	p.leaves(edge, now)
	p.tick(now.Add(goneFor - 1))
	p.comes(edge)
	p.tick(now.Add(time.Hour))
	said()
	p.leaves(edge, now)
	p.tick(now.Add(goneFor))
	p.tick(now.Add(time.Hour))
	said("info edge-1 an Envoy is gone since")
	p.comes(edge)
	said("info edge-1 an Envoy connected")
	p.comes(Node{ID: "dump", Diagnostic: true})
	p.leaves(Node{ID: "dump", Diagnostic: true}, now)
	p.comes(Node{})
	said()
	for i := range 10_000 {
		n := Node{ID: fmt.Sprint("invented-", i)}
		p.comes(n)
		p.leaves(n, now)
	}
	p.tick(now.Add(time.Hour))
	if lines := len(hook.AllEntries()); lines > 300 || len(p.here) != 2 || len(p.away) != 0 {
		t.Errorf("%d lines, %d here, %d away", lines, len(p.here), len(p.away))
	}
}
