// Package store keeps state and history, in one transaction each time: a decision is durable before
// an Envoy hears of it.
package store

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Write is what one transaction says about one service.
type Write struct {
	Service    string
	State      []byte // nil: as it is
	Evidence   []byte // beside the state; nil: as it is
	Delete     bool
	Remains    []byte   // of a service that is removed; nil: as they are, empty: none
	Records    [][]byte // appended to the history, and to the events
	Parts      []Part   // of the journal
	PolicyHash string   // names PolicyText, which is kept once
	PolicyText string
}

// State is what is stored of a service: what is decided, and the evidence, which is stored more often. Earlier releases
// stored both in one: Evidence is nil then.
type State struct{ Decided, Evidence []byte }

// Event is a stored record of any service. Cursors grow by one with each record.
type Event struct {
	Cursor uint64
	Record []byte
}

// Bolt is a store for one process, in one file.
type Bolt struct {
	db  *bbolt.DB
	key []byte
}

type bucket string

const (
	states   bucket = "state"
	evidence bucket = "evidence"
	history  bucket = "history"
	policies bucket = "policy"
	events   bucket = "events" // cursor: service, and the record's place in its history
	marks    bucket = "marks"  // name: a cursor up to which somebody was told
	keys     bucket = "keys"
	remains  bucket = "remains"

	recallKey = "recall"
	keyLength = 32
)

// Open opens or makes the file canaryd.db in a directory. A file that another process has open is
// waited for, for three seconds. One that exists is not written to: a disk that is full, or hangs under
// writes, keeps nobody from starting.
func Open(dir string) (*Bolt, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("storage.path: %w", err)
	}
	path := filepath.Join(dir, "canaryd.db")
	db, err := bbolt.Open(path, 0o640, &bbolt.Options{Timeout: 3 * time.Second, FreelistType: bbolt.FreelistMapType, OpenFile: openFile})
	if errors.Is(err, syscall.EROFS) { // as after an error of the disk: what is stored can be served, and nothing more
		db, err = bbolt.Open(path, 0o640, &bbolt.Options{Timeout: 3 * time.Second, ReadOnly: true})
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: another canaryd has it open: stop that one, or give this one another --storage.path", path)
	}
	if err != nil {
		return nil, cannotOpen(path, err)
	}
	b := &Bolt{db: db}
	if b.key, err = b.readKey(); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return b, nil
}

// cannotOpen says what helps.
func cannotOpen(path string, err error) error {
	var p *fs.PathError
	switch {
	case errors.Is(err, fs.ErrPermission) && errors.As(err, &p):
		return fmt.Errorf("%w: user %d has to be able to write to the directory and the file", err, os.Getuid())
	case errors.As(err, &p):
		return err
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("open %s: %w: it is broken, or not canaryd's: restore a copy, or move it away: each service then begins with the version that its policy marks stable", path, err)
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// Key seals what Envoys remember for canaryd. It is made at the first start and stored with the first transaction
// that succeeds: until then it is another one after each restart, so a disk that takes nothing keeps nobody from
// starting.
func (b *Bolt) Key() []byte { return b.key }

// ID names the database and every copy of it, and tells nothing of the key.
func (b *Bolt) ID() string {
	m := hmac.New(sha256.New, b.key)
	m.Write([]byte("the name of this database"))
	return hex.EncodeToString(m.Sum(nil)[:8])
}

func (b *Bolt) readKey() (key []byte, err error) {
	err = b.view(keys, func(_ *bbolt.Tx, b *bbolt.Bucket) error {
		key = bytes.Clone(b.Get([]byte(recallKey)))
		return nil
	})
	if err == nil && len(key) == 0 {
		key = make([]byte, keyLength)
		_, err = rand.Read(key)
	}
	return key, err
}

// storeKey stores the key where there is none.
func (b *Bolt) storeKey(tx *bbolt.Tx) error {
	k := tx.Bucket([]byte(keys))
	if k.Get([]byte(recallKey)) != nil {
		return nil
	}
	return k.Put([]byte(recallKey), b.key)
}

// openFile opens a file that exists without asking for it to be made: that alone waits for a frozen file
// system. So does looking a name up in order to write, unless it was looked up a moment ago.
func openFile(path string, flag int, mode os.FileMode) (*os.File, error) {
	if _, err := os.Stat(path); err == nil {
		flag &^= os.O_CREATE
	}
	return os.OpenFile(path, flag, mode)
}

// Close closes the file.
func (b *Bolt) Close() error { return b.db.Close() }

// Save commits all writes in one transaction and returns when they are on disk. The records get
// consecutive cursors in their order, from first on.
func (b *Bolt) Save(ws []Write) (first uint64, err error) {
	err = b.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []bucket{states, evidence, history, policies, events, keys, remains, journal, ages, ripe} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		if err := b.storeKey(tx); err != nil {
			return fmt.Errorf("store the key of recalls: %w", err)
		}
		first = tx.Bucket([]byte(events)).Sequence() + 1
		for _, w := range ws {
			if err := w.put(tx); err != nil {
				return fmt.Errorf("store %s: %w", w.Service, err)
			}
		}
		return nil
	})
	return first, err
}

