package controller

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// repos finds the repositories of directories as git does: in the directory or above it, up to the border of its file system. Each
// directory is looked at once. What git itself thinks of a repository has to be asked.
type repos struct {
	lstat   func(string) (fs.FileInfo, error)
	each    bool             // git looks elsewhere, at another place for each directory
	visited map[string]place // by absolute path
}

// place is what is known of a directory.
type place struct {
	real   string // without links; empty: it cannot be looked at
	device uint64
	repo   string // the directory with the repository; empty: there is none
}

func newRepos() *repos {
	r := &repos{lstat: os.Lstat, visited: map[string]place{}}
	r.each = slices.ContainsFunc([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM"}, func(name string) bool {
		return os.Getenv(name) != ""
	})
	return r
}

// of says where a directory really is, and which one has its repository.
func (r *repos) of(dir string) (real, repo string) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", ""
	}
	is := r.visit(abs)
	if r.each {
		return is.real, is.real
	}
	return is.real, is.repo
}

func (r *repos) visit(dir string) place {
	is, visited := r.visited[dir]
	if !visited {
		is = r.look(dir)
		r.visited[dir] = is
	}
	return is
}

func (r *repos) look(dir string) place {
	info, err := r.lstat(dir)
	if err != nil {
		return place{}
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return place{}
		}
		return r.visit(real)
	}
	var s stamp
	s.identify(info)
	is, parent := place{real: dir, device: s.device}, filepath.Dir(dir)
	if parent != dir {
		up := r.visit(parent)
		if real := filepath.Join(up.real, filepath.Base(dir)); up.real != "" && real != dir {
			return r.visit(real)
		}
		if up.device == is.device {
			is.repo = up.repo
		}
	}
	if r.has(dir) {
		is.repo = dir
	}
	return is
}

// has reports whether a directory has a repository, or a file that leads to one as in submodules and further work trees, or is one.
// What cannot be looked at git is asked about.
func (r *repos) has(dir string) bool {
	there := func(name string) bool {
		_, err := r.lstat(filepath.Join(dir, name))
		return !errors.Is(err, fs.ErrNotExist)
	}
	return there(".git") || there("HEAD") && there("objects")
}
