package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/hold"
	"github.com/mote-edge/mote/agent/runtime/stage"
	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/test/lab"
)

// Node says where a node's state lies.
type Node struct {
	Root      string // the directory that all of it is below; "/" on a machine of its own
	Dirs      layout.Dirs
	PodLogDir string
	Cgroup    string // its cgroup root
	Pid       int    // a process in its mount and network namespaces
	Bin       string // the directory of its programs
	Uplinks   []string
}

// Look collects a node's state. It changes nothing.
func Look(ctx context.Context, n Node) (State, error) {
	s := State{Processes: map[string][]int{}, Addresses: map[string]string{}, RunDirs: map[string][]string{}, LogLinks: map[string]string{}, HostPorts: map[string]bool{}}
	return s, errors.Join(n.runtime(ctx, &s), n.mounts(&s), n.cgroups(&s), n.strays(&s), n.links(&s), n.rules(ctx, &s), n.holder(&s), n.files(&s))
}

func (n Node) runtime(ctx context.Context, s *State) error {
	conn, err := grpc.NewClient("unix://"+n.Dirs.RuntimeSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	rt := cri.NewRuntimeServiceClient(conn)
	sandboxes, err := rt.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	for _, item := range sandboxes.GetItems() {
		st, err := rt.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: item.Id})
		if err != nil {
			return fmt.Errorf("status of sandbox %s: %w", item.Id, err)
		}
		s.Sandboxes = append(s.Sandboxes, Sandbox{
			ID: item.Id, UID: item.GetMetadata().GetUid(), IP: st.GetStatus().GetNetwork().GetIp(), Ready: item.State == cri.PodSandboxState_SANDBOX_READY,
			HostNetwork: st.GetStatus().GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE,
		})
	}
	containers, err := rt.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers.GetContainers() {
		state := map[cri.ContainerState]string{cri.ContainerState_CONTAINER_CREATED: "created", cri.ContainerState_CONTAINER_RUNNING: "running"}[c.State]
		if state == "" {
			state = "exited"
		}
		s.Containers = append(s.Containers, Container{
			ID: c.Id, SandboxID: c.PodSandboxId, UID: c.Labels["io.kubernetes.pod.uid"], Name: c.GetMetadata().GetName(), State: state,
		})
	}
	return nil
}

func (n Node) mounts(s *State) error {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.Pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		point := strings.Fields(line)[4]
		for _, dir := range []string{n.Dirs.Data, n.Dirs.Run} {
			if strings.HasPrefix(point, dir+"/") {
				s.Mounts = append(s.Mounts, strings.TrimPrefix(point, n.Root))
			}
		}
	}
	return nil
}

func (n Node) cgroups(s *State) error {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + n.Cgroup)
	for _, root := range append(roots, "/sys/fs/cgroup"+n.Cgroup) {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) { // it went while we looked
					return nil
				}
				return err
			}
			if !d.IsDir() {
				return nil
			}
			name := strings.TrimPrefix(path, root)
			if !strings.Contains(name, "kubepods") {
				return nil
			}
			if !slices.Contains(s.Cgroups, name) {
				s.Cgroups = append(s.Cgroups, name)
			}
			pids, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, word := range strings.Fields(string(pids)) {
				if pid, err := strconv.Atoi(word); err == nil && !slices.Contains(s.Processes[name], pid) {
					s.Processes[name] = append(s.Processes[name], pid)
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("cgroups: %w", err)
		}
	}
	return nil
}

// strays are processes in the node's own mount namespace that aren't its programs: a plugin that hangs, an init that was
// cut off, a helper that nobody waits for.
func (n Node) strays(s *State) error {
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", n.Pid))
	if err != nil {
		return err
	}
	if own, _ := os.Readlink("/proc/self/ns/mnt"); own == want {
		return nil // a machine of its own: everything is in it
	}
	count := map[string]int{}
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range entries {
		if ns, err := os.Readlink(dir + "/ns/mnt"); err != nil || ns != want {
			continue
		}
		exe, _ := os.Readlink(dir + "/exe")
		name := filepath.Base(exe)
		if exe == stage.Path(n.Dirs.Run) || filepath.Dir(exe) == n.Bin && (name == "mote" || name == "mote-agent" || name == "mote-runtime" || name == "mote-hold") {
			if count[name]++; count[name] == 1 {
				continue
			}
		}
		state := ""
		if raw, err := os.ReadFile(dir + "/stat"); err == nil {
			state = strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))[0]
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		s.Strays = append(s.Strays, fmt.Sprintf("%s %s (%s) %s", filepath.Base(dir), exe, state, strings.ReplaceAll(string(line), "\x00", " ")))
	}
	return nil
}

func (n Node) links(s *State) error {
	return lab.Enter(fmt.Sprintf("/proc/%d/ns/net", n.Pid), func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			if l.Name != "lo" && l.Name != "mote0" && !slices.Contains(n.Uplinks, l.Name) {
				s.Links = append(s.Links, l.Name)
			}
		}
		return err
	})
}

func (n Node) rules(ctx context.Context, s *State) error {
	out, err := exec.CommandContext(ctx, "nsenter", "-t", strconv.Itoa(n.Pid), "-n", "iptables-save", "-t", "nat").Output()
	if err != nil {
		return fmt.Errorf("iptables-save: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.Fields(line + " .")[0], ":"); ok && strings.HasPrefix(name, "MOTE-HP-") {
			s.Chains = append(s.Chains, name)
		}
	}
	return nil
}

func (n Node) holder(s *State) error {
	c, err := hold.Dial(n.Dirs.HoldSocket())
	if err != nil {
		return err
	}
	defer c.Close()
	s.Kept, err = c.Keys()
	return err
}
