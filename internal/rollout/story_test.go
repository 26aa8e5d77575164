package rollout

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// Only commit rewritten stories when you understand what changed them.
var update = flag.Bool("update", false, "rewrite the stories in testdata")

// story runs a file of commands, each followed by ---- and what it prints.
type story struct {
	s     State
	at    time.Time
	fleet bool            // the Envoys accept every table at once
	up    map[string]bool // whether an announced version answers when it is asked; of the others `probe` tells
	told  Told
}

// Told hears of each event that is taken.
type Told func(before State, e Event, records []Record)

// Stories tells all of them, to tests of others too, and returns how each one ends.
func Stories(t *testing.T, told Told) map[string]State {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d stories found (%v)", len(files), err)
	}
	ends := map[string]State{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		st := &story{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), fleet: true, up: map[string]bool{}, told: told}
		st.tell(t, string(data))
		ends[filepath.Base(f)] = st.s
	}
	return ends
}

func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d stories found (%v)", len(files), err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := runStory(t, string(data))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(data) {
				t.Errorf("the story goes differently now:\n%s", firstDifference(string(data), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range w {
		if i >= len(g) || w[i] != g[i] {
			return fmt.Sprintf("line %d\nwas: %s\nnow: %s", i+1, strings.Join(w[i:min(i+6, len(w))], "\n     "), strings.Join(g[min(i, len(g)):min(i+6, len(g))], "\n     "))
		}
	}
	return "more lines at the end"
}

func runStory(t *testing.T, text string) string {
	return (&story{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), fleet: true, up: map[string]bool{}}).tell(t, text)
}

func (st *story) tell(t *testing.T, text string) string {
	var out strings.Builder
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); {
		if strings.HasPrefix(lines[i], "#") || strings.TrimSpace(lines[i]) == "" {
			fmt.Fprintln(&out, lines[i])
			i++
			continue
		}
		var cmd []string
		for i < len(lines) && lines[i] != "----" {
			cmd = append(cmd, lines[i])
			i++
		}
		for i++; i < len(lines) && lines[i] != ""; i++ { // the old answer
		}
		i++ // and the empty line after it
		fmt.Fprintf(&out, "%s\n----\n%s", strings.Join(cmd, "\n"), st.run(t, cmd[0], strings.Join(cmd[1:], "\n")))
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

func (st *story) run(t *testing.T, line, body string) string {
	f := strings.Fields(line)
	if len(f) == 0 {
		t.Fatal("an empty command")
	}
	var out strings.Builder
	switch f[0] {
	case "policy":
		docs, fs := policy.Parse("story", []byte("service: shop\n"+body))
		if len(fs.Errors()) > 0 {
			t.Fatal(fs)
		}
		st.step(&out, PolicyChanged{At: st.at, Policy: docs[0].Policy, Hash: docs[0].Hash, By: "story"})
	case "announce":
		st.up[f[1]] = len(f) < 3
		origin := ""
		if len(f) > 2 && f[2] == "found" {
			origin = "file_sd"
		}
		st.step(&out, Announced{At: st.at, Version: f[1], Origin: origin, Endpoints: []string{"10.0.0." + strconv.Itoa(len(st.s.Versions)+1) + ":80"}, Again: len(f) > 2 && f[2] == "again", Paused: len(f) > 2 && f[2] == "paused", By: "ci"})
	case "image":
		st.step(&out, Announced{At: st.at, Version: f[1], Image: "registry/shop:" + f[1], Once: len(f) > 2 && f[2] == "pushed", Digest: strings.Join(f[min(3, len(f)):], ""), By: "ci"})
	case "docker":
		st.docker(&out, f[1], f[2], strings.Join(f[3:], " "))
	case "containers":
		for _, c := range st.s.Containers() {
			fmt.Fprintf(&out, "container %s, attempt %d: %s\n", c.Version, c.Attempt, c.Goal)
		}
	case "clusters":
		for _, c := range st.s.Table().Clusters {
			fmt.Fprintf(&out, "cluster %s, sessions %v\n", c.Version, c.Pinned)
		}
	case "promote", "abort", "pause", "resume":
		st.step(&out, Commanded{At: st.at, Verb: f[0], Version: f[1], Reachable: true, Knowing: len(f) > 2 && f[2] == "even-failed", By: "ann"})
	case "observe":
		st.observe(t, &out, f[1:])
	case "missing":
		st.step(&out, Observed{At: st.at, Missing: &Missing{analysis.Code(f[1]), "in words"}})
	case "fleet":
		st.fleet = f[1] == "accepts"
		if st.fleet {
			st.accept(&out)
		}
	case "refuse":
		st.step(&out, Rejected{At: st.at, Generation: st.s.Generation, Node: f[1], Message: strings.Join(f[2:], " ")})
	case "probe":
		if _, asked := st.up[f[1]]; asked {
			st.up[f[1]] = f[2] == "up"
		}
		st.step(&out, Probed{At: st.at, Version: f[1], Up: f[2] == "up"})
	case "tick":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			t.Fatal(err)
		}
		st.at = st.at.Add(d)
		st.step(&out, Tick{At: st.at})
	default:
		t.Fatalf("no command %q", f[0])
	}
	st.show(&out)
	return out.String()
}

