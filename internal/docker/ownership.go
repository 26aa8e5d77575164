package docker

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/store"
)

// LabelSeal says that canaryd made a container of that very name. It counts where no id is recorded for the name: after a
// crash between the making and the recording, or when the database is an older copy.
const LabelSeal = "canaryd.seal"

const (
	storeWait  = 2 * time.Second     // for a record to be on disk; a disk that hangs keeps no container from being made
	goneFor    = 30 * 24 * time.Hour // a record outlives its containers so long: a copy of them is nobody's
	idsPerName = 8                   // containers of one name that are known, the newest
)

// Key is what containers are sealed with; the same after a restart.
type Key []byte

func (k Key) seal(name string) string {
	m := hmac.New(sha256.New, k)
	m.Write([]byte("docker container\x00" + name))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// record is what is known of a container's name.
type record struct {
	IDs    []string  `json:"ids,omitempty"` // of the containers that canaryd made with it, the newest last
	Making bool      `json:"making,omitempty"`
	Gone   time.Time `json:"gone,omitzero"` // canaryd removed the last of them
}

// ownership are the records of all containers that canaryd made. They are true in memory at once, and on disk as soon as that takes them.
type ownership struct {
	log   logrus.FieldLogger
	store *store.Bolt

	writing sync.Mutex // one write at a time
	mu      sync.Mutex
	records map[string]record
	stems   map[string][]string // names of records, by what stands before the number: those of an attempt
	unsaved map[string]bool
	failing bool // the last write did
}

func newOwnership(log logrus.FieldLogger, s *store.Bolt) (*ownership, error) {
	o := &ownership{log: log, store: s, records: map[string]record{}, stems: map[string][]string{}, unsaved: map[string]bool{}}
	stored, err := s.Containers()
	if err != nil {
		return nil, fmt.Errorf("the ids of containers: %w", err)
	}
	for name, text := range stored {
		var r record
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("the ids of container %s: %w", name, err)
		}
		if !r.Gone.IsZero() && time.Since(r.Gone) > goneFor {
			o.unsaved[name] = true
			continue
		}
		o.put(name, r)
	}
	return o, nil
}

// put puts a record into memory. The caller holds o.mu.
func (o *ownership) put(name string, r record) {
	_, known := o.records[name]
	if stem := stemOf(name); !known && stem != "" && stem != name {
		o.stems[stem] = append(o.stems[stem], name)
	}
	o.records[name] = r
}

// change changes the record of each name, and waits until that is stored, for a moment.
func (o *ownership) change(ctx context.Context, names []string, how func(*record)) {
	if len(names) == 0 {
		return
	}
	o.mu.Lock()
	for _, n := range names {
		r := o.records[n]
		r.IDs = slices.Clone(r.IDs)
		how(&r)
		o.put(n, r)
		o.unsaved[n] = true
	}
	o.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done) // when nobody writes any more: who goes on may write at once
		o.writing.Lock()
		defer o.writing.Unlock()
		o.write()
	}()
	select {
	case <-done:
	case <-ctx.Done():
	case <-time.After(storeWait):
	}
}

// retry writes what could not be written, if anything.
func (o *ownership) retry() {
	o.mu.Lock()
	nothing := len(o.unsaved) == 0
	o.mu.Unlock()
	if nothing || !o.writing.TryLock() {
		return
	}
	go func() {
		defer o.writing.Unlock()
		o.write()
	}()
}

// write writes what is not stored yet. The caller holds o.writing.
func (o *ownership) write() {
	o.mu.Lock()
	names := slices.Collect(maps.Keys(o.unsaved))
	texts := map[string][]byte{}
	for _, n := range names {
		texts[n] = nil
		if r, ok := o.records[n]; ok {
			texts[n], _ = json.Marshal(r) // strings, a bool and a time
		}
	}
	clear(o.unsaved)
	o.mu.Unlock()
	if len(names) == 0 {
		return
	}
	err := o.store.PutContainers(texts)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		for _, n := range names {
			o.unsaved[n] = true
		}
		if !o.failing {
			o.log.WithError(err).Warn("the ids of containers cannot be stored: this is tried again; meanwhile their seals say that they are canaryd's")
		}
	}
	o.failing = err != nil
}

// making says that a container is about to be made: one that has the name from now on may be it, should canaryd not live to
// record its id.
func (o *ownership) making(ctx context.Context, name string) {
	o.mu.Lock()
	r, known := o.records[name]
	o.mu.Unlock()
	if known && !r.Making { // of a name that is not known the seal is believed anyway
		o.change(ctx, []string{name}, func(r *record) { r.Making, r.Gone = true, time.Time{} })
	}
}

// made says that a container is canaryd's.
func (o *ownership) made(ctx context.Context, name, id string) {
	o.change(ctx, []string{name}, func(r *record) {
		r.Making, r.Gone = false, time.Time{}
		if !slices.Contains(r.IDs, id) {
			r.IDs = append(r.IDs, id)
		}
		r.IDs = r.IDs[max(0, len(r.IDs)-idsPerName):]
	})
}

// gone says that canaryd removed containers, and that of an attempt none is left.
func (o *ownership) gone(ctx context.Context, cs []container.Summary, stem string) {
	now := time.Now().UTC()
	o.change(ctx, o.left(cs, stem), func(r *record) { r.Making, r.Gone = false, now })
}

// left are the names of containers and of an attempt that are not known as gone. Workers ask again and again, and nearly
// always there is none.
func (o *ownership) left(cs []container.Summary, stem string) (names []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	names = slices.Clone(o.stems[stem])
	for _, c := range cs {
		names = append(names, nameOf(c))
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(n string) bool {
		r, known := o.records[n]
		return !known || !r.Gone.IsZero()
	})
}

// stemOf is a name without its number.
func stemOf(name string) string { return strings.TrimRight(name, "0123456789") }

// isNumbered reports whether a name is the stem and a number.
func isNumbered(name, stem string) bool {
	n, ok := strings.CutPrefix(name, stem)
	return ok && n != "" && strings.Trim(n, "0123456789") == ""
}

// owns reports whether canaryd made a container for an attempt of the version: its id is recorded for its name. Where none is,
// the seal says so, and where the version is of a release that had no seals, name and labels do; from then on the id is recorded.
func (f *Fleet) owns(ctx context.Context, want Want, c container.Summary, attempt int) bool {
	want.Attempt, want.Sealed = attempt, want.Sealed && attempt == want.Attempt
	name := nameOf(c)
	if !isNumbered(name, want.stem()) {
		return false
	}
	f.owned.mu.Lock()
	r, known := f.owned.records[name]
	f.owned.mu.Unlock()
	if slices.Contains(r.IDs, c.ID) {
		return true
	}
	if known && !r.Making {
		return false
	}
	seal := c.Labels[LabelSeal]
	if (seal != "" || want.Sealed || known) && !hmac.Equal([]byte(seal), []byte(f.key.seal(name))) {
		return false
	}
	f.owned.made(ctx, name, c.ID)
	return true
}
