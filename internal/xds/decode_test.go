package xds

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
)

// partsOf counts the parts of a message that was decoded.
func partsOf(m protoreflect.Message) (n int) {
	var of func(protoreflect.FieldDescriptor, protoreflect.Value)
	of = func(fd protoreflect.FieldDescriptor, v protoreflect.Value) {
		switch fd.Kind() {
		case protoreflect.MessageKind:
			n += 1 + partsOf(v.Message())
		case protoreflect.StringKind, protoreflect.BytesKind:
			n++
		default:
			if fd.IsList() {
				n++
			}
		}
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				n++ // and more if it is more than an empty entry
				for fd, v := range map[protoreflect.FieldDescriptor]protoreflect.Value{fd.MapKey(): k.Value(), fd.MapValue(): v} {
					if fd.Kind() == protoreflect.MessageKind && proto.Size(v.Message().Interface()) > 0 || fd.Kind() != protoreflect.MessageKind && v.String() != "" {
						of(fd, v)
					}
				}
				return true
			})
		case fd.IsList():
			for i := range v.List().Len() {
				of(fd, v.List().Get(i))
			}
		default:
			of(fd, v)
		}
		return true
	})
	return n
}

func samples(t testing.TB) []proto.Message {
	t.Helper()
	meta, err := structpb.NewStruct(map[string]any{"a": []any{"b", 1, nil, map[string]any{"c": true}}})
	if err != nil {
		t.Fatal(err)
	}
	load := loadOf("shop/v1", 10, 1)
	loc := load.UpstreamLocalityStats[0]
	loc.LoadMetricStats = metricsAt(map[string]uint64{"named_metrics.rest.200": 10, "named_metrics.ms.5": 10})
	for i := range 3 {
		loc.UpstreamEndpointStats = append(loc.UpstreamEndpointStats, &endpoint.UpstreamEndpointStats{TotalErrorRequests: uint64(i), LoadMetricStats: metricsAt(map[string]uint64{"named_metrics.rest.500": 1}),
			Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: fmt.Sprint("10.0.0.", i)}}}})
	}
	return []proto.Message{
		&loadstats.LoadStatsRequest{Node: &core.Node{Id: "edge-1", Metadata: meta}, ClusterStats: []*endpoint.ClusterStats{load, loadOf("shop/v2", 3, 0)}},
		&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "edge-1"}, TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"a", "b"}, InitialResourceVersions: map[string]string{"a": "1"}},
	}
}

// What a message is counted before it is decoded is at least what is made of it, and of one without repetition exactly that.
func FuzzParts(f *testing.F) {
	for i, m := range samples(f) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		if got, want := parts(m.ProtoReflect().Descriptor(), b, deepest), partsOf(m.ProtoReflect()); got != want {
			f.Errorf("%d parts, want %d of %v", got, want, m)
		}
		f.Add(b, i == 0)
	}
	f.Fuzz(func(t *testing.T, b []byte, report bool) {
		var m proto.Message = &discovery.DeltaDiscoveryRequest{}
		if report {
			m = &loadstats.LoadStatsRequest{}
		}
		counted := parts(m.ProtoReflect().Descriptor(), b, deepest)
		if shallow := parts(m.ProtoReflect().Descriptor(), b, 1); shallow < counted {
			t.Errorf("%d parts when it is looked into less deep, and %d", shallow, counted)
		}
		if proto.Unmarshal(b, m) == nil && counted < partsOf(m.ProtoReflect()) {
			t.Errorf("%d parts were counted of %d", counted, partsOf(m.ProtoReflect()))
		}
	})
}

