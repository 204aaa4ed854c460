package cri

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// build makes static binaries; MOTE_BIN names a directory that has them already.
func (n *node) build() error {
	if n.bin = os.Getenv("MOTE_BIN"); n.bin != "" {
		return nil
	}
	n.bin = filepath.Join(n.dir, "bin")
	if err := os.Mkdir(n.bin, 0o755); err != nil {
		return err
	}
	// With the Makefile's flags, so that both use one build cache.
	const module = "github.com/mote-edge/mote/cmd/"
	for _, b := range []struct {
		cgo, tags, flags string
		programs         []string
	}{
		{"0", "netgo,osusergo", "-s -w", []string{module + "mote-hold", module + "mote-cni"}},
		{"1", "netgo,osusergo,seccomp", `-s -w -linkmode external -extldflags "-static"`, []string{module + "mote-runtime", module + "mote-init"}},
	} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-tags", b.tags, "-ldflags", b.flags, "-o", n.bin + "/"}, b.programs...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build: %w\n%s", err, out)
		}
	}
	return nil
}

// start runs mote-hold, which runs mote-runtime, in a network and a mount namespace of their own.
func (n *node) start() error {
	script := `mount --make-rshared / && ip link set lo up && exec "$0" "$@"`
	run := filepath.Join(n.dir, "run")
	n.socket = filepath.Join(run, "runtime.sock")
	for _, dir := range []string{run, filepath.Join(n.dir, "data", "cni", "net.d"), filepath.Join(n.dir, "config")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if err := n.writeCNI(filepath.Join(n.dir, "data/cni/net.d")); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(n.dir, "runtime.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	enter := []string{"unshare", "-n", "-m", "sh", "-c", cgroup2() + script}
	if n.enter != 0 {
		enter = []string{"nsenter", "-t", strconv.Itoa(n.enter), "-n", "-m", "--"}
	}
	n.hold = exec.Command(enter[0], append(enter[1:],
		filepath.Join(n.bin, "mote-hold"), "--socket", filepath.Join(run, "hold.sock"), "--",
		filepath.Join(n.bin, "mote-runtime"), "--data-dir", filepath.Join(n.dir, "data"), "--run-dir", run,
		"--config-dir", filepath.Join(n.dir, "config"), "--log-level", "debug")...)
	n.hold.Stdout, n.hold.Stderr = log, log
	n.hold.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	return n.hold.Start()
}

// cgroup2 is what a hybrid machine needs for the v2 code paths: without the controllers that v1 has taken.
func cgroup2() string {
	if os.Getenv("MOTE_CGROUP2") == "" {
		return ""
	}
	return "mount -t cgroup2 cgroup2 /sys/fs/cgroup && "
}

// writeCNI configures a bridge of the network namespace's own.
func (n *node) writeCNI(dir string) error {
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"mote","plugins":[{"type":"mote-cni","bridge":"mote0","subnet":"10.99.0.0/24","dataDir":%q,
		"clusterCIDR":"10.99.0.0/16","capabilities":{"portMappings":true}}]}`, filepath.Join(n.dir, "run", "cni"))
	return os.WriteFile(filepath.Join(dir, "10-mote.conflist"), []byte(conf), 0o600)
}

// runtimePid finds mote-runtime: the child of mote-hold.
func (n *node) runtimePid(t testing.TB) int {
	t.Helper()
	pid := n.hold.Process.Pid
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(string(raw)) {
		comm, _ := os.ReadFile("/proc/" + word + "/comm")
		if strings.TrimSpace(string(comm)) == "mote-runtime" {
			child, _ := strconv.Atoi(word)
			return child
		}
	}
	// Threads of mote-hold may have forked it.
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		raw, _ := os.ReadFile(task)
		for _, word := range strings.Fields(string(raw)) {
			comm, _ := os.ReadFile("/proc/" + word + "/comm")
			if strings.TrimSpace(string(comm)) == "mote-runtime" {
				child, _ := strconv.Atoi(word)
				return child
			}
		}
	}
	t.Fatal("mote-runtime isn't running")
	return 0
}

// postImage sends an archive to the admin socket.
func (n *node) postImage(archive []byte) error {
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(n.dir, "run", "runtime-admin.sock"))
	}}}
	reply, err := client.Post("http://runtime/images/import", "application/x-tar", bytes.NewReader(archive))
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	body, _ := io.ReadAll(reply.Body)
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("import: %s: %s", reply.Status, body)
	}
	return nil
}
