package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
	"github.com/canaryd/canaryd/internal/world"
)

// town is a daemon with an Envoy, seen from the command line. v3 fails half of its requests.
type town struct {
	t        *testing.T
	dir      string
	web, xds string
	stop     func()
	envoy    *world.Envoy
}

const townPolicy = `service: shop
route: {probe: "off"}
versions: [{version: v1, endpoints: ["127.0.0.1:1"], stable: true}]
ramp: {steps: [50%, 100%], hold: 1s}
judge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 5%}}
after_promotion: {watch: 10m}
`

func newTown(t *testing.T, policy string, config ...string) *town {
	w := foundTown(t, policy, config...)
	w.envoy = w.join(world.Traffic{Service: "shop", PerSecond: 2000, ErrorRate: func(v string, _ time.Time) float64 {
		return map[string]float64{"v3": 0.5}[v]
	}})
	w.until("v1 in force", func(s web.Service) bool { return len(s.Versions) == 1 && s.Versions[0].InForce })
	return w
}

// foundTown is a daemon without Envoys.
func foundTown(t *testing.T, policy string, config ...string) *town {
	w := &town{t: t, dir: t.TempDir(), web: rig.FreeAddress(), xds: rig.FreeAddress()}
	w.write("canaryd.yml", "policies: [\"*.policy\"]\nmetrics: {interval: 100ms}\n"+strings.Join(config, ""))
	w.write("shop.policy", policy)
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// join lets an Envoy of a service in.
func (w *town) join(traffic world.Traffic) *world.Envoy {
	return w.joinUntil(context.Background(), traffic)
}

// joinUntil lets one in that leaves when a context ends.
func (w *town) joinUntil(ctx context.Context, traffic world.Traffic) *world.Envoy {
	conn, err := grpc.NewClient("passthrough:///"+w.xds, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	envoy := world.NewEnvoy("edge-"+traffic.Service, 1, traffic)
	go func() { envoy.Run(ctx, conn); close(ended) }()
	w.t.Cleanup(func() { cancel(); <-ended; _ = conn.Close() })
	return envoy
}

func (w *town) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// start runs the daemon on what it stored.
func (w *town) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var out bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, []string{"serve", "--config.file=" + filepath.Join(w.dir, "canaryd.yml"), "--log.level=error", "--web.listen-address=" + w.web,
			"--xds.listen-address=" + w.xds, "--storage.path=" + filepath.Join(w.dir, "data")}, strings.NewReader(""), &out, &out)
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if code := <-ended; code != exitOK {
			w.t.Errorf("the daemon ended with %d: %s", code, &out)
		}
	})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if code, _, _ := w.say("", "healthcheck"); code == exitOK {
			return
		}
	}
	w.t.Fatal("the daemon does not answer")
}

func (w *town) say(stdin string, args ...string) (code int, stdout, stderr string) {
	return w.sayWithin(context.Background(), stdin, args...)
}

func (w *town) sayWithin(ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string) {
	var o, e bytes.Buffer
	code = execute(ctx, append(args, "--url", "http://"+w.web), strings.NewReader(stdin), &o, &e)
	return code, o.String(), e.String()
}

// paper keeps what is printed; written is called after each write.
type paper struct {
	mu      sync.Mutex
	text    bytes.Buffer
	written func()
}

func (p *paper) Write(b []byte) (int, error) {
	if p.written != nil {
		defer p.written()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *paper) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// want says something and checks the exit code and what is printed, on stdout and, after a |, on stderr.
func (w *town) want(command string, code int, printed string) {
	w.t.Helper()
	got, out, errOut := w.say("", strings.Fields(command)...)
	onOut, onErr, _ := strings.Cut(printed, "|")
	if got != code || !strings.Contains(out, onOut) || !strings.Contains(errOut, onErr) {
		w.t.Errorf("canaryd %s: exit %d, want %d and %q\nstdout: %s\nstderr: %s", command, got, code, printed, out, errOut)
	}
}

func (w *town) service() web.Service {
	s, err := (&client{base: "http://" + w.web}).service(context.Background(), "shop")
	if err != nil {
		w.t.Log(err)
	}
	return s
}

func (w *town) until(what string, f func(web.Service) bool) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if f(w.service()) {
			return
		}
	}
	w.t.Fatalf("%s: not within a minute: %+v", what, w.service())
}

