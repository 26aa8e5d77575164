package analysis

import (
	"errors"
	"slices"
)

// NoAnswer is the kind of a failure to which no answer came: a timeout, a reset, a refused connection.
const NoAnswer = "no answer"

// What is remembered of failures, whatever classes, codes, endpoints and Envoys there are. What does not fit is counted without a name.
const (
	failuresMost = 48 // pairs of class and kind
	classesMost  = 21 // 19 of a policy, and `rest`
	endpointsOf  = 16 // of each pair, those with most errors
	envoysOf     = 8
)

// Failures are a version's failed requests of late: what failed, where, and out of how many.
type Failures struct {
	Requests float64   `json:"requests,omitempty"`
	Asked    []Tally   `json:"asked,omitempty"` // answers by class, where the source tells classes
	All      []Failure `json:"all,omitempty"`
	Examples []Example `json:"examples,omitempty"` // of them, from access log records
}

// Failure is how one class fails in one way.
type Failure struct {
	Class     string  `json:"class,omitempty"` // empty: not known
	Kind      string  `json:"kind,omitempty"`  // HTTP status, "grpc-14", or NoAnswer; empty: not known
	Errors    float64 `json:"errors"`
	Endpoints []Tally `json:"endpoints,omitempty"`
	Envoys    []Tally `json:"envoys,omitempty"`
}

// Tally is a number of something with a name; without one: of all that there was no room for.
type Tally struct {
	Name string  `json:"name,omitempty"`
	N    float64 `json:"n"`
}

// Report is what one Envoy counted of one version.
type Report struct {
	Envoy     string
	Counts    Counts   // of all requests
	Answers   []Answer // those of them that were answered, where the source tells
	Endpoints []Slice  // all by endpoint, where the source tells
	Codes     bool     // the source tells codes: who has none got no answer
}

// Add counts a report. It allocates nothing where no new name fails.
func (f *Failures) Add(r Report) {
	f.Requests += r.Counts.Requests
	left := r.Counts.Errors
	for _, a := range r.Answers {
		f.Asked = tallied(f.Asked, classesMost, a.Class, a.Requests)
		if a.Errors > 0 {
			f.note(a.Class, a.Code, a.Endpoint, r.Envoy, a.Errors)
			left -= a.Errors
		}
	}
	if left > 1e-6 {
		f.unanswered(r, left)
	}
}

// unanswered counts the errors that no answer explains.
func (f *Failures) unanswered(r Report, left float64) {
	kind := ""
	if r.Codes {
		kind = NoAnswer
	}
	x := f.find("", kind)
	x.Errors += left
	x.Envoys = tallied(x.Envoys, envoysOf, r.Envoy, left)
	if len(r.Endpoints) == 0 {
		return
	}
	var answered map[string]float64
	if len(r.Answers) > 0 {
		answered = map[string]float64{}
	}
	for _, a := range r.Answers {
		answered[a.Endpoint] += a.Errors
	}
	for _, e := range r.Endpoints {
		if n := e.Errors - answered[e.Name]; n > 1e-6 {
			x.Endpoints = tallied(x.Endpoints, endpointsOf, e.Name, n)
		}
	}
}

func (f *Failures) note(class, kind, endpoint, envoy string, n float64) {
	x := f.find(class, kind)
	x.Errors += n
	if endpoint != "" {
		x.Endpoints = tallied(x.Endpoints, endpointsOf, endpoint, n)
	}
	x.Envoys = tallied(x.Envoys, envoysOf, envoy, n)
}

// find is the entry of a pair, or of all pairs that there is no room for.
func (f *Failures) find(class, kind string) *Failure {
	at := f.index(class, kind)
	if at < 0 && len(f.All) >= failuresMost {
		class, kind = "", ""
		at = f.index(class, kind)
	}
	if at < 0 {
		at, f.All = len(f.All), append(f.All, Failure{Class: class, Kind: kind})
	}
	return &f.All[at]
}

