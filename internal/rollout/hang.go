package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Hang is what is known of requests that stay open. Invariant: Each are in order of version, proxy and kind.
type Hang struct {
	Age        float64              `json:"age,omitempty"` // seconds after which a request counts as failed
	Each       []Waits              `json:"each,omitempty"`
	Issued     float64              `json:"issued,omitempty"`     // requests of stable that began, half-life ten minutes
	Open       float64              `json:"open,omitempty"`       // of them were open for so long
	At         float64              `json:"at,omitempty"`         // seconds of the last counts
	Dispersion *analysis.Dispersion `json:"dispersion,omitempty"` // of them; nil: nobody tells how many began
}

// Waits are the requests of one version through one proxy.
type Waits struct {
	Version string  `json:"version"`
	Envoy   string  `json:"envoy"`
	Proxy   Proxy   `json:"proxy,omitempty"`
	Seen    float64 `json:"seen"` // seconds of the last counts
	analysis.Waiting
}

const (
	mostWaits  = 512   // proxies through which the requests of one version are followed
	finely     = 64    // versions and proxies of which requests are followed finely
	hangMemory = 600.0 // seconds, half-life
	streaming  = 0.01  // of stable's requests that are open for so long: it has streams, or long polls
	leastOpen  = 100.0 // requests of stable, before that is known
)

func (h Hang) clone() Hang {
	h.Each = slices.Clone(h.Each)
	for i := range h.Each {
		h.Each[i].Waiting = h.Each[i].Waiting.Clone()
	}
	if h.Dispersion != nil {
		d := h.Dispersion.Clone()
		h.Dispersion = &d
	}
	return h
}

func (h *Hang) shift(by float64) {
	if h.At != 0 {
		h.At += by
	}
	for i := range h.Each {
		h.Each[i].Seen += by
		h.Each[i].Shift(by)
	}
	if h.Dispersion != nil {
		h.Dispersion.Shift(by)
	}
}

func (w *Waits) compare(o *Waits) int {
	return cmp.Or(cmp.Compare(w.Version, o.Version), cmp.Compare(w.Envoy, o.Envoy), cmp.Compare(w.Proxy, o.Proxy))
}

// waits finds the requests of a version through a cell's proxy; nil: they are not followed. All versions are followed through the same
// proxies, those of stable: of what is counted through more of them more would hang.
func (m *machine) waits(c *Cell, version string, begin bool) *Waits {
	h, want := &m.Hang, Waits{Version: version, Envoy: c.Slice, Proxy: c.Proxy}
	i, known := h.find(&want)
	switch {
	case known:
		return &h.Each[i]
	case !begin:
		return nil
	case version == m.Stable && h.followed(version) >= mostWaits:
		return nil
	case version != m.Stable:
		if _, same := h.find(&Waits{Version: m.Stable, Envoy: c.Slice, Proxy: c.Proxy}); !same {
			return nil
		}
	}
	h.Each = slices.Insert(h.Each, i, want)
	return &h.Each[i]
}

func (h *Hang) find(want *Waits) (i int, known bool) {
	return slices.BinarySearchFunc(h.Each, want, func(w Waits, o *Waits) int { return w.compare(o) })
}

// followed is through how many proxies the requests of a version are.
func (h *Hang) followed(version string) int {
	begin, _ := slices.BinarySearchFunc(h.Each, version, func(w Waits, v string) int { return cmp.Compare(w.Version, v) })
	end, _ := slices.BinarySearchFunc(h.Each[begin:], version, func(w Waits, v string) int {
		if w.Version == v {
			return -1
		}
		return 1
	})
	return end
}

// streams reports whether stable leaves so many requests open as a rule that an open one says nothing.
func (h *Hang) streams() bool { return h.Issued >= leastOpen && h.Open > streaming*h.Issued }

// forget drops what is gone, and lets what is known of stable fade: that much is kept.
func (h *Hang) forget(now float64) (keep float64) {
	keep = 1
	if since := now - h.At; h.At > 0 && since > 0 {
		keep = math.Exp2(-since / hangMemory)
		h.Issued, h.Open = h.Issued*keep, h.Open*keep
	}
	h.At = max(h.At, now)
	h.Each = slices.DeleteFunc(h.Each, func(w Waits) bool { return now-w.Seen > 2*longestGap || w.Seen > now })
	return keep
}

// hangAge is after how many seconds an open request counts as failed: what the policy said when the oldest release under test was
// announced, for both sides of the comparison; 0: never.
func (s *State) hangAge() float64 {
	if v := s.eldest(); v != nil {
		return v.Config.Hang
	}
	return time.Duration(s.Policy.Judge.Hang).Seconds()
}

// eldest is the oldest release under test; nil: there is none.
func (s *State) eldest() *Version {
	for _, v := range s.Versions {
		if v.Phase.Waiting() && v.Judge != nil {
			return v
		}
	}
	return nil
}

