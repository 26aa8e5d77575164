package rig

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Load sends requests at a steady rate, each on time whether or not earlier ones have been answered. When the machine held
// it up, it goes on at its rate: what it missed is counted and not sent, for no users come back all at once.
type Load struct {
	URL     string
	Host    string
	Rate    int // requests/s
	Timeout time.Duration

	mu     sync.Mutex
	sent   int
	byCode map[int]int
	byName map[string]int // version that answered
	errors []string       // transport errors and Envoy's own answers, the first few
	broken int
	late   int // requests that could not be sent on time
	wg     sync.WaitGroup
	cancel context.CancelFunc
}

const (
	inFlightMost = 2000
	heldUp       = 100 * time.Millisecond // longer than that is missed
)

// Start begins to send.
func (l *Load) Start(ctx context.Context) {
	l.byCode, l.byName = map[int]int{}, map[string]int{}
	if l.Timeout == 0 {
		l.Timeout = 30 * time.Second // longer than Envoy's: what is late is Envoy's to say, and a busy machine is no error
	}
	ctx, l.cancel = context.WithCancel(ctx)
	client := &http.Client{Timeout: l.Timeout, Transport: &http.Transport{
		MaxIdleConns: 256, MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: l.Timeout}).DialContext,
	}}
	slots := make(chan struct{}, inFlightMost)
	l.wg.Go(func() {
		begin := time.Now()
		for n := 0; ; n++ {
			due := begin.Add(time.Duration(n) * time.Second / time.Duration(l.Rate))
			if d := time.Until(due); d > 0 {
				select {
				case <-ctx.Done():
					return
				case <-time.After(d):
				}
			} else if ctx.Err() != nil {
				return
			} else if d < -heldUp {
				missed := int(-d.Seconds() * float64(l.Rate))
				l.miss(missed)
				n += missed
			}
			select {
			case slots <- struct{}{}:
				l.wg.Go(func() { l.one(client); <-slots })
			default:
				l.miss(1)
			}
		}
	})
}

func (l *Load) miss(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late += n
}

func (l *Load) one(client *http.Client) {
	req, err := http.NewRequest(http.MethodGet, l.URL, nil)
	if err != nil {
		l.note(0, "", err)
		return
	}
	req.Host = l.Host
	resp, err := client.Do(req)
	if err != nil {
		l.note(0, "", err)
		return
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	version := resp.Header.Get("X-Version")
	if resp.StatusCode >= 500 && version == "" {
		l.remember(fmt.Sprintf("%d %s", resp.StatusCode, body))
	}
	l.note(resp.StatusCode, version, err)
}

func (l *Load) remember(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rememberLocked(what)
}

func (l *Load) rememberLocked(what string) {
	if len(l.errors) < 5 {
		l.errors = append(l.errors, what)
	}
}

func (l *Load) note(code int, version string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if err != nil {
		l.broken++
		l.rememberLocked(err.Error())
		return
	}
	l.byCode[code]++
	l.byName[version]++
}

// Sent is what the load has counted so far.
type Sent struct {
	Requests int
	Failed   int // 5xx and broken connections: what users see
	ByCode   map[int]int
	ByName   map[string]int
	Broken   int
	Late     int
	Errors   []string
}

func (s Sent) String() string {
	return fmt.Sprintf("%d requests, %d failed, codes %v, broken %d %v, late %d", s.Requests, s.Failed, s.ByCode, s.Broken, s.Errors, s.Late)
}

// Count returns it.
func (l *Load) Count() Sent {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Sent{Requests: l.sent, Failed: l.broken, ByCode: map[int]int{}, ByName: map[string]int{}, Broken: l.broken, Late: l.late, Errors: l.errors}
	for c, n := range l.byCode {
		s.ByCode[c] = n
		if c >= 500 {
			s.Failed += n
		}
	}
	for v, n := range l.byName {
		s.ByName[v] = n
	}
	return s
}

// Stop ends the load when every answer is in.
func (l *Load) Stop() Sent {
	l.cancel()
	l.wg.Wait()
	return l.Count()
}
