package volume

import (
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

// mountLocal hands a directory of the node to a pod. It is given to the pod's fsGroup unless other pods use it already: they
// wouldn't be asked.
func (v *Volumes) mountLocal(pod *corev1.Pod, pv *corev1.PersistentVolume, readOnly bool) (mounted, error) {
	// The path is handed to the runtime as it is: a bind mount of ours between them would only be one more thing to lose
	// track of, with the user's data behind it. It may be a link; its files are what belongs to the pod.
	path := pv.Spec.Local.Path
	dir, err := filepath.EvalSymlinks(path)
	if err != nil {
		return mounted{}, fmt.Errorf("local volume %s: %w", pv.Name, err)
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return mounted{}, fmt.Errorf("local volume %s: %w", pv.Name, err)
	case !info.IsDir():
		return mounted{}, fmt.Errorf("local volume %s: %s is not a directory, and block devices are not supported yet", pv.Name, path)
	}
	v.mu.Lock()
	use := v.local[pv.Name]
	if use == nil {
		use = &localUse{users: map[types.UID]bool{}}
		v.local[pv.Name] = use
	}
	v.mu.Unlock()
	use.mu.Lock()
	defer use.mu.Unlock()
	delete(use.users, pod.UID)
	shared := len(use.users) > 0
	use.users[pod.UID] = true
	out := mounted{path: path, relabel: true}
	sc := pod.Spec.SecurityContext
	switch {
	case sc == nil || sc.FSGroup == nil:
	case shared:
		if has := groupOf(info); int64(has) != *sc.FSGroup && v.cfg.Warn != nil {
			v.cfg.Warn(pod, "AlreadyMountedVolume", fmt.Sprintf("The requested fsGroup is %d, but the volume %s has GID %d. The volume may not be shareable.", *sc.FSGroup, pv.Name, has))
		}
	case !readOnly:
		return out, applyFSGroup(pod, dir)
	}
	return out, nil
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