func (f *Failures) index(class, kind string) int {
	for i := range f.All {
		if f.All[i].Class == class && f.All[i].Kind == kind {
			return i
		}
	}
	return -1
}

// tallied counts something in a list of bounded length: of a full one, what is smallest loses its name to what is not smaller.
func tallied(all []Tally, most int, name string, n float64) []Tally {
	least := -1
	for i := range all {
		if all[i].Name == name {
			all[i].N += n
			return all
		}
		if all[i].Name != "" && (least < 0 || all[i].N < all[least].N) {
			least = i
		}
	}
	if len(all) < most || name == "" {
		return append(all, Tally{name, n})
	}
	if all[least].N <= n {
		all[least], n = Tally{name, n}, all[least].N
	}
	return tallied(all, most, "", n)
}

// Fade lets all counts shrink to a part of them, and forgets what is nearly nothing.
func (f *Failures) Fade(keep float64) {
	f.Requests *= keep
	f.Asked = faded(f.Asked, keep)
	f.Examples = fadedExamples(f.Examples, keep)
	for i := range f.All {
		x := &f.All[i]
		x.Errors *= keep
		x.Endpoints, x.Envoys = faded(x.Endpoints, keep), faded(x.Envoys, keep)
	}
	f.All = slices.DeleteFunc(f.All, func(x Failure) bool { return x.Errors < 0.01 })
}

func faded(all []Tally, keep float64) []Tally {
	for i := range all {
		all[i].N *= keep
	}
	return slices.DeleteFunc(all, func(t Tally) bool { return t.N < 0.01 })
}

// Clone shares nothing with its original.
func (f Failures) Clone() Failures {
	f.Own(Failures{})
	return f
}

// Own gives failures lists that nobody else has, made of those of others that nobody needs any more.
func (f *Failures) Own(room Failures) {
	all := roomFor(f.All, room.All)
	for i, x := range f.All {
		var had Failure
		if i < len(room.All) {
			had = room.All[i]
		}
		x.Endpoints, x.Envoys = copied(x.Endpoints, had.Endpoints), copied(x.Envoys, had.Envoys)
		all = append(all, x)
	}
	f.All, f.Asked, f.Examples = all, copied(f.Asked, room.Asked), slices.Clone(f.Examples)
}

// Blank leaves nothing of failures but room for others.
func (f *Failures) Blank() {
	clear(f.Asked)
	for i := range f.All {
		x := &f.All[i]
		clear(x.Endpoints)
		clear(x.Envoys)
		*x = Failure{Endpoints: x.Endpoints, Envoys: x.Envoys}
	}
	f.Requests, f.Examples = 0, nil
}

// Sound says what makes stored failures unusable, nil when nothing does.
func (f *Failures) Sound() error {
	if len(f.Examples) > examplesMost || len(f.All) > failuresMost+1 || len(f.Asked) > classesMost+1 {
		return errors.New("more failures than are kept")
	}
	err := errors.Join(each("requests", mostCount, f.Requests), soundTallies(f.Asked, classesMost))
	for _, x := range f.Examples {
		err = errors.Join(err, x.Sound())
	}
	for _, x := range f.All {
		err = errors.Join(err, each("errors", mostCount, x.Errors), soundTallies(x.Endpoints, endpointsOf), soundTallies(x.Envoys, envoysOf))
	}
	return err
}

func soundTallies(all []Tally, most int) error {
	if len(all) > most+1 {
		return errors.New("more names than are kept")
	}
	for _, t := range all {
		if err := each("count", mostCount, t.N); err != nil {
			return err
		}
	}
	return nil
}

// asked is out of how many requests a class fails; of none: of all.
func (f *Failures) asked(class string) float64 {
	if class == "" {
		return f.Requests
	}
	for _, t := range f.Asked {
		if t.Name == class {
			return t.N
		}
	}
	return 0
}
