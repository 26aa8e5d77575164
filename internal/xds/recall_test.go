package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/canaryd/canaryd/internal/rollout"
)

var testKey = Key("the key of the tests")

// nth is an attempt of a version.
func nth(version string, number int) rollout.Attempt {
	return rollout.Attempt{Version: version, Number: number, ID: fmt.Sprintf("%08x", 77*uint32(number))}
}

// told is the version that Envoys are told of a resource.
func told(t testing.TB, r *Resource) string {
	t.Helper()
	_, _, tag := protowire.ConsumeTag(r.encoded)
	body, n := protowire.ConsumeBytes(r.encoded[tag:])
	var res discovery.Resource
	if tag < 0 || n < 0 {
		t.Fatalf("%s is encoded as %x", r.Name, r.encoded)
	}
	if err := proto.Unmarshal(body, &res); err != nil {
		t.Fatal(err)
	}
	return res.Version
}

// FuzzOpen: whatever an Envoy presents, what it names was named with the key, for this service and this content.
func FuzzOpen(f *testing.F) {
	hash := strings.Repeat("0123456789abcdef", 1)
	sealed := testKey.seal("shop", hash, []rollout.Attempt{nth("v2", 1), nth("v3.1", 12)})
	for _, s := range []string{"", "t1", hash, sealed, hash + "!", hash + "!!", hash + "!v2.1", hash + "!v2.1!" + strings.Repeat("0", 32), sealed + "0", strings.Repeat("x", 1<<13)} {
		f.Add(s, "v2", 1)
	}
	f.Fuzz(func(t *testing.T, version, name string, number int) {
		hash, cuts := testKey.open("shop", version)
		if len(hash) > maxForeign || len(cuts) > 0 && testKey.seal("shop", hash, cuts) != version {
			t.Fatalf("%q is %q and names %v", version, hash, cuts)
		}
		made := contentVersion([]byte(version))
		want := []rollout.Attempt{nth(name, number)}
		sealed := testKey.seal("shop", made, want)
		hash, cuts = testKey.open("shop", sealed)
		if _, writable := attempt(fmt.Sprint(name, ".", number)); hash != made || len(name) < 1000 && writable != slices.Equal(cuts, want) {
			t.Fatalf("%v became %q and %v", want, sealed, cuts)
		}
		if _, cuts := testKey.open("pay", sealed); len(cuts) > 0 {
			t.Fatalf("what is said of shop is believed of pay: %v", cuts)
		}
		if _, cuts := Key("another").open("shop", sealed); len(cuts) > 0 {
			t.Fatalf("another key opens it: %v", cuts)
		}
	})
}

// Whoever changes anything in a version, or moves what it names to another content, is not believed.
func TestAForgedVersionNamesNothing(t *testing.T) {
	hash := contentVersion(nil)
	sealed := testKey.seal("shop", hash, []rollout.Attempt{nth("v2", 1)})
	if _, cuts := testKey.open("shop", sealed); len(cuts) != 1 {
		t.Fatalf("%s names %v", sealed, cuts)
	}
	for i := range sealed {
		forged := []byte(sealed)
		forged[i] ^= 1
		if _, cuts := testKey.open("shop", string(forged)); len(cuts) > 0 {
			t.Errorf("%s names %v", forged, cuts)
		}
	}
	if plain := Key(nil).seal("shop", hash, []rollout.Attempt{nth("v2", 1)}); plain != hash {
		t.Errorf("without a key it is told as %s", plain)
	}
	if _, cuts := Key(nil).open("shop", hash+"!v2.1!"+Key(nil).mac("shop", hash+"!v2.1")); len(cuts) > 0 {
		t.Errorf("without a key %v is believed", cuts)
	}
}

