package check

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	uid = "11111111-2222-3333-4444-555555555555"
	old = "99999999-2222-3333-4444-555555555555"
)

var (
	sandboxID = strings.Repeat("a", 64)
	ctrID     = strings.Repeat("c", 64)
	strangeID = strings.Repeat("e", 64)
)

func running() corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: types.UID(uid)},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.42.0.5",
			ContainerStatuses: []corev1.ContainerStatus{{Name: "c", ContainerID: "mote://" + ctrID, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		},
	}
}

// well is the state of a node with just that pod.
func well() State {
	pod := "/kubepods/besteffort/pod" + uid
	return State{
		Sandboxes:   []Sandbox{{ID: sandboxID, UID: uid, IP: "10.42.0.5", Ready: true}},
		Containers:  []Container{{ID: ctrID, SandboxID: sandboxID, UID: uid, Name: "c", State: "running"}},
		Mounts:      []string{"/run/volumes", "/run/netns/" + sandboxID, "/data/runtime/snapshots/" + ctrID + "/rootfs", "/data/agent/pods/" + uid + "/volumes/x"},
		Cgroups:     []string{"/kubepods", "/kubepods/besteffort", pod, pod + "/" + ctrID},
		Processes:   map[string][]int{pod + "/" + ctrID: {7}},
		Links:       []string{"mote1"},
		Pins:        []string{sandboxID},
		Attachments: []string{sandboxID},
		Addresses:   map[string]string{"10.42.0.5": sandboxID},
		Kept:        []string{ctrID},
		Records:     []string{"s-" + sandboxID, "c-" + ctrID, "p-" + ctrID},
		Snapshots:   []string{ctrID},
		RunDirs:     map[string][]string{"ctr": {ctrID}, "sandboxes": {sandboxID}},
		Desired:     []string{uid}, PodDirs: []string{uid}, LogDirs: []string{"default_p_" + uid},
		LogLinks: map[string]string{"p_default_c-" + ctrID + ".log": "/log/0.log"},
		Sockets:  []string{"hold.sock", "runtime.sock"},
	}
}

// Each thing that can be left over or missing is found, and named.
func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*State)
		want   string // part of the only finding; empty: none
	}{
		"well":                {func(*State) {}, ""},
		"a sandbox of no pod": {func(s *State) { s.Sandboxes = append(s.Sandboxes, Sandbox{ID: strangeID, UID: old}) }, "sandbox " + strangeID},
		"a container of no pod": {func(s *State) {
			s.Containers = append(s.Containers, Container{ID: strangeID, UID: old, State: "exited"})
		}, "container " + strangeID},
		"a namespace":              {func(s *State) { s.Pins = append(s.Pins, strangeID) }, "network namespace " + strangeID},
		"an attachment":            {func(s *State) { s.Attachments = append(s.Attachments, strangeID) }, "attachment of " + strangeID},
		"an address":               {func(s *State) { s.Addresses["10.42.0.9"] = strangeID }, "address 10.42.0.9"},
		"a link":                   {func(s *State) { s.Links = append(s.Links, "mote2") }, "2 links for 1 pods"},
		"a chain of host ports":    {func(s *State) { s.Chains = []string{"MOTE-HP-X"} }, "MOTE-HP-X"},
		"a mount of a container":   {func(s *State) { s.Mounts = append(s.Mounts, "/data/runtime/snapshots/"+strangeID+"/rootfs") }, "mount /data/runtime/snapshots/" + strangeID},
		"a mount of a pod":         {func(s *State) { s.Mounts = append(s.Mounts, "/data/agent/pods/"+old+"/volumes/x") }, "mount /data/agent/pods/" + old},
		"any other mount":          {func(s *State) { s.Mounts = append(s.Mounts, "/data/x") }, "mount /data/x"},
		"a pod's cgroup":           {func(s *State) { s.Cgroups = append(s.Cgroups, "/kubepods/pod"+old) }, "cgroup /kubepods/pod" + old},
		"a container's cgroup":     {func(s *State) { s.Cgroups = append(s.Cgroups, "/kubepods/pod"+uid+"/"+strangeID) }, strangeID},
		"a process":                {func(s *State) { s.Processes["/kubepods/pod"+uid+"/"+strangeID] = []int{9} }, "processes [9]"},
		"a stray":                  {func(s *State) { s.Strays = []string{"9 runc"} }, "process 9 runc"},
		"kept streams":             {func(s *State) { s.Kept = append(s.Kept, strangeID) }, "keeps streams of " + strangeID},
		"no kept streams":          {func(s *State) { s.Kept = nil }, "doesn't keep its streams"},
		"a record":                 {func(s *State) { s.Records = append(s.Records, "c-"+strangeID) }, "record c-" + strangeID},
		"half a record":            {func(s *State) { s.Records = append(s.Records, "c-.tmp") }, "record c-.tmp"},
		"a snapshot":               {func(s *State) { s.Snapshots = append(s.Snapshots, strangeID) }, "snapshot " + strangeID},
		"a run directory":          {func(s *State) { s.RunDirs["runc"] = []string{strangeID} }, "runc/" + strangeID},
		"a desired pod":            {func(s *State) { s.Desired = append(s.Desired, old) }, "desired pod " + old},
		"a pod's directory":        {func(s *State) { s.PodDirs = append(s.PodDirs, old) }, "pod directory " + old},
		"a log directory":          {func(s *State) { s.LogDirs = append(s.LogDirs, "default_q_"+old) }, "log directory default_q_" + old},
		"a link to no log":         {func(s *State) { s.LogLinks["q.log"] = "" }, "link q.log"},
		"no link to a log":         {func(s *State) { s.LogLinks = nil }, "no link p_default_c-"},
		"a temporary file":         {func(s *State) { s.Temporary = []string{"x.tmp"} }, "temporary file x.tmp"},
		"a socket":                 {func(s *State) { s.Sockets = append(s.Sockets, "x.sock") }, "socket x.sock"},
		"a container without life": {func(s *State) { s.Processes = map[string][]int{} }, "has no process"},
		"a second sandbox": {func(s *State) {
			s.Sandboxes = append(s.Sandboxes, Sandbox{ID: strangeID, UID: uid, Ready: true, HostNetwork: true})
		}, "2 sandboxes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := well()
			c.change(&s)
			found := Compare(s, []corev1.Pod{running()})
			if c.want == "" && len(found) > 0 || c.want != "" && (len(found) != 1 || !strings.Contains(found[0], c.want)) {
				t.Errorf("%q, want %q", found, c.want)
			}
		})
	}
}

// A pod that has ended holds records and logs, and nothing else.
func TestCompareEnded(t *testing.T) {
	p := running()
	p.Status.Phase = corev1.PodSucceeded
	found := Compare(well(), []corev1.Pod{p})
	for _, want := range []string{"sandbox", "container", "mount", "cgroup"} {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, want) }) {
			t.Errorf("nothing said of the %s of a pod that has ended: %q", want, found)
		}
	}
	if slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, "record") || strings.HasPrefix(f, "log") }) {
		t.Errorf("records and logs stay: %q", found)
	}
}
