package analysis

import (
	"math"
	"slices"
)

const (
	widths       = 4
	clumpDefault = 4.0 // no errors seen: the prior alone
	clumpMax     = 200.0
	priorErrors  = 20.0
	priorPhi     = 3.0
	excess       = 1.5
	halfLife     = 24 * 3600.0
	latelyLife   = 1800.0 // half-life in seconds of what is known about today
	justNowLife  = 300.0  // and of what is known about the last minutes
	oneSliceKeep = 31
	leastDof     = 8.0
)

// windowWidths are the lengths in seconds over which errors are looked at for clumping.
var windowWidths = [widths]float64{10, 30, 100, 300}

// Slice is one endpoint's share of the stable version's counts, or their sum.
type Slice struct {
	Name string `json:"name"`
	Counts
}

// Dispersion estimates how many errors one cause produces together, from how unevenly stable's
// errors fall on slices that should be alike. (STATISTICS.md 2.5)
type Dispersion struct {
	Num    [widths]float64 `json:"num"`
	Den    [widths]float64 `json:"den"`
	Dof    [widths]float64 `json:"dof,omitzero"` // degrees of freedom; states of earlier versions begin with none
	Errs   float64         `json:"errs"`
	One    bool            `json:"one"`  // only one slice was ever seen
	Open   [widths]window  `json:"open"` // windows being filled
	At     float64         `json:"at"`   // seconds of the last decay
	Single [widths]history `json:"single"`
	Lately [widths]lately  `json:"lately"`
	Just   [widths]lately  `json:"just,omitzero"`
	Outage outage          `json:"outage,omitzero"`
	Seen   float64         `json:"seen,omitempty"` // seconds of the last counts
}

// lately is the same sum with a short memory: clumps that are new today must not have to outweigh a
// quiet yesterday.
type lately struct {
	Num float64 `json:"num"`
	Den float64 `json:"den"`
	Dof float64 `json:"dof"` // degrees of freedom
}

// surely is a lower confidence bound (about 98 %) on the true dispersion: the estimate less two
// standard errors of a chi-square sum.
func (l lately) surely() float64 {
	if l.Den <= 0 || l.Dof <= leastDof { // up to there the two standard errors are all of the estimate
		return 1
	}
	return max(1, l.Num/l.Den*(1-2*math.Sqrt(2/l.Dof)))
}

// plainly is the estimate itself where it lies three standard errors above 1: what clumps for the first time cannot wait
// until half an hour of it is known. (STATISTICS-2.md 4.2)
func (l lately) plainly() float64 {
	if l.Den <= 0 || l.Num < l.Den*(1+3*math.Sqrt(2/l.Dof)) {
		return 1
	}
	return min(l.Num/l.Den, mostCount)
}

// together reports that the estimate lies above 1 as plainly, and rests on more than a few windows.
func (l lately) together() bool { return l.Dof > leastDof && l.plainly() > 1 }

func (l *lately) forget(keep float64) { l.Num, l.Den, l.Dof = l.Num*keep, l.Den*keep, l.Dof*keep }

func (l *lately) add(num, den, dof float64) { l.Num, l.Den, l.Dof = l.Num+num, l.Den+den, l.Dof+dof }

type window struct {
	Start  float64 `json:"start"`
	Slices []Slice `json:"slices,omitempty"`
}

type history struct {
	Past []Counts `json:"past,omitempty"`
}

// Add takes in stable's counts by slice at a moment in seconds, and its usual error rate.
func (d *Dispersion) Add(now float64, more []Slice, usual float64) {
	if d.suffers(now, more, usual) {
		return
	}
	for w := range d.Open {
		o := &d.Open[w]
		o.Start = min(o.Start, now) // a clock that was set back makes no window longer
		if len(o.Slices) > 0 && now-o.Start >= windowWidths[w] && d.Outage.Since == 0 {
			d.close(w, now)
		}
		if len(o.Slices) == 0 {
			o.Start = now
		}
		o.Slices = Join(o.Slices, more)
	}
}

