// Package store keeps state and history, in one transaction each time: a decision is durable before
// an Envoy hears of it.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Write is what one transaction says about one service.
type Write struct {
	Service    string
	State      []byte // nil with Delete
	Delete     bool
	Records    [][]byte // appended to the history
	PolicyHash string   // names PolicyText, which is kept once
	PolicyText string
}

// Bolt is a store for one process, in one file.
type Bolt struct{ db *bbolt.DB }

type bucket string

const (
	states   bucket = "state"
	history  bucket = "history"
	policies bucket = "policy"
)

// Open opens or makes the file canaryd.db in a directory. A file that another process has open is
// waited for, for three seconds.
func Open(dir string) (*Bolt, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("storage.path: %w", err)
	}
	path := filepath.Join(dir, "canaryd.db")
	db, err := bbolt.Open(path, 0o640, &bbolt.Options{Timeout: 3 * time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: another canaryd has it open: stop that one, or give this one another --storage.path", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range []bucket{states, history, policies} {
			if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = db.Close() // the first error is the one to tell
		return nil, fmt.Errorf("prepare %s: %w", path, err)
	}
	return &Bolt{db}, nil
}

// Close closes the file.
func (b *Bolt) Close() error { return b.db.Close() }

// Save commits all writes in one transaction and returns when they are on disk.
func (b *Bolt) Save(ws []Write) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		for _, w := range ws {
			if err := w.put(tx); err != nil {
				return fmt.Errorf("store %s: %w", w.Service, err)
			}
		}
		return nil
	})
}

func (w Write) put(tx *bbolt.Tx) error {
	key := []byte(w.Service)
	if w.Delete {
		if err := tx.Bucket([]byte(states)).Delete(key); err != nil {
			return err
		}
	} else if err := tx.Bucket([]byte(states)).Put(key, w.State); err != nil {
		return err
	}
	if w.PolicyHash != "" {
		if err := tx.Bucket([]byte(policies)).Put([]byte(w.PolicyHash), []byte(w.PolicyText)); err != nil {
			return err
		}
	}
	if len(w.Records) == 0 {
		return nil
	}
	h, err := tx.Bucket([]byte(history)).CreateBucketIfNotExists(key)
	if err != nil {
		return err
	}
	for _, r := range w.Records {
		n, err := h.NextSequence()
		if err != nil {
			return err
		}
		if err := h.Put(binary.BigEndian.AppendUint64(nil, n), r); err != nil {
			return err
		}
	}
	return nil
}

// States returns the state of every service.
func (b *Bolt) States() (map[string][]byte, error) {
	out := map[string][]byte{}
	err := b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(states)).ForEach(func(k, v []byte) error {
			out[string(k)] = append([]byte(nil), v...)
			return nil
		})
	})
	return out, err
}

// Policy returns the text of a policy by its hash.
func (b *Bolt) Policy(hash string) (string, error) {
	var text string
	err := b.db.View(func(tx *bbolt.Tx) error {
		text = string(tx.Bucket([]byte(policies)).Get([]byte(hash)))
		return nil
	})
	return text, err
}

// History returns the newest records of a service, oldest first, limit at most.
func (b *Bolt) History(service string, limit int) ([][]byte, error) {
	var out [][]byte
	err := b.db.View(func(tx *bbolt.Tx) error {
		h := tx.Bucket([]byte(history)).Bucket([]byte(service))
		if h == nil {
			return nil
		}
		c := h.Cursor()
		for k, v := c.Last(); k != nil && len(out) < limit; k, v = c.Prev() {
			out = append(out, append([]byte(nil), v...))
		}
		return nil
	})
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out, err
}