func (w *town) phase(version string, p rollout.Phase) {
	w.t.Helper()
	w.until(version+" "+string(p), func(s web.Service) bool { v := s.Find(version); return v != nil && v.Phase == p && v.InForce })
}

// serves checks what the Envoy really does.
func (w *town) serves(want string) {
	w.t.Helper()
	w.until("the Envoy serves "+want, func(web.Service) bool { return fmt.Sprint(w.envoy.Weights()) == want })
}

// CI deploys, the day after it deploys the tag of the day before, and a bad one; each answer is about what it started.
func TestDeployAnswersForItsOwnAttempt(t *testing.T) {
	t.Parallel()
	w := newTown(t, townPolicy)
	w.want("deploy shop v2 --endpoint 127.0.0.1:2 --wait", exitOK, "shop v2: stable. proven at 50%|v2 canary weight 50%, step 1 of 2")
	w.want("deploy shop v2 --endpoint 127.0.0.1:2 --wait", exitOK, "shop v2: stable.|v2 is known and stable: its attempt 1 goes on")
	w.serves("map[v2:10000]")

	w.want("deploy shop v1 --endpoint 127.0.0.1:1 --wait", exitOK, "shop v1: stable. proven at 50%|attempt 2 of v1 begins, judged like a new release; to send everything to it at once: canaryd promote shop v1")
	w.serves("map[v1:10000]")
	w.want("wait shop v1", exitOK, "shop v1: stable.")
	w.want("wait shop v2", exitSuperseded, "shop v2: warm.|another version took its place since")

	w.want("deploy shop v3 --endpoint 127.0.0.1:3 --wait", exitRolledBack, "shop v3: failed. error rate")
	for _, more := range []string{"", " --wait", " --wait --timeout 1s"} {
		w.want("deploy shop v3 --endpoint 127.0.0.1:3"+more, exitRolledBack, "Nothing was started: this is how attempt 1 ended. Try: --again starts another")
	}
	w.want("deploy shop v3 --endpoint 127.0.0.1:3 -o json", exitRolledBack, `"phase": "failed"|--again`)
	w.want("deploy shop v3 --again --wait", exitRolledBack, "shop v3: failed.|attempt 2 of v3 begins")
	w.serves("map[v1:10000]")

	w.want("deploy shop v4 --endpoint 127.0.0.1:4 --paused --wait --timeout 1s", exitUndecided, "shop v4: undecided, paused at 0%. paused: paused by hand|the rollout goes on. Try: canaryd wait shop v4")
	w.want("wait shop v4 --timeout 300ms -o json", exitUndecided, `"phase": "paused"`)
	ctx, interrupt := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, interrupt) // Ctrl-C
	if code, out, errOut := w.sayWithin(ctx, "", "wait", "shop", "v4"); code != exitUndecided || !strings.Contains(out, "shop v4: undecided") || !strings.Contains(errOut, "the rollout goes on") {
		t.Errorf("Ctrl-C: exit %d\n%s\n%s", code, out, errOut)
	}
	w.want("abort shop --wait", exitOK, "shop v4: aborted. aborted by hand")
	w.want("wait shop v4", exitAborted, "shop v4: aborted. aborted by hand")
	w.want("deploy shop v4 --endpoint 127.0.0.1:4", exitAborted, "aborted by hand. Nothing was started")

	w.want("deploy shop v5 --endpoint 127.0.0.1:5 --paused", exitOK, "shop v5: paused at 0%")
	w.want("deploy shop v6 --endpoint 127.0.0.1:6 --wait", exitOK, "shop v6: stable.")
	w.want("wait shop v5", exitSuperseded, "shop v5: superseded. v6 was promoted first")
	w.want("wait shop v9", exitError, "|service shop has no version v9")
	w.want("deploy shop v5 --wait", exitOK, "shop v5: stable.|attempt 2 of v5 begins")
}

