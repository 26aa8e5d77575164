package controller

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/xds"
)

// shelf is a store in memory whose writes end when, and as, the test says.
type shelf struct {
	Store
	states   map[string]store.State
	remains  map[string][]byte
	policies map[string]string
	last     uint64
	ends     chan ending
	saved    int
}

// ending is how a write ends.
type ending struct{ there, fails bool }

func newShelf() *shelf {
	return &shelf{states: map[string]store.State{}, remains: map[string][]byte{}, policies: map[string]string{}, ends: make(chan ending)}
}

func (s *shelf) States() (map[string]store.State, error) { return maps.Clone(s.states), nil }
func (s *shelf) Remains() (map[string][]byte, error)     { return maps.Clone(s.remains), nil }
func (s *shelf) Key() []byte                             { return make([]byte, 32) }
func (s *shelf) Policy(hash string) (string, error)      { return s.policies[hash], nil }
func (s *shelf) Last() (uint64, error)                   { return s.last, nil }
func (s *shelf) Tidy(time.Time, store.Limits) (bool, error) {
	return false, nil
}

func (s *shelf) Save(ws []store.Write) (uint64, error) {
	end := <-s.ends
	first := s.last + 1
	if end.there || !end.fails {
		s.put(ws)
	}
	if end.fails {
		return 0, errDiskFull
	}
	return first, nil
}

func (s *shelf) put(ws []store.Write) {
	s.saved++
	for _, w := range ws {
		st := s.states[w.Service]
		if w.State != nil {
			st.Decided = w.State
		}
		if w.Evidence != nil {
			st.Evidence = w.Evidence
		}
		if s.states[w.Service] = st; w.Delete || st.Decided == nil {
			delete(s.states, w.Service)
		}
		if w.Remains != nil {
			s.remains[w.Service] = w.Remains
		}
		if len(s.remains[w.Service]) == 0 {
			delete(s.remains, w.Service)
		}
		if w.PolicyText != "" {
			s.policies[w.PolicyHash] = w.PolicyText
		}
		s.last += uint64(len(w.Records))
	}
}

// quiet is a source of evidence that has none.
type quiet struct{ metrics.Source }

func (quiet) Watch([]metrics.Target)                              {}
func (quiet) Run(context.Context, func([]metrics.Evidence)) error { return nil }

// spot is what a request, or a listener, of some nodes belongs to.
type spot struct{ listener, host, nodes string }

var (
	walkListeners = []string{"0.0.0.0:80", "0.0.0.0:81"}
	walkHosts     = []string{"a", "b", "c", "d"}
	walkNodes     = []string{"x", "y"}
)

// owners are the services of each spot, without a host of each listener.
func owners(routes map[string]*policy.Route) map[spot][]string {
	of := map[spot][]string{}
	for service, r := range routes {
		if r.Listener == "" {
			continue
		}
		for _, n := range walkNodes {
			if len(r.Nodes) > 0 && !slices.Contains(r.Nodes, n) {
				continue
			}
			of[spot{r.Listener, "", n}] = append(of[spot{r.Listener, "", n}], service)
			for _, h := range walkHosts {
				if slices.Contains(r.Domains, h) || slices.Contains(r.Domains, "*") {
					of[spot{r.Listener, h, n}] = append(of[spot{r.Listener, h, n}], service)
				}
			}
		}
	}
	return of
}

// walk drives a controller by hand: what is published is looked at after each piece of work.
type walk struct {
	t     *testing.T
	r     *rand.Rand
	dir   string
	shelf *shelf
	hub   *xds.Hub
	c     *Controller
	trail []string

	text      map[string]string        // of the policies, by service
	parsed    map[string]parsed        // by text
	readings  []map[spot][]string      // owners by the policies that were taken in
	published map[string]*policy.Route // by service
	adopted   int                      // how many of them are, to the end
	known     []map[spot][]string      // those that the write under way, or the last one, may know of
	writing   bool
}

func newWalk(t *testing.T, dir string, seed uint64, known map[string]parsed) *walk {
	w := &walk{t: t, r: rand.New(rand.NewPCG(seed, 1)), dir: dir, shelf: newShelf(), text: map[string]string{}, published: map[string]*policy.Route{}, parsed: known}
	w.policies()
	w.save()
	w.start()
	return w
}

// policies are random ones that are right, or those from before with a service more, less or elsewhere.
func (w *walk) policies() {
	for {
		next := map[string]string{}
		fresh := w.r.IntN(4) == 0 || len(w.text) == 0
		hosts := w.r.Perm(len(walkHosts))
		for i := range 4 {
			name := fmt.Sprint("s", i)
			if old := w.text[name]; !fresh && w.r.IntN(2) > 0 {
				if next[name] = old; old == "" {
					delete(next, name)
				}
				continue
			}
			if w.r.IntN(4) == 0 {
				continue
			}
			next[name] = w.policy(name, hosts[i%len(hosts)])
		}
		if docs, right := w.docsOf(next); right && len(policy.CheckSet(docs, policy.SourceEnvoy).Errors()) == 0 {
			w.text = next
			return
		}
	}
}