// withHung is evidence in which requests that are open for too long count as failed, each once, in the place of what becomes of them
// later: who answers nothing at all would otherwise look well until the first timeouts. (STATISTICS-2.md 2.6)
func (m *machine) withHung(cells []Cell) []Cell {
	age := m.hangAge()
	if age != m.Hang.Age {
		m.Hang.Age, m.Hang.Each = age, nil
	}
	if age == 0 {
		return cells
	}
	now := seconds(m.at)
	keep := m.Hang.forget(now)
	for _, v := range m.with(live) { // what is known of others stays as it is
		v.Hung *= keep
	}
	counts := !m.Hang.streams()
	var sum analysis.Counts // stable's, of which errors are open requests
	followed, out := false, cells
	for i := range cells {
		c := &cells[i]
		if len(c.Issued) == 0 && len(m.Hang.Each) == 0 {
			continue // none are followed
		}
		for version := range ByName(c.Counts) {
			n, open, known := m.wait(c, version, counts, now)
			if !known {
				continue
			}
			if v := m.Version(version); v != nil {
				v.Hung += open
			}
			if version == m.Stable {
				followed, sum = true, sum.Add(analysis.Counts{Requests: n.Requests, Errors: open})
				m.Hang.Issued += c.Issued[version]
				m.Hang.Open += open
			}
			if n == c.Counts[version] {
				continue
			}
			if &out[0] == &cells[0] {
				out = slices.Clone(cells)
			}
			out[i].replace(version, n)
		}
	}
	if followed {
		if m.Hang.Dispersion == nil {
			m.Hang.Dispersion = &analysis.Dispersion{}
		}
		m.Hang.Dispersion.Add(now, []analysis.Slice{{Counts: sum}}, m.Hang.Open/max(m.Hang.Issued, 1))
	}
	return out
}

// wait takes in what a cell says of a version's requests, and returns what counts of them, and how many that are open are among it.
func (m *machine) wait(c *Cell, version string, counts bool, now float64) (n analysis.Counts, open float64, known bool) {
	issued, told := c.Issued[version]
	w := m.waits(c, version, told)
	if w == nil {
		return n, 0, false
	}
	if w.Seen = now; !told {
		w.Lose()
		return n, 0, false
	}
	grain := m.Hang.Age / 25
	if len(m.Hang.Each) > finely {
		grain = m.Hang.Age / 5
	}
	b := analysis.Started{From: seconds(c.From), To: seconds(c.To), Issued: issued, Counts: c.Counts[version]}
	n, open = w.Add(analysis.Age{Seconds: m.Hang.Age, Grain: grain}, b, counts && m.compares(c))
	return n, open, true
}

// compares reports whether requests that began as long ago as hanging ones were shared out as they are now.
func (m *machine) compares(c *Cell) bool {
	since := latest(m.Since, c.HasSince)
	return !m.Since.IsZero() && !c.From.Before(since.Add(time.Duration(m.Hang.Age*float64(time.Second))))
}

// replace puts other counts of a version in a cell that others may read.
func (c *Cell) replace(version string, n analysis.Counts) {
	c.Counts = maps.Clone(c.Counts)
	c.Counts[version] = n
	if as := c.Answers[version]; len(as) > 0 { // those that were counted before they were answered
		c.Answers = maps.Clone(c.Answers)
		c.Answers[version] = analysis.FitAnswers(as, n)
	}
}

// saysHung says in a sentence's end that requests of a version hang; empty: hardly any do.
func (m *machine) saysHung(v *Version) string {
	if v.Hung < 0.5 || m.Hang.streams() {
		return ""
	}
	return fmt.Sprintf("; %.0f requests have had no answer for %s (judge.hang)", v.Hung, time.Duration(m.Hang.Age*float64(time.Second)))
}

// clumpOfHung is how many requests of stable hang together; 0: none do.
func (m *machine) clumpOfHung() float64 {
	if m.Hang.Age == 0 || m.Hang.Dispersion == nil || m.Hang.Dispersion.Errs == 0 {
		return 0
	}
	return m.Hang.Dispersion.Bound()
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// sound refuses stored counts that Step cannot bear.
func (h *Hang) sound() error {
	if !(h.Age >= 0 && h.Age <= 3600) || !(math.Abs(h.At) <= 1e10) {
		return fmt.Errorf("requests of %d versions and proxies that stay open for %g s", len(h.Each), h.Age)
	}
	err := analysis.Counts{Requests: h.Issued, Errors: h.Open}.Sound()
	if h.Dispersion != nil {
		err = errors.Join(err, h.Dispersion.Sound())
	}
	for i := range h.Each {
		w := &h.Each[i]
		if i >= mostWaits && h.Each[i-mostWaits].Version == w.Version {
			err = errors.Join(err, fmt.Errorf("requests of version %q through more than %d proxies", w.Version, mostWaits))
		}
		if i > 0 && h.Each[i-1].compare(w) >= 0 || !(math.Abs(w.Seen) <= 1e10) {
			err = errors.Join(err, fmt.Errorf("requests of version %q through %q are out of order", w.Version, w.Envoy))
		}
		err = errors.Join(err, w.Sound())
	}
	return err
}
