package cri

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a container must not reach: files, mounts, descriptors and sockets of the host. Where a test has a CVE's number,
// it is the way that was open once in runc and its callers.

// openDir makes a temporary directory that every user may walk to.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path := dir; path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// probe builds the program in ./probe and returns a directory with it.
func probe(t *testing.T) string {
	t.Helper()
	dir := openDir(t)
	if made, err := os.ReadFile(filepath.Join(shared.bin, "probe")); err == nil { // a machine without Go
		if err := os.WriteFile(filepath.Join(dir, "probe"), made, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "probe"), "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	return dir
}

func bindMount(source, target string) func(*api.ContainerConfig) {
	return func(c *api.ContainerConfig) {
		c.Mounts = append(c.Mounts, &api.Mount{HostPath: source, ContainerPath: target})
	}
}

// CVE-2024-21626: a working directory in /proc/self/fd was one of the host's that the runtime had left open.
func TestEscapeByWorkingDirectory(t *testing.T) {
	p := newPod(t)
	for fd := 3; fd < 24; fd++ {
		config := containerConfig("sh", "-c", "pwd; ls -d ../../../../../../../../etc/debian_version ../../../../../../../../root/.. 2>/dev/null; cat /proc/self/cwd/../../../../../../../etc/hostname")
		config.WorkingDir = fmt.Sprintf("/proc/self/fd/%d", fd)
		if got := p.unlessRefused(config); strings.Contains(got, "debian_version") {
			t.Errorf("descriptor %d leads to the host: %q", fd, got)
		}
	}
}

// unlessRefused runs a container to its end and returns what it said; a runtime that refuses to is as good.
func (p *pod) unlessRefused(config *api.ContainerConfig) string {
	p.t.Helper()
	created, err := p.n.rt.CreateContainer(testContext(p.t), &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err != nil {
		return ""
	}
	c := &ctr{pod: p, id: created.ContainerId, logPath: filepath.Join(p.config.LogDirectory, config.LogPath)}
	if _, err := p.n.rt.StartContainer(testContext(p.t), &api.StartContainerRequest{ContainerId: c.id}); err != nil {
		return ""
	}
	c.wait()
	return c.logs()
}

// CVE-2019-5736: a container overwrote the runtime's program through /proc/<pid>/exe of an exec into it.
func TestEscapeByOverwritingTheRuntime(t *testing.T) {
	if shared.kind != "mote" {
		t.Skip("it looks at mote-runtime's own file")
	}
	sums := func() (out []string) {
		for _, program := range []string{"mote-runtime", "mote-init"} {
			out = append(out, fileSum(t, filepath.Join(shared.bin, program)))
		}
		return out
	}
	before := sums()
	p := newPod(t)
	c := p.run(`while :; do for e in /proc/[0-9]*/exe; do
		case "$(readlink $e 2>/dev/null)" in */busybox|"") ;; *) echo overwritten 2>/dev/null > $e && echo wrote $e;; esac
	done; done`)
	for range 15 {
		// The command is the program that runs at this moment: the runtime's, if it let itself be seen.
		_, _ = p.n.rt.ExecSync(testContext(t), &api.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"/proc/self/exe", "--help"}, Timeout: seconds(5)})
	}
	if after := sums(); !slices.Equal(after, before) {
		t.Fatalf("mote-runtime or mote-init was changed from inside a container: %v, before %v", after, before)
	}
	if got := newPod(t).output("echo still begins"); got != "still begins\n" { // what containers begin with is a copy
		t.Errorf("a container after that: %q", got)
	}
	if strings.Contains(c.logs(), "wrote") {
		t.Logf("something was written to, but not to the program: %q", c.logs())
	}
}

func fileSum(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(raw))
}

