package analysis

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func paced() Config {
	cfg := defaults()
	cfg.Slow = SlowConfig{R0: 1.25, D0: 0.005, WarmUp: 60}
	return cfg
}

// Vector B2 of STATISTICS-2.md 5.
func TestTheSpecifiedVectorOfTheLoadHolds(t *testing.T) {
	load := (0.25 / 1) / (0.75 / 20)
	if m := Loaded(3, load); math.Abs(load-6.666667) > 1e-6 || math.Abs(m-14.333333) > 1e-6 {
		t.Errorf("load %.6f, m %.6f", load, m)
	}
}

// dumbSlow is the judgement of slow answers once more, one line per line of the specification, and what it adds to the sum.
type dumbSlow struct {
	cfg   *Config
	edges []dumbCapital
	open  []dumbOpen
}

func newDumbSlow(cfg *Config, edges int) *dumbSlow {
	d := &dumbSlow{cfg: cfg, open: make([]dumbOpen, edges)}
	for range edges {
		c := dumbCapital{q: 0.55, e: 1}
		for k := range c.s {
			c.s[k] = 0.45 / 12
		}
		d.edges = append(d.edges, c)
	}
	return d
}

func (d *dumbSlow) tick(batches []SlowBatch, now float64) (laid bool) {
	for i, b := range batches {
		o := &d.open[i]
		if now-o.since > 300 {
			*o = dumbOpen{}
		}
		o.add(ClassBatch{Batch: b.Batch}, now)
		if o.nc < 1 || o.nb < 1 {
			continue
		}
		laid = true
		settings := *d.cfg
		settings.R0, settings.D0 = settings.Slow.R0, settings.Slow.D0
		d.edges[i].inject(now)
		d.edges[i].lay(&settings, *o, b.M)
		d.edges[i].settle(&settings, 1)
		if !d.cfg.Slow.Cuts {
			for k := range d.edges[i].s {
				d.edges[i].s[k] = min(d.edges[i].s[k], 100)
			}
			d.edges[i].scale(1)
		}
		*o = dumbOpen{}
	}
	return laid
}

func (d *dumbSlow) step() {
	for i := range d.edges {
		d.edges[i].step, d.open[i] = true, dumbOpen{}
	}
}

func (d *dumbSlow) e() (sum float64) {
	for i := range d.edges {
		sum += d.edges[i].e / float64(len(d.edges))
	}
	return sum
}

func (d *dumbSlow) q() (sum float64) {
	for i := range d.edges {
		sum += d.edges[i].q / float64(len(d.edges))
	}
	return sum
}

