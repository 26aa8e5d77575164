package docker

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/probe"
	"github.com/canaryd/canaryd/internal/rollout"
)

func at(ip string) *network.EndpointSettings {
	return &network.EndpointSettings{IPAddress: netip.MustParseAddr(ip)}
}

// Which of a container's addresses is taken does not depend on the order of a map.
func TestAddressOfAContainer(t *testing.T) {
	both := map[string]*network.EndpointSettings{"b": at("10.0.2.2"), "a": at("10.0.1.2"), "none": {}}
	six := map[string]*network.EndpointSettings{"six": {GlobalIPv6Address: netip.MustParseAddr("fd00::2")}}
	for _, c := range []struct {
		networks map[string]*network.EndpointSettings
		name     string
		want     string
	}{
		{both, "b", "10.0.2.2"}, {both, "", "10.0.1.2"}, {both, "other", "10.0.1.2"}, {six, "", "fd00::2"}, {nil, "", ""},
	} {
		for range 20 {
			got, ok := addressIn(c.networks, c.name)
			if ok != (c.want != "") || ok && got.String() != c.want {
				t.Fatalf("network %q: %s, want %q", c.name, got, c.want)
			}
		}
	}
}

func running(since time.Duration) container.InspectResponse {
	return container.InspectResponse{Name: "/c", State: &container.State{Running: true, Status: container.StateRunning, StartedAt: time.Now().Add(-since).Format(time.RFC3339Nano)},
		HostConfig: &container.HostConfig{NetworkMode: "host"}}
}

// When a container may get requests, when it may not yet, and when it never will.
func TestReadyOrNot(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	here := netip.MustParseAddrPort(l.Addr().String())
	t.Cleanup(func() { _ = l.Close() })
	stopped := running(time.Minute)
	stopped.State = &container.State{Status: container.StateRestarting}
	crashing := running(time.Minute)
	crashing.RestartCount = crashes
	sick := running(time.Minute)
	sick.State.Health = &container.Health{Status: container.Unhealthy, Log: []*container.HealthcheckResult{{ExitCode: 7, Output: "no database\n"}}}
	starting := running(time.Minute)
	starting.State.Health = &container.Health{Status: container.Starting}
	deaf := int(here.Port()) + 1
	for _, c := range []struct {
		name     string
		in       container.InspectResponse
		port     int
		launched bool
		told     []string
		note     string // empty: ready
		never    bool
	}{
		{name: "it answers", in: running(2 * time.Second)},
		{name: "it may end at once", in: running(time.Second / 2), note: "has just started"},
		{name: "it is restarted", in: stopped, note: "is restarting"},
		{name: "it ends again and again", in: crashing, note: "ended 3 times", never: true},
		{name: "it did so in a long life", in: crashing, launched: true},
		{name: "unhealthy from the first", in: sick, note: "exit code 7: no database", never: true},
		{name: "unhealthy later", in: sick, launched: true, note: "its health check says unhealthy"},
		{name: "not healthy yet", in: starting, note: "its health check says starting"},
		{name: "deaf, for a while", in: running(3 * time.Second), port: deaf, note: "does not answer"},
		{name: "deaf for too long", in: running(time.Minute), port: deaf, note: "does it listen on port", never: true},
		{name: "a new one of a version in service is deaf", in: running(time.Minute), port: deaf, launched: true, note: "does not answer"},
		{name: "deaf, and told before: its traffic judges it", in: running(time.Minute), port: deaf, launched: true, told: []string{netip.AddrPortFrom(here.Addr(), uint16(deaf)).String()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.port == 0 {
				c.port = int(here.Port())
			}
			want := Want{Probe: &probe.Probe{}, Container: rollout.Container{Launched: c.launched}, Spec: policy.Docker{Port: c.port, StartWithin: policy.Duration(10 * time.Second)}}
			endpoint, note, never, err := want.endpoint(context.Background(), c.in, c.told)
			if err != nil || never != c.never || (endpoint == "") != (c.note != "") || !strings.Contains(note, c.note) {
				t.Errorf("endpoint %q, note %q, never %v, %v", endpoint, note, never, err)
			}
		})
	}
}

// Of four containers two are too many.
func TestFewerReplicas(t *testing.T) {
	want := Want{Service: "shop", Container: rollout.Container{Version: "v1-2", Attempt: 3}, Spec: policy.Docker{Replicas: 2}}
	var cs []container.Summary
	for _, n := range []string{"/canaryd-shop.v1-2-3-0", "/canaryd-shop.v1-2-3-1", "/canaryd-shop.v1-2-3-2", "/canaryd-shop.v1-2-3-10"} {
		cs = append(cs, container.Summary{Names: []string{n}})
	}
	mine, surplus := want.split(cs)
	if len(mine) != 2 || len(surplus) != 2 || nameOf(surplus[0]) != "canaryd-shop.v1-2-3-2" {
		t.Errorf("mine %v, surplus %v", mine, surplus)
	}
}
