package cri

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxGone bounds the memory of removed IDs a pod, which keeps a late snapshot from bringing them back.
const maxGone = 32

// Cache holds the newest picture of every pod in the runtime. Changed is called, without locks held, with the UID of
// each pod whose picture changed.
type Cache struct {
	Changed func(types.UID)

	mu   sync.Mutex
	pods map[types.UID]*entry
	uids map[string]types.UID // sandbox or container ID → pod
	// awaited has those who wait for a sandbox or container to have started, by its ID.
	awaited map[string][]chan struct{}
}

type entry struct {
	Pod
	gone []string
}

// NewCache returns an empty cache.
func NewCache(changed func(types.UID)) *Cache {
	return &Cache{Changed: changed, pods: map[types.UID]*entry{}, uids: map[string]types.UID{}, awaited: map[string][]chan struct{}{}}
}

// Get returns a snapshot of one pod; the zero Pod (with its UID) when the runtime has nothing of it.
func (c *Cache) Get(uid types.UID) Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pods[uid]; e != nil {
		return e.snapshot()
	}
	return Pod{UID: uid}
}

// All returns a snapshot of every pod that has a sandbox or container.
func (c *Cache) All() []Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Pod, 0, len(c.pods))
	for _, e := range c.pods {
		out = append(out, e.snapshot())
	}
	return out
}

func (e *entry) snapshot() Pod {
	p := e.Pod
	p.Sandboxes, p.Containers = slices.Clone(p.Sandboxes), slices.Clone(p.Containers)
	return p
}

// Owner returns the pod that a sandbox or container belongs to.
func (c *Cache) Owner(id string) (types.UID, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	uid, ok := c.uids[id]
	return uid, ok
}

// eventWait is how long the event of a start may take to come after the call that started it. mote-runtime sends it first, but
// on another stream.
const eventWait = 20 * time.Millisecond

// Started waits a moment for the runtime's event that a container has started, or a sandbox and which address it has, and
// tells whether it has come: whoever started it needn't ask then. A sandbox without an address may be one whose event came too
// early.
func (c *Cache) Started(ctx context.Context, id string) bool {
	c.mu.Lock()
	if c.started(id) {
		c.mu.Unlock()
		return true
	}
	come := make(chan struct{})
	c.awaited[id] = append(c.awaited[id], come)
	c.mu.Unlock()
	timer := time.NewTimer(eventWait)
	defer timer.Stop()
	select {
	case <-come:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.awaited[id] = slices.DeleteFunc(c.awaited[id], func(x chan struct{}) bool { return x == come })
	if len(c.awaited[id]) == 0 {
		delete(c.awaited, id)
	}
	return c.started(id)
}

func (c *Cache) started(id string) bool {
	e := c.pods[c.uids[id]]
	if e == nil {
		return false
	}
	for _, s := range e.Sandboxes {
		if s.ID == id {
			return s.State >= Running && len(s.IPs) > 0
		}
	}
	x := e.ByID(id)
	return x != nil && x.State >= Running
}

// tell wakes those who wait for what has started now. The lock is held.
func (c *Cache) tell() {
	for id, waiting := range c.awaited {
		if c.started(id) {
			for _, come := range waiting {
				close(come)
			}
			delete(c.awaited, id)
		}
	}
}

// SetSandbox merges what the runtime says of a sandbox, and of the containers in it when it says so.
func (c *Cache) SetSandbox(s *runtimeapi.PodSandboxStatus, containers []*runtimeapi.ContainerStatus) {
	uid := types.UID(s.GetMetadata().GetUid())
	if uid == "" {
		uid = types.UID(s.GetLabels()[LabelPodUID])
	}
	if uid == "" {
		return // not a pod of ours: someone else uses the runtime too
	}
	c.mu.Lock()
	e := c.entry(uid)
	e.Namespace, e.Name = s.GetMetadata().GetNamespace(), s.GetMetadata().GetName()
	changed := c.putSandbox(e, fromSandbox(s))
	for _, st := range containers {
		next := fromStatus(st)
		if e.ByID(next.ID) == nil { // the snapshot lists the containers of this very sandbox
			next.SandboxID = s.GetId()
		}
		changed = c.putContainer(e, next) || changed
	}
	c.tell()
	c.dropEmpty(e)
	c.mu.Unlock()
	if changed && c.Changed != nil {
		c.Changed(uid)
	}
}

// SetContainer merges what the runtime says of one container in sandboxID.
func (c *Cache) SetContainer(uid types.UID, sandboxID string, s *runtimeapi.ContainerStatus) {
	next := fromStatus(s)
	next.SandboxID = sandboxID
	c.mu.Lock()
	e := c.entry(uid)
	if e.Name == "" {
		e.Namespace, e.Name = s.GetLabels()[LabelPodNamespace], s.GetLabels()[LabelPodName]
	}
	changed := c.putContainer(e, next)
	c.tell()
	c.dropEmpty(e)
	c.mu.Unlock()
	if changed && c.Changed != nil {
		c.Changed(uid)
	}
}

// Remove forgets a sandbox or container that the runtime no longer has.
func (c *Cache) Remove(id string) {
	c.mu.Lock()
	uid, ok := c.uids[id]
	if ok {
		e := c.pods[uid]
		delete(c.uids, id)
		e.Containers = slices.DeleteFunc(e.Containers, func(x *Container) bool { return x.ID == id })
		e.Sandboxes = slices.DeleteFunc(e.Sandboxes, func(x *Sandbox) bool { return x.ID == id })
		if e.gone = append(e.gone, id); len(e.gone) > maxGone {
			e.gone = slices.Delete(e.gone, 0, len(e.gone)-maxGone)
		}
		c.dropEmpty(e)
	}
	c.mu.Unlock()
	if ok && c.Changed != nil {
		c.Changed(uid)
	}
}

// ids returns every sandbox and container known now.
func (c *Cache) ids() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]bool, len(c.uids))
	for id := range c.uids {
		out[id] = true
	}
	return out
}

