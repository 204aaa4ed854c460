package core

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/mote-edge/mote/controlplane/registry/networking"
	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// allocators give Services their cluster addresses and node ports. Etcd has no
// transactions over several objects here, so what a failed write took is given
// back at once, and what a crash left behind is found by the repair that runs
// before the first allocation of a process.
type allocators struct {
	addresses addressAllocator
	ports     portAllocator
	services  *genericregistry.Store

	mu       sync.Mutex
	repaired bool
}

func newAllocators(c *resource.Config) (*allocators, error) {
	primary, err := prefixOf(c.ServiceCIDR)
	if err != nil {
		return nil, err
	}
	addresses, _, err := networking.IPAddresses.Build(c)
	if err != nil {
		return nil, err
	}
	cidrs, _, err := networking.ServiceCIDRs.Build(c)
	if err != nil {
		return nil, err
	}
	ranges, _, err := portRanges.Build(c)
	if err != nil {
		return nil, err
	}
	return &allocators{
		addresses: addressAllocator{addresses: addresses.Store, cidrs: cidrs.Store, primary: primary},
		ports:     portAllocator{store: ranges.Store, ports: c.NodePorts},
	}, nil
}

// attach hooks the allocation into the store of Services.
func (a *allocators) attach(services, status *genericregistry.Store) {
	a.services = services
	services.BeginCreate = func(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
		if obj.(*corev1.Service).Name == "" { // validation comes next, and refuses it
			return func(context.Context, bool) {}, nil
		}
		return a.begin(ctx, obj.(*corev1.Service), nil, dryrun.IsDryRun(options.DryRun))
	}
	services.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, options *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
		return a.begin(ctx, obj.(*corev1.Service), old.(*corev1.Service), dryrun.IsDryRun(options.DryRun))
	}
	services.AfterDelete = a.afterDelete
	// The last finalizer may go by a status update.
	status.AfterDelete = a.afterDelete
}

func (a *allocators) afterDelete(obj runtime.Object, options *metav1.DeleteOptions) {
	if dryrun.IsDryRun(options.DryRun) {
		return
	}
	s := obj.(*corev1.Service)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	a.free(ctx, s, s.Spec.ClusterIPs, allNodePorts(s))
}

// free gives back; what can't be given back now is found by the next repair.
func (a *allocators) free(ctx context.Context, s *corev1.Service, ips []string, ports []int) {
	if err := a.addresses.release(ctx, s, ips); err != nil {
		slog.WarnContext(ctx, "cluster addresses not released", "service", s.Namespace+"/"+s.Name, "err", err)
	}
	if err := a.ports.release(ctx, ports); err != nil {
		slog.WarnContext(ctx, "node ports not released", "service", s.Namespace+"/"+s.Name, "err", err)
	}
}

// begin fills in and allocates for a create (old is nil) or an update. The
// returned function completes it: after a success it releases what the old
// Service had and the new one hasn't, after a failure what was taken here.
func (a *allocators) begin(ctx context.Context, s, old *corev1.Service, dryRun bool) (genericregistry.FinishFunc, error) {
	if err := a.repair(ctx); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if old != nil {
		carryAllocated(s, old)
	}
	normalizeClusterIPs(s, old)
	if errs := setFamilies(s, old, a.addresses.family()); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
	}

	var tookIPs, oldIPs []string
	var tookPorts, oldPorts []int
	revert := func(ctx context.Context) {
		if !dryRun {
			a.free(context.WithoutCancel(ctx), s, tookIPs, tookPorts)
		}
	}
	if err := a.takeAddress(ctx, s, old, dryRun, &tookIPs); err != nil {
		revert(ctx)
		return nil, err
	}
	if err := a.takePorts(ctx, s, old, dryRun, &tookPorts); err != nil {
		revert(ctx)
		return nil, err
	}
	if old != nil {
		if needsClusterIP(old) && !needsClusterIP(s) {
			oldIPs = old.Spec.ClusterIPs
		}
		keep := []int{}
		if usesNodePorts(s) {
			keep = nodePorts(s)
		}
		if wantsHealthPort(s) {
			keep = append(keep, int(s.Spec.HealthCheckNodePort))
		}
		oldPorts = subtract(allNodePorts(old), keep)
	}
	return func(ctx context.Context, success bool) {
		switch {
		case !success:
			revert(ctx)
		case !dryRun:
			a.free(context.WithoutCancel(ctx), s, oldIPs, oldPorts)
		}
	}, nil
}

func (a *allocators) takeAddress(ctx context.Context, s, old *corev1.Service, dryRun bool, took *[]string) error {
	if !needsClusterIP(s) || s.Spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(s.Spec.ClusterIPs, corev1.ClusterIPNone) {
		return nil
	}
	if old != nil && needsClusterIP(old) {
		return nil // clusterIP doesn't change while there is one; validation sees to it
	}
	wanted := ""
	if len(s.Spec.ClusterIPs) > 0 {
		wanted = s.Spec.ClusterIPs[0]
	}
	ip, err := a.addresses.take(ctx, s, wanted, dryRun)
	if err != nil {
		if wanted == "" {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", s.Name, err))
		}
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", wanted, err)),
		})
	}
	*took = append(*took, ip)
	if wanted == "" {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = ip, []string{ip}
	}
	return nil
}

