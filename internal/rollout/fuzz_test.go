package rollout

import (
	"bytes"
	"encoding/json"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// FuzzStep drives the state machine with events made from the bytes and checks the invariants of the
// design after each of them.
func FuzzStep(f *testing.F) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := make([]byte, 600)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { newWalk(t, b).run() })
}

// keptState is one that a step was given, as it was then.
type keptState struct {
	State
	sum uint64
}

// walk is a random walk through the events.
type walk struct {
	t      *testing.T
	seed   maphash.Seed
	b      []byte
	s      State
	at     time.Time
	names  int
	steps  int
	kept   []keptState // earlier ones
	frugal frugal      // the same, in the memory of the ones before

	decided State // after the last step of which what is decided had to be stored
	passing bool  // a tick changed nothing, and since then nothing was taken in but evidence that decided nothing

	fleet *envoys
	cut   map[string]int // attempt at which a version was cut
	ramp  bool           // the stable version was promoted by canaryd itself: a refusal may hold that back

	accepted []Run  // what was in force last
	stable   string // and who was stable in it
}

func newWalk(t *testing.T, b []byte) *walk {
	return &walk{t: t, seed: maphash.MakeSeed(), b: b, at: time.Unix(1_700_000_000, 0), fleet: newEnvoys(), cut: map[string]int{}}
}

func (w *walk) next() int {
	if len(w.b) == 0 {
		return 0
	}
	n := w.b[0]
	w.b = w.b[1:]
	return int(n)
}

var rampLists = []string{"auto", "[1%, 10%, 50%, 100%]", "[10%, 100%]", "[5%, 20%, 90%, 100%]", "[0.01%, 30%, 80%, 100%]"}

func (w *walk) policy() policy.Policy {
	text := "service: shop\nramp: {steps: " + rampLists[w.next()%len(rampLists)] + ", hold: " + strconv.Itoa(w.next()%3) + "s, canaries: " + strconv.Itoa(1+w.next()%4) + "}\n" +
		"judge: {clump: " + []string{"auto", "1"}[w.next()%2] + ", no_evidence: {for: 30s, then: " + []string{"hold", "rollback"}[w.next()%2] + "}, deadline: {after: 2m, then: " + []string{"hold", "rollback"}[w.next()%2] + "}, promote_within: {ratio: 2, margin: 5%}, budget: 10000" +
		[]string{"", ", max_error_rate: 5%"}[w.next()%2] + []string{"", "", ", slow: {warm_up: 2s}", ", slow: {edges: [100ms], then: rollback, warm_up: 0s}"}[w.next()%4] + []string{"", ", hang: off", ", hang: 1s"}[w.next()%3] + "}\n" + []string{"", "sessions: {cookie: c, ttl: 10s}\n"}[w.next()%2] +
		[]string{"", "docker: {image: r/x, port: 8080, stop_idle_after: " + []string{"5s", "0s", "1h"}[w.next()%3] + ", keep: " + strconv.Itoa(w.next()%3) + "}\n"}[min(w.next()%4, 1)] +
		"drain: {at_most: 24h, quiet: " + []string{"0s", "3s"}[w.next()%2] + "}\n" +
		"after_promotion: {watch: " + []string{"0s", "20s, control: 5%", "20s"}[w.next()%3] + "}\n"
	if len(w.b)%4 > 0 {
		text += "route: {classes: [{name: a, path: /a}, {name: b, prefix: /b}]}\n"
	}
	docs, fs := policy.Parse("fuzz", []byte(text))
	if len(fs.Errors()) > 0 {
		w.t.Fatal(fs)
	}
	return docs[0].Policy
}

func (w *walk) run() {
	w.step(PolicyChanged{At: w.at, Policy: w.policy(), Hash: "0"})
	if w.next()%8 == 0 {
		w.past()
	}
	endures := w.next()%2 == 0 // that takes more steps than all that comes before it
	for len(w.b) > 0 {
		if e := w.event(); e != nil {
			w.step(e)
		}
		w.hear()
	}
	if endures {
		w.endure()
	}
	w.frugal.end(w)
}

// past gives the service as many versions that have ended as it remembers, and two more.
func (w *walk) past() {
	for i := range keepEnded + 3 { // the first one is stable
		name := "old" + strconv.Itoa(i)
		w.at = w.at.Add(time.Second)
		w.step(Announced{At: w.at, Version: name, Endpoints: []string{"10.0.0.2:80"}, Origin: []string{"", "file_sd"}[i%2]})
		w.step(Commanded{At: w.at, Verb: "abort", Version: name, Knowing: true, By: "a person"})
	}
}

