package journal

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What was ever written is read for ever: a new format gets new files, and these stay as they are.
var update = flag.Bool("update", false, "write the files of a format that has none yet")

// oddAnswers are what cells say from format 2 on.
func oddAnswers(cells []rollout.Cell) {
	bounds := []float64{0.001, 0.5, 1e9}
	cells[0].Answers = map[string][]analysis.Answer{"v2": {{Class: "checkout", Code: "503", Endpoint: "10.0.0.2:80", Counts: analysis.Counts{Requests: 3, Errors: 3}}, {Code: "grpc-0", Counts: analysis.Counts{Requests: 0.5}}}, "v1": {}}
	cells[0].Times = map[string][]analysis.Times{"v1": {{Name: "10.0.0.1:80", UpTo: bounds, N: []float64{1, 0, 2.5, 0}}, {UpTo: bounds[:2], N: []float64{0, 0, 7}}, {N: []float64{4}}}, "v2": {{UpTo: bounds, N: []float64{0, 0, 0, 0}}}}
	cells[0].Issued = map[string]float64{"v1": 951, "v2": 50}
	cells[1].Issued = map[string]float64{}
	cells[2].Times = map[string][]analysis.Times{"v1": {{UpTo: bounds, N: []float64{0, 1, 0, 0}}}}
}

// odd are events in which each field says something else than the usual.
func odd(format int) []rollout.Event {
	at := time.Date(2026, 3, 29, 1, 59, 59, 123456789, time.UTC)
	has := []rollout.Run{{Version: "v1", Count: 9500}, {Version: "v2", Count: 500}}
	cells := []rollout.Cell{
		{Slice: "edge-1", From: at.Add(-time.Second), To: at, Counts: map[string]analysis.Counts{"v1": {Requests: 950, Errors: 1}, "v2": {Requests: 50}}, Has: has, HasSince: at.Add(-time.Minute),
			Endpoints: map[string][]analysis.Slice{"v2": {{Name: "10.0.0.2:80", Counts: analysis.Counts{Requests: 50}}}, "v1": {}}},
		{Slice: "client", Proxy: rollout.Client, From: at.Add(-1500 * time.Millisecond), To: at.Add(-time.Nanosecond), Counts: map[string]analysis.Counts{"v1": {Requests: 0.25, Errors: 0.125}}, Unknown: true},
		{Slice: "nothing", Has: []rollout.Run{}},
	}
	if format >= 2 {
		oddAnswers(cells)
	}
	later := cells[0]
	later.From, later.To = at, at.Add(time.Second)
	return []rollout.Event{
		rollout.Tick{At: at},
		rollout.Observed{At: at, Batch: time.Second, Cells: cells},
		rollout.Observed{At: at.Add(time.Second), Batch: time.Second, Cells: []rollout.Cell{later}, Stuck: true},
		rollout.Observed{At: at.Add(time.Second), Missing: &rollout.Missing{Code: analysis.Stale, Reason: "for 30s"}},
		rollout.Observed{At: at.Add(time.Second), Cells: []rollout.Cell{}},
		rollout.Applied{At: at.Add(2 * time.Second), Generation: 7, InForce: true, Subscribers: 2, Lagging: []string{"edge-2"}, Crowds: []rollout.Crowd{{Version: "abc", Has: has, Present: true, Nodes: []string{"edge-1"}}}},
		rollout.Commanded{At: at, Verb: "pause", Version: "v2", By: "ann"}, // the clock was set back
		rollout.Tick{At: at.Add(time.Hour)},
	}
}

func oddParts(t *testing.T, format int) (parts [][]byte, events []rollout.Event) {
	t.Helper()
	d := document(t, usual)
	at := time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)
	s, _, err := rollout.Step(rollout.State{}, rollout.PolicyChanged{At: at, Policy: d.Policy, Hash: d.Hash, Secret: "s", By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	w := Begin(1, Header{Service: "shop", At: at, Why: Began, Lost: at.Add(-time.Hour)}, s)
	w.header.Machine = "amd64 go1" // the file is the same everywhere
	events = odd(format)
	for i, e := range events {
		w.Took(e, []rollout.Record{{At: at, Service: "shop", Version: "v2", Kind: rollout.KindHeld, Reason: fmt.Sprint(i), By: "test"}})
		if i%3 == 2 || i == len(events)-1 {
			raw, err := w.Cut(Point{At: rollout.At(e), Stable: "v1", Versions: []Stand{{Version: "v2", Attempt: 1, Phase: rollout.Canary, Weight: 500, Counts: analysis.Counts{Requests: float64(i), Errors: 0.5}, Evidence: 1.5, Threshold: 1000, Promotion: 1e300, PromoteAt: 100}}}, i == len(events)-1).Encode()
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, raw)
		}
	}
	return parts, events
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	parts, events := oddParts(t, partFormat)
	packed, err := Pack(parts)
	if err != nil {
		t.Fatal(err)
	}
	rd, err := NewReader()
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range [][][]byte{parts, {packed}} {
		c, err := rd.Read(raw)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Events) != len(events) || len(c.Records) != len(events) || len(c.Points) != len(parts) || c.Why != Began || c.Lost.IsZero() {
			t.Fatalf("%d events, %d records, %d points, %+v", len(c.Events), len(c.Records), len(c.Points), c.Header)
		}
		for i := range events {
			if !reflect.DeepEqual(c.Events[i], events[i]) {
				t.Errorf("written %+v\nread    %+v", events[i], c.Events[i])
			}
		}
		if p := c.Points[0].Versions[0]; p.Evidence != 1.5 || p.Counts.Errors != 0.5 || p.Promotion < 1e38 || p.Weight != 500 {
			t.Errorf("%+v", p)
		}
		if b, err := rd.Beside(raw); err != nil || len(b.Points) != len(c.Points) || len(b.Events) != 0 {
			t.Errorf("%+v %v", b, err)
		}
	}
	if _, err := Pack([][]byte{packed}); err == nil {
		t.Error("what is packed was packed again")
	}
}

