package analysis

import (
	"cmp"
	"errors"
	"slices"
)

// The kinds of failures without an answer, where access log records tell them.
const (
	TimedOut         = "timeout"
	Refused          = "connection refused"
	NotConnected     = "connection failed"
	Closed           = "connection closed"
	Reset            = "reset"
	BrokenProtocol   = "protocol error"
	examplesMost     = 16  // pairs of class and kind of a version
	examplesAtOnce   = 1e6 // of a pair
	examplesNeeded   = 3   // before they say anything
	exampleKindBytes = 32
)

// Unanswered reports whether a kind is one of a failure to which no answer came.
func Unanswered(kind string) bool {
	return slices.Contains([]string{NoAnswer, TimedOut, Refused, NotConnected, Closed, Reset, BrokenProtocol}, kind)
}

// Example are failures of one class and kind that access log records showed. They are no count: some of all failures.
type Example struct {
	Class string  `json:"class,omitempty"` // empty: none, or not known
	Kind  string  `json:"kind"`            // HTTP status, or one of the kinds above
	N     float64 `json:"n"`
}

// Sound says what makes an example unusable, nil when nothing does.
func (e Example) Sound() error {
	if len(e.Kind) == 0 || len(e.Kind) > exampleKindBytes {
		return errors.New("an example of failures without a kind, or with a long one")
	}
	return each("examples", mostCount, e.N)
}

// Show takes examples in. Of a pair that finds no room nothing is remembered.
func (f *Failures) Show(examples []Example) {
	for _, e := range examples {
		i := slices.IndexFunc(f.Examples, func(x Example) bool { return x.Class == e.Class && x.Kind == e.Kind })
		if i < 0 && len(f.Examples) == examplesMost {
			continue
		}
		if i < 0 {
			i, f.Examples = len(f.Examples), append(f.Examples, Example{Class: e.Class, Kind: e.Kind})
		}
		f.Examples[i].N = min(f.Examples[i].N+e.N, examplesAtOnce)
	}
}

func fadedExamples(all []Example, keep float64) []Example {
	for i := range all {
		all[i].N *= keep
	}
	return slices.DeleteFunc(all, func(e Example) bool { return e.N < 0.01 })
}

// Specify gives the causes that are known as "no answer" only the kind and the class that nine tenths of the examples have. All: a
// cause of no known kind gets those of any failure, because every failure may be among the examples.
func Specify(found []Finding, version, stable *Failures, all bool) {
	for i := range found {
		f := &found[i]
		if f.Class == "" && (f.Kind == NoAnswer || all && f.Kind == "" && len(found) == 1) {
			version.specify(f, stable, f.Kind == NoAnswer)
		}
	}
}

func (f *Failures) specify(c *Finding, stable *Failures, unanswered bool) {
	kind, some, sum := f.prevailing(unanswered, func(e Example) string { return e.Kind })
	if sum < examplesNeeded || some < explained*sum {
		return
	}
	c.Kind = kind
	if !Unanswered(kind) {
		return // the class of an answer is counted, where there are classes
	}
	class, some, sum := f.prevailing(unanswered, func(e Example) string { return e.Class })
	part := some / sum
	if class == "" || part < explained {
		return
	}
	failed := c.Share * f.Requests
	own := Counts{f.asked(class) + part*failed, part * failed}
	others := Counts{f.Requests - own.Requests, failed - own.Errors}
	if !culprits(own, others, min(failed, sum), 1, len(f.Asked)) {
		return
	}
	c.Class, c.Share = class, fraction(min(1, own.Rate()))
	c.StableShare = fraction(stable.unansweredRate(class, c.StableShare))
}

// prevailing is which class or kind most examples have, and how many of how many these are.
func (f *Failures) prevailing(unanswered bool, of func(Example) string) (name string, most, sum float64) {
	var all []Tally
	for _, e := range f.Examples {
		if !unanswered || Unanswered(e.Kind) {
			all, sum = tallied(all, examplesMost, of(e), e.N), sum+e.N
		}
	}
	slices.SortFunc(all, func(a, b Tally) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Name, b.Name)) })
	if len(all) > 0 {
		name, most = all[0].Name, all[0].N
	}
	return name, most, sum
}

// unansweredRate is how often stable gives a class no answer, when it gives none to a share of all requests: as its examples say, and
// without any all of it might have been this class.
func (f *Failures) unansweredRate(class string, share float64) float64 {
	part, sum := 0.0, 0.0
	for _, e := range f.Examples {
		if Unanswered(e.Kind) {
			if sum += e.N; e.Class == class {
				part += e.N
			}
		}
	}
	if part = part / max(sum, 1e-9); sum < examplesNeeded {
		part = 1
	}
	failed := share * f.Requests * part
	if n := f.asked(class) + failed; n > 0 {
		return min(1, failed/n)
	}
	return share
}
