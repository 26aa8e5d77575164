package xds

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Loads takes load reports in. Which clusters are reported may change at any time.
type Loads struct {
	fixed   time.Duration // how often all report; 0: as often as is worth it
	deliver func(Report)
	stale   atomic.Bool // who reports is others than nodes

	mu          sync.Mutex
	hub         *Hub // of the streams; nil: there was none yet
	looked      *looked
	judgedEvery time.Duration // how often streams with something under judgement report
	opened      uint64        // streams so far: they are numbered
	streams     map[*reporter]struct{}
	paces       map[Identity]*pace
	hosts       map[string]int // how many Envoys report from an address
	nodes       []string       // that report and are believed, in order; never changed
}

// reporter is one stream of reports.
type reporter struct {
	hub     *Hub
	loads   *Loads
	id      uint64
	node    Node
	client  bool // a gRPC client without a proxy
	pace    *pace
	wake    chan struct{}
	vouched atomic.Bool // its node has an ADS stream; set with the hub's mutex held

	// Guarded by the mutex of loads.
	all     bool // its node asks for all clusters: each change concerns it
	judging bool // it has something under judgement
	rows    int  // of its reports
}

// pace is how fast the streams of one node may report.
type pace struct {
	*rate.Limiter
	streams int
}

// NewLoads delivers reports to a function that must not block. With an interval of 0 what is under judgement is reported
// as often as it is worth it, the rest once a second.
func NewLoads(interval time.Duration, deliver func(Report)) *Loads {
	l := &Loads{fixed: interval, deliver: deliver, looked: newLooked(nil), streams: map[*reporter]struct{}{}, paces: map[Identity]*pace{}, hosts: map[string]int{}}
	l.judgedEvery = l.every(atRest)
	return l
}

// Ask says which clusters are to be reported from now on. One call must end before the next begins.
func (l *Loads) Ask(clusters []Asked) {
	next := newLooked(clusters)
	l.mu.Lock()
	old := l.looked
	l.mu.Unlock()
	news := next.news(old) // of very many it takes milliseconds
	if len(news) == 0 {
		return
	}
	next.turn = old.turn + 1
	if h := l.looksAt(next); h != nil {
		changed := maps.Keys(news)
		h.concerns(slices.AppendSeq(slices.Collect(next.refs(changed)), old.refs(changed)))
	}
}

// looksAt has the streams told that are to report all clusters. Whom else it concerns the hub knows.
func (l *Loads) looksAt(next *looked) *Hub {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looked = next
	for s := range l.streams {
		if s.all {
			s.again()
		}
	}
	return l.hub
}

// Nodes are the Envoys that report at present, and are believed. The list is not to be changed.
func (l *Loads) Nodes() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stale.Swap(false) {
		return l.nodes
	}
	l.nodes = make([]string, 0, len(l.streams))
	for s := range l.streams {
		if s.vouched.Load() {
			l.nodes = append(l.nodes, s.node.ID)
		}
	}
	slices.Sort(l.nodes)
	return l.nodes
}

// vouch takes in whether an ADS stream vouches for a stream of reports. With the hub's mutex held.
func (s *reporter) vouch(is bool) {
	if s.vouched.Swap(is) != is {
		s.loads.stale.Store(true)
	}
}

// reporting is the service.
type reporting struct {
	hub   *Hub
	loads *Loads
}

// StreamLoadStats serves one Envoy.
func (r reporting) StreamLoadStats(ss loadstats.LoadReportingService_StreamLoadStatsServer) error {
	req := &reported{LoadStatsRequest: &loadstats.LoadStatsRequest{}, first: true}
	if err := ss.RecvMsg(req); err != nil {
		return err
	}
	s := newReporter(r.hub, r.loads, admitted(ss.Context(), req.GetNode()))
	s.client = strings.HasPrefix(req.GetNode().GetUserAgentName(), "gRPC")
	r.loads.open(s)
	defer r.loads.close(s)
	go r.loads.ask(ss, s)
	for {
		s.skipped(req)
		if len(req.GetClusterStats()) > 0 {
			if report, ok := s.take(ss.Context(), req.GetClusterStats()); ok {
				r.loads.deliver(report)
			}
		}
		req = &reported{LoadStatsRequest: &loadstats.LoadStatsRequest{}}
		if err := ss.RecvMsg(req); err != nil {
			return err
		}
	}
}

