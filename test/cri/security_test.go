package cri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type secure = func(*api.LinuxContainerSecurityContext)

func with(f secure) func(*api.ContainerConfig) {
	return func(c *api.ContainerConfig) { f(c.Linux.SecurityContext) }
}

func TestSecurityContext(t *testing.T) {
	p := newPod(t)
	for name, test := range map[string]struct {
		script string
		set    secure
		want   string
	}{
		"default user":        {"id", func(*api.LinuxContainerSecurityContext) {}, "uid=0(root) gid=0(root) groups=0(root)\n"},
		"user by number":      {"id", func(s *api.LinuxContainerSecurityContext) { s.RunAsUser = &api.Int64Value{Value: 1000} }, "uid=1000(worker) gid=1000(worker) groups=1000(worker),50000(crew)\n"},
		"user by name":        {"id -un", func(s *api.LinuxContainerSecurityContext) { s.RunAsUsername = "worker" }, "worker\n"},
		"unknown user number": {"id -u", func(s *api.LinuxContainerSecurityContext) { s.RunAsUser = &api.Int64Value{Value: 4242} }, "4242\n"},
		"group and extras": {"id", func(s *api.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = &api.Int64Value{Value: 1000}, &api.Int64Value{Value: 2000}, []int64{3000}
		}, "uid=1000(worker) gid=2000 groups=2000,3000,50000(crew)\n"},
		"strict groups": {"id", func(s *api.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = &api.Int64Value{Value: 1000}, &api.Int64Value{Value: 2000}, []int64{3000}
			s.SupplementalGroupsPolicy = api.SupplementalGroupsPolicy_Strict
		}, "uid=1000(worker) gid=2000 groups=2000,3000\n"},
		"read-only root":    {"touch /x 2>&1", func(s *api.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }, "touch: /x: Read-only file system\n"},
		"no new privileges": {"grep NoNewPrivs /proc/self/status", func(s *api.LinuxContainerSecurityContext) { s.NoNewPrivs = true }, "NoNewPrivs:\t1\n"},
		"drop all": {"grep CapEff /proc/self/status", func(s *api.LinuxContainerSecurityContext) {
			s.Capabilities = &api.Capability{DropCapabilities: []string{"ALL"}}
		}, "CapEff:\t0000000000000000\n"},
		"drop all, add one": {"grep CapEff /proc/self/status", func(s *api.LinuxContainerSecurityContext) {
			s.Capabilities = &api.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}
		}, "CapEff:\t0000000000001000\n"},
		"default capabilities": {"grep CapEff /proc/self/status", func(*api.LinuxContainerSecurityContext) {}, "CapEff:\t00000000a80425fb\n"},
		"ambient": {"grep CapAmb /proc/self/status", func(s *api.LinuxContainerSecurityContext) {
			s.RunAsUser = &api.Int64Value{Value: 1000}
			s.Capabilities = &api.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
		}, "CapAmb:\t0000000000000400\n"},
		"masked path": {"cat /proc/version | wc -c", func(s *api.LinuxContainerSecurityContext) { s.MaskedPaths = []string{"/proc/version"} }, "0\n"},
		"read-only path": {
			"echo 1 > /proc/sys/kernel/domainname", func(s *api.LinuxContainerSecurityContext) { s.ReadonlyPaths = []string{"/proc/sys"} },
			"sh: can't create /proc/sys/kernel/domainname: Read-only file system\n",
		},
		"seccomp default": {"grep Seccomp: /proc/self/status; unshare -U true 2>&1", func(s *api.LinuxContainerSecurityContext) { s.Seccomp = &api.SecurityProfile{} }, "Seccomp:\t2\nunshare: unshare(0x10000000): Operation not permitted\n"},
		"seccomp unconfined": {"grep Seccomp: /proc/self/status", func(s *api.LinuxContainerSecurityContext) {
			s.Seccomp = &api.SecurityProfile{ProfileType: api.SecurityProfile_Unconfined}
		}, "Seccomp:\t0\n"},
		"unprivileged mount": {"mkdir -p /m && mount -t tmpfs x /m 2>&1 | grep -o denied", func(*api.LinuxContainerSecurityContext) {}, "denied\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "ambient" && shared.kind != "mote" {
				t.Skip("containerd ignores the field, which no kubelet sets")
			}
			if got := p.output(test.script, with(test.set)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestPrivileged(t *testing.T) {
	privileged := with(func(s *api.LinuxContainerSecurityContext) { s.Privileged = true })
	p := newPod(t, func(c *api.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	if got := p.output("mkdir -p /m && mount -t tmpfs x /m && echo mounted; test -e /dev/kmsg && echo devices; touch /sys/x 2>&1 | grep -c Read-only", privileged); got != "mounted\ndevices\n0\n" {
		t.Errorf("a privileged container says %q", got)
	}
	// CRI, LinuxSandboxSecurityContext.privileged: the sandbox MUST be told.
	p = newPod(t)
	config := containerConfig("true")
	privileged(config)
	if _, err := shared.rt.CreateContainer(testContext(t), &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config}); err == nil {
		t.Error("a sandbox that isn't privileged took a privileged container")
	}
}

func TestSeccompLocalhost(t *testing.T) {
	p := newPod(t)
	profile := filepath.Join(t.TempDir(), "no-mkdir.json")
	body := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`
	if err := os.WriteFile(profile, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	local := func(path string) func(*api.ContainerConfig) {
		return with(func(s *api.LinuxContainerSecurityContext) {
			s.Seccomp = &api.SecurityProfile{ProfileType: api.SecurityProfile_Localhost, LocalhostRef: path}
		})
	}
	if got := p.output("mkdir /x 2>&1", local(profile)); !strings.Contains(got, "Operation not permitted") {
		t.Errorf("mkdir: %q", got)
	}
	config := containerConfig("true")
	local("/no/such/profile")(config)
	_, err := shared.rt.CreateContainer(testContext(t), &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err == nil || !strings.Contains(err.Error(), "/no/such/profile") {
		t.Errorf("a missing profile: %v", err)
	}
}

func TestMounts(t *testing.T) {
	p := newPod(t, func(c *api.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	mount := func(m *api.Mount) func(*api.ContainerConfig) {
		return func(c *api.ContainerConfig) { c.Mounts = append(c.Mounts, m) }
	}
	if got := p.output("echo data > /v/f && cat /v/f", mount(&api.Mount{ContainerPath: "/v", HostPath: dir})); got != "data\n" {
		t.Errorf("read-write mount: %q", got)
	}
	if got := p.output("cat /v/f; echo x > /v/g", mount(&api.Mount{ContainerPath: "/v", HostPath: dir, Readonly: true})); !strings.Contains(got, "data\n") || !strings.Contains(got, "Read-only") {
		t.Errorf("read-only mount: %q", got)
	}
	if got := p.output("echo x > /deep/er/f", mount(&api.Mount{ContainerPath: "/deep/er", HostPath: dir, Readonly: true, RecursiveReadOnly: true})); !strings.Contains(got, "Read-only") {
		t.Errorf("recursive read-only mount: %q", got)
	}
	if got := p.output("ls -d /made && stat -c %F /made", mount(&api.Mount{ContainerPath: "/made", HostPath: filepath.Join(dir, "not", "there")})); got != "/made\ndirectory\n" {
		t.Errorf("missing source: %q", got)
	}
	image := mount(&api.Mount{ContainerPath: "/img", Image: &api.ImageSpec{Image: testImage}, ImageSubPath: "etc", Readonly: true})
	if got := p.output("cat /img/group | head -1; touch /img/x", image); !strings.Contains(got, "root:x:0:") || !strings.Contains(got, "Read-only") {
		t.Errorf("image volume: %q", got)
	}
	// Propagation: a mount made in a Bidirectional container shows in a HostToContainer one.
	both := p.run("mkdir -p /v/sub && mount -t tmpfs inner /v/sub && touch /v/sub/here; sleep 1000",
		mount(&api.Mount{ContainerPath: "/v", HostPath: dir, Propagation: api.MountPropagation_PROPAGATION_BIDIRECTIONAL}),
		with(func(s *api.LinuxContainerSecurityContext) { s.Privileged = true }))
	slave := p.run("sleep 1000", mount(&api.Mount{ContainerPath: "/v", HostPath: dir, Propagation: api.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}))
	eventually(t, "the mount in the other container", func() bool {
		_, _, code := slave.exec("test", "-e", "/v/sub/here")
		return code == 0
	})
	both.exec("umount", "/v/sub")
	eventually(t, "the unmount in the other container", func() bool {
		_, _, code := slave.exec("test", "-e", "/v/sub/here")
		return code != 0
	})
}

func TestDevice(t *testing.T) {
	p := newPod(t)
	got := p.output("head -c 4 /dev/mine | wc -c; head -c 4 /dev/kmsg | wc -c", func(c *api.ContainerConfig) {
		c.Devices = []*api.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/mine", Permissions: "r"}}
	})
	if !strings.Contains(got, "4\n") || !strings.Contains(got, "can't open '/dev/kmsg'") && !strings.Contains(got, "/dev/kmsg: No such file") {
		t.Errorf("devices: %q", got)
	}
}
