package controller

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/registry"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/world"
)

const (
	manyServices = 3 * pieceMost
	manyFindings = 2 * manyServices
)

// manyFound is a loop that stands still, with services that know what an origin names of them.
func manyFound() (*Controller, registry.Set) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	c := &Controller{Options: Options{Log: log}, backlog: newBacklog(), findings: newFindings(), units: map[string]*unit{}}
	set := registry.Set{Origin: "registry"}
	for i := range manyServices {
		u := newUnit(rollout.State{})
		u.state.Policy.Service = fmt.Sprintf("shop-%03d", i)
		c.units[u.state.Policy.Service] = u
		for _, v := range []string{"v1", "v2"} {
			u.state.Versions = append(u.state.Versions, &rollout.Version{Name: v, Phase: rollout.Stable, Endpoints: []string{"10.0.0.1:80"}})
			set.Versions = append(set.Versions, registry.Version{Service: u.state.Policy.Service, Version: v, Endpoints: []string{"10.0.0.1:80"}})
		}
	}
	c.backlog.namings = append(c.backlog.namings, &naming{Set: set})
	c.workOff()
	return c, set
}

// queued goes through a set and says which findings are to be looked at.
func (c *Controller) queued(set registry.Set) (names []string) {
	for c.backlog.namings = append(c.backlog.namings, &naming{Set: set}); len(c.backlog.namings) > 0; {
		c.nameSome()
	}
	for _, f := range c.backlog.findings {
		names = append(names, f.service+"/"+f.version)
	}
	return names
}

func (c *Controller) workOff() {
	for len(c.backlog.namings)+len(c.backlog.findings) > 0 {
		c.nameSome()
		c.useSome()
	}
}

// One container of thousands is another one, is gone, or has come: nobody else's is looked at.
func TestAChangeOfOneIsNoWorkForAll(t *testing.T) {
	c, set := manyFound()
	if got := c.queued(set); len(got) != 0 || len(c.findings.byOrigin[set.Origin]) != manyFindings {
		t.Errorf("nothing changed, and %d of %d are looked at", len(got), len(c.findings.byOrigin[set.Origin]))
	}
	set.Versions = slices.Clone(set.Versions)
	set.Versions[5].Endpoints = []string{"10.0.0.2:80"}
	if got := c.queued(set); !slices.Equal(got, []string{"shop-002/v2"}) {
		t.Errorf("one moved, and looked at are %q", got)
	}
	if got := c.queued(set); len(got) != 1 {
		t.Errorf("it is named again, and looked at are %q", got)
	}
	c.units["shop-002"].state.Versions[1].Endpoints = []string{"10.0.0.2:80"} // somebody announced it
	c.workOff()
	set.Versions = slices.Delete(set.Versions, 5, 6)
	if got := c.queued(set); len(got) != 0 || len(c.findings.byService["shop-002"]) != 1 {
		t.Errorf("one is gone: looked at are %q, %d are left", got, len(c.findings.byService["shop-002"]))
	}
	set.Versions = slices.Insert(set.Versions, 0, registry.Version{Service: "cart", Version: "v1", Endpoints: []string{"10.0.0.1:80"}})
	if got := c.queued(set); !slices.Equal(got, []string{"cart/v1"}) {
		t.Errorf("one came, and looked at are %q", got)
	}
	c.workOff()
	if got := c.queued(set); len(got) != 0 || c.findings.byService["cart"][0].why == "" {
		t.Errorf("it has no policy, and looked at are %q", got)
	}
	c.units["shop-007"].state.Versions[0].Endpoints = []string{"10.0.0.9:80"} // a person says something else than is found
	if got := c.queued(set); !slices.Equal(got, []string{"shop-007/v1"}) {
		t.Errorf("a person moved one, and looked at are %q", got)
	}
}

// A set may come in any order, and name a version twice.
func TestASetIsPutInOrder(t *testing.T) {
	v := func(service, version, endpoint string) registry.Version {
		return registry.Version{Service: service, Version: version, Endpoints: []string{endpoint}}
	}
	said := []registry.Version{v("shop", "v2", "a"), v("shop", "v1", "b"), v("cart", "v1", "c"), v("shop", "v2", "d")}
	var got []string
	for _, x := range inOrder(said) {
		got = append(got, x.Service+x.Version+x.Endpoints[0])
	}
	if want := []string{"cartv1c", "shopv1b", "shopv2d"}; !slices.Equal(got, want) || said[0].Version != "v2" {
		t.Errorf("in order: %q, want %q", got, want)
	}
}

