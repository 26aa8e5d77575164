package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// The journal lies in chunks, each written in parts while it grows; the parts of a complete one are made one by Tidy.
const (
	journal bucket = "journal"      // service, 0, begin, number: a part
	ages    bucket = "journal_ages" // begin, service: nothing; to find the oldest
	ripe    bucket = "journal_ripe" // service, 0, begin: nothing; complete and not packed

	keyTail    = 12  // of a part's key: begin and number
	packAtOnce = 8   // chunks that are packed in one transaction
	tidyAtOnce = 100 // chunks or records that go in one transaction
)

// Part is a piece of a chunk. Chunks of a service are named by Begin, in the order of time, which is in nanoseconds since 1970;
// their parts are numbered from 0. Writing one again is no change.
type Part struct {
	Begin  uint64
	Number uint32
	Last   bool // the chunk is complete
	Data   []byte
}

func chunkKey(service string, begin uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(service), 0), begin)
}

func ageKey(service string, begin uint64) []byte {
	return append(binary.BigEndian.AppendUint64(nil, begin), service...)
}

// putParts writes parts of the journal.
func (w Write) putParts(tx *bbolt.Tx) error {
	j := tx.Bucket([]byte(journal))
	grown := 0
	for _, p := range w.Parts {
		chunk := chunkKey(w.Service, p.Begin)
		key := binary.BigEndian.AppendUint32(bytes.Clone(chunk), p.Number)
		grown += len(p.Data) - len(j.Get(key))
		if err := j.Put(key, p.Data); err != nil {
			return err
		}
		if a, age := tx.Bucket([]byte(ages)), ageKey(w.Service, p.Begin); a.Get(age) == nil { // what came before may be gone
			if err := a.Put(age, []byte{}); err != nil {
				return err
			}
		}
		if p.Last {
			if err := tx.Bucket([]byte(ripe)).Put(chunk, nil); err != nil {
				return err
			}
		}
	}
	return resize(tx, journal, grown)
}

// resize notes by how much the values in a bucket have grown. The sum is the bucket's sequence, which costs no page of its own;
// it is one more, so that 0 is what was never measured: that stays so until Tidy does.
func resize(tx *bbolt.Tx, of bucket, by int) error {
	n, known := sized(tx, of)
	if by == 0 || !known && of == history {
		return nil
	}
	return setSize(tx, of, n+int64(by))
}

func sized(tx *bbolt.Tx, of bucket) (n int64, known bool) {
	seq := int64(tx.Bucket([]byte(of)).Sequence())
	return max(0, seq-1), seq > 0
}

func setSize(tx *bbolt.Tx, of bucket, n int64) error {
	return tx.Bucket([]byte(of)).SetSequence(uint64(max(0, n)) + 1)
}

// Chunk is one that is stored. Parts are in their order; a complete one may have one that stands for all.
type Chunk struct {
	Begin uint64
	Parts []Part // without Last
}

// Chunk returns the first chunk of a service that begins after a moment; with around, the one before that, where there is one.
func (b *Bolt) Chunk(service string, after uint64, around bool) (c Chunk, found bool, err error) {
	err = b.view(journal, func(_ *bbolt.Tx, j *bbolt.Bucket) error {
		own := append([]byte(service), 0)
		cur := j.Cursor()
		k, _ := cur.Seek(chunkKey(service, after+1))
		if around {
			if before, _ := back(cur, k); bytes.HasPrefix(before, own) && len(before) == len(own)+keyTail {
				k = before[:len(own)+8]
			}
		}
		if !bytes.HasPrefix(k, own) || len(k) < len(own)+8 {
			return nil
		}
		chunk := bytes.Clone(k[:len(own)+8])
		c.Begin, found = binary.BigEndian.Uint64(chunk[len(own):]), true
		for k, v := cur.Seek(chunk); bytes.HasPrefix(k, chunk); k, v = cur.Next() {
			c.Parts = append(c.Parts, Part{Begin: c.Begin, Number: binary.BigEndian.Uint32(k[len(chunk):]), Data: bytes.Clone(v)})
		}
		return nil
	})
	return c, found, err
}

