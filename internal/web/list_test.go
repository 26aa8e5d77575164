package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/access"
)

// halting is a client that reads nothing before it goes on, and then everything.
type halting struct {
	*httptest.ResponseRecorder
	halted func()
	goOn   chan struct{}
}

func (h halting) Write(p []byte) (int, error) {
	h.halted()
	<-h.goOn
	return h.ResponseRecorder.Write(p)
}

// quiet are the policies of that many services.
func quiet(n int) string {
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "---\nservice: s%04d\nroute: {probe: \"off\", domains: [s%04d.example.com]}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n", i, i)
	}
	return all.String()
}

// list has a client ask for a list, and returns what its handler panicked with.
func (s *site) list(ctx context.Context, w http.ResponseWriter, path, token string) (panicked any) {
	defer func() { panicked = recover() }()
	r := httptest.NewRequestWithContext(ctx, "GET", path, nil)
	r.Host = s.Listener.Addr().String()
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	s.Config.Handler.ServeHTTP(w, r)
	return nil
}

// A list that is sent while it is made is the same, to the byte, as one that is made before.
func TestAListIsWhatItsDocumentIs(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000} {
		for _, next := range []string{"", "<a> & \"b\""} {
			want, got := httptest.NewRecorder(), httptest.NewRecorder()
			out, whole := list{w: got, key: "services"}, Services{Services: []Service{}, Next: next}
			for i := range n {
				v := Service{Service: fmt.Sprintf("shop-%d", i), Versions: []Version{}, Warnings: []string{"<no> & none"}}
				whole.Services = append(whole.Services, v)
				if err := out.add(v); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(out.end(next), json.NewEncoder(want).Encode(whole)); err != nil {
				t.Fatal(err)
			}
			if got.Body.String() != want.Body.String() || got.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%d entries, next %q: %.200s\nwant %.200s", n, next, got.Body, want.Body)
			}
		}
	}
}

// Clients that ask for all services and do not read the answer have little kept for them, however many services there are.
func TestUnreadListsAreNotKept(t *testing.T) {
	const services, clients, most = 2000, 20, 16 << 20
	s := newSite(t, quiet(services))
	inUse := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before, goOn, halted, ended := inUse(), make(chan struct{}), make(chan struct{}, 1000*clients), make(chan *httptest.ResponseRecorder)
	for range clients {
		go func() {
			w := httptest.NewRecorder()
			s.list(context.Background(), halting{w, func() { halted <- struct{}{} }, goOn}, "/api/v1/services?limit=100000", "")
			ended <- w
		}()
	}
	for range clients {
		<-halted
	}
	if kept := inUse() - before; kept > most {
		t.Errorf("%d MiB are kept for %d clients that do not read", kept>>20, clients)
	}
	close(goOn)
	for range clients {
		var all Services
		if w := <-ended; json.Unmarshal(w.Body.Bytes(), &all) != nil || len(all.Services) != services {
			t.Fatalf("then they read %d services", len(all.Services))
		}
	}
}

// A list that cannot be made to its end does not end as one that is complete.
func TestABrokenListIsNotTakenForAWhole(t *testing.T) {
	s := newSite(t, quiet(1000))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	goOn := make(chan struct{})
	close(goOn)
	w := httptest.NewRecorder()
	if p := s.list(ctx, halting{w, s.stop, goOn}, "/api/v1/services?limit=1000", ""); p != http.ErrAbortHandler {
		t.Errorf("it ended with %v", p)
	}
	if n := strings.Count(w.Body.String(), `"service":`); n == 0 || n == 1000 || json.Valid(w.Body.Bytes()) {
		t.Errorf("%d services were sent, and valid: %v", n, json.Valid(w.Body.Bytes()))
	}
}

// listed is the list of a caller who may do something else from its first part on, and how it ended.
func listed(t *testing.T, change func(*access.Config)) (w *httptest.ResponseRecorder, ended any) {
	t.Helper()
	config, tokens := callers(t)
	keeper := access.NewKeeper(config, nil)
	s := newSiteWith(t, Options{Access: keeper}, quiet(1000))
	goOn := make(chan struct{})
	close(goOn)
	w = httptest.NewRecorder()
	changed := sync.OnceFunc(func() {
		other := config
		change(&other)
		keeper.Set(other)
	})
	return w, s.list(t.Context(), halting{w, changed, goOn}, "/api/v1/services?limit=1000", tokens["viewall"])
}

// Who may no longer see services while it reads a list is sent none of the rest.
func TestAListEndsWithTheRole(t *testing.T) {
	w, ended := listed(t, func(c *access.Config) {
		c.Rules = slices.DeleteFunc(slices.Clone(c.Rules), func(r access.Rule) bool { return r.Token == "viewall" })
	})
	if ended != nil {
		t.Fatalf("it ended with %v", ended)
	}
	var got Services
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Services) == 0 || len(got.Services) > 900 || got.Next != "" {
		t.Errorf("%d services after the role was taken away, next %q: %v", len(got.Services), got.Next, err)
	}
}

// A caller whose token is taken away (or expires, or whose issuer does not answer after a reload) while its list is sent would be
// answered 401 if it asked now: what it has is no whole list, and must not end as one.
func TestAListOfWhoIsNotKnownAnyMoreIsNoWhole(t *testing.T) {
	w, ended := listed(t, func(c *access.Config) { c.Tokens = nil })
	var got Services
	if err := json.Unmarshal(w.Body.Bytes(), &got); ended != http.ErrAbortHandler && err == nil && got.Next == "" {
		t.Errorf("%d of 1000 services were sent as the whole list, status %d", len(got.Services), w.Code)
	}
}
