package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// daemon is a Docker daemon in memory that counts what it is asked.
type daemon struct {
	answers chan struct{} // lists wait until it is closed; nil: they do not
	slow    time.Duration // to list, and to begin to tell

	mu        sync.Mutex
	all       []*container.Summary
	made      int
	streams   map[chan events.Message]context.CancelFunc
	deaf      bool             // events reach nobody
	holds     bool             // events come late
	held      []events.Message // those
	lists     int              // of all
	some      int              // of those with some ids
	inspected int
	opened    int // streams of events
}

// pipes is a listener without a network.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error { p.once.Do(func() { close(p.done) }); return nil }
func (*pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// newDaemon makes a daemon, and a fleet that uses it.
func newDaemon(tb testing.TB) (*daemon, *Fleet, *logtest.Hook) {
	tb.Helper()
	d := &daemon{streams: map[chan events.Message]context.CancelFunc{}}
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		here, there := net.Pipe()
		select {
		case p.conns <- there:
			return here, nil
		case <-p.done:
			return nil, net.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	transport := &http.Transport{DialContext: dial}
	s := &http.Server{Handler: d}
	go func() { _ = s.Serve(p) }()
	log, hook := logtest.NewNullLogger()
	f, err := New(Options{Log: log, Store: stored(tb), Host: "unix:///nowhere.sock"})
	if err != nil {
		tb.Fatal(err)
	}
	if f.cli, err = client.New(client.WithHTTPClient(&http.Client{Transport: transport}), client.WithAPIVersion("1.51")); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = f.cli.Close()
		transport.CloseIdleConnections()
		_ = s.Close()
	})
	return d, f, hook
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.51")
	w.Header().Set("Content-Type", "application/json")
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch what := parts[len(parts)-1]; {
	case what == "events":
		d.stream(w, r)
	case strings.HasSuffix(r.URL.Path, "/containers/json"):
		d.list(w, r)
	case what == "create":
		d.serveCreate(w, r)
	case strings.Contains(r.URL.Path, "/images/"):
		_, _ = io.WriteString(w, `{"Id": "sha256:abc", "RepoDigests": [], "Config": {}}`)
	case what == "json":
		d.inspect(w, parts[len(parts)-2])
	case what == "start" || what == "stop":
		d.change(map[string]string{"start": "start", "stop": "die"}[what], parts[len(parts)-2])
		w.WriteHeader(http.StatusNoContent)
	case what == "logs":
	case r.Method == http.MethodDelete:
		d.change("destroy", what)
		w.WriteHeader(http.StatusNoContent)
	}
}

// stream tells what happens, until somebody hangs up.
func (d *daemon) stream(w http.ResponseWriter, r *http.Request) {
	ctx, hangUp := context.WithCancel(r.Context())
	defer hangUp()
	w.(http.Flusher).Flush() // Docker, too, says that it tells before it does
	select {
	case <-time.After(d.slow):
	case <-ctx.Done():
	}
	told := make(chan events.Message, 10_000)
	d.mu.Lock()
	d.opened++
	d.streams[told] = hangUp
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.streams, told)
	}()
	for {
		select {
		case m := <-told:
			_ = json.NewEncoder(w).Encode(m)
			w.(http.Flusher).Flush()
		case <-ctx.Done():
			return
		}
	}
}

// hangUp ends all streams of events.
func (d *daemon) hangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = nil
	for _, hangUp := range d.streams {
		hangUp()
	}
}

// release tells what was held.
func (d *daemon) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.holds = false
	for _, m := range d.held {
		d.tell(m)
	}
	d.held = nil
}

func (d *daemon) tell(m events.Message) {
	switch {
	case d.deaf:
	case d.holds:
		d.held = append(d.held, m)
	default:
		for s := range d.streams {
			s <- m
		}
	}
}

