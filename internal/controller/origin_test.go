package controller

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ground has directories of policy files, in repositories and in none.
type ground struct {
	t     *testing.T
	dir   string
	files []string
	asked []string // of git
}

func newGround(t *testing.T) *ground {
	real, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &ground{t: t, dir: real}
}

func (g *ground) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// put writes a policy file.
func (g *ground) put(path, text string) {
	g.t.Helper()
	file := filepath.Join(g.dir, path)
	g.must(os.MkdirAll(filepath.Dir(file), 0o700))
	g.must(os.WriteFile(file, []byte(text), 0o600))
	if !slices.Contains(g.files, file) {
		g.files = append(g.files, file)
	}
}

func (g *ground) git(dir string, args ...string) {
	g.t.Helper()
	args = append([]string{"-C", filepath.Join(g.dir, dir), "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)
	if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
		g.t.Fatalf("git: %v %s", err, out)
	}
}

// committed makes a repository of a directory.
func (g *ground) committed(dir string) {
	g.t.Helper()
	g.git(dir, "init", "-q")
	g.git(dir, "add", ".")
	g.git(dir, "commit", "-qm", dir)
}

func (g *ground) origins() map[string]origin {
	p := newPolicies(nil, "envoy")
	g.asked = nil
	p.git = func(ctx context.Context, dir string, args ...string) (string, error) {
		g.asked = append(g.asked, dir)
		return runGit(ctx, dir, args...)
	}
	return p.originsOf(g.files)
}

// said is an origin in words; of a commit its beginning.
func (o origin) said() string {
	if o.clean == nil {
		return strings.TrimSpace(o.commit + " ?")
	}
	return fmt.Sprint(o.commit, " ", *o.clean)
}

// alone asks git about one directory, by itself.
func (g *ground) alone(dir string) origin {
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", append([]string{"--no-optional-locks", "-C", dir}, args...)...).Output()
		return strings.TrimRight(string(out), "\n"), err
	}
	commit, err := git("rev-parse", "HEAD")
	if err != nil {
		return origin{}
	}
	o, clean := origin{commit: commit}, true
	changes, err := git("status", "--porcelain", "--", ".")
	if err != nil {
		return o
	}
	for line := range strings.Lines(changes) {
		name := filepath.Base(strings.TrimSpace(line[3:]))
		clean = clean && !slices.ContainsFunc(g.files, func(f string) bool { return filepath.Base(f) == name })
	}
	o.clean = &clean
	return o
}

// asAlone checks that of each directory that is told which git tells of it by itself.
func (g *ground) asAlone(what string) {
	g.t.Helper()
	got := g.origins()
	for _, f := range g.files {
		dir := filepath.Dir(f)
		if got, want := got[dir].said(), g.alone(dir).said(); got != want {
			g.t.Errorf("%s: %s is %q, git tells %q", what, strings.TrimPrefix(dir, g.dir), got, want)
		}
	}
}

// asking checks how often git was asked.
func (g *ground) asking(what string, want int) {
	g.t.Helper()
	if len(g.asked) != want {
		g.t.Errorf("%s: git was asked %d times in %v, want %d", what, len(g.asked), g.asked, want)
	}
}

// However many directories have policies, git is asked once for each work tree, and not where there is none.
func TestGitIsAskedOnceForEachWorkTree(t *testing.T) {
	g := newGround(t)
	for i := range 3 * gitPaths {
		g.put(fmt.Sprintf("plain/s%02d/policy.yml", i), "1")
	}
	g.asAlone("no work tree")
	g.asking("no work tree", 0)
	for i := range 3 * gitPaths {
		g.put(fmt.Sprintf("repo/eu/s%02d/policy.yml", i), "1")
		g.put(fmt.Sprintf("repo/us/west/s%02d/policy.yml", i), "1")
	}
	g.committed("repo")
	g.asAlone("one work tree")
	g.asking("one work tree", 2)
	g.put("repo/eu/s07/policy.yml", "2")
	g.put("repo/us/west/s08/policy.yml", "2")
	g.put("repo/us/west/policy.yml", "1")
	g.put("repo/us/west/s09/other.yml", "1")
	g.asAlone("edits")
	g.asking("edits", 2)
	if got := g.origins(); *got[filepath.Join(g.dir, "repo/eu/s07")].clean || !*got[filepath.Join(g.dir, "repo/eu/s08")].clean {
		t.Error("one edited directory is clean, or its neighbour is not")
	}
}