func (w *walk) policy(name string, host int) string {
	domains, nodes, listener := walkHosts[host], "", walkListeners[w.r.IntN(4)/3]
	switch w.r.IntN(8) {
	case 0:
		domains = `"*"`
	case 1:
		domains += ", " + walkHosts[w.r.IntN(len(walkHosts))]
	case 2:
		nodes = fmt.Sprintf(", nodes: [%s]", walkNodes[w.r.IntN(2)])
	}
	return fmt.Sprintf("---\nservice: %s\nroute: {probe: \"off\", listener: %q, domains: [%s]%s}\nversions: [{version: v1, endpoints: [\"10.0.0.1:80\"], stable: true}]\n", name, listener, domains, nodes)
}

func (w *walk) docsOf(text map[string]string) (docs []policy.Document, right bool) {
	for _, name := range slices.Sorted(maps.Keys(text)) {
		p, known := w.parsed[text[name]]
		if !known {
			p.docs, p.findings = policy.Parse("all.yml", []byte(text[name]))
			w.parsed[text[name]] = p
		}
		if len(p.findings.Errors()) > 0 {
			return nil, false
		}
		docs = append(docs, p.docs...)
	}
	return docs, true
}

func (w *walk) save() {
	all := strings.Join(slices.Sorted(maps.Values(w.text)), "")
	if err := os.WriteFile(filepath.Join(w.dir, "all.yml"), []byte(all), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// ownersOf are those that the policies name.
func (w *walk) ownersOf() map[spot][]string {
	routes := map[string]*policy.Route{}
	docs, _ := w.docsOf(w.text)
	for _, d := range docs {
		routes[d.Policy.Service] = &d.Policy.Route
	}
	return owners(routes)
}

func (w *walk) start() {
	log := logrus.New()
	log.SetOutput(io.Discard)
	w.hub = xds.NewHub(log)
	c, err := New(Options{Log: log, Store: w.shelf, Hub: w.hub, Source: quiet{}, Ask: func([]xds.Asked) {}, Policies: []string{filepath.Join(w.dir, "*.yml")}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.c, c.atOnce, c.writer.paced = c, 1+w.r.IntN(3), true
	if c.reloadErr == nil {
		w.readings = append(w.readings, w.ownersOf())
	} else { // what was decided before the restart is not stored, and does not fit
		w.readings = append(w.readings, nil)
	}
	w.published, w.writing = map[string]*policy.Route{}, false
	w.look("start")
}

// look checks what is published, and settles what was done.
func (w *walk) look(what string) {
	w.trail = append(w.trail, what)
	before := owners(w.published)
	w.publishes()
	w.check(before, owners(w.published))
	c := w.c
	c.settle(time.Now())
	if c.backlog.reading == nil {
		w.adopted = len(w.readings)
	}
	if is := !c.writer.since.IsZero(); is && !w.writing {
		w.writing, w.known = true, w.readings[max(w.adopted-1, 0):]
		w.trail = append(w.trail, fmt.Sprintf("a write begins: %v", names(c.writer.under)))
	}
}

// publishes takes in what the Envoys have by now.
func (w *walk) publishes() {
	for name, u := range w.c.units {
		switch r := u.outbox.durable.Policy; {
		case r != nil && u.outbox.shown != nil:
			route := r.Route
			w.published[name] = &route
		case r == nil && u.removing:
			delete(w.published, name)
		}
	}
	for name := range w.published {
		if w.c.units[name] == nil && w.c.document(name) == nil {
			delete(w.published, name)
		}
	}
}

// check finds what two services have, and what has been left and not joined.
func (w *walk) check(before, now map[spot][]string) {
	for at, of := range now {
		if at.host != "" && len(of) > 1 {
			w.fail("%v belongs to %v", at, of)
		}
	}
	for at, of := range before {
		if of = slices.DeleteFunc(of, func(s string) bool { return w.published[s] == nil }); len(of) == 0 {
			continue // a person has deleted it
		}
		gap := slices.ContainsFunc(w.known, func(r map[spot][]string) bool { return len(r[at]) == 0 })
		if len(now[at]) == 0 && !gap {
			w.fail("%v was of %v, is to be of %v, and is nobody's", at, of, w.known[len(w.known)-1][at])
		}
	}
}

func places(docs []policy.Document) (is []string) {
	for _, d := range docs {
		r := d.Policy.Route
		is = append(is, fmt.Sprint(d.Policy.Service, " ", r.Listener[len("0.0.0.0"):], r.Domains, r.Nodes))
	}
	return is
}

func names(us []*unit) (names []string) {
	for _, u := range us {
		r := u.state.Policy.Route
		names = append(names, fmt.Sprint(u.state.Policy.Service, " ", r.Listener, r.Domains, r.Nodes))
	}
	return names
}

func (w *walk) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(w.trail, "\n"))
}

// reload takes other policies in.
func (w *walk) reload() {
	c, old := w.c, w.text
	if c.backlog.reading != nil {
		return
	}
	w.policies()
	docs, _ := w.docsOf(w.text)
	set := policySet{docs: docs, place: map[string]int{}, origins: map[string]origin{}}
	for i := range set.docs {
		set.place[set.docs[i].Policy.Service] = i
	}
	c.policies.turn <- struct{}{}
	if _, err := c.reloaded(set, beside(set, c.kept(set)), "walk"); err != nil {
		w.text = old
		return
	}
	w.save()
	w.readings = append(w.readings, w.ownersOf())
	w.look(fmt.Sprintf("reload %d: %v", len(w.readings)-1, places(docs)))
}

// end has the write under way end.
func (w *walk) end(how ending) {
	c := w.c
	if !w.writing {
		return
	}
	synctest.Wait()
	select {
	case w.shelf.ends <- how:
	default: // it stores nothing
	}
	c.written(<-c.writer.done)
	w.writing = false
	w.look(fmt.Sprintf("the write ends: %+v", how))
}

// decide has something decided of a service, and now and then a version cut.
func (w *walk) decide() {
	names := slices.Sorted(maps.Keys(w.c.units))
	if len(names) == 0 {
		return
	}
	u, falls := w.c.units[names[w.r.IntN(len(names))]], []fall(nil)
	if w.r.IntN(2) == 0 {
		falls = []fall{{version: "v1"}}
	}
	w.c.takes(u, []rollout.Record{{At: time.Now(), Service: u.state.Policy.Service, Kind: rollout.KindDropped}}, falls, "v1")
	w.look("decided " + u.state.Policy.Service)
}

func (w *walk) delete() {
	for _, name := range slices.Sorted(maps.Keys(w.c.units)) {
		u := w.c.units[name]
		if u.state.Orphaned && !u.removing {
			if err := w.c.remove(u, "walk"); err != nil {
				w.t.Fatal(err)
			}
			w.look("delete " + name)
			return
		}
	}
}

// restart ends the controller as a crash does.
func (w *walk) restart() {
	if w.writing {
		synctest.Wait()
		select {
		case w.shelf.ends <- ending{there: w.r.IntN(2) == 0, fails: true}:
			<-w.c.writer.done
		default:
		}
	}
	w.start()
}

// ways are what may come next, and how often it does: each walk has other ones.
func (w *walk) ways() (all []func()) {
	for _, way := range []struct {
		most int
		do   func()
	}{
		{16, w.piece},
		{8, func() { w.end(ending{}) }},
		{4, func() { w.end(ending{fails: true, there: w.r.IntN(3) == 0}) }},
		{16, w.reload},
		{8, w.delete},
		{4, w.decide},
		{4, w.second},
		{2, w.restart},
	} {
		for range w.r.IntN(way.most+1) * w.r.IntN(2) {
			all = append(all, way.do)
		}
	}
	return append(all, w.piece)
}

func (w *walk) piece() {
	if w.c.backlog.more() != nil {
		w.c.work(time.Now())
		w.look("a piece")
	}
}

func (w *walk) second() {
	time.Sleep(time.Second)
	w.look("a second")
}

// rest has all that was decided stored.
func (w *walk) rest() {
	for range 1000 {
		switch c := w.c; {
		case c.backlog.more() != nil:
			w.piece()
		case w.writing:
			w.end(ending{})
		case len(c.unsaved) == 0:
			return
		default:
			w.second()
		}
	}
	w.fail("%d services are not stored", len(w.c.unsaved))
}

// However policies are read, services deleted, writes fail and canaryd crashes: nobody has what another one has, and what one leaves
// and another one is to have is never nobody's.
func TestNoPlaceIsLeftBeforeItIsJoined(t *testing.T) {
	t.Setenv("PATH", "") // there is no git
	known := map[string]parsed{}
	for seed := range uint64(120) {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			w := newWalk(t, dir, seed, known)
			ways := w.ways()
			for range 200 {
				ways[w.r.IntN(len(ways))]()
			}
			w.rest()
			if w.readings[len(w.readings)-1] == nil {
				return
			}
			for at, of := range w.readings[len(w.readings)-1] {
				if got := owners(w.published)[at]; len(got) < len(of) {
					w.fail("%v is of %v in the end, not of %v", at, got, of)
				}
			}
		})
	}
}
