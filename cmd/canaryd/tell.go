package main

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/notify"
	"github.com/canaryd/canaryd/internal/store"
)

const (
	listenAgain = time.Second     // after the events ended early: a listener fell behind, or they cannot be read
	markEvery   = 5 * time.Second // what was told is told again after a crash within it
)

// resume tells the receivers of webhooks where they were, and returns after which event they are to be told.
func resume(n *notify.Notifier, db *store.Bolt) (after uint64, err error) {
	if n == nil {
		return 0, nil // marks that are left are of receivers that are no more, see unmark
	}
	newest, err := db.Last()
	if err != nil {
		return 0, fmt.Errorf("load the stored events: %w", err)
	}
	marks, err := db.Marks()
	if err != nil {
		return 0, fmt.Errorf("load what was sent to webhooks: %w", err)
	}
	return n.Resume(marks, newest), nil
}

// tell hands on what was decided and stored.
func tell(ctx context.Context, ctl *controller.Controller, n *notify.Notifier, after uint64) error {
	for {
		entries, err := ctl.Listen(ctx, strconv.FormatUint(after, 10))
		if err != nil {
			return err
		}
		for e := range entries {
			n.Send(e.Number(), e.Record)
			after = e.Number()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenAgain):
		}
	}
}

// unmark drops the marks of receivers that are no longer configured: one that comes back in a month is to hear what is
// new.
func unmark(db *store.Bolt) error {
	marks, err := db.Marks()
	if err != nil || len(marks) == 0 {
		return err
	}
	return db.Mark(nil)
}

// mark stores what was told, so that nothing of it is told again, and nothing else is missed, after a restart.
func mark(ctx context.Context, db *store.Bolt, n *notify.Notifier, log logrus.FieldLogger) error {
	var stored map[string]uint64
	for {
		if marks := n.Marks(); !maps.Equal(marks, stored) {
			if err := db.Mark(marks); err != nil {
				log.WithError(err).Warn("what was sent to webhooks is not stored: after a restart it may be sent again")
			} else {
				stored = marks
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(markEvery):
		}
	}
}