// TestADumbJudgeOfSlowAnswersAgrees compares the evidence, its part in the sum, and the sum's cap, with and without classes.
func TestADumbJudgeOfSlowAnswersAgrees(t *testing.T) {
	for seed := range uint64(80) {
		r := rand.New(rand.NewPCG(seed, 23))
		cfg := paced()
		cfg.Slow.Cuts = seed%2 == 0
		if seed%4 == 0 {
			cfg.Ceiling = 0.2
		}
		j := NewJudge()
		j.Pace([]float64{0.1, 0.5})
		slow, errors, ceiling := newDumbSlow(&cfg, 2), newDumbSlow(&cfg, 1), newDumbSlow(&cfg, 1)
		total := 1.0 // the evidence after the last tick
		for now := 1.0; now < 59; now++ {
			if r.IntN(15) == 0 {
				j.Step()
				slow.step()
				errors.step()
				ceiling.step()
			}
			nc, nb := float64(r.IntN(4)), float64(r.IntN(60))
			b := Batch{Counts{nc, 0}, Counts{nb, 0}}
			if r.IntN(4) == 0 && nc > 0 {
				b.Canary.Errors = 1
			}
			var batches []SlowBatch
			for k := range 2 {
				batches = append(batches, SlowBatch{Batch{Counts{nc, math.Min(nc, float64(r.IntN(2+k)))}, Counts{nb, math.Min(nb, float64(r.IntN(3)))}}, 1 + 2*r.Float64()})
			}
			for k := range batches {
				if j.Recent.since(now-60).Canary.Requests > 0 {
					batches[k].M = min(batches[k].M, max(1, j.Recent.since(now-60).Canary.Requests))
				}
			}
			limit := max(1, total) / math.Sqrt(cfg.Alpha)
			sum := func() (e, q float64) {
				e, q = errors.e(), errors.q()
				if cfg.Ceiling > 0 {
					e, q = (e+ceiling.e())/2, (q+ceiling.q())/2
				}
				if cfg.Slow.Cuts {
					e, q = 0.9*e+0.1*slow.e(), 0.9*q+0.1*slow.q()
				}
				return e, q
			}
			capped := func() {
				if e, q := sum(); e > limit {
					for _, c := range [][]dumbCapital{errors.edges, ceiling.edges, slow.edges} {
						for i := range c {
							if cfg.Slow.Cuts || &c[0] != &slow.edges[0] {
								c[i].scale((limit - q) / (e - q))
							}
						}
					}
				}
			}
			j.Recent.Add(now, b)
			j.betSlow(&cfg, &Baseline{Slow: batches}, 0, now, false)
			if slow.tick(batches, now) && cfg.Slow.Cuts {
				capped()
			}
			if nc > 0 && nb > 0 {
				j.bet(&cfg, b, 1, 1, now, span{now - 1, now, 1, 1}) // stable fails usually, so nothing is a hiccup
				j.ended(&cfg, span{now - 1, now, 1, 1})
				dumbRelative(errors, &cfg, b, now)
				capped()
			}
			total, _ = sum()
			if got, want := math.Log(j.Slow.E), math.Log(slow.e()); math.Abs(got-want) > 1e-9*max(1, math.Abs(want)) {
				t.Fatalf("seed %d, second %.0f: ln E_slow = %.12f, the dumb one says %.12f", seed, now, got, want)
			}
			if got, want := math.Log(j.E(&cfg)), math.Log(total); math.Abs(got-want) > 1e-9*max(1, math.Abs(want)) {
				t.Fatalf("seed %d, second %.0f: ln E = %.12f, the dumb one says %.12f", seed, now, got, want)
			}
		}
	}
}

// dumbRelative bets on errors; the ceiling's test looks at nothing, as stable is above it.
func dumbRelative(d *dumbSlow, cfg *Config, b Batch, now float64) {
	var o dumbOpen
	o.add(ClassBatch{Batch: b}, now)
	d.edges[0].inject(now)
	d.edges[0].lay(cfg, o, 1)
	d.edges[0].settle(cfg, 1)
}

// With classes and a ceiling all parts of the sum add up to one.
func TestThePartsOfTheSumAddUpToOne(t *testing.T) {
	for _, ceiling := range []float64{0, 0.01} {
		for _, classes := range []bool{false, true} {
			for _, cuts := range []bool{false, true} {
				cfg, j := paced(), NewJudge()
				cfg.Ceiling, cfg.Slow.Cuts = ceiling, cuts
				if classes {
					j.Classify(threeShares)
				}
				j.Pace([]float64{0.1, 0.5})
				if e, q := j.sum(&cfg); math.Abs(e-1) > 1e-12 || math.Abs(q-0.55) > 1e-12 {
					t.Errorf("ceiling %g, classes %t, cuts %t: %g, of which %g is not bet", ceiling, classes, cuts, e, q)
				}
			}
		}
	}
}

// Slow answers alone hold; they cut only where the policy says so, and then a cut says that they did.
func TestSlowAnswersHoldAndCut(t *testing.T) {
	for _, cuts := range []bool{false, true} {
		cfg, j := paced(), NewJudge()
		cfg.Slow.Cuts = cuts
		j.Pace([]float64{0.1})
		cut := false
		for now := 1.0; now < 120 && !cut; now++ {
			base := Baseline{M: 1, Slow: []SlowBatch{{Batch{Counts{50, 10}, Counts{950, 10}}, 1}}}
			j.Observe(&cfg, Batch{Counts{50, 0}, Counts{950, 0}}, base, now)
			cut, _ = j.Worse(&cfg)
		}
		if !j.Slower(120) || cut != cuts || j.BlamesSlow(&cfg) != cuts {
			t.Errorf("may cut: %t; held %t, cut %t, blamed %t: E_slow %g", cuts, j.Slower(120), cut, j.BlamesSlow(&cfg), j.Slow.E)
		}
		if j.Slower(120 + OpenBatchLimit + 1) {
			t.Error("it is held by durations that nobody tells any more")
		}
	}
}

