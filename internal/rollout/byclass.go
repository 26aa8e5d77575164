package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// Exercise is what was answered of one class since a release began.
type Exercise struct {
	Name   string          `json:"name"`
	Canary analysis.Counts `json:"canary"`
	Stable analysis.Counts `json:"stable"`
}

// Book is what stable serves by class, carried from release to release. Invariant: Classes are in order of their names.
type Book struct {
	At      float64 `json:"at,omitempty"`      // seconds of the last counts
	Seconds float64 `json:"seconds,omitempty"` // of which Hour are the counts, half-life one hour
	Classes []Page  `json:"classes,omitempty"`
}

// Page is one class in it.
type Page struct {
	Name       string              `json:"name"`
	Day        analysis.Counts     `json:"day"`  // half-life 24 hours
	Hour       analysis.Counts     `json:"hour"` // half-life one hour
	Dispersion analysis.Dispersion `json:"dispersion"`
}

const (
	mostPages      = 64
	leastKnown     = 1000.0 // answers of stable of known classes before a class's share is known
	leastHourly    = 10.0   // requests an hour of a class that nobody configured, to be judged and exercised
	secondsDay     = 24 * 3600.0
	secondsHour    = 3600.0
	longestGap     = 120.0 // seconds between two counts; of a longer gap nothing is known
	leastConfirmed = 3.0   // successes of stable: what fails there as well cannot be exercised
)

// hourly is how many requests come an hour at present.
func (p *Page) hourly() float64 { return p.Hour.Requests * math.Ln2 }

func (p *Page) daily() float64 { return p.Day.Requests * math.Ln2 / 24 }

func (b Book) clone() Book {
	b.Classes = slices.Clone(b.Classes)
	for i := range b.Classes {
		b.Classes[i].Dispersion = b.Classes[i].Dispersion.Clone()
	}
	return b
}

// at is where a class's page is, or would be.
func (b *Book) at(name string) (i int, known bool) {
	return slices.BinarySearchFunc(b.Classes, name, func(p Page, n string) int { return cmp.Compare(p.Name, n) })
}

func (b *Book) page(name string) *Page {
	i, known := b.at(name)
	if !known {
		return nil
	}
	return &b.Classes[i]
}

// open finds a class's page, or begins it; where there is no room, in the place of the one with fewest requests, if that has no more than
// are to be written. nil: there is none.
func (b *Book) open(name string, requests float64) *Page {
	i, known := b.at(name)
	if known {
		return &b.Classes[i]
	}
	if len(b.Classes) >= mostPages {
		least := 0
		for k := range b.Classes {
			if b.Classes[k].Day.Requests < b.Classes[least].Day.Requests {
				least = k
			}
		}
		if b.Classes[least].Day.Requests > requests {
			return nil
		}
		b.Classes = slices.Delete(b.Classes, least, least+1)
		i, _ = b.at(name)
	}
	b.Classes = slices.Insert(b.Classes, i, Page{Name: name})
	return &b.Classes[i]
}

// shift moves its clock, where the clock that it was read from was set.
func (b *Book) shift(by float64) {
	if b.At != 0 {
		b.At += by
	}
	for i := range b.Classes {
		b.Classes[i].Dispersion.Shift(by)
	}
}

// forget lets what was counted fade, and closes pages on which nothing is left.
func (b *Book) forget(now float64) {
	if since := now - b.At; b.At > 0 && since > 0 {
		b.Seconds *= math.Exp2(-since / secondsHour)
		if since <= longestGap {
			b.Seconds += since
		}
		day, hour := math.Exp2(-since/secondsDay), math.Exp2(-since/secondsHour)
		for i := range b.Classes {
			p := &b.Classes[i]
			p.Day = analysis.Counts{Requests: p.Day.Requests * day, Errors: p.Day.Errors * day}
			p.Hour = analysis.Counts{Requests: p.Hour.Requests * hour, Errors: p.Hour.Errors * hour}
		}
		b.Classes = slices.DeleteFunc(b.Classes, func(p Page) bool { return p.Day.Requests < 0.01 })
	}
	b.At = max(b.At, now)
}

