package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/canaryd/canaryd/internal/policy"
)

// What is proposed can be pasted as it is, and has nothing of users.
func TestClassesAreProposedFromAnAccessLog(t *testing.T) {
	var log strings.Builder
	for i := range 200 {
		fmt.Fprintf(&log, "10.0.0.1 - - [28/Nov/2026:10:00:00 +0000] \"GET /items/%d?user=alice HTTP/1.1\" 200 12 \"-\" \"curl\"\n", i)
		fmt.Fprintf(&log, "{\"method\":\"POST\",\"path\":\"/checkout?card=4711\"}\n")
	}
	log.WriteString("not a request\nGET /it's,odd:\n")
	code, out, errOut := runCLI(t, log.String(), "classes", "--from", "-")
	if code != exitOK || !strings.Contains(errOut, "1 lines have no request") {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	docs, fs := policy.Parse("p.yml", []byte("service: shop\n"+out))
	if len(fs.Errors()) > 0 {
		t.Fatalf("%v\n%s", fs, out)
	}
	want := "{post-checkout POST /checkout    }, {get-it-s-odd GET /it's,odd:    }, {get-items GET   /items/*  }"
	var got []string
	for _, c := range docs[0].Policy.Route.Classes {
		got = append(got, fmt.Sprint(c))
	}
	if strings.Join(got, ", ") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, ", "), want)
	}
	if strings.Contains(out, "alice") || strings.Contains(out, "4711") {
		t.Errorf("a query is kept:\n%s", out)
	}
	for args, code := range map[string]int{"classes": exitUsage, "classes --from /nosuch": exitError, "classes --from -": exitError, "classes --from - -o yaml": exitUsage} {
		if got, _, errOut := runCLI(t, "", strings.Fields(args)...); got != code {
			t.Errorf("%s: exit %d, want %d: %s", args, got, code, errOut)
		}
	}
}
