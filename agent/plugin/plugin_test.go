package plugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// fake is a plugin and its kind's handler: both tell what they were told.
type fake struct {
	registerapi.UnimplementedRegistrationServer
	kind  string
	said  chan string
	fails int
}

func (f *fake) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: f.kind, Name: "example.com", SupportedVersions: []string{"v1"}}, nil
}

func (f *fake) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	f.said <- fmt.Sprintf("told %t %s", s.GetPluginRegistered(), s.GetError())
	return &registerapi.RegistrationStatusResponse{}, nil
}

func (f *fake) Validate(_, _ string, versions []string) error {
	if f.fails--; f.fails >= 0 {
		return errors.New("not yet")
	}
	return nil
}

func (f *fake) Register(_ context.Context, name, endpoint string, versions []string) error {
	f.said <- fmt.Sprintf("registered %s %s %v", name, filepath.Base(endpoint), versions)
	return nil
}

func (f *fake) Deregister(name, endpoint string) {
	f.said <- fmt.Sprintf("deregistered %s %s", name, filepath.Base(endpoint))
}

func (f *fake) serve(t *testing.T, path string) *grpc.Server {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	registerapi.RegisterRegistrationServer(s, f)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return s
}

func (f *fake) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-f.said:
			if got != w {
				t.Fatalf("got %q, want %q", got, w)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("nothing said, want %q", w)
		}
	}
}

func TestRegistry(t *testing.T) {
	dir, err := os.MkdirTemp("", "pr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &fake{kind: DRA, said: make(chan string, 10), fails: 1}
	first := f.serve(t, filepath.Join(dir, "a.sock")) // there before the watcher
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	w := New(dir, map[string]Handler{DRA: f}, slog.New(slog.DiscardHandler))
	go func() { done <- w.Run(ctx) }()

	f.expect(t, "told false plugin validation failed with err: not yet", "registered example.com a.sock [v1]", "told true ")
	first.Stop() // removes its socket
	f.expect(t, "deregistered example.com a.sock")
	f.serve(t, filepath.Join(dir, "a.sock"))
	f.expect(t, "registered example.com a.sock [v1]", "told true ")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.serve(t, filepath.Join(dir, "sub", "b.sock"))
	f.expect(t, "registered example.com b.sock [v1]", "told true ")
	other := &fake{kind: "Other", said: make(chan string, 10)}
	other.serve(t, filepath.Join(dir, "c.sock"))
	other.expect(t, "told false no handler registered for plugin type: Other at socket "+filepath.Join(dir, "c.sock"))
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
