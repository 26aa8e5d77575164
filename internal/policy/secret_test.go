package policy

import (
	"strings"
	"testing"
)

// What is said against a policy stands in logs, in answers and in status. It shows nothing of what may be a secret, also where that
// is text which means something else in YAML.
func TestMistakesShowNoSecrets(t *testing.T) {
	const env = "service: shop\ndocker: {port: 1, image: a}\n"
	for _, c := range []struct{ docker, said string }{
		{"env: {A: *hunter2}", "text that begins with * stands for an anchor, and there is none of this name: put it in quotes"},
		{"env: {A: {hunter2}}", "docker.env.A has a key that it cannot have: write text in quotes, {from_file: PATH} or {from_env: NAME}"},
		{"env: {A: {from_fil: hunter2}}", `unknown key "from_fil" in docker.env.A: did you mean "from_file"?`},
		{"env: {A: !!int hunter2}", "this is not a value of its tag !!int"},
		{"env: {A: !!binary hunter2}", "!!binary value contains invalid base64 data"},
		{"env: hunter2", "this does not fit here: expected a mapping of keys"},
		{"env: {A: [hunter2]}", "write a value, {from_file: PATH} or {from_env: NAME}"},
		{"env: {A: \"hunter\\q2\"}", "found unknown escape character"},
		{"env: {A: 'hunter2}", ""}, {"env: {A: [hunter2}", ""}, {"env: {A: hunter2: x}", ""}, {"env: {A: |hunter2}", ""},
	} {
		text := strings.Replace(env, "image: a", c.docker, 1)
		_, fs := Parse("shop.yml", []byte(text))
		if said := fs.Error(); len(fs) == 0 || strings.Contains(said, "hunter") || !strings.Contains(said, c.said) {
			t.Errorf("%s: %s", c.docker, said)
		}
	}
	for _, testers := range []string{"hunter2", "{header: x, key: *hunter2}", "{header: x, key: [hunter2]}", "{header: x, key: 'hunter2!'}", "{header: x, key: {hunter2}}", "{header: x, key: !!int hunter2}"} {
		_, fs := Parse("shop.yml", []byte("service: shop\nroute: {testers: "+testers+"}\n"))
		if said := fs.Error(); len(fs.Errors()) == 0 || strings.Contains(said, "hunter") {
			t.Errorf("testers: %s: %s", testers, said)
		}
	}
}
