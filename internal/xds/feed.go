package xds

import (
	"maps"
	"sync"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/sirupsen/logrus"
)

// fed is a cache that answers a request when it has all that was published before that: what a client is sent was in force when it asked.
type fed struct {
	*cache.LinearCache
	feed *feed
}

// CreateWatch implements cache.Cache.
func (c fed) CreateWatch(r *cache.Request, sub cache.Subscription, answers chan cache.Response) (cancel func(), err error) {
	c.feed.wait()
	return c.LinearCache.CreateWatch(r, sub, answers)
}

// feed brings what is published into the caches that gRPC clients are served from, without the hub's mutex: a cache works
// out what each client gets of all names that it asks for, and waits for those who ask meanwhile. What is published while
// it is at it goes together after that: clients are looked at once for all of it, and a cut stands behind one such turn,
// however much came before it. A goroutine does it, which ends when there is nothing left to do.
type feed struct {
	log    logrus.FieldLogger
	caches map[string]*cache.LinearCache

	mu     sync.Mutex
	turned *sync.Cond // the caches have more than before
	next   supply
	busy   bool   // a goroutine is at it
	handed uint64 // how often something was handed over
	has    uint64 // how much of that the caches have
}

func newFeed(log logrus.FieldLogger, caches map[string]*cache.LinearCache) *feed {
	f := &feed{log: log, caches: caches}
	f.turned = sync.NewCond(&f.mu)
	return f
}

// supply is what is new in the caches, by type and name. nil: it goes.
type supply map[string]map[string]types.Resource

// order is that in which clients may have what is new: first what a route names.
func (supply) order() []string { return []string{TypeEndpoint, TypeCluster, TypeRoute, TypeListener} }

// put hands over what is new. Of what was handed over already and is not in the caches, only the newest gets there.
func (f *feed) put(s supply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == nil {
		f.next = supply{}
	}
	for typ, of := range s {
		if f.next[typ] == nil {
			f.next[typ] = map[string]types.Resource{}
		}
		maps.Copy(f.next[typ], of)
	}
	if f.handed++; !f.busy {
		f.busy = true
		go f.run()
	}
}

// wait returns when the caches have what was handed over before, in two turns at most, whatever comes meanwhile.
func (f *feed) wait() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for before := f.handed; f.has < before; {
		f.turned.Wait()
	}
}

func (f *feed) run() {
	for s, upTo := f.take(0); s != nil; s, upTo = f.take(upTo) {
		f.supply(s)
	}
}

// take is what comes next, and how much of what was handed over the caches have with it; nil: nothing.
func (f *feed) take(has uint64) (s supply, upTo uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if has > 0 {
		f.has = has
		f.turned.Broadcast()
	}
	s, f.next = f.next, nil
	f.busy = s != nil
	return s, f.handed
}

// supply updates the caches. Nothing goes before everybody may have the routes that no longer name it.
func (f *feed) supply(s supply) {
	gone := map[string][]string{}
	for _, typ := range s.order() {
		fresh := map[string]types.Resource{}
		for name, r := range s[typ] {
			if r == nil {
				gone[typ] = append(gone[typ], name)
			} else {
				fresh[name] = r
			}
		}
		f.update(typ, fresh, nil)
	}
	for _, typ := range s.order() {
		f.update(typ, nil, gone[typ])
	}
}

func (f *feed) update(typ string, fresh map[string]types.Resource, gone []string) {
	if len(fresh)+len(gone) == 0 {
		return
	}
	if err := f.caches[typ].UpdateResources(fresh, gone); err != nil {
		f.log.WithField("type", shortType(typ)).WithError(err).Warn("some gRPC clients were not told of a change")
	}
}
