package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// localUse is which of the node's pods use a local volume. Its lock is held while the volume's files change hands.
type localUse struct {
	mu    sync.Mutex
	users map[types.UID]bool
}

// mountLocal hands a directory or a block device of the node to a pod. Files are given to the pod's fsGroup unless other
// pods use them already: they wouldn't be asked.
func (v *Volumes) mountLocal(ctx context.Context, pod *corev1.Pod, name string, pv *corev1.PersistentVolume, readOnly bool) (mounted, error) {
	path := pv.Spec.Local.Path
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return mounted{}, fmt.Errorf("local volume %s: %w", pv.Name, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return mounted{}, fmt.Errorf("local volume %s: %w", pv.Name, err)
	}
	isDisk := info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
	if isBlock(pv.Spec.VolumeMode) {
		if !isDisk {
			return mounted{}, fmt.Errorf("local volume %s has volumeMode Block, but %s is not a block device", pv.Name, path)
		}
		return mounted{device: real}, nil
	}
	use := v.use(pv.Name)
	use.mu.Lock()
	defer use.mu.Unlock()
	delete(use.users, pod.UID)
	shared := len(use.users) > 0
	use.users[pod.UID] = true
	// A directory is handed to the runtime as it is: a bind mount of ours between them would only be one more thing to lose
	// track of, with the user's data behind it. It may be a link; the files behind it are what belongs to the pod.
	out := mounted{path: path, relabel: true}
	switch {
	case isDisk:
		out.path = v.dir(pod, "local-volume", name)
		d := disk{device: real, options: pv.Spec.MountOptions, readOnly: readOnly}
		if pv.Spec.Local.FSType != nil {
			d.fsType = *pv.Spec.Local.FSType
		}
		if err := mountDisk(ctx, d, out.path, shared); err != nil {
			return mounted{}, fmt.Errorf("local volume %s: %w", pv.Name, err)
		}
		real = out.path
	case !info.IsDir():
		return mounted{}, fmt.Errorf("local volume %s: %s is neither a directory nor a block device", pv.Name, path)
	}
	sc := pod.Spec.SecurityContext
	switch {
	case sc == nil || sc.FSGroup == nil:
	case shared:
		if info, err = os.Stat(real); err != nil {
			return mounted{}, fmt.Errorf("local volume %s: %w", pv.Name, err)
		}
		if has := groupOf(info); int64(has) != *sc.FSGroup && v.cfg.Warn != nil {
			v.cfg.Warn(pod, "AlreadyMountedVolume", fmt.Sprintf("The requested fsGroup is %d, but the volume %s has GID %d. The volume may not be shareable.", *sc.FSGroup, pv.Name, has))
		}
	case !readOnly:
		return out, applyFSGroup(pod, real)
	}
	return out, nil
}

func isBlock(mode *corev1.PersistentVolumeMode) bool {
	return mode != nil && *mode == corev1.PersistentVolumeBlock
}

func (v *Volumes) use(volume string) *localUse {
	v.mu.Lock()
	defer v.mu.Unlock()
	use := v.local[volume]
	if use == nil {
		use = &localUse{users: map[types.UID]bool{}}
		v.local[volume] = use
	}
	return use
}

// leaveLocal forgets a pod that is gone.
func (v *Volumes) leaveLocal(uid types.UID) {
	v.mu.Lock()
	uses := make([]*localUse, 0, len(v.local))
	for _, use := range v.local {
		uses = append(uses, use)
	}
	v.mu.Unlock()
	for _, use := range uses {
		use.mu.Lock()
		delete(use.users, uid)
		use.mu.Unlock()
	}
}
