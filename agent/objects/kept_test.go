package objects

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// shore is an API server with two objects that can be cut off.
type shore struct{ down atomic.Bool }

func (s *shore) List(_ context.Context, ref Ref) (Object, string, error) {
	if s.down.Load() {
		return nil, "", &url.Error{Op: "Get", URL: "https://x", Err: errors.New("connection refused")}
	}
	meta := metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name, ResourceVersion: "5"}
	switch {
	case ref.Name == "none":
		return nil, "7", nil
	case ref.Kind == Secrets:
		return &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"k": []byte("s")}}, "7", nil
	}
	return &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v"}}, "7", nil
}

func (s *shore) Watch(ctx context.Context, _ Ref, _ string) (watch.Interface, error) {
	if s.down.Load() {
		return nil, &url.Error{Op: "Get", URL: "https://x", Err: errors.New("connection refused")}
	}
	w := watch.NewFake()
	context.AfterFunc(ctx, w.Stop)
	return w, nil
}

func files(t *testing.T, dir string, want int) []string {
	t.Helper()
	var names []string
	for range 200 {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		names = nil
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if len(names) == want {
			return names
		}
		time.Sleep(10 * time.Millisecond) // files are written in the background
	}
	t.Fatalf("files %v, want %d", names, want)
	return nil
}

// What a pod refers to is there without the API server, also after a restart, and only as long as the pod is.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	api := &shore{}
	begin := func(secrets bool) (*Kept, *Cache) {
		kept, err := NewKept(dir, secrets, log)
		if err != nil {
			t.Fatal(err)
		}
		c := New(api, kept, func(Ref, []types.UID) {})
		t.Cleanup(c.Close)
		return kept, c
	}
	config, secret := Ref{ConfigMaps, "ns", "config"}, Ref{Secrets, "ns", "secret"}
	kept, c := begin(true)
	kept.Use("pod", []Ref{config, secret, {ConfigMaps, "ns", "none"}})
	c.Follow("pod", []Ref{secret})
	if _, err := c.ConfigMap(t.Context(), "ns", "config"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Secret(t.Context(), "ns", "secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ConfigMap(t.Context(), "ns", "other"); err != nil { // nobody's: not kept
		t.Fatal(err)
	}
	files(t, dir, 2)
	api.down.Store(true)
	kept, c = begin(true)
	kept.Use("pod", []Ref{config, secret})
	c.Follow("pod", []Ref{secret})
	m, err := c.ConfigMap(t.Context(), "ns", "config")
	if err != nil || m.Data["k"] != "v" {
		t.Errorf("offline: %v, %v", m, err)
	}
	s, err := c.Secret(t.Context(), "ns", "secret")
	if err != nil || string(s.Data["k"]) != "s" {
		t.Errorf("offline, followed: %v, %v", s, err)
	}
	if _, err := c.ConfigMap(t.Context(), "ns", "none"); err == nil || apierrors.IsNotFound(err) {
		t.Errorf("one that wasn't kept: %v, want the failure", err)
	}
	if info, err := os.Stat(dir + "/" + name(secret)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a secret: %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(dir+"/"+name(config), []byte("\xff\xff\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ConfigMap(t.Context(), "ns", "config"); err == nil {
		t.Error("a damaged copy was served")
	}
	kept.Sweep([]Ref{config, secret})
	files(t, dir, 2)
	kept.Use("pod", []Ref{secret})
	if names := files(t, dir, 1); names[0] != name(secret) {
		t.Errorf("left: %v", names)
	}
	begin(false)
	files(t, dir, 0)
}
