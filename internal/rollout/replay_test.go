package rollout_test

import (
	"bytes"
	"testing"

	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What was told in each story is journalled, in small parts and in chunks of all lengths, and taken again.
func TestStoriesAreReplayedByteForByte(t *testing.T) {
	for _, long := range []int{3, 40, 100000} {
		var w *journal.Writer
		var chunks [][][]byte
		var parts [][]byte
		begins, events, why := uint64(0), 0, journal.Began
		var end rollout.State
		cut := func(last bool) {
			p := w.Cut(journal.PointOf(&end), last)
			if p == nil {
				return
			}
			raw, err := p.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if parts = append(parts, raw); last {
				chunks, parts, w, events = append(chunks, parts), nil, nil, 0
			}
		}
		decisions := 0
		rollout.Stories(t, func(before rollout.State, e rollout.Event, records []rollout.Record) {
			if before.Policy.Service == "" { // another story
				if w != nil {
					cut(true)
				}
				why = journal.Began
				return
			}
			if w == nil {
				begins++
				w = journal.Begin(begins, journal.Header{Service: "shop", At: rollout.At(e), Why: why}, before)
			}
			w.Took(rollout.Plain(e), records)
			decisions += len(records)
			end, _, _ = rollout.Step(before, e)
			if events++; events%7 == 0 || events >= long {
				cut(events >= long)
			}
			why = journal.Continued
		})
		cut(true)
		replayed(t, chunks, end, decisions)
		for i := range chunks {
			packed, err := journal.Pack(chunks[i])
			if err != nil {
				t.Fatal(err)
			}
			chunks[i] = [][]byte{packed}
		}
		replayed(t, chunks, end, decisions)
	}
}

func replayed(t *testing.T, chunks [][][]byte, end rollout.State, decisions int) {
	t.Helper()
	rd, err := journal.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	var r journal.Replay
	for _, raw := range chunks {
		c, err := rd.Read(raw)
		if err != nil {
			t.Fatal(err)
		}
		r.Take(&c, nil)
	}
	if r.Same != decisions || r.Decisions != decisions || decisions < 100 || len(r.Otherwise) > 0 || len(r.Gaps) > 0 {
		t.Errorf("%d of %d decisions came out, of %d; otherwise: %+v, gaps %v", r.Same, r.Decisions, decisions, r.Otherwise[:min(len(r.Otherwise), 2)], r.Gaps)
	}
	last, err := rd.Read(chunks[len(chunks)-1])
	if err != nil {
		t.Fatal(err)
	}
	s := last.State
	for _, e := range last.Events {
		if s, _, err = rollout.Step(s, e); err != nil {
			t.Fatal(err)
		}
	}
	got, err := rollout.EncodeState(s)
	want, err2 := rollout.EncodeState(end)
	if err != nil || err2 != nil || !bytes.Equal(got, want) {
		t.Errorf("the last state came out otherwise:\n%s\n%s", got, want)
	}
}
