package policy

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// keepMost is how many ended versions a service remembers.
const keepMost = 20

// mostCPUs is more than any machine has.
const mostCPUs = 100_000

func (c *check) docker(d *Docker) {
	if d == nil {
		return
	}
	if _, err := reference.ParseNormalizedNamed(d.Image); err != nil && d.Image != "" {
		c.fail("docker.image", "%q is not an image: %v", d.Image, err)
	}
	c.confined(d)
	if started := d.Image != "" || !d.Labelled(); (d.Port != 0 || started) && (d.Port < 1 || d.Port > 65535) {
		c.fail("docker.port", "port must be the port that the container listens on, 1 to 65535")
	}
	if d.Replicas < 1 || d.Replicas > 100 {
		c.fail("docker.replicas", "%d replicas: write 1 to 100", d.Replicas)
	}
	if d.StartWithin <= 0 {
		c.fail("docker.start_within", "start_within must be above 0s: it is how long a new container may take until it answers")
	}
	if _, err := regexp.Compile(d.Tags); err != nil {
		c.fail("docker.tags", "%q is not a regular expression: %v", d.Tags, err)
	} else if d.Tags != "" && d.Image == "" {
		c.fail("docker.tags", "tags are those of docker.image: name it")
	}
	if !(d.CPUs >= 0 && d.CPUs <= mostCPUs) { // .nan is neither
		c.fail("docker.cpus", "%g cpus: write a number from 0, for no limit, to %d", d.CPUs, mostCPUs)
	}
	if d.Keep < 0 || d.Keep > keepMost {
		c.fail("docker.keep", "%d: canaryd remembers the last %d ended versions, and can keep the images of so many", d.Keep, keepMost)
	}
	if _, err := netip.ParseAddr(d.Publish); err != nil && d.Publish != "" {
		c.fail("docker.publish", "%q: write the IP address of the Docker host at which ports are to be published", d.Publish)
	}
	for _, v := range d.Volumes {
		if from, to, ok := strings.Cut(v, ":"); !ok || from == "" || !strings.HasPrefix(to, "/") {
			c.fail("docker.volumes", "%q: write NAME-OR-DIRECTORY:/WHERE, as in data:/var/lib/shop:ro", v)
		}
	}
	if h := d.Healthcheck; h != nil && (len(h.Test) == 0 || !slices.Contains([]string{"CMD", "CMD-SHELL", "NONE"}, h.Test[0])) {
		c.fail("docker.healthcheck", "test must begin with CMD, CMD-SHELL or NONE, as in [CMD, /shop, -check]")
	}
	for name := range d.Labels {
		if strings.HasPrefix(name, "canaryd.") {
			c.fail("docker.labels", "label %s: labels that begin with canaryd. are canaryd's own", name)
		}
	}
}

var capability = regexp.MustCompile(`^(CAP_)?[A-Z][A-Z_]{1,30}$`)

// confined checks what a container may do to its host.
func (c *check) confined(d *Docker) {
	if d.Discover != "" && d.Discover != DiscoverLabels {
		c.fail("docker.discover", "%q: write labels, to have containers that others start and label taken for versions of the service", d.Discover)
	}
	if strings.HasPrefix(d.Network, "container:") {
		c.fail("docker.network", "%q: a version of a service has a network of its own: name a network, or host", d.Network)
	}
	for _, name := range d.Capabilities {
		if !capability.MatchString(name) {
			c.fail("docker.capabilities", "%q is not a capability: write one such as NET_BIND_SERVICE", name)
		}
	}
	for name := range d.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			c.fail("docker.env", "%q is not a name of a variable", name)
		}
	}
}