// What the runtime's first step does to be quick isn't the container's: its timers are as exact as any process's, by default
// (timerslack_ns, of which 0 is the default), too.
func TestTimersAreExact(t *testing.T) {
	const look = "read a </proc/$$/timerslack_ns; echo 0 >/proc/$$/timerslack_ns; read b </proc/$$/timerslack_ns; echo $a $b"
	want, err := os.ReadFile("/proc/self/timerslack_ns")
	if err != nil {
		t.Skip(err)
	}
	both := strings.TrimSpace(string(want))
	both += " " + both + "\n"
	p := newPod(t)
	if got := p.output(look); got != both {
		t.Errorf("slack of a container's timers: %q, want %q", got, both)
	}
	c := p.run("sleep 1000")
	if got, _, _ := c.exec("sh", "-c", look); got != both {
		t.Errorf("slack of an exec's timers: %q, want %q", got, both)
	}
}

func TestNoDescriptorsLeak(t *testing.T) {
	p := newPod(t)
	// ls has one of its own: the directory.
	const list = "echo $(ls /proc/self/fd)"
	if got := p.output(list); got != "0 1 2 3\n" {
		t.Errorf("the container's process has descriptors %q", got)
	}
	c := p.run("sleep 1000")
	if got, _, _ := c.exec("sh", "-c", list); got != "0 1 2 3\n" {
		t.Errorf("exec has descriptors %q", got)
	}
	terminal := p.run(list+"; sleep 1000", func(c *api.ContainerConfig) { c.Tty = true })
	eventually(t, "output", func() bool { return strings.Contains(terminal.logs(), "2") })
	if got := strings.TrimSpace(terminal.logs()); got != "0 1 2 3" {
		t.Errorf("the process on a terminal has descriptors %q", got)
	}
}

// An image's links lead nowhere but into itself, wherever the runtime follows them for the container.
func TestEscapeByImageLinks(t *testing.T) {
	out, victim := openDir(t), openDir(t)
	if err := os.WriteFile(filepath.Join(victim, "secret"), []byte("the host's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("docker.io/library/links:%d", os.Getpid())
	archive, err := linksArchive(name, map[string]string{
		"abs": victim, "up": "../../../../../../../../../.." + victim, "rootlink": "/", "etc/passwd": victim + "/secret", "proclink": "/proc/1/root",
		"work": "../../../../../../../.." + victim,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := shared.importImage(archive); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = shared.images.RemoveImage(testContext(t), &api.RemoveImageRequest{Image: &api.ImageSpec{Image: name}})
	})
	p := newPod(t)
	fromImage := func(c *api.ContainerConfig) { c.Image = &api.ImageSpec{Image: name} }
	for _, target := range []string{"/abs/in", "/up/in", "/rootlink/in", "/abs", "/up"} {
		config := containerConfig("sh", "-c", "echo x > "+target+"/made; ls "+target)
		fromImage(config)
		bindMount(out, target)(config)
		p.unlessRefused(config)
	}
	entries, err := os.ReadDir(victim)
	if err != nil || len(entries) != 1 {
		t.Errorf("a container's mounts were made on the host: %v, %v", entries, err)
	}
	if got := p.output("cat /abs/secret /up/secret /etc/passwd 2>&1", fromImage); strings.Contains(got, "the host's") {
		t.Errorf("%q", got)
	}
	config := containerConfig("sh", "-c", "pwd; ls")
	fromImage(config)
	config.WorkingDir = "/work"
	if got := p.unlessRefused(config); strings.Contains(got, "secret") {
		t.Errorf("working directory: %q", got)
	}
}

// linksArchive is an image of busybox with links above it.
func linksArchive(name string, links map[string]string) ([]byte, error) {
	base, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	var top bytes.Buffer
	tw := tar.NewWriter(&top)
	for link, to := range links {
		_ = tw.WriteHeader(&tar.Header{Name: link, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777})
	}
	_ = tw.Close()
	config, _ := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(base), "sha256:" + sum(top.Bytes())}},
	})
	manifest, _ := json.Marshal([]map[string]any{{"Config": sum(config) + ".json", "RepoTags": []string{name}, "Layers": []string{"base.tar", "top.tar"}}})
	out := &bytes.Buffer{}
	tw = tar.NewWriter(out)
	for file, content := range map[string][]byte{sum(config) + ".json": config, "base.tar": base, "top.tar": top.Bytes(), "manifest.json": manifest} {
		_ = tw.WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))})
		_, _ = tw.Write(content)
	}
	err = tw.Close()
	return out.Bytes(), err
}

