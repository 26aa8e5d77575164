package controller

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
)

// long has rollouts that nothing ends, and what is journalled of them.
type long struct {
	t        *testing.T
	u        *unit
	c        *Controller
	r        *rand.Rand
	at       time.Time
	parts    []store.Part
	states   int           // bytes of states that were stored beside them
	events   int           // that were taken
	stepping time.Duration // by the state machine
	writing  time.Duration // into the journal, by the loop
	until    map[string]time.Time
	classes  int // that answers are told apart by
}

const longPolicy = `service: shop
route: {probe: "off"}
versions: [{version: v1, endpoints: ["10.0.0.1:80", "10.0.0.2:80"], stable: true}]
ramp: {steps: [1%, 5%, 10%, 25%, 50%, 100%], hold: 10m}
judge: {clump: 1}
`

func newLong(t *testing.T) *long {
	l := &long{t: t, u: newUnit(rollout.State{}), r: rand.New(rand.NewPCG(1, 2)), at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), until: map[string]time.Time{}}
	l.c = &Controller{busy: map[string]*unit{"shop": l.u}}
	d := readPolicy(t, longPolicy)
	l.tell(rollout.PolicyChanged{At: l.at, Policy: d.Policy, Hash: d.Hash})
	return l
}

func (l *long) tell(e rollout.Event) {
	for e != nil {
		begin := time.Now()
		next, records, err := rollout.Step(l.u.state, e)
		stepped := time.Now()
		if err != nil {
			l.t.Fatal(err)
		}
		before := l.u.state
		l.u.state = next
		l.c.journalled(l.u, &before, e, records)
		l.stepping, l.writing, l.events = l.stepping+stepped.Sub(begin), l.writing+time.Since(stepped), l.events+1
		e = nil
		if !next.InForce {
			l.at = l.at.Add(1234567)
			e = rollout.Applied{At: l.at, Generation: next.Generation, InForce: true, Subscribers: 2,
				Crowds: []rollout.Crowd{{Version: "0123456789abcdef", Has: next.Given, Present: true, Nodes: []string{"edge-1", "edge-2"}}}}
		}
	}
}

// lasts lets a rollout have so much time, with reports of two Envoys of 500 requests/s at intervals.
func (l *long) lasts(d, every time.Duration) {
	begin, ticked, saved := l.at, l.at, l.at
	for l.at.Sub(begin) < d {
		l.at = l.at.Add(every/2 + time.Duration(l.r.IntN(2_000_000)) - 1_000_000)
		name := []string{"edge-1", "edge-2"}[l.r.IntN(2)]
		from := l.until[name]
		if from.IsZero() {
			from = l.at.Add(-every)
		}
		to := l.at.Add(-time.Duration(l.r.IntN(200_000)))
		c := rollout.Cell{Slice: name, From: from, To: to, Counts: map[string]analysis.Counts{}, Endpoints: map[string][]analysis.Slice{}, Has: l.u.state.Accepted, HasSince: l.u.state.Since}
		l.until[name] = to
		for v, w := range l.u.state.Weights() {
			for i := range 2 {
				n := float64(int(250 * to.Sub(from).Seconds() * float64(w) / policy.FullWeight * (0.9 + 0.2*l.r.Float64())))
				x := 0.0
				if l.r.Float64() < n*0.001 {
					x = 1
				}
				one := analysis.Counts{Requests: n, Errors: min(n, x)}
				c.Counts[v] = c.Counts[v].Add(one)
				c.Endpoints[v] = append(c.Endpoints[v], analysis.Slice{Name: fmt.Sprintf("10.0.0.%d:80", i), Counts: one})
				l.answer(&c, v, c.Endpoints[v][i])
			}
		}
		l.tell(rollout.Observed{At: l.at, Batch: every, Cells: []rollout.Cell{c}})
		if l.at.Sub(ticked) >= time.Second {
			ticked = l.at
			l.tell(rollout.Tick{At: l.at})
		}
		if l.at.Sub(saved) >= checkpoint {
			saved = l.at
			l.save()
		}
	}
	l.save()
}

