// Package dra readies the devices that resource claims stand for (dynamic resource allocation): it keeps the node's
// drivers, has them prepare the claims of pods that start and undo that for pods that have ended, and tells containers
// the names of their devices.
//
// Reads:  ResourceClaims; what drivers answer.
// Writes: <data>/agent/dra_manager_state; deletes ResourceSlices of drivers that have left.
package dra

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/agent/checkpoint"
	"github.com/mote-edge/mote/agent/plugin"
)

// API is the API server as far as claims are concerned. Not found is the API's own error.
type API interface {
	ResourceClaim(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error)
	// SliceDrivers are the drivers that have published slices of this node.
	SliceDrivers(ctx context.Context) ([]string, error)
	// DeleteSlices deletes what a driver has published of this node.
	DeleteSlices(ctx context.Context, driver string) error
}

// Config is what the node's claims need.
type Config struct {
	API  API // nil: only what is in the checkpoint is known
	File string
	// Registered is called when a driver has come: pods may wait for it. It doesn't block.
	Registered func()
	// Sick is called with the pods whose devices' health has changed. It doesn't block.
	Sick func([]types.UID)
	Log  *slog.Logger
}

// Device is one device of a claim, as its driver prepared it.
type Device struct {
	Requests []string `json:"requests,omitempty"`
	Pool     string   `json:"pool"`
	Name     string   `json:"name"`
	CDI      []string `json:"cdi,omitempty"`
}

// info is one claim that pods of the node use.
type info struct {
	UID       types.UID           `json:"uid"`
	Namespace string              `json:"namespace"`
	Name      string              `json:"name"`
	Pods      []types.UID         `json:"pods"`
	Prepared  bool                `json:"prepared"`
	Drivers   map[string][]Device `json:"drivers"`
	busy      *sync.Mutex         // held while drivers are asked
}

// Claims is the node's claims. It is safe for concurrent use.
type Claims struct {
	cfg     Config
	drivers *Drivers

	mu    sync.Mutex
	infos map[types.NamespacedName]*info
}

var _ plugin.Handler = (*Drivers)(nil)

// New reads the checkpoint. Drivers' connections end with ctx.
func New(ctx context.Context, cfg Config) (*Claims, error) {
	if cfg.Registered == nil {
		cfg.Registered = func() {}
	}
	if cfg.Sick == nil {
		cfg.Sick = func([]types.UID) {}
	}
	c := &Claims{
		cfg: cfg, infos: map[types.NamespacedName]*info{},
		drivers: &Drivers{ctx: ctx, cfg: cfg, log: cfg.Log, known: map[string][]*driver{}, wipes: map[string]*time.Timer{}, healths: map[string]map[deviceID]health{}, stale: map[string]*time.Timer{}},
	}
	c.drivers.users = c.holders
	var saved []*info
	if _, err := checkpoint.Read(cfg.File, &saved); err != nil {
		return nil, fmt.Errorf("claims of running pods: %w: drain the node and remove the file", err)
	}
	for _, i := range saved {
		if i == nil {
			return nil, fmt.Errorf("claims of running pods: checkpoint %s: null among them: drain the node and remove the file", cfg.File)
		}
		i.busy = &sync.Mutex{}
		c.infos[types.NamespacedName{Namespace: i.Namespace, Name: i.Name}] = i
	}
	return c, nil
}

// Drivers are the node's drivers: what the plugins' registry is told of.
func (c *Claims) Drivers() *Drivers { return c.drivers }

// save writes the checkpoint. The lock is held.
func (c *Claims) save() error {
	list := slices.SortedFunc(maps.Values(c.infos), func(a, b *info) int { return strings.Compare(string(a.UID), string(b.UID)) })
	return checkpoint.Write(c.cfg.File, list)
}

// claimName is the claim behind a pod's entry; "" if the pod does without. made tells that it was made for the pod.
func claimName(pod *corev1.Pod, entry *corev1.PodResourceClaim) (name string, made bool, err error) {
	switch {
	case entry.ResourceClaimName != nil:
		return *entry.ResourceClaimName, false, nil
	case entry.ResourceClaimTemplateName != nil:
		for _, s := range pod.Status.ResourceClaimStatuses {
			if s.Name != entry.Name {
				continue
			}
			if s.ResourceClaimName == nil {
				return "", false, nil
			}
			return *s.ResourceClaimName, true, nil
		}
		return "", false, fmt.Errorf("pod %q: the ResourceClaim of %q has not been created yet", pod.Namespace+"/"+pod.Name, entry.Name)
	}
	return "", false, fmt.Errorf("pod %q: claim %q names neither a claim nor a template", pod.Namespace+"/"+pod.Name, entry.Name)
}

