package controller

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// FuzzOutbox drives the outbox with decisions, writes that end early, late, never or with an error, and
// time, and holds what is visible against a model that knows nothing but what was decided and stored when.
func FuzzOutbox(f *testing.F) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		b := make([]byte, 300)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { newDesk(t, b).run() })
}

var deskVersions = []string{"v1", "v2", "v3", "v4"}

// desk is the model: a service whose weights change at random, and a disk.
type desk struct {
	t   *testing.T
	b   []byte
	at  time.Time
	out outbox

	made   []made // decisions, by number - 1
	writes []int  // number of the decision of each write under way; a real writer has one at most
	stored int
	since  time.Time // of the oldest write under way
	taken  rollout.Table
}

// made is one decision: what it gives to whom, and what it cuts.
type made struct {
	at       time.Time
	stable   string
	weights  map[string]int
	cuts     []string
	ended    bool           // the attempts of what it cuts; else they may come back
	attempts map[string]int // present ones
}

func newDesk(t *testing.T, b []byte) *desk {
	return &desk{t: t, b: b, at: time.Unix(1_700_000_000, 0)}
}

func (d *desk) next(n int) int {
	if len(d.b) == 0 {
		return 0
	}
	x := int(d.b[0])
	d.b = d.b[1:]
	return x % n
}

func (d *desk) run() {
	for len(d.b) > 0 {
		switch k := d.next(10); {
		case k < 4:
			d.decide()
		case k < 6:
			if len(d.writes) == 0 && d.stored < len(d.made) {
				d.begin()
			}
		case k < 8:
			d.end(d.next(3) > 0)
		default:
			d.at = d.at.Add([]time.Duration{time.Millisecond, 30 * time.Millisecond, 99 * time.Millisecond, 100 * time.Millisecond, time.Minute}[d.next(5)])
		}
		d.look()
	}
	d.end(true)
	for d.stored < len(d.made) {
		d.begin()
		d.end(true)
	}
	d.look()
	if len(d.made) > 0 && len(d.out.cuts) > 0 {
		d.t.Fatalf("all is stored, and %d cuts are left", len(d.out.cuts))
	}
}

func (d *desk) last() made {
	if len(d.made) == 0 {
		return made{stable: "v1", weights: map[string]int{"v1": policy.FullWeight}, attempts: map[string]int{"v1": 1, "v2": 1, "v3": 1, "v4": 1}}
	}
	return d.made[len(d.made)-1]
}

// decide changes one weight: a raise, a lowering, a cut, or a stable version that is left for another.
func (d *desk) decide() {
	was := d.last()
	m := made{at: d.at, stable: was.stable, weights: map[string]int{}, attempts: maps.Clone(was.attempts)}
	for v, n := range was.weights {
		m.weights[v] = n
	}
	v := deskVersions[d.next(len(deskVersions))]
	switch what := d.next(4); {
	case what == 0 && v == m.stable: // everything goes back to another one
		to := deskVersions[d.next(len(deskVersions))]
		if to == v {
			return
		}
		m.cuts, m.stable, m.ended = []string{v}, to, true
		delete(m.weights, v)
	case what == 0:
		m.cuts, m.ended = []string{v}, d.next(2) == 0
		delete(m.weights, v)
	case what == 1 && v != m.stable: // promoted
		delete(m.weights, m.stable)
		m.stable = v
	case v != m.stable:
		m.weights[v] = 1 + d.next(200)*10
		if d.next(2) == 0 { // a new attempt
			m.attempts[v]++
		}
	default:
		return
	}
	rest := policy.FullWeight
	for v, n := range m.weights {
		if v != m.stable {
			rest -= n
		}
	}
	m.weights[m.stable] = rest
	d.made = append(d.made, m)
	slow := len(d.writes) > 0 && d.at.Sub(d.since) >= cutPatience
	if n := d.out.Decide(d.at, m.falls(), m.stable, slow); n != uint64(len(d.made)) {
		d.t.Fatalf("decision %d is numbered %d", len(d.made), n)
	}
}

func (m made) attempt(version string) rollout.Attempt {
	return rollout.Attempt{Version: version, Number: m.attempts[version]}
}

func (m made) falls() (fs []fall) {
	for _, v := range m.cuts {
		f := fall{version: v}
		if m.ended {
			f.attempt = m.attempt(v)
		}
		fs = append(fs, f)
	}
	return fs
}

func (d *desk) begin() {
	d.writes, d.since = []int{len(d.made)}, d.at
	if n := d.out.Begin(); n != uint64(len(d.made)) {
		d.t.Fatalf("%d is being written, %d are decided", n, len(d.made))
	}
}

func (d *desk) end(well bool) {
	if len(d.writes) == 0 {
		return
	}
	n := d.writes[0]
	d.writes = nil
	if !well {
		d.out.Failed(d.at)
		return
	}
	if older := d.next(len(d.made)) + 1; older < d.stored { // a write that was given up ends after all
		d.out.Stored(d.at, uint64(older), d.made[older-1].table(uint64(older)))
		d.look()
	}
	d.stored = n
	d.out.Stored(d.at, uint64(n), d.made[n-1].table(uint64(n)))
}

