package snapshot

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A damaged checkpoint is as good as none, or is whole enough to make rules and names of.
func FuzzLoad(f *testing.F) {
	s := NewStore("here")
	s.ReplaceServices([]*corev1.Service{service("a", "10.43.0.1")})
	s.ReplaceSlices([]*discoveryv1.EndpointSlice{slice("a-1", "a", "10.42.0.2")})
	s.SetZone("z")
	path := filepath.Join(f.TempDir(), "services")
	if err := s.Save(path); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(`{"version":1,"services":[null],"slices":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "services")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := NewStore("here")
		loaded, err := s.Load(path)
		if loaded && err != nil {
			t.Errorf("loaded, and %v", err)
		}
		for _, n := range s.Names() {
			if v := s.Service(n); v == nil || v.Name != n {
				t.Errorf("%v is listed and is %v", n, v)
			} else {
				for _, addr := range v.ClusterIPs {
					_ = s.ByClusterIP(addr)
				}
			}
			_ = s.Slices(n)
		}
		s.ReplaceServices(nil)
		s.ReplaceSlices(nil)
		if left := s.Names(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}
