package claims

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/util/retry"
)

// Extended resources that a DeviceClass backs (KEP-5004): a container asks for example.com/gpu, and on nodes where no device
// plugin has it the devices come from a claim that the scheduler makes for the pod. Which containers use which request of
// it is in the pod's status.

// extended is what a pod's extended resources are on one node: the claim, which isn't written yet, and its users.
type extended struct {
	claim    *resourcev1.ResourceClaim
	mappings []corev1.ContainerExtendedResourceRequest
}

// mayBeBacked tells whether a resource's name is one that a class can back: one with a domain that isn't Kubernetes' own,
// or the one that every class has.
func mayBeBacked(name corev1.ResourceName) bool {
	n := string(name)
	if strings.HasPrefix(n, resourcev1.ResourceDeviceClassPrefix) {
		return true
	}
	return strings.Contains(n, "/") && !strings.Contains(n, corev1.ResourceDefaultNamespacePrefix) && !strings.HasPrefix(n, corev1.DefaultResourceRequestsPrefix)
}

// asksForExtended tells whether a pod has requests that a class might back.
func asksForExtended(pod *corev1.Pod) bool {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for name, q := range c.Resources.Requests {
			if mayBeBacked(name) && !q.IsZero() {
				return true
			}
		}
	}
	return false
}

// backing are the classes behind the extended resources that a pod asks for, by resource. The lock is held.
func (c *Claims) backing(pod *corev1.Pod) (map[corev1.ResourceName]string, error) {
	if !asksForExtended(pod) {
		return nil, nil
	}
	all, err := c.classes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	asked := sets.New[corev1.ResourceName]()
	for _, ctr := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for name, q := range ctr.Resources.Requests {
			if !q.IsZero() && mayBeBacked(name) {
				asked.Insert(name)
			}
		}
	}
	return choose(all, asked), nil
}

// choose picks the class of each resource: the newest that names it, the lower name among equals.
func choose(all []*resourcev1.DeviceClass, asked sets.Set[corev1.ResourceName]) map[corev1.ResourceName]string {
	all = slices.SortedFunc(slices.Values(all), func(a, b *resourcev1.DeviceClass) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	out := map[corev1.ResourceName]string{}
	for _, class := range all {
		if name := corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix + class.Name); asked.Has(name) {
			out[name] = class.Name
		}
		if n := class.Spec.ExtendedResourceName; n != nil && asked.Has(corev1.ResourceName(*n)) && out[corev1.ResourceName(*n)] == "" {
			out[corev1.ResourceName(*n)] = class.Name
		}
	}
	return out
}

// extendedOn is the claim for the resources that a node has no plugin for; nil if there are none.
func extendedOn(pod *corev1.Pod, classes map[corev1.ResourceName]string, node *corev1.Node) *extended {
	missing := map[corev1.ResourceName]string{}
	for name, class := range classes {
		if q := node.Status.Allocatable[name]; q.IsZero() {
			missing[name] = class
		}
	}
	requests, mappings := requestsFor(pod, missing)
	if len(requests) == 0 {
		return nil
	}
	yes := true
	return &extended{mappings: mappings, claim: &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: pod.Name + "-extended-resources-", Finalizers: []string{resourcev1.Finalizer},
			UID:             uuid.NewUUID(), // until it has one
			Annotations:     map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: &yes}},
		},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}},
	}}
}