// However many attempts there are, what is told is short enough to be believed.
func TestManyCutsAreNamedAsFarAsTheyFit(t *testing.T) {
	var cuts []rollout.Attempt
	for i := range 100 {
		cuts = append(cuts, nth(strings.Repeat("v", 128), i+1))
	}
	sealed := testKey.seal("shop", contentVersion(nil), cuts)
	_, got := testKey.open("shop", sealed)
	if len(got) < 29 || !slices.Equal(got, cuts[:len(got)]) || len(sealed) > maxNamed+100 {
		t.Errorf("%d are named in %d bytes", len(got), len(sealed))
	}
}

// onTrial is shop with v1 stable and attempts of v2 and v3 under test.
func onTrial(generation uint64, weights map[string]int, attempts map[string]int) rollout.Table {
	tab := table(generation, weights)
	for i := range tab.Clusters {
		c := &tab.Clusters[i]
		c.Attempt, c.OnTrial = nth(c.Version, attempts[c.Version]), attempts[c.Version] > 0
	}
	return tab
}

// unstored is a table with a version cut, which nothing stored says.
func unstored(t *testing.T, tab rollout.Table, cuts ...rollout.Attempt) rollout.Table {
	t.Helper()
	cut, changed := tab.Recall(cuts)
	if !changed {
		t.Fatal("nothing is cut")
	}
	return cut
}

// What a route cuts that is not stored its version names, in all its forms; when it is stored nothing is sent again.
func TestARouteNamesWhatItCutsUnstored(t *testing.T) {
	h, _, dial := server(t)
	h.Key = testKey
	tab := onTrial(1, map[string]int{"v2": 5000}, map[string]int{"v2": 3})
	publish(t, h, tab)
	e := connect(t, dial(), "edge-1", 40)
	if rds := e.start("shop", "shop/v1", "shop/v2"); strings.Contains(rds.Resources[0].Version, "!") {
		t.Errorf("its version is %s, and nothing is cut", rds.Resources[0].Version)
	}
	inForce(t, h, 1)
	both := onTrial(2, map[string]int{"v2": 5000, "v3": 100}, map[string]int{"v2": 3, "v3": 1})
	cut := unstored(t, both, nth("v2", 3)) // v3 is new to this Envoy: a part goes out first
	publish(t, h, cut)
	part := e.expect(TypeRoute)
	whole := h.cat.routes["shop"].whole
	for _, r := range []*discovery.Resource{part.Resources[0], {Version: told(t, whole)}, {Version: told(t, h.cat.routes["shop"].minimal)}} {
		hash, cuts := testKey.open("shop", r.Version)
		if !strings.HasPrefix(r.Version, hash+"!v2.3!") || !slices.Equal(cuts, cut.Unstored) {
			t.Errorf("%s names %v", r.Version, cuts)
		}
	}
	e.ack(part)
	e.obey()
	cut.Generation, cut.Unstored = 3, nil
	publish(t, h, cut)
	inForce(t, h, 3)
	e.silence()
	if s := h.status("shop"); len(s.Nodes) > 0 || len(s.Recalled) > 0 {
		t.Errorf("%+v", s)
	}
	for _, c := range h.services["shop"].force.crowds(h.now()) {
		if c.Version != whole.Version || !c.Present {
			t.Errorf("it is remembered as %+v", c)
		}
	}
}

// obey accepts whatever comes until nothing more does.
func (e *envoy) obey() {
	e.t.Helper()
	for {
		select {
		case r := <-e.in:
			if fresh := names(r); r.TypeUrl == TypeCluster && len(fresh) > 0 {
				e.subscribe(TypeEndpoint, fresh...)
			}
			e.ack(r)
		case <-time.After(80 * time.Millisecond):
			return
		}
	}
}

// restartedOn is another canaryd, with an Envoy that has the stored table and one that comes back with what it
// presents, clusters of v2 included.
func restartedOn(t *testing.T, stored rollout.Table, key Key, route string) (h *Hub, there, back *envoy) {
	t.Helper()
	h, _, dial := server(t)
	h.Key = key
	publish(t, h, stored)
	there = connect(t, dial(), "edge-2", 40)
	var clusters []string
	for _, c := range stored.Clusters {
		clusters = append(clusters, ClusterID{"shop", c.Version, Users}.String())
	}
	there.start("shop", clusters...)
	return h, there, presenting(t, h, dial, route)
}

