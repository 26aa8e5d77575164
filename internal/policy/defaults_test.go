package policy

import (
	"reflect"
	"testing"
)

// Each pair says the same: once with merge keys and aliases, once in plain words.
func merges() [][2]string {
	return [][2]string{
		{"docker: {port: 1, <<: {keep: 0, stop_idle_after: 5m}}", "docker: {port: 1, keep: 0, stop_idle_after: 5m}"},
		{"docker: {port: 1, <<: {port: 2}}", "docker: {port: 1}"},
		{"<<: {docker: {port: 1, keep: 0}}", "docker: {port: 1, keep: 0}"},
		{"<<: {docker: {port: 1, keep: 0}}\ndocker: {port: 2}", "docker: {port: 2}"}, // merges are shallow
		{"route: {protocol: grpc, <<: {timeout: 5s}}", "route: {protocol: grpc, timeout: 5s}"},
		{"route: {timeout: 5s, <<: {protocol: grpc}}", "route: {protocol: grpc, timeout: 5s}"},
		{"route: {<<: {protocol: grpc}}", "route: {protocol: grpc}"},
		{"route: {protocol: grpc, timeout: null}", "route: {protocol: grpc}"},
		{"route: {protocol: grpc, timeout: 0s}", "route: {protocol: grpc}"},
		{"ramp: {per: user, <<: {hold: 5m}}\nroute: {<<: {user_key: {header: x}}}", "ramp: {per: user, hold: 5m}\nroute: {user_key: {header: x}}"},
		{"ramp: {<<: {per: user}}", "ramp: {per: user}\nroute: {user_key: {cookie: canaryd-user}}"},
		{"route: {<<: [{timeout: 1s}, {timeout: 2s, health_path: /up}], probe: \"off\"}", "route: {timeout: 1s, health_path: /up, probe: \"off\"}"},
		{"route: {health_check: &h {interval: 7s, <<: &more {healthy: 2}}}\n", "route: {health_check: {interval: 7s, healthy: 2}}"},
		{"ramp: {<<: &ramp {<<: &hold {hold: 7m}, canaries: 1}}\ndrain: &drain {at_most: 2d}\n<<: {drain: *drain}", "ramp: {hold: 7m, canaries: 1}\ndrain: {at_most: 2d}"},
		{"drain: &d {at_most: 2d}\n<<: [{after_promotion: {watch: &w 7m}}, {judge: {warm_up: *w}}]", "drain: {at_most: 2d}\nafter_promotion: {watch: 7m}\njudge: {warm_up: 7m}"},
		{"sessions: {cookie: c}", "sessions: {cookie: c, ttl: 30m}"},
		{"sessions: {<<: {cookie: c}}", "sessions: {cookie: c, ttl: 30m}"},
		{"route: {outlier: {}, health_check: {}}", "route: {outlier: {errors: 5, eject_for: 30s, at_most: 50%}, health_check: {interval: 5s, timeout: 1s, unhealthy: 3, healthy: 1}}"},
		{"route: {limits: {}}", "route: {limits: {connections: 20000, pending: 20000, requests: 4294967295, retries: 3}}"},
		{"route: {limits: {<<: {retries: 0}, requests: 7}}", "route: {limits: {connections: 20000, pending: 20000, requests: 7, retries: 0}}"},
		{"route: {outlier: {<<: {at_most: 0%}}}", "route: {outlier: {at_most: 0%}}"},
		{"docker: {port: 1}", "docker: {port: 1, replicas: 1, start_within: 2m, stop_idle_after: 1h, keep: 3}"},
		{"docker: {port: 1, env: &e {A: b}, labels: {<<: *e, C: d}}", "docker: {port: 1, env: {A: b}, labels: {A: b, C: d}}"},
	}
}

func TestMergedKeysAreWrittenKeys(t *testing.T) {
	for _, c := range merges() {
		var got [2]Policy
		for i, body := range c {
			docs, fs := Parse("f", []byte("service: shop\n"+body+"\n"))
			if len(fs) > 0 || len(docs) != 1 {
				t.Fatalf("%s\n%v", body, fs)
			}
			got[i] = docs[0].Policy
		}
		if !reflect.DeepEqual(got[0], got[1]) {
			t.Errorf("%s\nis not\n%s\n%s\n%s", c[0], c[1], jsonOf(t, got[0]), jsonOf(t, got[1]))
		}
	}
	docs, _ := Parse("f", []byte("service: shop\ndocker: {port: 1, <<: {keep: 0, stop_idle_after: 0s}}\nroute: {outlier: {at_most: 0%}}\n"))
	if p := docs[0].Policy; p.Docker.Keep != 0 || p.Docker.StopIdleAfter != 0 || p.Route.Outlier.AtMost != 0 {
		t.Errorf("a zero that was written is gone: %s", jsonOf(t, p))
	}
}

func TestAPositionIsWhereTheValueStands(t *testing.T) {
	docs, fs := Parse("f", []byte(`service: shop
<<: [{ramp: {hold: &h 2m}}, {ramp: {hold: 3m}}]
route:
  <<: &base
    timeout: 5s
    <<: {domains: [a.de, b.de], health_path: /up}
  max_stream_duration: *h
`))
	if len(fs) > 0 {
		t.Fatal(fs)
	}
	for path, want := range map[string][2]int{
		"service": {1, 10}, "ramp.hold": {2, 20}, "route.timeout": {5, 14}, "route.domains[1]": {6, 26}, "route.domains[7]": {6, 19},
		"route.max_stream_duration": {7, 24}, "route.nodes[0]": {4, 3}, "judge.budget": {1, 1}, "": {1, 1},
	} {
		if f := docs[0].Finding(path, ""); f.Line != want[0] || f.Column != want[1] {
			t.Errorf("%s is at %d:%d, want %v", path, f.Line, f.Column, want)
		}
	}
}
