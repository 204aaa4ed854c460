// Package nodeipam gives every node an address range for its pods, cut from the cluster's.
//
// The ranges in use are those in the nodes' specs and nothing else: there is no table of its own that could disagree.
// A range is written once and never taken back while its node is there.
//
// Reads: Nodes. Writes: spec.podCIDR and spec.podCIDRs of Nodes that have none; events on Nodes when there is no range left.
package nodeipam

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	Cluster   netip.Prefix // the cluster's range
	MaskSize  int          // of a node's range
}

// Controller assigns ranges, one node at a time: so two nodes never get the same one.
type Controller struct {
	cfg    Config
	nodes  corelisters.NodeLister
	queue  *keyqueue.Queue[string]
	synced cache.InformerSynced
	given  map[string]grant // written by this process; the cache may not show them yet. Used by the one worker.
}

type grant struct {
	uid  types.UID // of the node: one of the same name made later gets its own
	cidr netip.Prefix
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	if cfg.MaskSize < cfg.Cluster.Bits() || cfg.MaskSize > cfg.Cluster.Addr().BitLen() {
		return nil, fmt.Errorf("nodeipam: a node's /%d does not fit into the cluster's %v", cfg.MaskSize, cfg.Cluster)
	}
	nodes := cfg.Informers.Core().V1().Nodes()
	c := &Controller{cfg: cfg, nodes: nodes.Lister(), given: map[string]grant{}}
	c.queue = keyqueue.New("nodeipam", 1, c.reconcile)
	var err error
	c.synced, err = keyqueue.WatchChanges(nodes.Informer(), func(old, n *corev1.Node, gone bool) {
		if gone || old == nil || n.Spec.PodCIDR == "" {
			c.queue.Add(n.Name)
		}
	})
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error { return c.queue.RunWhenSynced(ctx, c.synced) }

func (c *Controller) reconcile(ctx context.Context, name string) error {
	n, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		delete(c.given, name)
		return nil
	}
	if err != nil || n.Spec.PodCIDR != "" {
		delete(c.given, name)
		return err
	}
	if c.given[name].uid == n.UID && n.UID != "" {
		return nil // on its way
	}
	all, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	used := map[netip.Prefix]bool{}
	for _, o := range all {
		for _, cidr := range o.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(cidr); err == nil {
				used[p.Masked()] = true
			}
		}
	}
	for _, g := range c.given {
		used[g.cidr] = true
	}
	free, ok := nextFree(c.cfg.Cluster, c.cfg.MaskSize, used)
	if !ok {
		c.cfg.Recorder.Eventf(n, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
		return fmt.Errorf("no /%d is left in %v for node %s", c.cfg.MaskSize, c.cfg.Cluster, name)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": n.UID},
		"spec":     map[string]any{"podCIDR": free.String(), "podCIDRs": []string{free.String()}},
	})
	if err != nil {
		return err
	}
	if _, err := c.cfg.Client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("node %s: assigning %v: %w", name, free, err)
	}
	c.given[name] = grant{uid: n.UID, cidr: free}
	return nil
}

// nextFree returns the first range of a size within cluster that overlaps none of the used ones.
func nextFree(cluster netip.Prefix, bits int, used map[netip.Prefix]bool) (netip.Prefix, bool) {
	for p := netip.PrefixFrom(cluster.Masked().Addr(), bits); cluster.Contains(p.Addr()); {
		if !overlaps(p, used) {
			return p, true
		}
		next, ok := following(p)
		if !ok {
			break
		}
		p = next
	}
	return netip.Prefix{}, false
}

func overlaps(p netip.Prefix, used map[netip.Prefix]bool) bool {
	if used[p] {
		return true
	}
	for u := range used {
		if u.Overlaps(p) {
			return true
		}
	}
	return false
}

// following returns the next range of the same size; false after the last address.
func following(p netip.Prefix) (netip.Prefix, bool) {
	b := p.Addr().AsSlice()
	bit := p.Bits() - 1
	for ; bit >= 0; bit-- {
		mask := byte(0x80) >> (bit % 8)
		b[bit/8] ^= mask
		if b[bit/8]&mask != 0 {
			a, _ := netip.AddrFromSlice(b)
			return netip.PrefixFrom(a, p.Bits()), true
		}
	}
	return netip.Prefix{}, false
}
