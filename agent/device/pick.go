package device

import (
	"cmp"
	"fmt"
	"slices"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/mote-edge/mote/agent/topology"
)

// choice is what devices for one request are picked from. It is pure.
type choice struct {
	name string
	need int
	// again were an init container's that has ended: those go first, or two containers would hold what one needs. free
	// are all others; near, far and nowhere are free ones by how they lie to the hint.
	again, free        []string
	near, far, nowhere []string
}

// split sorts the free devices by where the hint wants them. Devices without a place, and hints without one, are no
// reason to prefer any.
func (c *choice) split(devices map[string]*pluginapi.Device, hint topology.Hint) {
	placed := false
	for _, d := range devices {
		placed = placed || len(nodesOf(d)) > 0
	}
	if !placed || hint.Any {
		c.nowhere = c.free
		return
	}
	crowd := map[int]int{} // devices on each node: those on emptier nodes are used up first
	for _, id := range c.free {
		for _, n := range nodesOf(devices[id]) {
			crowd[n]++
		}
	}
	fewest := func(id string) int {
		least := len(c.free) + 1
		for _, n := range nodesOf(devices[id]) {
			least = min(least, crowd[n])
		}
		return least
	}
	for _, id := range c.free {
		nodes := nodesOf(devices[id])
		switch {
		case len(nodes) == 0:
			c.nowhere = append(c.nowhere, id)
		case slices.ContainsFunc(nodes, hint.Nodes.Has):
			c.near = append(c.near, id)
		default:
			c.far = append(c.far, id)
		}
	}
	for _, list := range [][]string{c.near, c.far} {
		slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(fewest(a), fewest(b)) })
	}
}

// pick returns the devices to give. prefer asks the plugin, once at most: for the near ones if there are more than
// needed, else for all that is free.
func (c *choice) pick(prefer func(from, must []string, size int) ([]string, error)) ([]string, error) {
	var got []string
	takeFrom := func(list []string) bool {
		for _, id := range list {
			if len(got) < c.need && !slices.Contains(got, id) {
				got = append(got, id)
			}
		}
		return len(got) == c.need
	}
	if takeFrom(c.again) {
		return got, nil
	}
	left := c.need - len(got)
	if len(c.free) < left {
		return nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", c.name, left, len(c.free))
	}
	pool := c.free
	if left < len(c.near) {
		pool = c.near
	} else if takeFrom(c.near) {
		return got, nil
	}
	from := append(slices.Clone(pool), got...)
	slices.Sort(from)
	preferred, err := prefer(slices.Compact(from), slices.Clone(got), c.need)
	if err != nil {
		return nil, err
	}
	wished := slices.DeleteFunc(slices.Clone(preferred), func(id string) bool { return !slices.Contains(pool, id) })
	for _, list := range [][]string{wished, c.near, c.far, c.nowhere} {
		if takeFrom(list) {
			break
		}
	}
	return got, nil
}
