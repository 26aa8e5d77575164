package store

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"
)

// containers: by name, what is known of those that canaryd made
const containers bucket = "containers"

// Containers returns what was stored of each container's name.
func (b *Bolt) Containers() (map[string][]byte, error) { return b.all(containers) }

// PutContainers stores what is known by name, and returns when it is on disk; nil: nothing any more.
func (b *Bolt) PutContainers(known map[string][]byte) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		c, err := tx.CreateBucketIfNotExists([]byte(containers))
		if err != nil {
			return err
		}
		for name, r := range known {
			if r == nil {
				err = c.Delete([]byte(name))
			} else {
				err = c.Put([]byte(name), bytes.Clone(r))
			}
			if err != nil {
				return fmt.Errorf("store container %s: %w", name, err)
			}
		}
		return nil
	})
}
