package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Events end when the identity token that opened them expires, and not before.
func TestEventsEndWithTheIdentityToken(t *testing.T) {
	f := newFort(t)
	client, err := trusting(f.ca)
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(4 * time.Second).Truncate(time.Second)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+f.addr+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.is.token(0, map[string]any{"exp": until.Unix()}))
	client.Timeout = time.Minute
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	if _, err := io.ReadAll(resp.Body); err != nil || time.Now().Before(until) {
		t.Errorf("it ended %s before the token: %v", time.Until(until), err)
	}
}

// The token of a registry's notifications is replaced by a reload; one that cannot be read leaves the one before.
func TestTheHookTokenIsReloaded(t *testing.T) {
	f := newFort(t)
	for _, c := range []struct {
		hook         string
		reloads      int
		before, then int
	}{
		{"hook_token: {from_file: hook}", 422, 200, 401},
		{"hook_token: another", 200, 401, 200},
		{"{}", 200, 403, 403},
	} {
		f.write("canaryd.yml", strings.Replace(strings.Replace(f.rulesBefore, "{hook_token: of-the-registry}", "{"+c.hook+"}", 1), "{{}}", "{}", 1))
		if status, text := f.post("/-/reload", "Basic cm9vdDp0b29y", ""); status != c.reloads {
			t.Errorf("%s: reload %d %s", c.hook, status, text)
		}
		for token, want := range map[string]int{"of-the-registry": c.before, "another": c.then} {
			if status, text := f.post("/api/v1/hooks/registry", "Bearer "+token, `{"events": []}`); status != want {
				t.Errorf("%s: %s is answered %d %s", c.hook, token, status, text)
			}
		}
	}
}
