package analysis

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// counted makes the failures of a version from lines: class, code, endpoint, Envoy, requests, errors. Code "-": no answer came; "?": the
// source does not tell codes.
func counted(lines ...string) (f Failures, endpoints, envoys []Slice) {
	reports := map[string]*Report{}
	var order []string
	for _, line := range lines {
		var class, code, endpoint, envoy string
		var n Counts
		if _, err := fmt.Sscan(line, &class, &code, &endpoint, &envoy, &n.Requests, &n.Errors); err != nil {
			panic(err)
		}
		r := reports[envoy]
		if r == nil {
			r = &Report{Envoy: envoy, Codes: true}
			reports[envoy], order = r, append(order, envoy)
		}
		r.Counts = r.Counts.Add(n)
		r.Endpoints = Join(r.Endpoints, []Slice{{endpoint, n}})
		if code == "?" {
			code, r.Codes = "", false
		}
		if code != "-" {
			r.Answers = append(r.Answers, Answer{class, code, endpoint, n})
		}
	}
	for _, envoy := range order {
		f.Add(*reports[envoy])
		endpoints = Join(endpoints, reports[envoy].Endpoints)
		envoys = append(envoys, Slice{envoy, reports[envoy].Counts})
	}
	return f, endpoints, envoys
}

// text is a finding on a line.
func (f Finding) text() string {
	return fmt.Sprintf("%s/%s %v(%.2f) %v(%.2f) %g %g %g", f.Class, f.Kind, f.Endpoints, f.OnlyEndpoints, f.Envoys, f.OnlyEnvoys, f.Share, f.StableShare, f.Excess)
}

func TestWhyNamesTheSmallestSetThatExplains(t *testing.T) {
	well := []string{
		"checkout 200 a1 e1 100 0", "checkout 200 a2 e2 100 0",
		"search 200 a1 e1 500 0", "search 200 a2 e2 500 0", "rest 200 a1 e1 900 0", "rest 200 a2 e2 900 0", "rest 500 a1 e1 2 2",
	}
	for _, c := range []struct {
		name           string
		canary, stable []string
		want           string
	}{
		{"one class and status, everywhere", []string{"checkout 502 c1 e1 5 5", "checkout 502 c2 e2 5 5", "search 200 c1 e1 50 0", "rest 200 c2 e2 90 0"}, well,
			"checkout/502 [c1 c2](0.00) [e1 e2](0.00) 1 0 1"},
		{"one status, in all classes alike", []string{"checkout 502 c1 e1 5 5", "search 502 c2 e2 25 25", "rest 502 c1 e1 40 40", "checkout 200 c1 e2 5 0", "search 200 c2 e1 25 0", "rest 200 c2 e2 40 0"}, well,
			"/502 [c1 c2](0.00) [e1 e2](0.00) 0.5 0 1"},
		{"the class that has nearly all requests, though the others fail as often", []string{"checkout 502 c1 e1 1 1", "rest 502 c1 e2 40 40", "rest 502 c2 e1 40 40", "rest 200 c1 e1 9 0"}, well,
			"/502 [c1 c2](0.00) [e1 e2](0.00) 0.9 0 1"},
		{"one class in many ways", []string{"checkout 502 c1 e1 5 5", "checkout 503 c2 e2 4 4", "checkout 504 c2 e2 4 4", "search 200 c1 e1 50 0", "rest 200 c2 e2 90 0"}, well,
			"checkout/ [c1 c2](0.00) [e1 e2](0.00) 1 0 1"},
		{"two classes, each in its way", []string{"checkout 502 c1 e1 9 9", "search 500 c2 e2 10 10", "search 200 c1 e2 1 0", "rest 200 c2 e2 95 0", "rest 200 c1 e1 95 0"}, well,
			"search/500 [c2](1.00) [e2](0.00) 0.909091 0 0.532223; checkout/502 [c1](1.00) [e1](0.00) 1 0 0.479001"},
		{"one endpoint", []string{"checkout 503 c1 e1 5 5", "rest 503 c1 e2 20 20", "checkout 200 c2 e1 5 0", "rest 200 c2 e2 20 0", "rest 200 c3 e1 20 0", "rest 503 c3 e1 1 1"}, well,
			"/503 [c1](0.96) [e1 e2](0.00) 0.366197 0 1"},
		{"no answer by way of one Envoy", []string{"rest - c1 e1 9 9", "rest - c2 e1 9 9", "rest 200 c1 e2 30 0", "rest 200 c2 e3 30 0"}, well,
			"/no answer [c1 c2](0.00) [e1](1.00) 0.230769 0 1"},
		{"one class, of a source without codes", []string{"checkout ? c1 e1 10 10", "search ? c1 e1 50 0", "rest ? c1 e1 90 0"}, []string{"checkout ? a1 e1 100 0", "rest ? a1 e1 900 0"},
			"checkout/ [c1](0.00) [e1](0.00) 1 0 1"},
		{"stable fails as often", []string{"rest 500 c1 e1 1 1", "rest 200 c1 e1 900 0"}, well, ""},
		{"nothing fails", []string{"rest 200 c1 e1 10 0"}, well, ""},
		{"there is no stable", []string{"checkout 502 c1 e1 10 10", "rest 200 c1 e1 200 0"}, nil, "checkout/502 [c1](0.00) [e1](0.00) 1 0 1"},
	} {
		version, endpoints, envoys := counted(c.canary...)
		stable, _, _ := counted(c.stable...)
		var got []string
		for _, f := range Why(&version, &stable, endpoints, envoys) {
			got = append(got, f.text())
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, strings.Join(got, "; "), c.want)
		}
	}
}