// back is the key before one; nil stands for the end.
func back(cur *bbolt.Cursor, k []byte) (key, value []byte) {
	if k == nil {
		return cur.Last()
	}
	return cur.Prev()
}

// Limits are how much of the history and the journal is kept. Pack makes one part of those of a chunk.
type Limits struct {
	Retention time.Duration
	MaxBytes  int64
	Pack      func(parts [][]byte) ([]byte, error)
}

// Tidy packs some complete chunks, and lets go of some of what is older than it is to be kept, or too much. It is one
// transaction, which takes a moment; more: there is something left to be done. What cannot be packed stays as it is.
func (b *Bolt) Tidy(now time.Time, l Limits) (more bool, err error) {
	idle, err := b.tidied(now, l)
	if err != nil || idle {
		return false, err
	}
	err = b.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []bucket{history, events, journal, ages, ripe} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		t := tidy{tx: tx, limits: l, until: uint64(max(0, now.Add(-l.Retention).UnixNano()))}
		more, err = t.turn(now)
		return err
	})
	return more, err
}

// tidied reports whether there is nothing to do, without writing anything.
func (b *Bolt) tidied(now time.Time, l Limits) (idle bool, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		for _, name := range []bucket{history, events, journal, ages, ripe} {
			if tx.Bucket([]byte(name)) == nil {
				idle = name == history || name == events // nothing was ever stored
				return nil
			}
		}
		t := tidy{tx: tx, limits: l, until: uint64(max(0, now.Add(-l.Retention).UnixNano()))}
		_, known := sized(tx, history)
		k, _ := tx.Bucket([]byte(ripe)).Cursor().First()
		idle = known && k == nil && !t.oldChunk() && !t.oldRecord(now)
		return nil
	})
	return idle, err
}

type tidy struct {
	tx     *bbolt.Tx
	limits Limits
	until  uint64
}

func (t *tidy) of(name bucket) *bbolt.Bucket { return t.tx.Bucket([]byte(name)) }