func TestTheFilesOfEachFormatAreRead(t *testing.T) {
	rd, err := NewReader()
	if err != nil {
		t.Fatal(err)
	}
	for format := firstPart; format <= partFormat; format++ {
		parts, _ := oddParts(t, format)
		packed, err := Pack(parts)
		if err != nil {
			t.Fatal(err)
		}
		want, err := rd.Read(parts)
		if err != nil {
			t.Fatal(err)
		}
		for name, now := range map[string][][]byte{fmt.Sprintf("parts-%d", format): parts, fmt.Sprintf("packed-%d", 128+format): {packed}} {
			file := filepath.Join("testdata", name)
			if *update && format == partFormat {
				if err := os.WriteFile(file, AppendFrame(nil, now), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got := readFile(t, rd, file)
			got.stored, want.stored = nil, nil // a state has formats of its own, and grows
			got.State, want.State = rollout.State{}, rollout.State{}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s:\n%+v\nwant\n%+v", file, got, want)
			}
		}
	}
}

func readFile(t *testing.T, rd *Reader, f string) Chunk {
	t.Helper()
	raw, err := os.ReadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := ReadFrame(bufferOf(raw))
	if err != nil {
		t.Fatal(err)
	}
	c, err := rd.Read(parts)
	if err != nil {
		t.Fatalf("%s: %v", f, err)
	}
	return c
}

func TestWhatIsBrokenIsTold(t *testing.T) {
	parts, _ := oddParts(t, partFormat)
	rd, err := NewReader()
	if err != nil {
		t.Fatal(err)
	}
	packed, err := Pack(parts)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][][]byte{"no part": nil, "without the first": parts[1:], "without the second": {parts[0], parts[2]}, "cut off": {parts[0], parts[1][:20]},
		"packed and more": {packed, parts[1]}, "empty": {{}}, "of tomorrow": {seal([]byte{77, 0, 0})}} {
		if c, err := rd.Read(raw); err == nil {
			t.Errorf("%s: %+v", name, c.Header)
		}
	}
	for i := range packed {
		bad := bytes.Clone(packed)
		bad[i] ^= 1
		if _, err := rd.Read([][]byte{bad}); err == nil {
			t.Fatalf("byte %d was changed, and nobody noticed", i)
		}
	}
	// What came before it is read.
	if c, err := rd.Read([][]byte{parts[0], parts[1][:20]}); err == nil || len(c.Events) != 3 {
		t.Errorf("%d events, %v", len(c.Events), err)
	}
}

// Whatever the disk has made of a chunk: it is read or refused, and what is read is safe to step with.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"testdata/parts-1", "testdata/packed-129", "testdata/parts-2", "testdata/packed-130"} {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		parts, err := ReadFrame(bufferOf(raw))
		if err != nil {
			f.Fatal(err)
		}
		for i := range parts {
			body, err := unseal(parts[i])
			if err != nil {
				f.Fatal(err)
			}
			f.Add(body, i == 0)
		}
	}
	rd, err := NewReader()
	if err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile("testdata/parts-2")
	if err != nil {
		f.Fatal(err)
	}
	whole, err := ReadFrame(bufferOf(raw))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, first bool) {
		parts := [][]byte{whole[0], seal(body)}
		if first {
			parts = [][]byte{seal(body)}
		}
		c, broken := rd.Read(parts)
		var re Replay
		re.Take(&c, broken)
		re.Finish()
		p := &Plot{Service: "shop", Version: "v2"}
		if p.Take(&c, broken) == nil {
			_, _ = p.Buckets(0) // too long is an answer, too
		}
	})
}

func bufferOf(raw []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(raw)) }
