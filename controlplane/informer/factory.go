package informer

import (
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/admissionregistration"
	"k8s.io/client-go/informers/apps"
	"k8s.io/client-go/informers/batch"
	"k8s.io/client-go/informers/certificates"
	"k8s.io/client-go/informers/coordination"
	"k8s.io/client-go/informers/core"
	"k8s.io/client-go/informers/discovery"
	"k8s.io/client-go/informers/flowcontrol"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/informers/networking"
	"k8s.io/client-go/informers/node"
	"k8s.io/client-go/informers/policy"
	"k8s.io/client-go/informers/rbac"
	"k8s.io/client-go/informers/resource"
	"k8s.io/client-go/informers/scheduling"
	"k8s.io/client-go/informers/storage"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// factory is client-go's, with informers of our own for the groups below.
type factory struct {
	informers.SharedInformerFactory
}

var _ informers.SharedInformerFactory = factory{}

// InformerFor is what every group's accessor ends in.
func (f factory) InformerFor(o runtime.Object, standard internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	return f.SharedInformerFactory.InformerFor(o, func(client kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
		if kinds, _, err := scheme.Scheme.ObjectKinds(o); err == nil && len(kinds) > 0 {
			if c := restClient(client, kinds[0].GroupVersion()); c != nil {
				gvr, _ := meta.UnsafeGuessKindToResource(kinds[0])
				lw := cache.NewListWatchFromClient(c, gvr.Resource, metav1.NamespaceAll, fields.Everything())
				return newShared(gvr.GroupResource().String(), lw, o)
			}
		}
		return standard(client, resync)
	})
}

// restClient is the client of a group version; nil for one that isn't listed, and for fakes, which have none.
func restClient(c kubernetes.Interface, gv schema.GroupVersion) rest.Interface {
	var r rest.Interface
	switch gv {
	case schema.GroupVersion{Version: "v1"}:
		r = c.CoreV1().RESTClient()
	case schema.GroupVersion{Group: "admissionregistration.k8s.io", Version: "v1"}:
		r = c.AdmissionregistrationV1().RESTClient()
	case schema.GroupVersion{Group: "apps", Version: "v1"}:
		r = c.AppsV1().RESTClient()
	case schema.GroupVersion{Group: "batch", Version: "v1"}:
		r = c.BatchV1().RESTClient()
	case schema.GroupVersion{Group: "certificates.k8s.io", Version: "v1"}:
		r = c.CertificatesV1().RESTClient()
	case schema.GroupVersion{Group: "coordination.k8s.io", Version: "v1"}:
		r = c.CoordinationV1().RESTClient()
	case schema.GroupVersion{Group: "discovery.k8s.io", Version: "v1"}:
		r = c.DiscoveryV1().RESTClient()
	case schema.GroupVersion{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}:
		r = c.FlowcontrolV1().RESTClient()
	case schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}:
		r = c.NetworkingV1().RESTClient()
	case schema.GroupVersion{Group: "node.k8s.io", Version: "v1"}:
		r = c.NodeV1().RESTClient()
	case schema.GroupVersion{Group: "policy", Version: "v1"}:
		r = c.PolicyV1().RESTClient()
	case schema.GroupVersion{Group: "rbac.authorization.k8s.io", Version: "v1"}:
		r = c.RbacV1().RESTClient()
	case schema.GroupVersion{Group: "resource.k8s.io", Version: "v1"}:
		r = c.ResourceV1().RESTClient()
	case schema.GroupVersion{Group: "scheduling.k8s.io", Version: "v1"}:
		r = c.SchedulingV1().RESTClient()
	case schema.GroupVersion{Group: "storage.k8s.io", Version: "v1"}:
		r = c.StorageV1().RESTClient()
	}
	if r == nil || reflect.ValueOf(r).IsNil() {
		return nil
	}
	return r
}

const all = metav1.NamespaceAll

func (f factory) Core() core.Interface                 { return core.New(f, all, nil) }
func (f factory) Apps() apps.Interface                 { return apps.New(f, all, nil) }
func (f factory) Batch() batch.Interface               { return batch.New(f, all, nil) }
func (f factory) Certificates() certificates.Interface { return certificates.New(f, all, nil) }
func (f factory) Coordination() coordination.Interface { return coordination.New(f, all, nil) }
func (f factory) Discovery() discovery.Interface       { return discovery.New(f, all, nil) }
func (f factory) Flowcontrol() flowcontrol.Interface   { return flowcontrol.New(f, all, nil) }
func (f factory) Networking() networking.Interface     { return networking.New(f, all, nil) }
func (f factory) Node() node.Interface                 { return node.New(f, all, nil) }
func (f factory) Policy() policy.Interface             { return policy.New(f, all, nil) }
func (f factory) Rbac() rbac.Interface                 { return rbac.New(f, all, nil) }
func (f factory) Resource() resource.Interface         { return resource.New(f, all, nil) }
func (f factory) Scheduling() scheduling.Interface     { return scheduling.New(f, all, nil) }
func (f factory) Storage() storage.Interface           { return storage.New(f, all, nil) }

func (f factory) Admissionregistration() admissionregistration.Interface {
	return admissionregistration.New(f, all, nil)
}
