package xds

import (
	"iter"
	"maps"
	"slices"
	"strings"
)

// Nearly all that nearly all Envoys have they have accepted, and nothing happens to it. That costs a stream one pointer: all
// streams have the same item of it, which is never changed. What is to be changed is taken out first (has).

// rests reports whether there is no more to be known of an item than what the Envoy has.
func (it *item) rests() bool {
	return it.acked != nil && it.sent == it.acked && it.answered && !it.again && !it.acked.unknown && it.perhaps == nil && it.left == nil &&
		len(it.flying)+len(it.refused) == 0 && it.retry.IsZero() && it.backoff == 0
}

// resting is the item that streams share; who must not be changed.
func (r *Resource) resting(subscribed, presented bool) *item {
	which := 0
	if subscribed {
		which |= 1
	}
	if presented {
		which |= 2
	}
	if r.still[which] == nil {
		r.still[which] = &item{subscribed: subscribed, presented: presented, answered: true, sent: r, acked: r}
	}
	return r.still[which]
}

// resting finds where something is, or would be, among what rests.
func (k *kind) resting(name string) (at int, found bool) { return position(k.still, name) }

func position(still []*item, name string) (at int, found bool) {
	return slices.BinarySearchFunc(still, name, func(it *item, name string) int { return strings.Compare(it.acked.Name, name) })
}

// item finds what there is of a resource, to be read.
func (k *kind) item(name string) *item {
	if it := k.items.m[name]; it != nil {
		return it
	}
	if at, found := k.resting(name); found {
		return k.still[at]
	}
	return nil
}

// has makes the item of a resource, to be changed.
func (k *kind) has(name string) *item {
	it := k.items.m[name]
	if it != nil {
		return it
	}
	it = &item{}
	if at, found := k.resting(name); found {
		*it = *k.still[at]
		k.unrest(at)
	}
	k.items.put(name, it)
	return it
}

// rest puts aside what rests of some resources.
func (k *kind) rest(of []parcel) {
	var more []*item
	for _, p := range of {
		if it := k.items.m[p.ref.Name]; it != nil && it.rests() {
			k.items.drop(p.ref.Name)
			more = append(more, it.acked.resting(it.subscribed, it.presented))
		}
	}
	slices.SortFunc(more, func(a, b *item) int { return strings.Compare(a.acked.Name, b.acked.Name) })
	have := len(k.still)
	k.shared = k.shared && len(more) == 0 // which has no room for more: they are put into a copy
	if most := have + len(more); most > cap(k.still) {
		k.still = append(make([]*item, 0, most+most/8), k.still...)
	}
	k.still = append(k.still, more...)
	news := 0                       // the place of one of them
	for len(more) > 0 && have > 0 { // from the back, so that each is moved once, and without a look at those that are
		last := len(more) - 1
		at, _ := position(k.still[:have], more[last].acked.Name)
		copy(k.still[at+len(more):], k.still[at:have])
		k.still[at+last], more, have, news = more[last], more[:last], at, at+last
	}
	whole := len(k.items.m)+k.looks() == 0 // else the list is this stream's for a moment, and nobody else's
	if copy(k.still, more); whole && !k.shared && len(k.still) >= leastShared {
		k.still, k.shared = k.lists.one(k.still, news), true
	}
}

// leastShared is how long a list is that streams share.
const leastShared = 64

// lists are some of those that rest, the last asked for first: edges that have the same have one list of it, as long as
// nothing of it changes. Invariant: a list that was handed out is never changed, and has no room.
type lists struct{ last [16][]*item }

// one is a list of the same content, which others may have as well. At a place where it is new most others differ: that is looked
// at before all of it is.
func (l *lists) one(of []*item, news int) []*item {
	at := slices.IndexFunc(l.last[:], func(o []*item) bool { return len(o) == len(of) && o[news] == of[news] && slices.Equal(o, of) })
	if at >= 0 {
		of = l.last[at]
	} else {
		at = len(l.last) - 1
		of = slices.Clone(of)
		of = of[:len(of):len(of)]
	}
	copy(l.last[1:at+1], l.last[:at])
	l.last[0] = of
	return of
}

// drop forgets what there is of a resource.
func (k *kind) drop(name string) {
	k.items.drop(name)
	k.outgoing.drop(name)
	if at, found := k.resting(name); found {
		k.unrest(at)
	}
}

// unrest takes one of what rests out.
func (k *kind) unrest(at int) {
	if k.shared {
		k.still, k.shared = slices.Clone(k.still), false
	}
	k.still = slices.Delete(k.still, at, at+1)
}

func (k *kind) size() int { return len(k.items.m) + len(k.still) }

// names are those of all items that there are now, each of which may be changed meanwhile, or come to rest or out of it.
func (k *kind) names() iter.Seq[string] {
	return func(yield func(string) bool) {
		still, names := slices.Clone(k.still), slices.AppendSeq(make([]string, 0, len(k.items.m)), maps.Keys(k.items.m))
		for _, it := range still {
			if !yield(it.acked.Name) {
				return
			}
		}
		slices.Values(names)(yield)
	}
}

// all are all items, to be read.
func (k *kind) all() iter.Seq2[string, *item] {
	return func(yield func(string, *item) bool) {
		for _, it := range k.still {
			if !yield(it.acked.Name, it) {
				return
			}
		}
		maps.All(k.items.m)(yield)
	}
}

// lean is a map that gives its memory back when it is empty, unless it was never large.
type lean[K comparable, V any] struct {
	m    map[K]V
	most int
}

func (l *lean[K, V]) put(key K, v V) {
	if l.m == nil {
		l.m = map[K]V{}
	}
	l.m[key] = v
	l.most = max(l.most, len(l.m))
}

func (l *lean[K, V]) drop(key K) {
	const small = 8
	if delete(l.m, key); len(l.m) == 0 && l.most > small {
		l.m, l.most = nil, 0
	}
}

// insert is slices.Insert where very many slices are short: an eighth of one is unused, not half.
func insert[E any](s []E, at int, e E) []E {
	if len(s) == cap(s) {
		s = append(make([]E, 0, len(s)+len(s)/8+2), s...)
	}
	return slices.Insert(s, at, e)
}