// What is left out of a report is what it says it is, and nothing else.
func FuzzShorten(f *testing.F) {
	for _, m := range samples(f)[:1] {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, 2, 100)
		f.Add(b, 100, 4)
		f.Add(b, 1, 1)
	}
	f.Fuzz(func(t *testing.T, b []byte, mostEndpoints, mostMetrics int) {
		want, got := &loadstats.LoadStatsRequest{}, &loadstats.LoadStatsRequest{}
		decode := proto.UnmarshalOptions{DiscardUnknown: true}
		if decode.Unmarshal(b, want) != nil {
			t.Skip("is no report")
		}
		r := &reported{}
		short, err := r.shorten(b, &Limits{EndpointsPerReport: max(0, mostEndpoints), MetricsPerReport: max(0, mostMetrics)})
		if err != nil || decode.Unmarshal(short, got) != nil {
			t.Fatal("what could be read cannot be read", err)
		}
		for _, cs := range want.ClusterStats {
			for _, loc := range cs.UpstreamLocalityStats {
				if r.metrics > 0 {
					loc.LoadMetricStats = nil
				}
				for _, e := range loc.UpstreamEndpointStats {
					if r.metrics > 0 {
						e.LoadMetricStats = nil
					}
				}
				if r.endpoints > 0 {
					loc.UpstreamEndpointStats = nil
				}
			}
		}
		if !proto.Equal(want, got) {
			t.Errorf("want %v\ngot %v", want, got)
		}
	})
}

// A message of two megabytes that would become a hundred is not decoded.
func TestAMessageOfManyPartsIsNotDecoded(t *testing.T) {
	h, _, _, dial := reports(t, func(a *Admission) { a.Limits.BytesPerSecond, a.Limits.FirstMessage = 1<<30, time.Minute })
	h.penalties.least, h.penalties.address = 0, 0
	publish(t, h, table(1, nil))
	many := &loadstats.LoadStatsRequest{Node: &core.Node{Id: "edge-1"}}
	for range 1 << 20 {
		many.ClusterStats = append(many.ClusterStats, &endpoint.ClusterStats{})
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b, err := proto.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	in := &incoming{message: &reported{LoadStatsRequest: &loadstats.LoadStatsRequest{}, first: true}, limits: &h.Admission.Limits}
	runtime.ReadMemStats(&before)
	if err := in.decode(b); err != nil || in.over != overRequest {
		t.Errorf("%v: %q", err, in.over)
	}
	runtime.ReadMemStats(&after)
	if made := after.TotalAlloc - before.TotalAlloc; made > 64<<10 {
		t.Errorf("%d bytes were allocated", made)
	}

	l := reportsAs(t, dial(), "edge-1", many.ClusterStats...)
	for {
		_, err := l.st.Recv()
		if err == nil {
			continue // it was asked for reports
		}
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "has 1048579 parts") {
			t.Error(err)
		}
		break
	}
	counted(t, h, overRequest, 1)
}

// What is small on the wire and much in memory is read no faster than what is as much on the wire.
func TestPartsCountOfAPeersBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, _, dial := reports(t, func(a *Admission) { a.Limits.BytesPerSecond, a.Limits.ConnectionAge = 64<<10, time.Hour })
		publish(t, h, table(1, nil))
		e := connect(t, dial(), "edge-1", 40)
		e.start("shop", "shop/v1")
		began := time.Now()
		for range 10 { // 80 KB, 40 000 parts
			e.subscribe("evil", make([]string, 4000)...)
		}
		e.subscribe(TypeRoute, "more")
		e.expect(TypeRoute)
		if took, want := time.Since(began), 10*4000*partBytes/(64<<10)*time.Second; took < want-2*time.Second || took > want+2*time.Second {
			t.Errorf("it took %s, want about %s", took, want)
		}
		e.cancel()
		waitSessions(t, h, 0)
	})
}

// Messages that are small on the wire and large in memory, however many arrive at once, are decoded one after the other.
func TestLargeMessagesAreDecodedOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(quietLog())
		h.Admission.Limits.BytesPerSecond = 64 << 10
		as := newAccounts(h)
		hollow := &loadstats.LoadStatsRequest{}
		for range 100_000 {
			hollow.ClusterStats = append(hollow.ClusterStats, &endpoint.ClusterStats{})
		}
		b, err := proto.Marshal(hollow)
		if err != nil {
			t.Fatal(err)
		}
		began, decoded := time.Now(), make(chan time.Duration)
		for range 5 {
			l := as.open(from("10.0.0.66"))
			defer l.Close()
			go func() {
				in := &incoming{message: &reported{LoadStatsRequest: &loadstats.LoadStatsRequest{}}, limits: &h.Admission.Limits, line: l}
				if err := in.decode(b); err != nil || in.over != "" {
					t.Error(err, in.over)
				}
				decoded <- time.Since(began)
			}()
		}
		each := time.Duration(float64(100_000*partBytes-len(b)) / (64 << 10) * float64(time.Second))
		for i := range time.Duration(5) {
			if at, want := <-decoded, (i+1)*each-time.Second; at < want-time.Second/10 || at > want+time.Second/10 {
				t.Errorf("the %dth is decoded after %s, want %s", i+1, at, want)
			}
		}
	})
}

