package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// icyDisk is a file system of a test's own that can be frozen: whoever writes to it waits, and not even
// kill -9 ends that.
type icyDisk struct {
	t          *testing.T
	dir, image string
	guard      *exec.Cmd
	test       io.Closer   // the guard's input
	bound      *time.Timer // thaws it whatever the test waits for
}

const frozenMost = 10 * time.Minute

func newIcyDisk(t *testing.T) *icyDisk {
	t.Helper()
	top := t.TempDir()
	d := &icyDisk{t: t, dir: filepath.Join(top, "disk"), image: filepath.Join(top, "image")}
	if err := os.Mkdir(d.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 16<<20); err != nil {
		t.Fatal(err)
	}
	d.do("mkfs.ext4", "-q", "-F", "-m", "0", d.image)
	d.watch()
	d.mount()
	return d
}

func (d *icyDisk) do(program string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(part(d.t, program), args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s (the test needs root and loop devices): %v: %s", program, err, out)
	}
}

// mount has what is written take its room at once, not some time later.
func (d *icyDisk) mount() { d.t.Helper(); d.do("mount", "-o", "loop,nodelalloc", d.image, d.dir) }

// forget makes the next look at any file one that has to read the disk, as after a restart of the machine.
func (d *icyDisk) forget() { d.t.Helper(); d.do("umount", d.dir); d.mount() }

func (d *icyDisk) freeze() {
	d.t.Helper()
	d.do("fsfreeze", "-f", d.dir)
	d.bound = time.AfterFunc(frozenMost, func() { _ = exec.Command("fsfreeze", "-u", d.dir).Run() })
}

func (d *icyDisk) thaw() {
	d.t.Helper()
	if !d.bound.Stop() {
		d.t.Fatalf("frozen for %s, which is the most", frozenMost)
	}
	d.do("fsfreeze", "-u", d.dir)
}

// watch starts what thaws and unmounts the disk when the test is over, even if the test is killed: its input ends then.
// The loop device goes with the mount.
func (d *icyDisk) watch() {
	d.t.Helper()
	d.guard = exec.Command("/bin/sh", "-c", `read -r _; fsfreeze -u "$1" 2>/dev/null; umount -l "$1"`, "guard", d.dir)
	d.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := d.guard.StdinPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.guard.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.test = in
	d.t.Cleanup(func() {
		_ = d.test.Close()
		if err := d.guard.Wait(); err != nil {
			d.t.Errorf("the disk is still mounted: %v", err)
		}
	})
}

// winter is a scene whose canaryd has its files on an icy disk, with two Envoys under load.
type winter struct {
	*scene
	disk   *icyDisk
	admins []string
	loads  []*rig.Load
}

// newWinter has all of canaryd's files on the disk, its log among them; with onlyDatabase the others lie elsewhere.
func newWinter(t *testing.T, set setting, rate int, onlyDatabase bool) *winter {
	t.Helper()
	w := &winter{disk: newIcyDisk(t)}
	if onlyDatabase {
		set.extra += fmt.Sprintf("storage: {path: %q}\n", w.disk.dir)
	} else {
		set.home = w.disk.dir
	}
	w.scene = newScene(t, set)
	t.Cleanup(func() { _ = exec.Command("fsfreeze", "-u", w.disk.dir).Run() }) // or canaryd would not end; mostly it is thawed
	w.admins = append(w.admins, w.admin)
	w.loads = append(w.loads, w.load(rate))
	l := &rig.Load{URL: "http://" + w.sidecar("sidecar-1") + "/", Rate: rate}
	l.Start(context.WithoutCancel(t.Context()))
	t.Cleanup(func() { l.Stop() })
	w.loads = append(w.loads, l)
	return w
}

