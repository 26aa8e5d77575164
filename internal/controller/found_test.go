package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/registry"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

const emptyPolicy = "service: shop\nroute: {probe: \"off\"}\nramp: {steps: [10%, 100%], hold: 24h}\n"

// finders hand sets over to a daemon, and see what it logs about them.
type finders struct {
	*bubble
	log *logtest.Hook
}

func newFinders(t *testing.T, policyText string) *finders {
	f := &finders{bubble: newBubble(t, policyText, 0, world.Traffic{Service: "shop"}), log: &logtest.Hook{}}
	f.listen()
	return f
}

func (f *finders) listen() {
	f.daemon.Log.(*logrus.Logger).AddHook(f.log)
	synctest.Wait()
}

// names hands over what an origin names: words such as v1=10.0.0.1:80,10.0.0.2:80 of the service shop.
func (f *finders) names(origin string, versions ...string) {
	set := registry.Set{Origin: origin}
	for _, v := range versions {
		name, endpoints, _ := strings.Cut(v, "=")
		set.Versions = append(set.Versions, registry.Version{Service: "shop", Version: name, Endpoints: strings.Split(endpoints, ",")})
	}
	f.daemon.Found(f.t.Context())(set)
	synctest.Wait()
}

func (f *finders) reload(policyText string) {
	f.t.Helper()
	f.write(policyText)
	if err := f.daemon.Reload(f.t.Context(), "test"); err != nil {
		f.t.Fatal(err)
	}
}

func (f *finders) service() Service {
	f.t.Helper()
	s, err := f.daemon.Service(f.t.Context(), "shop")
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// is says which versions there are, as in `v1 stable [10.0.0.1:80]`.
func (f *finders) is() string {
	f.t.Helper()
	var vs []string
	for _, v := range f.service().State.Versions {
		vs = append(vs, fmt.Sprintf("%s %s %v", v.Name, v.Phase, v.Endpoints))
	}
	return strings.Join(vs, ", ")
}

func (f *finders) warnings() (ws []string) {
	for _, e := range f.log.AllEntries() {
		if e.Level <= logrus.WarnLevel {
			ws = append(ws, fmt.Sprint(e.Message, " ", e.Data["error"]))
		}
	}
	return ws
}

// The usual order on a new host: what runs is found before anybody has loaded a policy.
func TestAVersionIsFoundBeforeItsPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFinders(t, "service: cart\n")
		f.names("file_sd", "v1=10.0.0.1:80")
		f.names("file_sd", "v1=10.0.0.1:80")
		time.Sleep(time.Minute)
		f.reload("service: cart\nramp: {hold: 1m}\n")
		if ws := f.warnings(); len(ws) != 1 || !strings.Contains(ws[0], "no policy") {
			t.Errorf("warned of %q", ws)
		}
		f.reload(emptyPolicy)
		if got := f.is(); got != "v1 stable [10.0.0.1:80]" {
			t.Errorf("after its policy came: %s", got)
		}
	})
}

// What is known and has not changed costs no step, no record and no line in the log.
func TestWhatIsKnownIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFinders(t, emptyPolicy)
		f.names("file_sd", "v1=10.0.0.1:80", "v2=10.0.0.2:80,10.0.0.3:80")
		f.names("http_sd", "v2=10.0.0.2:80,10.0.0.3:80") // says the same
		time.Sleep(time.Second)
		before, lines := f.service().State, len(f.log.AllEntries())
		for range 10 {
			f.names("file_sd", "v1=10.0.0.1:80", "v2=10.0.0.2:80,10.0.0.3:80")
			f.names("http_sd", "v2=10.0.0.2:80,10.0.0.3:80")
			if err := f.daemon.Reload(t.Context(), "test"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if after := f.service().State; after.Generation != before.Generation || after.Seq != before.Seq || len(f.log.AllEntries()) != lines {
			t.Errorf("generation %d became %d, %d lines became %d", before.Generation, after.Generation, lines, len(f.log.AllEntries()))
		}
		f.names("file_sd", "v1=10.0.0.1:80", "v2=10.0.0.4:80")
		if got := f.is(); got != "v1 stable [10.0.0.1:80], v2 warming [10.0.0.4:80]" && got != "v1 stable [10.0.0.1:80], v2 canary [10.0.0.4:80]" {
			t.Errorf("after v2 moved: %s", got)
		}
		f.names("file_sd")
		if got := f.version("v2").Endpoints; !slices.Equal(got, []string{"10.0.0.4:80"}) {
			t.Errorf("no longer named, v2 is at %v", got)
		}
	})
}

// Not even a step that changes nothing is taken, and a person may name endpoints in another order.
func TestWhatIsKnownCostsNoStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFinders(t, emptyPolicy)
		if _, _, err := f.daemon.Announce(t.Context(), "shop", rollout.Announced{Version: "v1", Endpoints: []string{"10.0.0.2:80", "10.0.0.1:80"}, By: "ann"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // what else there is to do is done
		before := f.service().State.Versions
		f.names("file_sd", "v1=10.0.0.1:80,10.0.0.2:80")
		time.Sleep(5 * time.Second)
		if after := f.service(); after.State.Versions[0] != before[0] || after.Conflict != "" {
			t.Errorf("a step was taken, or there is a contradiction: %q", after.Conflict)
		}
	})
}