// answer sorts what an endpoint counted by class: half of the requests are of the first one, half of the others of the second,
// and so on.
func (l *long) answer(c *rollout.Cell, version string, of analysis.Slice) {
	if l.classes == 0 {
		return
	}
	if c.Answers == nil {
		c.Answers, c.Times, c.Issued = map[string][]analysis.Answer{}, map[string][]analysis.Times{}, map[string]float64{}
	}
	byClass := map[int]float64{}
	times := analysis.Times{Name: of.Name, UpTo: analysis.Bounds(nil)}
	for range int(of.Requests) {
		class := 0
		for class < l.classes-1 && l.r.IntN(2) == 0 {
			class++
		}
		byClass[class]++
		times.Put(int(30*math.Exp(l.r.NormFloat64())), 1)
	}
	for class, n := range byClass {
		c.Answers[version] = analysis.JoinAnswers(c.Answers[version], []analysis.Answer{{Class: fmt.Sprint("class-", class), Code: "200", Endpoint: of.Name, Counts: analysis.Counts{Requests: n}}})
	}
	if of.Requests > 0 {
		c.Times[version] = append(c.Times[version], times)
	}
	c.Issued[version] += of.Requests
}

// save is a checkpoint.
func (l *long) save() {
	parts, err := storedParts(l.u.scribe.take(&l.u.state, false))
	if err != nil {
		l.t.Fatal(err)
	}
	l.u.scribe.landed(true, nil)
	l.parts = append(l.parts, parts...)
	_, evidence, err := rollout.EncodeParts(l.u.state, false)
	if err != nil {
		l.t.Fatal(err)
	}
	l.states += len(evidence)
}

func (l *long) announce(version string) {
	l.tell(rollout.Announced{At: l.at, Version: version, Endpoints: []string{"10.0.0.3:80", "10.0.0.4:80"}, Secret: version, By: "ci"})
}

// chunks are those that are complete, packed.
func (l *long) chunks() (packed [][]byte) {
	byBegin := map[uint64][][]byte{}
	for _, p := range l.parts {
		byBegin[p.Begin] = append(byBegin[p.Begin], p.Data)
		if p.Last {
			raw, err := journal.Pack(byBegin[p.Begin])
			if err != nil {
				l.t.Fatal(err)
			}
			packed = append(packed, raw)
		}
	}
	return packed
}

func size(all [][]byte) (n int) {
	for _, x := range all {
		n += len(x)
	}
	return n
}

func figures() bool { return os.Getenv("FIGURES") != "" }

// What a live rollout writes an hour, and what that costs the loop.
func TestFigureJournalBytes(t *testing.T) {
	hours := 0.1
	if figures() {
		hours = 3
	}
	for i, every := range []time.Duration{100 * time.Millisecond, time.Second, 100 * time.Millisecond, time.Second} {
		l := newLong(t)
		l.classes = []int{0, 0, 20, 20}[i]
		l.announce("v2")
		l.lasts(time.Duration(hours*float64(time.Hour)), every)
		l.u.scribe.end(&l.u.state, journal.Began)
		l.save()
		var raw [][]byte
		for _, p := range l.parts {
			raw = append(raw, p.Data)
		}
		packed, written := size(l.chunks()), size(raw)
		kib := func(n int) float64 { return float64(n) / 1024 / hours }
		t.Logf("FIGURE two Envoys that report every %s, one live rollout, %d classes: %.0f KiB/h kept; written %.0f KiB/h in parts of the journal and %.0f KiB/h packed (%.2f times what is kept), beside %.0f KiB/h of states",
			every, l.classes, kib(packed), kib(written), kib(packed), float64(written+packed)/float64(packed), kib(l.states))
		t.Logf("FIGURE and of the loop's time: %.2f us for an event beside %.2f us of the state machine (%.3f)", perEvent(l.writing, l.events), perEvent(l.stepping, l.events), float64(l.writing)/float64(l.stepping))
		if kib(packed) > 8192 {
			t.Error("that is far too much")
		}
	}
}

