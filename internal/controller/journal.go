package controller

import (
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
)

const (
	chunkMost    = 256 << 10 // bytes of a chunk of the journal, about
	chunkLongest = time.Hour

	partMost    = 8 << 10 // bytes of a part that no decision asks for; each costs some pages of the disk, however small it is
	partLongest = 30 * time.Second

	unwrittenMost  = 64 << 20 // bytes of the journal that wait for the disk, of all services
	unwrittenOfOne = 1 << 20
	unwrittenLeast = 32 << 10 // however many services there are
)

// scribe journals what the state machine of one service is told while something is under way. It waits for nothing: what
// is not stored is bounded, and the oldest goes first.
type scribe struct {
	w      *journal.Writer // nil: no chunk is being written
	parts  []*journal.Part // not known to be stored, oldest first
	flight int             // so many of them are in the write under way
	begun  uint64          // name of the last chunk
	at     time.Time       // when that began
	cutAt  time.Time       // when the last part was made
	why    journal.Why     // the next one begins
	lost   time.Time       // and what happened from then on is lost
	void   bool            // what is in the write under way is journalled only if that is well: it was withdrawn
}

// journalled takes in an event that was taken, and the state before it.
func (c *Controller) journalled(u *unit, before *rollout.State, e rollout.Event, records []rollout.Record) {
	j, busy := &u.scribe, u.busy()
	if j.w == nil {
		if !busy || before.Policy.Service == "" {
			return
		}
		j.begin(*before, rollout.At(e))
		u.lent = true // it is encoded later
	}
	j.w.Took(e, records)
	most := max(unwrittenLeast, min(unwrittenOfOne, unwrittenMost/max(1, len(c.busy))))
	held := j.held()
	switch {
	case !busy:
		j.end(&u.state, journal.Began)
	case j.w.Size >= chunkMost, rollout.At(e).Sub(j.at) >= chunkLongest, held > most/2 && len(j.parts) == j.flight:
		j.end(&u.state, journal.Continued)
	}
	for held > most && j.lose() {
		held = j.held()
	}
}

func (j *scribe) begin(before rollout.State, at time.Time) {
	j.begun, j.at, j.cutAt = max(j.begun+1, uint64(max(0, at.UnixNano()))), at, at
	if j.why == "" {
		j.why = journal.Began
	}
	j.w = journal.Begin(j.begun, journal.Header{Service: before.Policy.Service, At: at, Why: j.why, Lost: j.lost}, before)
	j.why, j.lost = "", time.Time{}
}

// end completes the chunk; next is why another one begins.
func (j *scribe) end(s *rollout.State, next journal.Why) {
	if j.w != nil {
		j.parts = append(j.parts, j.w.Cut(journal.PointOf(s), true))
		j.w, j.why = nil, next
	}
}

// held is about how many bytes wait for the disk.
func (j *scribe) held() (n int) {
	for _, p := range j.parts {
		n += p.Size
	}
	if j.w != nil {
		n += j.w.Pending()
	}
	return n
}

// take returns what is to be stored with a checkpoint, or with a decision, whose evidence must not be lost.
func (j *scribe) take(s *rollout.State, decision bool) []*journal.Part {
	switch {
	case j.w == nil || j.w.Pending() == 0:
	case decision || j.w.Pending() >= partMost || s.At.Sub(j.cutAt) >= partLongest:
		j.cut(s)
	default:
		j.w.Point(journal.PointOf(s))
	}
	j.flight = len(j.parts)
	return slices.Clone(j.parts)
}

// cut makes a part of what was journalled since the last one.
func (j *scribe) cut(s *rollout.State) {
	if j.w == nil {
		return
	}
	if p := j.w.Cut(journal.PointOf(s), false); p != nil {
		j.parts, j.cutAt = append(j.parts, p), s.At
	}
}

// landed takes in how the write ended that held what was taken, and what that was encoded to.
func (j *scribe) landed(stored bool, encoded []store.Part) {
	if len(encoded) == j.flight {
		for i := range encoded {
			j.parts[i].Encoded(encoded[i].Data)
		}
	}
	if stored || j.void {
		j.parts = slices.Clone(j.parts[j.flight:])
	}
	j.flight, j.void = 0, false
}

// lose lets the oldest chunk go that is not in the write under way, as far as it is not stored.
func (j *scribe) lose() bool {
	waiting := j.parts[j.flight:]
	if len(waiting) == 0 {
		return j.restart(journal.Gap)
	}
	chunk, since := waiting[0].Begin, waiting[0].Since()
	j.parts = slices.DeleteFunc(slices.Clone(j.parts), func(p *journal.Part) bool { return p.Begin == chunk && slices.Contains(waiting, p) })
	switch rest := j.parts[j.flight:]; {
	case len(rest) > 0:
		rest[0].Lose(since)
	case j.w == nil:
		j.why, j.lost = journal.Gap, since
	case j.w.Name() == chunk:
		j.restart(journal.Gap)
		j.lost = since
	default:
		j.w.Lose(since)
	}
	return true
}

// restart lets everything go that is not in the write under way; the next event begins a chunk.
func (j *scribe) restart(why journal.Why) bool {
	var since time.Time
	if waiting := j.parts[j.flight:]; len(waiting) > 0 {
		since = waiting[0].Since()
	} else if j.w != nil {
		since = j.w.Since()
	}
	any := j.w != nil || len(j.parts) > j.flight
	j.parts = slices.Clone(j.parts[:j.flight])
	j.w, j.why, j.lost, j.void = nil, why, since, j.void || why == journal.Withdrawn && j.flight > 0
	return any
}

// storedParts encodes parts. It runs outside the loop.
func storedParts(parts []*journal.Part) (all []store.Part, err error) {
	defer recovered(&err)
	var out []store.Part
	for _, p := range parts {
		raw, err := p.Encode()
		if err != nil {
			return nil, err
		}
		out = append(out, store.Part{Begin: p.Begin, Number: p.Number, Last: p.Last, Data: raw})
	}
	return out, nil
}

// tidy has the store pack and trim what it keeps, where that is due.
func (c *Controller) tidy(now time.Time) {
	w := &c.writer
	if c.Limits.Pack == nil || now.Before(w.tidyAt) {
		return
	}
	w.since = now
	go func() { w.done <- tidied(c.Store, now, c.Limits) }()
}

// tidied looks through pages that nobody else reads: one that the disk has changed ends nobody.
func tidied(s Store, now time.Time, l store.Limits) (r saved) {
	r.tidied = true
	defer recovered(&r.err)
	r.more, r.err = s.Tidy(now, l)
	return r
}

// untidied reports whether that waits for longer than evidence may: a disk that is always busy with evidence would fill up.
func (c *Controller) untidied(now time.Time) bool {
	w := &c.writer
	return w.stored && c.Limits.Pack != nil && len(c.unsaved)+len(c.moves.of) == 0 && now.Sub(w.tidyAt) >= checkpoint
}

func (c *Controller) tidied(r saved, now time.Time) {
	w := &c.writer
	if !r.more || r.err != nil {
		w.tidyAt = now.Add(checkpoint)
	}
	if r.err != nil && !w.untidy {
		c.Log.WithError(r.err).Warn("the history and the journal cannot be trimmed: they grow beyond `storage.max_bytes`")
	}
	w.untidy = r.err != nil
}
