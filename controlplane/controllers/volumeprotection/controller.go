// Package volumeprotection lets go of deleted PersistentVolumeClaims when no pod uses them any more, and of deleted
// PersistentVolumes when no claim is bound to them. Admission gives each of them the finalizer that is removed here.
//
// Reads: PersistentVolumeClaims, PersistentVolumes, pods. Writes: the finalizers kubernetes.io/pvc-protection and
// kubernetes.io/pv-protection.
package volumeprotection

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
)

// Controller looks after all claims and volumes.
type Controller struct {
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	pods    corelisters.PodLister
	queue   *keyqueue.Queue[types.NamespacedName] // a volume's key has no namespace
	ready   []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(client kubernetes.Interface, f informers.SharedInformerFactory) (*Controller, error) {
	claims, volumes, pods := f.Core().V1().PersistentVolumeClaims(), f.Core().V1().PersistentVolumes(), f.Core().V1().Pods()
	c := &Controller{
		client: client, claims: claims.Lister(), volumes: volumes.Lister(), pods: pods.Lister(),
		ready: []cache.InformerSynced{claims.Informer().HasSynced, volumes.Informer().HasSynced, pods.Informer().HasSynced},
	}
	c.queue = keyqueue.New("volumeprotection", 1, c.reconcile)
	deleted := func(obj any) {
		if m, ok := obj.(metav1.Object); ok && m.GetDeletionTimestamp() != nil {
			c.queue.Add(types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()})
		}
	}
	for _, inf := range []cache.SharedIndexInformer{claims.Informer(), volumes.Informer()} {
		if _, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: deleted, UpdateFunc: func(_, cur any) { deleted(cur) }}); err != nil {
			return nil, fmt.Errorf("watch volumes and claims: %w", err)
		}
	}
	if _, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: c.podEnded, DeleteFunc: c.podGone}); err != nil {
		return nil, fmt.Errorf("watch the pods that use claims: %w", err)
	}
	return c, nil
}

// Run works until ctx is done. The informers are started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	if cache.WaitForCacheSync(ctx.Done(), c.ready...) {
		c.queue.Run(ctx)
	}
	return nil
}

// podEnded is of interest for volumes that were made for a pod alone: they are free when it has finished.
func (c *Controller) podEnded(old, cur any) {
	was, okWas := old.(*corev1.Pod)
	is, okIs := cur.(*corev1.Pod)
	if okWas && okIs && !owned.Finished(was) && owned.Finished(is) {
		c.podGone(cur)
	}
}

func (c *Controller) podGone(obj any) {
	if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = d.Obj
	}
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	for i := range p.Spec.Volumes {
		if name := claimOf(p, &p.Spec.Volumes[i]); name != "" {
			claim, err := c.claims.PersistentVolumeClaims(p.Namespace).Get(name)
			if err == nil && claim.DeletionTimestamp != nil {
				c.queue.Add(types.NamespacedName{Namespace: p.Namespace, Name: name})
			}
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	if key.Namespace == "" {
		v, err := c.volumes.Get(key.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil || v.DeletionTimestamp == nil || v.Status.Phase == corev1.VolumeBound || !slices.Contains(v.Finalizers, volumeFinalizer) {
			return err
		}
		v = v.DeepCopy()
		v.Finalizers = slices.DeleteFunc(v.Finalizers, func(f string) bool { return f == volumeFinalizer })
		_, err = c.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{})
		return ignoreGone(err)
	}
	claim, err := c.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || claim.DeletionTimestamp == nil || !slices.Contains(claim.Finalizers, claimFinalizer) {
		return err
	}
	cached, err := c.pods.Pods(key.Namespace).List(labels.Everything())
	if err != nil || slices.ContainsFunc(cached, func(p *corev1.Pod) bool { return uses(p, claim.Name) }) {
		return err // a pod's end wakes us
	}
	// The cache may not show a pod that was just bound to a node; data would be lost, so the API is asked.
	live, err := c.client.CoreV1().Pods(key.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range live.Items {
		if uses(&live.Items[i], claim.Name) {
			return nil
		}
	}
	claim = claim.DeepCopy()
	claim.Finalizers = slices.DeleteFunc(claim.Finalizers, func(f string) bool { return f == claimFinalizer })
	_, err = c.client.CoreV1().PersistentVolumeClaims(key.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	return ignoreGone(err)
}

// uses says whether a pod holds a claim. One without a node doesn't: no kubelet starts a pod on a claim that is being
// deleted. A finished one does, until it is deleted too, unless the volume was made for it alone.
func uses(p *corev1.Pod, claim string) bool {
	if p.Spec.NodeName == "" {
		return false
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if claimOf(p, v) == claim && (v.Ephemeral == nil || !owned.Finished(p)) {
			return true
		}
	}
	return false
}

// claimOf is the claim behind a pod's volume, empty if there is none.
func claimOf(p *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return p.Name + "-" + v.Name
	default:
		return ""
	}
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