func (t *tidy) turn(now time.Time) (more bool, err error) {
	if _, known := sized(t.tx, history); !known {
		return true, t.measure(now)
	}
	for range packAtOnce {
		if k, _ := t.of(ripe).Cursor().First(); k != nil {
			if err := t.pack(bytes.Clone(k)); err != nil {
				return false, err
			}
		}
	}
	for range tidyAtOnce {
		switch {
		case t.oldChunk():
			err = t.dropChunk()
		case t.oldRecord(now):
			err = t.dropRecord()
		default:
			k, _ := t.of(ripe).Cursor().First()
			return k != nil, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// measure counts the history of a database that was written before there were limits. Records from before there were events are
// found by nothing later: what is too old of them goes here, and the rest with the first of its service that has an event.
func (t *tidy) measure(now time.Time) error {
	listed := map[string][]byte{} // the first with an event
	err := t.of(events).ForEach(func(_, place []byte) error {
		if name := string(placed(place)); listed[name] == nil {
			listed[name] = place[:min(8, len(place))]
		}
		return nil
	})
	if err != nil {
		return err
	}
	n := 0
	err = t.of(history).ForEachBucket(func(service []byte) error {
		h, first := t.of(history).Bucket(service), listed[string(service)]
		var old [][]byte
		if err := h.ForEach(func(k, v []byte) error {
			if (first == nil || bytes.Compare(k, first) < 0) && t.old(v, now) {
				old = append(old, bytes.Clone(k))
				return nil
			}
			n += len(v)
			return nil
		}); err != nil {
			return err
		}
		for _, k := range old {
			if err := h.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return setSize(t.tx, history, int64(n))
}

func (t *tidy) tooMuch() bool {
	j, _ := sized(t.tx, journal)
	h, _ := sized(t.tx, history)
	return j+h > t.limits.MaxBytes
}

// pack makes one part of those of a chunk.
func (t *tidy) pack(chunk []byte) error {
	if err := t.of(ripe).Delete(chunk); err != nil {
		return err
	}
	var keys, parts [][]byte
	was := 0
	cur := t.of(journal).Cursor()
	for k, v := cur.Seek(chunk); bytes.HasPrefix(k, chunk); k, v = cur.Next() {
		keys, parts, was = append(keys, bytes.Clone(k)), append(parts, v), was+len(v)
	}
	packed, err := t.limits.Pack(parts)
	if err != nil || len(keys) == 0 {
		return nil // it is read as it is, as far as it can be
	}
	for _, k := range keys[1:] {
		if err := t.of(journal).Delete(k); err != nil {
			return err
		}
	}
	if err := t.of(journal).Put(keys[0], packed); err != nil {
		return err
	}
	return resize(t.tx, journal, len(packed)-was)
}

// oldChunk reports whether the oldest chunk is to go.
func (t *tidy) oldChunk() bool {
	k, _ := t.of(ages).Cursor().First()
	return len(k) >= 8 && (binary.BigEndian.Uint64(k) < t.until || t.tooMuch())
}

func (t *tidy) dropChunk() error {
	k, _ := t.of(ages).Cursor().First()
	k = bytes.Clone(k)
	chunk := chunkKey(string(k[8:]), binary.BigEndian.Uint64(k))
	var keys [][]byte
	was := 0
	cur := t.of(journal).Cursor()
	for k, v := cur.Seek(chunk); bytes.HasPrefix(k, chunk); k, v = cur.Next() {
		keys, was = append(keys, bytes.Clone(k)), was+len(v)
	}
	for _, k := range keys {
		if err := t.of(journal).Delete(k); err != nil {
			return err
		}
	}
	if err := t.of(ripe).Delete(chunk); err != nil {
		return err
	}
	if err := t.of(ages).Delete(k); err != nil {
		return err
	}
	return resize(t.tx, journal, -was)
}

// oldest is the oldest record of all, with its cursor and its place.
func (t *tidy) oldest() (cursor, place, record []byte) {
	cursor, place = t.of(events).Cursor().First()
	if h := t.of(history).Bucket(placed(place)); h != nil {
		record = h.Get(place[:8])
	}
	return cursor, place, record
}

func placed(place []byte) []byte {
	if len(place) <= 8 {
		return []byte{0} // no service has that name
	}
	return place[8:]
}

// oldRecord reports whether the oldest record is to go. The journal goes first where there is too much: it is much larger.
func (t *tidy) oldRecord(now time.Time) bool {
	cursor, _, record := t.oldest()
	return cursor != nil && (t.old(record, now) || t.tooMuch())
}

func (t *tidy) old(record []byte, now time.Time) bool {
	var r struct {
		At time.Time `json:"at"`
	}
	_ = json.Unmarshal(record, &r) // one that cannot be read is from no time
	return r.At.Before(now.Add(-t.limits.Retention))
}

func (t *tidy) dropRecord() error {
	cursor, place, _ := t.oldest()
	cursor, place = bytes.Clone(cursor), bytes.Clone(place)
	was := 0
	if h := t.of(history).Bucket(placed(place)); h != nil {
		var keys [][]byte // with those from before there were events
		cur := h.Cursor()
		for k, v := cur.First(); k != nil && bytes.Compare(k, place[:8]) <= 0; k, v = cur.Next() {
			keys, was = append(keys, bytes.Clone(k)), was+len(v)
		}
		for _, k := range keys {
			if err := h.Delete(k); err != nil {
				return fmt.Errorf("let go of a record: %w", err)
			}
		}
	}
	if err := t.of(events).Delete(cursor); err != nil {
		return err
	}
	return resize(t.tx, history, -was)
}
