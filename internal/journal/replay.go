package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Replay takes chunks again, in their order: the state machine gets the events that it got, and must decide what it
// decided. Beside that each release that begins may be taken under another policy.
type Replay struct {
	Policy *policy.Document // the other policy; nil: none

	Chunks    int
	Events    int
	Decisions int          // records of the journal
	Same      int          // of them came out byte for byte
	Alike     int          // of them came out with other last digits, on another kind of machine
	Otherwise []Difference // came out otherwise
	Gaps      []GapSpan
	Releases  []*Release

	state rollout.State
	last  time.Time // of the last event
	open  map[string]*Release
	forks []*fork
}

// Difference is what was decided, and what came out.
type Difference struct {
	At   time.Time       `json:"at"`
	Then json.RawMessage `json:"then,omitempty"`
	Now  json.RawMessage `json:"now,omitempty"`
	What string          `json:"what"`
}

// GapSpan is a time of which nothing is in the journal.
type GapSpan struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Why  string    `json:"why"`
}

// Release is one attempt of a version.
type Release struct {
	Version   string    `json:"version"`
	Attempt   int       `json:"attempt"`
	Announced time.Time `json:"announced"`
	Whole     bool      `json:"whole"` // its beginning is in the journal
	Then      Outcome   `json:"then"`
	Would     *Outcome  `json:"would,omitempty"` // under the other policy
}

// Outcome is what became of a release, or would have.
type Outcome struct {
	Decided  string           `json:"decided"` // promoted, rolled_back, aborted, superseded, undecided
	At       time.Time        `json:"at"`
	By       string           `json:"by,omitempty"`
	Reason   string           `json:"reason"`
	Weight   int              `json:"weight"` // parts of 10 000, before that
	Receipt  *rollout.Receipt `json:"receipt,omitempty"`
	Evidence float64          `json:"evidence,omitempty"` // against it, where undecided
	Proof    float64          `json:"proof,omitempty"`    // for it
}

const undecided = "undecided"

// Take takes one chunk. Broken is why not all of it could be read.
func (r *Replay) Take(c *Chunk, broken error) {
	if c.State.Policy.Service == "" {
		r.Gaps = append(r.Gaps, GapSpan{r.last, c.At, fmt.Sprintf("a chunk cannot be read: %v", broken)})
		return
	}
	r.Chunks++
	r.joins(c)
	r.state = c.State
	left := c.Records
	for _, e := range c.Events {
		r.Events++
		left = r.step(c, e, left)
		r.last = rollout.At(e)
	}
	if broken != nil {
		r.Gaps = append(r.Gaps, GapSpan{r.last, r.last, fmt.Sprintf("a chunk cannot be read on: %v", broken)})
		return
	}
	for _, raw := range left {
		r.Decisions++
		r.Otherwise = append(r.Otherwise, Difference{What: "decided then, and not now", Then: raw})
	}
}

// joins looks whether a chunk goes on where the last one ended.
func (r *Replay) joins(c *Chunk) {
	if r.Chunks == 1 || c.Why == Began {
		r.forks = nil
		return
	}
	switch c.Why {
	case Continued:
		raw, err := rollout.EncodeState(r.state)
		if c.Machine == machine() && (err != nil || !bytes.Equal(raw, c.stored)) {
			r.Otherwise = append(r.Otherwise, Difference{At: c.At, What: "the state came out otherwise"})
		}
	case Resumed:
		for _, f := range r.forks {
			f.state = rollout.Resume(f.state, c.At)
			f.settle(c.At)
		}
	default:
		from := c.Lost
		if from.IsZero() {
			from = r.last
		}
		r.Gaps = append(r.Gaps, GapSpan{from, c.At, string(c.Why)})
		for _, f := range r.forks {
			f.end(r.last, "what came next is not in the journal")
		}
		r.forks = nil
	}
}

