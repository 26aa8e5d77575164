package rollout

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

const byPath = seedV1 + `ramp: {steps: [10%, 50%, 100%], hold: 2s}
judge: {queries: {requests: r_total, errors: e_total, class: handler}, clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 5%}}
`

// told is one second of answers: class and endpoint to counts; what is not answered is beside them.
type told map[string]map[string]analysis.Counts // version, class

func (r *run) answers(n int, t told, lost map[string]float64) {
	for range n {
		from := r.at
		r.at = r.at.Add(time.Second)
		c := Cell{From: from, To: r.at, Counts: map[string]analysis.Counts{}, Answers: map[string][]analysis.Answer{}}
		for version, classes := range t {
			sum := analysis.Counts{Requests: lost[version], Errors: lost[version]}
			for class, n := range classes {
				sum = sum.Add(n)
				c.Answers[version] = append(c.Answers[version], analysis.Answer{Class: class, Code: "200", Counts: n})
			}
			slices.SortFunc(c.Answers[version], func(a, b analysis.Answer) int { return strings.Compare(a.Class, b.Class) })
			c.Counts[version] = sum
		}
		r.step(Observed{At: r.at, Batch: time.Second, Cells: []Cell{c}})
	}
}

func good(requests float64) analysis.Counts { return analysis.Counts{Requests: requests} }

// judgedByClass is a canary beside a stable version that serves two paths, one of them now and then.
func judgedByClass(t *testing.T) *run {
	r := newRun(t, byPath)
	r.answers(120, told{"v1": {"home": good(900), "checkout": good(9)}}, nil)
	r.announce("v2", "10.0.0.2:80")
	r.answers(1, told{"v1": {"home": good(900), "checkout": good(9)}, "v2": {"home": good(100)}}, nil)
	var names []string
	for _, k := range r.s.Version("v2").Classes {
		names = append(names, k.Name)
	}
	if want := []string{"home", "checkout", "rest"}; !slices.Equal(names, want) {
		t.Fatalf("v2 is judged by %v, not by %v", names, want)
	}
	return r
}

func TestNoPromotionOnAPathThatNobodyWalked(t *testing.T) {
	r := judgedByClass(t)
	r.answers(300, told{"v1": {"home": good(900), "checkout": good(9)}, "v2": {"home": good(100)}}, nil)
	v := r.s.Version("v2")
	if v.Phase != Canary || v.Verdict.Code != analysis.Unexercised || !strings.Contains(v.Verdict.Reason, "checkout") || v.Verdict.SecondsToDecide == nil {
		t.Fatalf("v2 is %s, %s: %s", v.Phase, v.Verdict.Code, v.Verdict.Reason)
	}
	if s := *v.Verdict.SecondsToDecide; s < 0.3 || s > 3 { // 9 a second at 50 %
		t.Errorf("three requests are expected within %.1f s", s)
	}
	r.answers(3, told{"v1": {"home": good(900), "checkout": good(9)}, "v2": {"home": good(100), "checkout": good(1)}}, nil)
	if r.s.Stable != "v2" {
		t.Errorf("three successes do not promote it: %s", r.s.Version("v2").Verdict.Reason)
	}
}

func TestExerciseCanBeSwitchedOff(t *testing.T) {
	r := newRun(t, strings.Replace(byPath, "clump: 1", "clump: 1, exercise: 0", 1))
	r.answers(120, told{"v1": {"home": good(900), "checkout": good(9)}}, nil)
	r.announce("v2", "10.0.0.2:80")
	r.answers(300, told{"v1": {"home": good(900), "checkout": good(9)}, "v2": {"home": good(100)}}, nil)
	if r.s.Stable != "v2" {
		t.Errorf("v2 is %s: %s", r.s.Version("v2").Phase, r.s.Version("v2").Verdict.Reason)
	}
}

func TestACutNamesTheClassThatFails(t *testing.T) {
	r := judgedByClass(t)
	for range 60 {
		if r.s.Version("v2").Phase == Canary {
			r.answers(1, told{"v1": {"home": good(9000), "checkout": good(9)}, "v2": {"home": good(1000), "checkout": {Requests: 1, Errors: 1}}}, nil)
		}
	}
	v := r.s.Version("v2")
	if v.Phase != Failed || !strings.Contains(v.Verdict.Reason, "class checkout: ") || !strings.Contains(v.Verdict.Reason, "stable: 0 of") {
		t.Fatalf("v2 is %s: %s", v.Phase, v.Verdict.Reason)
	}
	if n := v.Counts.Errors; n > 12 {
		t.Errorf("%.0f requests failed until it was cut", n)
	}
}

