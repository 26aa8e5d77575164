package policy

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestRedactedPolicies(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing to hide, every byte stays": {"service:   shop # a comment\nramp: {hold: 2m}\n", "service:   shop # a comment\nramp: {hold: 2m}\n"},
		"where it is read is no secret":     {"service: shop\ndocker: {port: 1, env: {A: {from_file: /run/a}, B: {from_env: B}}}\n", "service: shop\ndocker: {port: 1, env: {A: {from_file: /run/a}, B: {from_env: B}}}\n"},
		"values":                            {"service: shop\ndocker:\n  port: 1\n  env:\n    A: s3cret\n    B: {from_env: X}\n    C: |\n      s3cret\n      s3cret\n", "A: •••\n"},
		"flow, quoted":                      {"service: shop\ndocker: {port: 1, env: {A: \"s3cret\", 'B': 's3cret'}}\n", "A: •••"},
		"testers":                           {"service: shop\nroute: {testers: {header: x, key: s3cret}}\n", "key: •••"},
		"anchors":                           {"service: shop\ndocker:\n  port: 1\n  env: {A: &a s3cret, B: *a}\n", "A: &a •••"},
		"an anchor in labels":               {"service: shop\ndocker:\n  port: 1\n  labels: {l: &a s3cret}\n  env: {B: *a}\n", "l: &a •••"},
		"merged":                            {"service: shop\ndocker:\n  port: 1\n  labels: &l {l: s3cret}\n  env: {<<: *l, B: x}\n", "l: •••"},
		"comments":                          {"service: shop\ndocker:\n  port: 1\n  env:\n    # s3cret\n    A: x # s3cret\n    # s3cret\n", "A: •••"},
		"URLs":                              {"service: shop\ndocker: {port: 1, labels: {a: \"https://u:s3cret@h/p?token=s3cret\"}}\n", "https://•••@h/p?•••"},
	} {
		docs, fs := Parse("shop.yml", []byte(c.text))
		if len(fs.Errors()) > 0 || len(docs) != 1 {
			t.Fatalf("%s: %v", name, fs)
		}
		got := Redacted(docs[0].Text)
		if docs[0].Shown != got {
			t.Errorf("%s is shown as\n%s", name, docs[0].Shown)
		}
		if strings.Contains(got, "s3cret") || !strings.Contains(got, c.want) {
			t.Errorf("%s:\n%s", name, got)
		}
		if again, fs := Parse("shop.yml", []byte(strings.Replace(got, "key: •••", "key: k", 1))); len(fs.Errors()) > 0 || again[0].Policy.Service != "shop" || Redacted(got) != got && !strings.Contains(got, "https") {
			t.Errorf("%s: what is shown is no policy: %v\n%s", name, fs, got)
		}
	}
	if got := Redacted("a: [s3cret"); strings.Contains(got, "s3cret") {
		t.Errorf("what cannot be read: %s", got)
	}
}

// A state from before there were secrets has texts, and so has one of today where no other place is named.
func TestSecretsAreStoredAsTheyAreWritten(t *testing.T) {
	docs, fs := Parse("policies/shop.yml", []byte("service: shop\ndocker: {port: 1, env: {A: text, N: 8080, F: {from_file: keys/a}, G: {from_file: /run/a}, E: {from_env: X}}}\n"))
	if len(fs) > 0 {
		t.Fatal(fs)
	}
	raw, err := json.Marshal(docs[0].Policy.Docker.Env)
	if err != nil || string(raw) != `{"A":"text","E":{"from_env":"X"},"F":{"from_file":"policies/keys/a"},"G":{"from_file":"/run/a"},"N":"8080"}` {
		t.Errorf("%s %v", raw, err)
	}
	var back map[string]Secret
	if err := json.Unmarshal(raw, &back); err != nil || back["F"].FromFile != "policies/keys/a" || back["A"].Value != "text" {
		t.Errorf("%+v %v", back, err)
	}
	for text, want := range map[string]string{"[s3cret]": "write a value, {from_file: PATH} or {from_env: NAME}", "{}": "write one of from_file and from_env", "{from_file: a, from_env: b}": "write one of", "{value: s3cret}": "a key that it cannot have"} {
		_, fs := Parse("shop.yml", []byte("service: shop\ndocker: {port: 1, env: {A: "+text+"}}\n"))
		if s := fs.Error(); !strings.Contains(s, want) || strings.Contains(s, "s3cret") {
			t.Errorf("%s: %s", text, s)
		}
	}
}

// Whatever a policy holds, its text without secrets has none of what its containers get.
func FuzzRedacted(f *testing.F) {
	f.Add("service: shop\ndocker: {port: 1, env: {A: s3cretvalue, B: {from_env: X}}}\nroute: {testers: {header: x, key: s3cretkey}}\n")
	f.Add("service: shop\ndocker:\n  port: 1\n  labels: &l {l: otherwise}\n  env: {<<: *l, B: &b whatever, C: *b}\n")
	f.Fuzz(func(t *testing.T, text string) {
		docs, fs := Parse("shop.yml", []byte(text))
		if len(fs.Errors()) > 0 {
			return
		}
		for _, d := range docs {
			shown := Redacted(d.Text)
			if d.Shown != shown && shown != "# this text cannot be read any more, and may hold secrets\n" {
				t.Errorf("%s\nis shown as\n%s", text, d.Shown)
			}
			again, fs := Parse("shop.yml", []byte(shown))
			if len(fs.Errors()) > 0 || len(again) != 1 || d.Policy.Docker == nil {
				continue // it is hidden as a whole
			}
			for name, s := range d.Policy.Docker.Env {
				if s.Value != "" && again[0].Policy.Docker.Env[name].Value == s.Value && s.Value != Hidden {
					t.Errorf("%s of\n%s\nis shown:\n%s", name, text, shown)
				}
			}
		}
	})
}
