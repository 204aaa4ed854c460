package cgroup

import (
	"fmt"
)

// Bound gives an existing cgroup limits: the one of all pods together, or one that an administrator made.
func (t *Tree) Bound(cg string, l Limits) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.hier.apply(cg, l); err != nil {
		return fmt.Errorf("cgroup %s: %w", cg, err)
	}
	return nil
}

// MemoryMount is where the cgroup v1 memory hierarchy is mounted; "" on cgroup v2.
func (t *Tree) MemoryMount() string {
	if t.hier.v2 {
		return ""
	}
	return t.hier.v1["memory"]
}