func (r *Replay) step(c *Chunk, e rollout.Event, left []json.RawMessage) []json.RawMessage {
	was := r.state
	for _, f := range r.forks {
		f.step(e)
	}
	next, records, err := rollout.Step(was, e)
	if err != nil {
		r.Otherwise = append(r.Otherwise, Difference{At: rollout.At(e), What: fmt.Sprintf("an event that was taken then is refused now: %v", err)})
		return left
	}
	r.state = next
	for _, now := range records {
		left = r.compare(c, now, left)
	}
	r.follow(was, e, records)
	return left
}

func (r *Replay) compare(c *Chunk, now rollout.Record, left []json.RawMessage) []json.RawMessage {
	raw, err := json.Marshal(now)
	if err != nil {
		now.Verdict = nil
		raw, _ = json.Marshal(now) // without the verdict's numbers all of it can be
	}
	r.Decisions++
	switch {
	case len(left) > 0 && bytes.Equal(left[0], raw):
		r.Same++
	case len(left) > 0 && c.Machine != machine() && alike(left[0], now):
		r.Alike++
	case len(left) > 0:
		r.Otherwise = append(r.Otherwise, Difference{At: now.At, Then: left[0], Now: raw, What: "decided otherwise"})
	default:
		r.Otherwise = append(r.Otherwise, Difference{At: now.At, Now: raw, What: "decided now, and not then"})
		return nil
	}
	return left[1:]
}

// alike reports whether a record says the same, but for digits.
func alike(then json.RawMessage, now rollout.Record) bool {
	var was rollout.Record
	return json.Unmarshal(then, &was) == nil && was.Kind == now.Kind && was.Version == now.Version && was.By == now.By && was.At.Equal(now.At) &&
		maps.Equal(was.Before, now.Before) && maps.Equal(was.After, now.After)
}

// follow notes which releases begin and end by an event.
func (r *Replay) follow(was rollout.State, e rollout.Event, records []rollout.Record) {
	if r.open == nil {
		r.open = map[string]*Release{}
	}
	for _, v := range r.state.Versions {
		if rel := r.open[v.Name]; !v.Phase.Waiting() || rel != nil && rel.Attempt == v.Attempt {
			continue
		}
		before := was.Version(v.Name)
		rel := &Release{Version: v.Name, Attempt: v.Attempt, Announced: v.AnnouncedAt, Whole: before == nil || before.Attempt != v.Attempt}
		r.open[v.Name] = rel
		r.Releases = append(r.Releases, rel)
		if a, ok := e.(rollout.Announced); ok && rel.Whole && r.Policy != nil && a.Version == v.Name {
			r.fork(was, a, rel)
		}
	}
	for name, rel := range r.open {
		v := r.state.Version(name)
		rel.Then = outcome(v, was.Weight(name), records)
		if v != nil && v.Phase.Waiting() && v.Attempt == rel.Attempt {
			continue
		}
		delete(r.open, name)
		r.ended(rel, rollout.At(e))
	}
}

// ended ends the fork of a release whose fate was decided then.
func (r *Replay) ended(rel *Release, at time.Time) {
	for _, f := range r.forks {
		if f.release == rel {
			f.end(at, fmt.Sprintf("not decided on what was counted until it was %s then", rel.Then.Decided))
		}
	}
}

// Finish ends what is open at the end of the journal.
func (r *Replay) Finish() {
	for _, f := range r.forks {
		f.end(r.last, "not decided on what was counted so far")
	}
}

func outcome(v *rollout.Version, weight int, records []rollout.Record) Outcome {
	if v == nil {
		return Outcome{Decided: undecided, Reason: "it was removed"}
	}
	o := Outcome{Decided: undecided, At: v.Verdict.At, Reason: v.Verdict.Reason, Weight: weight, Receipt: v.Receipt()}
	if !v.Phase.Waiting() {
		o.Decided = string(v.Phase)
	}
	for _, rec := range records {
		if rec.Version == v.Name && (rec.Kind == rollout.KindPromoted || rec.Kind.Ends()) {
			o.Decided, o.At, o.By, o.Reason, o.Receipt = string(rec.Kind), rec.At, rec.By, rec.Reason, rec.Receipt
		}
	}
	if v.Judge != nil && v.Phase.Waiting() {
		o.Evidence, o.Proof = v.Judge.E(&v.Config), v.Judge.Promotion.E
	}
	return o
}
