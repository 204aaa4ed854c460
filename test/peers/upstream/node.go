// Package upstream runs what Mote's node is compared with, on a bare machine of a lab and against the lab's API server:
// the upstream kubelet on containerd and runc, with Mote's CNI plugin, so that the network is the same for both.
//
// Reads:  the programs and the pause image that test/peers/build makes.
// Writes: the node's directory; what kubelet and containerd write in the node's namespaces and cgroup.
package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mote-edge/mote/test/lab"
)

// Config says what to start and where.
type Config struct {
	Lab     *lab.Lab
	Node    *lab.Node // a bare one
	Peers   string    // containerd, containerd-shim-runc-v2, ctr, runc, kubelet; what test/peers/build made
	Pause   string    // the pause image's archive
	Plugins string    // the directory of mote-cni
	Images  []string  // further archives
	Network string    // of the cluster's pods
}

// programs are those that must be there.
var programs = []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "kubelet"}

// Missing says what test/peers/build has not made, or nil.
func Missing(peers, pause string) error {
	var errs []error
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(peers, p)); err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := os.Stat(pause); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return fmt.Errorf("run test/peers/build: %w", errors.Join(errs...))
	}
	return nil
}

// Node is a machine with the upstream programs.
type Node struct{ cfg Config }

// Start brings the node up and waits until it is Ready. The lab ends it.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	n := &Node{cfg: cfg}
	for _, dir := range []string{"run", "etc", "cni", "log/pods", "kubelet", "containerd"} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			return nil, err
		}
	}
	for _, step := range []func(context.Context) error{n.containerd, n.cgroup, n.kubelet, n.conflist, n.ready} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("the upstream node: %w; the end of the kubelet's log:\n%s", err, n.logTail())
		}
	}
	return n, nil
}

// Programs are the node's processes outside its pods' containers, by program; what ends while one looks, runc say, among them.
func (n *Node) Programs() map[string][]int {
	programs := n.cfg.Node.ProgramsIn(n.cfg.Peers, n.cfg.Plugins)
	if pause := n.cfg.Node.ProgramsIn("/")["pause"]; len(pause) > 0 { // as its own root has it
		programs["pause"] = pause
	}
	return programs
}

func (n *Node) path(name string) string { return filepath.Join(n.cfg.Node.Dir(), name) }

// start runs a program in a session of its own. The lab kills what runs in the node's namespaces.
func (n *Node) start(ctx context.Context, log, program string, args ...string) error {
	out, err := os.Create(n.path(log))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := n.cfg.Node.Command(context.WithoutCancel(ctx), program, args...)
	cmd.Env = append(os.Environ(), "PATH="+n.cfg.Peers+":"+os.Getenv("PATH")) // containerd looks for its shim there
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = out, out, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // the lab ends it with SIGKILL
	return nil
}

func (n *Node) containerd(ctx context.Context) error {
	text := strings.NewReplacer("{node}", n.cfg.Node.Dir(), "{peers}", n.cfg.Peers, "{plugins}", n.cfg.Plugins).Replace(containerdConfig)
	if err := os.WriteFile(n.path("etc/containerd.toml"), []byte(text), 0o644); err != nil {
		return err
	}
	// A shim's socket has a fixed place below /run/containerd, a network namespace's pin one below /run/netns, where ends by SIGKILL
	// would leave it: the node gets directories of its own.
	if err := output(n.cfg.Node.Command(ctx, "sh", "-c", "for d in /run/containerd /run/netns; do mkdir -p $d && mount -t tmpfs own $d; done")); err != nil {
		return err
	}
	if err := n.start(ctx, "containerd.log", filepath.Join(n.cfg.Peers, "containerd"), "--config", n.path("etc/containerd.toml")); err != nil {
		return err
	}
	ctr := func(args ...string) error {
		return output(n.cfg.Node.Command(ctx, filepath.Join(n.cfg.Peers, "ctr"), append([]string{"--address", n.path("run/containerd.sock")}, args...)...))
	}
	if err := poll(ctx, 30*time.Second, func() error { return ctr("version") }); err != nil {
		return err
	}
	for _, archive := range append([]string{n.cfg.Pause}, n.cfg.Images...) {
		if err := ctr("-n", "k8s.io", "images", "import", "--local", archive); err != nil {
			return err
		}
	}
	return nil
}