// endure lets half an hour pass in which nothing happens: Envoys and versions go on as they are, requests are answered.
// Then some version in the line has moved, or has a reason that a person can act on.
func (w *walk) endure() {
	const pace, turns = 40 * time.Second, 45
	if w.s.Stable == "" || len(w.s.Version(w.s.Stable).Endpoints) == 0 {
		return
	}
	moved := 0
	for n := range turns {
		before := w.s
		w.fleet.publish(&w.s)
		for _, e := range w.fleet.all {
			if e.lagging = e.connected && e.lagging; !e.lagging {
				w.fleet.answer(e)
			}
		}
		w.hear()
		w.at = w.at.Add(pace)
		w.step(Tick{At: w.at})
		w.step(w.clean(pace))
		if !slices.EqualFunc(before.Versions, w.s.Versions, func(a, b *Version) bool {
			return a.Name == b.Name && a.Phase == b.Phase && size(a.Slots) == size(b.Slots)
		}) {
			moved = n
		}
	}
	if moved > turns/3 {
		return
	}
	m := &machine{State: &w.s, at: w.at}
	answers := slices.ContainsFunc(w.fleet.all, func(e *envoy) bool { return e.connected && !e.lagging && e.has != "" })
	for _, v := range m.with(counted) {
		if m.Weight(v.Name) > 0 && v.FirstWeight.IsZero() && answers {
			w.t.Fatalf("no Envoy has taken the first weight of %s for %d turns of %s, and it keeps its place: %+v\n%s%s", v.Name, turns-moved, pace, v.Verdict, w.encode(w.s), w.fleet)
		}
	}
	for _, v := range m.in(Queued) {
		if v.Verdict.Code != analysis.Holding {
			continue // it says itself what helps
		}
		if !slices.ContainsFunc(m.with(counted), func(o *Version) bool { return m.actsOn(o) }) {
			w.t.Fatalf("%s waits since %d turns of %s, and nobody knows what for: %s\n%s%s", v.Name, turns-moved, pace, v.Verdict.Reason, w.encode(w.s), w.fleet)
		}
	}
}

// actsOn reports whether a version that holds a place says what a person can do about that.
func (m *machine) actsOn(v *Version) bool {
	if v.Phase == Paused { // by a person, whatever else is said of it
		return true
	}
	switch v.Verdict.Code {
	case analysis.Paused, analysis.Unreachable, analysis.DeadlinePassed, analysis.NoTraffic:
		return true
	case analysis.NotInForce:
		return m.Subscribers == 0
	}
	return m.HeldBy(v) != ""
}

// clean is evidence of a while without an error.
func (w *walk) clean(pace time.Duration) Event {
	counts := map[string]analysis.Counts{}
	for _, v := range w.s.Versions {
		counts[v.Name] = analysis.Counts{Requests: float64(w.s.Weight(v.Name))}
	}
	return Observed{At: w.at, Batch: time.Second, Cells: []Cell{{Slice: "n", From: w.at.Add(-pace), To: w.at, Counts: counts, Answers: w.answers(counts)}}}
}

// answers lays counts into classes; one in three times nobody answers what fails.
func (w *walk) answers(counts map[string]analysis.Counts) map[string][]analysis.Answer {
	if len(w.s.Policy.Route.Classes) == 0 {
		return nil
	}
	all := map[string][]analysis.Answer{}
	for name, n := range counts {
		left := n
		if int(n.Requests)%3 == 0 {
			left = analysis.Counts{Requests: n.Requests - n.Errors}
		}
		for i, class := range []string{"a", "b", policy.Rest, "other"} {
			part := analysis.Counts{Requests: math.Ceil(left.Requests / float64(4-i)), Errors: math.Ceil(left.Errors / float64(1+i))}
			part.Errors = min(part.Errors, part.Requests)
			left.Requests, left.Errors = left.Requests-part.Requests, left.Errors-part.Errors
			if part.Requests > 0 {
				all[name] = append(all[name], analysis.Answer{Class: class, Code: "200", Counts: part})
			}
		}
	}
	return all
}

// hear tells the state what the hub says of the Envoys.
func (w *walk) hear() {
	for _, e := range w.fleet.status(w.at) {
		w.step(e)
	}
	w.served()
}

// restart ends canaryd and starts it again on what is stored.
func (w *walk) restart() {
	w.s = Resume(mustDecode(w.t, mustEncode(w.t, w.s)), w.at)
	w.frugal.end(w)
	w.frugal = frugal{State: w.s.clone()}
	w.fleet.restart(&w.s)
	w.step(PolicyChanged{At: w.at, Policy: w.s.Policy, Hash: w.s.PolicyHash})
}

