package access

import (
	"context"
	"crypto/sha256"
	"net/http"
	"net/netip"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// mostRemembered are right passwords that need not be hashed again: bcrypt is slow on purpose.
const mostRemembered = 100

// nobody is the hash that a user who does not exist is compared with: the time that an answer takes tells nothing.
const nobody = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"

// passwords asks whether passwords are right, one at a time: guessing costs one core at most. A peer has one of its
// guesses in that line, so whoever logs in for the first time waits for one guess of each peer, however many a peer makes.
type passwords struct {
	hashing chan struct{} // a place for one

	mu    sync.Mutex
	right map[[sha256.Size]byte]bool
	peers map[netip.Addr]*turn // of those who wait
}

// turn is what the guesses of one peer wait for.
type turn struct {
	place   chan struct{} // for one
	waiting int           // the one in it included
}

// peerOf is where a request comes from: of IPv6 the network, in which a machine has as many addresses as it wants.
func peerOf(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip
	}
	return netip.PrefixFrom(ip, 64).Masked().Addr()
}

// enter has a guess wait until its peer's earlier ones are through.
func (p *passwords) enter(ctx context.Context, peer netip.Addr) (leave func(), ok bool) {
	p.mu.Lock()
	if p.peers == nil {
		p.peers = map[netip.Addr]*turn{}
	}
	t := p.peers[peer]
	if t == nil {
		t = &turn{place: make(chan struct{}, 1)}
		p.peers[peer] = t
	}
	t.waiting++
	p.mu.Unlock()
	done := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if t.waiting--; t.waiting == 0 {
			delete(p.peers, peer)
		}
	}
	select {
	case t.place <- struct{}{}:
		return func() { <-t.place; done() }, true
	case <-ctx.Done():
		done()
		return nil, false
	}
}

func (p *passwords) check(ctx context.Context, peer netip.Addr, users map[string]string, user, password string) bool {
	hash, known := users[user]
	if !known {
		hash = nobody
	}
	key := sha256.Sum256([]byte(user + "\x00" + hash + "\x00" + password))
	if p.remembers(key) {
		return true
	}
	leave, ok := p.enter(ctx, peer)
	if !ok {
		return false
	}
	defer leave()
	if p.remembers(key) { // since it waits
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
