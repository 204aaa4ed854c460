package etcd

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A key that is written after a snapshot is gone after the restore, what was before it is there, and revisions go on far
// above those that anybody has seen.
func TestSnapshotAndRestore(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir := filepath.Join(t.TempDir(), "etcd")
	file := filepath.Join(t.TempDir(), "copy")
	s, err := Start(ctx, Config{Dir: dir, UnsafeNoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	put := func(s *Store, key string) int64 {
		t.Helper()
		r, err := s.Client().Put(ctx, key, "v")
		if err != nil {
			t.Fatal(err)
		}
		return r.Header.GetRevision()
	}
	put(s, "before")
	m, err := Open(ctx, Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Save(ctx, file); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Save(ctx, file); err == nil {
		t.Error("a snapshot overwrote a file")
	}
	if err := m.Defragment(ctx); err != nil {
		t.Error(err)
	}
	if st, err := m.Status(ctx); err != nil || len(st) != 1 || st[0].Keys != 1 || !st[0].Leader {
		t.Errorf("status: %+v, %v", st, err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	last := put(s, "after")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("no snapshot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(bad, dir, time.Now()); err == nil {
		t.Error("nonsense was restored")
	}
	kept, err := Restore(file, dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
	s, err = Start(ctx, Config{Dir: dir, UnsafeNoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for key, want := range map[string]int64{"before": 1, "after": 0} {
		if r, err := s.Client().Client.Get(ctx, key); err != nil || r.Count != want {
			t.Errorf("%s: %v, %v", key, r, err)
		}
	}
	if r := put(s, "new"); r <= last+restoredRevisions/2 {
		t.Errorf("revision %d after %d: old watchers would take it for a continuation", r, last)
	}
}
