package access

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func (p *passwords) waiting(r *http.Request) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.peers[peerOf(r)]; t != nil {
		return t.waiting
	}
	return 0
}

func guess(peer, user, password string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = peer
	r.SetBasicAuth(user, password)
	return r
}

// However many passwords a connected client guesses, whoever logs in from elsewhere waits for one of them.
func TestGuessesOfOnePeerKeepNobodyElseWaiting(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("wonder"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	k := NewKeeper(Config{Users: map[string]string{"alice": string(hash)}}, nil)
	k.passwords.hashing <- struct{}{} // until all have come
	var guessed atomic.Int32
	var all sync.WaitGroup
	attacker, alice := guess("[2001:db8::1]:1", "bob", "guess"), guess("192.0.2.2:1", "alice", "wonder")
	for range 16 {
		all.Go(func() {
			_, _ = k.Identify(guess("[2001:db8::ffff]:7", "bob", "guess"))
			guessed.Add(1)
		})
	}
	await(t, func() bool { return k.passwords.waiting(attacker) == 16 })
	all.Go(func() {
		if _, err := k.Identify(alice); err != nil {
			t.Error(err)
		}
		if n := guessed.Load(); n > 5 { // one, but for a busy machine
			t.Errorf("%d guesses came before her", n)
		}
	})
	await(t, func() bool { return k.passwords.waiting(alice) == 1 })
	time.Sleep(50 * time.Millisecond) // she stands in the line
	<-k.passwords.hashing
	all.Wait()
	if len(k.passwords.peers) > 0 {
		t.Errorf("%v is remembered", k.passwords.peers)
	}
}

func await(t *testing.T, come func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !come(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come")
		}
	}
}