// docker VERSION says|pulled|has|runs|failed|done WORDS; done is what is wanted at that moment.
func (st *story) docker(out *strings.Builder, version, what, words string) {
	e := Launched{At: st.at, Version: version, Note: words, Failed: what == "failed"}
	if v := st.s.Version(version); v != nil {
		e.Attempt = v.Attempt
	}
	switch what {
	case "has":
		e.Note, e.Image, e.Digests = "", true, strings.Fields(words)
	case "pulled":
		e.Image, e.Pulled = true, true
	case "runs":
		e.Note, e.Endpoints, e.Image = "", strings.Fields(words), true
	case "done":
		e.Note, e.Logs = "", words
		for _, c := range st.s.Containers() {
			if c.Version == version {
				e.Done, e.Containers = c.Goal, 1
			}
		}
	}
	st.step(out, e)
}

// step takes an event in, and what Envoys and versions answer.
func (st *story) step(out *strings.Builder, e Event) {
	st.take(out, e)
	if st.fleet && !st.s.InForce {
		st.accept(out)
	}
	for _, v := range st.s.Versions {
		if v.Probed() && !v.Reachable && st.up[v.Name] {
			st.step(out, Probed{At: st.at, Version: v.Name, Up: true})
		}
	}
}

func (st *story) take(out *strings.Builder, e Event) {
	next, records, err := Step(st.s, e)
	var r *Refusal
	if errors.As(err, &r) {
		fmt.Fprintf(out, "refused: %s\n", r.Message)
		return
	}
	if st.told != nil {
		st.told(st.s, e, records)
	}
	st.s = next
	for _, r := range records {
		fmt.Fprintf(out, "* %s %s: %s (by %s)\n", r.Kind, r.Version, r.Reason, r.By)
	}
}

func (st *story) accept(out *strings.Builder) {
	st.at = st.at.Add(time.Millisecond)
	st.take(out, Applied{At: st.at, Generation: st.s.Generation, InForce: true, Subscribers: 1})
}

// observe v1=1000/1 v2=50/0 [for=30s] [every=1s]: that many requests and errors every second.
func (st *story) observe(t *testing.T, out *strings.Builder, args []string) {
	counts, every, total := map[string]analysis.Counts{}, time.Second, time.Second
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		switch k {
		case "for", "every":
			d, err := time.ParseDuration(v)
			if err != nil {
				t.Fatal(err)
			}
			if k == "for" {
				total = d
			} else {
				every = d
			}
		default:
			var c analysis.Counts
			if _, err := fmt.Sscanf(v, "%f/%f", &c.Requests, &c.Errors); err != nil {
				t.Fatalf("%s: %v", a, err)
			}
			counts[k] = c
		}
	}
	for range int(total / every) {
		from := st.at
		st.at = st.at.Add(every)
		st.step(out, Observed{At: st.at, Batch: every, Cells: []Cell{{Slice: "edge", From: from, To: st.at, Counts: counts}}})
	}
}

func (st *story) show(out *strings.Builder) {
	for _, v := range st.s.Versions {
		fmt.Fprintf(out, "%-4s %-10s %7s", v.Name, v.Phase, share(st.s.Weight(v.Name)))
		if v.Verdict.Code != "" {
			fmt.Fprintf(out, "  %s %s", v.Verdict.Outcome, v.Verdict.Code)
		}
		if !st.s.InForceAt(v.Name) {
			out.WriteString("  not in force")
		}
		out.WriteString("\n")
	}
	fmt.Fprintf(out, "at %s, slots %s\n\n", st.at.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).Round(time.Second), slotLine(st.s.Table().Slots))
}

func slotLine(rs []Run) string {
	if len(rs) == 0 {
		return "none: 503"
	}
	var parts []string
	for _, r := range rs {
		parts = append(parts, fmt.Sprintf("%s:%d", r.Version, r.Count))
	}
	return strings.Join(parts, " ")
}