func (w *walk) event() Event {
	switch k := w.next() % 32; {
	case k < 3:
		w.names++
		if w.next()%3 == 0 {
			return Announced{At: w.at, Version: "v" + strconv.Itoa(w.next()%12), Image: "r/x:1", Paused: w.next()%4 == 0, Again: w.next()%2 == 0, Once: w.next()%2 == 0, Digest: []string{"", "a", "b"}[w.next()%3]}
		}
		return Announced{At: w.at, Version: "v" + strconv.Itoa(w.next()%12), Endpoints: []string{"10.0.0.0:80", "10.0.0.1:80"}[w.next()%2:], Again: w.next()%2 == 0,
			Origin: []string{"", "", "file_sd"}[w.next()%3], Once: w.next()%4 == 0}
	case k < 5:
		up := w.next()%4 > 0
		if !up && w.next()%2 == 0 { // trouble seldom comes alone
			w.fleet.all[w.next()%3].most = -1
		}
		return Probed{At: w.at, Version: w.pick(), Up: up}
	case k < 6:
		return Commanded{At: w.at, Verb: []string{"promote", "abort", "pause", "resume"}[w.next()%4], Version: w.pick(), Reachable: w.next()%8 > 0, Knowing: w.next()%2 > 0, By: "a person"}
	case k < 7 && w.next()%2 == 0:
		e := Launched{At: w.at, Version: w.pick(), Attempt: 1 + w.next()%2, Note: "n"}
		switch w.next() % 5 {
		case 0:
			e.Failed = true
		case 1:
			e.Done = Goal(2 + w.next()%3)
		case 2, 3:
			e.Image, e.Digests = w.next()%2 == 0, []string{"a", "b"}[:w.next()%3]
			e.Endpoints = []string{"172.17.0." + strconv.Itoa(2+w.next()%2) + ":8080"}
		}
		return e
	case k < 7 && w.next()%4 == 0:
		if w.next()%2 == 0 {
			return Sampled{At: w.at, Failures: map[string][]analysis.Example{w.pick(): {{Class: "a", Kind: analysis.TimedOut, N: float64(w.next())}}}}
		}
		return Recalled{At: w.at, Version: w.pick(), Attempt: 1 + w.next()%3}
	case k < 7 && w.next()%2 == 0:
		return Left{At: w.at, Version: w.pick()}
	case k < 7 && w.next()%2 == 0:
		return PolicyChanged{At: w.at, Policy: w.s.Policy, Hash: strconv.Itoa(w.next())}
	case k < 7:
		return PolicyChanged{At: w.at, Policy: w.policy(), Hash: strconv.Itoa(w.next())}
	case k < 8 && w.next()%8 == 0:
		w.restart()
		return nil
	case k < 9:
		w.fleet.change(w.fleet.all[w.next()%3], w.next())
		return nil
	case k < 10:
		w.at = w.at.Add(time.Duration(w.next()) * time.Second / 4)
		w.at = w.at.Add([]time.Duration{0, 0, 0, 0, 0, 0, keepFor, refusedFor}[w.next()%8])
		return Tick{At: w.at}
	case k < 11:
		return Observed{At: w.at, Missing: &Missing{analysis.SourceUnreachable, "away"}}
	case k < 17:
		w.at = w.at.Add(time.Millisecond)
		w.fleet.publish(&w.s)
		for _, e := range w.fleet.all {
			if w.next()%8 > 0 {
				w.fleet.answer(e)
			}
		}
		return nil
	case k > 29:
		if v := w.startable(); v != nil {
			return Launched{At: w.at, Version: v.Name, Attempt: v.Attempt, Image: true, Endpoints: []string{"172.17.0.9:8080"}}
		}
	}
	return w.evidence()
}

// startable is a version whose containers are to run and do not yet.
func (w *walk) startable() *Version {
	for _, c := range w.s.Containers() {
		if v := w.s.Version(c.Version); c.Goal == Start && len(v.Endpoints) == 0 {
			return v
		}
	}
	return nil
}

func (w *walk) pick() string {
	if len(w.s.Versions) == 0 {
		return "v0"
	}
	return w.s.Versions[w.next()%len(w.s.Versions)].Name
}

func (w *walk) evidence() Event {
	from := w.at.Add(-time.Duration(w.next()%2) * time.Second / 2)
	w.at = w.at.Add(time.Second)
	counts := map[string]analysis.Counts{}
	for _, v := range w.s.Versions {
		n := float64(w.next()) * float64(1+w.s.Weight(v.Name)) / 100
		x := 0.0
		if w.next()%16 == 0 {
			x = n * float64(w.next()) / 255
		}
		counts[v.Name] = analysis.Counts{Requests: float64(int(n)), Errors: float64(int(x))}
	}
	c := Cell{Slice: "n", From: from, To: w.at, Counts: counts, Answers: w.answers(counts), Endpoints: instances(counts, w.next()%4)}
	w.opened(&c)
	return Observed{At: w.at, Batch: time.Second, Cells: []Cell{c}}
}

// instances lays counts onto so many endpoints, of which the first fails most; none: that is not told.
func instances(counts map[string]analysis.Counts, n int) map[string][]analysis.Slice {
	if n == 0 {
		return nil
	}
	all := map[string][]analysis.Slice{}
	for name, left := range counts {
		for i := range n {
			part := analysis.Counts{Requests: math.Ceil(left.Requests / float64(n-i))}
			part.Errors = min(left.Errors, part.Requests)
			left.Requests, left.Errors = left.Requests-part.Requests, left.Errors-part.Errors
			all[name] = append(all[name], analysis.Slice{Name: "10.0.0." + strconv.Itoa(i) + ":80", Counts: part})
		}
	}
	return all
}

// opened adds to a cell how long answers took, and how many requests began, where that is told.
func (w *walk) opened(c *Cell) {
	what := w.next()
	if what%2 == 0 {
		c.Issued = map[string]float64{}
	}
	if what%4 < 2 {
		c.Times = map[string][]analysis.Times{}
	}
	for _, v := range w.s.Versions {
		n := c.Counts[v.Name].Requests
		if c.Issued != nil && w.next()%8 > 0 {
			c.Issued[v.Name] = n + float64(w.next()%16)
		}
		if c.Times != nil && w.next()%8 > 0 {
			slow := float64(int(n * float64(w.next()) / 512))
			c.Times[v.Name] = []analysis.Times{{Name: []string{"", v.Name}[w.next()%2], UpTo: []float64{0.1, 0.5}, N: []float64{n - slow, slow, 0}}}
		}
	}
}

