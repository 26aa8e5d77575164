package xds

import (
	"fmt"
	"testing"
	"time"
)

// However often something happens that all services of a listener may have news of, each is looked at in one round of it.
func TestATourLeavesNobodyOut(t *testing.T) {
	var tr tour
	services := []string{"a", "b", "c", "d"}
	tr.again(services)
	seen := ""
	for i := range 9 {
		if i%3 == 0 {
			tr.again(services)
		}
		seen += tr.step()
	}
	if seen != "abcdabcda" || tr.left != 1 {
		t.Errorf("%s, and %d are left", seen, tr.left)
	}
	if tr.again(services[:1]); tr.step() != "a" || tr.left != 0 {
		t.Errorf("of one %d are left", tr.left)
	}
}

// Whoever refuses a listener of very many services is no reason to wait for news of another one.
func TestNewsOfOneServiceComesBeforeThatOfAll(t *testing.T) {
	h := crowded(t, 500)
	takes(h)
	for i := range 3 {
		bars(t, h, fmt.Sprint("evil-", i))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.changed.m); n > 0 {
		t.Errorf("%d services are marked one by one", n)
	}
	h.changes("shop-00400")
	n := 0
	for name := range h.news(time.Now().Add(time.Minute)) {
		if n++; n == 1 && name != "shop-00400" {
			t.Errorf("%s comes first", name)
		}
	}
	if n != 501 || len(h.tours) > 0 {
		t.Errorf("%d services are looked at, %d listeners left", n, len(h.tours))
	}
}
