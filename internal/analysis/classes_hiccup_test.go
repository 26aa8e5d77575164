package analysis

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// dumbHiccups is the judgement by class, in seconds, with hiccups: it remembers all that was counted, and looks at all of it anew.
type dumbHiccups struct {
	*dumb
	together bool // two may follow each other
	past     []dumbSecond
	began    int         // the second with which a hiccup began; -1: there is none
	all      dumbCapital // before it
	each     []dumbCapital

	tookBack int // hiccups that were counted once
}

type dumbSecond struct {
	now, m, usual float64
	fails, step   bool
	classes       []ClassBatch
	sum           Batch
}

// between sums up seconds.
func (d *dumbHiccups) between(from, to int) (b Batch) {
	for _, s := range d.past[from:to] {
		b.Canary, b.Stable = b.Canary.Add(s.sum.Canary), b.Stable.Add(s.sum.Stable)
	}
	return b
}

// dumbKnown is what is known of a hiccup.
type dumbKnown struct {
	begin, last, lasted, m, usual float64
	step, goesOn                  bool
	all                           Batch
	failed, well                  Counts
}

func (k *dumbKnown) large() bool { return k.failed.Errors >= 1.5+10*k.failed.Requests*k.usual }

// mayFollow reports a second in which another one may fail that began while this one was not known to be over: each may touch 2.25 s, and a
// second and a burst of 0.3 s pass before it is.
func (d *dumbHiccups) mayFollow(now, begin float64) bool { return d.together && now-begin <= 5.8 }

func (d *dumbHiccups) known() (k dumbKnown) {
	of := d.past[d.began:]
	k.begin = of[0].now - 1
	k.lasted = of[len(of)-1].now - k.begin
	end := 0
	for i, s := range of {
		k.m, k.usual, k.step = max(k.m, s.m), max(k.usual, s.usual), k.step || s.step
		if s.fails && s.now-k.begin <= 2.25 { // a burst of less than a second is over then, whenever it began
			end, k.last = i+1, s.now
		}
	}
	for i, s := range of[end:] {
		k.well = d.between(d.began+end, d.began+end+i+1).Canary
		if k.goesOn = k.well.Errors > d.between(d.began, d.began+end).Canary.Errors; k.goesOn && s.fails {
			k.last = s.now
		}
	}
	k.failed, k.all = d.between(d.began, d.began+end).Canary, d.between(d.began, len(d.past))
	return k
}

func (d *dumbHiccups) second(batches []ClassBatch, m, now float64) {
	s := dumbSecond{now: now, m: m, step: d.a.step, classes: batches}
	for _, b := range batches {
		s.sum.Canary, s.sum.Stable = s.sum.Canary.Add(b.Canary), s.sum.Stable.Add(b.Stable)
	}
	if before := d.between(0, len(d.past)).Canary.Requests; before > 0 {
		s.m = min(max(before, 1), m)
	}
	lately := s.sum.Stable
	for _, p := range d.past {
		if p.now > now-30 {
			lately = lately.Add(p.sum.Stable)
		}
	}
	s.usual = lately.Rate()
	s.fails = s.sum.Canary.Errors > 3*s.sum.Canary.Requests*s.usual+0.5
	if s.fails {
		fresh := d.began < 0
		if !fresh {
			k := d.known()
			fresh = now-k.begin > 2.25 && !k.large() && !d.mayFollow(now, k.begin)
		}
		if fresh {
			d.began, d.all, d.each = len(d.past), d.a, slices.Clone(d.c)
		}
	}
	d.past = append(d.past, s)
	was := d.e
	first := d.tick(batches, s.m, now)
	d.cap(d.limit(first, now, was))
	d.settle(now)
	d.ends = append(d.ends, [2]float64{now, d.e})
}

// limit is what the evidence may be at most after a second.
func (d *dumbHiccups) limit(first, now, was float64) float64 {
	back := first - 1 - d.cfg.Burst
	var k dumbKnown
	if d.began >= 0 {
		k = d.known()
		if k.all.Canary.Errors*k.lasted > 2*d.cfg.Burst*k.all.Canary.Requests+3*k.lasted {
			back = first - 0.75
		} else if d.mayFollow(now, k.begin) {
			back = min(back, k.begin)
		}
	}
	at, e := 0.0, 1.0
	for _, end := range d.ends {
		if end[0] <= back+1e-3 && end[0] <= now-1e-3 {
			at, e = end[0], end[1]
		}
	}
	limit := max(1, e) / math.Sqrt(d.cfg.Alpha)
	if d.began >= 0 && k.large() && at <= k.begin+1e-3 {
		limit = min(limit, 0.999/d.cfg.Alpha)
	}
	return max(was, limit)
}

// settle ends a hiccup.
func (d *dumbHiccups) settle(now float64) {
	if d.began < 0 {
		return
	}
	k := d.known()
	rested := now-k.last >= d.cfg.Burst-1e-3
	switch over := rested && k.well.Requests*k.failed.Errors >= (3+4*k.well.Errors)*k.failed.Requests; {
	case k.goesOn && rested || k.lasted > 60:
	case k.goesOn:
		return
	case over:
		d.once(k, now)
	default:
		return
	}
	d.began = -1
}

