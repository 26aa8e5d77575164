package rig

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/web"
	"github.com/canaryd/canaryd/internal/xds"
)

// Stage is canaryd with its surroundings in a directory of its own.
type Stage struct {
	Dir, Canaryd, Envoy, Prometheus string // directory; binaries
	EnvoyVersion                    string // what its bootstrap is made for; empty: the newest
	XDS, Web                        string // addresses
	PrometheusURL                   string
	TLSDir                          string   // the Envoys speak mTLS with what lies there
	Aside                           string   // directory of all parts but canaryd, which has Dir; empty: Dir too
	PrometheusArgs                  []string // more flags
	Env                             []string // more of canaryd's environment

	daemon *Process
	others []*Process
}

// NewStage prepares a directory with a canaryd.yml and the given policies by file name.
func NewStage(dir, canaryd string, extra string, policies map[string]string) (*Stage, error) {
	s := &Stage{Dir: dir, Canaryd: canaryd, XDS: FreeAddress(), Web: FreeAddress()}
	if err := os.MkdirAll(filepath.Join(dir, "policies"), 0o750); err != nil {
		return nil, err
	}
	if err := s.WriteConfig(fmt.Sprintf("xds: {listen: %q}\nweb: {listen: %q}\n%s", s.XDS, s.Web, extra)); err != nil {
		return nil, err
	}
	for name, p := range policies {
		if err := s.WritePolicy(name, p); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// WriteConfig replaces canaryd.yml.
func (s *Stage) WriteConfig(text string) error {
	return os.WriteFile(filepath.Join(s.Dir, "canaryd.yml"), []byte(text), 0o640)
}

// WritePolicy writes a policy file; canaryd sees it at its next reload.
func (s *Stage) WritePolicy(name, text string) error {
	return os.WriteFile(filepath.Join(s.Dir, "policies", name), []byte(text), 0o640)
}

// StartDaemon runs `canaryd serve` and waits until it is ready.
func (s *Stage) StartDaemon(ctx context.Context) error {
	p, err := startWith(s.Env, s.Dir, "canaryd", s.Canaryd, "serve", "--config.file="+filepath.Join(s.Dir, "canaryd.yml"))
	if err != nil {
		return err
	}
	s.daemon = p
	return s.await(ctx, p, "canaryd", func() bool { return Answers("http://" + s.Web + "/-/ready") })
}

// Process finds a running part by name.
func (s *Stage) Process(name string) *Process {
	for _, p := range s.others {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Daemon is the running canaryd.
func (s *Stage) Daemon() *Process { return s.daemon }

// StartEnvoy runs an Envoy on the bootstrap that canaryd prints; edit may change the text. It returns
// the address of its admin page.
func (s *Stage) StartEnvoy(ctx context.Context, name, cluster string, edit func(string) string) (*Process, string, error) {
	return s.StartEnvoyIn(ctx, "", FreeAddress(), name, cluster, edit)
}

// StartEnvoyIn is StartEnvoy in a network namespace, with an admin page at an address of that.
func (s *Stage) StartEnvoyIn(ctx context.Context, namespace, admin, name, cluster string, edit func(string) string) (*Process, string, error) {
	b := xds.Bootstrap{XDS: s.XDS, Admin: admin, NodeID: name, Cluster: cluster, TLSDir: s.TLSDir, EnvoyVersion: s.EnvoyVersion}
	text, err := b.YAML()
	if err != nil {
		return nil, "", err
	}
	if edit != nil {
		text = edit(text)
	}
	file := filepath.Join(s.aside(), name+".yaml")
	if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
		return nil, "", err
	}
	command := []string{s.Envoy, "-c", file, "--concurrency", "2", "--disable-hot-restart", "-l", "warning"}
	if namespace != "" {
		command = append([]string{"ip", "netns", "exec", namespace}, command...)
	}
	p, err := Start(s.aside(), name, command[0], command[1:]...)
	if err != nil {
		return nil, "", err
	}
	s.others = append(s.others, p)
	return p, b.Admin, s.await(ctx, p, name, func() bool { return Answers("http://" + b.Admin + "/ready") })
}

func (s *Stage) aside() string { return cmp.Or(s.Aside, s.Dir) }

// StartPrometheus runs a Prometheus that scrapes the given admin pages of Envoys.
func (s *Stage) StartPrometheus(ctx context.Context, scrape time.Duration, targets ...string) (*Process, error) {
	addr := FreeAddress()
	return s.StartPrometheusAt(ctx, addr, scrape, targets...)
}

// StartPrometheusAt is StartPrometheus on a given address.
func (s *Stage) StartPrometheusAt(ctx context.Context, addr string, scrape time.Duration, targets ...string) (*Process, error) {
	s.PrometheusURL = "http://" + addr
	quoted, err := json.Marshal(targets)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("global: {scrape_interval: %s, scrape_timeout: %s}\nscrape_configs:\n- {job_name: envoy, metrics_path: /stats/prometheus, static_configs: [{targets: %s}]}\n",
		scrape, min(scrape, 10*time.Second), quoted)
	file := filepath.Join(s.aside(), "prometheus.yml")
	if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
		return nil, err
	}
	args := append([]string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(s.aside(), "tsdb"), "--web.listen-address=" + addr}, s.PrometheusArgs...)
	p, err := Start(s.aside(), "prometheus", s.Prometheus, args...)
	if err != nil {
		return nil, err
	}
	s.others = append(s.others, p)
	return p, s.await(ctx, p, "prometheus", func() bool { return Answers(s.PrometheusURL + "/-/ready") })
}

func (s *Stage) await(ctx context.Context, p *Process, what string, f func() bool) error {
	err := WaitFor(ctx, 2*time.Minute, what, func() bool {
		select {
		case <-p.Ended():
			return true
		default:
			return f()
		}
	})
	select {
	case <-p.Ended():
		return fmt.Errorf("%s ended at once:\n%s", what, p.Tail())
	default:
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, p.Tail())
	}
	return nil
}

// Close ends everything.
func (s *Stage) Close() {
	s.daemon.Stop()
	for _, p := range s.others {
		p.Kill()
	}
}

// Service asks the API about a service.
func (s *Stage) Service(name string) (web.Service, error) {
	var out web.Service
	resp, err := http.Get("http://" + s.Web + "/api/v1/services/" + name)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		return out, errors.New(string(b))
	}
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

// Version asks the API about a version; a zero Version while it is unknown.
func (s *Stage) Version(service, version string) web.Version {
	svc, err := s.Service(service)
	if err != nil {
		return web.Version{}
	}
	if v := svc.Find(version); v != nil {
		return *v
	}
	return web.Version{}
}

// Run runs a client verb of canaryd against this stage.
func (s *Stage) Run(ctx context.Context, args ...string) (code int, stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, s.Canaryd, args...)
	cmd.Env = append(os.Environ(), "CANARYD_URL=http://"+s.Web)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		err = nil
	}
	return cmd.ProcessState.ExitCode(), o.String(), strings.TrimSpace(e.String()), err
}
