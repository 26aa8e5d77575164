package journal

import (
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Writer writes one chunk. Nothing of it takes long: what does is done when a part is encoded.
type Writer struct {
	Size int // about how many bytes its events take so far

	begin   uint64
	number  uint32
	header  *Header
	state   rollout.State
	at      time.Time // of the first event of the next part
	events  eventsOut
	points  out
	records []rollout.Record
	pieces  []piece
	more    int // about how many bytes the next part takes
}

// Begin begins a chunk with the state before its first event. Begin is its name, above that of the one before it.
func Begin(begin uint64, h Header, before rollout.State) *Writer {
	h.Machine = machine()
	return &Writer{begin: begin, header: &h, state: before}
}

// Took takes in an event that was taken, and what was decided on it.
func (w *Writer) Took(e rollout.Event, records []rollout.Record) {
	was := len(w.events.buf)
	if w.at.IsZero() {
		w.at = rollout.At(e)
	}
	size := 0
	if !w.events.event(e) {
		w.other(e)
		size = about(e)
	}
	w.records = append(w.records, records...)
	w.grow(max(0, len(w.events.buf)-was) + size + recordSize*len(records))
}

// Pending is about how many bytes the next part takes.
func (w *Writer) Pending() int { return w.more }

// Name is the chunk's.
func (w *Writer) Name() uint64 { return w.begin }

// Since is from when on something is missing where the next part is let go.
func (w *Writer) Since() time.Time { return w.header.since(w.at) }

// Lose says that what was written before the chunk is lost; nothing where a part of it was cut already.
func (w *Writer) Lose(since time.Time) { w.header.lose(since) }

const recordSize = 1000 // bytes, about

func (w *Writer) grow(n int) { w.more, w.Size = w.more+n, w.Size+n }

// other keeps an event that is encoded later.
func (w *Writer) other(e rollout.Event) {
	moment := out{at: w.events.at}
	moment.moment(rollout.At(e))
	w.events.at = moment.at
	w.pieces = append(w.pieces, piece{raw: w.events.buf, event: e, delta: moment.buf})
	w.events.buf = nil
}

// about is how many bytes an event takes that is encoded later.
func about(e rollout.Event) int {
	n := 500
	if a, ok := e.(rollout.Applied); ok {
		for _, c := range a.Crowds {
			n += 40*len(c.Nodes) + 40*len(c.Has)
		}
		n += 30 * (len(a.Away) + len(a.Lagging))
	}
	return n
}

// Point adds how far the service has come.
func (w *Writer) Point(p Point) { w.points.point(p) }

// Cut returns what was written since the last part; nil: nothing. A point goes with it. last: the chunk is complete.
func (w *Writer) Cut(p Point, last bool) *Part {
	if w.more == 0 && !last {
		return nil
	}
	w.points.point(p)
	part := &Part{Begin: w.begin, Number: w.number, Last: last, At: w.at, Size: w.more + len(w.points.buf), header: w.header, state: w.state, points: w.points.buf,
		records: w.records, events: append(w.pieces, piece{raw: w.events.buf})}
	w.number++
	w.header, w.state, w.records, w.pieces, w.at, w.more = nil, rollout.State{}, nil, nil, time.Time{}, 0
	w.points.buf, w.events.buf = nil, nil
	return part
}
