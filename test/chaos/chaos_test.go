// Package chaos kills Mote's processes on a lab node at random moments while pods start and end there, and then has the
// checker (test/chaos/check) compare kernel, disk and API. CHAOS_PODS says how many pods (default 40; `make chaos`: 500),
// CHAOS_SEED repeats a run's choices, CHAOS_KILL narrows the victims (agent, runtime, hold; default all).
//
// Reads:  bin/ (from `make programs`), or MOTE_BIN.
// Writes: a lab, in a temporary directory.
package chaos

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/test/chaos/check"
	"github.com/mote-edge/mote/test/lab"
)

var (
	cluster *lab.Lab
	node    *lab.Node // the worker that suffers
	seed    int64
	bin     string
	archive string // the image of the tests
	other   string // an image that the node doesn't have
)

const subnet = "10.97.0"

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Println("skipped: a lab needs root")
		return
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		code = 1
	}
	os.Exit(code)
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

func runTests(m *testing.M) (code int, err error) {
	seed = int64(number("CHAOS_SEED", int(rand.Int31())))
	fmt.Printf("CHAOS_SEED=%d\n", seed)
	dir, err := os.MkdirTemp("", "mote-chaos-")
	if err != nil {
		return 1, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // containers' users walk through it
		return 1, err
	}
	if bin = filepath.Clean(os.Getenv("MOTE_BIN")); bin == "." {
		if bin, err = filepath.Abs("../../bin"); err != nil {
			return 1, err
		}
	}
	if _, err := os.Stat(filepath.Join(bin, "mote")); err != nil {
		return 1, fmt.Errorf("%s/mote is missing: run `make programs` first", bin)
	}
	if err := images(dir); err != nil {
		return 1, err
	}
	unmount, err := smallDisk(filepath.Join(dir, "n1"))
	if err != nil {
		return 1, err
	}
	defer unmount()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cfg := lab.Config{
		Name: fmt.Sprintf("mx%d", os.Getpid()%10000), Dir: dir, Bin: bin, Workers: 1, Images: []string{archive}, Subnet: subnet,
	}
	if cluster, err = lab.Up(ctx, cfg); err != nil {
		return 1, err
	}
	node = cluster.Nodes[1]
	defer func() {
		if os.Getenv("KEEP") != "" {
			fmt.Printf("kept: %s, processes %v\n", dir, node.Programs())
			return
		}
		unmount()
		if derr := cluster.Down(context.Background()); derr != nil && err == nil {
			code, err = 1, derr
		}
		_ = os.RemoveAll(dir)
	}()
	client, err := cluster.Client()
	if err != nil {
		return 1, err
	}
	part := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: configMap}, Data: map[string]string{"key": "value"}}
	if _, err := client.ConfigMaps(namespace).Create(ctx, part, metav1.CreateOptions{}); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// images makes the tests' images.
func images(dir string) error {
	archive, other = filepath.Join(dir, "busybox.tar"), filepath.Join(dir, "other.tar")
	program := filepath.Join(dir, "other")
	if err := copyProgram("/bin/busybox", program); err != nil {
		return err
	}
	for _, each := range [][]string{{archive, image, "/bin/busybox"}, {other, "mote.local/other:1", program}} {
		pack := exec.Command("go", "run", "../../examples/pack", "-o", each[0], "-ref", each[1], each[2])
		if out, err := pack.CombinedOutput(); err != nil {
			return fmt.Errorf("make the image %s: %w: %s", each[1], err, out)
		}
	}
	return nil
}

// smallDisk gives a node a disk of its own for its directory, and memory for its run directory, as a machine has.
func smallDisk(dir string) (unmount func(), err error) {
	run := filepath.Join(dir, "run")
	unmount = func() {
		for _, mount := range []string{run, dir} {
			for syscall.Unmount(mount, syscall.MNT_DETACH) == nil { //nolint:revive // until nothing is mounted there
			}
		}
	}
	for _, step := range []func() error{
		func() error { return os.MkdirAll(dir, 0o755) },
		func() error { return os.WriteFile(dir+".img", nil, 0o600) },
		func() error { return os.Truncate(dir+".img", 512<<20) },
		func() error { return command("mkfs.ext4", "-q", "-m", "0", "-F", dir+".img") },
		func() error { return command("mount", "-o", "loop", dir+".img", dir) },
		func() error { return os.Mkdir(run, 0o755) },
		func() error { return command("mount", "-t", "tmpfs", "-o", "mode=755,size=128m", "tmpfs", run) },
	} {
		if err := step(); err != nil {
			unmount()
			return nil, fmt.Errorf("a small disk for the node: %w", err)
		}
	}
	return unmount, nil
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func newRand() *rand.Rand { return rand.New(rand.NewSource(1)) }

// place says where the checker finds the node.
func place() check.Node {
	dir := node.Dir()
	return check.Node{
		Root: dir, Pid: node.Pid(), Cgroup: node.Cgroup(), Bin: bin, Uplinks: []string{"eth0"},
		PodLogDir: filepath.Join(dir, "log", "pods"),
		Dirs:      layout.Dirs{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"), Config: filepath.Join(dir, "etc")},
	}
}

// program returns the one process of a program; libcontainer's first steps run under the same name.
func program(name string) (int, bool) {
	for _, pid := range node.Programs()[name] {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if words := strings.Split(string(line), "\x00"); err == nil && len(words) > 1 && strings.HasPrefix(words[1], "--") && words[1] != "--init" {
			return pid, true
		}
	}
	return 0, false
}