func (c *Cache) entry(uid types.UID) *entry {
	e := c.pods[uid]
	if e == nil {
		e = &entry{Pod: Pod{UID: uid}}
		c.pods[uid] = e
	}
	return e
}

// dropEmpty forgets a pod that has nothing left. Its tombstones go too: IDs are never used twice, and a snapshot that
// is later than the removal of a whole pod doesn't come, because the runtime sends a pod's events in order.
func (c *Cache) dropEmpty(e *entry) {
	if len(e.Sandboxes)+len(e.Containers) == 0 {
		delete(c.pods, e.UID)
	}
}

func (c *Cache) putSandbox(e *entry, next *Sandbox) bool {
	if slices.Contains(e.gone, next.ID) {
		return false
	}
	c.uids[next.ID] = e.UID
	for i, old := range e.Sandboxes {
		if old.ID != next.ID {
			continue
		}
		if next.State < old.State {
			return false
		}
		if len(next.IPs) == 0 {
			next.IPs = old.IPs
		}
		same := next.State == old.State && slices.Equal(next.IPs, old.IPs)
		e.Sandboxes[i] = next
		return !same
	}
	e.Sandboxes = append(e.Sandboxes, next)
	slices.SortFunc(e.Sandboxes, func(a, b *Sandbox) int {
		return cmp.Or(cmp.Compare(b.CreatedAt, a.CreatedAt), cmp.Compare(b.Attempt, a.Attempt))
	})
	return true
}

func (c *Cache) putContainer(e *entry, next *Container) bool {
	if slices.Contains(e.gone, next.ID) || next.Name == "" {
		return false
	}
	c.uids[next.ID] = e.UID
	for i, old := range e.Containers {
		if old.ID != next.ID {
			continue
		}
		e.Containers[i] = further(old, next)
		return old.State != e.Containers[i].State || old.ExitCode != e.Containers[i].ExitCode
	}
	e.Containers = append(e.Containers, next)
	slices.SortFunc(e.Containers, func(a, b *Container) int {
		return cmp.Or(cmp.Compare(a.Attempt, b.Attempt), cmp.Compare(a.CreatedAt, b.CreatedAt))
	})
	return true
}
