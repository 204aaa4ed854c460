// Package resourceclaim makes the claims that pods ask for by template, and gives claims back when nobody uses them any
// more: reservations of pods that have ended, then the allocation, then the finalizer.
//
// Nothing but pods is watched before the first pod with claims or the first claim.
//
// Reads: Pods, ResourceClaims, ResourceClaimTemplates. Writes: ResourceClaims and their status; of pods
// status.resourceClaimStatuses.
package resourceclaim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	claimhelper "k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// podClaimName is the annotation that tells for which entry of its pod a claim was made.
const podClaimName = "resource.kubernetes.io/pod-claim-name"

// fieldManager owns the names of claims in pods' status.
const fieldManager = "ResourceClaimController"

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
}

// key is a pod or a claim.
type key struct {
	claim bool
	types.NamespacedName
}

// Controller looks at pods with claims, and at claims.
type Controller struct {
	cfg    Config
	pods   corelisters.PodLister
	queue  *keyqueue.Queue[key]
	synced cache.InformerSynced

	mu      sync.Mutex
	ctx     context.Context // of Run: what is begun later ends with it
	early   bool            // a pod with claims came before Run
	begun   bool
	claims  resourcelisters.ResourceClaimLister
	ready   func() bool
	created map[types.UID]bool // pods for which a claim was made that the cache may not show yet
}

// New registers with the pods' informer and starts nothing.
func New(cfg Config) (*Controller, error) {
	f := cfg.Informers.Core().V1().Pods()
	c := &Controller{cfg: cfg, pods: f.Lister(), created: map[types.UID]bool{}}
	c.queue = keyqueue.New("resourceclaim", 4, c.reconcile)
	var err error
	c.synced, err = keyqueue.WatchChanges(f.Informer(), func(_, p *corev1.Pod, gone bool) {
		if len(p.Spec.ResourceClaims) == 0 && p.Status.ExtendedResourceClaimStatus == nil {
			return
		}
		c.begin()
		if gone || done(p) {
			c.mu.Lock()
			delete(c.created, p.UID)
			c.mu.Unlock()
			for _, name := range claimNames(p) {
				c.queue.Add(key{claim: true, NamespacedName: types.NamespacedName{Namespace: p.Namespace, Name: name}})
			}
		}
		if !gone {
			c.queue.Add(key{NamespacedName: types.NamespacedName{Namespace: p.Namespace, Name: p.Name}})
		}
	})
	return c, err
}

// claimNames are the claims that a pod uses, as far as it is known.
func claimNames(p *corev1.Pod) []string {
	var out []string
	for name := range claimhelper.PodClaims(p) {
		out = append(out, name)
	}
	return out
}

// done tells whether a pod uses its claims no more.
func done(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil && p.Spec.NodeName == ""
}

// begin watches claims from now on.
func (c *Controller) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun || c.ctx == nil {
		c.early = true
		return
	}
	c.begun = true
	f := c.cfg.Informers.Resource().V1().ResourceClaims()
	c.claims = f.Lister()
	add := func(claim *resourcev1.ResourceClaim) {
		c.queue.Add(key{claim: true, NamespacedName: types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}})
	}
	synced, err := keyqueue.Watch(f.Informer(), add)
	if err != nil {
		return // an informer that has ended: so will the controller
	}
	c.ready = func() bool { return synced() }
	c.cfg.Informers.StartWithContext(c.ctx)
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	c.mu.Lock()
	c.ctx = ctx
	early := c.early
	c.mu.Unlock()
	if !early { // claims of pods that went while nobody looked
		list, err := c.cfg.Client.ResourceV1().ResourceClaims("").List(ctx, metav1.ListOptions{Limit: 1})
		early = err == nil && len(list.Items) > 0
	}
	if early {
		c.begin()
	}
	return c.queue.RunWhenSynced(ctx, c.synced)
}

var errNotSynced = errors.New("claims are not listed yet")

func (c *Controller) reconcile(ctx context.Context, k key) error {
	c.mu.Lock()
	ready := c.ready
	c.mu.Unlock()
	if ready == nil || !ready() {
		return errNotSynced // tried again
	}
	if k.claim {
		return c.claim(ctx, k.Namespace, k.Name)
	}
	return c.pod(ctx, k.Namespace, k.Name)
}

