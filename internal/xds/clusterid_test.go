package xds

import "testing"

func TestAClusterIsItsName(t *testing.T) {
	for name, want := range map[string]ClusterID{
		"shop/v1": {"shop", "v1", Users}, "shop/v1.2~testers": {"shop", "v1.2", Testers}, "a/b": {"a", "b", Users},
	} {
		if got, ok := ParseCluster(name); !ok || got != want || got.String() != name {
			t.Errorf("%s is %+v, written %s", name, got, got)
		}
	}
	if c, ok := ParseCluster("elsewhere"); ok {
		t.Errorf("a cluster of no service is %+v", c)
	}
}
