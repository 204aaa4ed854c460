// Package check compares what a node's kernel and disk hold with what the API says should be there, and names every
// difference: a process without a container, a mount, veth, address, rule, cgroup, namespace, record or file without an
// owner, and an owner that lacks one of them. Look collects, Compare judges.
//
// Reads:  /proc, cgroups, the node's directories, links and rules, the runtime's and the holder's sockets.
// Writes: nothing.
package check

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/runtime/stage"
)

// Sandbox is one that the runtime knows.
type Sandbox struct {
	ID, UID, IP string
	Ready       bool
	HostNetwork bool
}

// Container is one that the runtime knows.
type Container struct {
	ID, SandboxID, UID, Name string
	State                    string // created, running, exited
}

// State is what there is on a node, apart from what it should be.
type State struct {
	Sandboxes  []Sandbox
	Containers []Container

	Mounts      []string         // mount points below the node's directory
	Cgroups     []string         // below the node's root, each path once, over all hierarchies
	Processes   map[string][]int // by cgroup, likewise
	Strays      []string         // other processes in the node's namespaces: "pid name"
	Links       []string         // in the node's network namespace, without lo, the bridge and the uplink
	Pins        []string         // <run>/netns
	Attachments []string         // IDs that the CNI plugin keeps an attachment of
	Addresses   map[string]string
	Chains      []string // MOTE-HP-* of nat
	HostPorts   map[string]bool
	Kept        []string // keys of the holder

	Records   []string // <data>/runtime/state
	Snapshots []string
	RunDirs   map[string][]string // names in <run>/{ns,sandboxes,ctr,runc}
	Desired   []string            // UIDs in the checkpoint of the desired pods
	PodDirs   []string            // UIDs, of directories and of hosts files
	Volumes   []string            // UIDs in <run>/volumes
	LogDirs   []string            // namespace_name_uid
	LogLinks  map[string]string   // link → where it leads; "" when that is gone
	Temporary []string            // files that a write should have renamed or removed
	Sockets   []string            // in <run>
}

var containerID = regexp.MustCompile(`[0-9a-f]{64}`)

// podUID finds the pod in a path: as the cgroup's name has it, or a volume's.
var podUID = regexp.MustCompile(`[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32}`)

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// uidOf returns the pod's UID as the runtime has it: a static pod's is its manifest's hash.
func uidOf(p *corev1.Pod) string {
	if hash := p.Annotations["kubernetes.io/config.hash"]; hash != "" && p.Annotations[corev1.MirrorPodAnnotationKey] != "" {
		return hash
	}
	return string(p.UID)
}

// judge is one comparison.
type judge struct {
	State
	pods       map[string]*corev1.Pod
	sandboxes  map[string]Sandbox
	containers map[string]Container
	found      []string
}

func (j *judge) say(format string, args ...any) {
	j.found = append(j.found, fmt.Sprintf(format, args...))
}

// Compare returns what is there and belongs to no pod, and what a pod lacks, in words; nothing when all is well. pods are
// the API's pods of this node.
func Compare(s State, pods []corev1.Pod) []string {
	j := &judge{State: s, pods: map[string]*corev1.Pod{}, sandboxes: map[string]Sandbox{}, containers: map[string]Container{}}
	for i := range pods {
		j.pods[uidOf(&pods[i])] = &pods[i]
	}
	for _, sb := range s.Sandboxes {
		j.sandboxes[sb.ID] = sb
	}
	for _, c := range s.Containers {
		j.containers[c.ID] = c
	}
	j.runtime()
	j.network()
	j.cgroups()
	j.mounts()
	j.files()
	j.promised()
	slices.Sort(j.found)
	return j.found
}

// live tells whether a pod by this UID should have something running.
func (j *judge) live(uid string) bool {
	p := j.pods[uid]
	return p != nil && !ended(p)
}

