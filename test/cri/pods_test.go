package cri

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Stopping a sandbox stops its containers; removing it removes them, running or not; both may be repeated.
func TestSandboxLifecycle(t *testing.T) {
	ctx := testContext(t)
	p := newPod(t)
	c := p.run("sleep 1000")
	never := p.create(containerConfig("true"))
	for range 2 {
		if _, err := shared.rt.StopPodSandbox(ctx, &api.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
			t.Fatal(err)
		}
	}
	if st := c.status(); st.State != api.ContainerState_CONTAINER_EXITED {
		t.Errorf("the container is %v", st.State)
	}
	if st := p.status(); st.State != api.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the sandbox is %v", st.State)
	}
	if _, err := shared.rt.CreateContainer(ctx, &api.CreateContainerRequest{PodSandboxId: p.id, Config: containerConfig("true"), SandboxConfig: p.config}); err == nil {
		t.Error("a container was created in a stopped sandbox")
	}
	if _, err := shared.rt.StartContainer(ctx, &api.StartContainerRequest{ContainerId: never.id}); err == nil {
		t.Error("a container was started in a stopped sandbox")
	}
	for range 2 {
		if _, err := shared.rt.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{c.id, never.id} {
		if _, err := shared.rt.ContainerStatus(ctx, &api.ContainerStatusRequest{ContainerId: id}); status.Code(err) != codes.NotFound {
			t.Errorf("a container outlived its sandbox: %v", err)
		}
	}
	// RemovePodSandbox alone ends what runs.
	p = newPod(t)
	c = p.run("sleep 1000")
	if _, err := shared.rt.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Error(err)
	}
	if _, err := shared.rt.ContainerStatus(ctx, &api.ContainerStatusRequest{ContainerId: c.id}); status.Code(err) != codes.NotFound {
		t.Errorf("after the removal of its sandbox: %v", err)
	}
}

// api.proto: RemoveContainer kills a running container.
func TestRemoveRunningContainer(t *testing.T) {
	ctx := testContext(t)
	p := newPod(t)
	for _, c := range []*ctr{p.run("sleep 1000"), p.create(containerConfig("true"))} {
		if _, err := shared.rt.RemoveContainer(ctx, &api.RemoveContainerRequest{ContainerId: c.id}); err != nil {
			t.Errorf("remove: %v", err)
		}
		if ids := containerIDs(t, &api.ContainerFilter{Id: c.id}); len(ids) != 0 {
			t.Error("it is still listed")
		}
	}
}

// A name is taken until its container is removed; the next attempt has another.
func TestNamesAreUnique(t *testing.T) {
	ctx := testContext(t)
	p := newPod(t)
	config := containerConfig("true")
	first := p.create(config)
	again := &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config}
	if _, err := shared.rt.CreateContainer(ctx, again); err == nil {
		t.Error("two containers with one name")
	}
	config.Metadata.Attempt = 1
	p.create(config)
	if _, err := shared.rt.RemoveContainer(ctx, &api.RemoveContainerRequest{ContainerId: first.id}); err != nil {
		t.Fatal(err)
	}
	config.Metadata.Attempt = 0
	if _, err := shared.rt.CreateContainer(ctx, again); err != nil {
		t.Errorf("the name of a removed container: %v", err)
	}
	if reply, err := shared.rt.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Config: p.config}); err == nil {
		t.Error("two sandboxes with one name")
		_, _ = shared.rt.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: reply.PodSandboxId})
	}
}

// Containers of one pod share network and IPC, and each has its own log, root and processes.
func TestManyContainers(t *testing.T) {
	p := newPod(t, onPodNetwork)
	server := p.run("mkdir /www && echo 'It works!' > /www/index.html && echo httpd && exec httpd -f -p 80 -h /www")
	client := p.run("echo client; echo kept > /dev/shm/x; sleep 1000")
	eventually(t, "an answer over the pod's loopback", func() bool {
		out, _, _ := client.exec("wget", "-qO-", "http://127.0.0.1/")
		return out == "It works!\n"
	})
	eventually(t, "shared memory", func() bool {
		out, _, _ := server.exec("cat", "/dev/shm/x")
		return out == "kept\n"
	})
	if _, _, code := client.exec("test", "-e", "/www"); code == 0 {
		t.Error("the roots are one")
	}
	eventually(t, "both logs", func() bool { return server.logs() == "httpd\n" && client.logs() == "client\n" })
	if out, _, _ := client.exec("ps"); strings.Contains(out, "httpd") {
		t.Errorf("the processes are shared:\n%s", out)
	}
	reply, err := shared.rt.PodSandboxStatus(testContext(t), &api.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatal(err)
	}
	if len(reply.ContainersStatuses) != 0 && len(reply.ContainersStatuses) != 2 {
		t.Errorf("%d statuses", len(reply.ContainersStatuses))
	}
}

