package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func open(t *testing.T, subnet string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "mote"), netip.MustParsePrefix(subnet))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func allocate(t *testing.T, s *Store, id string) netip.Addr {
	t.Helper()
	rec, err := s.Allocate(Record{ContainerID: id, IfName: "eth0"})
	if err != nil {
		t.Fatalf("allocate %s: %v", id, err)
	}
	return rec.Address
}

func expectAddr(t *testing.T, what string, got netip.Addr, want string) {
	t.Helper()
	if got.String() != want {
		t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

func TestAllocationGoesRound(t *testing.T) {
	t.Parallel()
	s := open(t, "10.42.0.0/29") // .1 is the bridge, .7 broadcast: .2 to .6
	expectAddr(t, "first", allocate(t, s, "a"), "10.42.0.2")
	expectAddr(t, "second", allocate(t, s, "b"), "10.42.0.3")
	expectAddr(t, "the same again", allocate(t, s, "a"), "10.42.0.2")
	for range 2 {
		if err := s.Release("a", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	// Not .2, which was freed just now: neighbours may still know its last owner.
	expectAddr(t, "after a release", allocate(t, s, "c"), "10.42.0.4")
	allocate(t, s, "d")
	allocate(t, s, "e")
	expectAddr(t, "wraps around", allocate(t, s, "f"), "10.42.0.2")
	if _, err := s.Allocate(Record{ContainerID: "g", IfName: "eth0"}); !errors.Is(err, ErrExhausted) {
		t.Errorf("a seventh address: %v", err)
	}
	if records, err := s.List(); err != nil || len(records) != 5 {
		t.Errorf("%d records, %v", len(records), err)
	}
}

func TestRecordKeepsWhatAddWasGiven(t *testing.T) {
	t.Parallel()
	s := open(t, "10.42.0.0/24")
	want := Record{ContainerID: "a", IfName: "eth0", Netns: "/run/netns/a", HostIf: "mote1", Ports: []Port{{HostPort: 80, ContainerPort: 8080, Protocol: "tcp"}}}
	if _, err := s.Allocate(want); err != nil {
		t.Fatal(err)
	}
	got, ok, err := s.Get("a", "eth0")
	want.Address = netip.MustParseAddr("10.42.0.2")
	if err != nil || !ok || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v %v %v, want %+v", got, ok, err, want)
	}
	if _, ok, err := s.Get("a", "eth1"); ok || err != nil {
		t.Errorf("another interface: %v, %v", ok, err)
	}
}

// A crash between link and record leaves an address that nobody has: it must come back.
func TestDanglingAddressIsTakenBack(t *testing.T) {
	t.Parallel()
	s := open(t, "10.42.0.0/30") // .2 alone
	if err := os.Symlink(filepath.Join("..", "attachments", "crashed@eth0"), filepath.Join(s.addresses(), "10.42.0.2")); err != nil {
		t.Fatal(err)
	}
	expectAddr(t, "dangling", allocate(t, s, "a"), "10.42.0.2")
}

// What a crash leaves goes when the runtime has the plugin collect.
func TestTidy(t *testing.T) {
	t.Parallel()
	s := open(t, "10.42.0.0/24")
	allocate(t, s, "a")
	left := []string{filepath.Join(s.addresses(), "10.42.0.9"), filepath.Join(s.attachments(), "crashed@eth0.tmp")}
	if err := os.Symlink(filepath.Join("..", "attachments", "crashed@eth0"), left[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left[1], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Tidy(); err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if rec, ok, err := s.Get("a", "eth0"); !ok || err != nil || rec.Address.String() != "10.42.0.2" {
		t.Errorf("what is held: %v, %v, %v", rec, ok, err)
	}
	expectAddr(t, "again", allocate(t, s, "a"), "10.42.0.2")
}

func TestDamagedStore(t *testing.T) {
	t.Parallel()
	s := open(t, "10.42.0.0/24")
	allocate(t, s, "a")
	for path, content := range map[string]string{"last": "junk", "attachments/a@eth0": "{", "attachments/b@eth0.tmp": "left by a crash"} {
		if err := os.WriteFile(filepath.Join(s.dir, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := allocate(t, s, "c"); got.String() == "10.42.0.2" {
		t.Error("an address was given out twice")
	}
	if _, err := s.Allocate(Record{ContainerID: "a", IfName: "eth0"}); !errors.Is(err, errCorrupt) {
		t.Errorf("damaged record: %v", err)
	}
	if err := s.Release("a", "eth0"); err != nil {
		t.Errorf("release of a damaged record: %v", err)
	}
	allocate(t, s, "a")
}

// The range changed while the node kept its state: the old address is of no use.
func TestAnotherRange(t *testing.T) {
	t.Parallel()
	s := open(t, "10.42.0.0/24")
	allocate(t, s, "a")
	other, err := Open(s.dir, netip.MustParsePrefix("10.42.7.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	expectAddr(t, "in the new range", allocate(t, other, "a"), "10.42.7.2")
}

func TestParallelAllocations(t *testing.T) {
	t.Parallel()
	s := open(t, "10.42.0.0/24")
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			rec, err := s.Allocate(Record{ContainerID: fmt.Sprint(i), IfName: "eth0"})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[rec.Address] {
				t.Errorf("%s: %v, given out before: %v", rec.Address, err, seen[rec.Address])
			}
			seen[rec.Address] = true
		})
	}
	wg.Wait()
}
