// Package cri judges a CRI runtime through its socket, as critest does. By default it builds mote-runtime and runs it
// in network, mount and cgroup surroundings of its own; with CRI_SOCKET set it judges that runtime instead (tests that
// kill the runtime or need Mote's own sockets are then skipped).
//
// Reads:  CRI_SOCKET.
// Writes: /tmp/mote-cri-*; cgroups below /mote-cri-test; all removed at the end.
package cri

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// node is a runtime under test.
type node struct {
	dir    string
	bin    string
	hold   *exec.Cmd // nil: an external runtime
	enter  int       // a process whose namespaces to use, instead of new ones
	conn   *grpc.ClientConn
	rt     api.RuntimeServiceClient
	images api.ImageServiceClient
}

var shared *node

const (
	testImage  = "docker.io/library/busybox:test"
	cgroupRoot = "/mote-cri-test"
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(mainCode(m))
}

func mainCode(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("skipping: the runtime needs root")
		return 0
	}
	var err error
	if shared, err = newNode(); err != nil {
		fmt.Fprintln(os.Stderr, "start the runtime:", err)
		return 1
	}
	defer shared.close()
	return m.Run()
}

func newNode() (*node, error) {
	n := &node{}
	socket := os.Getenv("CRI_SOCKET")
	if socket == "" {
		var err error
		if n.dir, err = os.MkdirTemp("/tmp", "mote-cri-"); err != nil {
			return nil, err
		}
		if err := n.build(); err != nil {
			return nil, err
		}
		if err := n.start(); err != nil {
			return nil, err
		}
		socket = filepath.Join(n.dir, "run", "runtime.sock")
	}
	if err := n.connect("unix://" + socket); err != nil {
		return nil, err
	}
	if n.hold != nil {
		return n, n.importImage()
	}
	return n, nil
}

func (n *node) connect(target string) error {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second,
		}), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return err
	}
	n.conn, n.rt, n.images = conn, api.NewRuntimeServiceClient(conn), api.NewImageServiceClient(conn)
	return n.await()
}

// build makes static binaries; MOTE_BIN names a directory that has them already.
func (n *node) build() error {
	if n.bin = os.Getenv("MOTE_BIN"); n.bin != "" {
		return nil
	}
	n.bin = filepath.Join(n.dir, "bin")
	if err := os.Mkdir(n.bin, 0o755); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-tags", "seccomp,netgo,osusergo", "-ldflags", "-s -w -extldflags -static", "-o", n.bin+"/",
		"github.com/mote-edge/mote/cmd/mote-runtime", "github.com/mote-edge/mote/cmd/mote-hold", "github.com/mote-edge/mote/cmd/mote-cni")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// start runs mote-hold, which runs mote-runtime, in a network and a mount namespace of their own.
func (n *node) start() error {
	script := `mount --make-rshared / && ip link set lo up && exec "$0" "$@"`
	if os.Getenv("MOTE_CGROUP2") != "" {
		// On a hybrid machine: the v2 code paths, without the controllers that v1 has taken.
		script = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && " + script
	}
	run := filepath.Join(n.dir, "run")
	for _, dir := range []string{run, filepath.Join(n.dir, "data", "cni", "net.d"), filepath.Join(n.dir, "config")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"mote","plugins":[{"type":"mote-cni","bridge":"mote0","subnet":"10.99.0.0/24","dataDir":%q,
		"clusterCIDR":"10.99.0.0/16","capabilities":{"portMappings":true}}]}`, filepath.Join(run, "cni"))
	if err := os.WriteFile(filepath.Join(n.dir, "data/cni/net.d/10-mote.conflist"), []byte(conf), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(n.dir, "runtime.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	enter := []string{"unshare", "-n", "-m", "sh", "-c", script}
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

func (n *node) await() error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := n.rt.Version(ctx, &api.VersionRequest{}, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(n.dir, "runtime.log"))
			return fmt.Errorf("the runtime doesn't answer: %w\n%s", err, log)
		}
	}
}

// close removes every pod, then stops the runtime and checks that it leaves nothing.
func (n *node) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if n.hold == nil {
		return
	}
	list, err := n.rt.ListPodSandbox(ctx, &api.ListPodSandboxRequest{})
	if err == nil {
		for _, sb := range list.Items {
			_, _ = n.rt.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: sb.Id})
		}
	}
	_ = n.hold.Process.Signal(unix.SIGTERM)
	_ = n.hold.Wait()
	if os.Getenv("KEEP") == "" {
		_ = os.RemoveAll(n.dir)
	}
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupRoot)
	for _, dir := range append(hierarchies, "/sys/fs/cgroup"+cgroupRoot) {
		_ = filepath.Walk(dir, func(path string, info os.FileInfo, err error) error { return err })
		removeTree(dir)
	}
}

func removeTree(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if entry.IsDir() {
			removeTree(filepath.Join(dir, entry.Name()))
		}
	}
	_ = os.Remove(dir)
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

// inNetns runs f on a thread in the runtime's network namespace: its stream URLs are on that loopback.
func (n *node) inNetns(f func() error) error {
	if n.hold == nil {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", n.hold.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

func (n *node) dial(_ context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.inNetns(func() (err error) {
		conn, err = net.Dial(network, address)
		return err
	})
	return conn, err
}

// importImage sends a busybox image to the admin socket.
func (n *node) importImage() error {
	archive, err := busyboxArchive(testImage)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(n.dir, "run", "runtime-admin.sock"))
	}}}
	reply, err := client.Post("http://runtime/images/import", "application/x-tar", archive)
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

// busyboxArchive is `docker save` of an image with the host's static busybox.
func busyboxArchive(name string) (io.Reader, error) {
	binary, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, errors.New("/bin/busybox is missing: install busybox-static")
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		_ = tw.WriteHeader(&h)
		_, _ = tw.Write(content)
	}
	for _, dir := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "root", "home/default-user"} {
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		add(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: mode}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, binary)
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, err
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644},
		[]byte("root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/default-user:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\nworker:x:1000:\ncrew:x:50000:worker\n"))
	_ = tw.Close()
	sum := func(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
	config, _ := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Cmd": []string{"sh"}, "Env": []string{"FROM_IMAGE=yes", "PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer.Bytes())}},
	})
	manifest, _ := json.Marshal([]map[string]any{{"Config": sum(config) + ".json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	out := &bytes.Buffer{}
	tw = tar.NewWriter(out)
	for file, content := range map[string][]byte{sum(config) + ".json": config, "layer.tar": layer.Bytes(), "manifest.json": manifest} {
		add(tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o644}, content)
	}
	return out, tw.Close()
}
