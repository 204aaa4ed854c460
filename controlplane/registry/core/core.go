// Package core holds the resources of the core group, v1: pods, nodes,
// services, configuration, volumes, events and namespaces, with the
// subresources that make them move (binding, eviction, logs, exec, scale, …).
//
// Reads: the objects it serves, from etcd through the generic stores; the node
// agents' logs and streams through resource.Kubelets.
// Writes: the objects it serves; the cluster addresses and node ports of Services.
package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/mote-edge/mote/controlplane/registry/discovery"
	"github.com/mote-edge/mote/controlplane/registry/policy"
	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of the core group.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	err := resource.AddAll(c, to,
		&configMaps, &secrets, &serviceAccounts, &limitRanges, &resourceQuotas, &podTemplates,
		&nodes, &endpoints, &persistentVolumes, &persistentVolumeClaims)
	if err != nil {
		return nil, err
	}
	if err := resource.AddScaled(&replicationControllers, c, to, replicationControllerScale); err != nil {
		return nil, err
	}
	to["componentstatuses"] = newComponentStatuses(c.Components)
	if err := addNamespaces(c, to); err != nil {
		return nil, err
	}
	if err := addPods(c, to); err != nil {
		return nil, err
	}
	if err := addServices(c, to); err != nil {
		return nil, err
	}
	return to, nil
}

func addPods(c *resource.Config, to resource.Storages) error {
	r, status, err := pods.Build(c)
	if err != nil {
		return err
	}
	// Evictions are rare: a second, uncached way to the budgets is cheaper than
	// sharing the cached one between packages.
	uncached := policy.Budgets
	uncached.Cached = false
	budgets, budgetStatus, err := uncached.Build(c)
	if err != nil {
		return err
	}
	binding := &podBinding{store: r.Store}
	to["pods"] = r
	to["pods/status"] = status
	to["pods/ephemeralcontainers"] = ephemeralContainers(r.Store)
	to["pods/resize"] = resize(r.Store)
	to["pods/eviction"] = &podEviction{pods: status.Store(), budgets: budgets.Store, status: budgetStatus}
	to["pods/binding"] = binding
	to["bindings"] = &bindings{binding}
	(&podStreams{pods: r, c: c}).add(to)
	if c.Tokens != nil {
		to["serviceaccounts/token"] = &tokenRequest{
			c: c, accounts: getter(to, "serviceaccounts"), pods: r, secrets: getter(to, "secrets"), nodes: getter(to, "nodes"),
		}
	}
	to["nodes/proxy"] = nodeProxy(c)
	return nil
}

func getter(to resource.Storages, name string) rest.Getter { return to[name].(rest.Getter) }

func addServices(c *resource.Config, to resource.Storages) error {
	r, status, err := services.Build(c)
	if err != nil {
		return err
	}
	a, err := newAllocators(c)
	if err != nil {
		return err
	}
	a.attach(r.Store, status.Store())
	uncached := discovery.Slices
	uncached.Cached = false
	slices, _, err := uncached.Build(c)
	if err != nil {
		return err
	}
	to["services"] = r
	to["services/status"] = status
	to["services/proxy"] = serviceProxy(c, r, getter(to, "pods"), slices)
	return nil
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for n := range list {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