// learnClasses remembers what stable answers, by class.
func (m *machine) learnClasses(cells []Cell) {
	if m.Stable == "" {
		return
	}
	by := map[string][]analysis.Slice{}
	var names []string
	for _, c := range cells {
		for _, a := range c.Answers[m.Stable] {
			if a.Class == "" || a.Requests <= 0 {
				continue
			}
			if by[a.Class] == nil {
				names = append(names, a.Class)
			}
			by[a.Class] = append(by[a.Class], analysis.Slice{Name: a.Endpoint, Counts: a.Counts})
		}
	}
	if len(names) == 0 {
		return
	}
	now := float64(m.at.UnixMilli()) / 1000
	m.Book.forget(now)
	for _, name := range names {
		parts := bucketed(analysis.Join(nil, by[name]))
		requests := 0.0
		for _, s := range parts {
			requests += s.Requests
		}
		p := m.Book.open(name, requests)
		if p == nil {
			continue
		}
		for _, s := range parts {
			p.Day, p.Hour = p.Day.Add(s.Counts), p.Hour.Add(s.Counts)
		}
		p.Dispersion.Add(now, parts, m.Usual.Rate())
	}
}

// beforeIts parts cells into those from before the first weight of a release whose classes are not settled yet, and all others: a source may
// have looked at stable for the first time when the release was announced, and tell of the minutes before.
func (m *machine) beforeIts(cells []Cell) (past, others []Cell) {
	var began time.Time
	for _, v := range m.with(judged) {
		if !v.Sorted && !v.FirstWeight.IsZero() && (began.IsZero() || v.FirstWeight.Before(began)) {
			began = v.FirstWeight
		}
	}
	if began.IsZero() {
		return nil, cells
	}
	for _, c := range cells {
		if c.To.After(began) {
			others = append(others, c)
		} else {
			past = append(past, c)
		}
	}
	return past, others
}

// fixClasses settles which classes a release is judged by, when it begins: nothing that is counted of it can choose them.
func (m *machine) fixClasses() {
	for _, v := range m.with(judged) {
		if v.Sorted || v.Judge == nil || v.FirstWeight.IsZero() {
			continue
		}
		v.Sorted = true
		if v.Judge.Updates > 0 || v.Judge.Ends.Len > 0 {
			continue // it began before there were any
		}
		names := m.classesFor(v)
		if len(names) < 2 {
			continue
		}
		v.Judge.Classify(m.Book.shares(names))
		for _, name := range names {
			v.Classes = append(v.Classes, Exercise{Name: name})
		}
	}
}

// classesFor are those that its policy had when it was announced, as far as the source tells any, else those that stable serves most; the
// rest comes last.
func (m *machine) classesFor(v *Version) []string {
	if names := (&policy.Route{Classes: v.Told}).ClassNames(); names != nil {
		if slices.ContainsFunc(names, func(n string) bool { return m.Book.page(n) != nil }) {
			return names
		}
		return nil
	}
	if m.Policy.Judge.ClassLabel() == "" {
		return nil // what is in the book is of classes that were taken out of the policy
	}
	var learnt []Page
	for _, p := range m.Book.Classes {
		if p.Name != policy.Rest && max(p.hourly(), p.daily()) >= leastHourly {
			learnt = append(learnt, p)
		}
	}
	slices.SortStableFunc(learnt, func(a, b Page) int { return cmp.Compare(b.Day.Requests, a.Day.Requests) })
	var names []string
	for _, p := range learnt[:min(len(learnt), analysis.MostClasses-1)] {
		names = append(names, p.Name)
	}
	if len(names) == 0 {
		return nil
	}
	return append(names, policy.Rest)
}

// shares are the classes' parts of stable's requests; zeros where too little is known.
func (b *Book) shares(names []string) []float64 {
	shares, all := make([]float64, len(names)), 0.0
	for _, p := range b.Classes {
		all += p.Day.Requests
		i := slices.Index(names, p.Name)
		if i < 0 {
			i = len(names) - 1
		}
		shares[i] += p.Day.Requests
	}
	for i := range shares {
		if all < leastKnown {
			shares[i] = 0
			continue
		}
		shares[i] = min(shares[i]/all, 1)
	}
	return shares
}

