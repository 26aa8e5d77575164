package controller

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	gitPatience = 2 * time.Second
	gitPerDir   = time.Millisecond // what git may take longer for each directory that it is asked about at once
	gitPaths    = 32               // that git is given: it compares each name that it knows with each of them
)

// origin is where a policy text came from.
type origin struct {
	commit string
	clean  *bool
}

// runGit asks git something in a directory.
func runGit(ctx context.Context, dir string, args ...string) (string, error) {
	// Without its optional locks git writes nothing: on a frozen file system not even a kill would end it.
	cmd := exec.CommandContext(ctx, "git", append([]string{"--no-optional-locks", "--literal-pathspecs", "-C", dir}, args...)...)
	cmd.WaitDelay = gitPatience
	out, err := cmd.Output()
	return string(out), err
}

// originsOf says where the files of each directory came from. Git is asked once for each work tree that directories are in, and
// never where there is none.
func (p *policies) originsOf(files []string) map[string]origin {
	origins, names, trees, repos := map[string]origin{}, map[string]bool{}, map[string]*workTree{}, newRepos()
	for _, f := range files {
		names[filepath.Base(f)] = true
		dir := filepath.Dir(f)
		if _, seen := origins[dir]; seen {
			continue
		}
		origins[dir] = origin{}
		real, repo := repos.of(dir)
		if repo == "" {
			continue
		}
		if trees[repo] == nil {
			trees[repo] = &workTree{git: p.git}
		}
		trees[repo].dirs, trees[repo].reals = append(trees[repo].dirs, dir), append(trees[repo].reals, real)
	}
	for _, t := range trees {
		t.note(origins, names)
	}
	return origins
}

// workTree has the directories of policy files that one repository has.
type workTree struct {
	git   func(ctx context.Context, dir string, args ...string) (string, error)
	dirs  []string // as they are named
	reals []string // the same, without links
}

// note asks git about the directories; nothing where it refuses. Clean means that none of the files with the given names, in a
// directory or below it, differs from the commit; what else lies there does not matter.
func (t *workTree) note(origins map[string]origin, names map[string]bool) {
	ctx, cancel := context.WithTimeout(context.Background(), gitPatience+time.Duration(len(t.dirs))*gitPerDir)
	defer cancel()
	head, err := t.git(ctx, t.reals[0], "rev-parse", "HEAD", "--show-cdup")
	if err != nil {
		return
	}
	commit, up, _ := strings.Cut(head, "\n")
	// A rename is told as a removal and an addition: the names on both sides count.
	changes, err := t.git(ctx, t.reals[0], append([]string{"-c", "status.renames=false", "status", "--porcelain", "-z", "--"}, fewPaths(t.reals)...)...)
	changed := changedIn(filepath.Join(t.reals[0], strings.TrimSuffix(up, "\n")), changes, names)
	for i, dir := range t.dirs {
		o := origin{commit: commit}
		if err == nil {
			clean := !changed[t.reals[i]]
			o.clean = &clean
		}
		origins[dir] = o
	}
}

// changedIn are the directories in or below which a file with one of the names differs from the commit, says git's status of the
// work tree.
func changedIn(top, status string, names map[string]bool) map[string]bool {
	changed := map[string]bool{}
	for entry := range strings.SplitSeq(status, "\x00") {
		path := filepath.Join(top, filepath.FromSlash(entry[min(3, len(entry)):])) // two letters of status and a blank
		if !names[filepath.Base(path)] {
			continue
		}
		for dir := filepath.Dir(path); !changed[dir]; dir = filepath.Dir(dir) {
			changed[dir] = true
		}
	}
	return changed
}

// fewPaths are the directories, or where they are many some that all of them lie in: the deepest are taken together first.
func fewPaths(dirs []string) []string {
	paths := slices.Compact(slices.Sorted(slices.Values(dirs)))
	depth := func(path string) int { return strings.Count(path, string(filepath.Separator)) }
	for len(paths) > gitPaths {
		deepest := 0
		for _, p := range paths {
			deepest = max(deepest, depth(p))
		}
		for i, p := range paths {
			if depth(p) == deepest {
				paths[i] = filepath.Dir(p)
			}
		}
		slices.Sort(paths)
		paths = slices.Compact(paths)
	}
	return paths
}
