package docker

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sync/singleflight"
)

// idsMost are so many containers that all are asked for rather than each of them.
const idsMost = 100

// survey is what the daemon says of all containers that name a service. While the daemon tells what becomes of them it is kept:
// asked for are those of which something was told, or that canaryd changed. Else all are asked for, once for all versions that
// are looked at within half a sweep, and after each change.
type survey struct {
	flights singleflight.Group // one question at a time: no answer undoes that to a later one

	mu      sync.Mutex
	kept    bool
	since   uint64            // kept from this change on
	changes uint64            // told by the daemon or made by canaryd, so far
	unknown uint64            // the last change of which nobody can say what it was of
	changed map[string]uint64 // by id, what no answer shows yet: the last change
	asked   time.Time         // for all, last
	shown   uint64            // the changes that all showed then
	heard   bool              // something was told since
	missed  bool              // all showed what nobody had told, and nothing else had been told either
	all     map[string]*container.Summary
	managed byVersion
}

// byVersion are the containers that canaryd started, by service and version. A worker walks those of its own version: ten
// thousand that walk all of ten thousand containers keep half a core busy while nothing happens. They are shared: a version
// that changes gets another list.
type byVersion map[[2]string][]*container.Summary

func versionOf(c *container.Summary) [2]string {
	return [2]string{c.Labels[LabelService], c.Labels[LabelVersion]}
}

func isManaged(c *container.Summary) bool { return c.Labels[LabelManaged] == "true" }

// question is what the daemon has to be asked.
type question struct {
	at    time.Time
	shows uint64   // the changes that an answer shows
	ids   []string // none: all
}

// due is what has to be asked for what is true now.
func (s *survey) due(now time.Time) (q question, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q = question{at: now, shows: s.changes}
	old := !s.kept && (len(s.changed) > 0 || now.Sub(s.asked) >= sweep/2)
	if old || s.unknown > s.shown || len(s.changed) > idsMost {
		return q, true
	}
	q.ids = slices.Collect(maps.Keys(s.changed))
	return q, len(q.ids) > 0
}

// answered takes in an answer, and gives the containers that it shows to have changed though nobody told. Answers come in
// the order of their questions.
func (s *survey) answered(q question, items []container.Summary) (untold []*container.Summary) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(q.ids) > 0 {
		for _, id := range q.ids {
			s.drop(id)
		}
		for i := range items {
			s.put(&items[i])
		}
	} else {
		was, compare := s.all, s.kept && s.shown >= s.since
		s.take(items)
		if s.asked, s.shown = q.at, q.shows; compare {
			untold = s.untold(was)
		}
		s.missed = s.missed || len(untold) > 0 && !s.heard
		s.heard = false
	}
	maps.DeleteFunc(s.changed, func(_ string, last uint64) bool { return last <= q.shows })
	return untold
}

// take replaces all, in the daemon's order.
func (s *survey) take(items []container.Summary) {
	s.all, s.managed = make(map[string]*container.Summary, len(items)), make(byVersion, len(items))
	for i := range items {
		c := &items[i]
		if s.all[c.ID] = c; isManaged(c) {
			s.managed[versionOf(c)] = append(s.managed[versionOf(c)], c)
		}
	}
}

// put replaces one.
func (s *survey) put(c *container.Summary) {
	s.drop(c.ID)
	if s.all[c.ID] = c; isManaged(c) {
		v := versionOf(c)
		s.managed[v] = append([]*container.Summary{c}, s.managed[v]...)
	}
}

func (s *survey) drop(id string) {
	c := s.all[id]
	if delete(s.all, id); c == nil || !isManaged(c) {
		return
	}
	v := versionOf(c)
	left := slices.DeleteFunc(slices.Clone(s.managed[v]), func(o *container.Summary) bool { return o.ID == id })
	if s.managed[v] = left; len(left) == 0 {
		delete(s.managed, v)
	}
}

// change has containers asked for anew: canaryd made, started, stopped or removed them.
func (s *survey) change(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	if s.changed == nil {
		s.changed = map[string]uint64{}
	}
	for _, id := range ids {
		s.changed[id] = s.changes
	}
}

// tell has a container asked for anew: the daemon told something of it.
func (s *survey) tell(id string) {
	s.change(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = true
}

// anew has all asked for anew.
func (s *survey) anew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	s.unknown = s.changes
}

// keep says whether the daemon tells from now on what becomes of containers.
func (s *survey) keep(kept bool) {
	s.anew()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept, s.since, s.heard, s.missed = kept, s.changes, false, false
}

// isDeaf reports whether something happened, and nothing was told for as long as what is known was kept.
func (s *survey) isDeaf() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missed
}

// of are the containers of a version that canaryd started.
func (s *survey) of(version [2]string) []*container.Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.managed[version]
}

// versions are those that canaryd started.
func (s *survey) versions() byVersion {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.managed)
}

// others are those that others started.
func (s *survey) others() (cs []container.Summary) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		if !isManaged(c) {
			cs = append(cs, *c)
		}
	}
	return cs
}
