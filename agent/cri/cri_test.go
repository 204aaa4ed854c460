package cri_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/cri/fakecri"
)

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("never happened: ", what)
}

func sandbox(t *testing.T, c *cri.Client, uid string) string {
	t.Helper()
	r, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Uid: uid, Name: "p", Namespace: "n"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return r.PodSandboxId
}

func container(t *testing.T, c *cri.Client, uid, sandbox, name string) string {
	t.Helper()
	r, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "i"},
		Labels: map[string]string{cri.LabelPodUID: uid, cri.LabelPodName: "p", cri.LabelPodNamespace: "n"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
		t.Fatal(err)
	}
	return r.ContainerId
}

// The cache follows what happens, what had happened before, and what happened while the stream was down.
func TestWatchFollows(t *testing.T) {
	for name, silent := range map[string]bool{"events with statuses": false, "events without": true} {
		t.Run(name, func(t *testing.T) {
			rt := fakecri.New()
			rt.SilentEvents = silent
			path := filepath.Join(t.TempDir(), "cri.sock")
			stop, err := rt.Listen(path)
			if err != nil {
				t.Fatal(err)
			}
			c, err := cri.Dial(path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			old := sandbox(t, c, "old")
			oldCtr := container(t, c, "old", old, "main")

			cache := cri.NewCache(nil)
			synced := make(chan struct{}, 10)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- c.Watch(ctx, cache, slog.New(slog.DiscardHandler), func() { synced <- struct{}{} }) }()
			<-synced
			p := cache.Get("old")
			if p.Sandbox() == nil || p.Sandbox().ID != old || p.Latest("main").State != cri.Running || p.Latest("main").SandboxID != old {
				t.Fatalf("after the first list: %+v", p)
			}
			rt.Exit(oldCtr, 3, "")
			until(t, "exit seen", func() bool { p := cache.Get("old"); return p.Latest("main").State == cri.Exited })
			if p := cache.Get("old"); p.Latest("main").ExitCode != 3 || p.Latest("main").SandboxID != old {
				t.Errorf("exited container: %+v", p.Latest("main"))
			}

			stop()
			if stop, err = rt.Listen(path); err != nil {
				t.Fatal(err)
			}
			defer func() { stop() }()
			<-synced
			until(t, "removal after reconnect", func() bool {
				_, _ = c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: old})
				return len(cache.All()) == 0
			})
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// Snapshots may come late: a container never goes back, and a removed one never comes back.
func TestCacheOnlyGrows(t *testing.T) {
	meta := &runtimeapi.PodSandboxMetadata{Uid: "u", Name: "p", Namespace: "n"}
	sb := &runtimeapi.PodSandboxStatus{Id: "s", Metadata: meta}
	ctr := func(state runtimeapi.ContainerState) []*runtimeapi.ContainerStatus {
		return []*runtimeapi.ContainerStatus{{Id: "c", Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, State: state}}
	}
	var kicks int
	cache := cri.NewCache(func(types.UID) { kicks++ })
	cache.SetSandbox(sb, ctr(runtimeapi.ContainerState_CONTAINER_EXITED))
	cache.SetSandbox(sb, ctr(runtimeapi.ContainerState_CONTAINER_RUNNING))
	if p := cache.Get("u"); p.Latest("main").State != cri.Exited {
		t.Error("an exited container ran again")
	}
	if kicks != 1 {
		t.Errorf("%d wake-ups, want 1: a snapshot with nothing new wakes nobody", kicks)
	}
	cache.Remove("c")
	cache.SetSandbox(sb, ctr(runtimeapi.ContainerState_CONTAINER_RUNNING))
	if p := cache.Get("u"); p.Latest("main") != nil {
		t.Error("a removed container came back")
	}
}

// What events have told needn't be asked for again.
func TestStarted(t *testing.T) {
	cache := cri.NewCache(nil)
	show := func(ip string, s runtimeapi.PodSandboxState, c runtimeapi.ContainerState) {
		cache.SetSandbox(&runtimeapi.PodSandboxStatus{
			Id: "s", Metadata: &runtimeapi.PodSandboxMetadata{Uid: "u", Name: "p", Namespace: "n"}, State: s,
			Network: &runtimeapi.PodSandboxNetworkStatus{Ip: ip},
		}, []*runtimeapi.ContainerStatus{{Id: "c", Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, State: c}})
	}
	for _, c := range []struct {
		ip                       string
		sandbox                  runtimeapi.PodSandboxState
		container                runtimeapi.ContainerState
		wantSandbox, wantStarted bool
	}{
		{"", runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.ContainerState_CONTAINER_CREATED, false, false}, // the address isn't known yet
		{"10.0.0.1", runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.ContainerState_CONTAINER_CREATED, true, false},
		{"10.0.0.1", runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.ContainerState_CONTAINER_RUNNING, true, true},
		{"10.0.0.1", runtimeapi.PodSandboxState_SANDBOX_NOTREADY, runtimeapi.ContainerState_CONTAINER_EXITED, true, true}, // it was, and says so
	} {
		show(c.ip, c.sandbox, c.container)
		if s, x := cache.Started(t.Context(), "s"), cache.Started(t.Context(), "c"); s != c.wantSandbox || x != c.wantStarted {
			t.Errorf("%+v: sandbox started %v, container %v", c, s, x)
		}
	}
	if cache.Started(t.Context(), "other") {
		t.Error("something unknown has started")
	}
	// One that comes within the moment is waited for, by however many ask.
	cache = cri.NewCache(nil)
	show("10.0.0.1", runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.ContainerState_CONTAINER_CREATED)
	told := make(chan bool)
	for range 2 {
		go func() { told <- cache.Started(t.Context(), "c") }()
	}
	time.Sleep(time.Millisecond)
	show("10.0.0.1", runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.ContainerState_CONTAINER_RUNNING)
	for range 2 {
		if !<-told {
			t.Error("an event that came was not waited for")
		}
	}
}