// The hold ends by itself.
func TestAHoldForSlownessEnds(t *testing.T) {
	cfg, j := paced(), NewJudge()
	j.Pace([]float64{0.1})
	held := 0.0
	for now := 1.0; now < 1200; now++ {
		slow := 0.5
		if now < 30 {
			slow = 15
		}
		j.Observe(&cfg, Batch{Counts{50, 0}, Counts{950, 0}}, Baseline{M: 1, Slow: []SlowBatch{{Batch{Counts{50, slow}, Counts{950, 9.5}}, 1}}}, now)
		if j.Slower(now) {
			held = now
		}
	}
	if held < 20 || held > 600 {
		t.Errorf("it was held until second %g", held)
	}
}

// However long it was slow, the hold ends soon after that; where it only becomes less slow it does not.
func TestAHoldOutlastsNothing(t *testing.T) {
	for _, late := range []float64{0.05, 0.25} {
		for after, most := range map[float64]float64{0.05: 900, 0.15: 1e9} {
			cfg, j := paced(), NewJudge()
			j.Pace([]float64{0.1})
			held, until := 0.0, 3600.0
			for now := 1.0; now < until+3600; now++ {
				slow := 5 * late
				if now >= until {
					slow = after
				}
				j.Observe(&cfg, Batch{Counts{5, 0}, Counts{95, 0}}, Baseline{M: 1, Slow: []SlowBatch{{Batch{Counts{5, slow}, Counts{95, 0.95}}, 2}}}, now)
				if j.Slower(now) {
					held = now - until
				}
			}
			if held <= 0 || held > most || most > 3600 && held < 3500 {
				t.Errorf("%g %% slow for an hour, then %g %%: it was held %g s longer", 100*late, 100*after/5, held)
			}
		}
	}
}

func TestProofThatItIsNoSlower(t *testing.T) {
	cfg := paced()
	cfg.Slow.R1, cfg.Slow.D1 = 1.5, 0.01
	for _, slow := range []float64{0.01, 0.05} {
		j := NewJudge()
		j.Pace([]float64{0.1, 0.5})
		if !j.ProvenSwift(&cfg, 1) {
			t.Error("who is told no durations waits for them")
		}
		for now := 1.0; now < 600; now++ {
			b := SlowBatch{Batch{Counts{500, 500 * slow}, Counts{500, 5}}, 1}
			j.Observe(&cfg, Batch{Counts{500, 0}, Counts{500, 0}}, Baseline{M: 1, Slow: []SlowBatch{b, b}}, now)
		}
		if got := j.ProvenSwift(&cfg, 600); got != (slow == 0.01) {
			t.Errorf("slow answers %g: proven %t, %g", slow, got, j.Slow.Edges[0].Promotion.E)
		}
		j.Step()
		if j.ProvenSwift(&cfg, 601) {
			t.Error("the proof did not begin anew at another weight")
		}
	}
}

// A state that was written reads as it was, and a copy shares nothing.
func TestSlowAnswersAreStored(t *testing.T) {
	cfg, j := paced(), NewJudge()
	j.Pace([]float64{0.1, 0.5})
	b := SlowBatch{Batch{Counts{5, 1}, Counts{50, 1}}, 1}
	j.Observe(&cfg, b.Batch, Baseline{M: 1, Slow: []SlowBatch{b, b}}, 1)
	raw, err := json.Marshal(&j)
	if err != nil {
		t.Fatal(err)
	}
	var again Judge
	if err := json.Unmarshal(raw, &again); err != nil || again.Sound() != nil || again.Slow.E != j.Slow.E || again.Slow.Edges[1].Capital != j.Slow.Edges[1].Capital {
		t.Fatalf("%v, %v", err, again.Sound())
	}
	var c Judge
	j.CloneTo(&c)
	c.Observe(&cfg, b.Batch, Baseline{M: 1, Slow: []SlowBatch{b, b}}, 2)
	if j.Slow.E != again.Slow.E || j.Slow.Edges[0].Capital != again.Slow.Edges[0].Capital {
		t.Error("a copy shares its edges")
	}
}

