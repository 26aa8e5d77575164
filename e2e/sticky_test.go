package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
)

// Sessions stay where they began, users stay in a canary while it grows, and both are accepted by the
// oldest and the newest Envoy.
func TestSessionsAndUsersStay(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"envoy-oldest", "envoy-newest"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, setting{envoy: envoy, ramp: "ramp: {steps: [20%, 60%, 100%], hold: 3s, per: user}\njudge: {clump: 1, budget: 100000}\nsessions: {cookie: sess, ttl: 30m}\n"})
			v2 := s.version("v2")
			s.run(0, s.deploy(v2)...)
			s.until(10*time.Second, "v2 in force", func() bool { v := s.Version("shop", "v2"); return v.InForce && v.Weight == 0.2 })
			s.run(0, "pause", "shop", "v2") // until everybody has come once
			users := make([][]*http.Cookie, 400)
			first := make([]string, len(users))
			inV2 := 0
			for i := range users {
				first[i], users[i] = s.visit(t, nil)
				if first[i] == "v2" {
					inV2++
				}
			}
			if inV2 < 48 || inV2 > 112 {
				t.Errorf("%d of 400 users got v2 at 20 %%", inV2)
			}
			s.run(0, "resume", "shop", "v2")
			l := s.load(200) // evidence for the next step
			s.until(30*time.Second, "60 %", func() bool { v := s.Version("shop", "v2"); return v.InForce && v.Weight == 0.6 })
			l.Stop()
			for i := range users {
				if got, _ := s.visit(t, users[i]); got != first[i] {
					t.Fatalf("user %d went from %s to %s", i, first[i], got)
				}
			}
			s.run(0, "abort", "shop")
			s.until(10*time.Second, "the abort to be in force", func() bool { svc, err := s.Service("shop"); return err == nil && svc.Find("v1").InForce })
			for i := range users {
				if got, _ := s.visit(t, users[i]); got != "v1" {
					t.Fatalf("after the cut a cookie still leads to %s", got)
				}
			}
		})
	}
}

// visit makes a request with a user's cookies and returns the version and the cookies it set.
func (s *scene) visit(t *testing.T, cookies []*http.Cookie) (string, []*http.Cookie) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+s.front+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cookies {
		req.AddCookie(c)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("a user saw %s", resp.Status)
	}
	return resp.Header.Get("X-Version"), resp.Cookies()
}

// An Envoy speaks mTLS to canaryd with the bootstrap as it is printed.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeCertificates(t, dir)
	front := rig.FreeAddress()
	v1, err := rig.NewService("v1", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v1.Close)
	stage, err := rig.NewStage(t.TempDir(), part(t, "canaryd"), "", map[string]string{"shop.yml": policyText(front, v1.Address, "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := stage.WriteConfig("xds: {listen: \"" + stage.XDS + "\", tls: {cert_file: " + dir + "/server.pem, key_file: " + dir + "/server.key, client_ca_file: " + dir + "/ca.pem}}\nweb: {listen: \"" + stage.Web + "\"}\n"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stage.Close)
	stage.Envoy, stage.TLSDir = part(t, "envoy-newest"), dir
	if err := stage.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := stage.StartEnvoy(t.Context(), "edge-1", "edge", nil); err != nil {
		t.Fatal(err)
	}
	if err := rig.WaitFor(t.Context(), patience*10*time.Second, "an answer over mTLS", func() bool { return rig.Answers("http://" + front + "/") }); err != nil {
		t.Fatal(err)
	}
	code, out, errOut, err := stage.Run(t.Context(), "xds", "dump", "--xds", stage.XDS, "--tls-dir", dir)
	if err != nil || code != 0 || len(out) < 500 {
		t.Errorf("xds dump: exit %d %v %s %s", code, err, out, errOut)
	}
	if code, _, _, _ := stage.Run(t.Context(), "xds", "dump", "--xds", stage.XDS); code != 1 {
		t.Errorf("a client without a certificate got exit %d", code)
	}
}