// runtime: each sandbox and container has a pod, and a pod has one sandbox that is ready.
func (j *judge) runtime() {
	ready := map[string]int{}
	for _, sb := range j.Sandboxes {
		switch {
		case j.pods[sb.UID] == nil:
			j.say("sandbox %s of pod %s, which the API doesn't have", sb.ID, sb.UID)
		case sb.Ready && !j.live(sb.UID):
			j.say("sandbox %s is ready, but its pod %s has ended", sb.ID, sb.UID)
		case sb.Ready:
			ready[sb.UID]++
		}
	}
	for uid, n := range ready {
		if n > 1 {
			j.say("pod %s has %d sandboxes that are ready", uid, n)
		}
	}
	for _, c := range j.Containers {
		if j.pods[c.UID] == nil {
			j.say("container %s of pod %s, which the API doesn't have", c.ID, c.UID)
		} else if c.State == "running" && !j.live(c.UID) {
			j.say("container %s runs, but its pod %s has ended", c.ID, c.UID)
		}
	}
}

// network: a sandbox on the pod network that is ready has a namespace, a link, an attachment and an address; nothing else has.
func (j *judge) network() {
	want := map[string]bool{}
	for _, sb := range j.Sandboxes {
		if sb.Ready && !sb.HostNetwork {
			want[sb.ID] = true
			if !slices.Contains(j.Pins, sb.ID) {
				j.say("sandbox %s has no network namespace", sb.ID)
			}
			if !slices.Contains(j.Attachments, sb.ID) {
				j.say("sandbox %s has no attachment", sb.ID)
			}
			if j.Addresses[sb.IP] != sb.ID {
				j.say("address %s of sandbox %s is held by %q", sb.IP, sb.ID, j.Addresses[sb.IP])
			}
		}
	}
	for _, id := range j.Pins {
		if !want[id] {
			j.say("network namespace %s", id)
		}
	}
	for _, id := range j.Attachments {
		if !want[id] {
			j.say("network attachment of %s", id)
		}
	}
	for ip, id := range j.Addresses {
		if !want[id] {
			j.say("address %s is held by %q", ip, id)
		}
	}
	if len(j.Links) != len(want) {
		j.say("%d links for %d pods: %s", len(j.Links), len(want), strings.Join(j.Links, " "))
	}
	if len(j.Chains) != len(j.HostPorts) {
		j.say("%d chains of host ports for %d pods with some: %s", len(j.Chains), len(j.HostPorts), strings.Join(j.Chains, " "))
	}
}

// cgroups: those of pods that live and containers that run; processes are in these alone.
func (j *judge) cgroups() {
	for _, cg := range j.Cgroups {
		base := path.Base(cg)
		switch id := containerID.FindString(base); {
		case strings.HasSuffix(base, "-init"):
			if !j.sandboxes[id].Ready {
				j.say("cgroup %s of a pod's init", cg)
			}
		case id != "":
			if j.containers[id].State != "running" {
				j.say("cgroup %s of a container that is %q", cg, j.containers[id].State)
			}
		default:
			if uid := podUID.FindString(base); uid != "" && !j.live(strings.ReplaceAll(uid, "_", "-")) {
				j.say("cgroup %s of a pod that is gone", cg)
			}
		}
	}
	for cg, pids := range j.Processes {
		id := containerID.FindString(path.Base(cg))
		if j.containers[id].State != "running" && !j.sandboxes[id].Ready {
			j.say("processes %v in cgroup %s", pids, cg)
		}
	}
	for _, s := range j.Strays {
		j.say("process %s", s)
	}
}

// mounts: of containers that aren't over, sandboxes that are ready, pods that live.
func (j *judge) mounts() {
	for _, m := range j.Mounts {
		if m == "/run/volumes" || m == stage.Path("/run") { // the memory that volumes of all pods stand in; where the runtime runs
			continue
		}
		if ids := containerID.FindAllString(m, -1); len(ids) > 0 {
			ok := false
			for _, id := range ids {
				state := j.containers[id].State
				ok = ok || state == "running" || state == "created" || j.sandboxes[id].Ready
			}
			if !ok {
				j.say("mount %s", m)
			}
			continue
		}
		if uid := podUID.FindString(m); uid == "" || !j.live(uid) {
			j.say("mount %s", m)
		}
	}
}
