// Package persistentvolume binds PersistentVolumeClaims to PersistentVolumes, keeps both from being deleted while they
// are in use, and creates the claims of generic ephemeral volumes.
//
//	claim:  Pending ──a volume matches, or is named──► Bound ──its volume is gone──► Lost
//	volume: Available ──claimed──► Bound ──its claim is gone──► Released (Retain), or Failed: nobody here can delete it
//
// Volumes are not provisioned here: a claim whose class has a provisioner is handed to that by annotation, and one whose
// class waits for the first consumer is bound once the scheduler has chosen a node.
//
// Reads: PersistentVolumes, PersistentVolumeClaims, StorageClasses, Pods. Writes: the binding in claims and volumes,
// their status, their protection finalizers, and claims of ephemeral volumes; events.
package persistentvolume

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
}

// key is a claim, a pod whose ephemeral volumes need claims, or, without namespace, a volume.
type key struct {
	pod             bool
	namespace, name string
}

// Controller has a single worker: what it binds for one claim is there when it looks for another.
type Controller struct {
	cfg     Config
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	pods    corelisters.PodLister
	queue   *keyqueue.Queue[key]
	synced  []cache.InformerSynced

	mu   sync.Mutex
	told map[key]string // the last event of an object, not to be repeated at every look
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	f := cfg.Informers.Core().V1()
	c := &Controller{
		cfg: cfg, claims: f.PersistentVolumeClaims().Lister(), volumes: f.PersistentVolumes().Lister(),
		classes: cfg.Informers.Storage().V1().StorageClasses().Lister(), pods: f.Pods().Lister(), told: map[key]string{},
	}
	c.queue = keyqueue.New("persistentvolume", 1, c.reconcile)
	claims, err := keyqueue.WatchChanges(f.PersistentVolumeClaims().Informer(), func(_, p *corev1.PersistentVolumeClaim, _ bool) {
		c.queue.Add(claimKey(p))
		if p.Spec.VolumeName != "" {
			c.queue.Add(key{name: p.Spec.VolumeName})
		}
	})
	if err != nil {
		return nil, err
	}
	volumes, err := keyqueue.WatchChanges(f.PersistentVolumes().Informer(), func(_, v *corev1.PersistentVolume, _ bool) {
		c.queue.Add(key{name: v.Name})
		if r := v.Spec.ClaimRef; r != nil {
			c.queue.Add(key{namespace: r.Namespace, name: r.Name})
		} else {
			c.queuePending()
		}
	})
	if err != nil {
		return nil, err
	}
	classes, err := keyqueue.Watch(cfg.Informers.Storage().V1().StorageClasses().Informer(), func(*storagev1.StorageClass) { c.queuePending() })
	if err != nil {
		return nil, err
	}
	pods, err := keyqueue.WatchChanges(f.Pods().Informer(), c.podChanged)
	c.synced = []cache.InformerSynced{claims, volumes, classes, pods}
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error { return c.queue.RunWhenSynced(ctx, c.synced...) }

func claimKey(p *corev1.PersistentVolumeClaim) key { return key{namespace: p.Namespace, name: p.Name} }

func (c *Controller) queuePending() {
	all, err := c.claims.List(labels.Everything())
	if err != nil {
		return // a lister over a cache doesn't fail
	}
	for _, p := range all {
		if p.Status.Phase != corev1.ClaimBound {
			c.queue.Add(claimKey(p))
		}
	}
}

// podChanged looks at the claims of pods that come and go. Most pods have none.
func (c *Controller) podChanged(old, p *corev1.Pod, gone bool) {
	if !gone && old != nil && old.Spec.NodeName == p.Spec.NodeName && old.UID == p.UID {
		return
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			c.queue.Add(key{namespace: p.Namespace, name: v.PersistentVolumeClaim.ClaimName})
		case v.Ephemeral != nil:
			c.queue.Add(key{namespace: p.Namespace, name: ephemeral.VolumeClaimName(p, v)})
			if old == nil {
				c.queue.Add(key{pod: true, namespace: p.Namespace, name: p.Name})
			}
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, k key) error {
	switch {
	case k.pod:
		return c.reconcilePod(ctx, k)
	case k.namespace != "":
		return c.reconcileClaim(ctx, k)
	default:
		return c.reconcileVolume(ctx, k.name)
	}
}

// tell records an event, once for as long as nothing else happens to the object.
func (c *Controller) tell(k key, o runtime.Object, eventType, reason, message string) {
	c.mu.Lock()
	known := c.told[k] == message
	c.told[k] = message
	c.mu.Unlock()
	if !known {
		c.cfg.Recorder.Event(o, eventType, reason, message)
	}
}

func (c *Controller) forget(k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.told, k)
}