func (w *walk) step(e Event) {
	old := w.s
	w.steps++
	past := pastOf(&old)
	thorough := w.steps%16 == 0 // to go through whole states is slow under the fuzzer
	var before uint64
	var told []byte
	if thorough {
		before, told = w.digest(&old), w.encodeEvent(e)
	}
	next, records, err := Step(old, e)
	for v, was := range past {
		if !reflect.DeepEqual(*v, was) {
			w.t.Fatalf("%T changed %s, which has ended, in its argument", e, v.Name)
		}
	}
	if thorough {
		if w.digest(&old) != before {
			w.t.Fatal("Step changed its argument")
		}
		if string(w.encodeEvent(e)) != string(told) {
			w.t.Fatalf("Step changed what it was told: %T", e)
		}
		if w.kept = append(w.kept, keptState{old, before}); len(w.kept) > 4 { // states share what does not change
			if k := &w.kept[0]; w.digest(&k.State) != k.sum {
				w.t.Fatal("a step changed what a state from long before it shares with its argument")
			}
			w.kept = w.kept[1:]
		}
	}
	if thorough {
		w.inPlace(old, next, e, err)
	}
	if w.frugal.take(w, e); thorough && !reflect.DeepEqual(w.frugal.State, next) {
		w.t.Fatalf("%T makes\n%s\nof a state in its own memory, and else\n%s", e, w.encode(w.frugal.State), w.encode(next))
	}
	if err != nil {
		return
	}
	w.s = next
	w.generations(old)
	for _, r := range records {
		if r.Kind == KindPromoted {
			w.ramp = r.By == System
		}
	}
	if !KeepsDecisions(e, &old, &w.s) || len(records) > 0 {
		w.decided = w.s
	}
	w.ramp = w.ramp && (old.Stable == w.s.Stable || len(records) > 0 && slices.ContainsFunc(records, func(r Record) bool { return r.Kind == KindPromoted }))
	if thorough {
		w.keepsDecisions(e)
	}
	if w.steps%64 == 0 { // to encode and decode a state takes as long as tens of steps
		w.survivesRestart()
	}
	w.sums()
	w.uneventful()
	w.passes(old, e, records)
	w.forgets(old)
	w.watched()
	w.cuts(e, records)
	w.recalls(old, e)
	w.containers()
	w.raises(old, e, records)
	w.attempts(old, e)
	w.pauses(old, e)
	w.line()
	w.wayBack(old, records)
	w.exercised(records)
}

// A state that takes an event in becomes what Step makes of it, and stays as it is where Step refuses.
func (w *walk) inPlace(old, next State, e Event, refused error) {
	s := old
	if _, err := s.Take(e, nil); (err == nil) != (refused == nil) {
		w.t.Fatalf("Take says %v of %T, Step says %v", err, e, refused)
	}
	if !reflect.DeepEqual(s, next) {
		w.t.Fatalf("%T makes\n%s\nof a state in place, and else\n%s", e, w.encode(s), w.encode(next))
	}
}

// A tick that is said to be uneventful changes nothing but the time.
func (w *walk) uneventful() {
	for _, d := range []time.Duration{-time.Minute, 0, time.Second, 2 * time.Second, 5 * time.Second, 20 * time.Second, 31 * time.Second, time.Minute, 2 * time.Minute, time.Hour, 25 * time.Hour} {
		at := plain(w.at.Add(d))
		if !w.s.uneventful(at) {
			continue
		}
		got := w.s
		records, err := got.move(Tick{At: at}, nil)
		if err != nil || len(records) > 0 {
			w.t.Fatalf("an uneventful tick after %s: %v %v", d, records, err)
		}
		want := w.s
		want.At = at
		got.Borne, got.Refused = nil, nil // an empty list is none
		want.Borne, want.Refused = nil, nil
		if !reflect.DeepEqual(got, want) {
			w.t.Fatalf("an uneventful tick after %s:\n%s\nmakes\n%s", d, w.encode(want), w.encode(got))
		}
	}
}

// After a tick that changed nothing, and evidence that decided nothing, there is nothing for a tick to do: it may be left out.
func (w *walk) passes(old State, e Event, records []Record) {
	switch e := Plain(e).(type) {
	case Tick:
		w.passing = old.uneventful(e.At)
		return
	case Observed:
		w.passing = w.passing && len(records) == 0 && w.s.Generation == old.Generation
	default:
		w.passing = false
	}
	if !w.passing {
		return
	}
	got := w.s
	records, err := got.move(Tick{At: w.s.At}, nil)
	for _, v := range got.Versions {
		if was := w.s.Version(v.Name); was == nil || was.Verdict.Code != v.Verdict.Code || was.Verdict.Reason != v.Verdict.Reason {
			w.t.Fatalf("a tick after evidence says %q of %s", v.Verdict.Reason, v.Name)
		}
	}
	if err != nil || len(records) > 0 || !KeepsDecisions(Tick{}, &w.s, &got) {
		w.t.Fatalf("a tick after evidence does something: %v %v", err, records)
	}
}