// suffers reports an outage, of which nothing is learnt; the windows that it reaches into are dropped.
func (d *Dispersion) suffers(now float64, more []Slice, usual float64) bool {
	tick := min(max(now-d.Seen, 0), windowWidths[0])
	d.Seen = now
	d.Outage.watch(now, tick, healthier(more), usual)
	if !d.Outage.Over {
		return false
	}
	for w := range d.Open {
		d.Open[w].Slices = d.Open[w].Slices[:0]
	}
	return true
}

// atSight slices are found by looking sooner than by an index.
const atSight = 32

// Join adds counts to those of the slices of the same names.
func Join(into, more []Slice) []Slice {
	if len(into) == 0 {
		into = slices.Grow(into, len(more))
	}
	if max(len(into), len(more)) <= atSight {
		return joinAtSight(into, more)
	}
	at := make(map[string]int, len(into)+len(more))
	for i, s := range slices.Backward(into) {
		at[s.Name] = i
	}
	for _, s := range more {
		if i, ok := at[s.Name]; ok {
			into[i].Counts = into[i].Counts.Add(s.Counts)
		} else {
			at[s.Name] = len(into)
			into = append(into, s)
		}
	}
	return into
}

func joinAtSight(into, more []Slice) []Slice {
	for _, s := range more {
		i := slices.IndexFunc(into, func(o Slice) bool { return o.Name == s.Name })
		if i < 0 {
			into = append(into, s)
			continue
		}
		into[i].Counts = into[i].Counts.Add(s.Counts)
	}
	return into
}

func (d *Dispersion) close(w int, now float64) {
	d.decay(now)
	s := d.Open[w].Slices
	if len(s) >= 2 {
		d.One = false
		d.Window(w, s)
	} else if len(s) == 1 {
		d.oneSlice(w, s[0].Counts)
	}
	d.Open[w].Slices = d.Open[w].Slices[:0]
}

func (d *Dispersion) decay(now float64) {
	if d.At > 0 && now > d.At {
		keep := math.Exp2(-(now - d.At) / halfLife)
		for w := range d.Num {
			d.Num[w] *= keep
			d.Den[w] *= keep
			d.Dof[w] *= keep
		}
		d.Errs *= keep
		for w := range widths {
			d.Lately[w].forget(math.Exp2(-(now - d.At) / latelyLife))
			d.Just[w].forget(math.Exp2(-(now - d.At) / justNowLife))
		}
	}
	d.At = max(d.At, now)
}

// Window adds one full window of slices, for the width with index w; the errors are counted once,
// with the shortest width that is used.
func (d *Dispersion) Window(w int, s []Slice) {
	var n, x float64
	for _, c := range s {
		if c.Requests < leastRequests {
			return
		}
		n, x = n+c.Requests, x+c.Errors
	}
	if x <= 0 || len(s) < 2 {
		return
	}
	num, dof := 0.0, float64(len(s)-1)
	for _, c := range s {
		pi := c.Requests / n
		num += (c.Errors - x*pi) * (c.Errors - x*pi) / pi
	}
	d.Num[w], d.Den[w], d.Dof[w] = d.Num[w]+num, d.Den[w]+x*dof, d.Dof[w]+dof
	d.Lately[w].add(num, x*dof, dof)
	d.Just[w].add(num, x*dof, dof)
	if w == 0 || (d.One && w == 1) {
		d.Errs += x
	}
}

// oneSlice compares a window with the one before the last, where there is a single slice: less is
// known, so incidents are left out and m is 2 at least.
func (d *Dispersion) oneSlice(w int, c Counts) {
	if w == 0 {
		return
	}
	d.One = true
	h := &d.Single[w]
	h.Past = append(slices.Clip(h.Past), c) // copies share what there was
	if len(h.Past) > oneSliceKeep {
		h.Past = slices.Delete(h.Past, 0, 1)
	}
	if len(h.Past) < 3 {
		return
	}
	earlier := h.Past[len(h.Past)-3]
	limit := 10 * h.usual()
	if c.Rate() <= limit && earlier.Rate() <= limit {
		d.Window(w, []Slice{{Counts: earlier}, {Counts: c}})
	}
}

