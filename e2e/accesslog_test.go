package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
)

// listenerDump is what an Envoy says of its listeners.
func listenerDump(t *testing.T, admin string) string {
	t.Helper()
	_, text := get(t, "http://"+admin+"/config_dump?resource=dynamic_listeners")
	return text
}

// A real Envoy with the bootstrap of today logs failures on canaryd's own listener; one with an older bootstrap has the listener
// without; and no request suffers while canaryd is away.
func TestFailuresAreLoggedWhereTheBootstrapAllowsIt(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"envoy-newest", "envoy-oldest"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, setting{envoy: envoy, route: "nodes: [edge]"})
			sick := &ailing{path: "/broken", how: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }}
			sick.fails.Store(true)
			front := rig.FreeAddress()
			if err := s.WritePolicy("other.yml", fmt.Sprintf("service: other\nroute: {listener: %q, nodes: [edge-new, edge-old]}\nversions: [{version: v1, endpoints: [%q], stable: true}]\n", front, sick.listen(t))); err != nil {
				t.Fatal(err)
			}
			admins := map[string]string{}
			for _, group := range []string{"edge-old", "edge-new"} {
				process, admin, err := s.StartEnvoy(t.Context(), group, group, func(text string) string {
					if group == "edge-old" {
						text = strings.Replace(text, "access_log: true", "access_log: false", 1)
					}
					return text
				})
				if err != nil {
					t.Fatal(err)
				}
				s.until(30*time.Second, group+" serves", func() bool { return rig.Answers("http://" + front + "/") })
				admins[group] = admin
				if group == "edge-old" {
					if dump := listenerDump(t, admin); !strings.Contains(dump, front) || strings.Contains(dump, "canaryd-failures") {
						t.Errorf("the older bootstrap:\n%s", dump)
					}
					process.Stop()
				}
			}
			admin := admins["edge-new"]
			if dump := listenerDump(t, admin); !strings.Contains(dump, "canaryd-failures") || strings.Contains(dump, "error_state") {
				t.Fatalf("today's bootstrap:\n%s", dump)
			}
			if _, refused := get(t, "http://"+admin+"/stats?filter=listener_manager.lds.update_rejected"); !strings.Contains(refused, ": 0") {
				t.Error(refused)
			}
			written := func() string {
				_, text := get(t, "http://"+admin+"/stats?filter=access_logs.grpc_access_log.logs_written")
				return strings.TrimSpace(text)
			}
			get(t, "http://"+front+"/")
			get(t, "http://"+front+"/broken")
			s.until(10*time.Second, "one record, of the failure", func() bool { return strings.HasSuffix(written(), ": 1") })
			s.Daemon().Kill()
			for i := range 200 {
				path := []string{"/", "/broken"}[i%2]
				if code, _ := get(t, "http://"+front+path); code != []int{200, 502}[i%2] {
					t.Fatalf("%s answers %d while canaryd is away", path, code)
				}
			}
		})
	}
}
