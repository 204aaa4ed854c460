// Package cri judges a CRI runtime through its socket, as critest does. CRI_RUNTIME says which: mote (the default)
// builds mote-runtime, containerd takes the one that test/peers/build made; both run in network, mount and cgroup
// surroundings of their own. CRI_SOCKET names a running one instead; CRI_PID is then a process in its namespaces and
// CRI_IMPORT a command that takes a docker archive. Tests of Mote's own promises are skipped for the others.
//
// Reads:  CRI_RUNTIME, CRI_SOCKET, CRI_PID, CRI_IMPORT, CRI_SLOW, PEERS.
// Writes: /tmp/mote-cri-*; cgroups below /mote-cri-<pid>; all removed at the end.
package cri

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
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
	kind   string // mote, containerd or other
	socket string
	dir    string
	bin    string
	hold   *exec.Cmd // the process in whose namespaces all happens; nil when the runtime was there before
	enter  int       // a process whose namespaces to use, instead of new ones
	conn   *grpc.ClientConn
	rt     api.RuntimeServiceClient
	images api.ImageServiceClient
}

var shared *node

// slow stretches every wait: CRI_SLOW=10 is for an emulated machine.
func slow(d time.Duration) time.Duration {
	if factor, err := strconv.Atoi(os.Getenv("CRI_SLOW")); err == nil && factor > 1 {
		return d * time.Duration(factor)
	}
	return d
}

// seconds is slow for the CRI's fields.
func seconds(n int64) int64 { return int64(slow(time.Duration(n) * time.Second).Seconds()) }

const testImage = "docker.io/library/busybox:test"

// cgroupRoot is this process's, as several may test at once.
var cgroupRoot = fmt.Sprintf("/mote-cri-%d", os.Getpid())

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
	n := &node{kind: os.Getenv("CRI_RUNTIME"), socket: os.Getenv("CRI_SOCKET")}
	if n.socket != "" {
		n.kind = "other"
	}
	if n.kind == "" {
		n.kind = "mote"
	}
	var err error
	if n.dir, err = os.MkdirTemp("/tmp", "mote-cri-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(n.dir, 0o711); err != nil { // the root of a user namespace must get through
		return nil, err
	}
	if err = os.Chmod(n.dir, 0o711); err != nil { // users of other namespaces pass through
		return nil, err
	}
	switch n.kind {
	case "mote":
		err = errors.Join(n.build(), n.start())
	case "containerd":
		err = errors.Join(n.build(), n.startContainerd())
	case "other":
		n.enter, _ = strconv.Atoi(os.Getenv("CRI_PID"))
	default:
		return nil, fmt.Errorf("CRI_RUNTIME=%s: it is mote or containerd, or set CRI_SOCKET", n.kind)
	}
	if err != nil {
		return nil, err
	}
	if err := n.connect("unix://" + n.socket); err != nil {
		return nil, err
	}
	archive, err := busyboxArchive(testImage)
	if err != nil {
		return nil, err
	}
	if n.kind == "containerd" {
		pause, err := os.ReadFile(filepath.Join(peers(), "../images/pause.tar"))
		if err != nil {
			return nil, fmt.Errorf("%w: run test/peers/build first", err)
		}
		if err := n.importImage(pause); err != nil {
			return nil, err
		}
	}
	return n, n.importImage(archive)
}

// importImage hands a docker archive to the runtime by its own means: CRI has none.
func (n *node) importImage(archive []byte) error {
	if n.kind == "mote" {
		return n.postImage(archive)
	}
	command := os.Getenv("CRI_IMPORT")
	if n.kind == "containerd" {
		command = filepath.Join(peers(), "ctr") + " -a " + n.socket + " -n k8s.io images import --local"
	}
	if command == "" {
		return nil // it is there already, or every test says that it isn't
	}
	file := filepath.Join(n.dir, "image.tar")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		return err
	}
	if out, err := n.in(append(strings.Fields(command), file)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

// namespaces is a process in the runtime's namespaces; 0: they are ours.
func (n *node) namespaces() int {
	if n.hold != nil {
		return n.hold.Process.Pid
	}
	return n.enter
}

// in makes a command run in the runtime's namespaces.
func (n *node) in(words ...string) *exec.Cmd {
	if pid := n.namespaces(); pid != 0 {
		words = append([]string{"nsenter", "-t", strconv.Itoa(pid), "-n", "-m", "--"}, words...)
	}
	return exec.Command(words[0], words[1:]...)
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

func (n *node) await() error {
	deadline := time.Now().Add(slow(20 * time.Second))
	for {
		ctx, cancel := context.WithTimeout(context.Background(), slow(time.Second))
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
	ctx, cancel := context.WithTimeout(context.Background(), slow(30*time.Second))
	defer cancel()
	if n.hold == nil {
		_ = os.RemoveAll(n.dir)
		for _, dir := range cgroupDirs() {
			removeTree(dir)
		}
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
	if n.kind == "containerd" {
		n.endShims()
	}
	if os.Getenv("KEEP") == "" {
		_ = os.RemoveAll(n.dir)
	}
	for _, dir := range cgroupDirs() {
		removeTree(dir)
	}
}

// cgroupDirs are the tests' groups in every hierarchy.
func cgroupDirs() []string {
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupRoot)
	return append(hierarchies, "/sys/fs/cgroup"+cgroupRoot)
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

// inNetns runs f on a thread in the runtime's network namespace: its stream URLs are on that loopback.
func (n *node) inNetns(f func() error) error {
	pid := n.namespaces()
	if pid == 0 {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
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