// What is told of a directory is what git tells of it, whatever it lies in.
func TestOriginsAreWhatGitTellsOfEachDirectory(t *testing.T) {
	g := newGround(t)
	for _, path := range []string{"repo/a/policy.yml", "repo/a/deep/policy.yml", "repo/b/policy.yml", "repo/[c]/policy.yml", "repo/policy.yml", "repo/gone/away.yml"} {
		g.put(path, path)
	}
	g.committed("repo")
	g.put("repo/untracked/policy.yml", "1")
	g.put("repo/inner/policy.yml", "1")
	g.committed("repo/inner")
	g.put("repo/inner/policy.yml", "2")
	g.put("repo/hollow/policy.yml", "1") // its .git is nothing: git looks further up
	g.must(os.Mkdir(filepath.Join(g.dir, "repo/hollow/.git"), 0o700))
	g.put("repo/broken/policy.yml", "1")
	g.must(os.WriteFile(filepath.Join(g.dir, "repo/broken/.git"), []byte("gitdir: nowhere\n"), 0o600))
	g.git("repo", "worktree", "add", "-q", "../second")
	g.put("second/a/policy.yml", "2")
	g.put("second/b/policy.yml", "repo/b/policy.yml")
	g.put("begun/policy.yml", "1")
	g.git("begun", "init", "-q")
	g.git("", "clone", "-q", "--bare", "repo", "bare")
	g.put("bare/refs/policy.yml", "1")
	g.put("repo/.git/info/policy.yml", "1")
	g.must(os.Symlink("repo/a", filepath.Join(g.dir, "link")))
	g.files = append(g.files, filepath.Join(g.dir, "link/policy.yml"), filepath.Join(g.dir, "link/deep/policy.yml"), filepath.Join(g.dir, "nothing/policy.yml"))
	g.asAlone("all sorts")
	g.asking("all sorts", 8+6) // for the commit in repo, inner, hollow, broken, second, begun, bare and .git; broken and begun have none
	g.put("repo/a/deep/policy.yml", "2")
	g.put("repo/[c]/policy.yml", "2")
	g.git("repo", "mv", "gone/away.yml", "b/away.yml")
	g.asAlone("changes")
	t.Setenv("GIT_CEILING_DIRECTORIES", filepath.Join(g.dir, "repo"))
	g.asAlone("a ceiling")
	t.Setenv("GIT_CEILING_DIRECTORIES", "")
	t.Setenv("GIT_DIR", filepath.Join(g.dir, "repo", ".git"))
	g.asAlone("a repository by name")
}

// What git refuses, as the repository of another user, has no origin.
func TestARefusedRepositoryIsNoOrigin(t *testing.T) {
	g := newGround(t)
	g.put("repo/a/policy.yml", "1")
	g.put("repo/b/policy.yml", "1")
	g.committed("repo")
	t.Setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
	g.asAlone("of another user")
	g.asking("of another user", 1)
	if got := g.origins()[filepath.Join(g.dir, "repo/a")].said(); got != "?" {
		t.Errorf("the origin is %q", got)
	}
}

// Each directory on the way up is looked at once, however many lie below it.
func TestDirectoriesAreLookedAtOnce(t *testing.T) {
	g := newGround(t)
	for i := range 20 {
		g.put(fmt.Sprintf("dirs/s%02d/policy.yml", i), "1")
	}
	looks, r := map[string]int{}, newRepos()
	r.lstat = func(path string) (fs.FileInfo, error) { looks[path]++; return os.Lstat(path) }
	for range 2 {
		for _, f := range g.files {
			r.of(filepath.Dir(f))
		}
	}
	for path, times := range looks {
		if times > 1 {
			t.Errorf("%s was looked at %d times", path, times)
		}
	}
	if most := 3 * (20 + strings.Count(g.dir, "/") + 2); len(looks) > most {
		t.Errorf("%d looks, want %d at most", len(looks), most)
	}
}