// Failures without an answer have no class, and stable answers all of its own.
func TestACanaryThatAnswersNothingIsCut(t *testing.T) {
	r := judgedByClass(t)
	from := r.at
	for r.s.Version("v2").Phase != Failed && r.at.Sub(from) < time.Minute {
		r.answers(1, told{"v1": {"home": good(900), "checkout": good(9)}, "v2": {}}, map[string]float64{"v2": 100})
	}
	if d := r.at.Sub(from); r.s.Version("v2").Phase != Failed || d > 3*time.Second {
		t.Errorf("v2 is %s after %s: %s", r.s.Version("v2").Phase, d, r.s.Version("v2").Verdict.Reason)
	}
}

// Where a source tells no classes, and where it stops to tell them, nothing is lost.
func TestWithoutClassesItIsJudgedAsAWhole(t *testing.T) {
	r := newRun(t, byPath)
	r.announce("v2", "10.0.0.2:80")
	r.observe(3, counts("v1", 900, 0, "v2", 100, 0))
	if v := r.s.Version("v2"); v.Judge.Classes != nil || len(v.Classes) > 0 || !v.Sorted {
		t.Errorf("it is judged by %d classes", len(v.Classes))
	}
	r = judgedByClass(t)
	r.observe(5, counts("v1", 900, 0, "v2", 100, 100))
	if v := r.s.Version("v2"); v.Phase != Failed {
		t.Errorf("v2 is %s: %s", v.Phase, v.Verdict.Reason)
	}
}

func TestClassesAreKeptOverARestart(t *testing.T) {
	r := judgedByClass(t)
	old := r.s.clone()
	raw, err := json.Marshal(r.s.Version("v2").Judge)
	if err != nil {
		t.Fatal(err)
	}
	var j analysis.Judge
	if err := json.Unmarshal(raw, &j); err != nil || j.Sound() != nil {
		t.Fatal(err, j.Sound())
	}
	v := r.s.Version("v2")
	if a, b := v.Judge.E(&v.Config), j.E(&v.Config); math.Abs(a-b) > 0 || len(j.Classes.Each) != 3 {
		t.Errorf("E is %g, read again %g", a, b)
	}
	r.answers(1, told{"v1": {"home": good(900)}, "v2": {"home": {Requests: 100, Errors: 1}}}, nil)
	if o := old.Version("v2"); o.Classes[0].Canary.Errors != 0 || o.Judge.Classes.Each[0].Capital.E == r.s.Version("v2").Judge.Classes.Each[0].Capital.E {
		t.Error("a step changed the state that it began with")
	}
}

// A label may have more values than there are pages: those that come often have theirs, and what comes rarely makes room.
func TestTheBookKeepsWhatComesOften(t *testing.T) {
	r := newRun(t, byPath)
	for i := range 3 * mostPages {
		r.answers(1, told{"v1": {fmt.Sprintf("rare%03d", i): good(1)}}, nil)
	}
	r.answers(10, told{"v1": {"home": good(900), "checkout": good(9)}}, nil)
	if r.s.Book.page("home") == nil || r.s.Book.page("checkout") == nil || len(r.s.Book.Classes) != mostPages {
		t.Errorf("%d pages, home %v, checkout %v", len(r.s.Book.Classes), r.s.Book.page("home"), r.s.Book.page("checkout"))
	}
	if err := r.s.Book.sound(); err != nil {
		t.Error(err)
	}
}

// What another label called classes is waited for by nobody.
func TestAnotherLabelBeginsAnotherBook(t *testing.T) {
	r := judgedByClass(t)
	r.policy(strings.Replace(byPath, "class: handler", "class: route", 1))
	r.answers(300, told{"v1": {"/": good(900), "/checkout": good(9)}, "v2": {"/": good(100), "/checkout": good(1)}}, nil)
	if v := r.s.Version("v2"); r.s.Stable != "v2" {
		t.Errorf("v2 is %s: %s", v.Phase, v.Verdict.Reason)
	}
	if r.s.Book.page("home") != nil || r.s.Book.page("/") == nil {
		t.Errorf("the book: %+v", r.s.Book.Classes)
	}
}

