package controller

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// mounted is a directory on another file system.
type mounted struct{ fs.FileInfo }

func (m mounted) Sys() any {
	st := *m.FileInfo.Sys().(*syscall.Stat_t)
	st.Dev++
	return &st
}

// A file system that is mounted in a work tree is none of it, as for git.
func TestARepositoryEndsWithItsFileSystem(t *testing.T) {
	g := newGround(t)
	g.put("repo/a/policy.yml", "1")
	g.put("repo/mount/b/policy.yml", "1")
	g.committed("repo")
	r := newRepos()
	r.lstat = func(path string) (fs.FileInfo, error) {
		info, err := os.Lstat(path)
		if err == nil && strings.HasPrefix(path, filepath.Join(g.dir, "repo/mount")) {
			info = mounted{info}
		}
		return info, err
	}
	if _, repo := r.of(filepath.Join(g.dir, "repo/a")); repo != filepath.Join(g.dir, "repo") {
		t.Errorf("the repository of a directory in it is %q", repo)
	}
	if _, repo := r.of(filepath.Join(g.dir, "repo/mount/b")); repo != "" {
		t.Errorf("the repository of a mounted directory is %q", repo)
	}
}
