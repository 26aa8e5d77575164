package docker

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/canaryd/canaryd/internal/policy"
)

// What may run, and what may be mounted.
func TestBounds(t *testing.T) {
	for _, c := range []struct {
		allow, volumes string
		image, want    string // docker.image of the policy, and what is to run
		mounts         string
		refused        string
	}{
		{image: "r.example/shop", want: "r.example/shop:v2"},
		{image: "r.example/shop", want: "r.example/shop@sha256:" + strings.Repeat("a", 64)},
		{image: "r.example/shop", want: "evil.example/miner:v2", refused: "image evil.example/miner:v2 may not run here, only r.example/shop may: docker.allow in canaryd.yml"},
		{image: "r.example/shop", want: "r.example/shop2:v2", refused: "may not run"},
		{image: "r.example/shop", want: "r.example:80/shop:v2", refused: "may not run"},
		{image: "shop", want: "docker.io/library/shop:v2"},
		{image: "shop", want: "docker.io/evil/shop:v2", refused: "may not run"},
		{image: "r.example/shop", want: "r.example/Shop", refused: "is not an image"},
		{want: "r.example/shop:v2", refused: "only the repository of docker.image in the policy may"},
		{allow: "r.example/shop*", image: "r.example/shop", want: "r.example/shop-admin:v2"},
		{allow: "r.example/shop*", image: "r.example/pay", want: "r.example/pay:v2", refused: "only r.example/shop* may"},
		{allow: "r.example/*", want: "r.example/a/b:1", refused: "may not run"}, // a star stops at a slash
		{allow: "shop", want: "shop:1"},
		{allow: "docker.io/library/shop", want: "shop:1"},
		{image: "s", want: "s:1", mounts: "/srv/shop:/data", refused: `volume "/srv/shop" may not be mounted: list its directory or its name in docker.volumes`},
		{volumes: "/srv/shop", image: "s", want: "s:1", mounts: "/srv/shop:/data:ro"},
		{volumes: "/srv/shop/", image: "s", want: "s:1", mounts: "/srv/shop/a:/data"},
		{volumes: "/srv/shop", image: "s", want: "s:1", mounts: "/srv/shop2:/data", refused: "may not be mounted"},
		{volumes: "/srv/shop", image: "s", want: "s:1", mounts: "/srv/shop/../../etc:/data", refused: "may not be mounted"},
		{volumes: "/srv/shop", image: "s", want: "s:1", mounts: "/:/data", refused: "may not be mounted"},
		{volumes: "/", image: "s", want: "s:1", mounts: "/etc:/data"},
		{volumes: "cache*", image: "s", want: "s:1", mounts: "cache-shop:/data"},
		{volumes: "*", image: "s", want: "s:1", mounts: "./etc:/data", refused: "may not be mounted"},
		{volumes: "*", image: "s", want: "s:1", mounts: "/etc:/data", refused: "may not be mounted"},
		{volumes: "cache", image: "s", want: "s:1", mounts: "/var/run/docker.sock:/var/run/docker.sock", refused: "may not be mounted"},
	} {
		b := Bounds{Allow: strings.Fields(c.allow), Volumes: strings.Fields(c.volumes)}
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		err := b.Refuse(&policy.Docker{Image: c.image, Port: 80, Volumes: strings.Fields(c.mounts)}, c.want)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, b := range []Bounds{{Allow: []string{"["}}, {Allow: []string{""}}, {Allow: []string{"r.example/shop:v1"}}, {Volumes: []string{"["}}} {
		if b.Check() == nil {
			t.Errorf("%+v passes", b)
		}
	}
}

// A container has no rights but what its policy says.
func TestContainersAreConfined(t *testing.T) {
	h := hostConfigOf(policy.Docker{Port: 80})
	if len(h.SecurityOpt) != 1 || h.SecurityOpt[0] != "no-new-privileges:true" || len(h.CapDrop) != 1 || h.CapDrop[0] != "ALL" || h.CapAdd != nil || h.Privileged || h.ReadonlyRootfs || h.Binds != nil {
		t.Errorf("%+v", h)
	}
	h = hostConfigOf(policy.Docker{Port: 80, NewPrivileges: true, Capabilities: []string{"NET_BIND_SERVICE"}, ReadOnly: true})
	if h.SecurityOpt != nil || h.CapAdd[0] != "NET_BIND_SERVICE" || !h.ReadonlyRootfs {
		t.Errorf("%+v", h)
	}
}

// Of the containers that others labelled as one version only those of the first one's image are.
func TestOneVersionIsOneImage(t *testing.T) {
	labels := map[string]string{LabelService: "shop", LabelVersion: "v1", LabelPort: "80"}
	on := func(image string, created int64, host string) container.Summary {
		c := container.Summary{ImageID: image, Created: created, Labels: labels, State: container.StateRunning}
		c.NetworkSettings = &container.NetworkSettingsSummary{Networks: networksAt(host)}
		return c
	}
	got := labelled([]container.Summary{on("sha256:evil", 30, "10.0.0.66"), on("sha256:good", 20, "10.0.0.3"), on("sha256:good", 10, "10.0.0.2")})
	if len(got) != 1 || got[0].Image != "sha256:good" || strings.Join(got[0].Endpoints, " ") != "10.0.0.2:80 10.0.0.3:80" {
		t.Errorf("%+v", got)
	}
}

func networksAt(host string) map[string]*network.EndpointSettings {
	return map[string]*network.EndpointSettings{"net": at(host)}
}
