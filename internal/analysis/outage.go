package analysis

import (
	"cmp"
	"slices"
)

// outage notices that stable fails as a whole, for longer than one cause is taken to last. How errors come then says nothing
// about how they usually come: where there is one slice to look at, a minute of it would hold for half an hour.
type outage struct {
	Since float64 `json:"since,omitempty"` // seconds: it fails since then; 0: it does not
	Last  float64 `json:"last,omitempty"`  // it did then
	Good  Counts  `json:"good,omitzero"`   // since Last
	Over  bool    `json:"over,omitempty"`  // it has lasted for longer than a clump
}

const (
	outageAfter = 5.0  // seconds; what ends sooner is a clump of errors
	outageRate  = 0.02 // beyond ten times the usual rate
	outageEnds  = 20.0 // requests, nearly all of them well, that end it
)

// watch takes in what stable counted within the last tick seconds. Windows wait while it is open whether this is an
// outage, and are dropped when it is.
func (o *outage) watch(now, tick float64, c Counts, usual float64) {
	limit := 10*usual + outageRate
	switch {
	case c.Requests <= 0:
	case c.Rate() > limit:
		if o.Since == 0 {
			o.Since = now - tick
		}
		o.Last, o.Good = now, Counts{}
		o.Over = o.Over || now-o.Since >= outageAfter+tick
	case o.Since != 0:
		if o.Good = o.Good.Add(c); o.Good.Requests >= outageEnds || now-o.Last >= 2*outageAfter {
			*o = outage{}
		}
	}
}

// healthier is the sum of the half of the slices that fails less: where that is well, a few of stable's instances fail and
// not stable as a whole, and a canary's may do so as well.
func healthier(all []Slice) (sum Counts) {
	if len(all) > 1 {
		all = slices.Clone(all)
		slices.SortFunc(all, func(a, b Slice) int { return cmp.Compare(a.Errors, b.Errors) })
	}
	for _, s := range all[:(len(all)+1)/2] {
		sum = sum.Add(s.Counts)
	}
	return sum
}