// pod makes the claims that a pod asks for by template, and says in its status what they are called.
func (c *Controller) pod(ctx context.Context, namespace, name string) error {
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if pod.DeletionTimestamp != nil || done(pod) {
		return nil
	}
	names := map[string]*string{}
	for i := range pod.Spec.ResourceClaims {
		entry := &pod.Spec.ResourceClaims[i]
		if entry.ResourceClaimTemplateName == nil {
			continue
		}
		got, err := c.ensure(ctx, pod, entry)
		if err != nil {
			if c.cfg.Recorder != nil {
				c.cfg.Recorder.Event(pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", fmt.Sprintf("PodResourceClaim %s: %v", entry.Name, err))
			}
			return fmt.Errorf("pod %s/%s: %w", namespace, name, err)
		}
		names[entry.Name] = &got
	}
	if err := c.tell(ctx, pod, names); err != nil {
		return err
	}
	return c.reserve(ctx, pod)
}

// ensure returns the name of the claim of one entry, which is made unless it is there.
func (c *Controller) ensure(ctx context.Context, pod *corev1.Pod, entry *corev1.PodResourceClaim) (string, error) {
	if claim, err := c.find(ctx, pod, entry); err != nil || claim != nil {
		if err != nil {
			return "", err
		}
		return claim.Name, nil
	}
	template, err := c.cfg.Client.ResourceV1().ResourceClaimTemplates(pod.Namespace).Get(ctx, *entry.ResourceClaimTemplateName, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("resource claim template %q: %w", *entry.ResourceClaimTemplateName, err)
	}
	yes := true
	claim := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: pod.Name + "-" + entry.Name + "-", Labels: template.Spec.Labels, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: &yes, BlockOwnerDeletion: &yes}},
		},
		Spec: template.Spec.Spec,
	}
	for k, v := range template.Spec.Annotations {
		claim.Annotations[k] = v
	}
	claim.Annotations[podClaimName] = entry.Name
	made, err := c.cfg.Client.ResourceV1().ResourceClaims(pod.Namespace).Create(ctx, claim, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create resource claim: %w", err)
	}
	c.mu.Lock()
	c.created[pod.UID] = true
	c.mu.Unlock()
	return made.Name, nil
}

// find looks for a claim that was made for the entry: as the pod's status says, or, after a crash in between, by its
// owner. Once one was made, the API is asked: the cache may be behind.
func (c *Controller) find(ctx context.Context, pod *corev1.Pod, entry *corev1.PodResourceClaim) (*resourcev1.ResourceClaim, error) {
	mine := func(claim *resourcev1.ResourceClaim) bool {
		return claim.Annotations[podClaimName] == entry.Name && metav1.IsControlledBy(claim, pod)
	}
	all, err := c.claims.ResourceClaims(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(all, mine); i >= 0 {
		return all[i], nil
	}
	c.mu.Lock()
	ask := c.created[pod.UID]
	c.mu.Unlock()
	if !ask {
		return nil, nil
	}
	list, err := c.cfg.Client.ResourceV1().ResourceClaims(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if mine(&list.Items[i]) {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}

// tell writes the names of the made claims into the pod's status.
func (c *Controller) tell(ctx context.Context, pod *corev1.Pod, names map[string]*string) error {
	if len(names) == 0 {
		return nil
	}
	var want []corev1.PodResourceClaimStatus
	status := corev1apply.PodStatus()
	for i := range pod.Spec.ResourceClaims {
		entry := pod.Spec.ResourceClaims[i].Name
		if name, ok := names[entry]; ok {
			want = append(want, corev1.PodResourceClaimStatus{Name: entry, ResourceClaimName: name})
			status.WithResourceClaimStatuses(corev1apply.PodResourceClaimStatus().WithName(entry).WithResourceClaimName(*name))
		}
	}
	if claimhelper.PodStatusEqual(pod.Status.ResourceClaimStatuses, want) {
		return nil
	}
	apply := corev1apply.Pod(pod.Name, pod.Namespace).WithUID(pod.UID).WithStatus(status)
	_, err := c.cfg.Client.CoreV1().Pods(pod.Namespace).ApplyStatus(ctx, apply, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// reserve makes allocated claims the pod's where no scheduler has: the pod was created with a node.
func (c *Controller) reserve(ctx context.Context, pod *corev1.Pod) error {
	if pod.Spec.NodeName == "" {
		return nil
	}
	for _, name := range claimNames(pod) {
		claim, err := c.claims.ResourceClaims(pod.Namespace).Get(name)
		if err != nil || claim.Status.Allocation == nil || claim.DeletionTimestamp != nil ||
			claimhelper.IsReservedForPod(pod, claim, false) || !claimhelper.CanBeReserved(claim) {
			continue
		}
		claim = claim.DeepCopy()
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if _, err := c.cfg.Client.ResourceV1().ResourceClaims(pod.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("reserve resource claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return nil
}
