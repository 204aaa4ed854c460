package agent

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/mote-edge/mote/agent/evict"
)

// volumeStats says what pods' volumes hold. Directories are walked when somebody asks, and then not again for a while.
type volumeStats struct {
	a    *Agent
	p    *parts
	hold time.Duration

	mu   sync.Mutex
	last map[types.UID]walked
}

type walked struct {
	at   time.Time
	list []stats.VolumeStats
}

func (v *volumeStats) of(pod *corev1.Pod) []stats.VolumeStats {
	v.mu.Lock()
	defer v.mu.Unlock()
	if w, ok := v.last[pod.UID]; ok && time.Since(w.at) < v.hold {
		return w.list
	}
	for uid, w := range v.last {
		if time.Since(w.at) >= v.hold {
			delete(v.last, uid)
		}
	}
	w := walked{at: time.Now()}
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		if st, ok := v.a.mounted(pod, vol.Name); ok {
			w.list = append(w.list, v.one(pod, vol, st))
		}
	}
	if v.last == nil {
		v.last = map[types.UID]walked{}
	}
	v.last[pod.UID] = w
	return w.list
}

func (v *volumeStats) one(pod *corev1.Pod, vol *corev1.Volume, st unix.Statfs_t) stats.VolumeStats {
	size := uint64(st.Bsize)
	capacity, free, used := st.Blocks*size, st.Bavail*size, (st.Blocks-st.Bfree)*size
	inodes, inodesFree := st.Files, st.Ffree
	inodesUsed := inodes - inodesFree
	if vol.EmptyDir != nil && vol.EmptyDir.Medium == corev1.StorageMediumDefault { // a part of the node's file system
		d := evictable{v.a, v.p}.emptyDir(pod, vol.Name)
		used, inodesUsed = uint64(d.Bytes), uint64(d.Inodes)
	}
	out := stats.VolumeStats{Name: vol.Name, FsStats: stats.FsStats{
		Time: metav1.Now(), CapacityBytes: &capacity, AvailableBytes: &free, UsedBytes: &used, Inodes: &inodes, InodesFree: &inodesFree, InodesUsed: &inodesUsed,
	}}
	if c := vol.PersistentVolumeClaim; c != nil {
		out.PVCRef = &stats.PVCReference{Name: c.ClaimName, Namespace: pod.Namespace}
	}
	return out
}

// logs is the size of a container's log files.
func (v *volumeStats) logs(dir string) (bytes, inodes uint64) {
	b, i, err := evict.DiskUsage(dir)
	if err != nil {
		return 0, 0
	}
	return uint64(b), uint64(i)
}
