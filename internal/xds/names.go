package xds

import (
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What a stream may ask for. Nothing is remembered of types that are not served, nor of what is over a limit.

// refuseType notes a request for a type that is not served: it is not answered.
func (h *Hub) refuseType(n Node, typ string) {
	h.refusals.count(overTypes, n, "a request for a type that canaryd does not serve is ignored: %q", bounded(typ, nameBytes))
}

// versionBytes is more than the longest version of a route has: a hash, and what it names as cut.
const versionBytes = maxNamed + 256

// tooLong refuses a request with names that are too long before anybody has to wait for it.
func (h *Hub) tooLong(n Node, names []string, brought map[string]string) error {
	for _, name := range names {
		if len(name) > nameBytes {
			return h.refuseNames(n, "a name of %d bytes", len(name))
		}
	}
	for name, version := range brought {
		if len(name) > nameBytes || len(version) > versionBytes {
			return h.refuseNames(n, "a name of %d bytes, or a version of %d", len(name), len(version))
		}
	}
	return nil
}

// tooMany refuses more names of a type than one stream may ask for in all. What it has by a wildcard it did not ask for by name.
func (s *session) tooMany(typ string, names []string, brought map[string]string) error {
	k := s.inv.kinds[typ]
	if k == nil || len(names)+len(brought) == 0 || k.size()+len(names)+len(brought) <= s.hub.Admission.Limits.NamesPerType {
		return nil // as a rule
	}
	n := 0
	for _, it := range k.all() {
		if it.subscribed || !k.wildcard {
			n++
		}
	}
	for _, name := range names {
		if k.item(name) == nil {
			n++
		}
	}
	if n <= s.hub.Admission.Limits.NamesPerType {
		return nil
	}
	return s.hub.refuseNames(s.Node, "%d names of type %s", n, shortType(typ))
}

const seeNames = ": see xds.limits.names_per_type in canaryd.yml"

func (h *Hub) refuseNames(n Node, format string, args ...any) error {
	err := status.Errorf(codes.ResourceExhausted, format+seeNames, args...)
	h.ends(overNames, n, err)
	return err
}

// Whoever asks for very many names does so in small portions, with pauses in which others have their turn: the
// mutex alone would be taken again by who has just let go of it.
const (
	atOnce = 100
	pause  = 200 * time.Microsecond
)

// breathing goes through names with the hub's mutex held, and lets go of that now and then.
func breathing[T any](h *Hub, names iter.Seq[T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		n := 0
		for name := range names {
			if n++; n%atOnce == 0 {
				h.exit()
				time.Sleep(pause)
				h.enter()
			}
			if !yield(name) {
				return
			}
		}
	}
}
