package controller

import (
	"strings"
	"testing"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/canaryd/canaryd/internal/xds"
)

// However many services an Envoy has, and however often it comes back, the log says once that it loses load reports, and
// once more after an upgrade that does not mend it. With another source nothing is said, in `status` neither.
func TestLossyEnvoysAreLoggedOnce(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	c := &Controller{Options: Options{Log: log, Ask: func([]xds.Asked) {}}, warned: map[string]string{}}
	hear := func(service, build string) xds.Status {
		st := xds.Status{Service: service, Lossy: []xds.Lossy{{Node: "edge-1", Build: build}}}
		c.lossy(&st)
		return st
	}
	hear("shop", "envoy 1.37.0")
	hear("cart", "envoy 1.37.0")
	hear("shop", "envoy 1.38.3")
	st := hear("shop", "envoy 1.38.3")
	var lines []string
	for _, e := range hook.AllEntries() {
		lines = append(lines, e.Message)
	}
	if len(lines) != 2 || !strings.Contains(lines[0], "edge-1 (envoy 1.37.0) loses load reports") || !strings.Contains(lines[1], "1.38.3") || len(st.Lossy) != 1 {
		t.Errorf("%q, %+v", lines, st.Lossy)
	}
	hook.Reset()
	c.Ask = nil
	if st := hear("shop", "envoy 1.37.9"); len(st.Lossy) != 0 || len(hook.AllEntries()) != 0 {
		t.Errorf("%+v, %+v", st.Lossy, hook.AllEntries())
	}
}
