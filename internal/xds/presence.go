package xds

import (
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

// goneFor is how long a node may be away until the log says so: it connects again every hour, and after a restart.
const goneFor = 30 * time.Second

// presence tells the log of nodes that come and go, and not of each connection.
type presence struct {
	log   logrus.FieldLogger
	lines *rate.Limiter // names are the clients' choice
	here  map[string]int
	away  map[string]time.Time
}

func newPresence(log logrus.FieldLogger) *presence {
	return &presence{log: log, lines: rate.NewLimiter(5, 100), here: map[string]int{}, away: map[string]time.Time{}}
}

func (p *presence) comes(n Node) {
	if n.ID == "" || n.Diagnostic {
		return
	}
	p.here[n.ID]++
	_, back := p.away[n.ID]
	delete(p.away, n.ID)
	if p.here[n.ID] > 1 || back || !p.lines.Allow() {
		return
	}
	about := p.log.WithFields(logrus.Fields{"node": n.ID, "cluster": n.Cluster, "build": n.Build, "peer": n.Peer})
	if n.Version != [2]uint32{} && older(n.Version, oldestMinor) {
		about.Warnf("an Envoy connected that is older than 1.%d, the oldest that is supported: upgrade it", oldestMinor)
		return
	}
	about.Info("an Envoy connected")
}

func (p *presence) leaves(n Node, now time.Time) {
	if n.Client || p.here[n.ID] == 0 { // it said who it is when it had come
		return
	}
	if p.here[n.ID]--; p.here[n.ID] == 0 {
		delete(p.here, n.ID)
		p.away[n.ID] = now
	}
}

func (p *presence) tick(now time.Time) {
	for id, since := range p.away {
		if now.Sub(since) < goneFor {
			continue
		}
		delete(p.away, id)
		if p.lines.Allow() {
			p.log.WithField("node", id).Infof("an Envoy is gone since %s: it keeps the weights that it has", since.UTC().Format(time.RFC3339))
		}
	}
}
