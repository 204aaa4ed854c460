package check

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// sockets are those that a node may have in its run directory.
var sockets = []string{"hold.sock", "runtime.sock", "runtime-admin.sock", "kubelet.sock"}

// files: records, directories and links have an owner; nothing temporary is left.
func (j *judge) files() {
	known := func(id string) bool {
		_, c := j.containers[id]
		_, s := j.sandboxes[id]
		return c || s
	}
	for _, name := range j.Records {
		if id := containerID.FindString(name); id == "" || !known(id) {
			j.say("record %s", name)
		}
	}
	for _, id := range j.Snapshots {
		if _, ok := j.containers[id]; !ok {
			j.say("snapshot %s", id)
		}
	}
	for dir, names := range j.RunDirs {
		for _, name := range names {
			id := containerID.FindString(name)
			state := j.containers[id].State
			if !j.sandboxes[id].Ready && state != "running" && state != "created" {
				j.say("%s/%s", dir, name)
			}
		}
	}
	for _, id := range j.Kept {
		if j.containers[containerID.FindString(id)].State != "running" {
			j.say("the holder keeps streams of %s", id)
		}
	}
	for what, uids := range map[string][]string{"desired pod": j.Desired, "pod directory": j.PodDirs, "volumes": j.Volumes} {
		for _, uid := range uids {
			if j.pods[uid] == nil {
				j.say("%s %s", what, uid)
			}
		}
	}
	for _, dir := range j.LogDirs {
		if j.pods[dir[strings.LastIndexByte(dir, '_')+1:]] == nil {
			j.say("log directory %s", dir)
		}
	}
	for link, to := range j.LogLinks {
		if to == "" {
			j.say("link %s leads to no log", link)
		}
	}
	for _, f := range j.Temporary {
		j.say("temporary file %s", f)
	}
	for _, s := range j.Sockets {
		if !slices.Contains(sockets, s) {
			j.say("socket %s", s)
		}
	}
}

// promised: what the API says of a pod is so.
func (j *judge) promised() {
	for _, p := range j.pods {
		if ended(p) {
			continue
		}
		for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
			for _, st := range list {
				if st.State.Running == nil {
					continue
				}
				id := containerID.FindString(st.ContainerID)
				c := j.containers[id]
				if c.State != "running" {
					j.say("container %s of pod %s runs, says the API; the runtime has it %q", st.Name, p.Name, c.State)
					continue
				}
				if !j.sandboxes[c.SandboxID].Ready {
					j.say("container %s of pod %s is in a sandbox that is dead", st.Name, p.Name)
				}
				if link := fmt.Sprintf("%s_%s_%s-%s.log", p.Name, p.Namespace, st.Name, id); j.LogLinks[link] == "" {
					j.say("no link %s to a log", link)
				}
				if !slices.Contains(j.Kept, id) {
					j.say("container %s of pod %s: the holder doesn't keep its streams", st.Name, p.Name)
				}
				found := false
				for cg := range j.Processes {
					found = found || strings.Contains(cg, id)
				}
				if !found {
					j.say("container %s of pod %s has no process", st.Name, p.Name)
				}
			}
		}
		if p.Status.PodIP != "" && !p.Spec.HostNetwork {
			ok := false
			for _, sb := range j.Sandboxes {
				ok = ok || sb.UID == uidOf(p) && sb.Ready && sb.IP == p.Status.PodIP
			}
			if !ok {
				j.say("pod %s has no sandbox with its address %s", p.Name, p.Status.PodIP)
			}
		}
	}
}