// Whatever is counted: what is kept is bounded and sound, what is said covers nine tenths or is as long as it may be, and the
// order of reports of the same names does not matter for the names.
func TestWhatIsKeptOfFailuresIsBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 17))
	for range 200 {
		var version, stable Failures
		var endpoints, envoys []Slice
		classes, codes, hosts, proxies := 1+r.IntN(40), 1+r.IntN(30), 1+r.IntN(60), 1+r.IntN(40)
		errors := 0.0
		for range 300 {
			a := Answer{fmt.Sprint("k", r.IntN(classes)), fmt.Sprint(500 + r.IntN(codes)), fmt.Sprint("h", r.IntN(hosts)), Counts{}}
			a.Requests = float64(1 + r.IntN(20))
			a.Errors = min(a.Requests, float64(r.IntN(8)))
			report := Report{Envoy: fmt.Sprint("e", r.IntN(proxies)), Counts: a.Counts.Add(Counts{1, 1}), Answers: []Answer{a}, Codes: true}
			report.Endpoints = []Slice{{a.Endpoint, report.Counts}}
			errors += report.Counts.Errors
			version.Add(report)
			endpoints, envoys = Join(endpoints, report.Endpoints), Join(envoys, []Slice{{report.Envoy, report.Counts}})
		}
		sum := 0.0
		for _, x := range version.All {
			sum += x.Errors
			for _, all := range [][]Tally{x.Endpoints, x.Envoys} {
				part := 0.0
				for _, n := range all {
					part += n.N
				}
				if math.Abs(part-x.Errors) > 1e-6 {
					t.Fatalf("%s/%s: %g errors, and %g by name", x.Class, x.Kind, x.Errors, part)
				}
			}
		}
		if math.Abs(sum-errors) > 1e-6 {
			t.Fatalf("%g errors of %g are kept", sum, errors)
		}
		if err := version.Sound(); err != nil {
			t.Fatal(err)
		}
		found := Why(&version, &stable, endpoints, envoys)
		covered := 0.0
		for _, f := range found {
			covered += f.Excess
		}
		if len(found) > causesMost || covered < explained-1e-5 {
			t.Fatalf("%d causes explain %g", len(found), covered)
		}
		twin := version.Clone()
		if !reflect.DeepEqual(found, Why(&twin, &stable, endpoints, envoys)) {
			t.Fatal("another answer to the same question")
		}
		version.Fade(0.5)
		if twin.All[0].Errors == version.All[0].Errors || len(twin.All[0].Envoys) > 0 && twin.All[0].Envoys[0].N == version.All[0].Envoys[0].N {
			t.Fatal("a clone shares what it is a clone of")
		}
		version.Fade(1e-9)
		if len(version.All)+len(version.Asked) > 0 {
			t.Fatalf("an hour later there is %v", version)
		}
	}
}