func (m made) table(n uint64) rollout.Table {
	t := rollout.Table{Service: "shop", Generation: n, Policy: &policy.Policy{}, Stable: m.stable}
	for _, v := range deskVersions { // every version that has a weight is known, as are warm ones without
		if m.weights[v] > 0 || !slices.Contains(m.cuts, v) {
			t.Clusters = append(t.Clusters, rollout.Cluster{Version: v})
		}
		if m.weights[v] > 0 {
			t.Slots = append(t.Slots, rollout.Run{Version: v, Count: m.weights[v]})
		}
	}
	return t
}

func weightsOf(t rollout.Table) map[string]int {
	w := map[string]int{}
	for _, r := range t.Slots {
		w[r.Version] += r.Count
	}
	return w
}

// look holds what is visible against what was decided.
func (d *desk) look() {
	if t, ok := d.out.Take(d.at); ok {
		d.taken = t
	}
	t, ok := d.out.Visible(d.at)
	if ok != (d.stored > 0) {
		d.t.Fatalf("%d decisions are stored, and visible: %v", d.stored, ok)
	}
	if !ok {
		return
	}
	if !same(t, d.taken) {
		d.t.Fatalf("what was taken last is not what is visible:\n%+v\n%+v", d.taken, t)
	}
	d.isAsDecided(t)
	d.endsAreNamed(t)
	if due := d.out.Due(d.at); !due.IsZero() && (due.Before(d.at) || due.After(d.at.Add(cutPatience))) {
		d.t.Fatalf("the next cut is due in %s", due.Sub(d.at))
	}
	whole := d.made[d.stored-1].table(uint64(d.stored))
	if whole.Unstored = t.Unstored; t.Generation != 0 && !same(t, whole) {
		d.t.Fatalf("generation %d is visible with other slots than it has", t.Generation)
	}
	if t.Generation != 0 && t.Generation != uint64(d.stored) || t.Generation == 0 && d.stored == len(d.made) {
		d.t.Fatalf("generation %d is visible, %d of %d decisions are stored", t.Generation, d.stored, len(d.made))
	}
}

// isAsDecided: what is visible is the durable table with the cuts carried out that were decided cutPatience ago or
// earlier, and the first few of the later ones or none.
func (d *desk) isAsDecided(t rollout.Table) {
	sum := 0
	for _, n := range weightsOf(t) {
		sum += n
	}
	if sum != policy.FullWeight && !(sum == 0 && t.Stable == "") {
		d.t.Fatalf("weights add up to %d: %v", sum, t.Slots)
	}
	var may []string
	for n := d.stored; n <= len(d.made); n++ {
		if n < len(d.made) && d.at.Sub(d.made[n].at) >= cutPatience {
			continue // it is due
		}
		stable, weights := d.after(n)
		if t.Stable == stable && maps.Equal(weightsOf(t), weights) {
			return
		}
		may = append(may, fmt.Sprintf("%s of %v", stable, weights))
	}
	d.t.Fatalf("%s of %v is visible, %d of %d decisions are stored: want %s", t.Stable, weightsOf(t), d.stored, len(d.made), strings.Join(may, ", or "))
}

// after is what is visible when the cuts up to a decision went out. Who is stable when it is cut gives everything to
// who was decided to be stable then: to one that was cut before as well, unless that ended an attempt of it. Where the
// Envoys do not have that one, nobody gets anything.
func (d *desk) after(n int) (stable string, weights map[string]int) {
	durable := d.made[d.stored-1]
	known := durable.table(uint64(d.stored))
	stable, weights = durable.stable, maps.Clone(durable.weights)
	gone, over := map[string]bool{}, map[string]bool{}
	for _, m := range d.made[d.stored:n] {
		for _, v := range m.cuts {
			gone[v] = true
			if v == stable {
				stable = m.stable
				gone[stable] = over[stable]
			}
			over[v] = over[v] || m.ended
		}
	}
	rest := policy.FullWeight
	for v, n := range weights {
		if v == stable || gone[v] {
			delete(weights, v)
		} else {
			rest -= n
		}
	}
	if gone[stable] || !known.Knows(stable) {
		return "", map[string]int{}
	}
	weights[stable] = rest
	return stable, weights
}

// endsAreNamed: what is visible names every attempt that a decision ended cutPatience ago or earlier which is not
// stored, and no other one: such a version gets nothing.
func (d *desk) endsAreNamed(t rollout.Table) {
	may := map[rollout.Attempt]bool{}
	for i, m := range d.made {
		for _, v := range m.cuts {
			a := m.attempt(v)
			if i+1 <= d.stored || !m.ended {
				continue
			}
			if may[a] = true; d.at.Sub(m.at) >= cutPatience && !slices.Contains(t.Unstored, a) {
				d.t.Fatalf("%v was ended by decision %d, %s ago (%d are stored), and is not named: %v", a, i+1, d.at.Sub(m.at), d.stored, t.Unstored)
			}
		}
	}
	for _, a := range t.Unstored {
		if !may[a] {
			d.t.Fatalf("%v is named, and no decision that is not stored ended it", a)
		}
		if weightsOf(t)[a.Version] > 0 {
			d.t.Fatalf("%v is named, and the table gives it a weight", a)
		}
	}
}

func same(a, b rollout.Table) bool {
	return a.Generation == b.Generation && slices.Equal(a.Unstored, b.Unstored) && a.Stable == b.Stable && slices.Equal(a.Slots, b.Slots) &&
		slices.EqualFunc(a.Clusters, b.Clusters, func(x, y rollout.Cluster) bool { return x.Version == y.Version })
}
