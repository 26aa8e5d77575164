package main

import (
	"fmt"
	"path/filepath"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/policy"
)

// server is what a canaryd.yml says of the policies that it names.
type server struct {
	bounds docker.Bounds
	access *access.Config  // nil: not known, or wrong
	at     policy.Finding  // where that is said
	named  map[string]bool // files, by their absolute names
}

func (s *server) names(files []string) {
	if s.named == nil {
		s.named = map[string]bool{}
	}
	for _, f := range files {
		if abs, err := filepath.Abs(f); err == nil {
			s.named[abs] = true
		}
	}
}

// beyond finds what policies would start and mount, and what the bounds of their canaryd.yml refuse: of the one that names
// them, or of the only one there is.
func (k *checker) beyond() (fs policy.Findings) {
	for i := range k.docs {
		d := &k.docs[i]
		if d.Policy.Docker == nil {
			continue
		}
		abs, err := filepath.Abs(d.File)
		for _, s := range k.servers {
			if len(k.servers) == 1 || err == nil && s.named[abs] {
				fs = append(fs, beyondBounds(d, &s.bounds)...)
			}
		}
	}
	return fs
}

func beyondBounds(d *policy.Document, b *docker.Bounds) (fs policy.Findings) {
	spec := d.Policy.Docker
	if spec.Image != "" {
		if err := b.RefuseImage(spec, spec.Image); err != nil {
			fs = append(fs, d.Finding("docker.image", err.Error()))
		}
	}
	for i, v := range spec.Volumes {
		if err := b.RefuseVolume(v); err != nil {
			fs = append(fs, d.Finding(fmt.Sprintf("docker.volumes[%d]", i), err.Error()))
		}
	}
	return fs
}
