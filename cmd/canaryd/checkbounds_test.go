package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the bounds of a canaryd.yml would refuse at the first deploy, check finds where it stands; each policy is held against
// the canaryd.yml that names it.
func TestCheckHoldsPoliciesAgainstBounds(t *testing.T) {
	const mounts = "service: shop\ndocker:\n  image: registry.example.com/shop\n  port: 80\n  volumes: [\"/srv/shop/data:/data\", \"cache:/cache\"]\n"
	for name, c := range map[string]struct {
		files map[string]string
		args  string
		wants []string // none: nothing is found
	}{
		"alone":             {map[string]string{"shop.yml": mounts}, "shop.yml", nil},
		"no volumes":        {map[string]string{"shop.yml": mounts, "canaryd.yml": "policies: [shop.yml]\n"}, "canaryd.yml", []string{`shop.yml:5:13: volume "/srv/shop/data" may not be mounted`, `shop.yml:5:37: volume "cache" may not`}},
		"beside it":         {map[string]string{"shop.yml": mounts, "canaryd.yml": "storage: {path: x}\n"}, "canaryd.yml shop.yml", []string{`volume "cache"`}},
		"within the bounds": {map[string]string{"shop.yml": mounts, "canaryd.yml": "policies: [shop.yml]\ndocker: {allow: [\"registry.example.com/*\"], volumes: [/srv/shop, cache]}\n"}, "canaryd.yml", nil},
		"a foreign image":   {map[string]string{"shop.yml": mounts, "canaryd.yml": "policies: [shop.yml]\ndocker: {allow: [registry.example.com/pay], volumes: [/srv, cache]}\n"}, "canaryd.yml", []string{"shop.yml:3:10: image registry.example.com/shop may not run here, only registry.example.com/pay may"}},
		"another's policy": {map[string]string{"shop.yml": mounts, "canaryd.yml": "policies: [shop.yml]\ndocker: {volumes: [/srv, cache]}\n", "other.yml": "policies: [pay.yml]\n",
			"pay.yml": "service: pay\ndocker: {image: pay, port: 80}\n"}, "canaryd.yml other.yml", nil},
	} {
		dir := t.TempDir()
		for file, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args := []string{"check"}
		for _, f := range strings.Fields(c.args) {
			args = append(args, filepath.Join(dir, f))
		}
		code, out, errOut := runCLI(t, "", args...)
		want := exitOK
		if len(c.wants) > 0 {
			want = exitFindings
		}
		if code != want {
			t.Errorf("%s: exit %d, want %d\n%s%s", name, code, want, out, errOut)
		}
		for _, w := range c.wants {
			if !strings.Contains(out, w) {
				t.Errorf("%s: %q is not in\n%s", name, w, out)
			}
		}
	}
}