func latencies(r *rand.Rand, n int, median, sigma float64, edges []float64) Times {
	t := Times{Name: "a", UpTo: Bounds(edges)}
	for range n {
		t.Put(int(1000*median*math.Exp(sigma*r.NormFloat64())), 1)
	}
	return t
}

func afters(p *Pace) (edges []float64) {
	for _, e := range p.Edges {
		edges = append(edges, e.After)
	}
	return edges
}

func same(s []Slice) []Slice { return s }

// auto is what is said of edges where none are.
var auto = [][]float64{nil}

func TestEdgesAreThoseOfStablesOwnDay(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var p Pace
	p.Learn(1, auto, nil, []Times{latencies(r, 500, 0.05, 0.6, nil)}, same)
	if len(p.Edges) > 0 {
		t.Error("500 answers make an edge")
	}
	for now := range 100 {
		p.Learn(float64(now), auto, nil, []Times{latencies(r, 500, 0.05, 0.6, nil)}, same)
	}
	if got := afters(&p); !slices.Equal(got, []float64{0.1, 0.2}) { // p90 is 108 ms, p99 202 ms
		t.Errorf("edges %v", got)
	}
	for now := range 500 { // a little slower: the edges stay
		p.Learn(float64(now+100), auto, nil, []Times{latencies(r, 500, 0.055, 0.6, nil)}, same)
	}
	if got := afters(&p); !slices.Equal(got, []float64{0.1, 0.2}) {
		t.Errorf("edges %v", got)
	}
	for now := range 5000 {
		p.Learn(float64(now+600), auto, nil, []Times{latencies(r, 500, 0.5, 0.6, nil)}, same)
	}
	if got := afters(&p); got[0] < 0.8 {
		t.Errorf("edges %v", got)
	}
	p.Learn(6000, [][]float64{{0.25, 0.75}}, nil, []Times{latencies(r, 50, 0.5, 0.6, []float64{0.25, 0.75})}, same)
	if got := afters(&p); !slices.Equal(got, []float64{0.25, 0.75}) || p.Sound() != nil {
		t.Errorf("edges %v, %v", got, p.Sound())
	}
	raw, err := json.Marshal(&p)
	var again Pace
	if err != nil || json.Unmarshal(raw, &again) != nil || !slices.Equal(again.Day.N, p.Day.N) {
		t.Errorf("%v", err)
	}
}

// Another source, or another histogram, has other bounds: edges are found in its own after a while. Where two proxies differ only those
// bounds count that both have.
func TestEdgesAreFoundAgainAmongOtherBounds(t *testing.T) {
	coarse := Times{UpTo: []float64{0.07, 0.7}, N: []float64{60, 35, 5}}
	fine := Times{UpTo: []float64{0.05, 0.15, 0.7, 1.5}, N: []float64{50, 40, 5, 4, 1}}
	other := Times{UpTo: []float64{0.4, 4}, N: []float64{90, 9, 1}}
	for _, c := range []struct {
		name string
		told func(now int) []Times
		want []float64
	}{
		{"as before", func(int) []Times { return []Times{coarse} }, []float64{0.7}},
		{"renamed, with other bounds", func(int) []Times { return []Times{other} }, []float64{0.4, 4}},
		{"no finer edge: the day stays", func(int) []Times { return []Times{{UpTo: []float64{0.07, 0.5, 0.7}, N: []float64{60, 20, 15, 5}}} }, []float64{0.7}},
		{"finer ones for all", func(int) []Times { return []Times{fine} }, []float64{0.15, 1.5}},
		{"finer ones of one in two, at once", func(int) []Times { return []Times{fine, coarse} }, []float64{0.7}},
		{"and in turns", func(now int) []Times { return []Times{[]Times{fine, coarse}[now/30%2]} }, []float64{0.7}},
		{"and back", func(now int) []Times {
			if now > 1500 {
				return []Times{coarse}
			}
			return []Times{other}
		}, []float64{0.7}},
	} {
		var p Pace
		for now := range 1000 {
			p.Learn(float64(now), auto, nil, []Times{coarse}, same)
		}
		for now := 1000; now < 3000; now++ {
			before := p
			p = p.Clone()
			p.Learn(float64(now), auto, nil, c.told(now), same)
			if now%100 == 0 && (before.Sound() != nil || p.Sound() != nil) {
				t.Fatal(before.Sound(), p.Sound())
			}
		}
		if got := afters(&p); !slices.Equal(got, c.want) {
			t.Errorf("%s: edges %v, want %v", c.name, got, c.want)
		}
	}
}

