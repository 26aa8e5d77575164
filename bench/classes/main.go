// Classes measures what it costs an Envoy to count answers by class, and to tell how long they took: services on one real Envoy, which
// differ in nothing else (how long answers took; 2 classes; 20; 20 and how long). They get the same requests in turns, and the Envoy's
// CPU time per request is compared. What is printed are the ratios of neighbouring turns. With -log it measures what the access log of failures
// costs: an Envoy that says that it has the cluster for it beside one that does not, where nothing fails and where
// everything does, and, to tell how exact that is, another one that does not.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "classes:", err)
		os.Exit(1)
	}
}

// kind is one of the services.
type kind struct {
	name     string
	classes  int
	slow     bool
	node     string // the cluster of its Envoy, a process for each
	fails    bool   // its endpoint answers 503
	beside   *kind  // what it is compared with
	pid      int    // of its Envoy
	listener string
	perTurn  []time.Duration // CPU per request
}

// ofClasses are compared with a service without classes.
func ofClasses() []*kind {
	none := &kind{name: "no classes"}
	none.beside = none
	return []*kind{none, {name: "how long answers took", slow: true, beside: none}, {name: "2 classes", classes: 1, beside: none}, {name: "20 classes", classes: policy.ClassesMost, beside: none},
		{name: "20 classes and how long answers took", classes: policy.ClassesMost, slow: true, beside: none}}
}

// ofLogs are each compared with the same on an Envoy without the log.
func ofLogs() (kinds []*kind) {
	for _, fails := range []bool{false, true} {
		share := map[bool]string{false: "nothing fails", true: "everything fails"}[fails]
		without := &kind{name: "no access log, " + share, fails: fails}
		without.beside = without
		kinds = append(kinds, without, &kind{name: "access log of failures, " + share, fails: fails, node: logging, beside: without})
	}
	return append(kinds, &kind{name: "no access log, nothing fails, as the first", node: "another", beside: kinds[0]})
}

const logging = "logging" // the Envoy that has the cluster for records of failures

func run(ctx context.Context) error {
	envoy := flag.String("envoy", ".tools/bin/envoy-newest", "program")
	turns := flag.Int("turns", 15, "of each service")
	turn := flag.Duration("turn", 2*time.Second, "how long one is")
	clients := flag.Int("clients", 8, "connections, each with one request at a time")
	logs := flag.Bool("log", false, "compare Envoys with and without the access log of failures, instead of classes")
	flag.Parse()
	kinds := ofClasses()
	if *logs {
		kinds = ofLogs()
	}
	dir, err := os.MkdirTemp("", "classes")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := filepath.Abs(*envoy)
	if err != nil {
		return err
	}
	stage := &rig.Stage{Dir: dir, Envoy: program}
	defer stage.Close()
	if err := start(ctx, stage, kinds); err != nil {
		return err
	}
	for range *turns {
		for _, k := range kinds {
			if err := k.turn(ctx, *turn, *clients); err != nil {
				return err
			}
		}
	}
	for _, k := range kinds {
		ratios := make([]float64, len(k.perTurn))
		for i, d := range k.perTurn {
			ratios[i] = float64(d) / float64(k.beside.perTurn[i])
		}
		slices.Sort(ratios)
		cpu := slices.Sorted(slices.Values(k.perTurn))
		fmt.Printf("%-40s Envoy's CPU per request %6.1f us, ratio to none %.3f (quartiles %.3f to %.3f, %d turns of %s)\n",
			k.name, float64(cpu[len(cpu)/2].Nanoseconds())/1000, ratios[len(ratios)/2], ratios[len(ratios)/4], ratios[len(ratios)*3/4], len(ratios), *turn)
	}
	return nil
}

