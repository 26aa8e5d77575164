package xds

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Loads takes load reports in. Which clusters are reported may change at any time.
type Loads struct {
	fixed   time.Duration // how often all report; 0: as often as is worth it
	deliver func(Report)

	mu          sync.Mutex
	names       []string // of clusters, sorted; never changed
	encoded     []byte   // these, as a response has them
	clusters    map[string]Asked
	judgedEvery time.Duration // how often streams with something under judgement report
	opened      uint64        // streams so far: they are numbered
	streams     map[*reporter]struct{}
	paces       map[Identity]*pace
	hosts       map[string]int // how many Envoys report from an address
}

// reporter is one stream of reports.
type reporter struct {
	hub    *Hub
	id     uint64
	node   Node
	client bool // a gRPC client without a proxy
	pace   *pace
	wake   chan struct{}

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
	l := &Loads{fixed: interval, deliver: deliver, streams: map[*reporter]struct{}{}, paces: map[Identity]*pace{}, hosts: map[string]int{}}
	l.judgedEvery = l.every(atRest)
	return l
}

// Ask says which clusters are to be reported from now on.
func (l *Loads) Ask(clusters []Asked) {
	next := make(map[string]Asked, len(clusters))
	for _, a := range clusters {
		next[a.Cluster] = a
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if maps.Equal(next, l.clusters) {
		return
	}
	l.names, l.clusters, l.encoded = slices.Sorted(maps.Keys(next)), next, nil
	for _, name := range l.names {
		l.encoded = protowire.AppendString(protowire.AppendTag(l.encoded, 1, protowire.BytesType), name)
	}
	for s := range l.streams {
		s.again()
	}
}

// Nodes are the Envoys that report at present, and are believed.
func (l *Loads) Nodes() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for s := range l.streams {
		if s.hub.knows(s.node) {
			out = append(out, s.node.ID)
		}
	}
	slices.Sort(out)
	return out
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
	s := &reporter{hub: r.hub, node: admitted(ss.Context(), req.GetNode()), wake: make(chan struct{}, 1),
		client: strings.HasPrefix(req.GetNode().GetUserAgentName(), "gRPC")}
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

func (l *Loads) open(s *reporter) {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, s)
	l.joins(s, -1)
	if s.judging {
		l.reckon()
	}
	if s.pace.streams--; s.pace.streams == 0 {
		delete(l.paces, s.node.identity())
	}
}

// outlivingEvery is how often a stream is looked at for clusters that its Envoy should have no more.
const outlivingEvery = time.Minute

func (l *Loads) ask(ss loadstats.LoadReportingService_StreamLoadStatsServer, s *reporter) {
	var told list
	outliving := time.NewTicker(outlivingEvery)
	defer outliving.Stop()
	for {
		select {
		case <-ss.Context().Done():
			return
		case <-s.wake:
		case <-outliving.C:
		}
		next := l.of(s)
		if next.every == told.every && slices.Equal(next.clusters, told.clusters) {
			continue
		}
		told = next
		r := next.response()
		if s.client { // grpc-go reads the first answer only, and knows no endpoints
			r = &loadstats.LoadStatsResponse{SendAllClusters: true, LoadReportingInterval: durationpb.New(next.every)}
		}
		if ss.SendMsg(r) != nil {
			return
		}
	}
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
