// Package source tells the workers what this node is to run: the API server's pods of the node, and the static pods of
// the manifest directory with their mirrors in the API server. Later lists and watches bring whole pods, never events.
//
// Reads:  pods and services in the API server; the manifest directory.
// Writes: mirror pods.
package source

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/agent/podworker"
)

// The annotations that make static pods and their mirrors known.
const (
	AnnotationHash   = "kubernetes.io/config.hash"
	AnnotationSource = "kubernetes.io/config.source"
	AnnotationSeen   = "kubernetes.io/config.seen"
	AnnotationMirror = corev1.MirrorPodAnnotationKey
)

// Sink takes the desired pods.
type Sink interface {
	Set(podworker.Desired)
	Remove(uid types.UID)
	// Has tells whether there is something of a pod on the node still: one that was removed takes a while to end.
	Has(uid types.UID) bool
}

// API is what the source needs of the API server.
type API interface {
	ListPods(ctx context.Context, o metav1.ListOptions) (*corev1.PodList, error)
	WatchPods(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
	CreatePod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error)
	DeletePod(ctx context.Context, namespace, name string, uid types.UID) error
	Node(ctx context.Context) (*corev1.Node, error)
}

// Pods merges the sources of one node's pods.
type Pods struct {
	node string
	api  API // nil: standalone
	sink Sink
	log  *slog.Logger

	mu      sync.Mutex
	api0    bool // the API server has listed its pods once
	static0 bool // the manifests were read once
	api1    map[types.UID]*corev1.Pod
	mirrors map[string]*corev1.Pod // by namespace/name
	static  map[string]*corev1.Pod // by namespace/name of the pod
	synced  chan struct{}
	listed  chan struct{}
	wake    chan struct{} // mirrors want a look
	disk    *Checkpoint
}

// New returns the merged source for a node. api may be nil, disk too.
func New(node string, api API, sink Sink, disk *Checkpoint, log *slog.Logger) *Pods {
	return &Pods{
		node: node, api: api, sink: sink, disk: disk, log: log, api1: map[types.UID]*corev1.Pod{}, mirrors: map[string]*corev1.Pod{},
		static: map[string]*corev1.Pod{}, synced: make(chan struct{}), listed: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// Synced is closed when every source has delivered once: only then is an unknown pod an unwanted one.
func (p *Pods) Synced() <-chan struct{} { return p.synced }

// Listed is closed when the API server has listed its pods.
func (p *Pods) Listed() <-chan struct{} { return p.listed }

// markSynced closes Synced when the time has come. The lock is held.
func (p *Pods) markSynced() {
	if p.static0 && (p.api0 || p.api == nil) {
		select {
		case <-p.synced:
		default:
			close(p.synced)
		}
	}
}

// RunAPI watches the API server until ctx ends.
func (p *Pods) RunAPI(ctx context.Context) error {
	selector := fields.OneTermEqualSelector("spec.nodeName", p.node).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return p.api.ListPods(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return p.api.WatchPods(ctx, o)
		},
	}
	r := cache.NewReflectorWithOptions(lw, &corev1.Pod{}, (*podStore)(p), cache.ReflectorOptions{Name: "pods"})
	go p.runMirrors(ctx)
	r.RunWithContext(ctx)
	return nil
}

// podStore is the reflector's side of Pods.
type podStore Pods

var (
	_ cache.ReflectorStore    = (*podStore)(nil)
	_ cache.TransformingStore = (*podStore)(nil)
)

// Transformer drops what nobody reads before anything is kept.
func (s *podStore) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if pod, ok := obj.(*corev1.Pod); ok {
			pod.ManagedFields = nil
		}
		return obj, nil
	}
}

func (s *podStore) Add(obj any) error { return s.Update(obj) }

func (s *podStore) Update(obj any) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("a %T among the pods", obj)
	}
	p := (*Pods)(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setAPI(pod)
	return nil
}

func (s *podStore) Delete(obj any) error {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("a %T among the pods", obj)
	}
	p := (*Pods)(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropAPI(pod)
	return nil
}