// The slow answers of a pause come from one instance; where nobody tells the instances, from one moment.
func TestSlowAnswersOfOneCauseAreLearnt(t *testing.T) {
	for _, byEndpoint := range []bool{true, false} {
		r := rand.New(rand.NewPCG(3, 4))
		var p Pace
		for now := range 4 * 3600 {
			var times []Times
			for i := range 4 {
				h := Times{UpTo: []float64{0.1, 0.5}, N: []float64{25, 0, 0}}
				if byEndpoint {
					h.Name = string('a' + rune(i))
				}
				if r.IntN(1200) == 0 {
					h.N = []float64{5, 20, 0}
				}
				times = append(times, h)
			}
			p.Learn(float64(now), [][]float64{{0.1}}, nil, times, same)
		}
		if m := p.Bound(0.1); m < 8 || m > 60 {
			t.Errorf("by endpoint: %t: m is %g", byEndpoint, m)
		}
		if p.Edges[0].Dispersion.One == byEndpoint {
			t.Error("the slices are others")
		}
	}
	if m := new(Pace).Bound(0.1); m != clumpDefault {
		t.Errorf("of what is not known one cause makes %g slow", m)
	}
}

func TestInstancesThatHaveJustBegunAreLeftOut(t *testing.T) {
	var s Starts
	names := func(from, to float64, instances ...string) (warm []string) {
		var times []Times
		for _, n := range instances {
			times = append(times, Times{Name: n})
		}
		for _, w := range s.Warm(from, to, 60, times, false) {
			warm = append(warm, w.Name)
		}
		return warm
	}
	for _, c := range []struct {
		to, long float64
		in       []string
		want     []string
	}{
		{1000, 1, []string{"a", "b"}, nil}, {1059, 1, []string{"a"}, nil}, {1061, 1, []string{"a", "b"}, []string{"a", "b"}}, {1100, 1, []string{"a", "c", "b"}, []string{"a", "b"}},
		{1165, 1, []string{"a", "c", "b"}, []string{"a", "c", "b"}}, {1900, 1, []string{"a"}, nil}, {1000, 1, []string{"a"}, nil}, {1061, 1, []string{"a"}, []string{"a"}}, {1055, 1, []string{"a"}, nil},
		// Scraped once a minute: the answers of the second minute may be those of the first one after the first answer.
		{3000, 60, []string{"d"}, nil}, {3060, 60, []string{"d"}, nil}, {3120, 60, []string{"d"}, []string{"d"}},
	} {
		if got := names(c.to-c.long, c.to, c.in...); !slices.Equal(got, c.want) {
			t.Errorf("in the %g s until %g s of %v %v are warm, not %v", c.long, c.to, c.in, got, c.want)
		}
	}
	for _, c := range []struct {
		now  float64
		warm bool
	}{{2000, false}, {2061, true}} {
		if got := names(c.now-1, c.now, ""); (len(got) > 0) != c.warm {
			t.Errorf("at %g s the version as a whole is warm: %t", c.now, !c.warm)
		}
	}
	s.Began(2100)
	if len(names(2109, 2110, "")) > 0 || len(names(2160, 2161, "")) != 1 || s.Sound() != nil {
		t.Errorf("another of its instances began: %+v", s)
	}
}

func BenchmarkObserveSlow(b *testing.B) {
	cfg, j := paced(), NewJudge()
	cfg.Slow.R1, cfg.Slow.D1, cfg.Slow.Cuts = 1.5, 0.01, true
	j.Pace([]float64{0.1, 0.5})
	slow := []SlowBatch{{Batch{Counts{50, 5}, Counts{950, 95}}, 1.5}, {Batch{Counts{50, 1}, Counts{950, 9}}, 1.5}}
	now := 0.0
	b.ReportAllocs()
	for b.Loop() {
		now++
		j.Observe(&cfg, Batch{Counts{50, 0}, Counts{950, 1}}, Baseline{M: 1.1, Slow: slow}, now)
	}
}
