// Package probe asks endpoints whether they answer.
package probe

import (
	"context"
	"net"
	"net/http"
	"time"
)

const timeout = time.Second

// Any reports whether one of the endpoints answers within a second.
func Any(ctx context.Context, endpoints []string, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answers := make(chan bool, len(endpoints))
	for _, e := range endpoints {
		go func() { answers <- Answers(ctx, e, path) }()
	}
	for range endpoints {
		if <-answers {
			return true
		}
	}
	return false
}

// Answers reports whether an endpoint (host:port) takes a connection, or, with a path, answers a GET of
// it below 400; within a second.
func Answers(ctx context.Context, endpoint, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if path == "" {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", endpoint)
		if err != nil {
			return false
		}
		return c.Close() == nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+endpoint+path, nil)
	if err != nil {
		return false
	}
	req.Header.Set("User-Agent", "canaryd-probe")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // nothing of it is needed
	return resp.StatusCode < 400
}
