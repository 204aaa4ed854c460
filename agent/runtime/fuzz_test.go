package runtime

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/image"
	"github.com/mote-edge/mote/agent/runtime/namespace"
	"github.com/mote-edge/mote/agent/runtime/network"
)

// FuzzSandboxConfig: what a sandbox is made from is refused or harmless.
func FuzzSandboxConfig(f *testing.F) {
	for _, config := range []*cri.PodSandboxConfig{
		{},
		{
			Metadata: &cri.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u"}, Hostname: "h", LogDirectory: "/l",
			DnsConfig:    &cri.DNSConfig{Servers: []string{"10.0.0.1"}, Searches: []string{"a.b"}, Options: []string{"ndots:5"}},
			PortMappings: []*cri.PortMapping{{Protocol: cri.Protocol_UDP, ContainerPort: 80, HostPort: 8080, HostIp: "::1"}, {HostPort: -1}},
			Annotations:  map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1e3"},
			Linux: &cri.LinuxPodSandboxConfig{Sysctls: map[string]string{"net/ipv4/conf/eth0.1/forwarding": "1", "kernel.msgmax": "1", "net.../x": ""}, SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{
					Uids: []*cri.IDMapping{{HostId: math.MaxUint32, Length: 2}}, Gids: []*cri.IDMapping{{HostId: 65536, Length: 65536}},
				}},
			}},
		},
	} {
		raw, err := proto.Marshal(config)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		config := &cri.PodSandboxConfig{}
		if proto.Unmarshal(raw, config) != nil {
			t.Skip()
		}
		_ = sandboxName(config.GetMetadata())
		if users, err := usersOf(config); err == nil && users != nil && (users.Length == 0 || users.UID == 0 || uint64(users.UID)+uint64(users.Length) > 1<<32) {
			t.Errorf("users %+v", users)
		}
		for _, host := range []bool{false, true} {
			sysctls, err := namespace.Sysctls(config.GetLinux().GetSysctls(), host, host)
			if err != nil {
				continue
			}
			for path := range sysctls {
				if host || strings.Contains("/"+path+"/", "/../") || !strings.HasPrefix(path, "net/") && !strings.HasPrefix(path, "kernel/") && !strings.HasPrefix(path, "fs/mqueue/") {
					t.Errorf("sysctl %q, with the host's namespaces %v", path, host)
				}
			}
		}
		if rt, err := network.RuntimeConf("id", "/ns", config); err == nil {
			if limits, ok := rt.CapabilityArgs["bandwidth"].(map[string]any); ok {
				for key, value := range limits {
					if rate := value.(uint64); rate == 0 || rate > math.MaxInt64 {
						t.Errorf("%s %d", key, rate)
					}
				}
			}
		}
		if dns := config.GetDnsConfig(); dns != nil {
			text, err := resolvConf(dns)
			if lines := len(dns.Servers) + 2; err == nil && len(dns.Servers)+len(dns.Searches)+len(dns.Options) > 0 && strings.Count(text, "\n") > lines {
				t.Errorf("%d lines out of %v", strings.Count(text, "\n"), dns)
			}
		}
	})
}

// FuzzStopSignal: whatever an image calls its signal, it is one or it is refused.
func FuzzStopSignal(f *testing.F) {
	for _, name := range []string{"SIGTERM", "9", "RTMIN+3", "SIGRTMAX-30", "SIGRTMIN+-5", "65", "0", "sigkill", ""} {
		f.Add(int32(0), name)
	}
	f.Add(int32(40), "")
	f.Fuzz(func(t *testing.T, asked int32, name string) {
		number, err := stopSignal(cri.Signal(asked), name)
		if err == nil && (number < 1 || number > 64) {
			t.Errorf("%d %q is signal %d", asked, name, number)
		}
	})
}

// FuzzUpdateResources: an update leaves what it doesn't name, and never lets go of a limit.
func FuzzUpdateResources(f *testing.F) {
	raw, err := proto.Marshal(&cri.LinuxContainerResources{CpuQuota: -1, MemoryLimitInBytes: 1, CpusetCpus: "0", Unified: map[string]string{"a": "b"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, raw)
	f.Fuzz(func(t *testing.T, rawOld, rawNew []byte) {
		old, update := &cri.LinuxContainerResources{}, &cri.LinuxContainerResources{}
		if proto.Unmarshal(rawOld, old) != nil || proto.Unmarshal(rawNew, update) != nil {
			t.Skip()
		}
		before := proto.CloneOf(old)
		got := mergeResources(old, update)
		if !proto.Equal(before, old) {
			t.Error("what was in force was changed")
		}
		if update.MemoryLimitInBytes == 0 && got.MemoryLimitInBytes != old.MemoryLimitInBytes || update.MemoryLimitInBytes != 0 && got.MemoryLimitInBytes != update.MemoryLimitInBytes {
			t.Errorf("memory limit %d from %d and %d", got.MemoryLimitInBytes, old.MemoryLimitInBytes, update.MemoryLimitInBytes)
		}
	})
}

// FuzzImageName: a request's spelling of an image is taken over only if the image has it.
func FuzzImageName(f *testing.F) {
	f.Add("busybox", "docker.io/library/busybox:latest")
	f.Add("a@sha256:x", "")
	f.Fuzz(func(t *testing.T, asked, specified string) {
		img := image.Image{RepoTags: []string{"docker.io/library/busybox:latest", "example.com/b:1"}}
		got := imageName(&cri.ImageSpec{Image: asked, UserSpecifiedImage: specified}, img)
		if got != img.RepoTags[0] && got != img.RepoTags[1] {
			t.Errorf("%q", got)
		}
	})
}
