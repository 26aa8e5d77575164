package analysis

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestBoundsRiseAndHaveTheEdges(t *testing.T) {
	b := Bounds([]float64{0.333, 0.5, 0.5, -1, math.Inf(1), 90})
	if !slices.IsSorted(b) || len(slices.Compact(slices.Clone(b))) != len(b) || b[0] != 0.001 || b[len(b)-1] != 90 {
		t.Fatal(b)
	}
	for _, want := range []float64{0.001, 0.002, 0.015, 0.1, 0.333, 0.5, 1, 1.5, 15, 60, 90} {
		if !slices.Contains(b, want) {
			t.Errorf("no bound %g in %v", want, b)
		}
	}
	if n := len(Bounds(nil)); n < 35 || n > 50 {
		t.Errorf("%d bounds", n)
	}
	empty := Times{UpTo: b, N: make([]float64, len(b)+1)}
	if err := empty.Sound(); err != nil {
		t.Error(err)
	}
}

// What is later than an edge is counted as by comparing each duration with it.
func TestTimesCountWhatIsLaterThanEachBound(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	h := Times{UpTo: Bounds([]float64{0.25, 0.333})}
	var took []float64 // ms
	for range 5000 {
		d := math.Exp(rnd.Float64() * 12)
		took = append(took, d)
		h.Put(int(d), 1)
	}
	if h.All() != 5000 {
		t.Errorf("%g of 5000", h.All())
	}
	later := h.All()
	for i, b := range h.UpTo {
		later -= h.N[i]
		want := 0.0
		for _, d := range took {
			if d > b*1000 {
				want++
			}
		}
		if later != want {
			t.Errorf("later than %g s: %g, want %g", b, later, want)
		}
	}
}

func TestTimesOfOtherBoundsAreJoinedByThoseThatBothHave(t *testing.T) {
	a := Times{Name: "x", UpTo: []float64{1, 2, 3}, N: []float64{1, 2, 3, 4}}
	b := Times{Name: "x", UpTo: []float64{1, 2.5, 3, 9}, N: []float64{10, 20, 30, 40, 50}}
	got := JoinTimes([]Times{a, {Name: "y", N: []float64{7}}}, []Times{b, {Name: "z", N: []float64{8}}, a})
	want := Times{Name: "x", UpTo: []float64{1, 3}, N: []float64{12, 60, 98}}
	if len(got) != 3 || !slices.Equal(got[0].UpTo, want.UpTo) || !slices.Equal(got[0].N, want.N) || got[2].Name != "z" {
		t.Errorf("%+v", got)
	}
	if !slices.Equal(a.N, []float64{1, 2, 3, 4}) {
		t.Error("what was joined was changed")
	}
	same := JoinTimes([]Times{a}, []Times{a})
	if !slices.Equal(same[0].N, []float64{2, 4, 6, 8}) || !slices.Equal(a.N, []float64{1, 2, 3, 4}) {
		t.Errorf("%+v", same)
	}
	for _, bad := range []Times{{UpTo: []float64{1}, N: []float64{1}}, {UpTo: []float64{2, 1}, N: []float64{1, 1, 1}}, {UpTo: []float64{math.NaN()}, N: []float64{1, 1}}, {N: []float64{-1}}, {N: []float64{math.NaN()}}, {UpTo: make([]float64, 300), N: make([]float64, 301)}} {
		if bad.Sound() == nil {
			t.Errorf("%+v passes", bad)
		}
	}
}

func TestAnswersAreJoinedAndFit(t *testing.T) {
	a := []Answer{{"a", "200", "e1", Counts{5, 0}}, {"a", "503", "e1", Counts{2, 2}}}
	got := JoinAnswers(a, []Answer{{"a", "200", "e1", Counts{1, 0}}, {"a", "200", "e2", Counts{4, 0}}})
	if want := []Answer{{"a", "200", "e1", Counts{6, 0}}, {"a", "200", "e2", Counts{4, 0}}, {"a", "503", "e1", Counts{2, 2}}}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if a[0].Requests != 5 {
		t.Error("what was joined was changed")
	}
	if fit := FitAnswers(got, Counts{12, 2}); !slices.Equal(fit, got) {
		t.Errorf("%v", fit)
	}
	if fit := FitAnswers(got, Counts{9, 1}); !slices.Equal(fit, []Answer{{"a", "200", "e1", Counts{4, 0}}, {"a", "200", "e2", Counts{4, 0}}, {"a", "503", "e1", Counts{1, 1}}}) {
		t.Errorf("%v", fit)
	}
	if fit := FitAnswers(got, Counts{}); len(fit) > 0 {
		t.Errorf("%v", fit)
	}
}

func FuzzFitAnswers(f *testing.F) {
	f.Add(uint64(1), 10.0, 3.0)
	f.Fuzz(func(t *testing.T, seed uint64, requests, errors float64) {
		within := Counts{math.Trunc(math.Abs(requests)), math.Trunc(math.Abs(errors))}
		if !(within.Requests < 1e6) || within.Errors > within.Requests {
			t.Skip()
		}
		rnd := rand.New(rand.NewPCG(seed, 0))
		var as []Answer
		for range rnd.IntN(10) {
			a := Answer{Class: string(rune('a' + rnd.IntN(3))), Code: "200", Counts: Counts{Requests: float64(1 + rnd.IntN(20))}}
			if rnd.IntN(2) == 0 {
				a.Code, a.Errors = "500", a.Requests
			}
			as = append(as, a)
		}
		sum := Counts{}
		for _, a := range FitAnswers(as, within) {
			sum = sum.Add(a.Counts)
			if a.Requests <= 0 || a.Errors != 0 && a.Errors != a.Requests {
				t.Fatalf("%+v", a)
			}
		}
		if sum.Requests > within.Requests || sum.Errors > within.Errors {
			t.Fatalf("%v of %v", sum, within)
		}
	})
}
