package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const usersFirst, usersLength = 5 << 16, 1 << 16

func mapped() []*api.IDMapping {
	return []*api.IDMapping{{ContainerId: 0, HostId: usersFirst, Length: usersLength}}
}

func ownUsers(c *api.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &api.UserNamespace{Mode: api.NamespaceMode_POD, Uids: mapped(), Gids: mapped()}
}

func needUserNamespaces(t *testing.T) {
	t.Helper()
	reply, err := shared.rt.Status(testContext(t), &api.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range reply.RuntimeHandlers {
		if h.Name == "" && h.Features.UserNamespaces {
			return
		}
	}
	t.Skip("the runtime says that it has no user namespaces here")
}

// mappedMount mounts a directory as the pod's users see it.
func mappedMount(source, target string) func(*api.ContainerConfig) {
	return func(c *api.ContainerConfig) {
		c.Mounts = append(c.Mounts, &api.Mount{ContainerPath: target, HostPath: source, UidMappings: mapped(), GidMappings: mapped()})
	}
}

func TestUserNamespace(t *testing.T) {
	needUserNamespaces(t)
	p := newPod(t, ownUsers, onPodNetwork, func(c *api.PodSandboxConfig) {
		c.Hostname = "mapped"
		c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.tcp_syncookies": "0"}
	})
	dir := t.TempDir()
	for path := dir; path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "roots"), []byte("content\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		script, want string
	}{
		"mapping":          {"cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '", " 0 327680 65536\n 0 327680 65536\n"},
		"root in it":       {"id", "uid=0(root) gid=0(root) groups=0(root)\n"},
		"image is root's":  {"stat -c %u:%g / /bin/busybox /etc/passwd | sort -u", "0:0\n"},
		"root writes":      {"echo x >> /etc/passwd && touch /new && chown 1000:1000 /new && stat -c %u:%g /new", "1000:1000\n"},
		"hosts files":      {"stat -c %u:%g /etc/hostname /etc/resolv.conf /dev/shm | sort -u", "0:0\n"},
		"hostname":         {"hostname; hostname other && hostname", "mapped\nother\n"},
		"volume":           {"cat /v/roots && stat -c %u:%g /v/roots && echo mine > /v/made && chown 7:8 /v/made && stat -c %u:%g /v/made", "content\n0:0\n7:8\n"},
		"sysctls":          {"cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/tcp_syncookies /proc/sys/net/ipv4/ip_unprivileged_port_start", "1\n0\n0\n"},
		"network is owned": {"ip link set lo down && ip link set lo up && echo yes", "yes\n"},
		"mounts":           {"mount -t tmpfs x /tmp && touch /tmp/x && stat -c %u /tmp/x", "0\n"},
		"proc and sys":     {"test -d /proc/1 && test -d /sys/class/net/eth0 && echo yes", "yes\n"},
		"host's files":     {"mknod /disk b 1 1 2>&1", "mknod: /disk: Operation not permitted\n"},
		"devices":          {"echo x > /dev/null && head -c 1 /dev/zero | wc -c && test -c /dev/tty && echo yes", "1\nyes\n"},
		"shared memory":    {"echo x > /dev/shm/x && stat -c %u /dev/shm/x", "0\n"},
		"cgroup view":      {"test -r /sys/fs/cgroup && echo yes", "yes\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "hosts files" && shared.kind != "mote" {
				t.Skip("containerd leaves them to the host's root")
			}
			script := test.script
			if got := p.output(script, mappedMount(dir, "/v"), with(func(s *api.LinuxContainerSecurityContext) {
				s.NamespaceOptions.Network = api.NamespaceMode_POD
				s.NamespaceOptions.UsernsOptions = p.config.Linux.SecurityContext.NamespaceOptions.UsernsOptions
				s.Capabilities = &api.Capability{AddCapabilities: []string{"SYS_ADMIN", "NET_ADMIN"}}
			})); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if info, err := os.Stat(filepath.Join(dir, "made")); err == nil {
		if uid, gid := ownerOf(info); uid != 7 || gid != 8 {
			t.Errorf("the volume has the numbers that the container sees: %d:%d", uid, gid)
		}
	} else {
		t.Error(err)
	}
}

func TestUserNamespaceProcesses(t *testing.T) {
	needUserNamespaces(t)
	for _, mode := range []api.NamespaceMode{api.NamespaceMode_CONTAINER, api.NamespaceMode_POD} {
		t.Run(mode.String(), func(t *testing.T) {
			p := newPod(t, ownUsers, onPodNetwork, func(c *api.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = mode })
			c := p.run("sleep 1000", with(func(s *api.LinuxContainerSecurityContext) {
				s.NamespaceOptions = p.config.Linux.SecurityContext.NamespaceOptions
				s.RunAsUser = &api.Int64Value{Value: 1000}
			}))
			if out, errOut, code := c.exec("sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '"); code != 0 || out != "1000\n 0 327680 65536\n" {
				t.Errorf("exec: %q, %q, %d", out, errOut, code)
			}
			if uid := hostUser(t, "sleep", usersFirst+1000); uid == 0 {
				t.Error("no process of the mapped user on the host")
			}
			if shared.kind == "mote" {
				killRuntime(t)
				if out, errOut, code := c.exec("id", "-u"); code != 0 || out != "1000\n" {
					t.Errorf("exec after a restart of the runtime: %q, %q, %d", out, errOut, code)
				}
				again := func(s *api.LinuxContainerSecurityContext) {
					s.NamespaceOptions = p.config.Linux.SecurityContext.NamespaceOptions
				}
				if out := p.output("stat -c %u /bin/busybox; cat /proc/self/uid_map | tr -s ' '", with(again)); out != "0\n 0 327680 65536\n" {
					t.Errorf("a container made after a restart of the runtime: %q", out)
				}
			}
			if st := c.status(); st.State != api.ContainerState_CONTAINER_RUNNING {
				t.Errorf("%v", st)
			}
		})
	}
}

func TestUserNamespaceImageVolume(t *testing.T) {
	needUserNamespaces(t)
	p := newPod(t, ownUsers)
	got := p.output("stat -c %u /img/passwd; touch /img/x", func(c *api.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = p.config.Linux.SecurityContext.NamespaceOptions.UsernsOptions
		c.Mounts = append(c.Mounts, &api.Mount{ContainerPath: "/img", Image: &api.ImageSpec{Image: testImage}, ImageSubPath: "etc", Readonly: true, UidMappings: mapped(), GidMappings: mapped()})
	})
	if !strings.HasPrefix(got, "0\n") || !strings.Contains(got, "Read-only") {
		t.Errorf("%q", got)
	}
}

func TestUserNamespaceRefusals(t *testing.T) {
	if shared.kind != "mote" {
		t.Skip("the words are Mote's")
	}
	other := []*api.IDMapping{{ContainerId: 0, HostId: 9 << 16, Length: usersLength}}
	for name, test := range map[string]struct {
		set  func(*api.PodSandboxConfig)
		want string
	}{
		"no mapping": {func(c *api.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &api.UserNamespace{Mode: api.NamespaceMode_POD}
		}, "exactly one uid mapping"},
		"host's root": {func(c *api.PodSandboxConfig) {
			ownUsers(c)
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Uids = []*api.IDMapping{{Length: 65536}}
		}, "leave out the host's"},
		"host PIDs": {func(c *api.PodSandboxConfig) {
			ownUsers(c)
			c.Linux.SecurityContext.NamespaceOptions.Pid = api.NamespaceMode_NODE
		}, "host's PID"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := shared.rt.RunPodSandbox(testContext(t), &api.RunPodSandboxRequest{Config: podConfig(t, test.set)})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
		})
	}
	p := newPod(t, ownUsers)
	config := containerConfig("true")
	config.Mounts = []*api.Mount{{ContainerPath: "/v", HostPath: t.TempDir(), UidMappings: other, GidMappings: other}}
	_, err := shared.rt.CreateContainer(testContext(t), &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err == nil || !strings.Contains(err.Error(), "not those of the sandbox") {
		t.Errorf("a mount with other users: %v", err)
	}
}

func ownerOf(info os.FileInfo) (uint32, uint32) {
	st := info.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

// hostUser returns the host's number of a user whose process of this name runs, 0 if there is none.
func hostUser(t *testing.T, name string, want int) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		raw, _ := os.ReadFile(path)
		if strings.Contains(string(raw), "Name:\t"+name+"\n") && strings.Contains(string(raw), fmt.Sprintf("Uid:\t%d\t", want)) {
			return want
		}
	}
	return 0
}
