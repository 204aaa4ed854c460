package ipam

import (
	"net/netip"
	"os"
	"testing"
)

// A damaged record is an error that names the file, and is in nobody else's way.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"containerID":"a","ifname":"eth0","address":"10.1.0.5"}`))
	f.Add([]byte(`{"containerID":"a","ifname":"eth0","address":"::1","ports":[{"hostPort":-1}]}`))
	f.Add([]byte(`{"address":""}`))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Open(t.TempDir(), netip.MustParsePrefix("10.1.0.0/24"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.recordPath("a", "eth0"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, _ = s.Get("a", "eth0")
		_, _ = s.List()
		rec, err := s.Allocate(Record{ContainerID: "b", IfName: "eth0"})
		if err != nil || !netip.MustParsePrefix("10.1.0.0/24").Contains(rec.Address) {
			t.Errorf("another attachment got %v, %v", rec.Address, err)
		}
		_, _ = s.Allocate(Record{ContainerID: "a", IfName: "eth0"})
		_ = s.Release("a", "eth0")
	})
}
