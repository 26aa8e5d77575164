// Classes measures what it costs an Envoy to count answers by class, and to tell how long they took: services on one real Envoy, which
// differ in nothing else (how long answers took; 2 classes; 20; 20 and how long). They get the same requests in turns, and the Envoy's
// CPU time per request is compared. What is printed are the ratios of neighbouring turns.
package main

import (
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
	listener string
	perTurn  []time.Duration // CPU per request
}

func run(ctx context.Context) error {
	envoy := flag.String("envoy", ".tools/bin/envoy-newest", "program")
	turns := flag.Int("turns", 15, "of each service")
	turn := flag.Duration("turn", 2*time.Second, "how long one is")
	clients := flag.Int("clients", 8, "connections, each with one request at a time")
	flag.Parse()
	kinds := []*kind{{name: "no classes"}, {name: "how long answers took", slow: true}, {name: "2 classes", classes: 1}, {name: "20 classes", classes: policy.ClassesMost}, {name: "20 classes and how long answers took", classes: policy.ClassesMost, slow: true}}
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
	process, err := start(ctx, stage, kinds)
	if err != nil {
		return err
	}
	for range *turns {
		for _, k := range kinds {
			if err := k.turn(ctx, process.PID(), *turn, *clients); err != nil {
				return err
			}
		}
	}
	for _, k := range kinds {
		ratios := make([]float64, len(k.perTurn))
		for i, d := range k.perTurn {
			ratios[i] = float64(d) / float64(kinds[0].perTurn[i])
		}
		slices.Sort(ratios)
		cpu := slices.Sorted(slices.Values(k.perTurn))
		fmt.Printf("%-40s Envoy's CPU per request %6.1f us, ratio to none %.2f (quartiles %.2f to %.2f, %d turns of %s)\n",
			k.name, float64(cpu[len(cpu)/2].Nanoseconds())/1000, ratios[len(ratios)/2], ratios[len(ratios)/4], ratios[len(ratios)*3/4], len(ratios), *turn)
	}
	return nil
}

// start serves the kinds to an Envoy, which reports all of them once a second.
func start(ctx context.Context, stage *rig.Stage, kinds []*kind) (*rig.Process, error) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	hub := xds.NewHub(log)
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		_ = http.Serve(back, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	}()
	var asked []xds.Asked
	for i, k := range kinds {
		k.listener = rig.FreeAddress()
		service := fmt.Sprint("shop-", i)
		if err := hub.PublishTable(k.table(service, back.Addr().String())); err != nil {
			return nil, err
		}
		asked = append(asked, xds.Asked{Cluster: service + "/v1", Judged: true, Endpoints: 1})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	loads := xds.NewLoads(time.Second, func(xds.Report) {})
	loads.Ask(asked)
	srv := xds.NewServer(hub, loads, nil)
	go func() { _ = srv.Serve(l) }()
	stage.XDS = l.Addr().String()
	process, _, err := stage.StartEnvoy(ctx, "edge-1", "edge", nil)
	if err != nil {
		return nil, err
	}
	for _, k := range kinds {
		if err := rig.WaitFor(ctx, time.Minute, k.name, func() bool { return rig.Answers("http://" + k.listener + "/") }); err != nil {
			return nil, err
		}
	}
	return process, nil
}

func (k *kind) table(service, endpoint string) rollout.Table {
	p := policy.Default()
	p.Service, p.Route.Listener = service, k.listener
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

// turn sends requests of all classes, and of none, for a while.
func (k *kind) turn(ctx context.Context, pid int, long time.Duration, clients int) error {
	paths := []string{"/", "/class-1/a", "/class-2/7/x", "/v1/class-3/b", "/class-17/z", "/v2/class-15/q", "/none"}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	before, err := cpu(pid)
	if err != nil {
		return err
	}
	var sent, failed atomic.Int64
	var wg sync.WaitGroup
	for end := time.Now().Add(long); clients > 0; clients-- {
		wg.Go(func() {
			for i := 0; time.Now().Before(end) && ctx.Err() == nil; i++ {
				resp, err := client.Get("http://" + k.listener + paths[i%len(paths)])
				if err != nil || resp.StatusCode != http.StatusOK {
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
	after, err := cpu(pid)
	if err != nil || failed.Load() > 0 || sent.Load() == 0 {
		return errors.Join(err, ctx.Err(), fmt.Errorf("%s: %d of %d requests failed", k.name, failed.Load(), sent.Load()))
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
