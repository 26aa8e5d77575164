package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Entry is a record of the history with what was in force when it was made.
type Entry struct {
	rollout.Record
	PolicyHash string `json:"policy_hash"`
	Policy     string `json:"policy,omitempty"` // text, filled in when the history is read
	Commit     string `json:"policy_commit,omitempty"`
	Clean      *bool  `json:"policy_clean,omitempty"` // no uncommitted change in the policy's directory
}

// origin is where a policy text came from.
type origin struct {
	commit string
	clean  *bool
}

func (c *Controller) entry(u *unit, r rollout.Record) Entry {
	e := Entry{Record: r, PolicyHash: u.state.PolicyHash, Commit: u.origin.commit, Clean: u.origin.clean}
	c.history.send(e)
	return e
}

// gitOrigin asks git about a directory of policy files; nothing where it is no work tree. Clean means
// that none of the given files differs from the commit; what else lies there does not matter.
func gitOrigin(dir string, files []string) origin {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
		return strings.TrimRight(string(out), "\n"), err
	}
	commit, err := git("rev-parse", "HEAD")
	if err != nil {
		return origin{}
	}
	o := origin{commit: commit}
	changes, err := git("status", "--porcelain", "--", ".")
	if err != nil {
		return o
	}
	clean := true
	for line := range strings.Lines(changes) {
		name := filepath.Base(strings.Trim(strings.TrimSpace(line[min(3, len(line)):]), `"`)) // two letters of status and a blank
		clean = clean && !slices.ContainsFunc(files, func(f string) bool { return filepath.Base(f) == name })
	}
	o.clean = &clean
	return o
}

// History returns the newest entries of a service, oldest first.
func (c *Controller) History(ctx context.Context, service string, limit int) ([]Entry, error) {
	known := false
	if err := c.do(ctx, func() { known = c.units[service] != nil }); err != nil {
		return nil, err
	}
	lines, err := c.Store.History(service, limit)
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", service, err)
	}
	if !known && len(lines) == 0 {
		return nil, c.unknownService(service)
	}
	entries := make([]Entry, 0, len(lines))
	for _, l := range lines {
		var e Entry
		if err := json.Unmarshal(l, &e); err != nil {
			return nil, fmt.Errorf("history of %s: %w", service, err)
		}
		if e.Policy, err = c.Store.Policy(e.PolicyHash); err != nil {
			return nil, fmt.Errorf("history of %s: %w", service, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// broadcast hands entries to whoever listens; one who does not keep up misses some.
type broadcast struct {
	mu   sync.Mutex
	subs map[chan Entry]struct{}
}

func newBroadcast() *broadcast { return &broadcast{subs: map[chan Entry]struct{}{}} }

func (b *broadcast) send(e Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.subs {
		select {
		case ch <- e:
		default:
		}
	}
}

// Listen returns live entries until stop is called.
func (c *Controller) Listen() (entries <-chan Entry, stop func()) {
	ch := make(chan Entry, 256)
	b := c.history
	b.mu.Lock()
	b.subs[ch] = struct{}{}
	b.mu.Unlock()
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subs, ch)
	}
}
