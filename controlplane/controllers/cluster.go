package controllers

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/admissionpolicy"
	"github.com/mote-edge/mote/controlplane/controllers/bootstraptoken"
	"github.com/mote-edge/mote/controlplane/controllers/certificates"
	"github.com/mote-edge/mote/controlplane/controllers/clusterrole"
	"github.com/mote-edge/mote/controlplane/controllers/devicetaint"
	"github.com/mote-edge/mote/controlplane/controllers/disruption"
	"github.com/mote-edge/mote/controlplane/controllers/gc"
	"github.com/mote-edge/mote/controlplane/controllers/namespace"
	"github.com/mote-edge/mote/controlplane/controllers/nodeipam"
	"github.com/mote-edge/mote/controlplane/controllers/nodelifecycle"
	"github.com/mote-edge/mote/controlplane/controllers/persistentvolume"
	"github.com/mote-edge/mote/controlplane/controllers/podgc"
	"github.com/mote-edge/mote/controlplane/controllers/resourceclaim"
	"github.com/mote-edge/mote/controlplane/controllers/resourcequota"
	"github.com/mote-edge/mote/controlplane/controllers/rootca"
	"github.com/mote-edge/mote/controlplane/controllers/serviceaccount"
	"github.com/mote-edge/mote/controlplane/controllers/tokensecret"
	"github.com/mote-edge/mote/controlplane/controllers/ttlafterfinished"
)

// cluster lists the controllers of nodes, namespaces, identities, certificates, quota and storage.
func cluster(cfg Config) ([]entry, error) {
	quotas, err := resourcequota.New(resourcequota.Config{Client: cfg.Client, Metadata: cfg.Metadata, Discovery: cfg.Discovery, Informers: cfg.Informers})
	if err != nil {
		return nil, fmt.Errorf("controller resourcequota: %w", err)
	}
	var out []entry
	for _, e := range []struct {
		name string
		make func() (controller, error)
	}{
		{"nodeipam", func() (controller, error) {
			return nodeipam.New(nodeipam.Config{
				Client: cfg.Client, Informers: cfg.Informers, Recorder: cfg.Recorder("cidrAllocator"),
				Cluster: cfg.ClusterCIDR, MaskSize: cfg.NodeMaskSize,
			})
		}},
		{"nodelifecycle", func() (controller, error) {
			return nodelifecycle.New(nodelifecycle.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: cfg.Recorder("node-controller")})
		}},
		{"podgc", func() (controller, error) {
			return podgc.New(podgc.Config{Client: cfg.Client, Informers: cfg.Informers})
		}},
		{"resourceclaim", func() (controller, error) {
			return resourceclaim.New(resourceclaim.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: cfg.Recorder("resource_claim")})
		}},
		{"devicetaint", func() (controller, error) {
			return devicetaint.New(devicetaint.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: cfg.Recorder("device-taint-eviction")})
		}},
		{"ttlafterfinished", func() (controller, error) {
			return ttlafterfinished.New(ttlafterfinished.Config{Client: cfg.Client, Informers: cfg.Informers})
		}},
		{"namespace", func() (controller, error) {
			return namespace.New(namespace.Config{Client: cfg.Client, Metadata: cfg.Metadata, Discovery: cfg.Discovery, Informers: cfg.Informers})
		}},
		{"resourcequota", func() (controller, error) { return quotas, nil }},
		{"disruption", func() (controller, error) {
			return disruption.New(disruption.Config{
				Client: cfg.Client, Discovery: cfg.Discovery, Informers: cfg.Informers, Recorder: cfg.Recorder("controllermanager"),
			})
		}},
		{"gc", func() (controller, error) {
			var informers map[schema.GroupVersionResource]cache.SharedIndexInformer
			if cfg.Objects == nil {
				informers = shared(cfg.Informers)
			}
			return gc.New(gc.Config{
				Metadata: cfg.Metadata, Discovery: cfg.Discovery, Recorder: cfg.Recorder("garbage-collector-controller"),
				Shared: informers, Feed: cfg.Objects, Delay: cfg.GarbageDelay, Deleted: quotas.Deleted,
			})
		}},
		{"persistentvolume", func() (controller, error) {
			return persistentvolume.New(persistentvolume.Config{
				Client: cfg.Client, Informers: cfg.Informers, Recorder: cfg.Recorder("persistentvolume-controller"),
			})
		}},
		{"serviceaccount", func() (controller, error) {
			return serviceaccount.New(serviceaccount.Config{Client: cfg.Client, Informers: cfg.Informers})
		}},
		{"rootca", func() (controller, error) {
			if len(cfg.RootCA) == 0 {
				return nil, nil
			}
			return rootca.New(rootca.Config{Client: cfg.Client, Informers: cfg.Informers, RootCA: cfg.RootCA})
		}},
		{"tokensecret", func() (controller, error) {
			if cfg.ServiceAccountKey == nil {
				return nil, nil
			}
			return tokensecret.New(tokensecret.Config{
				Client: cfg.Client, Informers: cfg.Informers, Key: cfg.ServiceAccountKey, Issuer: cfg.Issuer, RootCA: cfg.RootCA,
			})
		}},
		{"bootstraptoken", func() (controller, error) {
			return bootstraptoken.New(bootstraptoken.Config{Client: cfg.Client})
		}},
		{"admissionpolicy", func() (controller, error) {
			return admissionpolicy.New(admissionpolicy.Config{Client: cfg.Client, Discovery: cfg.Discovery, Informers: cfg.Informers})
		}},
		{"clusterrole", func() (controller, error) {
			return clusterrole.New(clusterrole.Config{Client: cfg.Client, Informers: cfg.Informers})
		}},
		{"certificates", func() (controller, error) {
			if cfg.SigningKey == nil {
				return nil, nil
			}
			return certificates.New(certificates.Config{
				Client: cfg.Client, Informers: cfg.Informers, Certificate: cfg.SigningCert, Key: cfg.SigningKey, Longest: cfg.SigningDuration,
			})
		}},
	} {
		c, err := e.make()
		if err != nil {
			return nil, fmt.Errorf("controller %s: %w", e.name, err)
		}
		if c != nil {
			out = append(out, entry{e.name, c})
		}
	}
	return out, nil
}

