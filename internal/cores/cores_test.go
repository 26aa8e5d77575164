package cores

import "testing"

func TestThreads(t *testing.T) {
	for _, c := range []struct {
		why         string
		cores, runs int
		asked       string
		want        int
	}{
		{"two cores", 2, 2, "", 4},
		{"one core", 1, 1, "", 4},
		{"enough", 4, 4, "", 0},
		{"many", 64, 64, "", 0},
		{"a container with two of many", 64, 2, "", 0},
		{"somebody asks for two", 2, 2, "2", 0},
	} {
		if got := threads(c.cores, c.runs, c.asked); got != c.want {
			t.Errorf("%s: %d threads, want %d", c.why, got, c.want)
		}
	}
}
