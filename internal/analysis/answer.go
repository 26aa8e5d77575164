package analysis

import (
	"cmp"
	"math"
	"slices"
)

// Answer is how many requests of one class one endpoint answered with one code.
type Answer struct {
	Class    string `json:"class,omitempty"`    // empty: the source does not tell classes
	Code     string `json:"code,omitempty"`     // HTTP status, or "grpc-14"; empty: the source does not tell
	Endpoint string `json:"endpoint,omitempty"` // empty: the source does not tell
	Counts
}

// Answered are so many answers of one endpoint, class and code, as a report has them: a kind may be there several times.
type Answered struct {
	Endpoint string // empty: which one is not known
	Class    string // as the route said
	Code     string // HTTP status, or "grpc-14"
	N        float64
}

// JoinAnswers adds answers to those of the same class, code and endpoint.
func JoinAnswers(into, more []Answer) []Answer {
	out := append(slices.Clone(into), more...)
	slices.SortStableFunc(out, Answer.compare)
	kept := out[:0]
	for _, a := range out {
		if last := len(kept) - 1; last >= 0 && kept[last].compare(a) == 0 {
			kept[last].Counts = kept[last].Counts.Add(a.Counts)
			continue
		}
		kept = append(kept, a)
	}
	return kept
}

func (a Answer) compare(o Answer) int {
	return cmp.Or(cmp.Compare(a.Class, o.Class), cmp.Compare(a.Code, o.Code), cmp.Compare(a.Endpoint, o.Endpoint))
}

// FitAnswers takes answers away until they are no more than the requests, nor the failed ones more than the errors, of which
// they are parts: they are counted a moment later. It takes from the most frequent ones.
func FitAnswers(answers []Answer, within Counts) []Answer {
	sum := Counts{}
	for _, a := range answers {
		sum = sum.Add(a.Counts)
	}
	failed := math.Min(sum.Errors, within.Errors)
	answers = lessen(answers, sum.Errors-failed, func(a Answer) bool { return a.Errors > 0 })
	ok := math.Min(sum.Requests-sum.Errors, within.Requests-failed)
	return lessen(answers, sum.Requests-sum.Errors-ok, func(a Answer) bool { return a.Errors == 0 })
}

// lessen takes some of those answers away of which is holds. An answer is a failure or it is none.
func lessen(answers []Answer, by float64, is func(Answer) bool) []Answer {
	if by <= 0 {
		return answers
	}
	answers = slices.Clone(answers)
	order := make([]int, 0, len(answers))
	for i, a := range answers {
		if is(a) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(answers[j].Requests, answers[i].Requests) })
	for _, i := range order {
		a := &answers[i]
		less := math.Min(by, a.Requests)
		a.Requests, by = a.Requests-less, by-less
		a.Errors = math.Min(a.Errors, a.Requests)
	}
	return slices.DeleteFunc(answers, func(a Answer) bool { return a.Requests <= 0 })
}
