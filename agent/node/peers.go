package node

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// peer is what is kept of a Node object.
type peer struct {
	podCIDR netip.Prefix
	address netip.Addr
}

func peerOf(n *corev1.Node) peer {
	var p peer
	p.podCIDR, _ = netip.ParsePrefix(n.Spec.PodCIDR)
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && !p.address.IsValid() {
			p.address, _ = netip.ParseAddr(a.Address)
		}
	}
	return p
}

// watchNodes follows all Node objects until ctx ends: this node's for its range, labels and deletion, the others' for
// routes.
func (n *Node) watchNodes(ctx context.Context) {
	cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return n.cfg.API.ListNodes(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return n.cfg.API.WatchNodes(ctx, o)
		},
	}, &corev1.Node{}, nodeSink{n}, cache.ReflectorOptions{Name: "node/nodes"}).RunWithContext(ctx)
}

// nodeSink hands the reflector's objects on and keeps none.
type nodeSink struct{ *Node }

var _ cache.ReflectorStore = nodeSink{}

// Add implements cache.ReflectorStore.
func (s nodeSink) Add(obj any) error { return s.Update(obj) }

// Update implements cache.ReflectorStore.
func (s nodeSink) Update(obj any) error {
	s.seen(obj.(*corev1.Node))
	s.syncRoutes()
	return nil
}

// Delete implements cache.ReflectorStore.
func (s nodeSink) Delete(obj any) error {
	name := obj.(*corev1.Node).Name
	if name == s.cfg.Name {
		s.vanished()
		return nil
	}
	s.mu.Lock()
	delete(s.peers, name)
	s.mu.Unlock()
	s.syncRoutes()
	return nil
}

// Replace implements cache.ReflectorStore.
func (s nodeSink) Replace(list []any, _ string) error {
	s.mu.Lock()
	clear(s.peers)
	s.mu.Unlock()
	own := false
	for _, obj := range list {
		n := obj.(*corev1.Node)
		own = own || n.Name == s.cfg.Name
		s.seen(n)
	}
	if !own {
		s.vanished()
	}
	s.syncRoutes()
	return nil
}

// Resync implements cache.ReflectorStore.
func (s nodeSink) Resync() error { return nil }

// seen takes note of a Node object.
func (n *Node) seen(obj *corev1.Node) {
	if obj.Name != n.cfg.Name {
		n.mu.Lock()
		n.peers[obj.Name] = peerOf(obj)
		n.mu.Unlock()
		return
	}
	n.mu.Lock()
	if !maps.Equal(n.labels, obj.Labels) {
		n.labels = obj.Labels
	}
	turned := n.known && n.cordoned != obj.Spec.Unschedulable
	n.known, n.cordoned = true, obj.Spec.Unschedulable
	n.mu.Unlock()
	if turned {
		reason := "NodeSchedulable"
		if obj.Spec.Unschedulable {
			reason = "NodeNotSchedulable"
		}
		n.cfg.Event(corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", n.cfg.Name, reason))
	}
	if obj.Spec.PodCIDR == "" {
		return
	}
	wrote, err := n.cfg.CNI.write(obj.Spec.PodCIDR, n.linkMTU())
	switch {
	case err != nil:
		n.cfg.Log.Error("pods can't get a network", "error", err)
	case wrote:
		n.cfg.Log.Info("network configuration written", "podCIDR", obj.Spec.PodCIDR)
		n.Poke()
	}
}

// vanished is called when somebody has deleted this node's object: keepStatus registers it again.
func (n *Node) vanished() {
	n.cfg.Log.Warn("the node's object was deleted: registering again", "node", n.cfg.Name)
	n.mu.Lock()
	n.gone = true
	n.mu.Unlock()
	n.Poke()
}