func perEvent(d time.Duration, n int) float64 { return float64(d.Nanoseconds()) / 1000 / float64(n) }

// A week of a hundred rollouts of an hour, taken again.
func TestFigureReplayOfAWeek(t *testing.T) {
	rollouts, each := 3, 5*time.Minute
	if figures() {
		rollouts, each = 100, time.Hour
	}
	l := newLong(t)
	for i := range rollouts {
		version := "v" + strconv.Itoa(i+2)
		l.announce(version)
		l.lasts(each, time.Second)
		if v := l.u.state.Version(version); v.Phase.Waiting() {
			l.tell(rollout.Commanded{At: l.at, Verb: "abort", Version: version, By: "ann"})
		}
		l.at = l.at.Add(40 * time.Minute)
		l.tell(rollout.Tick{At: l.at})
	}
	l.u.scribe.end(&l.u.state, journal.Began)
	l.save()
	chunks := l.chunks()
	other := readPolicy(t, longPolicy+"after_promotion: {watch: 1h}\n")
	for name, d := range map[string]*policy.Document{"as it was": nil, "and under another policy": &other} {
		rd, err := journal.NewReader()
		if err != nil {
			t.Fatal(err)
		}
		re := journal.Replay{Policy: d}
		begin := time.Now()
		for _, raw := range chunks {
			c, err := rd.Read([][]byte{raw})
			if err != nil {
				t.Fatal(err)
			}
			re.Take(&c, nil)
		}
		re.Finish()
		t.Logf("FIGURE %d rollouts of %s (two Envoys, reports every second) taken again, %s: %.1f s, %d events, %d of %d decisions byte for byte, %d KiB",
			rollouts, each, name, time.Since(begin).Seconds(), re.Events, re.Same, re.Decisions, size(chunks)/1024)
		if re.Same != re.Decisions || len(re.Otherwise) > 0 || len(re.Releases) != rollouts {
			t.Errorf("%d releases, %+v", len(re.Releases), re.Otherwise)
		}
	}
}

// What the journal adds to a transaction: of one decision, and of a checkpoint of many services. In turns, in one run.
func TestFigureJournalInAWrite(t *testing.T) {
	rounds := 20
	if figures() {
		rounds = 300
	}
	b, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	l := newLong(t)
	l.announce("v2")
	l.lasts(2*time.Minute, time.Second)
	decided, evidence, err := rollout.EncodeParts(l.u.state, true)
	if err != nil {
		t.Fatal(err)
	}
	data := l.parts[len(l.parts)-2].Data
	due := int(partLongest / checkpoint) // of so many checkpoints one has a part of a service
	for _, services := range []int{1, agedAtOnce} {
		var took [2][]time.Duration
		for i := range rounds {
			for with := range 2 {
				var ws []store.Write
				for n := range services {
					w := store.Write{Service: fmt.Sprint("shop-", n), Evidence: evidence}
					if services == 1 {
						w.State = decided
					}
					if with == 1 && (services == 1 || (i+n)%due == 0) {
						w.Parts = []store.Part{{Begin: 1, Number: uint32(i), Data: data}}
					}
					ws = append(ws, w)
				}
				begin := time.Now()
				if _, err := b.Save(ws); err != nil {
					t.Fatal(err)
				}
				took[with] = append(took[with], time.Since(begin))
			}
		}
		for i := range took {
			slices.Sort(took[i])
		}
		at := func(with int, q float64) time.Duration { return took[with][int(q*float64(rounds-1))] }
		t.Logf("FIGURE a write of %d services (%d and %d bytes of state each, the first where it is a decision, and of the journal %d of one, or of one in six): p50 %.2f ms without, %.2f ms with (%.2f); p95 %.2f and %.2f ms", services, len(decided), len(evidence), len(data),
			at(0, .5).Seconds()*1000, at(1, .5).Seconds()*1000, float64(at(1, .5))/float64(at(0, .5)), at(0, .95).Seconds()*1000, at(1, .95).Seconds()*1000)
	}
}
