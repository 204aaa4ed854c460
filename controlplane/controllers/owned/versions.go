package owned

import (
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// Versions remembers the resourceVersion of a controller's last write of an object, so that it never decides on a
// cached copy from before that write. It is needed where the status is what the next decision counts from.
type Versions struct {
	mu sync.Mutex
	m  map[types.UID]string
}

// NewVersions returns an empty memory.
func NewVersions() *Versions { return &Versions{m: map[types.UID]string{}} }

// Wrote notes the version that a write returned.
func (v *Versions) Wrote(uid types.UID, version string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m[uid] = version
}

// Fresh says whether a cached copy of this version is as new as the last write.
func (v *Versions) Fresh(uid types.UID, version string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	wrote, ok := v.m[uid]
	if !ok {
		return true
	}
	w, errW := strconv.ParseUint(wrote, 10, 64)
	have, errH := strconv.ParseUint(version, 10, 64)
	if errW == nil && errH == nil && have < w {
		return false
	}
	delete(v.m, uid)
	return true
}

// Forget drops what is known of a deleted object.
func (v *Versions) Forget(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.m, uid)
}
