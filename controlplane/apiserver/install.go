package apiserver

import (
	"errors"
	"fmt"
	"strings"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/mote-edge/mote/controlplane/deepstack"
)

// installer puts API groups on a generic server, as the server's own InstallAPIGroups does, but with a type converter
// of the caller's: the library's one builds every OpenAPI definition at start and keeps it (24 MB).
type installer struct {
	server    *genericapiserver.GenericAPIServer
	config    *genericapiserver.Config
	converter managedfields.TypeConverter
}

func (i *installer) install(groups []*genericapiserver.APIGroupInfo) error {
	for _, g := range groups {
		if len(g.PrioritizedVersions) == 0 {
			return errors.New("an API group without versions")
		}
		group := g.PrioritizedVersions[0].Group
		if err := i.group(g, group); err != nil {
			return fmt.Errorf("install API group %q: %w", group, err)
		}
	}
	return nil
}

func (i *installer) group(g *genericapiserver.APIGroupInfo, group string) error {
	root := genericapiserver.APIGroupPrefix
	if group == "" {
		root = genericapiserver.DefaultLegacyAPIPrefix
	}
	var served []metav1.GroupVersionForDiscovery
	for _, gv := range g.PrioritizedVersions {
		if len(g.VersionedResourcesStorageMap[gv.Version]) == 0 {
			continue
		}
		if err := i.version(g, gv, root); err != nil {
			return err
		}
		served = append(served, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
	}
	if len(served) == 0 {
		return nil
	}
	i.server.RegisterDestroyFunc(func() {
		for _, storages := range g.VersionedResourcesStorageMap {
			for _, s := range storages {
				s.Destroy()
			}
		}
	})
	if group == "" {
		h := discovery.NewLegacyRootAPIHandler(i.config.DiscoveryAddresses, i.config.Serializer, root)
		wrapped := aggregated.WrapAggregatedDiscoveryToHandler(h, i.server.AggregatedLegacyDiscoveryGroupManager, i.server.AggregatedLegacyDiscoveryGroupManager)
		i.server.Handler.GoRestfulContainer.Add(wrapped.GenerateWebService(root, metav1.APIVersions{}))
		return nil
	}
	info := metav1.APIGroup{Name: group, Versions: served, PreferredVersion: served[0]}
	i.server.DiscoveryGroupManager.AddGroup(info)
	i.server.Handler.GoRestfulContainer.Add(discovery.NewAPIGroupHandler(i.config.Serializer, info).WebService())
	return nil
}

func (i *installer) version(g *genericapiserver.APIGroupInfo, gv schema.GroupVersion, root string) error {
	storages := g.VersionedResourcesStorageMap[gv.Version]
	for name := range storages {
		if name != strings.ToLower(name) {
			return fmt.Errorf("resource names are lower case, not %q", name)
		}
	}
	v := &genericapi.APIGroupVersion{
		Root:                        root,
		GroupVersion:                gv,
		Storage:                     storages,
		AllServedVersionsByResource: servedVersions(g, gv.Group),
		OptionsExternalVersion:      g.OptionsExternalVersion,
		MetaGroupVersion:            g.MetaGroupVersion,
		ParameterCodec:              g.ParameterCodec,
		Serializer:                  g.NegotiatedSerializer,
		Creater:                     roomyCreater{g.Scheme},
		Convertor:                   g.Scheme,
		ConvertabilityChecker:       g.Scheme,
		UnsafeConvertor:             runtime.UnsafeObjectConvertor(g.Scheme),
		Defaulter:                   g.Scheme,
		Typer:                       g.Scheme,
		Namer:                       runtime.Namer(meta.NewAccessor()),
		TypeConverter:               i.converter,
		EquivalentResourceRegistry:  i.server.EquivalentResourceRegistry,
		Admit:                       i.config.AdmissionControl,
		Authorizer:                  i.config.Authorization.Authorizer,
		MinRequestTimeout:           time.Duration(i.config.MinRequestTimeout) * time.Second,
		MaxRequestBodyBytes:         i.config.MaxRequestBodyBytes,
	}
	resources, _, err := v.InstallREST(i.server.Handler.GoRestfulContainer)
	if err != nil {
		return err
	}
	manager := i.server.AggregatedDiscoveryGroupManager
	if gv.Group == "" {
		manager = i.server.AggregatedLegacyDiscoveryGroupManager
	}
	manager.AddGroupVersion(gv.Group, apidiscoveryv2.APIVersionDiscovery{
		Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Version: gv.Version, Resources: resources,
	})
	for name, s := range storages {
		if ready, ok := s.(rest.StorageWithReadiness); ok {
			i.server.StorageReadinessHook.RegisterStorage(metav1.GroupVersionResource{Group: gv.Group, Version: gv.Version, Resource: name}, ready)
		}
	}
	return nil
}

func servedVersions(g *genericapiserver.APIGroupInfo, group string) map[string][]string {
	served := map[string][]string{}
	for version, storages := range g.VersionedResourcesStorageMap {
		for name := range storages {
			served[name] = append(served[name], schema.GroupVersion{Group: group, Version: version}.String())
		}
	}
	return served
}

// roomyCreater makes the empty object that a create begins with, in the goroutine that the rest of it runs in.
type roomyCreater struct{ runtime.ObjectCreater }

func (c roomyCreater) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	deepstack.Reserve()
	return c.ObjectCreater.New(kind)
}
