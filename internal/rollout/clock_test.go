package rollout

import (
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

const seedV1 = "versions: [{version: v1, endpoints: [\"10.0.0.1:80\"], stable: true}]\n"

// run steps a service by hand; with fleet set the Envoys accept every table at once.
type run struct {
	t     *testing.T
	s     State
	at    time.Time
	fleet bool
	log   []Record
}

func newRun(t *testing.T, text string) *run {
	r := &run{t: t, at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), fleet: true}
	r.policy(text)
	return r
}

func (r *run) policy(text string) {
	r.t.Helper()
	docs, fs := policy.Parse("test", []byte("service: shop\n"+text))
	if len(fs.Errors()) > 0 {
		r.t.Fatal(fs)
	}
	r.step(PolicyChanged{At: r.at, Policy: docs[0].Policy, Hash: docs[0].Hash, By: "reload"})
}

func (r *run) step(e Event) {
	r.t.Helper()
	next, records, err := Step(r.s, e)
	if err != nil {
		r.t.Fatal(err)
	}
	r.s, r.log = next, append(r.log, records...)
	if _, isApplied := e.(Applied); r.fleet && !r.s.InForce && !isApplied {
		r.at = r.at.Add(time.Millisecond)
		r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 1})
	}
}

func (r *run) announce(version, endpoint string) {
	r.t.Helper()
	r.step(Announced{At: r.at, Version: version, Endpoints: []string{endpoint}, By: "ci"})
	r.step(Probed{At: r.at, Version: version, Up: true})
}

// observe lets the Envoys a and b, a half each, report so many requests and errors every second.
func (r *run) observe(n int, counts map[string]analysis.Counts) {
	r.t.Helper()
	for range n {
		from := r.at
		r.at = r.at.Add(time.Second)
		half := map[string]analysis.Counts{}
		for v, c := range counts {
			half[v] = analysis.Counts{Requests: c.Requests / 2, Errors: c.Errors / 2}
		}
		r.step(Observed{At: r.at, Batch: time.Second, Cells: []Cell{{Slice: "a", From: from, To: r.at, Counts: half}, {Slice: "b", From: from, To: r.at, Counts: half}}})
	}
}

// restart stores the state and reads it again, at a moment.
func (r *run) restart(at time.Time) {
	r.t.Helper()
	r.at = at
	r.s = Resume(mustDecode(r.t, mustEncode(r.t, r.s)), at)
	r.step(Tick{At: at})
}

func counts(pairs ...any) map[string]analysis.Counts {
	m := map[string]analysis.Counts{}
	for i := 0; i < len(pairs); i += 3 {
		m[pairs[i].(string)] = analysis.Counts{Requests: float64(pairs[i+1].(int)), Errors: float64(pairs[i+2].(int))}
	}
	return m
}

// A machine whose clock was wrong until NTP set it back: what is remembered moves back, and a release
// that fails is cut as if nothing had happened.
func TestAClockThatWasSetBackOverARestart(t *testing.T) {
	for _, back := range []time.Duration{time.Second, time.Minute, 10 * time.Minute, 24 * time.Hour, 20 * 365 * 24 * time.Hour} {
		r := newRun(t, seedV1+"ramp: {steps: [10%, 100%], hold: 100h}\njudge: {clump: 1}\n")
		r.announce("v2", "10.0.0.2:80")
		r.observe(60, counts("v1", 900, 2, "v2", 100, 0))
		r.restart(r.at.Add(-back))
		r.observe(30, counts("v1", 900, 2, "v2", 100, 0))
		v := r.s.Version("v2")
		if v.Judge.Updates < 85 {
			t.Errorf("%s back: %d judgements in 90 s", back, v.Judge.Updates)
		}
		if d := v.elapsed(r.at); d < 85*time.Second || d > 95*time.Second {
			t.Errorf("%s back: under test for %s", back, d)
		}
		r.observe(5, counts("v1", 900, 2, "v2", 100, 100))
		if v := r.s.Version("v2"); v.Phase != Failed {
			t.Errorf("%s back: v2 fails for 5 s and is %s: %s", back, v.Phase, v.Verdict.Reason)
		}
		mustEncode(t, r.s)
	}
}

// A watch, a drain and a pause end when they would have ended.
func TestWhatIsPlannedMovesWithTheClock(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [50%, 100%], hold: 2s}\njudge: {clump: 1, promote_within: {ratio: 2, margin: 5%}}\nsessions: {cookie: s, ttl: 30m}\nafter_promotion: {watch: 10m}\n")
	r.announce("v2", "10.0.0.2:80")
	r.observe(10, counts("v1", 500, 0, "v2", 500, 0))
	if r.s.Stable != "v2" || r.s.Version("v2").Trusted || !r.s.Version("v1").Trusted {
		t.Fatalf("stable is %s, trusted %v and %v", r.s.Stable, r.s.Version("v1").Trusted, r.s.Version("v2").Trusted)
	}
	r.restart(r.at.Add(-5 * time.Hour))
	r.at = r.at.Add(11 * time.Minute)
	r.step(Tick{At: r.at})
	if v := r.s.Version("v1"); v.Phase != Draining || !r.s.Version("v2").Trusted {
		t.Fatalf("11 minutes after the promotion v1 is %s, v2 trusted %v", v.Phase, r.s.Version("v2").Trusted)
	}
	r.at = r.at.Add(20 * time.Minute)
	r.step(Tick{At: r.at})
	if v := r.s.Version("v1"); v.Phase != Retired {
		t.Fatalf("31 minutes after the promotion v1 is %s", v.Phase)
	}
}

// A time field that eachMoment does not name would be left behind when the clock is set back.
func TestEveryMomentIsShifted(t *testing.T) {
	var s State
	was := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n := 0
	everyTime(reflect.ValueOf(&s).Elem(), "State", func(_ string, at reflect.Value) { at.Set(reflect.ValueOf(was)); n++ })
	if n < 20 {
		t.Fatalf("%d times found", n)
	}
	s.Dispersion.At, s.Usual.At = 1e9, 1e9
	for w := range s.Dispersion.Open {
		s.Dispersion.Open[w].Start = 1e9
	}
	s.shift(-time.Hour)
	everyTime(reflect.ValueOf(&s).Elem(), "State", func(path string, at reflect.Value) {
		if got := at.Interface().(time.Time); !got.Equal(was.Add(-time.Hour)) {
			t.Errorf("%s stays at %s when the clock is set back: name it in eachMoment", path, got)
		}
	})
	for what, at := range map[string]float64{"dispersion": s.Dispersion.At, "usual": s.Usual.At, "window": s.Dispersion.Open[3].Start} {
		if at != 1e9-3600 {
			t.Errorf("the clock of %s is at %g", what, at)
		}
	}
}

// everyTime finds the times in a value, and makes what pointers, lists and maps may hold.
func everyTime(v reflect.Value, path string, f func(string, reflect.Value)) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		f(path, v)
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		everyTime(v.Elem(), path, f)
	case v.Kind() == reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		everyTime(v.Index(0), path+"[0]", f)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				everyTime(v.Field(i), path+"."+v.Type().Field(i).Name, f)
			}
		}
	}
}