// start serves the kinds to their Envoys, which report all of them once a second.
func start(ctx context.Context, stage *rig.Stage, kinds []*kind) error {
	log := logrus.New()
	log.SetOutput(io.Discard)
	hub := xds.NewHub(log)
	var backs [2]string
	for i, status := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		var err error
		if backs[i], err = answering(status); err != nil {
			return err
		}
	}
	var asked []xds.Asked
	for i, k := range kinds {
		k.node, k.listener = cmp.Or(k.node, "edge"), rig.FreeAddress()
		service, back := fmt.Sprint("shop-", i), backs[0]
		if k.fails {
			back = backs[1]
		}
		if err := hub.PublishTable(k.table(service, back)); err != nil {
			return err
		}
		asked = append(asked, xds.Asked{Cluster: service + "/v1", Judged: true, Endpoints: 1})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	loads := xds.NewLoads(time.Second, func(xds.Report) {})
	loads.Ask(asked)
	srv := xds.NewServer(hub, loads, nil)
	go func() { _ = srv.Serve(l) }()
	stage.XDS = l.Addr().String()
	pids := map[string]int{}
	for _, k := range kinds {
		if pids[k.node] == 0 {
			process, _, err := stage.StartEnvoy(ctx, "edge-"+k.node, k.node, func(text string) string {
				return strings.Replace(text, "access_log: true", fmt.Sprint("access_log: ", k.node == logging), 1)
			})
			if err != nil {
				return err
			}
			pids[k.node] = process.PID()
		}
		k.pid = pids[k.node]
		if err := rig.WaitFor(ctx, time.Minute, k.name, func() bool { return k.status() == k.expected() }); err != nil {
			return err
		}
	}
	return nil
}

// answering is an endpoint that answers everything with one status.
func answering(status int) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("x-endpoint", "1")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "ok")
		}))
	}()
	return l.Addr().String(), nil
}

func (k *kind) table(service, endpoint string) rollout.Table {
	p := policy.Default()
	p.Service, p.Route.Listener, p.Route.Nodes = service, k.listener, []string{k.node}
	for i := range k.classes {
		name := fmt.Sprint("class-", i)
		p.Route.Classes = append(p.Route.Classes, []policy.Class{{Name: name, Method: "POST", Path: "/" + name}, {Name: name, Prefix: "/" + name + "/"}, {Name: name, Template: "/" + name + "/*/x"}, {Name: name, Regex: "/v[0-9]+/" + name + "/[^/]+"}}[i%4])
	}
	if k.slow {
		p.Judge.Slow = &policy.Slow{}
	}
	return rollout.Table{Service: service, Generation: 1, Policy: &p, Stable: "v1", Slots: []rollout.Run{{Version: "v1", Count: policy.FullWeight}},
		Clusters: []rollout.Cluster{{Version: "v1", Endpoints: []string{endpoint}}}}
}

func (k *kind) expected() int {
	if k.fails {
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}

// status is what its endpoint answers by way of its Envoy; 0: nothing.
func (k *kind) status() int {
	resp, err := http.Get("http://" + k.listener + "/")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if resp.Header.Get("x-endpoint") == "" { // Envoy's own answer
		return 0
	}
	return resp.StatusCode
}

// turn sends requests of all classes, and of none, for a while.
func (k *kind) turn(ctx context.Context, long time.Duration, clients int) error {
	paths := []string{"/", "/class-1/a", "/class-2/7/x", "/v1/class-3/b", "/class-17/z", "/v2/class-15/q", "/none"}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	before, err := cpu(k.pid)
	if err != nil {
		return err
	}
	var sent, failed atomic.Int64
	var wg sync.WaitGroup
	for end := time.Now().Add(long); clients > 0; clients-- {
		wg.Go(func() {
			for i := 0; time.Now().Before(end) && ctx.Err() == nil; i++ {
				resp, err := client.Get("http://" + k.listener + paths[i%len(paths)])
				if err != nil || resp.StatusCode != k.expected() {
					failed.Add(1)
				}
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				sent.Add(1)
			}
		})
	}
	wg.Wait()
	after, err := cpu(k.pid)
	if err != nil || failed.Load() > 0 || sent.Load() == 0 {
		return errors.Join(err, ctx.Err(), fmt.Errorf("%s: %d of %d requests went otherwise", k.name, failed.Load(), sent.Load()))
	}
	k.perTurn = append(k.perTurn, (after-before)/time.Duration(sent.Load()))
	return nil
}

// cpu is what a process has used so far, to a microsecond or so: of its threads, as the kernel's scheduler counts it.
func cpu(pid int) (used time.Duration, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d has no threads: %w", pid, errors.Join(err, os.ErrNotExist))
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		if fields := strings.Fields(string(raw)); len(fields) > 0 {
			n, err := strconv.ParseInt(fields[0], 10, 64)
			if err != nil {
				return 0, err
			}
			used += time.Duration(n)
		}
	}
	return used, nil
}
