package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/secret"
)

// reloadWithin is how long whoever asks for a reload waits for the file systems.
const reloadWithin = time.Minute

// rereading is how it stands with something that is read from files again and again.
type rereading struct {
	turn sync.Mutex // of two that read at once, the older reading could come last, and bring back a token that was taken away

	mu    sync.Mutex
	begun time.Time // the present one; zero: there is none
	wrong bool      // the last one that ended
}

// reading runs a reading when those before have ended.
func (r *rereading) reading(read func() error) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.mu.Lock()
	r.begun = time.Now()
	r.mu.Unlock()
	err := read()
	r.mu.Lock()
	r.begun, r.wrong = time.Time{}, err != nil
	r.mu.Unlock()
	return err
}

// failed reports whether the files do not say what is in force: the last reading failed, or the present one does not end.
func (r *rereading) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wrong || !r.begun.IsZero() && time.Since(r.begun) > reloadWithin
}

// reload reads again who may do what, and the policies. What is wrong with one, or hangs, keeps the other from nothing. Nobody
// waits for longer than ctx; who may do what is in force when it is read at last, policies at the next look at their files.
func (d *daemon) reload(ctx context.Context, by string) error {
	ctx, cancel := context.WithTimeout(ctx, reloadWithin)
	defer cancel()
	may, policies := make(chan error, 1), make(chan error, 1)
	go func() { may <- d.rereading.reading(func() error { return d.reloadAccess(by) }) }()
	go func() { policies <- d.ctl.Reload(ctx, by) }()
	return errors.Join(inTime(ctx, may, "who may do what is"), inTime(ctx, policies, "the policies are"))
}

// inTime is how a reading ended, or that it has not: a file system that is away answers nothing, not even an error.
func inTime(ctx context.Context, ended <-chan error, what string) error {
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s still being read (%w): does their file system answer?", what, ctx.Err())
	}
}

// hangups reloads when it is told to. One reload that hangs does not keep the next from taking a token away.
func (d *daemon) hangups(ctx context.Context, hangup <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			go func() {
				if err := d.reload(ctx, "SIGHUP"); err != nil && ctx.Err() == nil {
					d.log.WithError(err).Error("reload failed")
				}
			}()
		}
	}
}

// reloadAccess: of canaryd.yml only web.access, anonymous, tokens_file and docker.hook_token are read again.
func (d *daemon) reloadAccess(by string) error {
	cfg, err := loadServerConfig(d.file)
	var now access.Config
	if err == nil {
		now, err = cfg.accessConfig(d.webConfig)
	}
	if err != nil {
		return fmt.Errorf("who may do what was not reloaded, what was in force stays:\n%w", err)
	}
	listening := d.cfg
	listening.Web.Access = cfg.Web.Access
	if err := listening.exposed(d.webConfig); err != nil {
		return err
	}
	if d.access.Guards() && !now.Guards() { // a file that was cut off is empty, and valid
		return errors.New("who may do what was not reloaded, what was in force stays: neither web.access nor users are left, so anybody could do everything; if that is meant, restart canaryd")
	}
	if err := d.readHookToken(cfg); err != nil {
		return fmt.Errorf("who may do what was not reloaded, what was in force stays:\n%w", err)
	}
	d.access.Set(now)
	d.warnIdle(now)
	d.log.WithFields(logrus.Fields{"by": by, "rules": len(now.Rules), "users": len(now.Users), "tokens": len(now.Tokens)}).Info("who may do what was reloaded")
	return nil
}

// warnIdle: a misspelt name lets nobody in, and says nothing by itself.
func (d *daemon) warnIdle(now access.Config) {
	for _, idle := range now.Idle() {
		d.log.Warn(idle)
	}
}

// readHookToken has notifications carry what the configuration says, from now on.
func (d *daemon) readHookToken(cfg serverConfig) error {
	token, err := secret.Read(cfg.Docker.HookToken)
	if err != nil {
		return fmt.Errorf("docker.hook_token: %w", err)
	}
	d.hookToken.Store(&token)
	return nil
}
