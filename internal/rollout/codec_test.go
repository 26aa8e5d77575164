package rollout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

func goldens(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "codec", dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d goldens in %s (%v)", len(files), dir, err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(f), ".json")] = bytes.TrimRight(raw, "\n")
	}
	return all
}

func mustDecode(t testing.TB, raw []byte) State {
	t.Helper()
	s, lost, err := DecodeState(raw)
	if err != nil || len(lost) > 0 {
		t.Fatalf("lost %q, %v", lost, err)
	}
	return s
}

func mustEncode(t testing.TB, s State) []byte {
	t.Helper()
	raw, err := EncodeState(s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// States that were written before there were formats become what the goldens of this format say.
func TestStatesOfFormat1AreConverted(t *testing.T) {
	converted := map[string][]byte{}
	for name, raw := range goldens(t, "format1") {
		converted[name] = mustEncode(t, mustDecode(t, raw))
		path := filepath.Join("testdata", "codec", "format2", name+".json")
		if *update {
			if err := os.WriteFile(path, append(converted[name], '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := goldens(t, "format2")
	for name, got := range converted {
		if got, want := canonical(t, got), canonical(t, want[name]); !bytes.Equal(got, want) {
			t.Errorf("%s is converted to something else: %s", name, difference(want, got))
		}
	}
}

func TestStatesOfThisFormatAreWrittenAsTheyWereRead(t *testing.T) {
	for name, raw := range goldens(t, "format2") {
		if again, raw := canonical(t, mustEncode(t, mustDecode(t, raw))), canonical(t, raw); !bytes.Equal(again, raw) {
			t.Errorf("%s: %s", name, difference(raw, again))
		}
	}
}

// Format 2 first said of the Envoys what format 1 did.
func TestFlagsBecomeServing(t *testing.T) {
	want := goldens(t, "format2")
	for name, raw := range goldens(t, "flags") {
		if got, want := canonical(t, mustEncode(t, mustDecode(t, raw))), canonical(t, want[name]); !bytes.Equal(got, want) {
			t.Errorf("%s: %s", name, difference(want, got))
		}
	}
}

// canonical puts the keys of an object in order: which comes first says nothing.
func canonical(t *testing.T, raw []byte) []byte {
	t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(short(v))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// short writes the buckets of the last minute as this build does: as lists of numbers, where earlier ones named them.
func short(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = short(v[i])
		}
	case map[string]any:
		if b, is := v["b"].(map[string]any); is && v["at"] != nil {
			c, s := b["Canary"].(map[string]any), b["Stable"].(map[string]any)
			return []any{v["at"], c["requests"], c["errors"], s["requests"], s["errors"]}
		}
		for k := range v {
			v[k] = short(v[k])
		}
	}
	return v
}

// difference shows where two texts part.
func difference(was, is []byte) string {
	i := 0
	for i < len(was) && i < len(is) && was[i] == is[i] {
		i++
	}
	from := max(0, i-80)
	return fmt.Sprintf("at %d\nwas: …%s\nnow: …%s", i, was[min(from, len(was)):min(i+160, len(was))], is[min(from, len(is)):min(i+160, len(is))])
}

// What a state of format 1 does not say: who is trusted, and when it was last stepped.
func TestWhatFormat1DidNotSay(t *testing.T) {
	trusted := map[string]string{
		"fresh": "v1", "judged": "v1", "watch": "v1", "paused": "v1", "draining": "v2", "images": "v1", "queued": "v1", "ended": "v2", "late": "v1",
	}
	for name, raw := range goldens(t, "format1") {
		s := mustDecode(t, raw)
		var who []string
		for _, v := range s.Versions {
			if v.Trusted {
				who = append(who, v.Name)
			}
		}
		if want, ok := trusted[name]; ok && strings.Join(who, " ") != want {
			t.Errorf("%s: trusted are %q, want %s", name, who, want)
		}
		s.eachMoment(func(m moment) {
			if !m.planned && m.at.After(s.At) {
				t.Errorf("%s: the last step was at %s, and something happened at %s", name, s.At, m.at)
			}
		})
		if s.At.Year() != 2026 {
			t.Errorf("%s: last step at %s", name, s.At)
		}
	}
}

// Evidence that cannot be read is lost; the rest of the state is not.
func TestEvidenceThatCannotBeRead(t *testing.T) {
	for _, c := range []struct{ golden, where, value, lost string }{
		{"judged", "versions.1.judge.relative.s", `[1, 2]`, "the judge of v2"},
		{"judged", "versions.1.judge.relative.e", `-1`, "the judge of v2"},
		{"judged", "versions.1.judge.relative.e", `1e999`, "the judge of v2"},
		{"judged", "versions.1.judge.recent", `{"buckets": [], "len": 5}`, "the judge of v2"},
		{"judged", "versions.1.judge.recent", `{"buckets": [{"at": 9}, {"at": 3}]}`, "the judge of v2"},
		{"judged", "versions.1.judge.interval.l", `[]`, "the judge of v2"},
		{"judged", "versions.1.judge", `"none"`, "the judge of v2"},
		{"judged", "versions.1.config.Alpha", `0`, "the settings of the judge of v2"},
		{"judged", "versions.1.counts", `{"requests": -1}`, "the counts of v2"},
		{"judged", "versions.1.lately", `[]`, "the latest requests of v2"},
		{"judged", "dispersion.num", `[1]`, "how stable's errors come together"},
		{"judged", "dispersion", `7`, "how stable's errors come together"},
		{"judged", "usual.at", `1e12`, "stable's usual error rate"},
		{"judged", "rate", `{"requests": 1e15, "weight": 1e-300}`, "the rate of requests"},
		{"watch", "versions.1.judge", `{"relative": 1}`, "the judge of v2"},
	} {
		raw := replaced(t, goldens(t, "format2")[c.golden], c.where, c.value)
		s, lost, err := DecodeState(raw)
		if err != nil || len(lost) == 0 || !strings.HasPrefix(lost[0], c.lost) {
			t.Errorf("%s = %s: lost %q, %v", c.where, c.value, lost, err)
			continue
		}
		v := s.Version("v2")
		if strings.Contains(c.lost, "the judge") && (v.Judge == nil || v.Judge.Updates != 0 || v.Config.Alpha != 0.0005) {
			t.Errorf("%s = %s: judge %+v with a chance of %g", c.where, c.value, v.Judge, v.Config.Alpha)
		}
		if was := mustDecode(t, goldens(t, "format2")[c.golden]); was.Weight("v2") != s.Weight("v2") || s.Version("v2").Phase != was.Version("v2").Phase {
			t.Errorf("%s = %s: more than evidence is lost", c.where, c.value)
		}
		exercise(t, s)
	}
}

// The same where the evidence is stored beside what is decided. Without any of it the judge begins anew, on half of the chance of a
// false rollback.
func TestEvidenceBesideWhatIsDecided(t *testing.T) {
	for golden := range goldens(t, "format2") {
		s := mustDecode(t, goldens(t, "format2")[golden])
		decided, evidence, err := EncodeParts(s, true)
		if err != nil {
			t.Fatal(err)
		}
		again, lost, err := DecodeParts(decided, evidence)
		if got, want := mustEncode(t, again), mustEncode(t, s); err != nil || len(lost) > 0 || !bytes.Equal(got, want) {
			t.Errorf("%s: %v %v %s", golden, err, lost, difference(want, got))
		}
	}
	s := mustDecode(t, goldens(t, "format2")["judged"])
	decided, evidence, err := EncodeParts(s, true)
	if err != nil {
		t.Fatal(err)
	}
	alpha := s.Version("v2").Config.Alpha
	for _, c := range []struct {
		name, lost string
		evidence   []byte
		anew       bool
	}{
		{"none of it is there", "the evidence: ", nil, true},
		{"half of it is there", "the evidence: ", evidence[:len(evidence)/2], true},
		{"it is of another version", "the evidence on a version: there is no version with number 7", replaced(t, evidence, "trials.1.seq", "7"), true},
		{"what is no time", "the evidence on a version: v2: ", replaced(t, evidence, "trials.1.evidence_at", "7"), true},
		{"a judge that cannot be", "the judge of v2", replaced(t, evidence, "trials.1.judge.relative.e", "-1"), true},
		{"what is known of the service is no time", "the evidence on the service: ", replaced(t, evidence, "seen_at", "7"), false},
		{"how errors come together", "how stable's errors come together", replaced(t, evidence, "dispersion", "7"), false},
	} {
		got, lost, err := DecodeParts(decided, c.evidence)
		if err != nil || len(lost) != 1 || !strings.HasPrefix(lost[0], c.lost) {
			t.Errorf("%s: %v, lost: %q", c.name, err, lost)
			continue
		}
		v := got.Version("v2")
		if anew := v.Config.Alpha == alpha/2 && v.Judge != nil && v.Judge.Updates == 0; anew != c.anew || !c.anew && v.Config.Alpha != alpha {
			t.Errorf("%s: the judge begins anew: %v, with alpha %v of %v", c.name, anew, v.Config.Alpha, alpha)
		}
		if a, b := got.Table(), s.Table(); a.Generation != b.Generation || !slices.Equal(a.Slots, b.Slots) {
			t.Errorf("%s: the table changed: %+v, was %+v", c.name, a, b)
		}
	}
	if _, _, err := DecodeState(decided); err == nil || !strings.Contains(err.Error(), "has format 3") {
		t.Errorf("what is decided is read as a whole state: %v", err)
	}
	if _, _, err := DecodeParts(replaced(t, decided, "format", "4"), evidence); err == nil || !strings.Contains(err.Error(), "run the newer canaryd") {
		t.Errorf("format 4: %v", err)
	}
}

func TestStatesThatAreRefused(t *testing.T) {
	for _, c := range []struct{ golden, where, value, why string }{
		{"judged", "format", `3`, "run the newer canaryd"},
		{"judged", "policy.service", `""`, "names no service"},
		{"judged", "policy.ramp.canaries", `0`, "0 canaries"},
		{"judged", "policy.ramp.steps", `[-0.1, 1]`, "do not rise"},
		{"judged", "versions.1.slots", `[{"start": 9999, "count": 2}]`, "are not there"},
		{"judged", "versions.1.slots", `[{"start": 5, "count": -2}]`, "are not there"},
		{"queued", "versions.2.slots", `[{"start": 5000, "count": 1}]`, "taken twice"},
		{"judged", "versions.1.phase", `"stable"`, "it is stable and holds slots"},
		{"judged", "versions.1.phase", `"odd"`, "no phase"},
		{"judged", "versions.1.phase", `"failed"`, "holds slots"},
		{"judged", "versions.1.name", `"v1"`, "there twice"},
		{"judged", "versions.1.seq", `1`, "out of order"},
		{"judged", "versions.1.done", `9`, "no goal"},
		{"judged", "versions.1.first_weight", `"9000-01-01T00:00:00Z"`, "not a time"},
		{"judged", "stable", `"v9"`, "and the stable version is"},
		{"judged", "stable", `7`, "cannot be read"},
	} {
		if _, _, err := DecodeState(replaced(t, goldens(t, "format2")[c.golden], c.where, c.value)); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s = %s: %v", c.where, c.value, err)
		}
	}
}

// replaced puts another value at a path like versions.1.name.
func replaced(t *testing.T, raw []byte, path, value string) []byte {
	t.Helper()
	key, rest, deeper := strings.Cut(path, ".")
	if list := []json.RawMessage(nil); json.Unmarshal(raw, &list) == nil {
		i := int(key[0] - '0')
		list[i] = replaced(t, list[i], rest, value)
		out, _ := json.Marshal(list)
		return out
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if deeper {
		fields[key] = replaced(t, fields[key], rest, value)
	} else {
		fields[key] = json.RawMessage(value)
	}
	var out bytes.Buffer
	out.WriteString("{")
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		if out.Len() > 1 {
			out.WriteString(",")
		}
		out.WriteString(`"` + k + `":` + string(fields[k]))
	}
	out.WriteString("}")
	return out.Bytes()
}

// someEvents are one of each type.
func someEvents(at time.Time) []Event {
	p := policy.Default()
	p.Service = "shop"
	return []Event{
		PolicyChanged{At: at, Policy: p, Hash: "abc", Secret: "s", By: "reload"},
		Announced{At: at, Version: "v2", Endpoints: []string{"10.0.0.2:80"}, Origin: "file", By: "ci"},
		Announced{At: at, Version: "v3", Image: "r/x:1", Again: true, Paused: true, Secret: "s", Digest: "sha256:d", By: "ci"},
		Commanded{At: at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"},
		Observed{At: at, Batch: time.Second, Cells: []Cell{{Slice: "edge-1", Proxy: Client, From: at.Add(-time.Second), To: at,
			Counts:    map[string]analysis.Counts{"v1": {Requests: 900, Errors: 1}, "v2": {Requests: 100}},
			Endpoints: map[string][]analysis.Slice{"v1": {{Name: "10.0.0.1:80", Counts: analysis.Counts{Requests: 900, Errors: 1}}}}}}},
		Observed{At: at, Missing: &Missing{analysis.SourceUnreachable, "away"}},
		Applied{At: at, Generation: 3, InForce: true, Subscribers: 2, Lagging: []string{"edge-2"}, Otherwise: true, Refusing: []string{"edge-3"}},
		Rejected{At: at, Generation: 3, Node: "edge-1", Message: "no"},
		Launched{At: at, Version: "v3", Attempt: 1, Image: true, Pulled: true, Digests: []string{"sha256:d"}, Endpoints: []string{"172.17.0.2:80"}, Note: "n", Done: Stop, Containers: 1, Logs: "l"},
		Left{At: at, Version: "v2", Origin: "file"},
		Probed{At: at, Version: "v2", Up: true},
		Orphaned{At: at},
		Recalled{At: at, Version: "v2", Attempt: 1},
		Sampled{At: at, Failures: map[string][]analysis.Example{"v2": {{Class: "checkout", Kind: analysis.TimedOut, N: 3}}}},
		Removing{At: at, By: "ann"},
		Forgotten{At: at, Node: "edge-1", By: "ann"},
		Tick{At: at},
	}
}

func TestEventsAreWrittenAsTheyWereRead(t *testing.T) {
	path := filepath.Join("testdata", "codec", "events.jsonl")
	if *update {
		var out bytes.Buffer
		for _, e := range someEvents(time.Date(2026, 1, 1, 0, 0, 0, 5000, time.UTC)) {
			raw, err := EncodeEvent(e)
			if err != nil {
				t.Fatal(err)
			}
			out.Write(append(raw, '\n'))
		}
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	lines, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range bytes.Lines(lines) {
		e, err := DecodeEvent(line)
		if err != nil {
			t.Fatal(err)
		}
		again, err := EncodeEvent(e)
		if err != nil || !bytes.Equal(again, bytes.TrimSpace(line)) {
			t.Errorf("was: %snow: %s (%v)", line, again, err)
		}
		seen[e.name()] = true
	}
	for name := range eventDecoders() {
		if !seen[name] {
			t.Errorf("there is no golden of the event %s", name)
		}
	}
}

func TestEventsThatAreRefused(t *testing.T) {
	for _, raw := range []string{
		``, `{}`, `{"format":1,"type":"born","event":{}}`, `{"format":2,"type":"tick","event":{}}`, `{"format":1,"type":"tick","event":7}`,
		`{"format":1,"type":"observed","event":{"at":"2026-01-01T00:00:00Z","cells":[{"proxy":2}]}}`,
		`{"format":1,"type":"observed","event":{"at":"2026-01-01T00:00:00Z","cells":[{"counts":{"v1":{"requests":-1}}}]}}`,
		`{"format":1,"type":"launched","event":{"at":"2026-01-01T00:00:00Z","done":5}}`,
		`{"format":1,"type":"policy_changed","event":{"at":"2026-01-01T00:00:00Z","policy":{}}}`,
		`{"format":1,"type":"tick","event":{"at":"9026-01-01T00:00:00Z"}}`,
	} {
		if e, err := DecodeEvent([]byte(raw)); err == nil {
			t.Errorf("%s was read as %#v", raw, e)
		}
	}
}

// exercise steps a state through events of every type, with evidence of all of its versions between them.
func exercise(t *testing.T, s State) {
	at := s.At
	if at.Year() < 1971 {
		at = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	take := func(e Event) {
		next, _, err := Step(s, e)
		if err == nil {
			s = next
		}
		s.Table()
		s.Containers()
		_, _, _ = Step(s, Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 1})
	}
	s = Resume(s, at)
	for _, e := range someEvents(at) {
		take(e)
		counts := map[string]analysis.Counts{}
		for i, v := range s.Versions {
			counts[v.Name] = analysis.Counts{Requests: 100, Errors: float64(i % 2)}
			take(Probed{At: at, Version: v.Name, Up: i%2 == 0})
			take(Commanded{At: at, Verb: "resume", Version: v.Name})
		}
		take(Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 1})
		for range 3 {
			from := at
			at = at.Add(time.Second)
			take(Observed{At: at, Batch: time.Second, Cells: []Cell{{Slice: "n", From: from, To: at, Counts: counts}}})
		}
		at = at.Add(time.Minute)
		take(Tick{At: at})
	}
	for _, v := range s.Versions {
		take(Commanded{At: at, Verb: "abort", Version: v.Name})
		take(Commanded{At: at, Verb: "promote", Version: v.Name, Reachable: true})
	}
	mustEncode(t, s)
}

// Whatever is decoded without an error can be stepped, and stored again. Beside the bytes, two values
// anywhere in the state are replaced by odd ones.
func FuzzDecodeState(f *testing.F) {
	for _, dir := range []string{"format1", "format2"} {
		i := 0
		for _, raw := range goldens(f, dir) {
			f.Add(raw, uint16(0), uint8(0), uint16(0), uint8(0))
			f.Add(raw, uint16(31*i), uint8(i), uint16(97*i), uint8(3*i))
			i++
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, where uint16, what uint8, where2 uint16, what2 uint8) {
		raw = oddAt(oddAt(raw, int(where), int(what)), int(where2), int(what2))
		if s, _, err := DecodeState(raw); err == nil {
			exercise(t, s)
		}
	})
}

// oddAt replaces the n-th value of a JSON text; the text itself for n = 0 and where there is no such value.
func oddAt(raw []byte, n, what int) []byte {
	var v any
	if json.Unmarshal(raw, &v) != nil || n == 0 {
		return raw
	}
	odd := []any{nil, 0, -1, 1, 0.5, 1e-320, 1e15, 1e300, -1e9, 63, 10000, "", "stable", "canary", "warming", "v1", "2199-12-31T00:00:00Z", "1970-01-01T00:00:00Z", []any{}, map[string]any{}, []any{1, 2}, true}
	var replace func(v any) any
	replace = func(v any) any {
		if n--; n == 0 {
			return odd[what%len(odd)]
		}
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				v[k] = replace(v[k])
			}
		case []any:
			for i := range v {
				v[i] = replace(v[i])
			}
		}
		return v
	}
	out, err := json.Marshal(replace(v))
	if err != nil {
		return raw
	}
	return out
}

// Whatever event is decoded without an error can be taken in.
func FuzzDecodeEvent(f *testing.F) {
	lines, err := os.ReadFile(filepath.Join("testdata", "codec", "events.jsonl"))
	if err != nil {
		f.Fatal(err)
	}
	for line := range bytes.Lines(lines) {
		f.Add(line)
	}
	start := mustDecode(f, goldens(f, "format2")["queued"])
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := DecodeEvent(raw)
		if err != nil {
			return
		}
		if s, _, err := Step(start, e); err == nil {
			exercise(t, s)
		}
	})
}