// Whoever raises a limit is not cut off by what follows from it.
func TestPartsFollowFromTheLimits(t *testing.T) {
	limits := DefaultLimits()
	limits.NamesPerType, limits.EndpointsPerReport, limits.MetricsPerReport = 200_000, 200_000, 0
	report := &loadstats.LoadStatsRequest{}
	for i := range limits.NamesPerType {
		cs := loadOf(fmt.Sprintf("svc-%d/v1", i), 1, 0)
		cs.UpstreamLocalityStats[0].Locality = &core.Locality{}
		cs.UpstreamLocalityStats[0].UpstreamEndpointStats = []*endpoint.UpstreamEndpointStats{{TotalIssuedRequests: 1, Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: "10.0.0.1"}}}}}
		report.ClusterStats = append(report.ClusterStats, cs)
	}
	names := make([]string, limits.NamesPerType)
	for i := range names {
		names[i] = fmt.Sprintf("svc-%d/v1", i)
	}
	for _, m := range []proto.Message{report, &discovery.DiscoveryRequest{ResourceNames: names}, &discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names, InitialResourceVersions: versionsOf(names)}} {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		in := &incoming{message: proto.Clone(m), limits: &limits}
		if err := in.decode(b); err != nil || in.over != "" {
			t.Errorf("%T: %v, %v", m, err, in.refused)
		}
	}
}

// A report is read as it is where it is within the limits, also when fields come in an order that Envoy does not write.
func TestAReportInAnyOrderIsRead(t *testing.T) {
	m := samples(t)[0].(*loadstats.LoadStatsRequest)
	node, err := proto.Marshal(&loadstats.LoadStatsRequest{Node: m.Node})
	if err != nil {
		t.Fatal(err)
	}
	stats, err := proto.Marshal(&loadstats.LoadStatsRequest{ClusterStats: m.ClusterStats})
	if err != nil {
		t.Fatal(err)
	}
	limits := DefaultLimits()
	for _, first := range []bool{true, false} {
		for _, b := range [][]byte{bytes.Join([][]byte{node, stats}, nil), bytes.Join([][]byte{stats, node}, nil)} {
			r := &reported{LoadStatsRequest: &loadstats.LoadStatsRequest{}, first: first}
			in := &incoming{message: r, limits: &limits}
			if err := in.decode(b); err != nil || (r.Node != nil) != first || len(r.ClusterStats) != 2 || r.endpoints+r.metrics > 0 {
				t.Errorf("first %t: %v, %v", first, err, r)
			}
		}
	}
	cut := &incoming{message: &reported{LoadStatsRequest: &loadstats.LoadStatsRequest{}}, limits: &limits}
	if err := cut.decode(stats[:len(stats)-1]); err == nil {
		t.Error("a message that ends early was taken")
	}
	if _, n := fieldAt(protowire.AppendTag(nil, 1, protowire.BytesType)); n >= 0 {
		t.Error("a field without a value was read")
	}
}

// A few bytes of a request's headers may become megabytes: there is a limit to what they become.
func TestHeadersAreBounded(t *testing.T) {
	h, _, _, dial := reports(t, nil)
	publish(t, h, table(1, nil))
	c := dial()
	connect(t, c, "edge-1", 40).start("shop", "shop/v1") // the limit is known to the client from here on
	for size, want := range map[int]codes.Code{headerBytes / 2: codes.OK, headerBytes: codes.Internal} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("y", size))
		st, err := discovery.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(ctx)
		if status.Code(err) != want {
			t.Errorf("headers of %d bytes: %v", size, err)
		}
		if err == nil {
			_ = st.CloseSend()
		}
	}
}
