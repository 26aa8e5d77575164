package access

import (
	"context"
	"crypto/sha256"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// mostRemembered are right passwords that need not be hashed again: bcrypt is slow on purpose.
const mostRemembered = 100

// nobody is the hash that a user who does not exist is compared with: the time that an answer takes tells nothing.
const nobody = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"

// passwords asks whether passwords are right, one at a time: guessing costs one core at most.
type passwords struct {
	hashing chan struct{} // a place for one

	mu    sync.Mutex
	right map[[sha256.Size]byte]bool
}

func (p *passwords) check(ctx context.Context, users map[string]string, user, password string) bool {
	hash, known := users[user]
	if !known {
		hash = nobody
	}
	key := sha256.Sum256([]byte(user + "\x00" + hash + "\x00" + password))
	if p.remembers(key) {
		return true
	}
	select {
	case p.hashing <- struct{}{}:
	case <-ctx.Done(): // who guesses and hangs up keeps nobody waiting
		return false
	}
	right := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil && known
	<-p.hashing
	if right {
		p.remember(key)
	}
	return right
}

func (p *passwords) remembers(key [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.right[key]
}

func (p *passwords) remember(key [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.right == nil || len(p.right) >= mostRemembered {
		p.right = map[[sha256.Size]byte]bool{}
	}
	p.right[key] = true
}