// shared are the informers of the kinds that the controllers and the scheduler watch in full anyway, so that garbage
// collection need not watch these again.
func shared(f informers.SharedInformerFactory) map[schema.GroupVersionResource]cache.SharedIndexInformer {
	core := corev1.SchemeGroupVersion.WithResource
	apps := appsv1.SchemeGroupVersion.WithResource
	return map[schema.GroupVersionResource]cache.SharedIndexInformer{
		core("namespaces"):                              f.Core().V1().Namespaces().Informer(),
		core("nodes"):                                   f.Core().V1().Nodes().Informer(),
		core("pods"):                                    f.Core().V1().Pods().Informer(),
		core("services"):                                f.Core().V1().Services().Informer(),
		core("serviceaccounts"):                         f.Core().V1().ServiceAccounts().Informer(),
		core("replicationcontrollers"):                  f.Core().V1().ReplicationControllers().Informer(),
		core("persistentvolumes"):                       f.Core().V1().PersistentVolumes().Informer(),
		core("persistentvolumeclaims"):                  f.Core().V1().PersistentVolumeClaims().Informer(),
		apps("deployments"):                             f.Apps().V1().Deployments().Informer(),
		apps("replicasets"):                             f.Apps().V1().ReplicaSets().Informer(),
		apps("statefulsets"):                            f.Apps().V1().StatefulSets().Informer(),
		apps("daemonsets"):                              f.Apps().V1().DaemonSets().Informer(),
		batchv1.SchemeGroupVersion.WithResource("jobs"): f.Batch().V1().Jobs().Informer(),
		discoveryv1.SchemeGroupVersion.WithResource("endpointslices"):    f.Discovery().V1().EndpointSlices().Informer(),
		policyv1.SchemeGroupVersion.WithResource("poddisruptionbudgets"): f.Policy().V1().PodDisruptionBudgets().Informer(),
		rbacv1.SchemeGroupVersion.WithResource("clusterroles"):           f.Rbac().V1().ClusterRoles().Informer(),
		storagev1.SchemeGroupVersion.WithResource("storageclasses"):      f.Storage().V1().StorageClasses().Informer(),
	}
}