func (a *allocators) takePorts(ctx context.Context, s, old *corev1.Service, dryRun bool, took *[]int) error {
	var had []int
	if old != nil {
		had = allNodePorts(old)
	}
	var c claim
	// Ports of one number (DNS over TCP and UDP) share a node port.
	share := map[int32]int32{}
	var missing []int32
	if usesNodePorts(s) {
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				if share[p.Port] == 0 {
					share[p.Port] = p.NodePort
				}
				if n := int(p.NodePort); !slices.Contains(had, n) && !slices.Contains(c.wanted, n) {
					c.wanted = append(c.wanted, n)
				}
			}
		}
		for _, p := range s.Spec.Ports {
			if p.NodePort == 0 && wantsNodePorts(s) && share[p.Port] == 0 && !slices.Contains(missing, p.Port) {
				missing = append(missing, p.Port)
			}
		}
	}
	c.any = len(missing)
	health := wantsHealthPort(s) && (old == nil || !wantsHealthPort(old))
	if health {
		if n := int(s.Spec.HealthCheckNodePort); n != 0 {
			c.wanted = append(c.wanted, n)
		} else {
			c.any++
		}
	}
	chosen, err := a.ports.take(ctx, c, dryRun)
	if err != nil {
		return portFailure(s, err)
	}
	*took = append(append(*took, c.wanted...), chosen...)
	for i, port := range missing {
		share[port] = int32(chosen[i])
	}
	if usesNodePorts(s) && wantsNodePorts(s) {
		used := map[string]bool{}
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				used[fmt.Sprint(p.Protocol, p.NodePort)] = true
			}
		}
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			if p.NodePort == 0 && !used[fmt.Sprint(p.Protocol, share[p.Port])] {
				p.NodePort = share[p.Port]
			}
		}
	}
	if health && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = int32(chosen[len(chosen)-1])
	}
	return nil
}

// invalidPort names the port that can't be had by its place in the Service.
func invalidPort(s *corev1.Service, pe *portError) error {
	path := field.NewPath("spec", "healthCheckNodePort")
	for i, p := range s.Spec.Ports {
		if int(p.NodePort) == pe.port {
			path = field.NewPath("spec", "ports").Index(i).Child("nodePort")
			break
		}
	}
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name,
		field.ErrorList{field.Invalid(path, pe.port, pe.Error())})
}

// repair makes the allocations match the Services, once per process.
func (a *allocators) repair(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.repaired {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	obj, err := a.services.List(clusterScope(ctx), &metainternalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the services to repair their allocations: %w", err)
	}
	used, err := a.addresses.inUse(ctx)
	if err != nil {
		return err
	}
	var ports []int
	for _, s := range obj.(*corev1.ServiceList).Items {
		ports = append(ports, allNodePorts(&s)...)
		for _, text := range s.Spec.ClusterIPs {
			ip, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			addr := used[ip]
			if addr != nil && owns(&s, addr) {
				delete(used, ip)
				continue
			}
			if addr != nil {
				if err := a.drop(ctx, addr); err != nil {
					return err
				}
				delete(used, ip)
			}
			slog.WarnContext(ctx, "cluster address was not allocated to its service", "service", s.Namespace+"/"+s.Name, "ip", text)
			if err := a.addresses.create(ctx, &s, ip, false); err != nil {
				return fmt.Errorf("allocate %s: %w", text, err)
			}
		}
	}
	for _, addr := range used {
		if addr.Labels[networkingv1.LabelManagedBy] != addressManager {
			continue
		}
		slog.InfoContext(ctx, "cluster address without a service released", "ip", addr.Name)
		if err := a.drop(ctx, addr); err != nil {
			return err
		}
	}
	if err := a.ports.reset(ctx, ports); err != nil {
		return fmt.Errorf("repair the node ports: %w", err)
	}
	if err := a.defaultRange(ctx); err != nil {
		return err
	}
	a.repaired = true
	return nil
}

func (a *allocators) drop(ctx context.Context, addr *networkingv1.IPAddress) error {
	_, _, err := a.addresses.addresses.Delete(clusterScope(ctx), addr.Name, rest.ValidateAllObjectFunc,
		&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &addr.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("release %s: %w", addr.Name, err)
	}
	return nil
}

// defaultRange shows the configured range as the ServiceCIDR that clusters have.
func (a *allocators) defaultRange(ctx context.Context) error {
	cidr := &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Finalizers: []string{"networking.k8s.io/service-cidr-finalizer"}},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{a.addresses.primary.String()}},
	}
	store := a.addresses.cidrs
	_, err := store.Create(clusterScope(ctx), cidr, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create the default ServiceCIDR: %w", err)
	}
	ready := metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
		LastTransitionTime: metav1.Now(), Message: "Kubernetes default Service CIDR is ready",
	}
	status := networking.ServiceCIDRs
	_, _, err = status.StatusOf(store).Update(clusterScope(ctx), cidr.Name,
		rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
			c := old.DeepCopyObject().(*networkingv1.ServiceCIDR)
			c.Status.Conditions = []metav1.Condition{ready}
			return c, nil
		}), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("mark the default ServiceCIDR as ready: %w", err)
	}
	return nil
}
