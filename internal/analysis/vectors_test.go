package analysis

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

func defaults() Config {
	return Config{Alpha: 0.001, Beta: 0.01, R0: 1.1, D0: 1e-4, R1: 1.5, D1: 5e-4, Budget: 20}
}

// specified is the schedule of restarts for which the vectors were computed.
func specified() Restarts { return Restarts{Start: 0.5, Step: 0.125, After: 60, Power: 0.25} }

// The vectors of the specification, each from a fresh state.
const vectors = `
V1 single canary error at 1%
nc=10 xc=1 nb=990 xb=0 m=1 now=1 step=false -> lnE=1.270913 lnQ=-0.697280 lnEN=-0.761372 CS95=[0.1250,+Inf]
V2 zero errors both
nc=10 xc=0 nb=990 xb=0 m=1 now=1 step=false -> lnE=-0.002586 lnQ=-0.697280 lnEN=0.002670 CS95=[0.0000,+Inf]
nc=10 xc=0 nb=990 xb=1 m=1 now=2 step=false -> lnE=-0.034000 lnQ=-0.701345 lnEN=0.013412 CS95=[0.0000,+Inf]
V3 total failure 1% share
nc=10 xc=10 nb=990 xb=1 m=1 now=1 step=false -> lnE=3.453878 lnQ=-0.697280 lnEN=-2.579552 CS95=[18.3792,+Inf]
nc=10 xc=10 nb=990 xb=0 m=1 now=2 step=false -> lnE=6.907755 lnQ=-0.701345 lnEN=-3.829391 CS95=[32.0000,+Inf]
V4 total failure, tempered m=5
nc=10 xc=10 nb=990 xb=1 m=5 now=1 step=false -> lnE=3.453878 lnQ=-0.697280 lnEN=-1.115374 CS95=[1.1487,+Inf]
nc=10 xc=10 nb=990 xb=0 m=5 now=2 step=false -> lnE=6.907755 lnQ=-0.701345 lnEN=-1.596158 CS95=[6.0629,+Inf]
V5 50/50 x2
nc=500 xc=10 nb=500 xb=5 m=1 now=5 step=false -> lnE=-0.040145 lnQ=-0.713158 lnEN=-1.051164 CS95=[0.4353,12.1257]
nc=480 xc=9 nb=520 xb=5 m=1 now=10 step=true -> lnE=0.136853 lnQ=-0.867891 lnEN=-1.006676 CS95=[0.5743,8.0000]
nc=510 xc=12 nb=490 xb=4 m=1 now=15 step=false -> lnE=0.969542 lnQ=-0.885139 lnEN=-1.595026 CS95=[0.8706,6.9644]
V6 baseline incident, equal
nc=100 xc=50 nb=900 xb=450 m=1 now=1 step=false -> lnE=-0.640993 lnQ=-0.697280 lnEN=0.460517 CS95=[0.5743,1.7411]
nc=100 xc=55 nb=900 xb=445 m=1 now=2 step=false -> lnE=-0.665556 lnQ=-0.701345 lnEN=0.921034 CS95=[0.6598,1.5157]
V7 fractional m, gap of 60 s
nc=25 xc=2 nb=475 xb=3 m=2.5 now=1 step=false -> lnE=0.250081 lnQ=-0.697280 lnEN=-0.621406 CS95=[0.0237,+Inf]
nc=1500 xc=6 nb=28500 xb=40 m=2.5 now=61 step=false -> lnE=0.229080 lnQ=-0.868509 lnEN=-1.057170 CS95=[0.3299,18.3792]
`

func TestTheSpecifiedVectorsHold(t *testing.T) {
	cfg := defaults()
	cfg.Restarts = specified()
	var c Capital
	var p Promotion
	var iv Interval
	name, n := "", 0
	for _, line := range strings.Split(strings.TrimSpace(vectors), "\n") {
		if !strings.HasPrefix(line, "nc=") {
			name, c, p, iv = line, NewCapital(specified().Start), NewPromotion(), Interval{}
			continue
		}
		n++
		var b Batch
		var m, now, lnE, lnQ, lnEN float64
		var step bool
		var cs string
		_, err := fmt.Sscanf(line, "nc=%f xc=%f nb=%f xb=%f m=%f now=%f step=%t -> lnE=%f lnQ=%f lnEN=%f CS95=%s",
			&b.Canary.Requests, &b.Canary.Errors, &b.Stable.Requests, &b.Stable.Errors, &m, &now, &step, &lnE, &lnQ, &lnEN, &cs)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if step {
			p = NewPromotion()
		}
		c.Relative(&cfg, b, m, now, step)
		p.Update(&cfg, b, m, p.E)
		iv.Update(b, m)
		lo, hi := iv.Bounds()
		for _, v := range []struct {
			what      string
			got, want float64
		}{{"lnE", math.Log(c.E), lnE}, {"lnQ", math.Log(c.Q), lnQ}, {"lnEN", math.Log(p.E), lnEN}} {
			if math.Abs(v.got-v.want) > 1e-6 {
				t.Errorf("%s, %s: %s = %.6f, want %.6f", name, line, v.what, v.got, v.want)
			}
		}
		if got := fmt.Sprintf("[%.4f,%.4f]", lo, hi); got != cs {
			t.Errorf("%s, %s: CS95 = %s, want %s", name, line, got, cs)
		}
	}
	if n != 14 {
		t.Fatalf("read %d vectors, want 14", n)
	}
}

