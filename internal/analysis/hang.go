package analysis

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Waiting follows the requests of one version through one proxy: how many have been open for longer than an age is known for certain
// from how many began that long ago and how many have ended since. (STATISTICS-2.md 2.6)
type Waiting struct {
	Begun  []mark  `json:"begun"` // requests that began, until a moment in seconds; in order of time
	Issued float64 `json:"issued"`
	Ended  Counts  `json:"ended"`
	Most   Counts  `json:"most"` // requests that have ended or were open for too long, and failures with these: each counts once
}

// begunMost bounds the moments that are remembered: some twenty for each age.
const begunMost = 32

// Started is what began and what ended between two moments in seconds.
type Started struct {
	From, To float64
	Issued   float64
	Counts
}

// Age is after how many seconds an open request hangs, and how finely the moments at which requests began are told apart.
type Age struct{ Seconds, Grain float64 }

// Add takes a batch in, and returns what ended or hangs since, each request once, and how many of these are open. A request that hangs
// counts as failed. counts is false in a batch that cannot be compared: only what has ended does then, and what hangs since is never
// counted.
func (w *Waiting) Add(age Age, b Started, counts bool) (n Counts, hung float64) {
	if len(w.Begun) == 0 {
		w.Begun = append(w.Begun, mark{b.From, w.Issued})
	}
	w.Issued, w.Ended = w.Issued+b.Issued, w.Ended.Add(b.Counts)
	w.note(age, b.To)
	open := w.open(age.Seconds, b.To, b.To-b.From)
	most := Counts{max(w.Most.Requests, w.Ended.Requests+open), max(w.Most.Errors, w.Ended.Errors+open)}
	n, w.Most = most.less(w.Most), most
	hung = max(0, n.Errors-b.Errors)
	if !counts {
		n = Counts{math.Min(n.Requests, b.Requests), math.Min(n.Errors, b.Errors)}
	}
	return n.clip(), hung
}

// open is how many requests are certainly open for so long. Reports are not quite regular: a quarter of a batch is forgiven.
func (w *Waiting) open(age, now, tick float64) float64 {
	return max(0, w.by(now-age+min(tick/4, age/20))-w.Ended.Requests)
}

// Lose says that counts are missing: what is open at present is not known any more.
func (w *Waiting) Lose() {
	w.Issued, w.Begun = w.Ended.Requests, nil
}

// by is how many requests had begun by a moment.
func (w *Waiting) by(at float64) float64 {
	for _, b := range slices.Backward(w.Begun) {
		if b.At <= at+slack {
			return b.E
		}
	}
	return math.Inf(-1)
}

// note remembers how many have begun. Of moments that lie close together the last one stays, which is seen later.
func (w *Waiting) note(age Age, now float64) {
	w.Begun = slices.DeleteFunc(w.Begun, func(b mark) bool { return b.At > now }) // the clock was set back
	if last := len(w.Begun) - 1; last >= 1 && w.Begun[last].At-w.Begun[last-1].At < age.Grain-slack {
		w.Begun[last] = mark{now, w.Issued}
	} else {
		w.Begun = append(w.Begun, mark{now, w.Issued})
	}
	old := 0
	for old+1 < len(w.Begun) && (w.Begun[old+1].At <= now-age.Seconds || len(w.Begun)-old > begunMost) {
		old++
	}
	w.Begun = slices.Delete(w.Begun, 0, old)
}

// Clone returns a copy that shares nothing.
func (w Waiting) Clone() Waiting {
	w.Begun = slices.Clone(w.Begun)
	return w
}

// Shift moves its clock, where the clock that it was read from was set.
func (w *Waiting) Shift(by float64) {
	for i := range w.Begun {
		w.Begun[i].At += by
	}
}

// Sound says what makes stored counts unusable, nil when nothing does.
func (w *Waiting) Sound() error {
	err := errors.Join(w.Ended.Sound(), w.Most.Sound(), each("requests begun", mostCount, w.Issued))
	if len(w.Begun) > begunMost+1 {
		err = errors.Join(err, fmt.Errorf("%d moments of requests that began: at most %d", len(w.Begun), begunMost))
	}
	for i, b := range w.Begun {
		err = errors.Join(err, seconds(b.At), each("requests begun", mostCount, b.E))
		if i > 0 && b.At < w.Begun[i-1].At {
			err = errors.Join(err, fmt.Errorf("requests that began at %g s are out of order", b.At))
		}
	}
	return err
}
