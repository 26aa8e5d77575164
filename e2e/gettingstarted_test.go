package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
)

// docs/getting-started.md as it is written, block after block: with directories and ports of its own, and without what needs
// root. Users are there from the moment when Envoy answers, and see no error but v3's.
func TestGettingStartedAsItIsWritten(t *testing.T) {
	t.Parallel()
	g := newGuide(t)
	front := "https://" + g.ports["8443"] + "/"
	var failed, answered atomic.Int64
	for _, b := range g.blocks(t) {
		if b.file != "" {
			g.write(t, b)
			continue
		}
		for line := range strings.Lines(b.text) {
			g.run(t, strings.TrimSuffix(line, "\n"))
		}
		if strings.Contains(b.text, "canaryd check") { // what follows it in the text is systemd's
			g.serve(t)
		}
		if strings.Contains(b.text, "--config-yaml") {
			client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
			if err := rig.WaitFor(t.Context(), 30*time.Second, "an answer over TLS", func() bool { return answer(client, front) == http.StatusOK }); err != nil {
				t.Fatalf("%v\n%s", err, g.envoy.Tail())
			}
			for range 4 {
				go func() {
					for t.Context().Err() == nil {
						if answered.Add(1); answer(client, front) != http.StatusOK {
							failed.Add(1)
						}
						time.Sleep(15 * time.Millisecond)
					}
				}()
			}
		}
	}
	if n, bad := answered.Load(), failed.Load()-int64(g.services["9003"].Count().Failed); n < 1000 || bad > 0 {
		t.Errorf("of %d requests %d failed that v3 did not fail", n, bad)
	}
	if n := g.services["9003"].Count().Failed; n == 0 {
		t.Error("v3 failed nothing")
	}
}

func answer(client *http.Client, url string) int {
	resp, err := client.Get(url)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// guide is the document, and where it takes place here.
type guide struct {
	dir      string
	ports    map[string]string // in the document: address here
	services map[string]*rig.Service
	envoy    *rig.Process
}

func newGuide(t *testing.T) *guide {
	g := &guide{dir: t.TempDir(), ports: map[string]string{}, services: map[string]*rig.Service{}}
	for _, port := range []string{"8443", "8080", "18000", "9901"} {
		g.ports[port] = rig.FreeAddress()
	}
	for i, port := range []string{"9001", "9002", "9003"} {
		s, err := rig.NewService(fmt.Sprintf("v%d", i+1), rig.FreeAddress())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		g.services[port], g.ports[port] = s, s.Address
	}
	g.services["9003"].Fail(0.5)
	for _, d := range []string{"canaryd/policies", "envoy"} {
		if err := os.MkdirAll(filepath.Join(g.dir, d), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// here is a text with the directories and ports of this run.
func (g *guide) here(text string) string {
	text = strings.ReplaceAll(text, "/etc/", g.dir+"/")
	for port, address := range g.ports {
		host, free, _ := strings.Cut(address, ":")
		text = strings.ReplaceAll(text, "127.0.0.1:"+port, host+":"+free)
		text = strings.ReplaceAll(text, "port_value: "+port, "port_value: "+free)
	}
	return text
}

// block is a fenced one: a file, or commands.
type block struct{ file, text string }

// blocks are all of the document but those that say why they are not run.
func (g *guide) blocks(t *testing.T) (bs []block) {
	data, err := os.ReadFile("../docs/getting-started.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)(<!-- not run: [^\n]* -->\n)?```([a-z]+)[a-z ]*\n(.*?)```").FindAllStringSubmatch(string(data), -1) {
		b := block{text: m[3]}
		if first, _, _ := strings.Cut(m[3], "\n"); m[2] == "yaml" {
			b.file = strings.TrimPrefix(first, "# ")
		}
		if m[1] == "" {
			bs = append(bs, b)
		}
	}
	if len(bs) < 9 {
		t.Fatalf("only %d blocks", len(bs))
	}
	return bs
}

func (g *guide) write(t *testing.T, b block) {
	t.Helper()
	if err := os.WriteFile(g.here(b.file), []byte(g.here(b.text)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run says a line to a shell. Its exit code is 0, or what it says behind `# exit`.
func (g *guide) run(t *testing.T, line string) {
	t.Helper()
	want := 0
	if m := regexp.MustCompile(`# exit (\d+)$`).FindStringSubmatch(line); m != nil {
		want, _ = strconv.Atoi(m[1])
	}
	line = g.here(line)
	line = strings.Replace(line, "canaryd bootstrap", "canaryd bootstrap --xds "+g.ports["18000"]+" --admin "+g.ports["9901"], 1)
	if strings.HasPrefix(line, "envoy ") {
		p, err := rig.Start(g.dir, "envoy", "bash", "-c", "exec "+part(t, "envoy-newest")+strings.TrimSuffix(strings.TrimPrefix(line, "envoy"), "&")+" --concurrency 2 --disable-hot-restart -l warning")
		if err != nil {
			t.Fatal(err)
		}
		g.envoy = p
		t.Cleanup(p.Kill)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-c", line)
	c.Env = append(os.Environ(), "PATH="+filepath.Dir(part(t, "canaryd"))+":"+os.Getenv("PATH"), "CANARYD_URL=http://"+g.ports["8080"])
	out, err := c.CombinedOutput()
	t.Logf("%s\n%s", line, out)
	if code := c.ProcessState.ExitCode(); code != want {
		t.Fatalf("exit %d, want %d (%v)", code, want, err)
	}
}

// serve starts canaryd as the unit does.
func (g *guide) serve(t *testing.T) {
	t.Helper()
	p, err := rig.Start(g.dir, "canaryd", part(t, "canaryd"), "serve", "--config.file="+g.dir+"/canaryd/canaryd.yml", "--storage.path="+g.dir+"/data",
		"--web.listen-address="+g.ports["8080"], "--xds.listen-address="+g.ports["18000"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	if err := rig.WaitFor(t.Context(), 30*time.Second, "canaryd to be ready", func() bool { return rig.Answers("http://" + g.ports["8080"] + "/-/ready") }); err != nil {
		t.Fatalf("%v\n%s", err, p.Tail())
	}
}
