package dra

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// A damaged checkpoint is refused with the remedy, or is whole enough to work with.
func FuzzCheckpoint(f *testing.F) {
	for _, seed := range []string{
		`[{"uid":"uid-a","namespace":"ns","name":"a","pods":["1"],"prepared":true,"drivers":{"example.com":[{"requests":["gpu"],"pool":"node","name":"gpu0","cdi":["v/c=d"]}]}}]`,
		`[null]`, `[{}, {"pods":[""],"drivers":{"":null}}]`, `[`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(t.TempDir(), "dra_manager_state")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nobody is asked
		c, err := New(ctx, Config{File: file, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return
		}
		p := pod("1", "a")
		_, _ = c.Container(p, &p.Spec.Containers[0])
		_ = c.Of(p, &p.Spec.Containers[0])
		for _, uid := range c.Pods() {
			_ = c.Release(ctx, uid)
		}
	})
}
