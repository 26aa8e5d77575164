package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// fleetOf says what clients a process of its own is to run.
type fleetOf struct {
	Address   string
	Streams   int
	Routes    int  // of each: the common one, and others of Services in turn
	Services  int  // that there are
	Edge      bool // clusters, endpoints and listeners too
	TLSDir    string
	Reporters time.Duration // they send load reports so often instead of anything else; 0: none
}

// said is a line of the fleet: what happened, and when to each of its clients.
type said struct {
	What    string // "joined", "accepted", "back"
	At      []int64
	Opened  []int64
	Missing int    // clients that it did not happen to in time
	Why     string // it did not
}

// fleet is that process, seen from outside.
type fleet struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan said
}

func startFleet(ctx context.Context, of fleetOf) (*fleet, error) {
	text, err := json.Marshal(of)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f := &fleet{cmd: exec.CommandContext(ctx, self, "-fleet", string(text)), lines: make(chan said, 4)}
	f.cmd.Stderr = os.Stderr
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(f.lines)
		d := json.NewDecoder(out)
		for {
			var s said
			if d.Decode(&s) != nil {
				return
			}
			f.lines <- s
		}
	}()
	return f, nil
}

func (f *fleet) tell(what string) error {
	_, err := fmt.Fprintln(f.in, what)
	return err
}

// until waits for a line; others are dropped.
func (f *fleet) until(what string, most time.Duration) (said, error) {
	for {
		if s, err := f.next(most); err != nil || s.What == what {
			return s, err
		}
	}
}

func (f *fleet) next(most time.Duration) (said, error) {
	select {
	case s, ok := <-f.lines:
		switch {
		case !ok:
			return s, errors.New("the clients' process has ended")
		case s.Why != "":
			return s, errors.New(s.Why)
		}
		return s, nil
	case <-time.After(most):
		return said{}, fmt.Errorf("timed out after %s waiting for the clients", most)
	}
}

// close ends the clients: their process ends with its standard input.
func (f *fleet) close() {
	_ = f.in.Close()
	_ = f.cmd.Wait()
}

// crew are the clients, inside that process.
type crew struct {
	of      fleetOf
	clients []*client

	mu    sync.Mutex
	armed bool
	got   map[*client]time.Time // accepted the common route since it was armed
	back  map[*client]time.Time // nil: nobody was cut
}

// runFleet is that process.
func runFleet(text string) error {
	raiseFiles()
	var of fleetOf
	if err := json.Unmarshal([]byte(text), &of); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if of.Reporters > 0 {
		return runReporters(ctx, of)
	}
	var conf *tls.Config
	if of.TLSDir != "" {
		var err error
		if conf, err = clientTLS(of.TLSDir); err != nil {
			return err
		}
	}
	c := &crew{of: of, got: map[*client]time.Time{}}
	slots := make(chan struct{}, 200)
	for i := range of.Streams {
		cl := &client{address: of.Address, node: nodeNamed(i), routes: routesOf(of, i), edge: of.Edge, tls: conf, versions: map[string]string{}, heard: c.heard}
		c.clients = append(c.clients, cl)
		go cl.run(ctx, slots)
	}
	c.say(c.wait("joined", 4*time.Minute, c.allJoined))
	return c.obey(os.Stdin)
}

// routesOf are the routes of one client: the common one first.
func routesOf(of fleetOf, i int) []string {
	names := []string{serviceName(0)}
	for k := range of.Routes - 1 {
		names = append(names, serviceName(1+(i*(of.Routes-1)+k)%max(1, of.Services-1)))
	}
	return names
}

// obey does what it is told until there is nobody to tell it.
func (c *crew) obey(from io.Reader) error {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		switch lines.Text() {
		case "arm":
			c.mu.Lock()
			c.armed = true
			clear(c.got)
			c.mu.Unlock()
			c.say(said{What: "armed"})
			go func() { c.say(c.wait("accepted", time.Minute, c.allAccepted)) }()
		case "cut":
			c.mu.Lock()
			c.back = map[*client]time.Time{}
			c.mu.Unlock()
			for _, cl := range c.clients {
				cl.hangUp()
			}
			c.say(said{What: "cut"})
			go func() { c.say(c.wait("back", 2*time.Minute, c.allBack)) }()
		}
	}
	return lines.Err()
}

func (c *crew) heard(cl *client, name string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, had := c.got[cl]; c.armed && name == cl.routes[0] && !had {
		c.got[cl] = at
	}
	if _, had := c.back[cl]; c.back != nil && name == cl.routes[len(cl.routes)-1] && !had {
		c.back[cl] = at
	}
}

// wait polls until all clients have a time.
func (c *crew) wait(what string, most time.Duration, times func() map[*client]time.Time) said {
	deadline := time.Now().Add(most)
	for {
		at := times()
		if len(at) == len(c.clients) || time.Now().After(deadline) {
			s := said{What: what, Missing: len(c.clients) - len(at)}
			for cl, t := range at {
				cl.mu.Lock()
				s.At, s.Opened = append(s.At, t.UnixNano()), append(s.Opened, cl.opened.UnixNano())
				cl.mu.Unlock()
			}
			return s
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *crew) allJoined() map[*client]time.Time {
	out := map[*client]time.Time{}
	for _, cl := range c.clients {
		cl.mu.Lock()
		if len(cl.versions) >= len(cl.routes) {
			out[cl] = time.Now()
		}
		cl.mu.Unlock()
	}
	return out
}

func (c *crew) allAccepted() map[*client]time.Time { return c.all(&c.got) }
func (c *crew) allBack() map[*client]time.Time     { return c.all(&c.back) }

// all is a copy, once it is complete; before that it costs nothing.
func (c *crew) all(of *map[*client]time.Time) map[*client]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[*client]time.Time, len(*of))
	for k, v := range *of {
		out[k] = v
	}
	return out
}

var out sync.Mutex

func (c *crew) say(s said) {
	out.Lock()
	defer out.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(s) // nobody reads: the end is near
}
