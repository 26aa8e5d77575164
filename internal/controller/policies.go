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
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
)

// readAnyway is when files are read that look as they did: content may change and look the same, a server's times are not ours.
const readAnyway = 10 * time.Minute

// policies reads the policy files, outside the loop: a file system or a git that hangs holds up a
// reload, and nothing else. Its methods are called one at a time.
type policies struct {
	globs  []string
	source string // of evidence: some keys need a certain one
	turn   chan struct{}

	parsed   map[string]parsed // by file
	again    bool              // they are to be read whatever they look like
	whole    time.Time         // all of them were read last, however they looked
	trouble  string            // why the files could not be looked at last
	readFile func(string) ([]byte, error)
	git      func(ctx context.Context, dir string, args ...string) (string, error)
}

// parsed is what a file's content says.
type parsed struct {
	stamp    stamp // when it was read last
	sure     bool  // while it looks so it is not read again
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

func newPolicies(globs []string, source string) *policies {
	return &policies{globs: globs, source: source, turn: make(chan struct{}, 1), parsed: map[string]parsed{}, whole: time.Now(), readFile: os.ReadFile, git: runGit}
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
func (p *policies) forget() { p.again = true }

// read reads and checks all files; of those that surely are as they were, what they say is kept.
func (p *policies) read() (policySet, error) { return p.readAt(time.Now()) }

func (p *policies) readAt(now time.Time) (policySet, error) {
	set := policySet{place: map[string]int{}}
	files, err := p.files()
	if err != nil {
		return set, err
	}
	p.again = false
	parsed, docs := make(map[string]parsed, len(files)), 0
	for _, f := range files {
		if parsed[f], err = p.content(f, now); err != nil {
			p.forget() // it may be readable a moment later, and look the same
			return set, fmt.Errorf("policies: %w", err)
		}
		docs += len(parsed[f].docs)
	}
	p.parsed, set.docs = parsed, make([]policy.Document, 0, docs)
	var all policy.Findings
	for _, f := range files {
		set.docs, all = append(set.docs, parsed[f].docs...), append(all, parsed[f].findings...)
	}
	all = append(all, policy.CheckSet(set.docs, p.source)...)
	if errs := all.Errors(); len(errs) > 0 {
		return set, errs
	}
	for i := range set.docs {
		set.place[set.docs[i].Policy.Service] = i
	}
	set.origins = p.originsOf(files)
	return set, nil
}

// content is what a file says. It is read unless it surely is as it was, and parsed where its content is new.
func (p *policies) content(file string, now time.Time) (parsed, error) {
	looks := stampOf(file)
	was, known := p.parsed[file]
	if was.sure && was.stamp == looks {
		return was, nil
	}
	data, err := p.readFile(file)
	if err != nil {
		return was, err
	}
	is := parsed{stamp: looks, sure: looks.tells(now), sum: sha256.Sum256(data), docs: was.docs, findings: was.findings}
	if !known || is.sum != was.sum {
		is.docs, is.findings = policy.Parse(file, data)
	}
	return is, nil
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

// changed reports whether the files are others than those that were read. When it is told that something happened it reads those that
// changed shortly before they were read, for file systems whose times are coarse, and once in a while all of them.
func (p *policies) changed(now time.Time, told bool) bool {
	files, err := p.files()
	if err != nil { // whoever reads them says so, once
		said := p.trouble == err.Error()
		p.trouble = err.Error()
		return !said
	}
	p.trouble = ""
	if p.again || !p.lookAlike(files) {
		return true
	}
	all, differ := now.Sub(p.whole) >= readAnyway, false
	if all {
		p.whole = now
	}
	for _, f := range files {
		if all || told && !p.parsed[f].sure {
			differ = p.differs(f, now) || differ
		}
	}
	return differ
}

// lookAlike reports whether the files are those that were read, and look as they did then.
func (p *policies) lookAlike(files []string) bool {
	return len(files) == len(p.parsed) && !slices.ContainsFunc(files, func(f string) bool {
		was, known := p.parsed[f]
		return !known || was.stamp != stampOf(f)
	})
}

// differs reads a file that looks as it did, and reports whether its content is another one.
func (p *policies) differs(file string, now time.Time) bool {
	data, err := p.readFile(file)
	if err != nil {
		return false
	}
	was := p.parsed[file]
	same := sha256.Sum256(data) == was.sum
	was.sure = same && was.stamp.tells(now)
	p.parsed[file] = was
	return !same
}
