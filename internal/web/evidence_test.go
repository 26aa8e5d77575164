package web

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/journal"
)

func TestEvidenceAndJournal(t *testing.T) {
	s := newSite(t, "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\nroute: {probe: \"off\"}\nramp: {steps: [10%, 100%]}\n")
	v := "/api/v1/services/shop/versions/"
	s.call("PUT", v+"v2", `{"endpoints": ["127.0.0.1:2"]}`, 201, "Version")
	var e map[string]any
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if e = s.call("GET", v+"v2/evidence", "", 200, "Evidence"); len(e["buckets"].([]any)) > 0 {
			break
		}
	}
	buckets := e["buckets"].([]any)
	if len(buckets) == 0 || buckets[0].(map[string]any)["decisions"] == nil {
		t.Fatalf("%v", e)
	}
	future := "2031-01-01T00:00:00Z"
	s.call("GET", v+"v2/evidence?from=2026-01-01T00:00:00Z&to="+future+"&step=1d", "", 200, "Evidence")
	for path, status := range map[string]int{
		v + "v9/evidence":               404,
		v + "v2/evidence?step=0s":       422,
		v + "v2/evidence?step=fast":     422,
		v + "v2/evidence?from=noon":     422,
		v + "v2/evidence?to=1234567890": 422,
		v + "v2/evidence?from=2031-01-01T00:00:00Z&to=2030-01-01T00:00:00Z":         422,
		v + "v2/evidence?from=2001-01-01T00:00:00Z&to=2031-01-01T00:00:00Z&step=1s": 422,
		"/api/v1/services/nosuch/versions/v1/evidence":                              404,
		"/api/v1/services/nosuch/journal":                                           404,
		"/api/v1/services/shop/journal?from=x":                                      422,
	} {
		s.call("GET", path, "", status, "Problem")
	}
	resp, err := http.Get(s.URL + "/api/v1/services/shop/journal")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stream := bufio.NewReader(resp.Body)
	rd, err := journal.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	for chunks := 0; ; chunks++ {
		parts, err := journal.ReadFrame(stream)
		if err != nil {
			t.Fatal(err)
		}
		if len(parts) == 0 {
			if chunks == 0 {
				t.Error("no chunk is there")
			}
			return
		}
		if c, err := rd.Read(parts); err != nil || c.Service != "shop" {
			t.Errorf("%+v %v", c.Header, err)
		}
	}
}

// stuck is a client that does not read.
type stuck struct {
	http.ResponseWriter
	release chan struct{}
}

func (s stuck) Write([]byte) (int, error) {
	<-s.release
	return 0, io.ErrClosedPipe
}

// Clients that do not read what they asked for keep nobody else from it.
func TestPlotsDoNotWaitForThoseWhoDoNotRead(t *testing.T) {
	s := newSite(t, "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n")
	get := func(w http.ResponseWriter) {
		r := httptest.NewRequest("GET", "/api/v1/services/shop/versions/v1/evidence", nil)
		r.Host = s.Listener.Addr().String()
		s.Config.Handler.ServeHTTP(w, r)
	}
	release, ended := make(chan struct{}), make(chan struct{})
	for range maxReaders {
		go func() { get(stuck{httptest.NewRecorder(), release}); ended <- struct{}{} }()
	}
	time.Sleep(500 * time.Millisecond)
	w := httptest.NewRecorder()
	if get(w); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	close(release)
	for range maxReaders {
		<-ended
	}
}