func (s *podStore) Replace(list []any, _ string) error {
	p := (*Pods)(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := map[types.UID]bool{}
	for _, obj := range list {
		if pod, ok := obj.(*corev1.Pod); ok {
			keep[pod.UID] = true
			p.setAPI(pod)
		}
	}
	for uid, pod := range p.api1 {
		if !keep[uid] {
			p.dropAPI(pod)
		}
	}
	for _, m := range p.mirrors {
		if !keep[m.UID] {
			p.dropAPI(m)
		}
	}
	if !p.api0 {
		close(p.listed)
	}
	p.disk.prune(keep)
	p.api0 = true
	p.markSynced()
	p.look()
	return nil
}

func (s *podStore) Resync() error { return nil }

func key(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

func (p *Pods) setAPI(pod *corev1.Pod) {
	if pod.Annotations[AnnotationMirror] != "" {
		p.mirrors[key(pod)] = pod
		p.deliverStatic(key(pod))
		p.look()
		return
	}
	p.api1[pod.UID] = pod
	p.disk.put(pod)
	p.sink.Set(podworker.Desired{Pod: pod})
}

func (p *Pods) dropAPI(pod *corev1.Pod) {
	if m := p.mirrors[key(pod)]; m != nil && m.UID == pod.UID {
		delete(p.mirrors, key(pod))
		p.deliverStatic(key(pod))
		p.look()
		return
	}
	delete(p.api1, pod.UID)
	p.disk.remove(pod.UID)
	p.sink.Remove(pod.UID)
}

// Restore delivers the pods of the last run, for the time until the API server answers.
func (p *Pods) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pod := range p.disk.load(p.log) {
		if !p.api0 && p.api1[pod.UID] == nil {
			p.api1[pod.UID] = pod
			p.sink.Set(podworker.Desired{Pod: pod})
		}
	}
}

// setStatic replaces the static pods by those of the manifests now.
func (p *Pods) setStatic(pods map[string]*corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, old := range p.static {
		if now := pods[name]; now == nil || now.UID != old.UID {
			delete(p.static, name)
			p.sink.Remove(old.UID)
		}
	}
	for name, pod := range pods {
		if p.static[name] == nil {
			p.static[name] = pod
			p.deliverStatic(name)
		}
	}
	p.static0 = true
	p.markSynced()
	p.look()
}

// deliverStatic hands a static pod out with the mirror that fits it. The lock is held.
func (p *Pods) deliverStatic(name string) {
	pod := p.static[name]
	if pod == nil {
		return
	}
	m := p.mirrors[name]
	if m != nil && (m.Annotations[AnnotationMirror] != string(pod.UID) || m.DeletionTimestamp != nil) {
		m = nil
	}
	p.sink.Set(podworker.Desired{Pod: pod, Static: true, Mirror: m})
}

// Gone says that nothing is left of a pod on the node: a mirror may have nothing to show any more.
func (p *Pods) Gone(types.UID) { p.look() }

func (p *Pods) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// runMirrors makes the mirrors of static pods, and removes those that mirror nothing.
func (p *Pods) runMirrors(ctx context.Context) {
	const again = 5 * time.Second
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-retry:
		}
		retry = nil
		if err := p.reconcileMirrors(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("mirror pods not brought up to date, trying again", "err", err)
			retry = time.After(again)
		}
	}
}

func (p *Pods) reconcileMirrors(ctx context.Context) error {
	p.mu.Lock()
	if !p.api0 || !p.static0 {
		p.mu.Unlock()
		return nil
	}
	var create, remove []*corev1.Pod
	for name, pod := range p.static {
		if p.mirrors[name] == nil {
			create = append(create, pod)
		}
	}
	for name, m := range p.mirrors {
		pod, mirrors := p.static[name], m.Annotations[AnnotationMirror]
		switch {
		case m.DeletionTimestamp != nil: // somebody deleted it: it comes back
			remove = append(remove, m)
		case (pod == nil || string(pod.UID) != mirrors) && !p.sink.Has(types.UID(mirrors)): // it is shown until it has ended
			remove = append(remove, m)
		}
	}
	p.mu.Unlock()
	for _, m := range remove {
		if err := p.api.DeletePod(ctx, m.Namespace, m.Name, m.UID); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete mirror pod %s: %w", key(m), err)
		}
	}
	for _, pod := range create {
		node, err := p.api.Node(ctx)
		if err != nil {
			return fmt.Errorf("node of a mirror pod: %w", err)
		}
		if _, err := p.api.CreatePod(ctx, mirrorOf(pod, node)); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create mirror pod %s: %w", key(pod), err)
		}
	}
	return nil
}

// mirrorOf is the object that shows a static pod in the API server. NodeRestriction wants the node as its controller.
func mirrorOf(pod *corev1.Pod, node *corev1.Node) *corev1.Pod {
	m := pod.DeepCopy()
	m.UID, m.ResourceVersion, m.Status = "", "", corev1.PodStatus{}
	m.Annotations[AnnotationMirror] = string(pod.UID)
	m.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: new(true),
	}}
	return m
}