// usual is the median rate of the past windows, or their mean where most have no errors at all.
func (h *history) usual() float64 {
	var rates []float64
	var all Counts
	for _, c := range h.Past {
		rates, all = append(rates, c.Rate()), all.Add(c)
	}
	slices.Sort(rates)
	return max(rates[len(rates)/2], all.Rate())
}

// Phi is the dispersion before the prior: 1 for independent errors.
func (d *Dispersion) Phi() float64 {
	phi := 1.0
	for w := range d.Num {
		if d.Den[w] > 0 {
			phi = max(phi, min(d.Num[w]/d.Den[w], mostCount))
		}
	}
	return phi
}

// Bound is the clump bound m, 1 to 200.
func (d *Dispersion) Bound() float64 { return d.BoundFrom(priorPhi) }

// Spread is the dispersion as it is known, the prior and what was learnt lately included.
func (d *Dispersion) Spread() float64 { return d.spread(priorPhi) }

// Together reports that errors come together, and not by luck: by three standard errors in the last day or in the last half hour or so.
func (d *Dispersion) Together() bool {
	for w, l := range d.Lately {
		day := lately{d.Num[w], d.Den[w], d.Dof[w]}
		if l.together() || day.together() {
			return true
		}
	}
	return false
}

func (d *Dispersion) spread(prior float64) float64 {
	phi := (d.Phi()*d.Errs + prior*priorErrors) / (d.Errs + priorErrors)
	for w := range widths {
		phi = max(phi, d.Lately[w].surely(), d.Just[w].plainly())
	}
	return phi
}

// BoundFrom is the clump bound of a class that is taken to clump as the whole service does, until it is known better: prior is the
// service's Spread. (STATISTICS-2.md 1.5)
func (d *Dispersion) BoundFrom(prior float64) float64 {
	m := min(max(1+excess*(d.spread(prior)-1), 1), clumpMax)
	if d.One {
		m = max(m, 2)
	}
	return m
}

// Loaded is the clump bound of a version whose instances get load times the requests of those that m was learnt from: in
// a moment in which one fails, what is beyond a single error grows with them. (STATISTICS-2.md 2.3)
func Loaded(m, load float64) float64 { return min(1+(m-1)*max(1, load), clumpMax) }

// Shift moves the dispersion's clock, where the clock that it was read from was set.
func (d *Dispersion) Shift(by float64) {
	for _, at := range []*float64{&d.At, &d.Seen, &d.Outage.Since, &d.Outage.Last} {
		if *at != 0 {
			*at += by
		}
	}
	for w := range d.Open {
		if d.Open[w].Start != 0 {
			d.Open[w].Start += by
		}
	}
}

// Clone returns a copy that shares nothing that is changed in place.
func (d Dispersion) Clone() Dispersion {
	d.Own(Windows{})
	return d
}

// Windows are the lists of open windows.
type Windows [widths][]Slice

// Windows are its lists.
func (d *Dispersion) Windows() (all Windows) {
	for w := range d.Open {
		all[w] = d.Open[w].Slices
	}
	return all
}

// Own gives it windows that nobody else has, in lists that nobody needs any more. Those that find no room there have one array.
func (d *Dispersion) Own(room Windows) {
	n := 0
	for w := range d.Open {
		if !fits(d.Open[w].Slices, room[w]) {
			n += len(d.Open[w].Slices)
		}
	}
	all := make([]Slice, 0, n)
	for w := range d.Open {
		o := &d.Open[w]
		if fits(o.Slices, room[w]) {
			o.Slices = append(room[w][:0], o.Slices...)
			continue
		}
		begin := len(all)
		all = append(all, o.Slices...)
		o.Slices = all[begin:len(all):len(all)]
	}
}
