package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// crowd is many users, each with the cookies that the service gave it.
type crowd struct {
	scene *scene
	users []user
	http  http.Client
}

type user struct {
	cookies map[string]string
	version string // of the last answer
}

// newCrowd makes users who have a user cookie already: the same ones in every run, so that the
// shares they fall into are the same too.
func newCrowd(s *scene, n int, prefix string) *crowd {
	c := &crowd{scene: s, users: make([]user, n), http: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
	for i := range c.users {
		c.users[i].cookies = map[string]string{}
		if prefix != "" {
			c.users[i].cookies["canaryd-user"] = fmt.Sprintf("%s-%d", prefix, i)
		}
	}
	return c
}

// visit lets every user make a request, sixteen at a time, and calls seen with the version before and now.
func (c *crowd) visit(t *testing.T, seen func(i int, before, now string)) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := 0
	const parallel = 16
	for w := range parallel {
		wg.Go(func() {
			for i := w; i < len(c.users); i += parallel {
				before := c.users[i].version
				err := c.users[i].request(t.Context(), &c.http, "http://"+c.scene.front+"/")
				mu.Lock()
				if err != nil {
					if failed++; failed < 4 {
						t.Errorf("user %d: %v", i, err)
					}
				} else if seen != nil {
					seen(i, before, c.users[i].version)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if failed > 0 {
		t.Errorf("%d of %d users saw an error", failed, len(c.users))
	}
}

// request makes one request and keeps the cookies of its answer.
func (u *user) request(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for name, value := range u.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the answer was %s", resp.Status)
	}
	for _, c := range resp.Cookies() {
		u.cookies[c.Name] = c.Value
	}
	u.version = resp.Header.Get("X-Version")
	return nil
}

// share is the part of the users whose last answer came from a version.
func (c *crowd) share(version string) float64 {
	n := 0
	for i := range c.users {
		if c.users[i].version == version {
			n++
		}
	}
	return float64(n) / float64(len(c.users))
}

// inForce waits until every version's decided weight is served, and returns the weights.
func (s *scene) weightsInForce() map[string]float64 {
	s.t.Helper()
	weights := map[string]float64{}
	s.until(settling, "the weights to be in force", func() bool {
		svc, err := s.Service("shop")
		if err != nil {
			return false
		}
		for _, v := range svc.Versions {
			weights[v.Version] = v.Weight
			if !v.InForce {
				return false
			}
		}
		return true
	})
	return weights
}

// setCookie finds the value of a cookie in Set-Cookie headers by a prefix of its name.
func setCookie(h http.Header, name string) string {
	for _, line := range h.Values("Set-Cookie") {
		if v, ok := strings.CutPrefix(line, name+"="); ok {
			v, _, _ = strings.Cut(v, ";")
			return v
		}
	}
	return ""
}
