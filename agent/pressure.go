package agent

import (
	"context"
	"errors"
	"path"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/evict"
	"github.com/mote-edge/mote/agent/podworker"
)

// evictor watches what all pods share.
func (a *Agent) evictor(p *parts) (*evict.Evictor, error) {
	k := &a.cfg.Kubelet
	thresholds, err := evict.Thresholds(k.Eviction())
	if err != nil {
		return nil, err
	}
	cfg := evict.Config{
		NodeDir: a.cfg.Dirs.Agent(), ImageDir: a.imageDir(p), Thresholds: thresholds, MaxGrace: time.Duration(k.EvictionMaxGrace) * time.Second,
		Hold: k.EvictionPressureTransitionPeriod.Duration, Limits: k.LocalStorageCapacityIsolation, Pods: evictable{a, p}, Changed: p.node.Poke,
		Event: a.nodeEvent(p), Memory: p.cgroups.MemoryMount(), Log: a.cfg.Log,
		Reclaim: func(ctx context.Context) error {
			return errors.Join(removeOld(ctx, p), p.images.DeleteUnused(ctx, time.Now()))
		},
	}
	if enforced, _ := a.reservations(); len(enforced(nil)) > 0 {
		// Pods are bounded as a whole: what they have left of that counts like what the machine has left.
		for _, t := range thresholds {
			if t.Signal == evict.MemoryAvailable && t.Grace == 0 {
				t.Signal = evict.AllocatableMemory
				cfg.Thresholds = append(cfg.Thresholds, t)
			}
		}
		cfg.PodsMemory = func() (limit, used int64) {
			u, err := p.cgroups.Usage(p.cgroups.Root())
			if err != nil || u.Limit > 1<<62 {
				return 0, 0
			}
			return int64(u.Limit), int64(u.WorkingSet)
		}
	}
	return evict.New(cfg), nil
}

// imageDir is a directory on the file system of the runtime's images.
func (a *Agent) imageDir(p *parts) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if r, err := p.cri.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); err == nil && len(r.ImageFilesystems) > 0 {
		if dir := r.ImageFilesystems[0].GetFsId().GetMountpoint(); filepath.IsAbs(dir) {
			return dir
		}
	}
	return a.cfg.Dirs.Data
}

// removeOld removes containers that neither run nor are the last attempt of theirs: nobody asks for their logs.
func removeOld(ctx context.Context, p *parts) error {
	var errs []error
	for _, pod := range p.pods.Cache().All() {
		for _, c := range pod.Containers {
			if c.State == cri.Exited && pod.Latest(c.Name) != c {
				_, err := p.cri.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.ID})
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// evictable is the node's pods as the evictor sees them.
type evictable struct {
	*Agent
	p *parts
}

var _ evict.Pods = evictable{}

// Active implements evict.Pods.
func (e evictable) Active() []*corev1.Pod {
	var out []*corev1.Pod
	for _, pod := range e.p.pods.Pods() {
		observed := e.p.pods.Cache().Get(pod.UID)
		if observed.Running() {
			out = append(out, pod)
		}
	}
	return out
}

// Usage implements evict.Pods.
func (e evictable) Usage(ctx context.Context, pod *corev1.Pod, disk bool) evict.Usage {
	u := evict.Usage{Containers: map[string]evict.ContainerUsage{}, Volumes: map[string]evict.Disk{}}
	observed := e.p.pods.Cache().Get(pod.UID)
	at := e.p.cgroups.PodPath(pod)
	if g, err := e.p.cgroups.Usage(at); err == nil {
		u.Memory, u.PIDs = int64(g.WorkingSet), int64(g.PIDs)
	}
	for _, c := range observed.Containers {
		k := u.Containers[c.Name]
		if g, err := e.p.cgroups.Usage(path.Join(at, c.ID)); err == nil && c.State == cri.Running {
			k.Memory = int64(g.WorkingSet)
		}
		if disk && observed.Latest(c.Name) == c {
			k.Rootfs = e.writable(ctx, c.ID)
			k.Logs = e.tree(pod, filepath.Dir(c.LogPath))
		}
		u.Containers[c.Name] = k
	}
	if !disk {
		return u
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
			u.Volumes[v.Name] = e.emptyDir(pod, v.Name)
		}
	}
	return u
}

// writable is the size of a container's writable layer, as the runtime says it.
func (e evictable) writable(ctx context.Context, id string) evict.Disk {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := e.p.cri.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		return evict.Disk{} // it has just gone
	}
	w := r.GetStats().GetWritableLayer()
	return evict.Disk{Bytes: int64(w.GetUsedBytes().GetValue()), Inodes: int64(w.GetInodesUsed().GetValue())}
}

func (e evictable) emptyDir(pod *corev1.Pod, name string) evict.Disk {
	return e.tree(pod, filepath.Join(e.cfg.Dirs.Agent(), "pods", string(pod.UID), "volumes", "kubernetes.io~empty-dir", name))
}

func (e evictable) tree(pod *corev1.Pod, dir string) evict.Disk {
	if !filepath.IsAbs(dir) {
		return evict.Disk{}
	}
	bytes, inodes, err := evict.DiskUsage(dir)
	if err != nil {
		e.cfg.Log.Warn("disk usage of a pod isn't known in full", "pod", pod.Namespace+"/"+pod.Name, "error", err)
	}
	return evict.Disk{Bytes: bytes, Inodes: inodes}
}

// End implements evict.Pods.
func (e evictable) End(pod *corev1.Pod, message string, disruption bool, grace time.Duration) bool {
	e.p.events.Pod(pod, "", corev1.EventTypeWarning, "Evicted", message)
	return e.p.pods.End(pod.UID, podworker.Verdict{Reason: "Evicted", Message: message, Disruption: disruption}, grace)
}