// sidecar starts another Envoy, which has a listener of its own, and waits for its first answer.
func (w *winter) sidecar(name string) (listener string) {
	w.t.Helper()
	own := rig.FreeAddress()
	_, admin, err := w.StartEnvoy(w.t.Context(), name, "sidecars", func(b string) string {
		return strings.Replace(b, "static_resources:\n", ownListener(own), 1)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.admins = append(w.admins, admin)
	w.until(20*time.Second, "an answer through "+name, func() bool { return rig.Answers("http://" + own + "/") })
	return own
}

// canary brings a new version to its first step.
func (w *winter) canary(name string) *rig.Service {
	w.t.Helper()
	v := w.version(name)
	w.run(0, w.deploy(v)...)
	w.until(30*time.Second, name+" to be in force at 10 %", func() bool {
		now := w.Version("shop", name)
		return now.InForce && now.Weight == 0.1 && v.Count().Requests > 20
	})
	return v
}

// fail has a version answer 500 from now on, waits until nothing reaches it any more, and returns what it has served.
func (w *winter) fail(v *rig.Service, most time.Duration) rig.Served {
	w.t.Helper()
	v.Fail(1)
	w.phase(v.Version, most, rollout.Failed)
	w.until(most, "no request to reach "+v.Version, func() bool { return time.Since(v.Count().Last) > time.Second })
	return v.Count()
}

// stillCut checks that nothing has reached a version since.
func (w *winter) stillCut(v *rig.Service, cut rig.Served, when string) {
	w.t.Helper()
	if now := v.Count(); now.Requests != cut.Requests {
		w.t.Errorf("%s: %d requests reached %s after it was cut", when, now.Requests-cut.Requests, v.Version)
	}
}

// warned reports whether status warns of something.
func (w *winter) warned(of string) bool {
	svc, err := w.Service("shop")
	return err == nil && strings.Contains(strings.Join(svc.Warnings, "\n"), of)
}

// restart starts canaryd again and waits until both Envoys are back.
func (w *winter) restart() {
	w.t.Helper()
	if err := w.StartDaemon(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.until(60*time.Second, "the Envoys to be back", func() bool {
		svc, err := w.Service("shop")
		return err == nil && svc.Envoys.Applied == len(w.admins)
	})
}

// routes is what the Envoys themselves say about the routes that they use.
func (w *winter) routes() string {
	w.t.Helper()
	var b strings.Builder
	for _, admin := range w.admins {
		_, dump := get(w.t, "http://"+admin+"/config_dump?resource=dynamic_route_configs&mask=version_info,route_config.name")
		b.WriteString(dump)
	}
	return b.String()
}

// sent adds up what the loads have seen.
func (w *winter) sent() (requests, failed int, detail string) {
	for _, l := range w.loads {
		c := l.Count()
		requests, failed, detail = requests+c.Requests, failed+c.Failed, detail+"; "+c.String()
	}
	return requests, failed, strings.TrimPrefix(detail, "; ")
}

// usersSawOnly ends the load: no request may have failed but those that a version itself answered with 500. The versions
// also answer what the test asks on its own.
func (w *winter) usersSawOnly(vs ...*rig.Service) {
	w.t.Helper()
	made := 0
	for _, l := range w.loads {
		l.Stop()
	}
	for _, v := range vs {
		made += v.Count().Failed
	}
	_, failed, detail := w.sent()
	w.t.Logf("%d requests failed, %d of them versions' own 500s; %s", failed, made, detail)
	if failed > made {
		w.t.Errorf("users saw %d failures beyond the versions' own", failed-made)
	}
}

// told is a record as somebody was told of it.
type told struct {
	ID      string       `json:"-"`
	At      time.Time    `json:"at"`
	Version string       `json:"version"`
	Kind    rollout.Kind `json:"event"`
}

// ear keeps what it is told.
type ear struct {
	mu   sync.Mutex
	told []told
}

func (e *ear) hear(x told) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = append(e.told, x)
}

func (e *ear) all() []told {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.told)
}

// of returns what it was told of a version.
func (e *ear) of(version string, kind rollout.Kind) (told, bool) {
	all := e.all()
	i := slices.IndexFunc(all, func(x told) bool { return x.Version == version && x.Kind == kind })
	if i < 0 {
		return told{}, false
	}
	return all[i], true
}

// webhook is told what canaryd notifies.
func webhook(t *testing.T) (*ear, string) {
	e := &ear{}
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var x told
		if err := json.NewDecoder(r.Body).Decode(&x); err != nil {
			t.Errorf("a notification: %v", err)
		}
		e.hear(x)
	}))
	t.Cleanup(srv.Close)
	return e, srv.URL
}

// listen follows the events, from now on or after the given one, until canaryd or the test ends.
func (s *scene) listen(after string) *ear {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	s.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Web+"/api/v1/events", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%+v, %v", resp, err)
	}
	e := &ear{}
	go func() {
		defer resp.Body.Close()
		id := ""
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if v, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				id = v
			}
			if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				x := told{ID: id}
				if err := json.Unmarshal([]byte(v), &x); err != nil {
					x.Kind = rollout.Kind("not JSON: " + v)
				}
				e.hear(x)
			}
		}
	}()
	return e
}

// history is what canaryd says was decided.
func (s *scene) history() []told {
	s.t.Helper()
	var h struct{ History []told }
	if err := json.Unmarshal([]byte(s.run(0, "history", "shop", "-o", "json")), &h); err != nil {
		s.t.Fatal(err)
	}
	return h.History
}

// recorded reports whether the history has it.
func (s *scene) recorded(version string, kind rollout.Kind) bool {
	s.t.Helper()
	return slices.ContainsFunc(s.history(), func(x told) bool { return x.Version == version && x.Kind == kind })
}
