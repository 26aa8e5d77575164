package rig

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Service is one version of a small service. It counts what it serves.
type Service struct {
	Version, Address string
	errorRate        atomic.Uint64 // parts of a million
	delay            atomic.Int64
	sick             atomic.Bool
	server           *http.Server

	mu      sync.Mutex
	started time.Time // of the present count
	served  int
	failed  int
	onset   time.Time // first failure
	last    time.Time // last request
}

// NewService serves a version on a free loopback port; an address may be given.
func NewService(version, address string) (*Service, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("version %s: %w", version, err)
	}
	s := &Service{Version: version, Address: l.Addr().String()}
	s.server = &http.Server{Handler: s}
	go func() { _ = s.server.Serve(l) }() // ends with Close
	return s, nil
}

// Fail sets the share of requests that answer 500.
func (s *Service) Fail(rate float64) { s.errorRate.Store(uint64(rate * 1e6)) }

// Sick makes the health check fail.
func (s *Service) Sick(yes bool) { s.sick.Store(yes) }

// Delay makes every answer wait.
func (s *Service) Delay(d time.Duration) { s.delay.Store(int64(d)) }

// Close ends it at once.
func (s *Service) Close() { _ = s.server.Close() }

func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		if s.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	fail := rand.Uint64N(1e6) < s.errorRate.Load()
	s.count(fail)
	if d := s.delay.Load(); d > 0 {
		select {
		case <-time.After(time.Duration(d)):
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("X-Version", s.Version)
	if fail {
		w.WriteHeader(http.StatusInternalServerError)
	}
	fmt.Fprintln(w, s.Version)
}

func (s *Service) count(fail bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
	s.served++
	if fail {
		s.failed++
		if s.onset.IsZero() {
			s.onset = s.last
		}
	}
}

// Served is what the version has counted.
type Served struct {
	Requests, Failed int
	Onset, Last      time.Time // first failure, last request; zero: none
}

// Count returns it.
func (s *Service) Count() Served {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Served{s.served, s.failed, s.onset, s.last}
}
