package web

import (
	"bufio"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/canaryd/canaryd/internal/store"
)

// disk is a store that takes nothing while it is full.
type disk struct {
	*store.Bolt
	full atomic.Bool
}

func (d *disk) Save(ws []store.Write) (uint64, error) {
	if d.full.Load() {
		return 0, errors.New("no space left on device")
	}
	return d.Bolt.Save(ws)
}

// What is not stored is answered with 503 and words, an abort with 202: it is carried out all the same.
func TestWhatIsNotStoredIsSaid(t *testing.T) {
	s := newSite(t, "service: shop\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n")
	s.call("PUT", "/api/v1/services/shop/versions/v2", `{"endpoints":["127.0.0.1:2"]}`, 201, "Version")
	s.disk.full.Store(true)
	for _, c := range []struct{ method, path, body, says string }{
		{"PUT", "/api/v1/services/shop/versions/v3", `{"endpoints":["127.0.0.1:3"]}`, "the announcement of v3 is decided but not stored yet (no space left on device)"},
		{"POST", "/api/v1/services/shop/versions/v2/promote", "", "`abort` of a version that has traffic does not wait for the disk"},
	} {
		p := s.call(c.method, c.path, c.body, 503, "Problem")
		if d, _ := p["detail"].(string); !strings.Contains(d, c.says) {
			t.Errorf("%s %s says %q, want %q", c.method, c.path, d, c.says)
		}
	}
	v := s.call("POST", "/api/v1/services/shop/versions/v3/abort", "", 202, "Version")
	if v["stored"] != false || v["phase"] != "aborted" {
		t.Errorf("%v", v)
	}
	svc := s.call("GET", "/api/v1/services/shop", "", 200, "Service")
	for _, v := range svc["versions"].([]any) {
		if v.(map[string]any)["stored"] != false {
			t.Errorf("GET says nothing of it: %v", v)
		}
	}
	if ws, _ := svc["warnings"].([]any); len(ws) == 0 || !strings.Contains(ws[0].(string), "the history is not being written: no space left") {
		t.Errorf("warnings: %v", svc["warnings"])
	}
	s.disk.full.Store(false)
}

// A listener that comes back names the last event that it got, and gets what followed.
func TestEventsGoOnAfterTheLastOne(t *testing.T) {
	s := newSite(t, "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n")
	for _, v := range []string{"v2", "v3", "v4"} {
		s.call("PUT", "/api/v1/services/shop/versions/"+v, `{"endpoints":["127.0.0.1:2"]}`, 201, "Version")
	}
	listen := func(after string, n int) (ids, versions []string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Last-Event-ID", after)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); len(versions) < n && lines.Scan(); {
			if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				ids = append(ids, id)
			}
			if _, data, ok := strings.Cut(lines.Text(), `"version":"`); ok {
				v, _, _ := strings.Cut(data, `"`)
				versions = append(versions, v)
			}
		}
		return ids, versions
	}
	ids, all := listen("0", 4)
	_, rest := listen(ids[1], 2)
	if strings.Join(all, " ") != "v1 v2 v3 v4" || strings.Join(rest, " ") != "v3 v4" {
		t.Errorf("%v, after %s: %v", all, ids[1], rest)
	}
	req, _ := http.NewRequest("GET", s.URL+"/api/v1/events", nil)
	req.Header.Set("Last-Event-ID", "yesterday")
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != 422 {
		t.Errorf("%v %v", resp, err)
	}
}
