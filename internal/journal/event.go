package journal

import (
	"fmt"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What stands in the stream of events. The numbers are stored: none is used for something else, ever.
const (
	aState    = 1 // where the events begin
	aTick     = 2
	anObserve = 3
	anOther   = 4 // as rollout.EncodeEvent writes it
)

// What is said of a cell. The same as with kinds.
const (
	endToEnd   = 1 << iota // it begins where the last one of its proxy ended
	sameServed             // its proxy serves what it served
	hasUnknown             // rollout.Cell.Unknown
	hasNone                // what its proxy serves is not said
	hasEndpoints
)

// What is said of evidence.
const (
	isMissing = 1 << iota
	isStuck
	newBatch
	noCells // rather than none
)

// told is what the last cell of a proxy said: the next one mostly says the same.
type told struct {
	proxy string
	to    time.Time
	has   []rollout.Run
	since time.Time
	next  *told // of whom was told after it: mostly all are, in one order
}

// eventsOut writes events.
type eventsOut struct {
	out
	batch  time.Duration
	before map[string]*told // by proxy
	last   *told
	bounds []float64 // of the last histogram
}

// event writes one that is compact; others are encoded elsewhere.
func (o *eventsOut) event(e rollout.Event) bool {
	switch e := e.(type) {
	case rollout.Tick:
		o.kind(aTick)
		o.moment(e.At)
	case rollout.Observed:
		o.kind(anObserve)
		o.observed(e)
	default:
		return false
	}
	return true
}

func (o *eventsOut) observed(e rollout.Observed) {
	flags := bit(isMissing, e.Missing != nil) | bit(isStuck, e.Stuck) | bit(newBatch, e.Batch != o.batch) | bit(noCells, e.Cells == nil)
	o.kind(flags)
	o.moment(e.At)
	if o.batch != e.Batch {
		o.batch = e.Batch
		o.int(int64(e.Batch))
	}
	if e.Missing != nil {
		o.text(string(e.Missing.Code))
		o.text(e.Missing.Reason)
	}
	o.uint(uint64(len(e.Cells)))
	for i := range e.Cells {
		o.cell(&e.Cells[i])
	}
}

func bit(f byte, on bool) byte {
	if on {
		return f
	}
	return 0
}

func (o *eventsOut) cell(c *rollout.Cell) {
	was, known := o.toldOf(c.Slice)
	same := known && (c.Has == nil) == (was.has == nil) && slices.Equal(c.Has, was.has) && c.HasSince.Equal(was.since)
	flags := bit(endToEnd, known && c.From.Equal(was.to)) | bit(sameServed, same) | bit(hasUnknown, c.Unknown) | bit(hasNone, c.Has == nil) | bit(hasEndpoints, c.Endpoints != nil) | ofAnswers(c)
	o.text(c.Slice)
	o.kind(flags)
	o.uint(uint64(c.Proxy))
	o.since(c.To, o.at)
	if flags&endToEnd == 0 {
		o.since(c.From, o.at)
	}
	if !same {
		list(&o.out, c.Has, func(r rollout.Run) {
			o.text(r.Version)
			o.int(int64(r.Count))
		})
		o.since(c.HasSince, o.at)
	}
	byVersion(&o.out, c.Counts, o.counts)
	if c.Endpoints != nil {
		o.endpoints(c.Endpoints)
	}
	o.answers(c)
	was.to, was.has, was.since = c.To, c.Has, c.HasSince
}

// toldOf is what the last cell of a proxy said, known where there is one.
func (o *eventsOut) toldOf(proxy string) (was *told, known bool) {
	if o.last != nil && o.last.next != nil && o.last.next.proxy == proxy {
		o.last = o.last.next
		return o.last, true
	}
	if was, known = o.before[proxy]; !known {
		was = &told{proxy: proxy}
		if o.before == nil {
			o.before = map[string]*told{}
		}
		o.before[proxy] = was
	}
	if o.last != nil {
		o.last.next = was
	}
	o.last = was
	return was, known
}

func (o *eventsOut) endpoints(all map[string][]analysis.Slice) {
	byVersion(&o.out, all, func(each []analysis.Slice) {
		list(&o.out, each, func(s analysis.Slice) {
			o.text(s.Name)
			o.counts(s.Counts)
		})
	})
}

// byVersion writes something of each version, in order of their names.
func byVersion[T any](o *out, all map[string]T, write func(T)) {
	o.uint(uint64(len(all)))
	for version, x := range rollout.ByName(all) {
		o.text(version)
		write(x)
	}
}

func list[T any](o *out, all []T, write func(T)) {
	o.uint(uint64(len(all)))
	for _, x := range all {
		write(x)
	}
}

func (o *out) counts(n analysis.Counts) {
	o.number(n.Requests)
	o.number(n.Errors)
}

// eventsIn reads events.
type eventsIn struct {
	in
	batch  time.Duration
	before map[string]told
	bounds []float64
}

// event reads the next one. What it returns without an error is safe to step with.
func (i *eventsIn) event() (rollout.Event, error) {
	var e rollout.Event
	switch k := i.kind(); k {
	case aTick:
		e = rollout.Tick{At: i.moment()}
	case anObserve:
		e = i.observed()
	case anOther:
		at := i.moment()
		raw := i.bytes(i.length())
		if i.err != nil {
			return nil, i.err
		}
		other, err := rollout.DecodeEvent(raw)
		if err != nil {
			return nil, err
		}
		if !rollout.At(other).Equal(at) {
			return nil, errCut
		}
		return other, nil
	default:
		return nil, fmt.Errorf("there is no kind %d of events: a newer canaryd wrote it, or it is no journal", k)
	}
	if i.err != nil {
		return nil, i.err
	}
	return e, rollout.SoundEvent(e)
}

func (i *eventsIn) observed() rollout.Observed {
	flags := i.kind()
	e := rollout.Observed{At: i.moment(), Stuck: flags&isStuck != 0}
	if flags&newBatch != 0 {
		i.batch = time.Duration(i.int())
	}
	e.Batch = i.batch
	if flags&isMissing != 0 {
		e.Missing = &rollout.Missing{Code: analysis.Code(i.text()), Reason: i.text()}
	}
	n := i.length()
	if flags&noCells == 0 {
		e.Cells = make([]rollout.Cell, 0, n)
	}
	for range n {
		e.Cells = append(e.Cells, i.cell())
	}
	return e
}

func (i *eventsIn) cell() rollout.Cell {
	c := rollout.Cell{Slice: i.text()}
	flags := i.kind()
	c.Proxy, c.Unknown = rollout.Proxy(i.uint()), flags&hasUnknown != 0
	was := i.before[c.Slice]
	c.To = i.since(i.at)
	if c.From = was.to; flags&endToEnd == 0 {
		c.From = i.since(i.at)
	}
	if c.Has, c.HasSince = was.has, was.since; flags&sameServed == 0 {
		c.Has = i.runs(flags&hasNone != 0)
		c.HasSince = i.since(i.at)
	}
	if n := i.length(); n > 0 {
		c.Counts = make(map[string]analysis.Counts, n)
		for range n {
			version := i.text()
			c.Counts[version] = i.counts()
		}
	}
	if flags&hasEndpoints != 0 {
		c.Endpoints = i.endpoints()
	}
	i.answers(&c, flags)
	if i.before == nil {
		i.before = map[string]told{}
	}
	i.before[c.Slice] = told{to: c.To, has: c.Has, since: c.HasSince}
	return c
}

func (i *eventsIn) runs(none bool) []rollout.Run {
	runs := listed(&i.in, func() rollout.Run { return rollout.Run{Version: i.text(), Count: int(i.int())} })
	if none {
		return nil
	}
	return runs
}

func (i *eventsIn) endpoints() map[string][]analysis.Slice {
	return versions(&i.in, func() []analysis.Slice {
		return listed(&i.in, func() analysis.Slice { return analysis.Slice{Name: i.text(), Counts: i.counts()} })
	})
}

// versions reads what byVersion wrote.
func versions[T any](i *in, read func() T) map[string]T {
	all := map[string]T{}
	for range i.length() {
		version := i.text()
		all[version] = read()
	}
	return all
}

// listed reads what list wrote.
func listed[T any](i *in, read func() T) []T {
	n := i.length()
	all := make([]T, 0, n)
	for range n {
		all = append(all, read())
	}
	return all
}

func (i *in) counts() analysis.Counts {
	return analysis.Counts{Requests: i.number(), Errors: i.number()}
}