// What has ended is never started anew by what finds it: not by a change, not by a reload, and not when
// it ended so long ago that the state has forgotten it.
func TestWhatHasEndedStaysEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFinders(t, emptyPolicy)
		all := []string{"v1=10.0.0.1:80"}
		for i := range 30 {
			time.Sleep(10 * time.Minute) // outcomes are kept for an hour
			name := fmt.Sprintf("w%02d", i)
			all = append(all, name+"=10.0.1.1:80")
			f.names("file_sd", all...)
			if _, _, err := f.daemon.Command(t.Context(), "shop", rollout.Commanded{Version: name, Verb: "abort", By: "ann"}); err != nil {
				t.Fatal(err)
			}
		}
		s := f.service().State
		if s.Version("w00") != nil {
			t.Fatal("w00 is remembered: nothing is tested")
		}
		all[len(all)-1] = "w29=10.0.1.2:80"
		all[1] = "w00=10.0.1.2:80"
		f.names("file_sd", all...)
		f.reload(emptyPolicy + "judge: {budget: 10}\n")
		time.Sleep(5 * time.Second)
		s = f.service().State
		for _, v := range s.Versions {
			if v.Name != "v1" && v.Phase != rollout.Aborted {
				t.Errorf("%s is %s", v.Name, v.Phase)
			}
		}
		if v := s.Version("w00"); v != nil {
			t.Errorf("w00 is %s", v.Phase)
		}
		f.stop() // nor after a restart
		f.start()
		f.listen()
		f.names("file_sd", all...)
		time.Sleep(time.Minute)
		if s = f.service().State; s.Version("w00") != nil {
			v := s.Version("w00")
			t.Errorf("after a restart w00 is %s", v.Phase)
		}
	})
}

// Two origins do not agree: told once, shown in status as long as it lasts, and settled within a second
// when it is over.
func TestAContradictionIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFinders(t, emptyPolicy)
		f.names("file_sd", "v1=10.0.0.1:80", "v2=10.0.0.2:80")
		f.names("http_sd", "v2=10.0.0.9:80", "v3=nonsense")
		time.Sleep(10 * time.Second)
		f.names("http_sd", "v2=10.0.0.9:80", "v3=nonsense")
		if err := f.daemon.Reload(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		ws := f.warnings()
		if len(ws) != 2 || !strings.Contains(ws[0], "name it in one place only") || !strings.Contains(ws[1], "nonsense") {
			t.Errorf("warned of %q", ws)
		}
		if w := f.service().Conflict; !strings.Contains(w, "http_sd says 10.0.0.9:80") {
			t.Errorf("status says %q", w)
		}
		f.names("file_sd", "v1=10.0.0.1:80", "v2=10.0.0.9:80") // file_sd follows
		time.Sleep(1100 * time.Millisecond)
		if w := f.service().Conflict; w != "" {
			t.Errorf("settled, and status says %q", w)
		}
		f.names("http_sd", "v2=10.0.0.8:80")
		if w := f.service().Conflict; w == "" {
			t.Error("a new contradiction is not shown")
		}
		f.names("http_sd")
		if w := f.service().Conflict; w != "" {
			t.Errorf("no longer named, and status says %q", w)
		}
	})
}

// A service is removed and comes back: what is found is announced to the new one.
func TestAServiceComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFinders(t, emptyPolicy)
		f.names("file_sd", "v1=10.0.0.1:80")
		f.reload("service: cart\n")
		if err := f.daemon.Delete(t.Context(), "shop", "ann"); err != nil {
			t.Fatal(err)
		}
		f.reload(emptyPolicy)
		if got := f.is(); got != "v1 stable [10.0.0.1:80]" {
			t.Errorf("after the service came back: %s", got)
		}
	})
}

// A canary's containers vanished while canaryd was away. That nothing runs with labels is known when
// somebody has looked, and not before.
func TestContainersVanishWhileTheDaemonIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFinders(t, emptyPolicy)
		look := func(ls ...docker.Labelled) { f.daemon.Labelled(t.Context())(ls) }
		look(docker.Labelled{Service: "shop", Version: "v1", Endpoints: []string{"10.0.0.1:80"}})
		if got := f.is(); got != "" {
			t.Fatalf("the policy does not ask for what is labelled, and there is %s", got)
		}
		f.reload(emptyPolicy + "docker: {discover: labels}\n")
		look = func(ls ...docker.Labelled) { f.daemon.Labelled(t.Context())(ls) }
		look(docker.Labelled{Service: "shop", Version: "v1", Endpoints: []string{"10.0.0.1:80"}}, docker.Labelled{Service: "shop", Version: "v2", Endpoints: []string{"10.0.0.2:80"}})
		time.Sleep(time.Second)
		f.stop()
		f.start()
		f.listen()
		time.Sleep(time.Minute)
		if p := f.version("v2").Phase; !p.Waiting() {
			t.Fatalf("nobody has looked, and v2 is %s", p)
		}
		look()
		time.Sleep(goneAfter - time.Second)
		if p := f.version("v2").Phase; !p.Waiting() {
			t.Fatalf("too soon: v2 is %s", p)
		}
		f.until("v2", rollout.Aborted, 3*time.Second)
		if p := f.version("v1").Phase; p != rollout.Stable {
			t.Errorf("v1 is %s", p)
		}
	})
}