// What is forgotten ended long ago, before all that are remembered and have nothing that is still to go, and is known by its name.
func (w *walk) forgets(old State) {
	for _, o := range old.Versions {
		if w.s.Version(o.Name) != nil {
			continue
		}
		newer := 0
		for _, v := range w.s.ended() {
			if v.EndedAt.Before(o.EndedAt) && (w.s.Policy.Docker == nil || v.Image == "") {
				w.t.Fatalf("%s is forgotten, which ended at %s, and %s is not, which ended at %s", o.Name, o.EndedAt, v.Name, v.EndedAt)
			}
			newer++
		}
		if o.Phase.Live() || w.at.Sub(o.EndedAt) < keepFor || newer < keepEnded || !slices.Contains(w.s.Forgotten, o.Name) {
			w.t.Fatalf("%s is forgotten at %s, beside %d others that have ended: %+v", o.Name, w.at, newer, o)
		}
	}
}

// pastOf is what is said of the versions that have ended: states share them.
func pastOf(s *State) map[*Version]Version {
	past := map[*Version]Version{}
	for _, v := range s.ended() {
		past[v] = *v
	}
	return past
}

// What is decided is as it was when it had to be stored last.
func (w *walk) keepsDecisions(e Event) {
	stored, is := w.decided.unlearnt(), w.s.unlearnt()
	for _, s := range []State{stored, is} {
		for _, v := range s.with(live) {
			v.lookedUp = lookedUp{} // it is at hand after evidence only
		}
	}
	if w.digest(&stored) != w.digest(&is) {
		w.t.Fatalf("%T leaves what is decided as it was, which was\n%s\nand is\n%s", e, w.encode(stored), w.encode(is))
	}
}

// What was decided last, with the evidence of now, is the state of now.
func (w *walk) inParts(want State) {
	decided, _, err := EncodeParts(w.decided, true)
	if err != nil {
		w.t.Fatal(err)
	}
	none, evidence, err := EncodeParts(w.s, false)
	if err != nil || none != nil {
		w.t.Fatal(none, err)
	}
	got, lost, err := DecodeParts(decided, evidence)
	if err != nil || len(lost) > 0 {
		w.t.Fatal(err, lost)
	}
	if w.digest(&got) == w.digest(&want) {
		return
	}
	if g, s := w.encode(got), w.encode(want); !bytes.Equal(g, s) {
		n := 0
		for n < min(len(g), len(s)) && g[n] == s[n] {
			n++
		}
		from := max(0, n-60)
		w.t.Fatalf("in parts:\n%s\nwhole:\n%s", g[from:min(len(g), n+40)], s[from:min(len(s), n+40)])
	}
}

// Nothing is promoted by canaryd of which a class that is due was not seen to work.
func (w *walk) exercised(records []Record) {
	m := &machine{State: &w.s, at: w.at}
	for _, r := range records {
		v := w.s.Version(r.Version)
		if r.Kind != KindPromoted || r.By != System || v == nil {
			continue
		}
		for _, k := range v.Classes {
			if m.due(v, k.Name) && k.Canary.Requests-k.Canary.Errors < v.Config.Exercise-1e-6 {
				w.t.Fatalf("%s was promoted with %+v of %v", v.Name, k.Canary, k.Name)
			}
		}
	}
}

// Nobody waits without a reason that says what for.
func (w *walk) line() {
	for _, v := range w.s.Versions {
		starts := v.Wanted != "" || v.Image != "" && len(v.Endpoints) == 0 // its containers are being started: Launching says how far that is
		if w.s.Stable != "" && v.is(inLine) && v.Verdict.Reason == "" && !starts {
			w.t.Fatalf("%s is %s, and nobody knows why: %+v", v.Name, v.Phase, v)
		}
	}
}

// What canaryd goes back to by itself was neither judged worse nor left by hand for an older version.
func (w *walk) wayBack(old State, records []Record) {
	for _, r := range records {
		if r.Kind != KindReturned && (r.Kind != KindAborted || r.Version != old.Stable || w.s.Stable == old.Stable) {
			continue
		}
		if slices.ContainsFunc(records, func(r Record) bool { return r.Kind == KindPromoted }) {
			continue // a person chose it
		}
		to := old.Version(w.s.Stable)
		if to == nil || to.Alarmed && !to.Trusted || to.Phase.is(cut) || !to.Trusted && to.Left || len(to.Endpoints) == 0 || !to.Reachable {
			w.t.Fatalf("%s of %s leads to %+v", r.Kind, r.Version, to)
		}
	}
}