// cgroup makes the one above the pods, which the kubelet expects to be there.
func (n *Node) cgroup(context.Context) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*") // v1: a directory a hierarchy
	if err != nil {
		return err
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		roots = []string{"/sys/fs/cgroup/"}
	}
	for _, root := range roots {
		dir := filepath.Join(root, n.cfg.Node.Cgroup())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // v1: empty ones take no process
			if all, err := os.ReadFile(filepath.Join(root, file)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, file), all, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (n *Node) kubelet(ctx context.Context) error {
	admin := n.cfg.Lab.Kubeconfig()
	rc, err := n.cfg.Lab.REST()
	if err != nil {
		return err
	}
	if err := os.WriteFile(n.path("etc/ca.crt"), rc.CAData, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(n.path("resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		return err
	}
	text := strings.NewReplacer("{node}", n.cfg.Node.Dir(), "{cgroup}", n.cfg.Node.Cgroup()).Replace(kubeletConfig)
	if err := os.WriteFile(n.path("etc/kubelet.yaml"), []byte(text), 0o644); err != nil {
		return err
	}
	return n.start(ctx, "node.log", filepath.Join(n.cfg.Peers, "kubelet"), "--config", n.path("etc/kubelet.yaml"), "--root-dir", n.path("kubelet"),
		"--cert-dir", n.path("kubelet/pki"), "--hostname-override", n.cfg.Node.Name, "--node-ip", n.cfg.Node.IP,
		"--bootstrap-kubeconfig", admin, "--kubeconfig", n.path("kubelet/kubeconfig"))
}

// conflist is the network of the pods, with the range that the cluster gives the node. Its certificates are approved
// meanwhile: the first as a client, then the one it serves with.
func (n *Node) conflist(ctx context.Context) error {
	var cidr string
	err := poll(ctx, 30*time.Second, func() (err error) {
		if err := n.approve(ctx); err != nil {
			return err
		}
		cidr, err = n.cfg.Lab.Kubectl(ctx, "get", "node", n.cfg.Node.Name, "-o", "jsonpath={.spec.podCIDR}")
		if err == nil && cidr == "" {
			err = errors.New("the node has no podCIDR")
		}
		return err
	})
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"mote","plugins":[{"type":"mote-cni","bridge":"mote0","subnet":%q,"clusterCIDR":%q,"mtu":1500,"dataDir":%q,"capabilities":{"portMappings":true}}]}`,
		cidr, n.cfg.Network, n.path("cni-state"))
	return os.WriteFile(n.path("cni/10-mote.conflist"), []byte(text), 0o644)
}

func (n *Node) ready(ctx context.Context) error {
	return poll(ctx, 90*time.Second, func() error {
		if err := n.approve(ctx); err != nil {
			return err
		}
		if _, err := os.Stat(n.path("kubelet/pki/kubelet-server-current.pem")); err != nil {
			return err
		}
		_, err := n.cfg.Lab.Kubectl(ctx, "wait", "--for=condition=Ready", "node/"+n.cfg.Node.Name, "--timeout=1s")
		return err
	})
}

func (n *Node) logTail() string {
	log, err := os.ReadFile(n.path("node.log"))
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-3000):])
}

func (n *Node) approve(ctx context.Context) error {
	pending, err := n.cfg.Lab.Kubectl(ctx, "get", "csr", "-o", `jsonpath={range .items[?(@.spec.username!="")]}{.metadata.name}{" "}{.status.conditions[0].type}{"\n"}{end}`)
	if err != nil {
		return err
	}
	for line := range strings.Lines(pending) {
		if f := strings.Fields(line); len(f) == 1 {
			if _, err := n.cfg.Lab.Kubectl(ctx, "certificate", "approve", f[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// poll asks other processes, which tell nobody.
func poll(ctx context.Context, limit time.Duration, ok func() error) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		err := ok()
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
	}
}

func output(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