func TestMountsOfOthersAreUnseen(t *testing.T) {
	p, other := newPod(t, onPodNetwork, func(c *api.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true }), newPod(t, onPodNetwork)
	dir := openDir(t)
	neighbour := other.run("sleep 1000", bindMount(dir, "/neighbours"))
	c := p.run("sleep 1000", bindMount(dir, "/v"))
	privileged := p.run("mkdir -p /v/inner && mount -t tmpfs inner /v/inner && mount -t tmpfs own /mnt 2>/dev/null; touch /v/inner/x; sleep 1000",
		bindMount(dir, "/v"), with(func(s *api.LinuxContainerSecurityContext) { s.Privileged = true }))
	eventually(t, "the mount in the privileged container", func() bool {
		_, _, code := privileged.exec("test", "-e", "/v/inner/x")
		return code == 0
	})
	table, _, _ := c.exec("cat", "/proc/self/mountinfo")
	for _, hidden := range []string{neighbour.id, other.id, "neighbours", "netns/", "runtime.sock", "/old", " /host"} {
		if strings.Contains(table, hidden) {
			t.Errorf("mountinfo shows %q:\n%s", hidden, table)
		}
	}
	if strings.Contains(table, "inner") {
		t.Errorf("a mount in one container shows in another:\n%s", table)
	}
	if host, err := shared.in("cat", "/proc/self/mountinfo").Output(); err != nil || strings.Contains(string(host), dir+"/inner") {
		t.Errorf("a container's mount shows on the host (%v)", err)
	}
	// The host's mounts made later stay out of volumes without propagation.
	if out, err := shared.in("mount", "-t", "tmpfs", "late", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() { _ = shared.in("umount", dir).Run() }()
	if table, _, _ := c.exec("cat", "/proc/self/mountinfo"); strings.Contains(table, "late") {
		t.Errorf("a mount of the host's came into a container:\n%s", table)
	}
}

func TestSocketsAreOutOfReach(t *testing.T) {
	if shared.kind != "mote" {
		t.Skip("the sockets are Mote's")
	}
	p := newPod(t) // on the host's network, where abstract sockets would be seen
	c := p.run("sleep 1000", with(func(s *api.LinuxContainerSecurityContext) { s.NamespaceOptions.Pid = api.NamespaceMode_NODE }))
	for _, name := range []string{"runtime.sock", "runtime-admin.sock", "hold.sock"} {
		path := filepath.Join(shared.dir, "run", name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: root alone may use it", path, info.Mode())
		}
		if _, _, code := c.exec("test", "-e", path); code == 0 {
			t.Errorf("%s is in the container", path)
		}
	}
	out, _, _ := c.exec("cat", "/proc/net/unix")
	ours := map[string]bool{}
	for _, pid := range []int{shared.hold.Process.Pid, shared.runtimePid(t)} {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, "socket:[") {
				ours[strings.Trim(to[len("socket:"):], "[]")] = true
			}
		}
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 7 && ours[f[6]] && strings.HasPrefix(f[7], "@") {
			t.Errorf("an abstract socket, which any pod on the host's network can reach: %s", line)
		}
	}
}