func (w *walk) encode(s State) []byte {
	raw, err := json.Marshal(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *walk) encodeEvent(e Event) []byte {
	raw, err := EncodeEvent(e)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

// Invariant 1: weights add up to 10 000 as soon as there is a version, and so do the slots.
func (w *walk) sums() {
	total, slots := 0, 0
	for _, v := range w.s.Versions {
		n := w.s.Weight(v.Name)
		if n < 0 {
			w.t.Fatalf("%s has weight %d", v.Name, n)
		}
		if n > 0 && !v.Phase.Live() || n > 0 && (v.Phase == Queued || v.Phase == Warming || v.Phase == Draining) {
			w.t.Fatalf("%s is %s and has weight %d", v.Name, v.Phase, n)
		}
		total += n
	}
	t := w.s.Table()
	for _, r := range t.Slots {
		slots += r.Count
		if !slices.ContainsFunc(t.Clusters, func(c Cluster) bool { return c.Version == r.Version }) {
			w.t.Fatalf("slots of %q are served, and Envoy does not know where it is", r.Version)
		}
		if v := w.s.Version(r.Version); v == nil || v.Phase == Failed || v.Phase == Aborted {
			w.t.Fatalf("slots of %q are served", r.Version)
		}
	}
	if v := w.s.Version(w.s.Stable); v != nil && len(v.Endpoints) == 0 { // the first version's containers do not run yet
		if slots != 0 || v.LaunchedAt != (time.Time{}) {
			w.t.Fatalf("%s has no endpoints, and %d slots are served", v.Name, slots)
		}
		return
	}
	if w.s.Stable != "" && (total != policy.FullWeight || slots != policy.FullWeight) {
		w.t.Fatalf("weights add up to %d, slots to %d", total, slots)
	}
	if w.s.Stable == "" && (total != 0 || slots != 0) {
		w.t.Fatalf("no stable version, but weights %d, slots %d", total, slots)
	}
}

// Whatever can receive a request is counted; and while it is under test, it is asked and judged.
func (w *walk) watched() {
	t := w.s.Table()
	gets := func(v *Version) bool {
		return slotsOf(t.Slots, v.Name) > 0 || slices.ContainsFunc(t.Clusters, func(c Cluster) bool { return c.Version == v.Name && c.Pinned })
	}
	suspects := w.s.with(judged)
	for _, v := range w.s.Versions {
		if gets(v) && !v.Reported() {
			w.t.Fatalf("%s is %s, gets requests, and nobody counts them", v.Name, v.Phase)
		}
		if gets(v) && v.Phase.Waiting() && (!v.Probed() || v.Judge == nil || !slices.Contains(suspects, v)) {
			w.t.Fatalf("%s is %s, gets requests, and is not asked or not judged", v.Name, v.Phase)
		}
		if v.Phase.is(inLine) && !v.PinsUntil.IsZero() && !gets(v) {
			w.t.Fatalf("%s is %s, and sessions on it until %s are not honoured", v.Name, v.Phase, v.PinsUntil)
		}
	}
}

// What an Envoy sees changes only with the generation.
func (w *walk) generations(old State) {
	if was, is := old.Table(), w.s.Table(); w.s.Generation == old.Generation && old.Generation > 0 && !reflect.DeepEqual(was, is) && seen(was) != seen(is) {
		w.t.Fatalf("generation %d was %s and is %s", old.Generation, seen(was), seen(is))
	}
	if w.s.Generation < old.Generation {
		w.t.Fatalf("generation %d came after %d", w.s.Generation, old.Generation)
	}
}

// What is called in force is what every connected Envoy serves that is not lagging, and a refusal is
// known; it holds back nobody's fall, and nothing that a person or a cut decided.
func (w *walk) served() {
	table := w.s.Table()
	for _, v := range w.s.Versions {
		decided, given := w.s.Weight(v.Name), slotsOf(table.Slots, v.Name)
		for _, e := range w.fleet.all {
			borne := e.refused && (&machine{State: &w.s}).bears(e.name)
			if n := slotsOf(e.serves, v.Name); w.s.InForceAt(v.Name) && e.connected && !e.lagging && !borne && n != decided {
				w.t.Fatalf("%d is said to be in force for %s, and %s serves %d", decided, v.Name, e.name, n)
			}
			if e.refused && !borne && w.fleet.generation == w.s.Generation && w.s.Nack() == nil {
				w.t.Fatalf("%s refuses generation %d, and nobody knows", e.name, w.s.Generation)
			}
		}
		switch {
		case v.Phase != Stable && v.Phase != Warm && given > decided:
			w.t.Fatalf("%s is %s at %d and is given %d", v.Name, v.Phase, decided, given)
		case v.Phase == Warm && !w.ramp && given > decided:
			w.t.Fatalf("%s was promoted by hand, or everything went back to it, and the old %s is given %d", w.s.Stable, v.Name, given)
		}
	}
	if v := w.s.Version(w.stable); w.s.Nack() != nil && w.ramp && w.stable != w.s.Stable && v != nil && v.Phase == Warm {
		if given := slotsOf(table.Slots, w.s.Stable); given > slotsOf(w.accepted, w.s.Stable) {
			w.t.Fatalf("the promotion of %s is refused, it had %v, and is given %d", w.s.Stable, w.accepted, given)
		}
	}
	if w.s.InForce {
		w.accepted = table.Slots
		if w.s.Nack() == nil {
			w.stable = w.s.Stable
		}
	}
	if w.s.Nack() == nil && seen(table) != seen(w.s.decided()) {
		w.t.Fatalf("nobody refuses %s, and %s is given", seen(w.s.decided()), seen(table))
	}
}

// Invariant 2: what was cut stays at 0, without pins, until a person promotes it or a new attempt.
func (w *walk) cuts(e Event, records []Record) {
	for _, v := range w.s.Versions {
		if v.Phase == Failed || v.Phase == Aborted {
			w.cut[v.Name] = v.Attempt
			for _, c := range w.s.Table().Clusters {
				if c.Version == v.Name {
					w.t.Fatalf("%s is %s and Envoy still knows it", v.Name, v.Phase)
				}
			}
			continue
		}
		attempt, was := w.cut[v.Name]
		if !was {
			continue
		}
		c, byHand := e.(Commanded)
		if v.Attempt == attempt && !(byHand && c.Verb == "promote" && c.Version == v.Name) {
			w.t.Fatalf("%s was cut and is %s after %T", v.Name, v.Phase, e)
		}
		delete(w.cut, v.Name)
	}
	for _, r := range records {
		if r.Kind == KindRolledBack && r.After[r.Version] != 0 {
			w.t.Fatalf("%s was rolled back and has %d", r.Version, r.After[r.Version])
		}
	}
}

// recalls: what an Envoy remembers fails the attempt if it is under test and no person wants it, and fails no other
// one.
func (w *walk) recalls(old State, e Event) {
	r, ok := e.(Recalled)
	if !ok {
		return
	}
	for _, was := range old.Versions {
		v := w.s.Version(was.Name)
		switch {
		case was.Name == r.Version && was.Attempt == r.Attempt && was.Phase.Waiting() && was.Wanted == "":
			if v != nil && (v.Phase != Failed || v.Verdict.Code != analysis.Recalled || w.s.Weight(v.Name) > 0) {
				w.t.Fatalf("%s was recalled, and is %s with %d: %+v", v.Name, v.Phase, w.s.Weight(v.Name), v.Verdict)
			}
		case v != nil && v.Phase == Failed && was.Phase != Failed:
			w.t.Fatalf("attempt %d of %s was recalled, and attempt %d of %s was %s and is %+v", r.Attempt, r.Version, was.Attempt, was.Name, was.Phase, v)
		}
	}
}

// Nothing that Envoy knows, and nothing that may still be served, is ever stopped; only what is out of service idles.
func (w *walk) containers() {
	for _, v := range w.s.Versions {
		if v.Idle && v.Phase.Live() && v.Phase != Queued {
			w.t.Fatalf("%s is %s and idle", v.Name, v.Phase)
		}
	}
	t := w.s.Table()
	for _, c := range w.s.Containers() {
		if c.Goal < Stop {
			w.alone(c)
			continue
		}
		if w.s.Weight(c.Version) > 0 || c.Version == w.s.Stable || slices.ContainsFunc(t.Clusters, func(k Cluster) bool { return k.Version == c.Version }) {
			w.t.Fatalf("%s is to be stopped and is served: %+v", c.Version, w.s.Version(c.Version))
		}
		for _, e := range w.fleet.all {
			if slices.Contains(e.reaches, c.Version) && w.fleet.heard {
				w.t.Fatalf("%s is to be stopped (%s), and %s, connected: %v, may send users to it: %+v", c.Version, c.Goal, e.name, e.connected, w.s.Crowds)
			}
		}
		if w.s.Subscribers > 0 && !w.s.InForce {
			w.t.Fatalf("%s is to be stopped before its end is in force", c.Version)
		}
	}
}

// The containers of earlier attempts go only when no Envoy may send users to them by an older table.
func (w *walk) alone(c Container) {
	for _, e := range w.fleet.all {
		if c.Alone && c.Attempt > 1 && w.fleet.heard && slotsOf(e.serves, c.Version) > 0 && e.has != seen(w.s.Table()) {
			w.t.Fatalf("containers of attempts before %d of %s may go, and %s serves %s", c.Attempt, c.Version, e.name, e.has)
		}
	}
}

// Invariants 4 and 6: canaryd raises a weight only right after judging evidence under the present
// weight, and to the first configured step above it.
func (w *walk) raises(old State, e Event, records []Record) {
	for _, v := range w.s.Versions {
		was, is := old.Weight(v.Name), w.s.Weight(v.Name)
		o := old.Version(v.Name)
		if is <= was || o == nil || was == 0 || v.Phase != Canary && v.Phase != Paused {
			continue
		}
		ev, ok := e.(Observed)
		if !ok || len(ev.Cells) == 0 || ev.Missing != nil {
			w.t.Fatalf("%s rose from %d to %d after %T", v.Name, was, is, e)
		}
		c := ev.Cells[0]
		counted := c.Counts[v.Name].Requests >= 1 || o.Judge.Open[0].Canary.Requests >= 1 ||
			old.hangAge() > 0 && v.Judge.Recent.Sum(v.seconds(w.at)).Canary.Requests >= 1 // what was answered sooner than others counts with these
		if !old.InForce || o.WeightSince.IsZero() || c.From.Before(o.WeightSince) || !counted {
			w.t.Fatalf("%s rose from %d to %d without fresh evidence: in force %v since %s, cell from %s with %v", v.Name, was, is, old.InForce, o.WeightSince, c.From, c.Counts[v.Name])
		}
		steps := w.s.Policy.Ramp.Weights()
		i := slices.IndexFunc(steps, func(n int) bool { return n > was })
		if is != steps[i] {
			w.t.Fatalf("%s rose from %d to %d, the next step is %d", v.Name, was, is, steps[i])
		}
	}
	for _, r := range records {
		if r.Kind != KindPromoted || r.By != System {
			continue
		}
		if _, ok := e.(Observed); !ok || !old.InForce || old.Version(r.Version).WeightSince.IsZero() {
			w.t.Fatalf("%s was promoted by %T", r.Version, e)
		}
	}
}

// What a person paused takes nothing more, whatever becomes of it, until a person ends the pause.
func (w *walk) pauses(old State, e Event) {
	for _, v := range w.s.Versions {
		o := old.Version(v.Name)
		if o == nil || !o.paused() || !v.is(open) || o.Attempt != v.Attempt {
			continue
		}
		c, said := e.(Commanded)
		if said = said && (c.Verb == "resume" || c.Verb == "promote") && c.Version == v.Name; !said && (!v.paused() || w.s.Weight(v.Name) > old.Weight(v.Name)) {
			w.t.Fatalf("%s is paused at %d, and after %T it is %s at %d, paused: %v", v.Name, old.Weight(v.Name), e, v.Phase, w.s.Weight(v.Name), v.paused())
		}
	}
}

// A new attempt begins because somebody announces the version, or promotes it; of one that was cut only with their
// explicit word. It is never the way back, it knows nothing of the earlier one, and the stable version keeps its watch.
func (w *walk) attempts(old State, e Event) {
	for _, v := range w.s.Versions {
		o := old.Version(v.Name)
		if o == nil || o.Attempt == v.Attempt {
			continue
		}
		if c, ok := e.(Commanded); ok && (c.Verb == "promote" || c.Verb == "abort") {
			continue // its containers are started anew
		}
		a, ok := e.(Announced)
		switch {
		case !ok || a.Version != v.Name || a.Origin != "":
			w.t.Fatalf("attempt %d of %s began with %T %+v", v.Attempt, v.Name, e, e)
		case a.Once && (a.Digest == "" || len(o.Digests) == 0 || slices.Contains(o.Digests, a.Digest)) || !a.Once && o.Phase.is(cut) && !a.Again:
			w.t.Fatalf("attempt %d of %s, which was %s, began with %+v", v.Attempt, v.Name, o.Phase, a)
		case !o.Phase.is(cut) && !o.Phase.is(reborn):
			w.t.Fatalf("attempt %d of %s began while it was %s", v.Attempt, v.Name, o.Phase)
		case v.Attempt != o.Attempt+1 || v.Seq <= o.Seq || v.Pin == o.Pin || v.Counts.Requests > 0 || v.Trusted && w.s.Stable != v.Name:
			w.t.Fatalf("attempt %d of %s is %+v, and was %+v", v.Attempt, v.Name, v, o)
		case old.Stable != "" && (w.s.Stable != old.Stable || (w.s.Watch == nil) != (old.Watch == nil)):
			w.t.Fatalf("attempt %d of %s: stable is %s, was %s, the watch %v was %v", v.Attempt, v.Name, w.s.Stable, old.Stable, w.s.Watch, old.Watch)
		}
	}
}

// A stored state means the same after it was read again.
func (w *walk) survivesRestart() {
	again := mustDecode(w.t, mustEncode(w.t, w.s))
	a, _ := json.Marshal(again.Table())
	b, _ := json.Marshal(w.s.Table())
	if string(a) != string(b) {
		w.t.Fatalf("the table changed over a restart:\n%s\n%s", b, a)
	}
	w.inParts(again)
}

// Users stay: growing keeps every slot, shrinking gives back the last taken, and others lose nothing.
func TestSlotsMoveAsLittleAsPossible(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var s State
	s.Policy.Service, s.Stable = "shop", "v0"
	for _, n := range []string{"v0", "v1", "v2", "v3"} {
		s.Versions = append(s.Versions, &Version{Name: n, Phase: Canary})
	}
	before, after := slotOwners(&s, nil), []byte(nil)
	for range 5000 {
		v := s.Versions[1+r.IntN(3)]
		had := size(v.Slots)
		want := min(r.IntN(4000), had+s.Weight("v0")-1000)
		s.setWeight(v, want)
		after = slotOwners(&s, after[:0])
		name := v.Name[1]
		for i := range after {
			if before[i] == after[i] {
				continue
			}
			if want >= had && (before[i] != '0' || after[i] != name) || want < had && (before[i] != name || after[i] != '0') {
				t.Fatalf("%s %d -> %d: slot %d went from v%c to v%c", v.Name, had, want, i, before[i], after[i])
			}
		}
		before, after = after, before
		if got := s.Weight(v.Name); got != want {
			t.Fatalf("%s has %d, want %d", v.Name, got, want)
		}
	}
}

// slotOwners appends the number of every slot's version.
func slotOwners(s *State, out []byte) []byte {
	for _, r := range s.runs() {
		out = append(out, bytes.Repeat([]byte{r.Version[1]}, r.Count)...)
	}
	return out
}
