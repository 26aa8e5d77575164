package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canaryd/canaryd/internal/world"
)

func classPolicy(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "shop.yml")
	if err := os.WriteFile(file, []byte("service: shop\nroute: {classes: [{name: checkout, path: /checkout}, {name: items, prefix: /items}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSimulateSaysWhatHappensToAClassThatBreaks(t *testing.T) {
	file := classPolicy(t)
	plain := filepath.Join(filepath.Dir(file), "plain.yml")
	if err := os.WriteFile(plain, []byte("service: shop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		said string
	}{
		{[]string{"--class", "checkout=0.1%"}, 0, "fails 100% of checkout (0.1%)"},
		{[]string{file, "--class", "items=20%", "--class", "checkout=0.5%:1%:50%"}, 0, "fails 50% of checkout (0.5%)"},
		{[]string{file, "--class", "chekout=0.1%"}, 2, "route.classes of the policy has no class chekout; it has checkout, items"},
		{[]string{plain, "--class", "checkout=0.1%"}, 0, "the policy has no route.classes: all requests are judged together"},
		{[]string{"--class", "checkout"}, 2, "write NAME=SHARE"},
		{[]string{"--class", "checkout=1%:1%:1%:1%"}, 2, "write NAME=SHARE"},
		{[]string{"--class", "checkout=1"}, 2, "is not a percentage"},
		{[]string{"--class", "checkout=0%"}, 2, "write each class once, with a share above 0"},
		{[]string{"--class", "a=1%", "--class", "a=1%"}, 2, "write each class once"},
		{[]string{"--class", "a=60%", "--class", "b=40%"}, 2, "the shares add up to 100%, and leave nothing for rest"},
		{[]string{"--class", "rest=1%"}, 2, "write NAME=SHARE"},
	} {
		code, out, errOut := runCLI(t, "", append([]string{"simulate", "--runs", "2", "--rate", "200", "--past", "5m", "--most", "5m"}, c.args...)...)
		if code != c.code || !strings.Contains(out+errOut, c.said) {
			t.Errorf("%v: exit %d (want %d), want %q:\n%s%s", c.args, code, c.code, c.said, out, errOut)
		}
	}
}

// A release that breaks a small class is cut where its policy names the class, and promoted where it does not.
func TestSimulateShowsWhatClassesAreFor(t *testing.T) {
	file := classPolicy(t)
	bad := func(args ...string) world.Answer {
		code, out, errOut := runCLI(t, "", append([]string{"simulate", "--runs", "4", "--rate", "500", "--past", "30m", "--most", "1h", "-o", "json", "--class", "checkout=0.02%"}, args...)...)
		var got struct{ Classes []simulated }
		if err := json.Unmarshal([]byte(out), &got); code != 0 || err != nil || len(got.Classes) != 1 || got.Classes[0].Class != "checkout" {
			t.Fatalf("exit %d, %v:\n%s%s", code, err, out, errOut)
		}
		return got.Classes[0].Answer
	}
	if a := bad(file); a.Cut != a.Runs {
		t.Errorf("with classes: %+v", a)
	}
	plain := filepath.Join(filepath.Dir(file), "plain.yml")
	if err := os.WriteFile(plain, []byte("service: shop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a := bad(plain); a.Promoted == 0 {
		t.Errorf("without: %+v", a)
	}
}

func TestCheckWarnsOfClassesThatHoldAPromotionForHours(t *testing.T) {
	file := classPolicy(t)
	for _, c := range []struct {
		class string
		said  string
	}{
		{"checkout=0.003%", "shop.yml:2:19: at 10 requests/s and 50% a release answers class checkout 3 times after about 5h36m42s"},
		{"checkout=0.0003%", "answers class checkout less than 3 times a day: a release is promoted without having answered it"},
		{"checkout=1%", "1 file OK"},
		{"other=0.003%", "1 file OK"},
	} {
		code, out, errOut := runCLI(t, "", "check", "--rate", "10", "--stable", "1%", file, "--class", c.class)
		warned := strings.Contains(errOut, "class checkout")
		if said := out + errOut; code != 0 || !strings.Contains(said, c.said) || warned != strings.Contains(c.said, "class checkout") {
			t.Errorf("%s: exit %d, want %q:\n%s", c.class, code, c.said, said)
		}
	}
}