func TestFailuresThatAreStoredAreChecked(t *testing.T) {
	f, _, _ := counted("checkout 502 a1 e1 5 5")
	raw, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var again Failures
	if err := json.Unmarshal(raw, &again); err != nil || !reflect.DeepEqual(again, f) || again.Sound() != nil {
		t.Fatalf("%s: %v, %v", raw, err, again.Sound())
	}
	for name, bad := range map[string]func(f *Failures){
		"requests":  func(f *Failures) { f.Requests = -1 },
		"errors":    func(f *Failures) { f.All[0].Errors = math.NaN() },
		"asked":     func(f *Failures) { f.Asked[0].N = math.Inf(1) },
		"endpoints": func(f *Failures) { f.All[0].Endpoints[0].N = -3 },
		"envoys":    func(f *Failures) { f.All[0].Envoys = slices.Repeat(f.All[0].Envoys, 100) },
		"many":      func(f *Failures) { f.All = slices.Repeat(f.All, 100) },
	} {
		f := again.Clone()
		bad(&f)
		if f.Sound() == nil {
			t.Errorf("%s: nothing is the matter with %v", name, f)
		}
	}
}

func TestWhatDoesNotFailCostsNoMemory(t *testing.T) {
	f, _, _ := counted("checkout 502 a1 e1 5 5", "rest 200 a1 e1 5 0")
	r := Report{Envoy: "e1", Counts: Counts{Requests: 20}, Answers: []Answer{{"checkout", "200", "a1", Counts{Requests: 10}}, {"rest", "200", "a1", Counts{Requests: 10}}}, Codes: true}
	if n := testing.AllocsPerRun(100, func() { f.Fade(0.999999); f.Add(r) }); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

// Whatever two versions have counted, there is an answer, of a handful of causes at most, and their shares are shares.
func FuzzWhy(f *testing.F) {
	f.Add([]byte("one class fails\x00and the other\xffdoes not"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var sides [2]Failures
		var endpoints, envoys []Slice
		for ; len(raw) >= 5; raw = raw[5:] {
			a := Answer{Class: fmt.Sprint(raw[0] >> 5), Code: fmt.Sprint(500 + int(raw[1]>>6)), Endpoint: fmt.Sprint(raw[1] & 3)}
			a.Requests = float64(raw[2])
			a.Errors = min(a.Requests, float64(raw[3]))
			r := Report{Envoy: fmt.Sprint(raw[4] & 3), Counts: a.Counts.Add(Counts{float64(raw[4] >> 4), float64(raw[4] >> 6)}), Codes: raw[4]&4 > 0}
			if raw[4]&8 > 0 {
				r.Answers, r.Endpoints = []Answer{a}, []Slice{{a.Endpoint, r.Counts}}
			}
			side := raw[0] & 1
			if sides[side].Add(r); side == 0 {
				endpoints, envoys = Join(endpoints, r.Endpoints), Join(envoys, []Slice{{r.Envoy, r.Counts}})
			}
		}
		found := Why(&sides[0], &sides[1], endpoints, envoys)
		if len(found) > causesMost {
			t.Fatalf("%d causes", len(found))
		}
		for _, c := range found {
			for _, x := range []float64{c.Share, c.StableShare, c.OnlyEndpoints, c.OnlyEnvoys} {
				if !(x >= 0 && x <= 1) {
					t.Fatalf("%+v", c)
				}
			}
			if math.IsNaN(c.Excess) || math.IsInf(c.Excess, 0) {
				t.Fatalf("%+v", c)
			}
		}
	})
}

// BenchmarkWhy is what a held canary costs a tick: 20 classes that fail in 16 ways on 16 endpoints.
func BenchmarkWhy(b *testing.B) {
	var version, stable Failures
	var endpoints, envoys []Slice
	for i := range 20 * 16 * 16 {
		a := Answer{fmt.Sprint("k", i%20), fmt.Sprint(500 + i/20%16), fmt.Sprint("h", i/320), Counts{20, 1}}
		r := Report{Envoy: fmt.Sprint("e", i%4), Counts: a.Counts, Answers: []Answer{a}, Endpoints: []Slice{{a.Endpoint, a.Counts}}, Codes: true}
		version.Add(r)
		endpoints, envoys = Join(endpoints, r.Endpoints), Join(envoys, []Slice{{r.Envoy, a.Counts}})
	}
	b.ReportAllocs()
	for b.Loop() {
		Why(&version, &stable, endpoints, envoys)
	}
}

// BenchmarkAddFailures is a report of 20 classes on four endpoints, of which one in twenty answers failed.
func BenchmarkAddFailures(b *testing.B) {
	var f Failures
	r := Report{Envoy: "e1", Codes: true}
	for i := range 80 {
		for code, n := range map[string]Counts{"200": {Requests: 19}, "500": {1, 1}} {
			r.Answers = append(r.Answers, Answer{fmt.Sprint("k", i%20), code, fmt.Sprint("h", i/20), n})
			r.Counts = r.Counts.Add(n)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		f.Fade(0.999)
		f.Add(r)
	}
}