func presenting(t *testing.T, h *Hub, dial func() *grpc.ClientConn, route string) *envoy {
	t.Helper()
	back := connect(t, dial(), "edge-1", 40)
	back.presents(versions(h, TypeCluster), versions(h, TypeEndpoint), route)
	return back
}

// versionOf is what an Envoy with a table presents.
func versionOf(t *testing.T, tab rollout.Table, key Key) string {
	t.Helper()
	f, err := buildRoute(tab, key)
	if err != nil {
		t.Fatal(err)
	}
	return told(t, f.whole)
}

// taken is what the loop is told of a service.
func taken(h *Hub) (recalled []rollout.Attempt) {
	for _, s := range h.TakeChanges() {
		recalled = append(recalled, s.Recalled...)
	}
	return recalled
}

// canaryd died before it could store the cut of v2. An Envoy that comes back is not sent v2 again, the others lose it
// at once and remember it as well, and no table that was on its way brings it back.
func TestWhatAnEnvoyRemembersIsCutAtOnce(t *testing.T) {
	stored := onTrial(1, map[string]int{"v2": 5000}, map[string]int{"v2": 1})
	cut := []rollout.Attempt{nth("v2", 1)}
	h, there, back := restartedOn(t, stored, testKey, versionOf(t, unstored(t, stored, cut...), testKey))
	r := there.expect(TypeRoute)
	there.routes(r, map[string]uint32{"shop/v1": 10000})
	if _, cuts := testKey.open("shop", r.Resources[0].Version); !slices.Equal(cuts, cut) {
		t.Errorf("the others are told %s", r.Resources[0].Version)
	}
	there.ack(r)
	if r := back.expect(TypeCluster); !slices.Equal(r.RemovedResources, []string{"shop/v2"}) {
		t.Errorf("it is sent %v, %v removed", names(r), r.RemovedResources)
	}
	back.silence()
	if got := taken(h); !slices.Equal(got, cut) {
		t.Errorf("the loop is told of %v", got)
	}
	there.expect(TypeCluster)
	if s := h.status("shop"); s.Generation != 0 {
		t.Errorf("generation %d is served", s.Generation)
	}
	publish(t, h, onTrial(2, map[string]int{"v2": 6000}, map[string]int{"v2": 1})) // decided before the loop knew
	there.silence()
	back.silence()
	publish(t, h, table(3, nil, "v2")) // it has failed
	waitStatus(t, h, "in force", func(s Status) bool { return s.Generation == 3 && s.InForce })
	there.silence()
	publish(t, h, onTrial(4, map[string]int{"v2": 100}, map[string]int{"v2": 2})) // another attempt
	if r := there.expect(TypeCluster); !slices.Equal(names(r), []string{"shop/v2"}) {
		t.Errorf("sent %v", names(r))
	}
}

// What is not believed, or is about something else, changes nothing.
func TestWhatIsNoRecall(t *testing.T) {
	trial := onTrial(1, map[string]int{"v2": 5000}, map[string]int{"v2": 1})
	first := unstored(t, trial, nth("v2", 1))
	sealed := versionOf(t, first, testKey)
	second := onTrial(1, map[string]int{"v2": 5000}, map[string]int{"v2": 2})
	another := onTrial(1, map[string]int{"v2": 5000}, map[string]int{"v2": 1}) // the first one of its number was lost in a crash
	another.Clusters[1].Attempt.ID = "another1"
	trusted := table(1, map[string]int{"v2": 5000})
	trusted.Stable, trusted.Clusters[1].Attempt = "v2", nth("v2", 1)
	warm := table(1, map[string]int{"v2": 5000})
	warm.Clusters[1].Attempt = nth("v2", 1)
	for _, c := range []struct {
		what, route string
		stored      rollout.Table
		told        int
	}{
		{"a forged one", sealed[:len(sealed)-1] + "x", trial, 0},
		{"one without a MAC", sealed[:strings.LastIndex(sealed, "!")], trial, 0},
		{"one by another key", versionOf(t, first, Key("another")), trial, 0},
		{"an earlier attempt", sealed, second, 1},
		{"another attempt with the same number", sealed, another, 1},
		{"a stable version", sealed, trusted, 1},
		{"a warm version", sealed, warm, 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			h, there, back := restartedOn(t, c.stored, testKey, c.route)
			back.routes(back.expect(TypeRoute), map[string]uint32{"shop/v1": 5000, "shop/v2": 5000})
			there.silence()
			if got := taken(h); len(got) != c.told {
				t.Errorf("the loop is told of %v", got)
			}
		})
	}
}

