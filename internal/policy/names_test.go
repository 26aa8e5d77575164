package policy

import (
	"net"
	"net/netip"
	"testing"
)

func FuzzByName(f *testing.F) {
	for _, e := range []string{"", ":", "::", ":80", "::80", "10.0.0.1:80", "10.0.0.256:80", "10.0.0.01:80", "1.2.3:80", "10.0.0.1", "shop:80", "shop", "shop:http", "10.0.0.1:http",
		"[::1]:80", "[fe80::1%eth0]:80", "::1:80", "[10.0.0.1]:80", "[shop]:80", "shop:80]", "10.0.0.1:8[0", "a:b:c", "10.0.0.1.shop:80", "1.2.3.4-:80", "é:80"} {
		f.Add(e)
	}
	f.Fuzz(func(t *testing.T, e string) {
		host, _, err := net.SplitHostPort(e)
		want := false
		if err == nil {
			_, err = netip.ParseAddr(host)
			want = err != nil
		}
		if got := ByName(e); got != want {
			t.Errorf("%q is looked up: %v", e, got)
		}
	})
}
