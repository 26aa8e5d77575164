package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	collectorversion "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/config"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/cores"
	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/notify"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	canarydweb "github.com/canaryd/canaryd/internal/web"
	"github.com/canaryd/canaryd/internal/xds"
)

type serveFlags struct {
	file, webListen, xdsListen, storage, level, format, webConfig string
	insecure                                                      bool
}

func serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use: "serve", Short: "Run the daemon",
		Long: `Runs the daemon until SIGTERM or Ctrl-C; the Envoys keep their weights when it ends. SIGHUP, POST /-/reload and a change of a policy file
have the policies read again, the first two also who may do what (web.access and the files it goes by); all else is read at the start only.

Exit codes: 0 it was told to end, 1 it cannot start or go on, 2 wrong usage.`,
		Example: `  canaryd serve         # the defaults: policies/*.yml, data/, loopback
  canaryd serve --config.file=/etc/canaryd/canaryd.yml`,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), f) },
	}
	fl := c.Flags()
	fl.StringVar(&f.file, "config.file", "", "canaryd.yml; none: the defaults")
	fl.StringVar(&f.webListen, "web.listen-address", "", "API and metrics; overrides web.listen")
	fl.StringVar(&f.xdsListen, "xds.listen-address", "", "ADS and load reports; overrides xds.listen")
	fl.StringVar(&f.storage, "storage.path", "", "directory of the database; overrides storage.path")
	fl.StringVar(&f.level, "log.level", "info", "debug, info, warning or error")
	fl.StringVar(&f.format, "log.format", "", "text or json; default: text on a terminal, json elsewhere")
	fl.StringVar(&f.webConfig, "web.config.file", "", "TLS, and passwords of users, of the API, in Prometheus' web-config format")
	fl.BoolVar(&f.insecure, "insecure", false, "listen beyond loopback without TLS (xds) or users (web): only your Envoys, and people you trust, reach those ports")
	return c
}

func (f serveFlags) config() (serverConfig, error) {
	c, err := loadServerConfig(f.file)
	if err != nil {
		return c, err
	}
	for _, o := range []struct {
		name, flag string
		key        *string
	}{{"web.listen-address", f.webListen, &c.Web.Listen}, {"xds.listen-address", f.xdsListen, &c.XDS.Listen}} {
		if o.flag == "" {
			continue
		}
		if err := listenAddress(o.flag); err != nil {
			return c, usage("--%s: %v", o.name, err)
		}
		*o.key = o.flag
	}
	c.Storage.Path = cmp.Or(f.storage, c.Storage.Path)
	if overlap(c.XDS.Listen, c.Web.Listen) {
		return c, usage("--web.listen-address %s and --xds.listen-address %s are one address: give each its own port", c.Web.Listen, c.XDS.Listen)
	}
	c.XDS.Insecure, c.Web.Insecure = c.XDS.Insecure || f.insecure, c.Web.Insecure || f.insecure
	return c, c.exposed(f.webConfig)
}

// unread warns of a canaryd.yml that is not read: who is asked for a password may stand in it.
func (f serveFlags) unread() string {
	if _, err := os.Stat("canaryd.yml"); f.file != "" || err != nil {
		return ""
	}
	return "there is a canaryd.yml in this directory, and it is not read: say `canaryd serve --config.file=canaryd.yml`"
}

// serve wires the daemon: what comes later depends on what comes first.
func serve(ctx context.Context, f serveFlags) error {
	cores.Share()
	log, flush, err := f.logger()
	if err != nil {
		return err
	}
	defer flush()
	cfg, err := f.config()
	if err != nil {
		return err
	}
	if w := f.unread(); w != "" {
		log.Warn(w)
	}
	db, err := store.Open(cfg.Storage.Path)
	if err != nil {
		return err
	}
	defer db.Close()
	may, err := cfg.accessConfig(f.webConfig)
	if err != nil {
		return err
	}
	d := daemon{cfg: cfg, log: log, file: f.file, webConfig: f.webConfig, access: access.NewKeeper(may, nil), hub: xds.NewHub(log), database: db.ID()}
	d.warnIdle(may)
	d.hub.ForgetAfter, d.hub.Admission = cfg.XDS.ForgetAfter.Std(), cfg.XDS.admission()
	if err := d.decide(ctx, db); err != nil {
		return err
	}
	if err := d.listen(); err != nil {
		return err
	}
	if err := d.run.Run(); err != nil && ctx.Err() == nil {
		return err
	}
	log.Info("canaryd has stopped; the Envoys keep the last weights")
	return nil
}

