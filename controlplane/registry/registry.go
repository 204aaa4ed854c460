// Package registry puts the built-in resources on an API server: it builds the
// storages of every group and installs them.
//
// Reads: the configuration that the API server lends (resource.Config).
// Writes: nothing itself; the storages write to etcd.
package registry

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/mote-edge/mote/controlplane/registry/core"
	"github.com/mote-edge/mote/controlplane/registry/resource"
	"github.com/mote-edge/mote/controlplane/registry/scheme"
)

// Config is what the API server lends to the resources.
type Config = resource.Config

// Scheme, Codecs and ParameterCodec are those of the built-in API.
func Scheme() *runtime.Scheme                { return scheme.Scheme() }
func Codecs() serializer.CodecFactory        { return scheme.Codecs() }
func ParameterCodec() runtime.ParameterCodec { return scheme.ParameterCodec() }

// version is one group version and how its storages are built.
type version struct {
	gv    schema.GroupVersion
	build func(*Config) (resource.Storages, error)
}

// versions are in the order of installation; the versions of one group stand
// together, the preferred one first.
var versions = []version{
	{corev1.SchemeGroupVersion, core.Storages},
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
	var groups []*genericapiserver.APIGroupInfo
	for _, v := range versions {
		storages, err := v.build(&c)
		if err != nil {
			return nil, fmt.Errorf("storage of %s: %w", v.gv, err)
		}
		if n := len(groups); n > 0 && groups[n-1].PrioritizedVersions[0].Group == v.gv.Group {
			groups[n-1].VersionedResourcesStorageMap[v.gv.Version] = storages
			continue
		}
		info := genericapiserver.NewDefaultAPIGroupInfo(v.gv.Group, Scheme(), ParameterCodec(), Codecs())
		info.VersionedResourcesStorageMap[v.gv.Version] = storages
		groups = append(groups, &info)
	}
	return groups, nil
}
