package access

import (
	"strings"
	"testing"
)

// Whoever mends a tokens file is told of every mistake, where it is, and reads the file's name once per line.
func TestMistakesInATokensFileHaveAPlace(t *testing.T) {
	one, two := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	for text, want := range map[string]string{
		"ci: " + one + "\n":                "",
		"ci: [" + one + ", " + two + "]\n": "",
		"":                                 "",
		"ci: " + one + "\nci shop: " + two + "\n":     "t.yml:2:1: \"ci shop\" is not a name for a token: write letters, digits, dots, dashes and underscores, as in ci-shop",
		"b: " + one + "\na: " + one + "\n":            "t.yml:2:1: b and a are one token: who did it would not be known",
		"a: [" + one + ", " + one + "]\n":             "t.yml:1:1: a and a are one token: who did it would not be known",
		"a b: " + one + "\nc: " + two + "\nd: " + two: "t.yml:1:1: \"a b\" is not a name for a token: write letters, digits, dots, dashes and underscores, as in ci-shop\nt.yml:3:1: c and d are one token: who did it would not be known",
	} {
		_, err := ReadTokens("t.yml", []byte(text))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q\n%s\nwant\n%s", text, got, want)
		}
	}
}