func TestHostNamespaces(t *testing.T) {
	namespace := func(kind string) string {
		link, err := os.Readlink(filepath.Join("/proc/self/ns", kind))
		if pid := shared.namespaces(); pid != 0 {
			raw, execErr := shared.in("readlink", "/proc/self/ns/"+kind).Output()
			link, err = strings.TrimSpace(string(raw)), execErr
		}
		if err != nil {
			t.Fatal(err)
		}
		return link + "\n"
	}
	for name, test := range map[string]struct {
		kind string
		set  func(*api.NamespaceOption)
		host bool
	}{
		"host network": {"net", func(o *api.NamespaceOption) { o.Network = api.NamespaceMode_NODE }, true},
		"pod network":  {"net", func(o *api.NamespaceOption) { o.Network = api.NamespaceMode_POD }, false},
		"host IPC":     {"ipc", func(o *api.NamespaceOption) { o.Ipc = api.NamespaceMode_NODE }, true},
		"pod IPC":      {"ipc", func(o *api.NamespaceOption) { o.Ipc = api.NamespaceMode_POD }, false},
		"host PID":     {"pid", func(o *api.NamespaceOption) { o.Pid = api.NamespaceMode_NODE }, true},
		"pod PID":      {"pid", func(o *api.NamespaceOption) { o.Pid = api.NamespaceMode_POD }, false},
		"own PID":      {"pid", func(o *api.NamespaceOption) { o.Pid = api.NamespaceMode_CONTAINER }, false},
		"mounts":       {"mnt", func(*api.NamespaceOption) {}, false},
		"host UTS":     {"uts", func(o *api.NamespaceOption) { o.Network = api.NamespaceMode_NODE }, true},
		"pod UTS":      {"uts", func(o *api.NamespaceOption) { o.Network = api.NamespaceMode_POD }, false},
	} {
		t.Run(name, func(t *testing.T) {
			if test.kind == "uts" && shared.kind == "containerd" && test.host {
				t.Skip("containerd gives such a pod a UTS namespace of its own")
			}
			p := newPod(t, func(c *api.PodSandboxConfig) { test.set(c.Linux.SecurityContext.NamespaceOptions) })
			got := p.output("readlink /proc/self/ns/"+test.kind, with(func(s *api.LinuxContainerSecurityContext) {
				s.NamespaceOptions = p.config.Linux.SecurityContext.NamespaceOptions
			}))
			if (got == namespace(test.kind)) != test.host {
				t.Errorf("the container has %q, the host %q", got, namespace(test.kind))
			}
		})
	}
}

func TestSysctls(t *testing.T) {
	p := newPod(t, onPodNetwork, func(c *api.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{
			"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "1024 65000", // safe
			"fs.mqueue.msg_max": "100", "kernel.msgmax": "16384", "net.ipv4.conf.all.send_redirects": "0",
		}
	})
	got := p.output("cd /proc/sys && cat kernel/shm_rmid_forced net/ipv4/ip_local_port_range fs/mqueue/msg_max kernel/msgmax net/ipv4/conf/all/send_redirects")
	if got != "1\n1024\t65000\n100\n16384\n0\n" {
		t.Errorf("%q", got)
	}
	// The host's are nobody's to change.
	for _, option := range []func(*api.NamespaceOption){
		func(o *api.NamespaceOption) { o.Network = api.NamespaceMode_NODE },
		func(o *api.NamespaceOption) { o.Network, o.Ipc = api.NamespaceMode_NODE, api.NamespaceMode_NODE },
	} {
		config := podConfig(t, func(c *api.PodSandboxConfig) {
			option(c.Linux.SecurityContext.NamespaceOptions)
			c.Linux.Sysctls = map[string]string{"net.ipv4.conf.all.send_redirects": "1"}
			if c.Linux.SecurityContext.NamespaceOptions.Ipc == api.NamespaceMode_NODE {
				c.Linux.Sysctls = map[string]string{"kernel.msgmax": "16384"}
			}
		})
		if reply, err := shared.rt.RunPodSandbox(testContext(t), &api.RunPodSandboxRequest{Config: config}); err == nil {
			t.Errorf("%v was set on the host", config.Linux.Sysctls)
			_, _ = shared.rt.RemovePodSandbox(testContext(t), &api.RemovePodSandboxRequest{PodSandboxId: reply.PodSandboxId})
		}
	}
}

