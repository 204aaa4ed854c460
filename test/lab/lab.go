// Package lab runs a cluster of several nodes on one machine: each node has its own network and mount namespace, its own
// directories and its own cgroup root, and one bridge joins them. The programs are the real ones; nothing of the machine
// outside those namespaces changes.
//
//	10.99.0.0/24 in namespace <name>-sw: bridge br0, 10.99.0.1
//	  └─ <name>-n0 10.99.0.10 (server, with a node of its own), <name>-n1 10.99.0.11 (worker), …
//
// Reads:  the programs in Config.Bin.
// Writes: Config.Dir, network namespaces <name>-*, cgroups /<name>-*.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Config says what to build.
type Config struct {
	Name    string   // prefix of namespaces and cgroups; default "lab"
	Dir     string   // absolute; holds every node's directories and logs
	Bin     string   // directory with Mote's programs
	Subnet  string   // first three octets, default "10.99.0"
	Workers int      // nodes besides the server
	Images  []string // archives that every node imports
	Args    []string // further flags of every node
	Bare    int      // machines after the workers on which nothing is started: for other programs than ours
	NoNode  bool     // the server runs no node of its own
}

// Lab is a running cluster.
type Lab struct {
	cfg   Config
	Nodes []*Node // the server is the first
}

// Node is one machine of the lab.
type Node struct {
	lab   *Lab
	Name  string
	IP    string
	index int
	cmd   *exec.Cmd
	done  chan struct{}
}

// run runs a command to its end and returns its output, and after a failure what it printed as errors, too. Both together are no
// command's answer: kubectl prints "Unknown stream id 1" when a server greets it before it listens, and goes on.
func run(ctx context.Context, name string, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		all := out.String() + errOut.String()
		return all, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(all))
	}
	return out.String(), nil
}

// Up builds the network, starts the server, joins the workers and waits until every node is Ready. What was built is
// taken down again on an error.
func Up(ctx context.Context, cfg Config) (_ *Lab, err error) {
	if os.Getuid() != 0 {
		return nil, errors.New("a lab needs root: it makes namespaces, links and cgroups")
	}
	if cfg.Name == "" {
		cfg.Name = "lab"
	}
	if cfg.Subnet == "" {
		cfg.Subnet = "10.99.0"
	}
	l := Attach(cfg)
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Down(context.WithoutCancel(ctx)))
		}
	}()
	if err := l.network(ctx); err != nil {
		return nil, err
	}
	if err := l.Nodes[0].StartServer(ctx); err != nil {
		return nil, err
	}
	token, err := l.Mote(ctx, 0, "token", "create")
	if err != nil {
		return nil, err
	}
	for _, n := range l.ours()[1:] {
		if err := n.StartAgent(ctx, strings.TrimSpace(token)); err != nil {
			return nil, err
		}
	}
	for _, n := range l.ours() {
		if n.index == 0 && cfg.NoNode {
			continue
		}
		if err := l.registered(ctx, n); err != nil {
			return nil, fmt.Errorf("%w; the end of its log:\n%s", err, n.logTail())
		}
		if _, err := l.Kubectl(ctx, "wait", "--for=condition=Ready", "node/"+n.Name, "--timeout=60s"); err != nil {
			return nil, fmt.Errorf("%w; the end of its log:\n%s", err, n.logTail())
		}
	}
	return l, nil
}

// registered waits until the API has the node. It polls: `kubectl wait --for=create` is younger than Debian 12's kubectl.
func (l *Lab) registered(ctx context.Context, n *Node) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		_, err := l.Kubectl(ctx, "get", "node", n.Name)
		if err == nil || !n.Running() || time.Now().After(deadline) {
			return err
		}
	}
}

// Attach describes a lab without starting anything, for one that another process started.
func Attach(cfg Config) *Lab {
	l := &Lab{cfg: cfg}
	for i := 0; i <= cfg.Workers+cfg.Bare; i++ {
		l.Nodes = append(l.Nodes, &Node{lab: l, index: i, Name: fmt.Sprintf("n%d", i), IP: fmt.Sprintf("%s.%d", cfg.Subnet, 10+i)})
	}
	return l
}

// ours are the machines that Up starts something on.
func (l *Lab) ours() []*Node { return l.Nodes[:1+l.cfg.Workers] }

func (l *Lab) netns(part string) string { return l.cfg.Name + "-" + part }

// Switch is the network namespace from which all nodes are reached.
func (l *Lab) Switch() string { return "/run/netns/" + l.netns("sw") }