// once counts a hiccup as one error of each capital.
func (d *dumbHiccups) once(k dumbKnown, now float64) {
	around := d.between(0, len(d.past)).Canary.less(k.all.Canary)
	if !k.large() || around.Errors > 2*around.Requests*k.usual+k.failed.Errors-2 {
		return
	}
	again := func(before dumbCapital, own *dumbCapital, b Batch, errors float64) {
		if before.step = k.step; b.Canary.Requests >= 1e-6 && b.Stable.Requests >= 1e-6 {
			before.inject(now)
			before.lay(d.cfg, dumbOpen{nc: b.Canary.Requests, xc: b.Canary.Errors, nb: b.Stable.Requests, xb: b.Stable.Errors}, max(k.m, errors))
			before.settle(d.cfg, 1)
		}
		if before.e < own.e {
			step := own.step
			*own = before
			own.step = step
		}
	}
	was := d.e
	again(d.all, &d.a, k.all, k.failed.Errors)
	for j := range d.each {
		var b Batch
		for _, s := range d.past[d.began:] {
			b.Canary, b.Stable = b.Canary.Add(s.classes[j].Canary), b.Stable.Add(s.classes[j].Stable)
		}
		again(d.each[j], &d.c[j], b, b.Canary.Errors)
	}
	e, _ := d.sum()
	if d.e = min(d.e, e); d.e < was {
		d.tookBack++
	}
	for i := range d.ends {
		d.ends[i][1] = min(d.ends[i][1], d.e)
	}
}

// hiccupStory is half a minute of a release with six classes: one may fail from some second on, all of it or in part, all may fail in one
// or two seconds, or by chance, and weights change.
func hiccupStory(r *rand.Rand, shares []float64) (seconds [][]ClassBatch, steps []bool) {
	sick, since, part := r.IntN(len(shares)), 31, 1.0
	switch r.IntN(3) {
	case 0:
		since = 1 + r.IntN(25)
	case 1:
		since, part = 1+r.IntN(25), r.Float64()
	}
	hiccup := 3 + r.IntN(20)
	lasts, deep := 1+r.IntN(2), 0.1+0.9*r.Float64()
	if r.IntN(4) == 0 {
		lasts = 0
	}
	for second := range 30 {
		var classes []ClassBatch
		for i, s := range shares {
			b := ClassBatch{Batch{Counts{float64(int(s*40*r.Float64() + r.Float64())), 0}, Counts{float64(int(s * 800 * r.Float64())), 0}}, 1 + 3*r.Float64()}
			fails := 0.0
			if i == sick && second >= since {
				fails = part
			}
			if second >= hiccup && second < hiccup+lasts {
				fails = max(fails, deep)
			}
			if b.Canary.Errors = math.Round(b.Canary.Requests * fails); r.IntN(60) == 0 {
				b.Canary.Errors = min(b.Canary.Errors+1, b.Canary.Requests)
			}
			if r.IntN(9) == 0 {
				b.Stable.Errors = min(1, b.Stable.Requests)
			}
			classes = append(classes, b)
		}
		seconds, steps = append(seconds, classes), append(steps, r.IntN(20) == 0)
	}
	return seconds, steps
}

// Classes and hiccups in one story: both judges agree after each second, on the evidence and on each capital.
func TestADumbJudgeOfClassesAndHiccupsAgrees(t *testing.T) {
	tookBack, cut, both := 0, 0, 0
	for seed := range uint64(400) {
		tookBefore := tookBack
		cutNow := dumbAgrees(t, seed, &tookBack)
		if cutNow {
			cut++
		}
		if cutNow && tookBack > tookBefore {
			both++
		}
	}
	if t.Logf("%d hiccups were counted once, %d releases are cut, %d of them in a story with both", tookBack, cut, both); tookBack < 50 || cut < 50 || both < 10 {
		t.Error("little was tested")
	}
}

func FuzzADumbJudgeOfClassesAndHiccupsAgrees(f *testing.F) {
	f.Add(uint64(1000))
	f.Fuzz(func(t *testing.T, seed uint64) { dumbAgrees(t, seed, new(int)) })
}

func dumbAgrees(t *testing.T, seed uint64, tookBack *int) (cut bool) {
	t.Helper()
	cfg := defaults()
	cfg.Burst = 0.3
	r := rand.New(rand.NewPCG(seed, 171))
	shares := []float64{0.5, 0.2, 0.15, 0.1, 0.01, 0.04}
	j, d := NewJudge(), &dumbHiccups{dumb: newDumb(&cfg, shares), began: -1, together: seed%2 == 1}
	j.Together = d.together
	j.Classify(shares)
	seconds, steps := hiccupStory(r, shares)
	for i, classes := range seconds {
		if steps[i] {
			j.Step()
			d.step()
		}
		now, v := float64(i+1), vectorTick{classes: classes}
		j.Observe(&cfg, v.sum(), Baseline{M: 1.3, Batch: 1, Classes: classes}, now)
		d.second(classes, 1.3, now)
		got, want := []float64{j.E(&cfg), j.Relative.E, j.Classes.Twin.E}, []float64{d.e, d.a.e, d.t.e}
		for k := range shares {
			got, want = append(got, j.Classes.Each[k].Capital.E), append(want, d.c[k].e)
		}
		for k := range got {
			if g, w := math.Log(got[k]), math.Log(want[k]); math.Abs(g-w) > 1e-9*max(1, math.Abs(w)) {
				t.Fatalf("seed %d, second %.0f, number %d (E, all, twin, classes): ln %.12f, the dumb one says %.12f", seed, now, k, g, w)
			}
		}
		if (j.Hiccup.M > 0) != (d.began >= 0) {
			t.Fatalf("seed %d, second %.0f: a hiccup is %t, the dumb one says %t", seed, now, j.Hiccup.M > 0, d.began >= 0)
		}
		worse, _ := j.Worse(&cfg)
		cut = cut || worse
	}
	*tookBack += d.tookBack
	return cut
}
