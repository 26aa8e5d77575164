package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Versions are found in a file and behind a URL, in Prometheus' formats: they are ramped, they follow their targets, and a
// contradiction is told and changes nothing.
func TestVersionsAreFound(t *testing.T) {
	t.Parallel()
	var targets atomic.Value
	targets.Store("[]")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, targets.Load())
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	s := newScene(t, setting{ramp: "ramp: {steps: [20%, 100%], hold: 1h, canaries: 2}\n", extra: fmt.Sprintf(
		"file_sd_configs: [{files: [%q]}]\nhttp_sd_configs: [{url: %q, refresh_interval: 500ms}]\n", dir+"/*.yml", srv.URL)})
	write := func(text string) {
		// As Prometheus' users do: a new file takes the old one's place.
		tmp := filepath.Join(dir, "new")
		if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, "shop.yml")); err != nil {
			t.Fatal(err)
		}
	}
	v2, again, v3 := s.version("v2"), s.version("v2"), s.version("v3")
	write(fmt.Sprintf("- {targets: [%q], labels: {service: shop, version: v2}}\n- {targets: [\"127.0.0.1:1\"], labels: {job: other}}\n", v2.Address))
	s.until(15*time.Second, "v2 to be ramped", func() bool { v := s.Version("shop", "v2"); return v.Phase == rollout.Canary && v.InForce })
	write(fmt.Sprintf("- {targets: [%q, %q], labels: {service: shop, version: v2}}\n", v2.Address, again.Address))
	s.until(15*time.Second, "v2 to have two endpoints", func() bool { return len(s.Version("shop", "v2").Endpoints) == 2 })
	targets.Store(fmt.Sprintf(`[{"targets": [%q], "labels": {"service": "shop", "version": "v3"}}, {"targets": ["127.0.0.1:1"], "labels": {"service": "shop", "version": "v2"}}]`, v3.Address))
	s.until(15*time.Second, "v3 to be ramped", func() bool { return s.Version("shop", "v3").Phase == rollout.Canary })
	if n := len(s.Version("shop", "v2").Endpoints); n != 2 {
		t.Errorf("the second origin moved v2 to %d endpoints", n)
	}
	if svc, err := s.Service("shop"); err != nil || !strings.Contains(strings.Join(svc.Warnings, "\n"), "name it in one place only") {
		t.Errorf("the contradiction is not told: %q %v", svc.Warnings, err)
	}
	write("[]")
	time.Sleep(2 * time.Second)
	if v := s.Version("shop", "v2"); v.Phase != rollout.Canary || len(v.Endpoints) != 2 {
		t.Errorf("an empty file made v2 %s with %v", v.Phase, v.Endpoints)
	}
	s.tells("shop", "file_sd", "http_sd")
}
