// Package bench measures Mote on this machine: a cluster of one server and one worker (memory, idle processor time,
// start-up, latency of pods); the worker side by side with the upstream kubelet, containerd and runc; and a node with 250
// pods. It prints; it judges no number, since the machine may be busy, but fails when something doesn't work.
// BENCH_STEADY is how long the 250 pods are watched (default 2m).
//
// Reads:  bin/ (from `make programs`) or MOTE_BIN; PEERS (/var/tmp/mote-peers, from `test/peers/build node`); /proc.
// Writes: labs, in temporary directories.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/internal/kubeclient"
	"github.com/mote-edge/mote/test/lab"
)

const (
	onePods, manyPods = 20, 60
	settle, idle      = 15 * time.Second, 30 * time.Second
)

// bed is a lab to measure in.
type bed struct {
	*lab.Lab
	c    *kubeclient.Client
	cfg  lab.Config
	took time.Duration // until all nodes were Ready
}

// up starts a lab; it ends with the benchmark.
func up(b *testing.B, subnet string, cfg lab.Config) bed {
	b.Helper()
	if os.Getuid() != 0 {
		b.Skip("a lab needs root")
	}
	if busy := others(b); busy > 5 {
		fmt.Printf("\nTHE MACHINE IS BUSY: others use %.0f %% of its processors; the numbers below say little\n", busy)
	}
	dir, err := os.MkdirTemp("", "mote-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // containers' users walk through it
		b.Fatal(err)
	}
	bin := os.Getenv("MOTE_BIN")
	if cfg.Bin != "" {
		bin = cfg.Bin
	}
	if bin == "" {
		bin = "../../bin"
	}
	if cfg.Bin, err = filepath.Abs(bin); err != nil {
		b.Fatal(err)
	}
	archive := filepath.Join(dir, "busybox.tar")
	if out, err := exec.Command("go", "run", "../../examples/pack", "-o", archive, "-ref", image, "/bin/busybox").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	cfg.Name, cfg.Subnet, cfg.Dir, cfg.Images = fmt.Sprintf("mb%d%s", os.Getpid()%10000, cfg.Name), subnet, filepath.Join(dir, "lab"), []string{archive}
	// A machine has its run directory in memory; the lab's nodes have theirs on disk unless something is mounted there.
	var mounted []string
	unmount := func() {
		for _, dir := range mounted {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	for i := range 1 + cfg.Workers + cfg.Bare {
		run := filepath.Join(cfg.Dir, fmt.Sprintf("n%d", i), "run")
		if err := errors.Join(os.MkdirAll(run, 0o755), unix.Mount("tmpfs", run, "tmpfs", 0, "mode=755")); err != nil {
			b.Fatalf("run directory in memory: %v", err)
		}
		mounted = append(mounted, run)
	}
	b.Cleanup(unmount)
	began := time.Now()
	l, err := lab.Up(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	took := time.Since(began)
	b.Cleanup(func() {
		unmount()
		if err := l.Down(context.Background()); err != nil {
			b.Error(err)
		}
	})
	c, err := l.Client()
	if err != nil {
		b.Fatal(err)
	}
	return bed{l, c, cfg, took}
}

// on makes pods on a node.
func (t bed) on(n *lab.Node) pods { return pods{c: t.c, node: n.Name, limit: 3 * time.Minute} }

// line prints one result, under the others.
func line(what, format string, args ...any) {
	fmt.Printf("%-58s "+format+"\n", append([]any{what}, args...)...)
}
