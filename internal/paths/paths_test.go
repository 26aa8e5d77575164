package paths

import (
	"fmt"
	"strings"
	"testing"

	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/policy"
)

func TestIdsAreStars(t *testing.T) {
	for path, want := range map[string]string{
		"/": "/", "/items": "/items", "/items/42": "/items/*", "/items/42?user=alice": "/items/*", "/items/ord-12345/pay": "/items/*/pay", "/v1/users": "/v1/users",
		"/u/3f2504e0-4f89-11d3-9a0c-0305e82c3301": "/u/*", "/c/deadbeef01": "/c/*", "/c/facade": "/c/facade", "/oauth2/token": "/oauth2/token", "/d/2026-11-28": "/d/*",
		"/mail/alice@example.com": "/mail/*", "/mail/alice%40example.com": "/mail/*", "/s/aZ3kQ9xP1LmN7vR2tY": "/s/*", "/a/b/c/d/e/f/g/h/i": "/a/b/c/d/e/f/g/**", "items": "", "*": "",
		"/x#top": "/x", "/items/": "/items/",
	} {
		if got := Template(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestLinesOfAccessLogs(t *testing.T) {
	for line, want := range map[string]string{
		`10.0.0.1 - alice [28/Nov/2026:10:00:00 +0000] "GET /items/7?token=secret HTTP/1.1" 200 12 "https://shop/?q=1" "curl"`: "GET /items/7 1",
		`[2026-11-28T10:00:00.000Z] "POST /checkout HTTP/2" 503 UF 0 91 10 - "-" "curl" "id" "shop" "10.0.0.1:80"`:             "POST /checkout 1",
		`{"method":"put","path":"/cart?x=1","status":200}`:                                                                     "PUT /cart 1",
		`{"request":{"method":"GET","uri":"/a?b"}}`:                                                                            "GET /a 1",
		"/plain?x":                   " /plain 1",
		"GET /plain":                 "GET /plain 1",
		"   17 DELETE /cart/9":       "DELETE /cart/9 17",
		"https://shop.example/a?b=c": " /a 1",
		"https://shop.example":       " / 1",
	} {
		method, path, n, ok := Line(line)
		if got := fmt.Sprint(method, " ", path, " ", n); got != want || !ok {
			t.Errorf("%s: %q %v, want %q", line, got, ok, want)
		}
	}
	for _, line := range []string{"", "hello world", "{}", "17", `{"path":`, "GET", "12 GET"} {
		if m, p, n, ok := Line(line); ok {
			t.Errorf("%q is read as %s %s %g", line, m, p, n)
		}
	}
}

// table is a policy with the proposed classes.
func table(t *testing.T, all []Proposed, grpc bool) policy.Findings {
	t.Helper()
	var classes []policy.Class
	for _, p := range all {
		classes = append(classes, p.Class)
	}
	raw, err := yaml.Dump(map[string]any{"classes": classes})
	if err != nil {
		t.Fatal(err)
	}
	protocol := "http"
	if grpc {
		protocol = "grpc"
	}
	text := "service: shop\nroute:\n  protocol: " + protocol + "\n  " + strings.ReplaceAll(strings.TrimSpace(string(raw)), "\n", "\n  ") + "\n"
	_, fs := policy.Parse("p.yml", []byte(text))
	return fs.Errors()
}

func TestATableOfWhatIsServed(t *testing.T) {
	var tally Tally
	for i := range 100 {
		tally.Add("GET", fmt.Sprintf("/items/%d?user=%d", i, i), 5)
		tally.Add("GET", fmt.Sprintf("/shops/shop-%c%c/items", 'a'+i/10, 'a'+i%10), 3)
		tally.Add("GET", fmt.Sprintf("/static/%c%c.png", 'a'+i/10, 'a'+i%10), 2)
	}
	tally.Add("POST", "/checkout", 400)
	tally.Add("GET", "/checkout", 100)
	tally.Add("GET", "/", 600)
	tally.Add("HACK", "/checkout", 1)
	var got []string
	all := Propose(&tally, false)
	for _, p := range all {
		got = append(got, fmt.Sprintf("%s: %s %s%s %.0f", p.Name, p.Method, p.Path, p.Template, p.Requests))
	}
	want := []string{"get: GET / 600", "post-checkout: POST /checkout 400", "get-checkout: GET /checkout 100", "checkout:  /checkout 1",
		"get-items: GET /items/* 500", "get-shops-items: GET /shops/*/items 300", "get-static-png: GET /static/*.png 200"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("proposed:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if fs := table(t, all, false); len(fs) > 0 {
		t.Error(fs)
	}
}

func TestATableOfMethods(t *testing.T) {
	var tally Tally
	tally.Add("POST", "/shop.Cart/Checkout", 10)
	tally.Add("POST", "/shop.Cart/List", 30)
	tally.Add("POST", "/grpc.health.v1.Health/Check", 2)
	tally.Add("GET", "/favicon.ico", 2)
	all := Propose(&tally, true)
	if len(all) != 3 || all[0].GRPC != "shop.Cart/List" || all[0].Name != "shop-cart-list" || all[0].Method != "" {
		t.Errorf("%+v", all)
	}
	if fs := table(t, all, true); len(fs) > 0 {
		t.Error(fs)
	}
}

func TestATallyIsBounded(t *testing.T) {
	var tally Tally
	tally.Add("GET", "/often", 1000)
	for i := range 10 * keysMost {
		tally.Add("GET", fmt.Sprintf("/rare/%c%c%c%c", 'a'+i%26, 'a'+i/26%26, 'a'+i/676%26, 'a'+i/17576), 1)
	}
	if len(tally.n) > keysMost || tally.n[Request{"GET", "/often"}] != 1000 {
		t.Errorf("%d templates", len(tally.n))
	}
	if all := Propose(&tally, false); len(all) != 2 || all[1].Template != "/rare/*" {
		t.Errorf("%+v", all)
	}
	for range 100 {
		tally.Fade(0.5)
	}
	if len(tally.n) > 0 {
		t.Errorf("%d are left", len(tally.n))
	}
}

// Whatever is asked for, the table is valid, and has nothing of a query.
func FuzzPropose(f *testing.F) {
	f.Add("GET /items/7?x\n/a\nPOST /b/c?secret", false)
	f.Add("/shop.Cart/List", true)
	f.Add("/rest\n/ms\n/*/x\n/{a}\n//\n/%zz/ä", false)
	f.Fuzz(func(t *testing.T, text string, grpc bool) {
		var tally Tally
		for line := range strings.Lines(text) {
			if method, path, n, ok := Line(line); ok {
				tally.Add(method, path, n)
			}
		}
		all := Propose(&tally, grpc)
		if len(all) == 0 {
			return
		}
		if fs := table(t, all, grpc); len(fs) > 0 {
			t.Errorf("%+v: %v", all, fs)
		}
	})
}