// class is where a class stands among those that a release is judged by: what is none of them is the rest.
func (v *Version) class(name string) int {
	for i := range v.Classes {
		if v.Classes[i].Name == name {
			return i
		}
	}
	return len(v.Classes) - 1
}

// tallyClasses counts what was answered of each class since a release began, at any weight.
func (m *machine) tallyClasses(cells []Cell) {
	for _, v := range m.with(judged) {
		if len(v.Classes) == 0 {
			continue
		}
		for _, c := range cells {
			for _, a := range c.Answers[v.Name] {
				k := &v.Classes[v.class(a.Class)]
				k.Canary = k.Canary.Add(a.Counts)
			}
			for _, a := range c.Answers[m.Stable] {
				k := &v.Classes[v.class(a.Class)]
				k.Stable = k.Stable.Add(a.Counts)
			}
		}
	}
}

// byClass reports a version that is judged by classes.
func (v *Version) byClass() bool {
	return v.Judge != nil && v.Judge.Classes != nil && len(v.Classes) == len(v.Judge.Classes.Each)
}

// batches have room for the classes of one judgement where it is made: it allocates nothing.
type batches [analysis.MostClasses]analysis.ClassBatch

// classify adds to a judgement of all requests what they consist of: answers by class, for which there is an empty batch each, and failures
// without an answer.
func (m *machine) classify(v *Version, base *analysis.Baseline, cells []Cell, which func(Cell) bool) {
	for i := range cells {
		c := &cells[i]
		if int(c.Proxy) != base.Kind || !which(*c) {
			continue
		}
		v.sorted(c, v.Name, canarySide, base)
		v.sorted(c, m.Stable, stableSide, base)
	}
	spread, load := m.Dispersion.Spread(), m.load(v)
	for i := range base.Classes {
		k := &base.Classes[i]
		k.M = base.M
		if p := m.Book.page(v.Classes[i].Name); p != nil && v.Config.Clump == 0 {
			k.M = analysis.Loaded(p.Dispersion.BoundFrom(spread), load)
		}
	}
}

// side is one of the two that a batch compares.
type side int

const (
	canarySide side = iota
	stableSide
)

func (s side) of(b *analysis.Batch) *analysis.Counts {
	if s == canarySide {
		return &b.Canary
	}
	return &b.Stable
}

// sorted lays one side of a cell into the classes. Of what was not answered all is known that can be: it failed. Where a source tells no
// answers at all, everything is the rest.
func (v *Version) sorted(c *Cell, name string, s side, base *analysis.Baseline) {
	all := c.Counts[name]
	left := all
	rest := s.of(&base.Classes[len(base.Classes)-1].Batch)
	if len(c.Answers) == 0 {
		*rest = rest.Add(all)
		return
	}
	for _, a := range c.Answers[name] {
		into := s.of(&base.Classes[v.class(a.Class)].Batch)
		*into = into.Add(a.Counts)
		left.Requests, left.Errors = left.Requests-a.Requests, left.Errors-a.Errors
	}
	failed := max(0, min(left.Errors, left.Requests))
	if well := max(0, left.Requests-failed); well > 0 { // answered, and not told of what class
		rest.Requests += well
	}
	lost := s.of(&base.Lost)
	*lost = lost.Add(analysis.Counts{Requests: all.Requests, Errors: failed})
}

// due are how a class has to be seen before a promotion: those configured that stable served within the day, others that it serves often;
// in both cases with success.
func (s *State) due(v *Version, name string) bool {
	p := s.Book.page(name)
	if p == nil {
		return false
	}
	if name != policy.Rest && slices.ContainsFunc(v.Told, func(c policy.Class) bool { return c.Name == name }) {
		return p.Day.Requests-p.Day.Errors >= leastConfirmed
	}
	return p.hourly() >= leastHourly && p.Hour.Requests-p.Hour.Errors >= leastConfirmed
}