// ofMany is a canary that is judged by 20 classes, and a second of one Envoy's counts of them.
func ofMany(t testing.TB, classes int) (State, Observed) {
	docs, _ := policy.Parse("b", []byte("service: shop\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"h:1\"], stable: true}]\nramp: {steps: [5%, 100%], hold: 100h}\n"))
	at := time.Unix(1_700_000_000, 0)
	var s State
	for _, e := range []Event{PolicyChanged{At: at, Policy: docs[0].Policy}, Announced{At: at, Version: "v2", Endpoints: []string{"h:2"}}} {
		s, _, _ = Step(s, e)
	}
	s, _, _ = Step(s, Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 1})
	c := Cell{Slice: "edge", From: at, To: at.Add(time.Second), Counts: map[string]analysis.Counts{"v1": {Requests: 950}, "v2": {Requests: 50, Errors: 1}}, Answers: map[string][]analysis.Answer{}}
	v := s.Version("v2")
	shares := make([]float64, classes)
	for i := range classes {
		name := fmt.Sprint("class-", i)
		v.Classes, shares[i] = append(v.Classes, Exercise{Name: name}), 1/float64(classes)
		for version, n := range c.Counts {
			c.Answers[version] = append(c.Answers[version], analysis.Answer{Class: name, Code: "200", Counts: analysis.Counts{Requests: n.Requests / float64(classes+1)}})
		}
	}
	v.Judge.Classify(shares)
	if !v.byClass() {
		t.Fatal("it is not judged by class")
	}
	return s, Observed{At: c.To, Batch: time.Second, Cells: []Cell{c}}
}

// A judgement by class allocates nothing, what its counts are sorted into included.
func TestAJudgementByClassAllocatesNothing(t *testing.T) {
	s, e := ofMany(t, analysis.MostClasses)
	s = s.clone()
	m := &machine{State: &s, at: e.At, covered: coveredBy(e.Cells)}
	v, counts := m.Version("v2"), m.valid(e.Cells)
	judged := false
	if n := testing.AllocsPerRun(100, func() {
		for kind := range proxies {
			m.judgeAgainst(v, kind, e.Cells)
			judged = m.judge(v, kind, counts[kind], e.Cells) || judged
		}
	}); n != 0 || !judged {
		t.Errorf("judged: %t; %g allocations", judged, n)
	}
}

// BenchmarkTickByClass is what a tick of one release costs, through the whole state machine.
func BenchmarkTickByClass(b *testing.B) {
	for _, classes := range []int{2, analysis.MostClasses} {
		b.Run(fmt.Sprint(classes, " classes"), func(b *testing.B) {
			s, e := ofMany(b, classes)
			b.ReportAllocs()
			for b.Loop() {
				e.At = e.At.Add(time.Second)
				e.Cells[0].From, e.Cells[0].To = e.Cells[0].To, e.At
				s, _, _ = Step(s, e)
			}
		})
	}
}

// What is known of each class of a release: the worst first, what is still wanted, and what is left when it was cut.
func TestWhatIsKnownOfClasses(t *testing.T) {
	r := judgedByClass(t)
	r.answers(2, told{"v1": {"home": good(900), "checkout": good(9)}, "v2": {"home": good(100), "checkout": {Requests: 1, Errors: 1}}}, nil)
	known := r.s.KnownClasses("v2")
	if len(known) != 3 || known[0].Name != "checkout" || known[0].Canary.Errors == 0 || known[0].Evidence < 5 || known[0].Lacks != 3 || !known[0].Due || known[0].Seconds == nil {
		t.Fatalf("%+v", known)
	}
	for _, k := range known {
		switch {
		case math.Abs(k.CutAt-3000/0.4) > 1e-6:
			t.Errorf("%s cuts with %g, want 7500: three classes share two fifths", k.Name, k.CutAt)
		case k.Name == "home" && (k.Lacks != 0 || !k.Due || k.Seconds != nil), k.Name == "rest" && (k.Due || k.Lacks != 0):
			t.Errorf("%+v", k)
		}
	}
	for range 60 {
		if r.s.Version("v2").Phase == Canary {
			r.answers(1, told{"v1": {"home": good(9000), "checkout": good(9)}, "v2": {"home": good(1000), "checkout": {Requests: 1, Errors: 1}}}, nil)
		}
	}
	known = r.s.KnownClasses("v2")
	if r.s.Version("v2").Phase != Failed || known[0].Name != "checkout" || known[0].CutAt+known[0].Evidence+known[0].Lacks != 0 || known[0].Due {
		t.Errorf("when it was cut: %+v", known)
	}
	if r.s.KnownClasses("v1") != nil || r.s.KnownClasses("v9") != nil {
		t.Error("classes of a version that is not under test")
	}
}
