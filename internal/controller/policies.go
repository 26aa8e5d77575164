package controller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
)

const (
	gitPatience = 2 * time.Second
	readAnyway  = 10 * time.Minute // content may change under the same size and time
)

// policies reads the policy files, outside the loop: a file system or a git that hangs holds up a
// reload, and nothing else. Its methods are called one at a time.
type policies struct {
	globs  []string
	source string // of evidence: some keys need a certain one
	turn   chan struct{}

	parsed  map[string]parsed // by file
	looks   string            // how the files looked when they were read last
	readAt  time.Time
	trouble string // why the files could not be looked at last
}

// parsed is what a file's content says.
type parsed struct {
	sum      [sha256.Size]byte
	docs     []policy.Document
	findings policy.Findings
}

// policySet is what all files say, when nothing in them is wrong.
type policySet struct {
	docs    []policy.Document
	place   map[string]int    // in docs, by service
	origins map[string]origin // by directory
}

// origin says where a document came from.
func (s *policySet) origin(d *policy.Document) origin { return s.origins[filepath.Dir(d.File)] }

// origin is where a policy text came from.
type origin struct {
	commit string
	clean  *bool
}

func newPolicies(globs []string, source string) *policies {
	return &policies{globs: globs, source: source, turn: make(chan struct{}, 1), parsed: map[string]parsed{}}
}

// take waits for its turn to read.
func (p *policies) take(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the policies are still being read for an earlier request: %w", ctx.Err())
	}
}

func (p *policies) release() { <-p.turn }

// forget has the files read again at the next look.
func (p *policies) forget() { p.looks = "" }

// read reads and checks all files; only those whose content is new are parsed.
func (p *policies) read() (policySet, error) {
	set := policySet{place: map[string]int{}, origins: map[string]origin{}}
	files, err := p.files()
	if err != nil {
		return set, err
	}
	p.looks, p.readAt = look(files), time.Now()
	parsed := map[string]parsed{}
	var all policy.Findings
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			p.forget() // it may be readable a moment later, and look the same
			return set, fmt.Errorf("policies: %w", err)
		}
		parsed[f] = p.parse(f, data)
		set.docs, all = append(set.docs, parsed[f].docs...), append(all, parsed[f].findings...)
	}
	p.parsed = parsed
	all = append(all, policy.CheckSet(set.docs, p.source)...)
	if errs := all.Errors(); len(errs) > 0 {
		return set, errs
	}
	for i := range set.docs {
		set.place[set.docs[i].Policy.Service] = i
	}
	for _, f := range files {
		dir := filepath.Dir(f)
		if _, asked := set.origins[dir]; !asked {
			set.origins[dir] = gitOrigin(dir, files)
		}
	}
	return set, nil
}

func (p *policies) parse(file string, data []byte) parsed {
	sum := sha256.Sum256(data)
	if old, ok := p.parsed[file]; ok && old.sum == sum {
		return old
	}
	docs, findings := policy.Parse(file, data)
	return parsed{sum, docs, findings}
}

// files are the policy files that the globs name, each once.
func (p *policies) files() ([]string, error) {
	var files []string
	for _, g := range p.globs {
		m, err := filepath.Glob(g)
		if err != nil {
			return nil, fmt.Errorf("policies: %q is not a valid glob: %w", g, err)
		}
		if len(m) == 0 {
			err = p.there(g)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, m...)
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// there says what keeps a pattern from matching, other than that there is no such file: Glob tells nobody. A directory
// that was there and is not any more is a file system that is not mounted: its services keep their policies.
func (p *policies) there(glob string) error {
	dir := filepath.Dir(glob)
	for strings.ContainsAny(dir, `*?[`) {
		dir = filepath.Dir(dir)
	}
	entries, err := os.Open(dir)
	if err == nil {
		_, err = entries.ReadDir(1)
		_ = entries.Close()
	}
	had := slices.ContainsFunc(slices.Collect(maps.Keys(p.parsed)), func(f string) bool { return strings.HasPrefix(f, dir+string(filepath.Separator)) })
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) && !had {
		return nil
	}
	return fmt.Errorf("policies: %s: %w", glob, err)
}

// changed reports whether the files look other than when they were read. When it is told that something happened, and once in a
// while, it reads them, for file systems whose times are coarse.
func (p *policies) changed(now time.Time, told bool) bool {
	files, err := p.files()
	if err != nil { // whoever reads them says so, once
		said := p.trouble == err.Error()
		p.trouble = err.Error()
		return !said
	}
	p.trouble = ""
	if look(files) != p.looks {
		return true
	}
	if !told && now.Sub(p.readAt) < readAnyway {
		return false
	}
	p.readAt = now
	return slices.ContainsFunc(files, func(f string) bool {
		data, err := os.ReadFile(f)
		return err == nil && sha256.Sum256(data) != p.parsed[f].sum
	})
}

// look describes the files without reading them; links are followed, as editors and config maps use them.
func look(files []string) string {
	var b strings.Builder
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			fmt.Fprintf(&b, "%s %v\n", f, err)
			continue
		}
		fmt.Fprintf(&b, "%s %d %d\n", f, info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}

// gitOrigin asks git about a directory of policy files; nothing where it is no work tree. Clean means
// that none of the given files differs from the commit; what else lies there does not matter.
func gitOrigin(dir string, files []string) origin {
	ctx, cancel := context.WithTimeout(context.Background(), gitPatience)
	defer cancel()
	git := func(args ...string) (string, error) {
		// Without its optional locks git writes nothing: on a frozen file system not even a kill would end it.
		cmd := exec.CommandContext(ctx, "git", append([]string{"--no-optional-locks", "-C", dir}, args...)...)
		cmd.WaitDelay = gitPatience
		out, err := cmd.Output()
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