// requestsFor makes a request for each container and resource. Containers that run side by side have devices of their own;
// an init container takes those of the containers after it, which aren't running yet, and only what it needs beyond them
// is asked for, once for all init containers.
func requestsFor(pod *corev1.Pod, classes map[corev1.ResourceName]string) ([]resourcev1.DeviceRequest, []corev1.ContainerExtendedResourceRequest) {
	all := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	passing := func(i int) bool {
		p := all[i].RestartPolicy
		return i < len(pod.Spec.InitContainers) && (p == nil || *p != corev1.ContainerRestartPolicyAlways)
	}
	var requests []resourcev1.DeviceRequest
	var mappings []corev1.ContainerExtendedResourceRequest
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		use := func(i int, request string) {
			mappings = append(mappings, corev1.ContainerExtendedResourceRequest{ContainerName: all[i].Name, ResourceName: string(name), RequestName: request})
		}
		staying := make([]*resourcev1.DeviceRequest, len(all))
		for i := range all {
			if n := asked(&all[i], name); n > 0 && !passing(i) {
				staying[i] = deviceRequest(i, &all[i], name, classes[name], n)
				use(i, staying[i].Name)
			}
		}
		var most *resourcev1.DeviceRequest // of what init containers need beyond the others
		var beyond []int
		for i := range all {
			n := asked(&all[i], name)
			if n == 0 || !passing(i) {
				continue
			}
			for _, r := range staying[i:] {
				if r != nil && n > 0 {
					use(i, r.Name)
					n -= r.Exactly.Count
				}
			}
			if n > 0 {
				beyond = append(beyond, i)
				if most == nil || n > most.Exactly.Count {
					most = deviceRequest(i, &all[i], name, classes[name], n)
				}
			}
		}
		for _, i := range beyond {
			use(i, most.Name)
		}
		if most != nil {
			staying = slices.Concat(staying, []*resourcev1.DeviceRequest{most})
		}
		for _, r := range staying {
			if r != nil {
				requests = append(requests, *r)
			}
		}
	}
	slices.SortFunc(requests, func(a, b resourcev1.DeviceRequest) int { return cmp.Compare(a.Name, b.Name) })
	return requests, mappings
}

func asked(c *corev1.Container, name corev1.ResourceName) int64 {
	q := c.Resources.Requests[name]
	return q.Value()
}

// deviceRequest is called after the container's place among all and the resource's among the container's, as drivers know it
// from upstream.
func deviceRequest(i int, c *corev1.Container, name corev1.ResourceName, class string, n int64) *resourcev1.DeviceRequest {
	names := make([]corev1.ResourceName, 0, len(c.Resources.Requests))
	for r := range c.Resources.Requests {
		names = append(names, r)
	}
	slices.Sort(names)
	return &resourcev1.DeviceRequest{Name: fmt.Sprintf("container-%d-request-%d", i, slices.Index(names, name)), Exactly: &resourcev1.ExactDeviceRequest{
		DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: n,
	}}
}

// leftover is a claim of an earlier try to bind the pod. The lock is held.
func (c *Claims) leftover(pod *corev1.Pod) *resourcev1.ResourceClaim {
	all, err := c.claims.ResourceClaims(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	for _, claim := range all {
		if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" && metav1.IsControlledBy(claim, pod) && claim.DeletionTimestamp == nil {
			return claim
		}
	}
	return nil
}

// bindExtended writes the claim of a pod's extended resources, with what was allocated, and tells the pod about it.
func (p *podClaims) bindExtended(ctx context.Context, node string) error {
	x := p.extended[node]
	if x == nil {
		return nil
	}
	client := p.of.client.ResourceV1().ResourceClaims(p.pod.Namespace)
	claim := x.claim.DeepCopy()
	claim.UID = ""
	made, err := client.Create(ctx, claim, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create the claim of extended resources: %w", err)
	}
	p.made = made
	decided := &p.results[node][len(p.missing)]
	p.of.mu.Lock()
	delete(p.of.pending, x.claim.UID)
	p.of.pending[made.UID] = decided
	p.of.mu.Unlock()
	made = made.DeepCopy()
	made.Status.Allocation = stamped(decided)
	made.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{consumer(p.pod)}
	if _, err = client.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("allocate claim %s: %w", made.Name, err)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.pod.UID},
		"status":   map[string]any{"extendedResourceClaimStatus": corev1.PodExtendedResourceClaimStatus{ResourceClaimName: made.Name, RequestMappings: x.mappings}},
	})
	if err == nil {
		_, err = p.of.client.CoreV1().Pods(p.pod.Namespace).Patch(ctx, p.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		return fmt.Errorf("status of pod %s/%s: %w", p.pod.Namespace, p.pod.Name, err)
	}
	return nil
}

// discard deletes a claim that was made for a pod's extended resources and that the pod doesn't use.
func (c *Claims) discard(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	client := c.client.ResourceV1().ResourceClaims(claim.Namespace)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		got, err := client.Get(ctx, claim.Name, metav1.GetOptions{})
		if err != nil || got.UID != claim.UID {
			return err
		}
		got = got.DeepCopy()
		got.Finalizers = slices.DeleteFunc(got.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		_, err = client.Update(ctx, got, metav1.UpdateOptions{})
		return err
	})
	if err == nil {
		err = client.Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &claim.UID}})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