// Kubeconfig is the administrator's.
func (l *Lab) Kubeconfig() string {
	return filepath.Join(l.Nodes[0].Dir(), "etc", "outside.kubeconfig")
}

func (l *Lab) network(ctx context.Context) error {
	sw := l.netns("sw")
	ns := filepath.Join(l.cfg.Dir, "ns")
	if err := os.MkdirAll(ns, 0o755); err != nil {
		return err
	}
	steps := [][]string{
		// Mount namespaces are pinned by files, which needs a private mount to live on.
		{"mount", "--bind", ns, ns},
		{"mount", "--make-private", ns},
		{"ip", "netns", "add", sw},
		{"ip", "-n", sw, "link", "set", "lo", "up"},
		{"ip", "-n", sw, "link", "add", "br0", "type", "bridge"},
		{"ip", "-n", sw, "addr", "add", l.cfg.Subnet + ".1/24", "dev", "br0"},
		{"ip", "-n", sw, "link", "set", "br0", "up"},
	}
	for _, n := range l.Nodes {
		node, port := l.netns(n.Name), "p-"+n.Name
		steps = append(steps, [][]string{
			{"ip", "netns", "add", node},
			{"ip", "-n", node, "link", "set", "lo", "up"},
			{"ip", "-n", sw, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", node},
			{"ip", "-n", sw, "link", "set", port, "master", "br0", "up"},
			{"ip", "-n", node, "addr", "add", n.IP + "/24", "dev", "eth0"},
			{"ip", "-n", node, "link", "set", "eth0", "up"},
			{"ip", "-n", node, "route", "add", "default", "via", l.cfg.Subnet + ".1"},
			{"touch", n.mountNS()},
		}...)
	}
	for _, s := range steps {
		if _, err := run(ctx, s[0], s[1:]...); err != nil {
			return err
		}
	}
	for _, n := range l.Nodes {
		if err := n.pinMounts(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pinMounts makes the node's mount namespace. A namespace can be pinned only in an older one, and since Linux 6.18 age goes by
// numbers that each CPU hands out in lots of its own: where our own namespace isn't the machine's, some CPUs make none that
// counts as younger. The one that made ours does.
func (n *Node) pinMounts(ctx context.Context) error {
	args := []string{"unshare", "--mount=" + n.mountNS(), "--propagation", "slave", "mount", "--make-rshared", "/"}
	_, err := run(ctx, args[0], args[1:]...)
	for cpu := 0; err != nil && strings.Contains(err.Error(), "Invalid argument") && cpu < runtime.NumCPU(); cpu++ {
		_, err = run(ctx, "taskset", append([]string{"-c", strconv.Itoa(cpu)}, args...)...)
	}
	return err
}

// Down ends every process of the lab and removes all that Up made. It works on the remains of a lab, too.
func (l *Lab) Down(ctx context.Context) error {
	var errs []error
	for _, n := range l.Nodes {
		errs = append(errs, n.remove(ctx))
	}
	for _, part := range append([]string{"sw"}, nodeNames(l.Nodes)...) {
		if _, err := os.Stat("/run/netns/" + l.netns(part)); err == nil {
			_, err := run(ctx, "ip", "netns", "del", l.netns(part))
			errs = append(errs, err)
		}
	}
	ns := filepath.Join(l.cfg.Dir, "ns")
	for syscall.Unmount(ns, syscall.MNT_DETACH) == nil { //nolint:revive // until nothing is mounted there
	}
	return errors.Join(errs...)
}

func nodeNames(nodes []*Node) (out []string) {
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return out
}

// Kubectl runs stock kubectl against the lab.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (string, error) {
	kubectl := os.Getenv("KUBECTL")
	if kubectl == "" {
		kubectl = "kubectl"
	}
	return run(ctx, "nsenter", append([]string{"--net=" + l.Switch(), kubectl, "--kubeconfig", l.Kubeconfig()}, args...)...)
}

// Mote runs the mote command on a node.
func (l *Lab) Mote(ctx context.Context, node int, args ...string) (string, error) {
	n := l.Nodes[node]
	return run(ctx, "nsenter", append(n.enter(), append([]string{filepath.Join(l.cfg.Bin, "mote")}, append(args, n.dirs()...)...)...)...)
}

// Command prepares a program that runs in the node's namespaces.
func (n *Node) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append(n.enter(), append([]string{program}, args...)...)...)
}

// Dir is the node's directory.
func (n *Node) Dir() string { return filepath.Join(n.lab.cfg.Dir, n.Name) }

func (n *Node) mountNS() string { return filepath.Join(n.lab.cfg.Dir, "ns", n.Name) }

// Cgroup is the node's cgroup root.
func (n *Node) Cgroup() string { return "/" + n.lab.cfg.Name + "-" + n.Name }

func (n *Node) enter() []string {
	return []string{"--net=/run/netns/" + n.lab.netns(n.Name), "--mount=" + n.mountNS(), "--"}
}

func (n *Node) dirs() []string {
	d := n.Dir()
	return []string{"--data-dir", filepath.Join(d, "data"), "--run-dir", filepath.Join(d, "run"), "--config-dir", filepath.Join(d, "etc")}
}

// kubeletConfig keeps a nearly full disk of the developer's machine out of the lab: its nodes would evict their pods and drop images.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%, imagefs.inodesFree: 1%}
`

func (n *Node) kubeletConfig() string { return filepath.Join(n.Dir(), "etc", "kubelet.yaml") }

func (n *Node) flags() []string {
	return append(append(n.dirs(), "--kubelet-config", n.kubeletConfig(), "--node-name", n.Name, "--node-ip", n.IP, "--cgroup-root", n.Cgroup(), "--pod-log-dir", filepath.Join(n.Dir(), "log", "pods")), n.lab.cfg.Args...)
}

// Log is the file that the node's server or agent writes to.
func (n *Node) Log() string { return filepath.Join(n.Dir(), "node.log") }

func (n *Node) logTail() string {
	data, err := os.ReadFile(n.Log())
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-3000):])
}

// Pid is the process of the node's server or agent, 0 if none was started here.
func (n *Node) Pid() int {
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// start runs a program in the node's namespaces, in a session of its own so that it outlives this process.
func (n *Node) start(program string, args ...string) error {
	images := filepath.Join(n.Dir(), "data", "images")
	for _, d := range []string{images, filepath.Join(n.Dir(), "run"), filepath.Join(n.Dir(), "etc"), filepath.Join(n.Dir(), "log")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, archive := range n.lab.cfg.Images {
		if err := os.Symlink(archive, filepath.Join(images, filepath.Base(archive))); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := os.WriteFile(n.kubeletConfig(), []byte(kubeletConfig), 0o644); err != nil {
		return err
	}
	log, err := os.OpenFile(n.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("nsenter", append(n.enter(), append([]string{filepath.Join(n.lab.cfg.Bin, program)}, args...)...)...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, os.Environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.cmd, n.done = cmd, make(chan struct{})
	go func() { _ = cmd.Wait(); close(n.done) }()
	return os.WriteFile(filepath.Join(n.Dir(), "pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
}

// StartServer starts the control plane and its node, and waits until the API answers.
func (n *Node) StartServer(ctx context.Context) error {
	args := append([]string{"server", "--advertise-address", n.IP}, n.flags()...)
	if n.lab.cfg.NoNode {
		args = append(args, "--disable-agent")
	}
	if err := n.start("mote", args...); err != nil {
		return err
	}
	admin := filepath.Join(n.Dir(), "etc", "admin.kubeconfig")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) { // another process: there is no event to wait for
		data, err := os.ReadFile(admin)
		if err == nil {
			outside := strings.ReplaceAll(string(data), "https://127.0.0.1:", "https://"+n.IP+":")
			if err := os.WriteFile(n.lab.Kubeconfig(), []byte(outside), 0o600); err != nil {
				return err
			}
			if _, err = n.lab.Kubectl(ctx, "get", "--raw", "/readyz"); err == nil {
				return nil
			}
		}
		if !n.Running() || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the server doesn't answer: %w; the end of its log:\n%s", err, n.logTail())
		}
	}
}

// StartAgent starts a worker; the token may be empty when the node has joined before.
func (n *Node) StartAgent(_ context.Context, token string) error {
	args := append([]string{"--server", "https://" + n.lab.Nodes[0].IP + ":6443"}, n.flags()...)
	if token != "" {
		args = append(args, "--token", token)
	}
	return n.start("mote-agent", args...)
}

// Running reports whether the process started last is still there.
func (n *Node) Running() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Kill sends a signal to the node's server or agent and waits for its end.
func (n *Node) Kill(sig syscall.Signal) error {
	if n.cmd == nil {
		return errors.New("nothing was started on this node")
	}
	if err := n.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-n.done
	return nil
}
