package etcd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func start(t *testing.T, dir string) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := Start(ctx, Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestEmbeddedKeepsData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	s := start(t, dir)
	if _, err := s.Client().Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s = start(t, dir)
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("a start took %v: the election waited for a tick", d)
	}
	r, err := s.Client().KV.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "v" {
		t.Errorf("got %v, want the value written before the restart", r.Kvs)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, want 0700 (%v)", info.Mode(), err)
	}
}

// Keeps out a panic of raft on the restart after some hundred writes: "error scanning unapplied entries: requested index
// is unavailable due to compaction".
func TestRestartReplaysManyWrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	total := 0
	for _, n := range []int{snapshotCount - 20, snapshotCount + 150, 120} { // before a snapshot, past one, few
		s := start(t, dir)
		for range n {
			if _, err := s.Client().Put(t.Context(), fmt.Sprintf("k%d", total), "v"); err != nil {
				t.Fatal(err)
			}
			total++
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, dir)
	r, err := s.Client().KV.Get(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || r.Count != int64(total) {
		t.Fatalf("%d keys, want %d (%v)", r.Count, total, err)
	}
}

func TestExternalClientOverSocketAndWatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	s := start(t, dir)
	external, err := Start(t.Context(), Config{Servers: []string{"unix://" + filepath.Join(s.temp, "client.sock")}})
	if err != nil {
		t.Fatal(err)
	}
	defer external.Close()
	w := s.Client().Watch(t.Context(), "a", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r := <-w; !r.Created {
		t.Fatalf("got %+v, want the watch's creation", r)
	}
	if _, err := external.Client().Put(t.Context(), "a/b", "1"); err != nil {
		t.Fatal(err)
	}
	if r := <-w; len(r.Events) != 1 || string(r.Events[0].Kv.Key) != "a/b" {
		t.Errorf("got %+v, want the other client's write", r)
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"nothing":     {Config{}, "--data-dir"},
		"half a pair": {Config{Dir: "/x", CertFile: "c"}, "go together"},
		"not a url":   {Config{Servers: []string{"10.0.0.1:2379"}}, "is not a URL"},
		"ca alone":    {Config{Dir: "/x", CAFile: "/etc/passwd"}, "--etcd-servers"},
		"ca missing":  {Config{Servers: []string{"https://a:1"}, CAFile: "/nowhere"}, "--etcd-cafile"},
	} {
		if err := tc.cfg.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, tc.want)
		}
	}
}

func TestWorthDefragmenting(t *testing.T) {
	const mb = 1 << 20
	for _, tc := range []struct {
		size, used int64
		want       bool
	}{{10 * mb, mb, false}, {100 * mb, 90 * mb, false}, {200 * mb, 20 * mb, true}, {200 * mb, 110 * mb, false}} {
		if got := worthDefragmenting(tc.size, tc.used); got != tc.want {
			t.Errorf("size %d used %d: %v", tc.size, tc.used, got)
		}
	}
}

// A restart replays the log while the lone member is told to lead. Raft panics when it is told so before it has taken
// note of what was applied and compacted.
func TestRestartWithLongLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	s := start(t, dir)
	for i := range 5 * catchUpEntries / 2 {
		if _, err := s.Client().Put(t.Context(), "k", strings.Repeat("v", i%100)); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = start(t, dir)
		if _, err := s.Client().Put(t.Context(), "k", "again"); err != nil {
			t.Fatal(err)
		}
	}
}
