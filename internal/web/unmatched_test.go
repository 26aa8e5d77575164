package web

import (
	"net/http"
	"testing"
)

func TestARefusedMethodNamesThosePossible(t *testing.T) {
	s := newSite(t)
	resp, err := http.Post(s.URL+"/api/v1/services", "application/json", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%d, Allow %q", resp.StatusCode, resp.Header.Get("Allow"))
	}
}

func TestAPathThatIsNotCleanIsRedirected(t *testing.T) {
	s := newSite(t)
	s.call("GET", "//api/v1/../v1/services", "", 200, "")
	s.call("GET", "//nothing", "", 404, "Problem")
}
