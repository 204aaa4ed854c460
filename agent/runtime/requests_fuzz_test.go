package runtime

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/mote-edge/mote/agent/runtime/image"
	"github.com/mote-edge/mote/agent/runtime/network"
	"github.com/mote-edge/mote/agent/runtime/poll"
)

// tinyArchive is an image of two files.
func tinyArchive(tb testing.TB) []byte {
	pack := func(files map[string]string) []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for name, content := range files {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
				tb.Fatal(err)
			}
			if _, err := w.Write([]byte(content)); err != nil {
				tb.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			tb.Fatal(err)
		}
		return out.Bytes()
	}
	encode := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			tb.Fatal(err)
		}
		return string(raw)
	}
	layer := pack(map[string]string{"etc/passwd": "root:x:0:0::/:\nu:x:7:8::/:\n", "etc/group": "g:x:9:u\n"})
	return pack(map[string]string{
		"layer.tar":     string(layer),
		"config.json":   encode(map[string]any{"architecture": runtime.GOARCH, "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": []digest.Digest{digest.FromBytes(layer)}}}),
		"manifest.json": encode([]map[string]any{{"Config": "config.json", "RepoTags": []string{"tiny:1"}, "Layers": []string{"layer.tar"}}}),
	})
}

// unstarted is a service that starts no process.
func unstarted(tb testing.TB) *Service {
	if os.Getuid() != 0 {
		tb.Skip("namespaces and mounts need root")
	}
	dir := tb.TempDir()
	store, err := image.Open(image.Config{Dir: filepath.Join(dir, "data"), Registries: filepath.Join(dir, "registries.yaml"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := store.Import(context.Background(), bytes.NewReader(tinyArchive(tb))); err != nil {
		tb.Fatal(err)
	}
	poller, err := poll.New()
	if err != nil {
		tb.Fatal(err)
	}
	cfg := Config{DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), CNIConfDir: dir, CDIDirs: []string{dir}, Images: store}
	s := &Service{
		cfg: cfg, log: slog.New(slog.DiscardHandler), bootID: "boot", poll: poller, host: findHost(), net: network.New(dir, nil, dir, nil),
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, names: map[string]string{},
	}
	if s.stream, err = streaming.NewServer(streaming.DefaultConfig, streams{s}); err != nil {
		tb.Fatal(err)
	}
	for _, sub := range []string{"data/state", "run/netns", "run/ns", "run/sandboxes", "run/ctr", "run/runc"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o711); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

// FuzzRequests: whatever a client asks, it is done or refused, and nothing of what was refused is left. The requests go to the
// service itself, past the guard that would turn a panic into an error; starts are left out, they run libcontainer.
func FuzzRequests(f *testing.F) {
	s := unstarted(f)
	methods := []func(context.Context, []byte) error{
		call(s.RunPodSandbox), call(s.CreateContainer), call(s.PodSandboxStatus), call(s.ListPodSandbox), call(s.ContainerStatus), call(s.ListContainers),
		call(s.UpdateContainerResources), call(s.ExecSync), call(s.Exec), call(s.Attach), call(s.PortForward), call(s.ReopenContainerLog),
		call(s.ContainerStats), call(s.ListContainerStats), call(s.PodSandboxStats), call(s.ListPodSandboxStats), call(s.UpdatePodSandboxResources),
		call(s.Status), call(s.StopContainer), call(s.RemoveContainer), call(s.StopPodSandbox), call(s.RemovePodSandbox),
	}
	add := func(method byte, m proto.Message) {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(method, raw)
	}
	host := &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_POD}}
	add(0, &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "p", Uid: "u"}, Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/fuzz", SecurityContext: host}}})
	add(0, &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "q"}, Hostname: "h", DnsConfig: &cri.DNSConfig{Servers: []string{"10.0.0.1"}}}})
	add(1, &cri.CreateContainerRequest{PodSandboxId: "the", Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: "tiny:1"}, Command: []string{"/a"}, Envs: []*cri.KeyValue{{Key: "A", Value: []byte("b")}},
		Mounts: []*cri.Mount{{ContainerPath: "/m", HostPath: "/tmp", Readonly: true}, {ContainerPath: "/i", Image: &cri.ImageSpec{Image: "tiny:1"}, Readonly: true, ImageSubPath: "etc"}}, Devices: []*cri.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "rwm"}},
		Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{CpuShares: 2, MemoryLimitInBytes: 1 << 20}, SecurityContext: &cri.LinuxContainerSecurityContext{
			RunAsUsername: "u", SupplementalGroups: []int64{1}, Capabilities: &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}}, NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
		}},
	}})
	for method := range methods {
		f.Add(byte(method), []byte("\x0a\x03the"))
		f.Add(byte(method), []byte{})
	}
	f.Fuzz(func(t *testing.T, method byte, raw []byte) {
		ctx := t.Context()
		// Each input finds one sandbox, of a known ID, with one container.
		config := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "the", Uid: "u"}, Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/fuzz", SecurityContext: host}}
		r, err := s.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
		if err != nil {
			t.Fatal(err)
		}
		sb, err := s.sandbox(r.PodSandboxId)
		if err != nil {
			t.Fatal(err)
		}
		s.sandboxes["the"] = sb
		c := newContainer(containerRecord{ID: "the", SandboxID: r.PodSandboxId, State: stateCreated, Cgroup: "/fuzz/the"}, &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "the"}, Image: &cri.ImageSpec{}}, "")
		s.containers["the"] = c
		_ = methods[int(method)%len(methods)](ctx, raw)
		for _, sb := range s.sandboxes {
			if _, err := s.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sb.rec.ID}); err != nil {
				t.Error(err)
			}
		}
		clear(s.sandboxes)
		if len(s.names) > 0 || len(s.containers) > 0 {
			t.Errorf("left: names %v, containers %v", s.names, s.containers)
			clear(s.names)
			clear(s.containers)
		}
		for _, dir := range []string{"data/state", "data/snapshots", "run/netns", "run/ns", "run/sandboxes", "run/ctr"} {
			if left := names(filepath.Join(filepath.Dir(s.cfg.RunDir), dir)); len(left) > 0 {
				t.Errorf("left in %s: %v", dir, left)
			}
		}
	})
}

// call has a method take its request off the wire.
func call[Q, R any, P interface {
	*Q
	proto.Message
}](method func(context.Context, P) (R, error)) func(context.Context, []byte) error {
	return func(ctx context.Context, raw []byte) error {
		request := P(new(Q))
		if err := proto.Unmarshal(raw, request); err != nil {
			return err
		}
		if create, ok := any(request).(*cri.CreateContainerRequest); ok && create.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() == cri.NamespaceMode_POD {
			return nil // would start the pod's init
		}
		_, err := method(ctx, request)
		return err
	}
}