func (w Write) put(tx *bbolt.Tx) error {
	key := []byte(w.Service)
	if err := w.putRemains(tx.Bucket([]byte(remains))); err != nil {
		return err
	}
	if err := w.putState(tx.Bucket([]byte(states)), w.State); err != nil {
		return err
	}
	if err := w.putState(tx.Bucket([]byte(evidence)), w.Evidence); err != nil {
		return err
	}
	if w.PolicyHash != "" && tx.Bucket([]byte(policies)).Get([]byte(w.PolicyHash)) == nil {
		if err := tx.Bucket([]byte(policies)).Put([]byte(w.PolicyHash), []byte(w.PolicyText)); err != nil {
			return err
		}
	}
	if err := w.putParts(tx); err != nil {
		return fmt.Errorf("the journal: %w", err)
	}
	if len(w.Records) == 0 {
		return nil
	}
	h, err := tx.Bucket([]byte(history)).CreateBucketIfNotExists(key)
	if err != nil {
		return err
	}
	grown := 0
	for _, r := range w.Records {
		grown += len(r)
		n, err := h.NextSequence()
		if err != nil {
			return err
		}
		place := binary.BigEndian.AppendUint64(nil, n)
		if err := h.Put(place, r); err != nil {
			return err
		}
		cursor, err := tx.Bucket([]byte(events)).NextSequence()
		if err != nil {
			return err
		}
		if err := tx.Bucket([]byte(events)).Put(binary.BigEndian.AppendUint64(nil, cursor), append(place, key...)); err != nil {
			return err
		}
	}
	return resize(tx, history, grown)
}

// putState puts a part of the state.
func (w Write) putState(b *bbolt.Bucket, part []byte) error {
	switch {
	case w.Delete:
		return b.Delete([]byte(w.Service))
	case part == nil:
		return nil
	}
	return b.Put([]byte(w.Service), part)
}

func (w Write) putRemains(b *bbolt.Bucket) error {
	switch {
	case w.Remains == nil:
		return nil
	case len(w.Remains) == 0:
		return b.Delete([]byte(w.Service))
	}
	return b.Put([]byte(w.Service), w.Remains)
}

// view reads from buckets that need not exist yet.
func (b *Bolt) view(name bucket, f func(tx *bbolt.Tx, b *bbolt.Bucket) error) error {
	return b.db.View(func(tx *bbolt.Tx) error {
		if found := tx.Bucket([]byte(name)); found != nil {
			return f(tx, found)
		}
		return nil
	})
}

// States returns the state of every service.
func (b *Bolt) States() (map[string]State, error) {
	out := map[string]State{}
	err := b.view(states, func(tx *bbolt.Tx, b *bbolt.Bucket) error {
		beside := tx.Bucket([]byte(evidence)) // nil: an earlier release stored it
		return b.ForEach(func(k, v []byte) error {
			s := State{Decided: bytes.Clone(v)}
			if beside != nil {
				s.Evidence = bytes.Clone(beside.Get(k))
			}
			out[string(k)] = s
			return nil
		})
	})
	return out, err
}

// Remains returns what removed services left behind.
func (b *Bolt) Remains() (map[string][]byte, error) { return b.all(remains) }

func (b *Bolt) all(name bucket) (map[string][]byte, error) {
	out := map[string][]byte{}
	err := b.view(name, func(_ *bbolt.Tx, b *bbolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			out[string(k)] = bytes.Clone(v)
			return nil
		})
	})
	return out, err
}

// Policy returns the text of a policy by its hash; empty: there is none.
func (b *Bolt) Policy(hash string) (string, error) {
	var text string
	err := b.view(policies, func(_ *bbolt.Tx, b *bbolt.Bucket) error {
		text = string(b.Get([]byte(hash)))
		return nil
	})
	return text, err
}

// History returns the newest records of a service, oldest first, limit at most.
func (b *Bolt) History(service string, limit int) ([][]byte, error) {
	var out [][]byte
	err := b.view(history, func(_ *bbolt.Tx, b *bbolt.Bucket) error {
		h := b.Bucket([]byte(service))
		if h == nil {
			return nil
		}
		c := h.Cursor()
		for k, v := c.Last(); k != nil && len(out) < limit; k, v = c.Prev() {
			out = append(out, bytes.Clone(v))
		}
		return nil
	})
	slices.Reverse(out)
	return out, err
}

// Last is the cursor of the newest record; 0: there is none.
func (b *Bolt) Last() (cursor uint64, err error) {
	err = b.view(events, func(_ *bbolt.Tx, b *bbolt.Bucket) error {
		cursor = b.Sequence()
		return nil
	})
	return cursor, err
}

// Marks returns up to which cursor each receiver was told the events.
func (b *Bolt) Marks() (map[string]uint64, error) {
	out := map[string]uint64{}
	err := b.view(marks, func(_ *bbolt.Tx, b *bbolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			if len(v) == 8 {
				out[string(k)] = binary.BigEndian.Uint64(v)
			}
			return nil
		})
	})
	return out, err
}

// Mark replaces the marks.
func (b *Bolt) Mark(to map[string]uint64) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket([]byte(marks)); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
			return err
		}
		m, err := tx.CreateBucket([]byte(marks))
		for name, cursor := range to {
			err = cmp.Or(err, m.Put([]byte(name), binary.BigEndian.AppendUint64(nil, cursor)))
		}
		return err
	})
}

// Events returns the records with cursors above one, oldest first, limit at most.
func (b *Bolt) Events(after uint64, limit int) ([]Event, error) {
	var out []Event
	err := b.view(events, func(tx *bbolt.Tx, b *bbolt.Bucket) error {
		c := b.Cursor()
		for k, place := c.Seek(binary.BigEndian.AppendUint64(nil, after+1)); k != nil && len(out) < limit; k, place = c.Next() {
			h := tx.Bucket([]byte(history)).Bucket(place[8:])
			out = append(out, Event{binary.BigEndian.Uint64(k), bytes.Clone(h.Get(place[:8]))})
		}
		return nil
	})
	return out, err
}