// names are all claims of a pod, and which were made for it.
func names(pod *corev1.Pod) (map[string]bool, error) {
	out := map[string]bool{}
	for i := range pod.Spec.ResourceClaims {
		name, made, err := claimName(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name != "" {
			out[name] = made
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		out[s.ResourceClaimName] = true
	}
	return out, nil
}

// Check says why a pod may not use a claim. It is pure.
func Check(pod *corev1.Pod, claim *resourcev1.ResourceClaim, made bool) error {
	if made && !metav1.IsControlledBy(claim, pod) {
		return fmt.Errorf("ResourceClaim %s was not created for pod %s/%s (pod is not owner)", claim.Namespace+"/"+claim.Name, pod.Namespace, pod.Name)
	}
	if claim.Status.Allocation == nil {
		return fmt.Errorf("ResourceClaim %s is not allocated", claim.Namespace+"/"+claim.Name)
	}
	if !slices.ContainsFunc(claim.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == pod.UID }) {
		return fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", pod.Name, pod.UID, claim.Name, claim.UID)
	}
	return nil
}

// Container returns the CDI names of the devices that a container's claims stand for.
func (c *Claims) Container(pod *corev1.Pod, ctr *corev1.Container) ([]string, error) {
	wanted, err := requests(pod, ctr)
	if err != nil || len(wanted) == 0 {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, w := range wanted {
		i := c.infos[types.NamespacedName{Namespace: pod.Namespace, Name: w.claim}]
		if i == nil || !i.Prepared {
			return nil, fmt.Errorf("ResourceClaim %s is not prepared", w.claim)
		}
		for _, d := range i.devices(w.request) {
			out = append(out, d.CDI...)
		}
	}
	return out, nil
}

// devices are those of one request, or of all. Those that a driver names no request for belong to every one.
func (i *info) devices(request string) []Device {
	var out []Device
	for _, name := range slices.Sorted(maps.Keys(i.Drivers)) {
		out = append(out, i.of(name, request)...)
	}
	return out
}

// of are those of one driver.
func (i *info) of(driver, request string) []Device {
	var out []Device
	for _, d := range i.Drivers[driver] {
		if request == "" || len(d.Requests) == 0 || slices.ContainsFunc(d.Requests, func(r string) bool {
			base, _, _ := strings.Cut(r, "/")
			return r == request || base == request
		}) {
			out = append(out, d)
		}
	}
	return out
}

type request struct{ claim, request string }

// requests are what a container uses of its pod's claims.
func requests(pod *corev1.Pod, ctr *corev1.Container) ([]request, error) {
	var out []request
	for _, use := range ctr.Resources.Claims {
		for i := range pod.Spec.ResourceClaims {
			if pod.Spec.ResourceClaims[i].Name != use.Name {
				continue
			}
			name, _, err := claimName(pod, &pod.Spec.ResourceClaims[i])
			if err != nil {
				return nil, err
			}
			if name != "" {
				out = append(out, request{name, use.Request})
			}
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		for _, m := range s.RequestMappings {
			if m.ContainerName == ctr.Name {
				out = append(out, request{s.ResourceClaimName, m.RequestName})
			}
		}
	}
	return out, nil
}

// Pods are those that use claims.
func (c *Claims) Pods() []types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []types.UID
	for _, i := range c.infos {
		out = append(out, i.Pods...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// InUse is what a pod's container has of claims, for the pod resources API.
type InUse struct {
	Namespace, Claim string
	Devices          map[string][]Device // by driver
}

// Of is what a container has of its pod's claims.
func (c *Claims) Of(pod *corev1.Pod, ctr *corev1.Container) []InUse {
	wanted, err := requests(pod, ctr)
	if err != nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []InUse
	for _, w := range wanted {
		i := c.infos[types.NamespacedName{Namespace: pod.Namespace, Name: w.claim}]
		if i == nil || slices.ContainsFunc(out, func(o InUse) bool { return o.Claim == w.claim }) {
			continue
		}
		out = append(out, InUse{Namespace: i.Namespace, Claim: i.Name, Devices: maps.Clone(i.Drivers)})
	}
	return out
}
