package docker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

const pullMost = 15 * time.Minute

// image pulls the image where it is not there yet. One that was judged has to be that very image: a tag that means another
// one by now is not what the way back leads to.
func (f *Fleet) image(ctx context.Context, want Want, w *worker) error {
	short, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	have, err := f.cli.ImageInspect(short, want.Image)
	there := want.event()
	there.Image, there.Note = true, "starting containers"
	switch {
	case err == nil && !want.Renew && want.is(have.RepoDigests):
		there.Digests = digests(want.Image, have.RepoDigests)
		f.tell(ctx, w, there)
		return nil
	case err == nil:
	case errdefs.IsInvalidArgument(err):
		return &versionError{fmt.Errorf("image %s: %w", want.Image, err)}
	case !errdefs.IsNotFound(err):
		return err
	}
	e := want.event()
	e.Note = "pulling " + want.exactly()
	f.tell(ctx, w, e)
	if failed := f.pullFor(ctx, want); failed != nil {
		return &versionError{fmt.Errorf("image %s cannot be pulled: %w", want.exactly(), failed)}
	}
	there.Pulled = err != nil                           // if it is there already, canaryd has not pulled it
	after, cancel := context.WithTimeout(ctx, callMost) // the pull had its own time
	defer cancel()
	if have, err = f.cli.ImageInspect(after, want.Image); err == nil {
		there.Digests = digests(want.Image, have.RepoDigests)
	}
	f.tell(ctx, w, there)
	return nil
}

// is reports whether an image is the one that was judged, as far as that is known.
func (want Want) is(all []string) bool {
	own := digests(want.Image, all)
	return want.Digest == "" || len(own) == 0 || slices.Contains(own, want.Digest)
}

// exactly names the image that is wanted: by its digest where that is known.
func (want Want) exactly() string {
	named, err := reference.ParseNormalizedNamed(want.Image)
	if err != nil || want.Digest == "" {
		return want.Image
	}
	return reference.FamiliarName(named) + "@" + want.Digest
}

// pullFor pulls what is wanted, and gives it the name that the policy knows it by.
func (f *Fleet) pullFor(ctx context.Context, want Want) error {
	exactly := want.exactly()
	if err := f.pull(ctx, exactly); err != nil || exactly == want.Image || strings.Contains(want.Image, "@") {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	_, err := f.cli.ImageTag(ctx, client.ImageTagOptions{Source: exactly, Target: want.Image})
	return err
}

// gone reports whether an image is not on the host.
func (f *Fleet) gone(ctx context.Context, image string) bool {
	_, err := f.cli.ImageInspect(ctx, image)
	return errdefs.IsNotFound(err)
}

// digests are those by which the image's own repository knows it. An image that was never pulled or pushed has none.
func digests(image string, all []string) (out []string) {
	own, err := reference.ParseNormalizedNamed(image)
	for _, d := range all {
		if r, bad := reference.ParseNormalizedNamed(d); err == nil && bad == nil && r.Name() == own.Name() {
			out = append(out, d[strings.IndexByte(d, '@')+1:])
		}
	}
	return out
}

func (f *Fleet) pull(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, pullMost)
	defer cancel()
	auth, err := login(ctx, image)
	if err != nil {
		return err
	}
	r, err := f.cli.ImagePull(ctx, image, client.ImagePullOptions{RegistryAuth: auth})
	if err != nil {
		return err
	}
	return r.Wait(ctx)
}

// login is what `docker login` left for the image's registry, in ~/.docker/config.json or where
// DOCKER_CONFIG says; empty: none.
func login(ctx context.Context, image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", err
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return "", fmt.Errorf("the credentials of `docker login`: %w", err)
	}
	host := reference.Domain(named)
	c, err := store.Get(ctx, credentials.ServerAddressFromHostname(host))
	if err != nil {
		return "", fmt.Errorf("the credentials of `docker login` for %s: %w", host, err)
	}
	if c.Username == "" && c.RefreshToken == "" && c.AccessToken == "" {
		return "", nil
	}
	return authconfig.Encode(registry.AuthConfig{Username: c.Username, Password: c.Password, IdentityToken: c.RefreshToken, RegistryToken: c.AccessToken, ServerAddress: host})
}

// removeImage takes an image off the host, unless a container still needs it.
func (f *Fleet) removeImage(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	_, err := f.cli.ImageRemove(ctx, image, client.ImageRemoveOptions{PruneChildren: true})
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
		return fmt.Errorf("image %s cannot be removed: %w", image, err)
	}
	return nil
}
