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

// Add takes in what began and what ended between two moments, and returns what ended or has been open for longer than age since, each
// request once, and how many of them are open. A request that is open counts as failed. counts is false in a batch that cannot be
// compared: only what has ended does then, and what was open for too long meanwhile is never counted.
func (w *Waiting) Add(age, from, to, issued float64, c Counts, counts bool) (n Counts, open float64) {
	if len(w.Begun) == 0 {
		w.Begun = append(w.Begun, mark{from, w.Issued})
	}
	w.Issued, w.Ended = w.Issued+issued, w.Ended.Add(c)
	w.note(age, to)
	open = max(0, w.by(to-age+min((to-from)/4, age/20))-w.Ended.Requests)
	most := Counts{max(w.Most.Requests, w.Ended.Requests+open), max(w.Most.Errors, w.Ended.Errors+open)}
	n, w.Most = most.less(w.Most), most
	if !counts {
		n = Counts{math.Min(n.Requests, c.Requests), math.Min(n.Errors, c.Errors)}
	}
	return n.clip(), open
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

// note remembers how many have begun. Moments that lie close together are as good as one: the earlier one stays.
func (w *Waiting) note(age, now float64) {
	w.Begun = slices.DeleteFunc(w.Begun, func(b mark) bool { return b.At > now }) // the clock was set back
	if last := len(w.Begun) - 1; last >= 1 && w.Begun[last].At-w.Begun[last-1].At < age/25-slack {
		w.Begun[last] = mark{now, w.Issued}
	} else {
		w.Begun = append(w.Begun, mark{now, w.Issued})
	}
	old := 0
	for old+1 < len(w.Begun) && (w.Begun[old+1].At <= now-age || len(w.Begun)-old > begunMost) {
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
