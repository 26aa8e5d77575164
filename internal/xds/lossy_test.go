package xds

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
)

func TestBootstrapsKnowTheirEnvoy(t *testing.T) {
	const flag = "envoy.reloadable_features.report_load_with_rq_issued: false"
	for version, want := range map[string]struct {
		flag         bool
		warning, err string
	}{
		"":        {},
		"1.36":    {flag: true},
		"1.36.4":  {flag: true},
		"v1.36":   {flag: true},
		"1.37.0":  {warning: "Envoy edge-1 (envoy 1.37.0) loses load reports, so failures may stay unseen: upgrade it to 1.39, or use source prometheus"},
		"1.38":    {warning: "loses load reports"},
		"1.39":    {},
		"1.40.0":  {},
		"2.0":     {},
		"1.35":    {err: "canaryd needs Envoy 1.36 or newer"},
		"0.99":    {err: "canaryd needs Envoy 1.36 or newer"},
		"1":       {err: "write it like 1.36"},
		"1.x":     {err: "write it like 1.36"},
		"1.2.3.4": {err: "write it like 1.36"},
	} {
		b := Bootstrap{XDS: "x:1", Admin: "a:2", NodeID: "edge-1", Cluster: "edge", EnvoyVersion: version}
		text, err := b.YAML()
		if want.err != "" {
			if err == nil || !strings.Contains(err.Error(), want.err) {
				t.Errorf("%q: %v", version, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", version, err)
		}
		if strings.Contains(text, flag) != want.flag || strings.Contains(text, "whole_reports: true") != want.flag {
			t.Errorf("%q:\n%s", version, text)
		}
		if w := b.Warning(); (w == "") != (want.warning == "") || !strings.Contains(w, want.warning) {
			t.Errorf("%q warns %q", version, w)
		}
	}
}

// Who is connected and loses load reports stands in the book, whatever else it has; who mended that does not.
func TestTheBookKnowsWhoLosesReports(t *testing.T) {
	f, epoch := NewForce("shop", ForgetAfter), time.Unix(1e9, 0)
	f.Want(Wanted{Generation: 1, Envoys: Content{Version: "t1"}}, epoch)
	var streams []*stream
	for i, n := range []Node{
		{ID: "old", Build: "envoy 1.36.4", Version: [2]uint32{1, 36}},
		{ID: "mended", Build: "envoy 1.36.4", Version: [2]uint32{1, 36}, Mended: true},
		{ID: "older", Build: "envoy 1.37.0", Version: [2]uint32{1, 37}, Mended: true}, // it was, before an upgrade
		{ID: "gone", Build: "envoy 1.38.3", Version: [2]uint32{1, 38}},
		{ID: "new", Build: "envoy 1.39.0", Version: [2]uint32{1, 39}},
		{ID: "grpc", Build: "gRPC Go 1.85.0", Client: true},
	} {
		streams = append(streams, &stream{Node: n, id: uint64(i + 1), since: epoch})
		f.Join(streams[i], Content{Version: "t1"}, epoch)
	}
	f.Leave(streams[3], epoch)
	var said []string
	for _, l := range f.Status("shop").Lossy {
		said = append(said, l.Warning())
	}
	want := []string{
		"Envoy old (envoy 1.36.4) loses load reports, so failures may stay unseen: give it the runtime flag that `canaryd bootstrap --envoy-version 1.36` prints, upgrade it to 1.39, or use source prometheus",
		"Envoy older (envoy 1.37.0) loses load reports, so failures may stay unseen: upgrade it to 1.39, or use source prometheus",
	}
	if strings.Join(said, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s", strings.Join(said, "\n"))
	}
}

func TestNodesSayThatTheyAreMended(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, nil))
	e := connect(t, dial(), "edge-1", 36)
	e.start("shop", "shop/v1")
	waitStatus(t, h, "it loses reports", func(s Status) bool { return len(s.Lossy) == 1 && s.Lossy[0].Mendable })
	mended := connect(t, dial(), "edge-2", 36)
	own, err := structpb.NewStruct(map[string]any{"canaryd": map[string]any{"whole_reports": true}})
	if err != nil {
		t.Fatal(err)
	}
	mended.node.Metadata = own
	mended.start("shop", "shop/v1")
	if s := waitStatus(t, h, "two have it", func(s Status) bool { return s.Counts.Applied == 2 }); len(s.Lossy) != 1 || s.Lossy[0].Node != "edge-1" {
		t.Errorf("%+v", s.Lossy)
	}
}