// What is presented is bounded before it is remembered, and a hash counts without what follows it.
func TestWhatIsPresentedIsBounded(t *testing.T) {
	stored := onTrial(1, map[string]int{"v2": 5000}, map[string]int{"v2": 1})
	plain := versionOf(t, stored, nil)
	for _, c := range []struct{ route, booked string }{
		{plain + "!v2.1!" + strings.Repeat("0", maxNamed), plain},
		{strings.Repeat("x", maxNamed), strings.Repeat("x", maxForeign)},
	} {
		h, _, back := restartedOn(t, stored, testKey, c.route)
		if c.booked == plain {
			back.silence() // it has the table
		}
		waitStatus(t, h, "booked", func(s Status) bool { return s.Subscribers == 2 })
		h.mu.Lock()
		got := h.services["shop"].force.has(h.services["shop"].force.of("edge-1")[0]).Version
		h.mu.Unlock()
		if got != c.booked {
			t.Errorf("it is booked with %d bytes: %.80s", len(got), got)
		}
	}
}

// Two cuts are remembered one after the other, of versions that have no weight any more: the route is the same with either. An
// Envoy that refused it, and serves what was cut by the one before, is sent it again, and then the minimal one.
func TestWhoRefusedALessRouteLosesWhatIsRecalled(t *testing.T) {
	attempts, all := map[string]int{"v2": 1, "v3": 1}, []string{"shop/v1", "shop/v2", "shop/v3"}
	for what, begin := range map[string]func(e *envoy){
		"it asks for routes only":   func(e *envoy) { e.subscribe(TypeRoute, "shop"); e.ack(e.expect(TypeRoute)) },
		"it asks for clusters, too": func(e *envoy) { e.start("shop", all...) },
	} {
		t.Run(what, func(t *testing.T) {
			h, _, dial := server(t)
			h.Key = testKey
			publish(t, h, onTrial(1, map[string]int{"v2": 0, "v3": 5000}, attempts))
			e := connect(t, dial(), "edge-1", 40)
			begin(e)
			inForce(t, h, 1)
			without := onTrial(2, map[string]int{"v2": 0, "v3": 0}, attempts)
			publish(t, h, without)
			e.nack(e.expect(TypeRoute), "no")
			waitStatus(t, h, "refused", func(s Status) bool { return s.Counts.Refused == 1 })
			for _, version := range []string{"v2", "v3"} {
				connect(t, dial(), "edge-2", 40).send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"},
					InitialResourceVersions: map[string]string{"shop": versionOf(t, unstored(t, without, nth(version, 1)), testKey)}})
				r := e.nextRoute()
				e.routes(r, map[string]uint32{"shop/v1": 10000})
				e.nack(r, "no")
			}
			e.routes(e.nextRoute(), map[string]uint32{"shop/v1": 10000})
		})
	}
}

// nextRoute accepts whatever comes before the next route.
func (e *envoy) nextRoute() *discovery.DeltaDiscoveryResponse {
	e.t.Helper()
	for {
		select {
		case r := <-e.in:
			if r.GetTypeUrl() == TypeRoute {
				return r
			}
			e.ack(r)
		case <-time.After(10 * time.Second):
			e.t.Fatal("no route came")
		}
	}
}