// daemon are the parts that run until one of them ends.
type daemon struct {
	cfg       serverConfig
	log       *logrus.Logger
	file      string // canaryd.yml
	webConfig string
	access    *access.Keeper
	rereading rereading              // of that
	looking   rereading              // at the policy files
	hookToken atomic.Pointer[string] // what a registry has to say
	hub       *xds.Hub
	database  string // its name
	src       metrics.Source
	loads     *xds.Loads
	ctl       *controller.Controller
	told      *notify.Notifier // nil: nobody is told
	run       run.Group
}

// decide makes the loop and what feeds it: evidence, containers, versions that are found.
func (d *daemon) decide(ctx context.Context, db *store.Bolt) (err error) {
	if d.src, d.loads, err = newSource(d.cfg); err != nil {
		return err
	}
	o := controller.Options{Log: d.log, Store: db, Hub: d.hub, Source: d.src, Policies: d.cfg.Policies, Limits: d.cfg.limits()}
	if d.cfg.Metrics.Source == policy.SourceEnvoy {
		o.Ask = d.loads.Ask
	}
	if d.cfg.Docker.Host != "" {
		if o.Fleet, err = docker.New(docker.Options{Log: d.log, Bounds: *d.cfg.bounds(), Store: db, Host: d.cfg.Docker.Host, CA: d.cfg.Docker.TLS.CAFile, Cert: d.cfg.Docker.TLS.CertFile, Key: d.cfg.Docker.TLS.KeyFile}); err != nil {
			return err
		}
	}
	told, err := d.cfg.notifier(d.log)
	if err != nil {
		return err
	}
	d.told = told
	begin, err := resume(told, db) // before the first event of this life
	if err != nil {
		return err
	}
	collect := collectSeldom()
	d.ctl, err = controller.New(o)
	if collect(); err != nil {
		return err
	}
	if found := d.cfg.registry(d.log); found != nil {
		background(ctx, &d.run, func(ctx context.Context) error { return found.Run(ctx, d.ctl.Found(ctx)) })
	}
	if o.Fleet != nil {
		background(ctx, &d.run, o.Fleet.Run)
		background(ctx, &d.run, func(ctx context.Context) error { return o.Fleet.Look(ctx, d.ctl.Labelled(ctx)) })
	}
	if told != nil {
		background(ctx, &d.run, told.Run)
		background(ctx, &d.run, func(ctx context.Context) error { return tell(ctx, d.ctl, told, begin) })
		background(ctx, &d.run, func(ctx context.Context) error { return mark(ctx, db, told, d.log) })
	}
	if told == nil {
		go func() { // a disk that hangs holds nobody up
			if err := unmark(db); err != nil {
				d.log.WithError(err).Debug("the marks of former webhooks stay")
			}
		}()
	}
	for _, after := range memoryBack() {
		time.AfterFunc(after, debug.FreeOSMemory)
	}
	background(ctx, &d.run, d.hub.Run)
	background(ctx, &d.run, d.ctl.Run)
	background(ctx, &d.run, func(ctx context.Context) error { return watchFiles(ctx, d.ctl, o.Policies, d.log) })
	background(ctx, &d.run, func(ctx context.Context) error { return d.pulse(ctx, func() { lookAt(o.Policies) }) })
	background(ctx, &d.run, func(ctx context.Context) error {
		hangup := make(chan os.Signal, 1)
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
		return d.hangups(ctx, hangup)
	})
	return nil
}

// listen opens what Envoys and people connect to.
func (d *daemon) listen() error {
	tlsConf, err := d.cfg.XDS.TLS.load(d.log)
	if err != nil {
		return err
	}
	xdsListener, err := net.Listen("tcp", d.cfg.XDS.Listen)
	if err != nil {
		return fmt.Errorf("xds.listen: %w", err)
	}
	webListener, err := net.Listen("tcp", d.cfg.Web.Listen)
	if err != nil {
		return fmt.Errorf("web.listen: %w", err)
	}
	own := prometheus.NewRegistry()
	own.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectorversion.NewCollector("canaryd"), d.collector())
	grpcServer := xds.NewServer(d.hub, d.loads, tlsConf)
	d.run.Add(func() error { return grpcServer.Serve(xdsListener) }, func(error) { grpcServer.Stop() })
	if err := d.readHookToken(d.cfg); err != nil {
		return err
	}
	handler := canarydweb.NewHandler(canarydweb.Options{
		Log: d.log, Controller: d.ctl, Registry: own, HookToken: func() string { return *d.hookToken.Load() },
		Classes: d.propose, Access: d.access, Reload: d.reload, Listener: webListener.Addr(), Listen: d.cfg.Web.Listen, Hosts: d.cfg.Web.Hosts,
	})
	server := newWebServer(handler)
	d.run.Add(func() error { return serveWeb(server, webListener, d.webConfig, d.log) }, func(error) { _ = server.Close() })
	d.log.WithFields(logrus.Fields{"xds": xdsListener.Addr().String(), "web": webListener.Addr().String(), "source": d.cfg.Metrics.Source}).Info("canaryd is serving")
	return nil
}

