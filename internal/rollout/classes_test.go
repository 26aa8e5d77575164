package rollout

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

const withClasses = "route: {classes: [{name: a, path: /a}, {name: b, prefix: /b}]}\n" + seedV1

// What requests are told apart by stays as it is as long as a release that was announced under it is under test.
func TestARoutesClassesStayWhileAReleaseBegunUnderThemIsUnderTest(t *testing.T) {
	r := newRun(t, withClasses)
	classes := func(when string, want ...string) {
		t.Helper()
		if got := r.s.Classes(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
		tab := r.s.Table()
		if got := tab.Policy.Route.ClassNames(); !slices.Equal(got, want) {
			t.Errorf("%s: the table has %v, want %v", when, got, want)
		}
		if given := r.s.Table(); given.content(r.s.says) != r.s.Content {
			t.Errorf("%s: what is given is not what is decided", when)
		}
	}
	edited := strings.Replace(withClasses, "{name: b, prefix: /b}", "{name: c, prefix: /c}", 1)
	classes("at first", "a", "b", "rest")
	r.policy(edited)
	classes("nothing is under test", "a", "c", "rest")
	r.policy(withClasses)
	r.announce("v2", "10.0.0.2:80")
	r.policy(edited)
	classes("v2 is under test", "a", "b", "rest")
	r.announce("v3", "10.0.0.3:80")
	r.restart(r.at.Add(time.Second))
	classes("v3 came later, and canaryd was started again", "a", "b", "rest")
	r.policy(seedV1)
	classes("switched off while v2 is under test", "a", "b", "rest")
	before := r.s.Generation
	r.step(Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"})
	classes("v2 is gone", "a", "c", "rest")
	r.step(Commanded{At: r.at, Verb: "abort", Version: "v3", By: "ann"})
	classes("so is v3")
	if r.s.Generation < before+2 {
		t.Errorf("generation %d after %d: the Envoys are not told", r.s.Generation, before)
	}
	r.announce("v4", "10.0.0.4:80")
	r.policy(withClasses)
	classes("v4 began without classes")
}

func TestNumbersOfAnswersThatCannotBeAreRefused(t *testing.T) {
	at := time.Unix(1e9, 0)
	for name, c := range map[string]Cell{
		"more errors than answers": {Answers: map[string][]analysis.Answer{"v1": {{Counts: analysis.Counts{Requests: 1, Errors: 2}}}}},
		"below zero":               {Answers: map[string][]analysis.Answer{"v1": {{Counts: analysis.Counts{Requests: -1, Errors: -1}}}}},
		"no number":                {Issued: map[string]float64{"v1": math.NaN()}},
		"a bound too few":          {Times: map[string][]analysis.Times{"v1": {{UpTo: []float64{1}, N: []float64{1}}}}},
	} {
		if SoundEvent(Observed{At: at, Cells: []Cell{c}}) == nil {
			t.Errorf("%s passes", name)
		}
	}
	good := Cell{Answers: map[string][]analysis.Answer{"v1": {{Class: "a", Code: "200", Counts: analysis.Counts{Requests: 2, Errors: 1}}}}, Issued: map[string]float64{"v1": 3}, Times: map[string][]analysis.Times{"v1": {{UpTo: []float64{1}, N: []float64{1, 0}}}}}
	if err := SoundEvent(Observed{At: at, Cells: []Cell{good}}); err != nil {
		t.Error(err)
	}
}

func TestAStateWithTooManyClassesIsDamaged(t *testing.T) {
	r := newRun(t, withClasses)
	r.announce("v2", "10.0.0.2:80")
	if _, _, err := DecodeState(mustEncode(t, r.s)); err != nil {
		t.Fatal(err)
	}
	many := slices.Repeat(r.s.Policy.Route.Classes, 10)
	r.s.Version("v2").Told = many
	if _, _, err := DecodeState(mustEncode(t, r.s)); err == nil {
		t.Error("20 classes of a release pass")
	}
	r.s.Version("v2").Told, r.s.Policy.Route.Classes = nil, many
	if _, _, err := DecodeState(mustEncode(t, r.s)); err == nil {
		t.Error("20 classes of a policy pass")
	}
}