func newReporter(h *Hub, l *Loads, n Node) *reporter {
	return &reporter{hub: h, loads: l, node: n, wake: make(chan struct{}, 1)}
}

func (l *Loads) open(s *reporter) {
	defer s.hub.reports(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hub = s.hub
	l.opened++
	s.id = l.opened
	who := s.node.identity()
	if l.paces[who] == nil {
		most := s.hub.Admission.Limits.ReportsPerSecond
		l.paces[who] = &pace{Limiter: rate.NewLimiter(rate.Limit(most), most)}
	}
	s.pace = l.paces[who]
	s.pace.streams++
	l.streams[s] = struct{}{}
	l.joins(s, 1)
	s.again()
}

func (l *Loads) close(s *reporter) {
	s.hub.silenced(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, s)
	l.stale.Store(true)
	l.joins(s, -1)
	if s.judging {
		l.reckon()
	}
	if s.pace.streams--; s.pace.streams == 0 {
		delete(l.paces, s.node.identity())
	}
}

const (
	// outlivingEvery is how often a stream is looked at for clusters that its Envoy should have no more.
	outlivingEvery = time.Minute
	// unknownFor is how long the ADS stream of a node is waited for before it is told what to report: until there is one its reports do
	// not count, and are counted as refused.
	unknownFor = 10 * time.Second
	// listBytes is how much a second all lists may take: where very much is looked at each change of it is a long new list. But
	// nobody rests for longer than listsMost: until it is told, nothing is counted of a release that has begun.
	listBytes = 32 << 20
	listsMost = time.Second
)

// ask tells a stream what to report, again and again.
func (l *Loads) ask(ss loadstats.LoadReportingService_StreamLoadStatsServer, s *reporter) {
	var told list
	outliving, patience := time.NewTicker(outlivingEvery), time.NewTimer(unknownFor)
	defer outliving.Stop()
	defer patience.Stop()
	for waits := !s.client; ; {
		anew := false
		select {
		case <-ss.Context().Done():
			return
		case <-s.wake:
		case <-outliving.C:
			anew = true
		case <-patience.C:
			waits = false
		}
		next, known := l.of(s, told, anew)
		if waits = waits && !known; waits {
			continue
		}
		news := !next.same(told)
		told = next
		if news && (ss.SendMsg(s.answer(next)) != nil || !l.rests(ss.Context(), next)) {
			return
		}
	}
}

// answer is what a stream is sent. grpc-go reads the first answer only, and knows no endpoints.
func (s *reporter) answer(l list) any {
	if s.client {
		return &loadstats.LoadStatsResponse{SendAllClusters: true, LoadReportingInterval: durationpb.New(l.every)}
	}
	return l.response()
}

// rests leaves the network to others after a list, as if all had such long ones; false: the stream has ended.
func (l *Loads) rests(ctx context.Context, sent list) bool {
	l.mu.Lock()
	all := float64(sent.bytes) * float64(len(l.streams))
	l.mu.Unlock()
	t := time.NewTimer(min(time.Duration(all/listBytes*float64(time.Second)), listsMost))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// of says what a stream is to report that was told something before, or from now on (anew) nothing else, and whether its node says what
// it has.
func (l *Loads) of(s *reporter, told list, anew bool) (next list, known bool) {
	l.mu.Lock()
	looked := l.looked
	l.mu.Unlock()
	r := s.hub.reach(s.node, looked)
	next = s.next(looked, r, told, anew)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.streams[s]; open {
		if l.looked != looked { // what it is concerned by now it was not woken for
			s.again()
		}
		s.all = next.known && r.all
		l.note(s, next.known && next.judged, next.rows) // not of a gRPC client, which hears of an interval only once
	}
	next.every = l.everyOf(s)
	return next, r.known
}

// next is the list of a stream.
func (s *reporter) next(looked *looked, r reach, told list, anew bool) list {
	switch {
	case s.client: // which is asked for all that it has
		return list{}
	case !r.known && told.every > 0: // it has no ADS stream for a moment
		looked.judge(&told)
		return told
	}
	next := looked.reached(s.hub, s.node, r)
	if told.known && !r.all && !anew {
		next = next.after(told, looked)
	}
	return next
}

// slow keeps whoever reports too fast from being read as fast as they write.
func (s *reporter) slow(ctx context.Context) {
	t := time.NewTimer(time.Duration(float64(time.Second) / float64(s.pace.Limit())))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