// What a person says at 3 a.m. is in force when it answers, and says what it could mean.
func TestCommandsWaitUntilTheyAreInForce(t *testing.T) {
	t.Parallel()
	w := newTown(t, strings.Replace(townPolicy, "hold: 1s", "hold: 1h", 1)) // nothing happens but what is said
	w.want("abort shop", exitError, "|service shop has no canary to abort")
	w.want("deploy shop v2 --endpoint 127.0.0.1:2", exitOK, "shop v2: ")
	w.want("promote shop --wait", exitOK, "shop v2: stable. promoted by hand")
	w.want("abort shop", exitError, "|`canaryd abort shop v2` sends everything to v1; `canaryd promote shop v1` sends everything to v1 (warm, at 127.0.0.1:1)")
	w.want("deploy shop v3 --endpoint 127.0.0.1:3 --wait", exitRolledBack, "failed")
	w.want("promote shop v3", exitError, "|version v3 is failed: error rate")
	w.want("promote shop v3 --even-failed --wait --timeout 1m", exitOK, "shop v3: stable. promoted by hand")
	w.serves("map[v3:10000]")
	w.want("status shop", exitOK, "by_hand: promoted by hand")
	w.want("promote shop v2 --wait", exitOK, "shop v2: stable. promoted by hand")
	w.serves("map[v2:10000]")
	w.want("wait shop v3", exitAborted, "replaced by hand by the older version v2")

	w.want("deploy shop v4 --endpoint 127.0.0.1:4 --paused", exitOK, "paused")
	w.want("resume shop --wait", exitOK, "shop v4: ")
	w.phase("v4", rollout.Canary)
	w.want("pause shop --wait", exitOK, "shop v4: paused. paused by hand at 50%")
	w.serves("map[v2:5000 v4:5000]")
	w.want("deploy shop v5 --endpoint 127.0.0.1:5 --paused", exitOK, "v5: ")
	w.want("abort shop", exitError, "|service shop has several canaries: name the version: `canaryd abort shop v4` sends its 50% to v2; `canaryd abort shop v5` ends it (")
	w.want("abort shop v4 --wait", exitOK, "shop v4: aborted. aborted by hand")
	w.serves("map[v2:10000]")
	w.want("promote shop v5 --wait -o json", exitOK, `"code": "by_hand"`)
	w.want("resume shop", exitError, "|service shop has no canary to resume")
}

// What announced a release loses the answer, is told that it is not stored yet, and finds nobody: with --wait it says it
// again, and the release begins once.
func TestAnAnnouncementIsSaidAgain(t *testing.T) {
	t.Parallel()
	w := newTown(t, townPolicy)
	behind := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: w.web})
	var puts atomic.Int32
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			switch puts.Add(1) {
			case 1:
				behind.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler) // the connection breaks
			case 2:
				http.Error(rw, "not stored yet", http.StatusServiceUnavailable)
				return
			}
		}
		behind.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	var out, errOut bytes.Buffer
	code := execute(t.Context(), []string{"deploy", "shop", "v2", "--endpoint", "127.0.0.1:2", "--wait", "--timeout", "1m", "--url", front.URL}, strings.NewReader(""), &out, &errOut)
	if code != exitOK || puts.Load() != 3 || !strings.Contains(out.String(), "shop v2: stable.") || strings.Count(errOut.String(), "Announcing it again") != 1 {
		t.Errorf("exit %d after %d announcements\n%s\n%s", code, puts.Load(), &out, &errOut)
	}
	s := w.service()
	if v := s.Find("v2"); v.Attempt != 1 {
		t.Errorf("it began %d attempts", v.Attempt)
	}
	puts.Store(0)
	errOut.Reset()
	code = execute(t.Context(), []string{"deploy", "shop", "v3", "--endpoint", "127.0.0.1:3", "--url", front.URL}, strings.NewReader(""), &out, &errOut)
	if code != exitError || !strings.Contains(errOut.String(), "EOF") {
		t.Errorf("without --wait: exit %d: %s", code, &errOut)
	}
}

