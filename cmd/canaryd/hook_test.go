package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/canaryd/canaryd/internal/web"
)

// fakeDocker has every image, with one digest, and cannot make a container.
func fakeDocker(t *testing.T, digest *atomic.Value) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		w.Header().Set("Content-Type", "application/json")
		switch path := r.URL.Path; {
		case strings.Contains(path, "/images/") && strings.HasSuffix(path, "/json"):
			_ = json.NewEncoder(w).Encode(map[string]any{"Id": "sha256:1", "RepoDigests": []string{"registry.example/shop@" + digest.Load().(string)}})
		case strings.HasSuffix(path, "/containers/json"):
			_, _ = w.Write([]byte("[]"))
		case strings.HasSuffix(path, "/containers/create"):
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"message": "no room"}`))
		}
	}))
	t.Cleanup(srv.Close)
	return "tcp://" + strings.TrimPrefix(srv.URL, "http://")
}

// A registry tells of a push once or more often: of the same image that starts nothing, of another one a new attempt,
// however the last one ended.
func TestAPushOfAnotherImageBeginsAnew(t *testing.T) {
	t.Parallel()
	old, young := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	var digest atomic.Value
	digest.Store(old)
	w := newTown(t, townPolicy+"docker: {image: registry.example/shop, port: 8080, tags: \"v.*\"}\n", fmt.Sprintf("docker: {host: %q, hook_token: s3cret}\n", fakeDocker(t, &digest)))
	push := func(digest string) web.Deployed {
		body := fmt.Sprintf(`{"events": [{"action": "push", "target": {"repository": "shop", "tag": "v2", "digest": %q}, "request": {"host": "registry.example"}}]}`, digest)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+w.web+"/api/v1/hooks/registry", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer s3cret")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var out web.Pushed
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusOK || len(out.Deployed) != 1 {
			t.Fatalf("%d, %v: %+v", resp.StatusCode, err, out)
		}
		return out.Deployed[0]
	}
	runs := func(attempt int, digest string) {
		t.Helper()
		w.until(fmt.Sprintf("attempt %d with %s", attempt, digest), func(s web.Service) bool {
			v := s.Find("v2")
			return v != nil && v.Attempt == attempt && fmt.Sprint(v.Digests) == "["+digest+"]" && strings.Contains(v.Launching+v.Verdict.Reason, "no room")
		})
	}
	if d := push(old); d.Known || d.Refused != "" {
		t.Errorf("the first push: %+v", d)
	}
	runs(1, old)
	if d := push(young); d.Known || !strings.Contains(d.Refused, "runs another image than the one that was pushed") {
		t.Errorf("another image while it is under test: %+v", d)
	}
	w.want("abort shop v2", exitOK, "aborted by hand")
	if d := push(old); !d.Known {
		t.Errorf("the registry repeats itself: %+v", d)
	}
	digest.Store(young)
	if d := push(young); d.Known || d.Refused != "" {
		t.Errorf("another image: %+v", d)
	}
	runs(2, young)
	if d := push(young); !d.Known {
		t.Errorf("the registry repeats itself: %+v", d)
	}
	w.want("history shop", exitOK, "announced again, attempt 2, with registry.example/shop:v2")
}
