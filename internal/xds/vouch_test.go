package xds

import (
	"fmt"
	"slices"
	"testing"
	"time"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"golang.org/x/time/rate"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// oath is a speaker that has all clusters, or none, and counts how often it is asked.
type oath struct {
	is    bool
	asked map[string]int
}

func (o *oath) has(cluster string) bool {
	o.asked[cluster]++
	return o.is
}

// swears opens a stream that speaks by an oath.
func swears(h *Hub, n Node) (*session, *oath) {
	s, o := h.open(n), &oath{true, map[string]int{}}
	h.speakers[n.identity()][s.id] = o
	return s, o
}

// removedClusters are the clusters of some services that were removed, sorted by name.
func removedClusters(h *Hub, services, each int) (names []string) {
	for i := range services {
		name := fmt.Sprintf("s-%05d", i)
		h.Remained(name, []rollout.Crowd{{Version: "t1", Nodes: []string{"away"}}})
		for v := range each {
			names = append(names, fmt.Sprintf("%s/v%03d", name, v))
		}
	}
	return names
}

func loadsOf(clusters []string) map[string]ClusterLoad {
	loads := map[string]ClusterLoad{}
	for _, c := range clusters {
		loads[c] = ClusterLoad{Counts: analysis.Counts{Requests: 1}}
	}
	return loads
}

// A report of thousands of clusters lets the mutex go after a thousand looks, by each of the streams that are asked.
func TestALongReportLetsTheMutexGo(t *testing.T) {
	for streams := 1; streams <= 3; streams++ {
		h, n := NewHub(quietLog()), Node{ID: "edge-1"}
		clusters := removedClusters(h, 2000, 2)
		for range streams {
			swears(h, n)
		}
		l := &shift{h: h}
		v, known := h.vouchWith(&breaks{mu: l}, n, clusters)
		if !known || len(v.has) != len(clusters) || slices.ContainsFunc(clusters, func(c string) bool { return !v.has[c] }) {
			t.Errorf("%d streams: not all of %d clusters are vouched for", streams, len(clusters))
		}
		if want := 1 + streams*2000*3/toldAtOnce; l.taken != want {
			t.Errorf("%d streams: to vouch the mutex was taken %d times, want %d", streams, l.taken, want)
		}
		l = &shift{h: h}
		h.usedWith(&breaks{mu: l}, n, loadsOf(clusters))
		if want := 1 + streams*4000/toldAtOnce; l.taken != want {
			t.Errorf("%d streams: to book it the mutex was taken %d times, want %d", streams, l.taken, want)
		}
	}
}

// What an Envoy has may change in the pauses. All clusters of one service are looked at between two of them.
func TestClustersOfAServiceAreVouchedForAtOnce(t *testing.T) {
	h, n := NewHub(quietLog()), Node{ID: "edge-1"}
	clusters := removedClusters(h, 20, 300)
	_, o := swears(h, n)
	v, _ := h.vouchWith(&breaks{mu: &shift{h: h, happens: func() { o.is = !o.is }}}, n, clusters)
	had := 0
	for service := range slices.Chunk(clusters, 300) {
		has := 0
		for _, c := range service {
			if v.has[c] {
				has++
			}
		}
		if had += has; has != 0 && has != len(service) {
			t.Errorf("%d of %d clusters of %s are vouched for", has, len(service), service[0])
		}
	}
	if had == 0 || had == len(clusters) {
		t.Errorf("%d clusters are vouched for: nothing happened", had)
	}
}

// The ADS stream ends in a pause: nobody vouches for what was looked at before, and nothing is booked on a stream that is gone.
func TestNobodyVouchesWhoGoesMeanwhile(t *testing.T) {
	for _, streams := range []int{1, 2} {
		h, n := NewHub(quietLog()), Node{ID: "edge-1"}
		clusters := removedClusters(h, 2000, 2)
		var open []*session
		leave := &shift{h: h}
		leave.happens = func() {
			if leave.taken%2 == 0 && len(open) > 0 {
				open[0].close()
				open = open[1:]
			}
		}
		for range streams {
			s, _ := swears(h, n)
			open = append(open, s)
		}
		if _, known := h.vouchWith(&breaks{mu: leave}, n, clusters); known || leave.taken != 2*streams {
			t.Errorf("%d streams: vouched for: %v, the mutex was taken %d times", streams, known, leave.taken)
		}
		s, _ := swears(h, n)
		open, leave.taken = []*session{s}, 0
		if h.usedWith(&breaks{mu: leave}, n, loadsOf(clusters)); leave.taken != 2 {
			t.Errorf("%d streams: the mutex was taken %d times", streams, leave.taken)
		}
	}
}

// Each cluster of a report is looked at once. Of too many the last services are left out, each as a whole, which is told once.
func TestTooManyClustersOfAReport(t *testing.T) {
	for most, want := range map[int][]string{
		5: {"a/v1", "a/v2", "b/v1", "c/v1", "c/v2"},
		4: {"a/v1", "a/v2", "b/v1"},
		3: {"a/v1", "a/v2", "b/v1"},
		2: {"a/v1", "a/v2"},
		1: {},
	} {
		h, n := NewHub(quietLog()), Node{ID: "edge-1"}
		h.Admission.Limits.NamesPerType = most
		_, o := swears(h, n)
		var stats []*endpoint.ClusterStats
		for _, c := range []string{"b/v1", "c/v2", "a/v2", "b/v1", "c/v1", "b/v1", "a/v1", "c/v2"} {
			stats = append(stats, loadOf(c, 1, 0))
		}
		s := newReporter(h, NewLoads(time.Second, func(Report) {}), n)
		s.pace = &pace{Limiter: rate.NewLimiter(rate.Inf, 1)}
		r, _ := s.take(t.Context(), stats)
		for _, c := range want {
			if o.asked[c] != 1 || r.Clusters[c].Counts.Requests == 0 {
				t.Errorf("at most %d: %s was looked at %d times, %.0f requests count", most, c, o.asked[c], r.Clusters[c].Counts.Requests)
			}
		}
		over := 0
		if len(want) < 5 {
			over = 1
		}
		refused := h.Figures().Refused
		if len(r.Clusters) != len(want) || len(o.asked) != len(want) || refused[overNames] != over || refused[unknownCluster] != 0 {
			t.Errorf("at most %d: %v count, of %d was asked, refused: %v", most, r.Clusters, len(o.asked), refused)
		}
	}
}
