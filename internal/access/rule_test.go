package access

import (
	"slices"
	"testing"
)

// What a misspelt name looks like is said: it lets nobody in, and nothing fails.
func TestWhatHasNoEffectIsSaid(t *testing.T) {
	c := Config{
		Rules:  []Rule{{User: "alice", Role: View}, {User: "bob", Role: View}, {Token: "ci", Role: Deploy}, {Token: "ic", Role: Deploy}, {Token: "ic", Role: View}},
		Tokens: Tokens{{1}: "ci", {2}: "ci", {3}: "old"}, Users: map[string]string{"alice": "", "carol": ""},
	}
	want := []string{
		"web.access has a rule for the user bob, whom --web.config.file does not list", "web.access has a rule for the token ic, which is not in web.tokens_file",
		"web.tokens_file has the token old, for which web.access has no rule: it opens nothing",
	}
	if got := c.Idle(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if c.Users = nil; !slices.Equal(c.Idle(), want[1:]) {
		t.Errorf("without knowing the users: %q", c.Idle())
	}
}