func (d *daemon) collector() *canarydweb.Collector {
	c := canarydweb.NewCollector(d.ctl, d.src)
	c.Wrong, c.Database = d.unread, d.database
	if d.told != nil {
		c.Lost = d.told.Lost
	}
	return c
}

// askPrometheus is how often Prometheus is asked with `interval: auto`: more often than it is fed.
const askPrometheus = time.Second

// newSource makes the source of evidence and the load report server that may feed it.
func newSource(cfg serverConfig) (metrics.Source, *xds.Loads, error) {
	interval := time.Duration(cfg.Metrics.Interval)
	if cfg.Metrics.Source == policy.SourcePrometheus {
		rt, err := config.NewRoundTripperFromConfig(cfg.Metrics.Prometheus.HTTP, "canaryd")
		if err != nil {
			return nil, nil, fmt.Errorf("metrics.prometheus: %w", err)
		}
		src, err := metrics.NewPrometheus(cfg.Metrics.Prometheus.URL, rt, cmp.Or(interval, askPrometheus), cfg.Metrics.Prometheus.Match)
		return src, xds.NewLoads(interval, func(xds.Report) {}), err
	}
	var src *metrics.Envoy
	loads := xds.NewLoads(interval, func(r xds.Report) { src.Add(reportOf(r)) })
	src = metrics.NewEnvoy(loads.Often, loads.Nodes)
	return src, loads, nil
}

// reportOf sorts a load report by service and version.
func reportOf(r xds.Report) metrics.Report {
	out := metrics.Report{Node: r.Node, Stream: r.Stream, To: r.At, From: r.At, Counts: map[string]map[string]analysis.Counts{}, Slices: map[string]map[string]map[string]analysis.Counts{}, Dropped: map[string]map[string]float64{},
		Answers: map[string]map[string]metrics.Answers{}, Served: map[string]metrics.Served{}}
	for service, served := range r.Served {
		out.Served[service] = metrics.Served(served)
	}
	if r.Client {
		out.Proxy = rollout.Client
	}
	for name, load := range r.Clusters {
		id, ok := xds.ParseCluster(name)
		if !ok || id.Role != xds.Users {
			continue
		}
		service, version := id.Service, id.Version
		if out.Counts[service] == nil {
			out.Counts[service] = map[string]analysis.Counts{}
			out.Slices[service] = map[string]map[string]analysis.Counts{}
			out.Dropped[service] = map[string]float64{}
			out.Answers[service] = map[string]metrics.Answers{}
		}
		out.Counts[service][version] = load.Counts
		out.Slices[service][version] = load.Endpoints
		out.Dropped[service][version] = load.Dropped
		out.Answers[service][version] = metrics.Answers{Counted: load.Answers, Took: load.Took, Issued: load.Issued, Active: load.Active}
		if from := r.At.Add(-load.Interval); from.Before(out.From) {
			out.From = from
		}
	}
	return out
}

func background(parent context.Context, g *run.Group, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(parent)
	g.Add(func() error { return f(ctx) }, func(error) { cancel() })
}

// collectSeldom has memory collected more seldom until the returned function is called. What is loaded at the start stays: to look
// for garbage again and again while memory grows from nothing took a sixth of the time. What an operator has set with GOGC stands.
func collectSeldom() (end func()) {
	const seldom, usual = 400, 100
	was := debug.SetGCPercent(seldom)
	if was != usual {
		debug.SetGCPercent(was)
		return func() {}
	}
	return func() { debug.SetGCPercent(was) }
}

// memoryBack are the moments after the start when what only that needed is given back, which is more than what stays with
// thousands of services; the runtime itself would take minutes. The second is for a busy machine, which is longer about it.
func memoryBack() []time.Duration { return []time.Duration{10 * time.Second, 20 * time.Second} }

// watchFiles reloads when policy files change: at once where the file system tells, and soon where it does not.
func watchFiles(ctx context.Context, ctl *controller.Controller, globs []string, log logrus.FieldLogger) error {
	every := 30 * time.Second
	events, err := controller.FileEvents(ctx, globs, log)
	if err != nil {
		every = 5 * time.Second
		log.WithError(err).Warn("the policy files cannot be watched: they are looked at every 5 s")
	}
	ended := make(chan error, 1)
	go func() { ended <- ctl.WatchFiles(ctx, events, every) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done(): // a file system that hangs does not keep canaryd from stopping
		return nil
	}
}