// Whoever waits or watches does so over a restart of the daemon, and not where there never was one.
func TestWaitingOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	w := newTown(t, townPolicy)
	type said struct {
		code        int
		out, errOut string
	}
	waits, watches := make(chan said, 1), make(chan said, 1)
	deployed, progress := &paper{}, &paper{}
	go func() {
		args := []string{"deploy", "shop", "v2", "--endpoint", "127.0.0.1:2", "--paused", "--wait", "--timeout", "2m", "--url", "http://" + w.web}
		code := execute(t.Context(), args, strings.NewReader(""), deployed, progress)
		waits <- said{code, deployed.String(), progress.String()}
	}()
	ctx, done := context.WithCancel(t.Context())
	shown, talk := &paper{}, &paper{}
	go func() {
		code := execute(ctx, []string{"status", "-w", "--url", "http://" + w.web}, strings.NewReader(""), shown, talk)
		watches <- said{code, shown.String(), talk.String()}
	}()
	w.until("both show the pause", func(web.Service) bool {
		return strings.Contains(shown.String(), " paused ") && strings.Contains(progress.String(), " paused ")
	})
	w.stop()
	time.Sleep(1200 * time.Millisecond)
	w.start()
	w.want("resume shop", exitOK, "v2")
	r := <-waits
	away := strings.Count(r.errOut, "canaryd does not answer") + strings.Count(r.errOut, "Announcing it again") // it ended before it answered the announcement
	if r.code != exitOK || !strings.Contains(r.out, "shop v2: stable.") || away != 1 {
		t.Errorf("deploy --wait: exit %d\n%s\n%s", r.code, r.out, r.errOut)
	}
	w.until("status -w shows the promotion", func(web.Service) bool { return strings.Contains(shown.String(), "proven at 50%") })
	done()
	if r := <-watches; r.code != exitOK || !strings.Contains(r.out, " paused ") || !strings.Contains(r.out, "proven at 50%") || !strings.Contains(r.errOut, "canaryd does not answer") {
		t.Errorf("status -w: exit %d\n%s\n%s", r.code, r.out, r.errOut)
	}

	w.want("remove shop", exitError, "|Type the name of the service to remove it: canaryd: shop was not removed")
	w.want("remove shop --yes", exitError, "|still has a policy: remove the policy first")
	if err := os.Remove(filepath.Join(w.dir, "shop.policy")); err != nil {
		t.Fatal(err)
	}
	w.until("orphaned", func(s web.Service) bool { return s.Orphaned })
	if code, out, errOut := w.say("shop\n", "remove", "shop"); code != exitOK || out != "shop is removed\n" || !strings.Contains(errOut, "shop serves v2 to 1 of 1 Envoys") {
		t.Errorf("remove: exit %d\n%s\n%s", code, out, errOut)
	}
	w.want("status shop", exitError, "|there is no service shop")

	begin := time.Now()
	for _, command := range []string{"wait shop v1", "status -w", "deploy shop v1 --endpoint 127.0.0.1:1 --wait"} {
		var o, e bytes.Buffer
		code := execute(t.Context(), append(strings.Fields(command), "--url", "http://"+rig.FreeAddress()), strings.NewReader(""), &o, &e)
		if code != exitError || !strings.Contains(e.String(), "no canaryd answers at") || time.Since(begin) > 20*time.Second {
			t.Errorf("canaryd %s: exit %d after %s\n%s", command, code, time.Since(begin), &e)
		}
	}
}

func listen(t *testing.T, at string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}
