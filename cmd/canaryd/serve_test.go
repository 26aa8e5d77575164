package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
)

// startDaemon runs `canaryd serve` until the test ends; it returns the API's address.
func startDaemon(t *testing.T, config string) string {
	t.Helper()
	dir, addr := t.TempDir(), rig.FreeAddress()
	for name, text := range map[string]string{
		"canaryd.yml": config,
		"shop.yml":    "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var out bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, []string{"serve", "--config.file=" + filepath.Join(dir, "canaryd.yml"), "--log.level=error",
			"--web.listen-address=" + addr, "--xds.listen-address=127.0.0.1:0"}, strings.NewReader(""), &out, &out)
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-ended; code != exitOK {
			t.Errorf("the daemon ended with %d: %s", code, &out)
		}
	})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if code, _, _ := runCLI(t, "", "healthcheck", "--url", "http://"+addr); code == exitOK {
			return addr
		}
	}
	t.Fatal("the daemon does not answer")
	return ""
}

func TestTheDaemonAnswersItsOwnClientsAndNoForeignPage(t *testing.T) {
	addr := startDaemon(t, "policies: [shop.yml]\nweb: {hosts: [canaryd.example.com]}\n")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{"healthcheck --url http://" + addr, exitOK, "ready", ""},
		{"healthcheck --url http://LOCALHOST:" + port, exitOK, "ready", ""},
		{"status --url http://localhost:" + port, exitOK, "shop", ""},
		{"deploy shop v2 --endpoint 127.0.0.1:2 --url http://" + addr, exitOK, "v2", ""},
		{"abort shop v2 --url http://localhost:" + port, exitOK, "v2", ""},
		{"promote shop v1 --url http://" + addr, exitError, "", "is stable already"},
		{"deploy shop v3 --endpoint 127.0.0.1:3 --url http://" + addr, exitOK, "shop v3: warming at 0%, not in force yet", ""},
		{"abort shop --wait --timeout 300ms --url http://" + addr, exitUndecided, "shop v3: not in force yet, aborted at 0%. aborted: aborted by hand", "canaryd envoys shop"},
		{"abort shop v1 --url http://" + addr, exitError, "", "no trusted version answers to take its place"},
		{"status --url http://" + addr, exitOK, "shop: no Envoy yet, 0 requests/s", ""},
	} {
		code, out, errOut := runCLI(t, "", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.stdout) || !strings.Contains(errOut, c.stderr) {
			t.Errorf("canaryd %s: exit %d (want %d)\nstdout: %s\nstderr: %s", c.args, code, c.code, out, errOut)
		}
	}
	for host, want := range map[string]int{"canaryd.example.com": 200, "rebound.evil.example": 403} {
		if got := reload(t, addr, host, ""); got != want {
			t.Errorf("Host %s: %d, want %d", host, got, want)
		}
	}
	if got := reload(t, addr, addr, "https://evil.example"); got != 403 {
		t.Errorf("a page of another site: %d", got)
	}
}

func reload(t *testing.T, addr, host, origin string) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/-/reload", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
