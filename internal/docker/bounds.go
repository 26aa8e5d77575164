package docker

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/canaryd/canaryd/internal/policy"
)

// Bounds are what containers may be, whatever a policy or who deploys says.
type Bounds struct {
	Allow   []string // globs of image names without tag; none: the repository that the policy names
	Volumes []string // directories of the Docker host, and globs of the names of volumes; none: no volumes
}

// Check says what is wrong with the bounds.
func (b *Bounds) Check() error {
	for _, list := range [][]string{b.Allow, b.Volumes} {
		for _, glob := range list {
			if _, err := path.Match(glob, ""); err != nil || glob == "" {
				return fmt.Errorf("%q is not a valid glob", glob)
			}
		}
	}
	for _, glob := range b.Allow {
		if last := glob[strings.LastIndex(glob, "/")+1:]; strings.ContainsAny(last, ":@") {
			return fmt.Errorf("allow: %q: name repositories, as in registry.example.com/shop*, without a tag", glob)
		}
	}
	return nil
}

// Refuse says why an image may not run with what a policy says.
func (b *Bounds) Refuse(d *policy.Docker, image string) error {
	if d.Port == 0 {
		return fmt.Errorf("image %s: docker.port is missing in the policy: nobody knows where its containers listen", image)
	}
	if err := b.RefuseImage(d, image); err != nil {
		return err
	}
	for _, v := range d.Volumes {
		if err := b.RefuseVolume(v); err != nil {
			return err
		}
	}
	return nil
}

// RefuseImage says why an image may not run.
func (b *Bounds) RefuseImage(d *policy.Docker, image string) error {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return fmt.Errorf("%q is not an image: %w", image, err)
	}
	if b.allows(d, named) {
		return nil
	}
	may := "the repository of docker.image in the policy"
	if len(b.Allow) > 0 {
		may = strings.Join(b.Allow, ", ")
	} else if d.Image != "" {
		may = d.Image
	}
	return fmt.Errorf("image %s may not run here, only %s may: docker.allow in canaryd.yml says which repositories", image, may)
}

// RefuseVolume says why an entry of docker.volumes in a policy may not be mounted.
func (b *Bounds) RefuseVolume(v string) error {
	if from, _, _ := strings.Cut(v, ":"); !b.mounts(from) {
		return fmt.Errorf("volume %q may not be mounted: list its directory or its name in docker.volumes of canaryd.yml", from)
	}
	return nil
}

// allows compares names both as people write them and in full.
func (b *Bounds) allows(d *policy.Docker, image reference.Named) bool {
	if len(b.Allow) > 0 {
		return slices.ContainsFunc(b.Allow, func(glob string) bool {
			return policy.Matches(glob, image.Name()) || policy.Matches(glob, reference.FamiliarName(image))
		})
	}
	own, err := reference.ParseNormalizedNamed(d.Image)
	return err == nil && own.Name() == image.Name()
}

// mounts: a directory is allowed with all that lies below it; a path that climbs is not cleaned but refused.
func (b *Bounds) mounts(from string) bool {
	if strings.HasPrefix(from, "/") {
		return path.Clean(from) == strings.TrimSuffix(from, "/") && slices.ContainsFunc(b.Volumes, func(dir string) bool {
			below := strings.TrimSuffix(dir, "/") + "/"
			return strings.HasPrefix(dir, "/") && strings.HasPrefix(from+"/", below)
		})
	}
	return !strings.ContainsAny(from, `./~\`) && slices.ContainsFunc(b.Volumes, func(glob string) bool { return !strings.HasPrefix(glob, "/") && policy.Matches(glob, from) })
}