// Many services are removed in one write: what is found of these is looked at, once, and of nobody else.
func TestManyRemovalsLookAtTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text, set := "", registry.Set{Origin: "registry"}
		for i := range manyServices {
			text += fmt.Sprintf("---\nservice: s%03d\nroute: {probe: \"off\"}\n", i)
			set.Versions = append(set.Versions, registry.Version{Service: fmt.Sprintf("s%03d", i), Version: "v1", Endpoints: []string{"10.0.0.1:80"}})
		}
		f := &finders{bubble: newBubble(t, text, 0, world.Traffic{})}
		f.daemon.Found(t.Context())(set)
		time.Sleep(10 * time.Second)
		f.inLoop(func() {
			c := f.daemon
			var jobs []job
			for i := range pieceMost {
				u := c.units[fmt.Sprintf("s%03d", i)]
				c.set.place = map[string]int{} // no policy is there any more
				jobs = append(jobs, c.leaves(job{u: u, decision: u.outbox.decided, remove: true, state: u.lend(), write: store.Write{Service: u.state.Policy.Service}}))
			}
			c.backlog.stored = jobs
			most := 0
			for pieces := 0; len(c.backlog.stored) > 0 && pieces < pieceMost; pieces++ {
				c.durable(time.Now())
				most = max(most, len(c.backlog.findings))
			}
			if most != pieceMost || len(c.units) != manyServices-pieceMost {
				t.Errorf("%d services are removed, and %d findings are looked at", manyServices-len(c.units), most)
			}
		})
		time.Sleep(time.Second)
		f.inLoop(func() {
			if n := len(f.daemon.findings.outstanding); n != pieceMost {
				t.Errorf("%d findings wait for a policy, of %d removed services", n, pieceMost)
			}
		})
		if err := f.daemon.Reload(t.Context(), "ann"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		f.inLoop(func() {
			for name, u := range f.daemon.units {
				if u.state.Version("v1") == nil {
					t.Errorf("%s is back, and what was found of it is not used", name)
				}
			}
			if n := len(f.daemon.units); n != manyServices || len(f.daemon.findings.outstanding) != 0 {
				t.Errorf("%d services, %d of them wait", n, len(f.daemon.findings.outstanding))
			}
		})
	})
}

// A reload looks at what its services have to say, and not at what they know.
func TestAReloadLooksAtWhatIsNew(t *testing.T) {
	c, _ := manyFound()
	docs := make([]policy.Document, 0, manyServices)
	for name, u := range c.units {
		u.adopted, u.state.PolicyHash = true, "same"
		docs = append(docs, policy.Document{Policy: policy.Policy{Service: name}, Hash: "same"})
	}
	c.units["shop-007"].state.Versions[0].Endpoints = []string{"10.0.0.9:80"}
	a := &adoption{}
	for i := range docs {
		a.read = append(a.read, &docs[i])
	}
	c.set.place = map[string]int{}
	for i := range docs {
		c.set.place[docs[i].Policy.Service] = i
	}
	for range 2 { // two reloads in a row queue it once
		b := *a
		for !b.compared {
			c.compare(&b)
		}
	}
	if n := len(c.backlog.findings); n != 1 || c.backlog.findings[0].service != "shop-007" {
		t.Errorf("%d findings are looked at, want that of shop-007", n)
	}
}

// What was found of a service while its removal waited for the disk is used by the one that begins anew.
func TestWhatWaitsForARemovalIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFinders(t, emptyPolicy)
		f.names("file_sd", "v1=10.0.0.1:80")
		f.names("http_sd", "v1=10.0.0.9:80") // refused
		time.Sleep(time.Second)
		f.orphaned()
		thaw := f.freeze()
		f.unstored(f.daemon.Delete(t.Context(), "shop", "ann"))
		f.names("file_sd", "v1=10.0.0.1:80", "v2=10.0.0.2:80")
		f.write(emptyPolicy)
		f.unstored(f.daemon.Reload(t.Context(), "test"))
		f.inLoop(func() {
			if !f.daemon.units["shop"].removing || len(f.daemon.findings.outstanding["shop"]) == 0 {
				t.Error("nothing waits for the removal")
			}
		})
		thaw()
		time.Sleep(10 * time.Second)
		s := f.service()
		if v1, v2 := s.State.Version("v1"), s.State.Version("v2"); v1 == nil || v1.Phase != rollout.Stable || v2 == nil || s.Conflict == "" {
			t.Errorf("the service that began anew has %s, conflict %q", f.is(), s.Conflict)
		}
	})
}

// What thousands of services cannot use is looked at where a generation changes, and at nobody else's.
func TestWhatCannotBeUsedIsLookedAtWhereSomethingChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text, set := "", registry.Set{Origin: byLabels}
		for i := range manyServices {
			text += fmt.Sprintf("---\nservice: s%03d\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"10.0.0.1:80\"], stable: true}]\n", i)
			set.Versions = append(set.Versions, registry.Version{Service: fmt.Sprintf("s%03d", i), Version: "v2", Endpoints: []string{"10.0.0.2:80"}})
		}
		f := &finders{bubble: newBubble(t, text, 0, world.Traffic{})}
		f.daemon.Found(t.Context())(set) // no policy asks for labelled containers
		time.Sleep(10 * time.Second)
		f.inLoop(func() {
			c := f.daemon
			if len(c.findings.outstanding) != manyServices || len(c.findings.stirred) != 0 {
				t.Errorf("%d services have findings that cannot be used, and those of %d are to be looked at", len(c.findings.outstanding), len(c.findings.stirred))
			}
			if _, err := c.step(c.units["s005"], rollout.Announced{At: time.Now(), Version: "v3", Endpoints: []string{"10.0.0.3:80"}, By: "ann"}); err != nil {
				t.Fatal(err)
			}
			for name := range c.findings.outstanding {
				if _, is := c.findings.stirred[name]; is != (name == "s005") {
					t.Errorf("%s is looked at: %v", name, is)
				}
			}
			for one := range c.findings.outstanding["s005"] {
				was := one.generation
				if c.lookAgain(time.Now()); one.generation == was || len(c.findings.stirred) != 0 {
					t.Errorf("generation %d, %d before; %d are to be looked at", one.generation, was, len(c.findings.stirred))
				}
			}
		})
	})
}
