package docker

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// LabelSeal says that canaryd made a container of that very name: labels alone are copied with an image that somebody
// commits, and written by anybody.
const LabelSeal = "canaryd.seal"

// Key is what containers are sealed with; the same after a restart.
type Key []byte

func (k Key) seal(name string) string {
	m := hmac.New(sha256.New, k)
	m.Write([]byte("docker container\x00" + name))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// owns reports whether canaryd made a container for an attempt of the version. Those of earlier releases have no seal:
// there the name is what is known.
func (f *Fleet) owns(want Want, c container.Summary, attempt int) bool {
	want.Attempt, want.Sealed = attempt, want.Sealed && attempt == want.Attempt
	name := nameOf(c)
	if n, ok := strings.CutPrefix(name, want.stem()); !ok || n == "" || strings.Trim(n, "0123456789") != "" {
		return false
	}
	if seal := c.Labels[LabelSeal]; seal != "" || want.Sealed {
		return hmac.Equal([]byte(seal), []byte(f.key.seal(name)))
	}
	return true
}
