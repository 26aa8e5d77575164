package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/rig"
)

// Only here the API is tried by a tool that knows nothing but its document: no answer is one that the document does not have,
// nothing is taken that it does not allow, nobody gets in without credentials, and nothing ends in a defect. The events are left
// out, for they do not end, and so is the tool's belief that whatever fits a schema is taken: a host name also has to be one.
func TestTheAPIKeepsItsDocument(t *testing.T) {
	t.Parallel()
	token, line, err := access.NewToken("tool")
	if err != nil {
		t.Fatal(err)
	}
	s, err := rig.NewStage(t.TempDir(), part(t, "canaryd"), "", map[string]string{
		"shop.yml": "service: shop\nroute: {probe: \"off\"}\nramp: {steps: [10%, 100%]}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	config := fmt.Sprintf("xds: {listen: %q}\nweb: {listen: %q, tokens_file: tokens.yml, access: [{token: tool, role: admin}]}\n", s.XDS, s.Web)
	if err := cmp.Or(s.WriteConfig(config), os.WriteFile(filepath.Join(s.Dir, "tokens.yml"), []byte(line+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := s.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	document := "http://" + s.Web + "/api/v1/openapi.json"
	if out, err := tool(t, "redocly", "lint", "--skip-rule=no-server-example.com", filepath.Join("..", "internal", "web", "openapi.json")); err != nil {
		t.Errorf("redocly: %v\n%s", err, out)
	}
	out, err := tool(t, "schemathesis", "--no-color", "run", document, "-H", "Authorization: Bearer "+token, "--exclude-path", "/events", "--exclude-path", "/hooks/registry",
		"--exclude-checks", "positive_data_acceptance", "--max-examples", "20", "--seed", "1", "--request-timeout", "20")
	if err != nil || !strings.Contains(out, "Tested: ") {
		t.Errorf("schemathesis: %v\n%s", err, out)
	}
	resp, err := http.Get(document)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %s", resp.Status)
	}
}

func tool(t *testing.T, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience*2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, part(t, name), args...)
	cmd.Env = append(cmd.Environ(), "REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
