package metrics

import (
	"slices"
	"time"
)

const (
	seekEvery     = 10 * time.Second // how often a service without readings is looked for
	restEvery     = 30 * time.Second // how often services at rest are asked about
	seekRestEvery = 5 * time.Minute
	followedFor   = time.Minute     // after its last answer a service is looked for anew
	late          = 5 * time.Second // a sample may be, on its way into what is asked
)

// part are services that are asked about together, over one window.
type part struct {
	targets []Target
	window  time.Duration
}

// parts are what is to be asked now: who is being followed over the last seconds, who is not over five
// minutes, and more rarely, so that one service without series does not make every query long. Who hung comes last.
func (p *Prometheus) parts(targets []Target, now time.Time) []part {
	live, rest, sought := part{}, part{}, part{window: longestGap}
	hang := part{window: longestGap}
	for _, t := range targets {
		pr := p.progress[t.Service]
		followed := pr.followed(now)
		every := howOften(t.AtRest, followed)
		rare := pr.hung.rare(t)
		if rare {
			every = max(every, pr.hung.every())
		}
		if !due(pr.tried, now, every) {
			continue
		}
		pr.tried = now
		switch {
		case rare:
			hang.targets = append(hang.targets, t)
		case !followed:
			sought.targets = append(sought.targets, t)
		case t.AtRest:
			rest.targets = append(rest.targets, t)
		default:
			live.targets = append(live.targets, t)
		}
	}
	// One that hangs leaves no time for those after it: each has its turn.
	slices.SortStableFunc(hang.targets, func(a, b Target) int {
		return p.progress[a.Service].hung.asked.Compare(p.progress[b.Service].hung.asked)
	})
	var parts []part
	for _, part := range []part{live, rest, sought, hang} {
		if len(part.targets) == 0 {
			continue
		}
		if part.window == 0 {
			part.window = p.window(part.targets, now)
		}
		parts = append(parts, part)
	}
	return parts
}

func howOften(atRest, followed bool) time.Duration {
	switch {
	case atRest && followed:
		return restEvery
	case atRest:
		return seekRestEvery
	case followed:
		return 0
	}
	return seekEvery
}

// due reports that it is time again; whoever is asked as often is asked at the same time.
func due(last, now time.Time, every time.Duration) bool {
	return last.IsZero() || every == 0 || now.Truncate(every).After(last)
}

func (pr *progress) followed(now time.Time) bool {
	return len(pr.instances) > 0 && now.Sub(pr.answered) <= followedFor
}

// window reaches back to the readings that the last answers ended with. The scrape interval is that of
// most services: a rarer one's counters are differenced just as well when the window misses the last.
func (p *Prometheus) window(targets []Target, now time.Time) time.Duration {
	var longest time.Duration
	var scrapes []time.Duration
	for _, t := range targets {
		pr := p.progress[t.Service]
		scrapes = append(scrapes, pr.scrape())
		if t.Queries == nil { // the others have windows of their own
			longest = max(longest, now.Sub(pr.answered))
		}
	}
	slices.Sort(scrapes)
	return reach(longest, scrapes[len(scrapes)/2])
}

func reach(since, scrape time.Duration) time.Duration {
	return min(max(since+2*scrape+late, time.Second).Truncate(time.Second), longestGap)
}

// window is that of a service with counters of its own.
func (pr *progress) window(part part, now time.Time) time.Duration {
	if part.window == longestGap {
		return longestGap
	}
	return reach(now.Sub(pr.answered), pr.scrape())
}
