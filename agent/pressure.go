package agent

import (
	"path"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/evict"
	"github.com/mote-edge/mote/agent/podworker"
)

// evictor watches what all pods share. The node's status loop asks it how things are.
func (a *Agent) evictor(p *parts) *evict.Evictor {
	return evict.New(evict.Config{
		Dir: a.cfg.Dirs.Data, Floor: evict.DefaultFloor(), Log: a.cfg.Log,
		Pods: func(s evict.Signal) []evict.Candidate { return a.candidates(p, s) },
		End: func(uid types.UID, reason, message string, grace time.Duration) bool {
			for _, pod := range p.pods.Pods() {
				if pod.UID == uid {
					p.events.Pod(pod, "", "Warning", reason, message)
				}
			}
			return p.pods.End(uid, podworker.Verdict{Reason: reason, Message: message}, grace)
		},
	})
}

// candidates are the running pods, with what they use of what is short.
func (a *Agent) candidates(p *parts, s evict.Signal) []evict.Candidate {
	if p.pods == nil {
		return nil // the node registers before there are pods
	}
	var out []evict.Candidate
	for _, pod := range p.pods.Pods() {
		observed := p.pods.Cache().Get(pod.UID)
		if !observed.Running() {
			continue
		}
		c := evict.Candidate{Pod: pod, Containers: map[string]int64{}}
		switch s {
		case evict.Memory, evict.PIDs:
			at := p.cgroups.PodPath(pod)
			if u, err := p.cgroups.Usage(at); err == nil {
				c.Memory, c.PIDs = int64(u.WorkingSet), int64(u.PIDs)
			}
			for _, k := range observed.Containers {
				if u, err := p.cgroups.Usage(path.Join(at, k.ID)); err == nil && k.State == cri.Running {
					c.Containers[k.Name] = int64(u.WorkingSet)
				}
			}
		case evict.Disk, evict.Inodes:
			for _, dir := range []string{
				filepath.Join(a.cfg.Dirs.Agent(), "pods", string(pod.UID), "volumes"),
				filepath.Join(a.cfg.PodLogDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID)),
			} {
				bytes, inodes, err := evict.DiskUsage(dir)
				if err != nil {
					a.cfg.Log.Warn("disk usage of a pod isn't known in full", "pod", pod.Namespace+"/"+pod.Name, "error", err)
				}
				c.Disk, c.Inodes = c.Disk+bytes, c.Inodes+inodes
			}
		}
		out = append(out, c)
	}
	return out
}