func TestUpperCountHolds(t *testing.T) {
	for y, want := range map[float64]float64{0: 4.743865, 1: 7.205291, 5: 14.748841, 20: 37.110282} {
		if got := UpperCount(y, math.Log(20)); math.Abs(got-want) > 1e-6 {
			t.Errorf("UpperCount(%g) = %.6f, want %.6f", y, got, want)
		}
	}
}

func TestTheAbsoluteTestHolds(t *testing.T) {
	c := NewCapital(1)
	cfg := defaults()
	cfg.Alpha = 1e-9
	c.Absolute(&cfg, 0.001, Counts{100, 3}, 1, 0, false)
	if got := math.Log(c.E); math.Abs(got-5.621001) > 1e-6 {
		t.Errorf("lnE = %.6f, want 5.621001", got)
	}
}

func TestDispersionHolds(t *testing.T) {
	var d Dispersion
	s := func(n ...float64) (out []Slice) {
		for i := 0; i < len(n); i += 2 {
			out = append(out, Slice{Counts: Counts{n[i], n[i+1]}})
		}
		return out
	}
	d.Window(0, s(100, 0, 100, 6, 100, 1, 100, 1))
	d.Window(0, s(100, 2, 50, 0, 100, 1, 150, 1))
	if math.Abs(d.Num[0]-94.666667) > 1e-6 || d.Den[0] != 36 || math.Abs(d.Bound()-3.791667) > 1e-6 {
		t.Errorf("Num=%.6f Den=%.6f m=%.6f", d.Num[0], d.Den[0], d.Bound())
	}
}

// D1 of STATISTICS-2.md: what clumps since a few minutes counts as soon as it is plain.
func TestTheThirdMemoryHolds(t *testing.T) {
	var d Dispersion
	window := func(errors ...float64) {
		var s []Slice
		for _, x := range errors {
			s = append(s, Slice{Counts: Counts{100, x}})
		}
		d.Window(0, s)
	}
	window(0, 6, 1, 1)
	d.Window(0, []Slice{{Counts: Counts{100, 2}}, {Counts: Counts{50, 0}}, {Counts: Counts{100, 1}}, {Counts: Counts{150, 1}}})
	if got := d.Just[0].plainly(); got != 1 {
		t.Errorf("after two windows the five minutes say %.6f, want 1", got)
	}
	window(0, 0, 10, 0)
	if l := d.Just[0]; math.Abs(l.Num-394.666667) > 1e-6 || l.Den != 66 || l.Dof != 9 || math.Abs(l.plainly()-5.979798) > 1e-6 || d.Lately[0].surely() != 1 {
		t.Errorf("Num=%.6f Den=%.6f Dof=%g: %.6f, half an hour %.6f", l.Num, l.Den, l.Dof, l.plainly(), d.Lately[0].surely())
	}
	if math.Abs(d.Bound()-8.469697) > 1e-6 {
		t.Errorf("m=%.6f, want 8.469697", d.Bound())
	}
}

// D2 of STATISTICS-2.md.
func TestTheMarginByCostHolds(t *testing.T) {
	for rate, want := range map[float64]float64{0.1: 0.0555556, 1: 0.00555556, 10: 0.000555556, 11.2: 0.0005, 0: 0.0005, 0.001: 1} {
		if got := MarginByCost(0.0005, 20, rate); math.Abs(got-want) > 1e-6*want {
			t.Errorf("%g/s: %.9f, want %.9f", rate, got, want)
		}
	}
	if got := MarginByCost(0.0005, 0, 0.1); got != 0.0005 {
		t.Errorf("without a cost: %g", got)
	}
}

// B2 of STATISTICS-2.md: one canary instance at 25 %, twenty of stable's at 75 %.
func TestTheLoadVectorHolds(t *testing.T) {
	load := (0.25 / 1) / (0.75 / 20)
	if m := Loaded(3, load); math.Abs(load-6.666667) > 1e-6 || math.Abs(m-14.333333) > 1e-6 {
		t.Errorf("load %.6f, m %.6f", load, m)
	}
	if Loaded(3, 0.1) != 3 || Loaded(3, 1000) != clumpMax {
		t.Errorf("out of bounds: %g, %g", Loaded(3, 0.1), Loaded(3, 1000))
	}
}
