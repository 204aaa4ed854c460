package cri

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// peers is where test/peers/build has put what Mote is compared with.
func peers() string {
	if dir := os.Getenv("PEERS"); dir != "" {
		return dir
	}
	return "/var/tmp/mote-peers/bin"
}

const pauseImage = "registry.k8s.io/pause:3.10.2"

// startContainerd runs containerd with directories, sockets, network and shims of its own, and Mote's CNI plugin: what
// differs from mote-runtime is the runtime alone.
func (n *node) startContainerd() error {
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "runc", "ctr"} {
		if _, err := os.Stat(filepath.Join(peers(), program)); err != nil {
			return fmt.Errorf("%w: run test/peers/build first", err)
		}
	}
	n.socket = filepath.Join(n.dir, "run", "containerd.sock")
	cni, hosts := filepath.Join(n.dir, "cni"), filepath.Join(n.dir, "config", "certs.d", "_default")
	for _, dir := range []string{filepath.Join(n.dir, "run"), cni, hosts} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if err := n.writeCNI(cni); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(hosts, "hosts.toml"), []byte("[host.\"http://"+registryAddress+"\"]\n"), 0o600); err != nil {
		return err
	}
	config := filepath.Join(n.dir, "config", "config.toml")
	if err := os.WriteFile(config, []byte(n.containerdConfig(cni)), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(n.dir, "runtime.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	// A shim's socket has a fixed place below /run/containerd.
	script := `mount --make-rshared / && mkdir -p /run/containerd && mount -t tmpfs shims /run/containerd && ip link set lo up && exec "$0" "$@"`
	n.hold = exec.Command("unshare", "-n", "-m", "sh", "-c", cgroup2()+script, filepath.Join(peers(), "containerd"), "--config", config)
	n.hold.Env = append(os.Environ(), "PATH="+peers()+":"+os.Getenv("PATH"))
	n.hold.Stdout, n.hold.Stderr = log, log
	n.hold.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	return n.hold.Start()
}

func (n *node) containerdConfig(cni string) string {
	path := func(parts ...string) string {
		return strconv.Quote(filepath.Join(append([]string{n.dir}, parts...)...))
	}
	return fmt.Sprintf(`version = 3
root = %s
state = %s
imports = []
[grpc]
address = %s
[ttrpc]
address = %s
[plugins.'io.containerd.nri.v1.nri']
disable = true
[plugins.'io.containerd.internal.v1.opt']
path = %s
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = %q
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = %s
[plugins.'io.containerd.cri.v1.runtime']
# without CAP_SYS_RESOURCE the kernel refuses negative scores
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = %q
Root = %s
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [%q]
conf_dir = %q
use_internal_loopback = true
`, path("data"), path("run", "state"), path("run", "containerd.sock"), path("run", "containerd.sock.ttrpc"), path("opt"), pauseImage,
		path("config", "certs.d"), filepath.Join(peers(), "runc"), path("run", "runc"), n.bin, cni)
}

// endShims kills the shims, which outlive containerd; their containers were children of theirs, and die with their cgroup.
func (n *node) endShims() {
	programs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range programs {
		raw, _ := os.ReadFile(file)
		if strings.Contains(string(raw), "containerd-shim") && strings.Contains(string(raw), n.socket) {
			killPid(filepath.Base(filepath.Dir(file)))
		}
	}
	for _, dir := range cgroupDirs() {
		_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err == nil && filepath.Base(path) == "cgroup.procs" {
				raw, _ := os.ReadFile(path)
				for _, word := range strings.Fields(string(raw)) {
					killPid(word)
				}
			}
			return nil
		})
	}
}

func killPid(word string) {
	if pid, err := strconv.Atoi(word); err == nil && pid > 1 {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}