func (d *daemon) list(w http.ResponseWriter, r *http.Request) {
	var filters map[string]map[string]bool
	_ = json.Unmarshal([]byte(r.URL.Query().Get("filters")), &filters)
	d.mu.Lock()
	if len(filters["id"]) > 0 {
		d.some++
	} else {
		d.lists++
	}
	answer := []container.Summary{}
	for _, c := range d.all {
		if _, labelled := c.Labels[LabelService]; labelled && (len(filters["id"]) == 0 || filters["id"][c.ID]) {
			answer = append(answer, *c)
		}
	}
	d.mu.Unlock()
	select {
	case <-time.After(d.slow):
	case <-r.Context().Done():
	}
	if d.answers != nil {
		<-d.answers
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (d *daemon) serveCreate(w http.ResponseWriter, r *http.Request) {
	var body struct{ Labels map[string]string }
	_ = json.NewDecoder(r.Body).Decode(&body)
	name := r.URL.Query().Get("name")
	if d.find(name) != nil {
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"message": "the name is taken"}`)
		return
	}
	id := d.create(name, body.Labels)
	w.WriteHeader(http.StatusCreated)
	_, _ = fmt.Fprintf(w, `{"Id": %q}`, id)
}

func (d *daemon) inspect(w http.ResponseWriter, id string) {
	d.mu.Lock()
	d.inspected++
	d.mu.Unlock()
	c := d.find(id)
	if c == nil {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"message": "no such container"}`)
		return
	}
	_, _ = fmt.Fprintf(w, `{"Id": %q, "State": {"Running": %v, "Status": %q, "StartedAt": "2000-01-01T00:00:00Z"}, "HostConfig": {"NetworkMode": "host"}}`, id, c.State == container.StateRunning, c.State)
}

// find is a container by id or name.
func (d *daemon) find(id string) *container.Summary {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.all, func(c *container.Summary) bool { return c.ID == id || nameOf(*c) == id })
	if i < 0 {
		return nil
	}
	c := *d.all[i]
	return &c
}

// create makes a container, and tells of it before it answers.
func (d *daemon) create(name string, labels map[string]string) (id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made++
	c := &container.Summary{ID: fmt.Sprint("id", d.made), Names: []string{"/" + name}, Labels: labels, State: container.StateCreated, Created: int64(d.made)}
	c.HostConfig.NetworkMode = "host"
	d.all = slices.Insert(d.all, 0, c)
	d.tell(event("create", c))
	return c.ID
}

// change has something happen to a container, if it is there, and tells of it.
func (d *daemon) change(what, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.all, func(c *container.Summary) bool { return c.ID == id || nameOf(*c) == id })
	if i < 0 {
		return
	}
	c := *d.all[i]
	c.State = map[string]container.ContainerState{"start": container.StateRunning, "die": container.StateExited, "pause": container.StatePaused, "rename": c.State}[what]
	if what == "rename" {
		c.Names = []string{"/" + nameOf(c) + "x"}
	}
	if d.all[i] = &c; what == "destroy" {
		d.all = slices.Delete(d.all, i, i+1)
	}
	d.tell(event(what, &c))
}

func event(what string, c *container.Summary) events.Message {
	return events.Message{Type: events.ContainerEventType, Action: events.Action(what), Actor: events.Actor{ID: c.ID, Attributes: maps.Clone(c.Labels)}}
}

// asked is what the daemon was asked so far.
func (d *daemon) asked() (lists, some, inspected int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lists, d.some, d.inspected
}

// serving has n versions run that canaryd started, each in a container.
func (d *daemon) serving(f *Fleet, n int) (wants []Want) {
	for i := range n {
		want := Want{Service: fmt.Sprintf("shop%d", i), Spec: policy.Docker{Image: "shop", Port: 80, Replicas: 1},
			Container: rollout.Container{Version: "v1", Attempt: 1, Image: "shop:v1", Goal: rollout.Start, Launched: true, Alone: true}}
		name := want.name(0)
		id := d.create(name, f.configOf(want, nil, name).Labels)
		d.change("start", id)
		f.owned.put(name, record{IDs: []string{id}})
		wants = append(wants, want)
	}
	return wants
}
