package evict

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Disk is what some files take.
type Disk struct{ Bytes, Inodes int64 }

func (d Disk) plus(e Disk) Disk { return Disk{d.Bytes + e.Bytes, d.Inodes + e.Inodes} }

// Usage is what a running pod uses.
type Usage struct {
	Memory, PIDs int64 // working set in bytes; processes
	Containers   map[string]ContainerUsage
	Volumes      map[string]Disk // emptyDirs that are on disk
	Other        Disk            // what else lies on the node for it
}

// ContainerUsage is what one container uses.
type ContainerUsage struct {
	Memory       int64
	Logs, Rootfs Disk // rootfs: the writable layer
}

// on is what a pod uses of the file system that a signal is about. With an image file system of their own, writable
// layers are there, and nothing else is.
func (u Usage) on(s Signal, ownImageFs bool) Disk {
	var d Disk
	images := s == ImageFsAvailable || s == ImageFsInodesFree
	for _, c := range u.Containers {
		if images || !ownImageFs {
			d = d.plus(c.Rootfs)
		}
		if !images || !ownImageFs {
			d = d.plus(c.Logs)
		}
	}
	if images && ownImageFs {
		return d
	}
	for _, v := range u.Volumes {
		d = d.plus(v)
	}
	return d.plus(u.Other)
}

// Candidate is a running pod, and what it uses.
type Candidate struct {
	Pod *corev1.Pod
	Usage
}

// message is why a pod is evicted, in the words that people search for.
func message(c Candidate, t Threshold, l Level) string {
	what := t.Signal.Resource()
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %s. Threshold quantity: %s, available: %s. ", what, quantity(t.Left.Of(l.Capacity)), quantity(l.Available))
	if what != corev1.ResourceMemory && what != corev1.ResourceEphemeralStorage {
		return b.String()
	}
	for i := range c.Pod.Spec.Containers {
		k := &c.Pod.Spec.Containers[i]
		asked, u := k.Resources.Requests[what], c.Containers[k.Name]
		used := u.Memory
		if what == corev1.ResourceEphemeralStorage {
			used = u.Rootfs.Bytes + u.Logs.Bytes
		}
		if used > asked.Value() {
			fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %s. ", k.Name, quantity(used), asked.String(), what)
		}
	}
	return b.String()
}

func quantity(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }

// limited tells whether a pod's own files are bounded.
func limited(pod *corev1.Pod) bool {
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	if q := limits[corev1.ResourceEphemeralStorage]; q.Sign() > 0 {
		return true
	}
	for i := range pod.Spec.Volumes {
		if bound(&pod.Spec.Volumes[i]) > 0 {
			return true
		}
	}
	return false
}

// bound is how much an emptyDir on disk may hold; 0: as much as there is. In memory, the kernel enforces it.
func bound(v *corev1.Volume) int64 {
	if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault {
		return 0
	}
	return v.EmptyDir.SizeLimit.Value()
}

// exceeded says which of its own bounds a pod has crossed, in upstream's words and order, and for metrics which kind it is;
// "" if none. room is how much more it may write before it could have.
func exceeded(c Candidate, ownImageFs bool) (message, kind string, room int64) {
	room = 1<<63 - 1
	for i := range c.Pod.Spec.Volumes {
		v := &c.Pod.Spec.Volumes[i]
		if most := bound(v); most > 0 {
			if c.Volumes[v.Name].Bytes > most {
				return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String()), "emptydirfs.limit", 0
			}
			room = min(room, most-c.Volumes[v.Name].Bytes)
		}
	}
	limits := resourcehelper.PodLimits(c.Pod, resourcehelper.PodResourcesOptions{})
	if q, ok := limits[corev1.ResourceEphemeralStorage]; ok {
		all := c.on(NodeFsAvailable, ownImageFs).Bytes
		if ownImageFs {
			all += c.on(ImageFsAvailable, true).Bytes
		}
		if all > q.Value() {
			return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", q.String()), "ephemeralpodfs.limit", 0
		}
		room = min(room, q.Value()-all)
	}
	for _, list := range [][]corev1.Container{c.Pod.Spec.Containers, c.Pod.Spec.InitContainers} {
		for i := range list {
			most := list[i].Resources.Limits.StorageEphemeral()
			u := c.Containers[list[i].Name]
			used := u.Logs.Bytes
			if !ownImageFs {
				used += u.Rootfs.Bytes
			}
			if most.Value() > 0 && used > most.Value() {
				return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", list[i].Name, most.String()), "ephemeralcontainerfs.limit", 0
			}
			if most.Value() > 0 {
				room = min(room, most.Value()-used)
			}
		}
	}
	return "", "", room
}
