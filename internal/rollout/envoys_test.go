package rollout

import (
	"fmt"
	"slices"
	"time"
)

// envoys model a fleet and the hub that serves it: who is connected, what each one serves, and what it
// refuses. The hub may be behind the state, because a decision is stored before it is published.
type envoys struct {
	all        []*envoy
	generation uint64
	table      Table
	told       string // the status that the state heard last
	heard      bool   // and nothing has happened since
}

type envoy struct {
	name      string
	connected bool
	lagging   bool
	serves    []Run
	reaches   []string // versions that it may send users to: by slots, or by a pin
	has       string   // what it accepted last
	refused   bool     // the present table
	most      int      // it refuses tables that give more than this to others than the stable version; -1: all
}

const healthy = 10000

func newEnvoys() *envoys {
	f := &envoys{}
	for _, name := range []string{"edge-1", "edge-2", "edge-3"} {
		f.all = append(f.all, &envoy{name: name, connected: true, most: healthy})
	}
	return f
}

// seen is all that an Envoy sees of a table.
func seen(t Table) string { return fmt.Sprint(t.Stable, t.Slots, t.Clusters) }

// publish gives the table of a state to the Envoys. They answer later.
func (f *envoys) publish(s *State) {
	t := s.Table()
	if f.generation == t.Generation {
		return
	}
	refused := slices.ContainsFunc(f.all, func(e *envoy) bool { return e.refused })
	if refused || seen(t) != seen(f.table) {
		for _, e := range f.all {
			e.refused, e.lagging = false, false
		}
	}
	f.generation, f.table = t.Generation, t
}

// answer lets an Envoy accept or refuse what it is offered.
func (f *envoys) answer(e *envoy) {
	f.heard = false
	if !e.connected || e.refused || e.has == seen(f.table) || f.generation == 0 {
		return
	}
	others := 0
	for _, r := range f.table.Slots {
		if r.Version != f.table.Stable {
			others += r.Count
		}
	}
	if others > e.most {
		e.refused, e.lagging = true, false
		return
	}
	e.has, e.serves, e.lagging, e.reaches = seen(f.table), f.table.Slots, false, nil
	for _, r := range f.table.Slots {
		e.reaches = append(e.reaches, r.Version)
	}
	for _, c := range f.table.Clusters {
		if c.Pinned {
			e.reaches = append(e.reaches, c.Version)
		}
	}
}

// change lets something happen to an Envoy.
func (f *envoys) change(e *envoy, what int) {
	f.heard = false
	switch what % 10 {
	case 0:
		e.connected, e.refused, e.lagging = false, false, false
	case 1, 2:
		e.connected = true
	case 3: // a new process
		*e = envoy{name: e.name, connected: true, most: e.most}
	case 4:
		e.lagging = e.connected && !e.refused && e.has != seen(f.table)
	case 5, 6, 7:
		e.most = []int{-1, 0, 100, 1000, 4000}[what/10%5]
	default:
		e.most = healthy
	}
}

// restart is what a restart of canaryd is to them.
func (f *envoys) restart(s *State) {
	for _, e := range f.all {
		e.connected, e.refused, e.lagging = false, false, false
	}
	f.generation, f.told = 0, ""
	f.publish(s)
}

// status is what the hub tells, when there is something new.
func (f *envoys) status(at time.Time) []Event {
	a := Applied{At: at, Generation: f.generation}
	var events []Event
	waiting, refused := 0, 0
	for _, e := range f.all {
		if e.has != "" {
			a.Crowds = append(a.Crowds, Crowd{Version: e.has, Has: e.serves, Present: e.has == seen(f.table), Nodes: []string{e.name}})
		}
		switch {
		case !e.connected:
			a.Away = append(a.Away, e.name)
			continue
		case e.refused:
			refused++
			a.Refusing = append(a.Refusing, e.name)
			events = append(events, Rejected{At: at, Generation: f.generation, Node: e.name, Message: "no"})
		case e.lagging:
			a.Lagging = append(a.Lagging, e.name)
		case e.has != seen(f.table):
			waiting++
		default:
			a.Accepted = append(a.Accepted, e.name)
		}
		a.Subscribers++
	}
	a.Otherwise = a.Subscribers > len(a.Lagging)+refused && waiting == 0
	a.InForce = a.Otherwise && refused == 0
	told := fmt.Sprint(a.Generation, a.InForce, a.Subscribers, a.Lagging, a.Crowds, waiting, events)
	f.heard = true
	if told == f.told {
		return nil
	}
	f.told, f.heard = told, true
	return append(events, a)
}

func (f *envoys) String() string {
	text := ""
	for _, e := range f.all {
		text += fmt.Sprintf("\n%+v", *e)
	}
	return text
}