// A mount's source may be a link; what follows must be what it points at.
func TestMountSources(t *testing.T) {
	p := newPod(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("real\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range [][2]string{{dir, "dirlink"}, {filepath.Join(dir, "file"), "filelink"}} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct{ host, container, script string }{
		"file":              {"file", "/etc/f", "cat /etc/f"},
		"link to directory": {"dirlink", "/v", "cat /v/file"},
		"link to file":      {"filelink", "/etc/g", "cat /etc/g"},
	} {
		t.Run(name, func(t *testing.T) {
			got := p.output(test.script, func(c *api.ContainerConfig) {
				c.Mounts = []*api.Mount{{ContainerPath: test.container, HostPath: filepath.Join(dir, test.host)}}
			})
			if got != "real\n" {
				t.Errorf("%q", got)
			}
		})
	}
	// A later mount below an earlier one, in whichever order they were named.
	inner := t.TempDir()
	if err := os.WriteFile(filepath.Join(inner, "deep"), []byte("deep\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	got := p.output("cat /v/file /v/sub/deep", func(c *api.ContainerConfig) {
		c.Mounts = []*api.Mount{{ContainerPath: "/v/sub", HostPath: inner}, {ContainerPath: "/v", HostPath: dir}}
	})
	if got != "real\ndeep\n" {
		t.Errorf("nested mounts: %q", got)
	}
}

// Mounts made on the host after the container's start: who sees them, and who sees the container's.
func TestPropagation(t *testing.T) {
	p := newPod(t, func(c *api.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	for mode, want := range map[api.MountPropagation]struct{ down, up bool }{
		api.MountPropagation_PROPAGATION_PRIVATE:           {false, false},
		api.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: {true, false},
		api.MountPropagation_PROPAGATION_BIDIRECTIONAL:     {true, true},
	} {
		t.Run(mode.String(), func(t *testing.T) {
			dir := t.TempDir()
			for _, sub := range []string{"down", "up"} {
				if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			c := p.run("sleep 1000", with(func(s *api.LinuxContainerSecurityContext) { s.Privileged = true }), func(c *api.ContainerConfig) {
				c.Mounts = []*api.Mount{{ContainerPath: "/v", HostPath: dir, Propagation: mode}}
			})
			host := func(words ...string) {
				t.Helper()
				if out, err := shared.in(words...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %v: %s", words, err, out)
				}
			}
			host("mount", "-t", "tmpfs", "host", filepath.Join(dir, "down"))
			defer func() { _ = shared.in("umount", filepath.Join(dir, "down")).Run() }()
			host("touch", filepath.Join(dir, "down", "file"))
			if _, _, code := c.exec("test", "-e", "/v/down/file"); (code == 0) != want.down {
				t.Errorf("the host's mount is seen in the container: %v", code == 0)
			}
			if _, errOut, code := c.exec("sh", "-c", "mount -t tmpfs inner /v/up && touch /v/up/file"); code != 0 {
				t.Fatalf("mount: %s", errOut)
			}
			defer func() { _ = shared.in("umount", filepath.Join(dir, "up")).Run() }()
			if seen := shared.in("test", "-e", filepath.Join(dir, "up", "file")).Run() == nil; seen != want.up {
				t.Errorf("the container's mount is seen on the host: %v", seen)
			}
		})
	}
}

func TestRecursiveReadOnly(t *testing.T) {
	p := newPod(t)
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := shared.in("mount", "-t", "tmpfs", "inner", sub).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() { _ = shared.in("umount", sub).Run() }()
	script := "touch /v/x 2>/dev/null && echo outer; touch /v/sub/x 2>/dev/null && echo inner; true"
	for _, recursive := range []bool{false, true} {
		want := "inner\n"
		if recursive {
			want = ""
		}
		got := p.output(script, func(c *api.ContainerConfig) {
			c.Mounts = []*api.Mount{{ContainerPath: "/v", HostPath: dir, Readonly: true, RecursiveReadOnly: recursive}}
		})
		if got != want {
			t.Errorf("recursive %v: could write to %q, want %q", recursive, got, want)
		}
	}
	for name, m := range map[string]*api.Mount{
		"not read-only":     {RecursiveReadOnly: true},
		"host to container": {RecursiveReadOnly: true, Readonly: true, Propagation: api.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		"bidirectional":     {RecursiveReadOnly: true, Readonly: true, Propagation: api.MountPropagation_PROPAGATION_BIDIRECTIONAL},
	} {
		m.ContainerPath, m.HostPath = "/v", dir
		config := containerConfig("true")
		config.Mounts = []*api.Mount{m}
		if _, err := shared.rt.CreateContainer(testContext(t), &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config}); err == nil {
			t.Errorf("recursive read-only, but %s: accepted", name)
		}
	}
}

func TestUpdateSandboxResources(t *testing.T) {
	p := newPod(t)
	_, err := shared.rt.UpdatePodSandboxResources(testContext(t), &api.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Overhead: &api.LinuxContainerResources{}, Resources: &api.LinuxContainerResources{CpuShares: 100},
	})
	if err != nil {
		t.Error(err)
	}
	if !slices.Contains(podIDs(t, nil), p.id) {
		t.Error("the sandbox is gone")
	}
}
