package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// jobTokenFor is how long an identity token of GitHub's is used: it is valid for a few minutes, and a rollout takes hours.
const jobTokenFor = 2 * time.Minute

// jobIdentity is what a job of GitHub Actions with the permission `id-token: write` asks for its identity tokens.
type jobIdentity struct {
	url, bearer string
	now         string
	at          time.Time
}

// jobIdentityOf finds it in the environment, where CANARYD_AUDIENCE says that it is wanted.
func jobIdentityOf(env func(string) string) *jobIdentity {
	audience, base := env("CANARYD_AUDIENCE"), env("ACTIONS_ID_TOKEN_REQUEST_URL")
	u, err := url.Parse(base)
	if audience == "" || base == "" || err != nil {
		return nil
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	return &jobIdentity{url: u.String(), bearer: env("ACTIONS_ID_TOKEN_REQUEST_TOKEN")}
}

func (j *jobIdentity) token(ctx context.Context) (string, error) {
	if j.now != "" && time.Since(j.at) < jobTokenFor {
		return j.now, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.url, nil)
	if err != nil {
		return "", fmt.Errorf("ACTIONS_ID_TOKEN_REQUEST_URL: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+j.bearer)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("GitHub gives the job no identity token: %w", err)
	}
	defer resp.Body.Close()
	var answer struct{ Value string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Value == "" {
		return "", fmt.Errorf("GitHub gives the job no identity token: it answers %s; has the job `permissions: {id-token: write}`?", resp.Status)
	}
	j.now, j.at = answer.Value, time.Now()
	return j.now, nil
}
