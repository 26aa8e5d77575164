package controller

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Reload reads the policies again. When anything is wrong nothing changes, and the error says what.
func (c *Controller) Reload(ctx context.Context, by string) error {
	var err error
	if doErr := c.do(ctx, func() { err = c.reload(time.Now(), by) }); doErr != nil {
		return doErr
	}
	return err
}

func (c *Controller) reload(now time.Time, by string) error {
	docs, err := c.read()
	c.reloadErr = err
	if err != nil {
		return fmt.Errorf("the policies were not reloaded, the running ones are untouched:\n%w", err)
	}
	c.reloadedAt = now
	here := map[string]bool{}
	origins := map[string]origin{}
	for _, d := range docs {
		name := d.Policy.Service
		here[name] = true
		dir := filepath.Dir(d.File)
		if _, ok := origins[dir]; !ok {
			origins[dir] = gitOrigin(dir, filesOf(docs))
		}
		u := c.units[name]
		if u == nil {
			u = &unit{verdicts: map[string]int{}}
			c.units[name] = u
		}
		u.text, u.origin = d.Text, origins[dir]
		c.must(u, rollout.PolicyChanged{At: now, Policy: d.Policy, Hash: d.Hash, Secret: rand.Text(), By: by})
	}
	for name, u := range c.units {
		if !here[name] && !u.state.Orphaned {
			c.must(u, rollout.Orphaned{At: now})
		}
	}
	c.reconcileAll()
	return nil
}

func filesOf(docs []policy.Document) []string {
	var files []string
	for _, d := range docs {
		files = append(files, d.File)
	}
	return files
}

// files are the policy files that the globs name, each once.
func (c *Controller) files() ([]string, error) {
	var files []string
	for _, g := range c.Policies {
		m, err := filepath.Glob(g)
		if err != nil {
			return nil, fmt.Errorf("policies: %q is no file pattern: %w", g, err)
		}
		files = append(files, m...)
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

func (c *Controller) read() ([]policy.Document, error) {
	files, err := c.files()
	if err != nil {
		return nil, err
	}
	var docs []policy.Document
	var all policy.Findings
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("policies: %w", err)
		}
		ds, fs := policy.Parse(f, data)
		docs, all = append(docs, ds...), append(all, fs...)
	}
	for _, d := range docs {
		if d.Policy.Judge.Queries != nil && c.Ask != nil {
			all = append(all, d.Finding("judge.queries", "judge.queries needs `metrics: {source: prometheus}` in canaryd.yml: load reports know Envoy's own counts only"))
		}
	}
	for _, d := range docs {
		usual := policy.Policy{Route: d.Policy.Route}
		if c.Ask != nil && !slices.Equal(d.Policy.GRPCStatuses(), usual.GRPCStatuses()) {
			all = append(all, d.Finding("judge.grpc_errors", "judge.grpc_errors needs `metrics: {source: prometheus}` in canaryd.yml: which statuses load reports count is fixed: "+strings.Join(policy.GRPCErrors(), ", ")))
		}
	}
	all = append(all, policy.CheckSet(docs)...)
	if errs := all.Errors(); len(errs) > 0 {
		return nil, errs
	}
	return docs, nil
}

// WatchFiles reloads when the content of the policy files changes. It compares checksums, which
// survives editors, symlinks and network file systems.
func (c *Controller) WatchFiles(ctx context.Context, every time.Duration) error {
	t := time.NewTicker(every)
	defer t.Stop()
	last := c.checksum()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if sum := c.checksum(); sum != last {
			last = sum
			if err := c.Reload(ctx, "file change"); err != nil {
				c.Log.WithError(err).Error("reload after a file change failed")
			}
		}
	}
}

func (c *Controller) checksum() string {
	h := sha256.New()
	files, err := c.files()
	if err != nil {
		return ""
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		fmt.Fprintf(h, "%s %d %v\n", f, len(data), err)
		h.Write(data)
	}
	return string(h.Sum(nil))
}
