package rollout

import "time"

// plain is a moment as it is written and read again: without the reading of the monotonic clock that comes with the
// present time, and not by a place's own time. The difference of two moments would be another one after a restart, and
// in a replay.
func plain(t time.Time) time.Time { return t.Round(0).UTC() }

// Plain is an event as it is written and read again, so that Step makes the same of both. What a cell says of when it was
// counted is kept as long as it was by the monotonic clock: the other one may have been set meanwhile.
func Plain(e Event) Event {
	if at := e.when(); at == plain(at) { // and so is all that it says of when it was counted
		return e
	}
	switch e := e.(type) {
	case Announced:
		e.At = plain(e.At)
		return e
	case Commanded:
		e.At = plain(e.At)
		return e
	case Observed:
		e.Cells = plainCells(e.Cells, e.At)
		e.At = plain(e.At)
		return e
	case Applied:
		e.At = plain(e.At)
		return e
	case Rejected:
		e.At = plain(e.At)
		return e
	case Launched:
		e.At = plain(e.At)
		return e
	case Left:
		e.At = plain(e.At)
		return e
	case Probed:
		e.At = plain(e.At)
		return e
	case PolicyChanged:
		e.At = plain(e.At)
		return e
	case Orphaned:
		e.At = plain(e.At)
		return e
	case Recalled:
		e.At = plain(e.At)
		return e
	case Removing:
		e.At = plain(e.At)
		return e
	case Forgotten:
		e.At = plain(e.At)
		return e
	case Tick:
		e.At = plain(e.At)
		return e
	}
	return e
}

// plainCells leaves what it is given as it is: others may read it.
func plainCells(cells []Cell, at time.Time) []Cell {
	base := plain(at)
	as := func(t time.Time) time.Time {
		if t.IsZero() {
			return t
		}
		return base.Add(t.Sub(at))
	}
	out := make([]Cell, len(cells))
	copy(out, cells)
	for i := range out {
		c := &out[i]
		c.From, c.To, c.HasSince = as(c.From), as(c.To), as(c.HasSince)
	}
	return out
}

// At is the moment of an event.
func At(e Event) time.Time { return e.when() }
