package fit

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node is a node with its pods, those assumed to be on it included, and their sums.
type Node struct {
	*corev1.Node // nil while only pods of it are known
	Pods         []*Pod
	Requested    Resources

	allocatable               Resources
	maxPods                   int64
	images                    map[string]int64
	assumedCPU, assumedMemory int64
	withTerms                 int // pods whose affinity concerns other pods
}

// SetNode replaces the Node object and keeps the pods.
func (n *Node) SetNode(node *corev1.Node) {
	n.Node = node
	n.allocatable, n.maxPods, n.images = Resources{}, 0, nil
	if node == nil {
		return
	}
	n.allocatable = newResources(node.Status.Allocatable)
	n.maxPods = node.Status.Allocatable.Pods().Value()
	n.images = make(map[string]int64, len(node.Status.Images))
	for _, image := range node.Status.Images {
		for _, name := range image.Names {
			n.images[name] = image.SizeBytes
		}
	}
}

// Add puts a pod on the node.
func (n *Node) Add(p *Pod) {
	n.Pods = append(n.Pods, p)
	n.count(p, 1)
}

// Remove takes a pod off the node. A pod that isn't there is no error.
func (n *Node) Remove(uid types.UID) {
	for i, p := range n.Pods {
		if p.UID == uid {
			n.count(p, -1)
			n.Pods = slices.Delete(n.Pods, i, i+1)
			return
		}
	}
}

// Clone returns a copy whose pods can be changed without changing the original.
func (n *Node) Clone() *Node {
	c := *n
	c.Pods = slices.Clone(n.Pods)
	c.Requested.Scalar = nil
	for name, v := range n.Requested.Scalar {
		if c.Requested.Scalar == nil {
			c.Requested.Scalar = make(map[corev1.ResourceName]int64, len(n.Requested.Scalar))
		}
		c.Requested.Scalar[name] = v
	}
	return &c
}

func (n *Node) count(p *Pod, sign int64) {
	n.Requested.add(p.Request, sign)
	n.assumedCPU += sign * p.assumedCPU
	n.assumedMemory += sign * p.assumedMemory
	if p.hasTerms() {
		n.withTerms += int(sign)
	}
}
