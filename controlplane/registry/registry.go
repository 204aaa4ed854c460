// Package registry puts the built-in resources on an API server: it builds the
// storages of every group and installs them.
//
// Reads: the configuration that the API server lends (resource.Config).
// Writes: nothing itself; the storages write to etcd.
package registry

import (
	"fmt"
	"maps"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/mote-edge/mote/controlplane/registry/admissionregistration"
	"github.com/mote-edge/mote/controlplane/registry/apps"
	"github.com/mote-edge/mote/controlplane/registry/authentication"
	"github.com/mote-edge/mote/controlplane/registry/authorization"
	"github.com/mote-edge/mote/controlplane/registry/autoscaling"
	"github.com/mote-edge/mote/controlplane/registry/batch"
	"github.com/mote-edge/mote/controlplane/registry/certificates"
	"github.com/mote-edge/mote/controlplane/registry/coordination"
	"github.com/mote-edge/mote/controlplane/registry/core"
	"github.com/mote-edge/mote/controlplane/registry/discovery"
	"github.com/mote-edge/mote/controlplane/registry/dynamicresource"
	"github.com/mote-edge/mote/controlplane/registry/events"
	"github.com/mote-edge/mote/controlplane/registry/flowcontrol"
	"github.com/mote-edge/mote/controlplane/registry/networking"
	"github.com/mote-edge/mote/controlplane/registry/node"
	"github.com/mote-edge/mote/controlplane/registry/policy"
	"github.com/mote-edge/mote/controlplane/registry/rbac"
	"github.com/mote-edge/mote/controlplane/registry/resource"
	"github.com/mote-edge/mote/controlplane/registry/scheduling"
	"github.com/mote-edge/mote/controlplane/registry/scheme"
	"github.com/mote-edge/mote/controlplane/registry/storage"
	"github.com/mote-edge/mote/controlplane/registry/storagemigration"
)

// Config is what the API server lends to the resources.
type Config = resource.Config

// Scheme, Codecs and ParameterCodec are those of the built-in API.
func Scheme() *runtime.Scheme                { return scheme.Scheme() }
func Codecs() serializer.CodecFactory        { return scheme.Codecs() }
func ParameterCodec() runtime.ParameterCodec { return scheme.ParameterCodec() }

// version is one group version and how its storages are built. Each further
// version of the group serves the same storages.
type version struct {
	gv    schema.GroupVersion
	build func(*Config) (resource.Storages, error)
	also  []string
}

// versions are in the order of installation, which clients see in discovery.
var versions = []version{
	{gv: corev1.SchemeGroupVersion, build: core.Storages},
	{gv: authenticationv1.SchemeGroupVersion, build: authentication.Storages},
	{gv: authorizationv1.SchemeGroupVersion, build: authorization.Storages},
	{gv: autoscalingv2.SchemeGroupVersion, build: autoscaling.Storages, also: []string{"v1"}},
	{gv: batchv1.SchemeGroupVersion, build: batch.Storages},
	{gv: certificatesv1.SchemeGroupVersion, build: certificates.Storages},
	{gv: coordinationv1.SchemeGroupVersion, build: coordination.Storages},
	{gv: discoveryv1.SchemeGroupVersion, build: discovery.Storages},
	{gv: networkingv1.SchemeGroupVersion, build: networking.Storages},
	{gv: nodev1.SchemeGroupVersion, build: node.Storages},
	{gv: policyv1.SchemeGroupVersion, build: policy.Storages},
	{gv: rbacv1.SchemeGroupVersion, build: rbac.Storages},
	{gv: schedulingv1.SchemeGroupVersion, build: scheduling.Storages},
	{gv: storagev1.SchemeGroupVersion, build: storage.Storages},
	{gv: flowcontrolv1.SchemeGroupVersion, build: flowcontrol.Storages},
	{gv: appsv1.SchemeGroupVersion, build: apps.Storages},
	{gv: admissionregistrationv1.SchemeGroupVersion, build: admissionregistration.Storages},
	{gv: migrationv1.SchemeGroupVersion, build: storagemigration.Storages},
	{gv: resourcev1.SchemeGroupVersion, build: dynamicresource.Storages},
}

// Install builds all storages and installs their groups on server.
func Install(server *genericapiserver.GenericAPIServer, c Config) error {
	groups, err := Groups(c)
	if err != nil {
		return err
	}
	var named []*genericapiserver.APIGroupInfo
	for _, g := range groups {
		if g.PrioritizedVersions[0].Group != "" {
			named = append(named, g)
			continue
		}
		if err := server.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, g); err != nil {
			return fmt.Errorf("install the core API group: %w", err)
		}
	}
	if err := server.InstallAPIGroups(named...); err != nil {
		return fmt.Errorf("install the API groups: %w", err)
	}
	return nil
}

// Groups builds the storages of every group, without installing them.
func Groups(c Config) ([]*genericapiserver.APIGroupInfo, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	// Events are one storage under two groups.
	shared, err := events.Storages(&c)
	if err != nil {
		return nil, fmt.Errorf("storage of events: %w", err)
	}
	var groups []*genericapiserver.APIGroupInfo
	add := func(gv schema.GroupVersion, storages resource.Storages, also ...string) {
		info := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, Scheme(), ParameterCodec(), Codecs())
		info.VersionedResourcesStorageMap[gv.Version] = storages
		for _, v := range also {
			info.VersionedResourcesStorageMap[v] = storages
		}
		groups = append(groups, &info)
	}
	for _, v := range versions {
		storages, err := v.build(&c)
		if err != nil {
			return nil, fmt.Errorf("storage of %s: %w", v.gv, err)
		}
		if v.gv == corev1.SchemeGroupVersion {
			maps.Copy(storages, shared)
		}
		add(v.gv, storages, v.also...)
	}
	add(eventsv1.SchemeGroupVersion, shared)
	return groups, nil
}