// lacks is how many successful answers of a class are still wanted before a promotion, and in how many seconds they are expected; nil: that is
// not known.
func (s *State) lacks(v *Version, k *Exercise) (answers float64, seconds *float64) {
	answers = v.Config.Exercise - (k.Canary.Requests - k.Canary.Errors)
	if answers <= 1e-6 || !s.due(v, k.Name) {
		return 0, nil
	}
	w := float64(s.Weight(v.Name)) / policy.FullWeight
	if perSecond := s.Book.page(k.Name).Hour.Requests / max(s.Book.Seconds, 1); perSecond*w > 0 {
		t := answers / (perSecond * w)
		seconds = &t
	}
	return answers, seconds
}

// isExercised holds the promotion until enough of every class that is due went well: a path that fails wholly is never promoted because
// nobody walked it. (STATISTICS-2.md 1.7)
func (m *machine) isExercised(v *Version, _ int) shut {
	for i := range v.Classes {
		k := &v.Classes[i]
		answers, seconds := m.lacks(v, k)
		if answers == 0 {
			continue
		}
		s := because(analysis.Unexercised, "proven at %s as a whole; of class %s %.0f of %.0f successful answers were seen (judge.exercise), %.0f failed",
			share(m.Weight(v.Name)), k.Name, k.Canary.Requests-k.Canary.Errors, v.Config.Exercise, k.Canary.Errors)
		if s.seconds = seconds; seconds != nil && *seconds < secondsDay*365 {
			s.why += fmt.Sprintf("; expected in %s", time.Duration(*seconds*float64(time.Second)).Round(time.Second))
		}
		return s
	}
	return shut{}
}

// noClassSpeaks holds the promotion while the classes by themselves speak against the release.
func (m *machine) noClassSpeaks(v *Version, _ int) shut {
	i, uneasy := v.Judge.Uneasy()
	if !uneasy || i >= len(v.Classes) {
		return shut{}
	}
	k := v.Classes[i]
	return because(analysis.Holding, "proven as a whole, but some evidence against class %s: %.0f of %.0f failed; stable: %.0f of %.0f",
		k.Name, k.Canary.Errors, k.Canary.Requests, k.Stable.Errors, k.Stable.Requests)
}

// unseen names what a release is promoted without having answered: too rare to wait for.
func (m *machine) unseen(v *Version) string {
	var names []string
	for _, k := range v.Classes {
		p := m.Book.page(k.Name)
		if v.Config.Exercise > 0 && k.Name != policy.Rest && k.Canary.Requests-k.Canary.Errors < v.Config.Exercise-1e-6 && p != nil {
			names = append(names, fmt.Sprintf("%s (%.2g requests/h)", k.Name, max(p.hourly(), p.daily())))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "; promoted without having seen enough of " + strings.Join(names, ", ")
}

// sound refuses a stored book that Step cannot bear.
func (b *Book) sound() error {
	if len(b.Classes) > mostPages || !(math.Abs(b.At) <= 1e10) || !(b.Seconds >= 0 && b.Seconds <= 1e10) {
		return fmt.Errorf("a book of %d classes at %g s", len(b.Classes), b.At)
	}
	var err error
	for i := range b.Classes {
		p := &b.Classes[i]
		if i > 0 && p.Name <= b.Classes[i-1].Name {
			err = errors.Join(err, fmt.Errorf("class %q is out of order", p.Name))
		}
		err = errors.Join(err, p.Day.Sound(), p.Hour.Sound(), p.Dispersion.Sound())
	}
	return err
}

// soundClasses refuses classes that are not those of the judge.
func (v *Version) soundClasses() error {
	if v.Judge != nil && v.Judge.Classes != nil && len(v.Judge.Classes.Each) != len(v.Classes) {
		return fmt.Errorf("it is judged by %d classes, and %d have a name", len(v.Judge.Classes.Each), len(v.Classes))
	}
	var err error
	for _, k := range v.Classes {
		err = errors.Join(err, k.Canary.Sound(), k.Stable.Sound())
	}
	return err
}