func TestSeccompDefaultDenies(t *testing.T) {
	p := newPod(t)
	dir := probe(t)
	denied := []string{
		"keyctl", "add_key", "mount", "umount", "unshare", "newns", "setns", "pivot_root", "swapon", "reboot", "kexec_load", "init_module", "bpf",
		"userfaultfd", "perf_event_open", "open_by_handle_at", "io_uring_setup", "settimeofday",
	}
	config := func(user int64) func(*api.ContainerConfig) {
		return func(c *api.ContainerConfig) {
			c.Command = append([]string{"/p/probe"}, denied...)
			bindMount(dir, "/p")(c)
			c.Linux.SecurityContext.Seccomp = &api.SecurityProfile{ProfileType: api.SecurityProfile_RuntimeDefault}
			c.Linux.SecurityContext.RunAsUser = &api.Int64Value{Value: user}
		}
	}
	// The kernel itself has another reason to refuse this one, to a program with threads: it is the filter that is tested.
	if got := p.output("/p/probe unshare", bindMount(dir, "/p"), with(func(s *api.LinuxContainerSecurityContext) {
		s.Seccomp, s.RunAsUser = &api.SecurityProfile{ProfileType: api.SecurityProfile_Unconfined}, &api.Int64Value{Value: 1000}
	})); got != "unshare EINVAL\n" {
		t.Errorf("unconfined: %q", got)
	}
	for _, user := range []int64{0, 1000} {
		got := strings.Fields(p.output("", config(user)))
		if len(got) != 2*len(denied) {
			t.Fatalf("user %d: %q", user, got)
		}
		for i := 0; i < len(got); i += 2 {
			if got[i+1] != "EPERM" && got[i+1] != "ENOSYS" {
				t.Errorf("user %d: %s: %s", user, got[i], got[i+1])
			}
		}
	}
}

func TestNoNewPrivileges(t *testing.T) {
	p := newPod(t)
	dir := probe(t)
	if err := os.Chmod(filepath.Join(dir, "probe"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	for no, want := range map[bool]string{false: "1000 0\n", true: "1000 1000\n"} {
		got := p.output("/p/probe ids", bindMount(dir, "/p"), with(func(s *api.LinuxContainerSecurityContext) {
			s.RunAsUser, s.NoNewPrivs = &api.Int64Value{Value: 1000}, no
		}))
		if got != want {
			t.Errorf("a set-user-ID program with no_new_privs %v: %q", no, got)
		}
	}
	// What isn't in the bounding set comes back by no program, set-user-ID or not.
	got := p.output("grep -E 'Cap(Bnd|Inh|Amb)' /proc/self/status | cut -f2 | sort -u", with(func(s *api.LinuxContainerSecurityContext) {
		s.Capabilities = &api.Capability{DropCapabilities: []string{"ALL"}}
	}))
	if got != "0000000000000000\n" {
		t.Errorf("capabilities after drop ALL: %q", got)
	}
}

// The paths that the kubelet has masked and made read-only by default (procMount Default).
func TestProcMasks(t *testing.T) {
	p := newPod(t)
	masked := []string{"/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"}
	readonly := []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	got := p.output(`for f in `+strings.Join(masked, " ")+`; do
			[ -d $f ] && ls -A $f; [ -f $f ] && head -c 10 $f; done 2>&1
		for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/vm/panic_on_oom /proc/irq/default_smp_affinity; do
			[ -e $f ] && (echo x > $f) 2>/dev/null && echo wrote $f; done
		mount -o remount,rw /proc/sys 2>/dev/null && echo remounted; umount /proc/kcore 2>/dev/null && echo unmasked
		for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/release_agent /sys/kernel/uevent_helper /sys/fs/cgroup/*/cgroup.procs; do
			[ -e $f ] && (echo 1 > $f) 2>/dev/null && echo wrote $f; done; echo end`,
		with(func(s *api.LinuxContainerSecurityContext) { s.MaskedPaths, s.ReadonlyPaths = masked, readonly }))
	if got != "end\n" {
		t.Errorf("%q", got)
	}
}

func TestDeviceNodesAreNoWayOut(t *testing.T) {
	p := newPod(t)
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	// CAP_MKNOD is a default capability; the control group is what stands in the way.
	got := p.output(fmt.Sprintf("mknod /disk b %d %d; mknod /mem c 1 1; mknod /kmsg c 1 11; for f in /disk /mem /kmsg; do head -c 1 $f >/dev/null 2>&1 && echo read $f; (: > $f) 2>/dev/null && echo opened $f; done; echo end",
		unix.Major(st.Dev), unix.Minor(st.Dev)))
	if got != "end\n" {
		t.Errorf("%q", got)
	}
}
